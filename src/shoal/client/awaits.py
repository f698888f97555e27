"""Things to wait for in the reactor that are no objects: a signal besides something else, or nothing at all."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from shoal.client.interrupts import Interruptible
    from shoal.client.reactor import Awaited


class Interrupted:
    """An awaited that is also ready when a signal came."""

    __slots__ = ("_awaited", "_interruptible")

    def __init__(self, awaited: Awaited, interruptible: Interruptible) -> None:
        self._awaited = awaited
        self._interruptible = interruptible

    @property
    def ready(self) -> bool:
        return self._awaited.ready or bool(self._interruptible.hits)

    @property
    def wake(self) -> object:
        return self._awaited.wake

    @wake.setter
    def wake(self, lock: object) -> None:
        self._awaited.wake = lock


class Never:
    """Never ready: a wait for the time only, or for a thread that only reads."""

    __slots__ = ("wake",)
    ready = False

    def __init__(self) -> None:
        self.wake: object = None


def ignored(_: object) -> None:
    """For handlers whose result nobody needs."""

"""Things to wait for in the reactor that are no objects: a signal besides something else, or nothing at all."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from shoal.client.interrupts import Cancellable, Interruptible
    from shoal.client.reactor import Awaited
    from shoal.owner.table import ObjectTable


class Interrupted:
    """An awaited that is also ready when a signal came."""

    __slots__ = ("_awaited", "_interruptible")

    def __init__(self, awaited: Awaited, interruptible: Interruptible | Cancellable) -> None:
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


class Promoted:
    """Ready when every value whose ref was sent away has been written to the store."""

    __slots__ = ("_table", "wake")

    def __init__(self, table: ObjectTable) -> None:
        self._table = table
        self.wake: object = None

    @property
    def ready(self) -> bool:
        return not self._table.promotions


class Never:
    """Never ready: a wait for the time only, or for a thread that only reads."""

    __slots__ = ("wake",)
    ready = False

    def __init__(self) -> None:
        self.wake: object = None


def ignored(_: object) -> None:
    """For handlers whose result nobody needs."""

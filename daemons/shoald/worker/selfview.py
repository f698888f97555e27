"""What an actor says of itself, for people: what it does, and which of its calls keep another one from its turn."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Collection

    from shoald.worker.asynclanes import AsyncLanes
    from shoald.worker.lanes import Lanes


class SelfView:
    """Of one actor; everything is called with the runtime's lock held.

    Args:
        running: the call that runs on the main thread, if any.
        waiting: calls that wait for that thread: (caller, message).

    Attributes:
        actor_id: in hexadecimal.
        making: its constructor runs.
        lanes: what runs its calls beside each other, if they do not run in order.
    """

    def __init__(
        self, actor_id: bytes, running: Collection[bytes], waiting: Collection[tuple[Any, tuple[Any, ...]]]
    ) -> None:
        self.actor_id = actor_id.hex()
        self.making = True
        self.lanes: Lanes | AsyncLanes | None = None
        self._id = actor_id
        self._running = running
        self._waiting = waiting

    def describe(self) -> str:
        """What the actor does now."""
        running, waiting = len(self._running), len(self._waiting)
        if self.lanes is not None:
            running, queued = self.lanes.load()
            waiting += queued
        making = "its constructor runs; " if self.making else ""
        return f"actor {self.actor_id}: {making}{running} call(s) run here, and {waiting} wait here"

    def ahead_of(self, call: bytes) -> list[bytes]:
        """The calls one of which has to end before ``call`` begins; [] if it is not here, or runs.

        The actor's id stands for its constructor.
        """
        if any(message[1] == call for _, message in list(self._waiting)):
            return [self._id] if self.making else list(self._running)
        return self.lanes.ahead_of(call) if self.lanes is not None and not self.making else []

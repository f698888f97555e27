"""Which pulls may have room in the store: by priority, in order, within a budget of bytes. Pure.

Room for the whole object is leased before its first chunk is asked for, and what has room needs nothing else to get
done: so objects on their way never wait for each other's room. One that is larger than the budget goes alone. Small
objects share a lease. Where room does not come for all that is in use, a file is rather had (`lent`) than a long wait; who gets
none waits as long as anybody.

Invariant: `taken` is what the pulls have leased or asked for, in bytes, and never more than the budget, unless by one
pull alone.
"""

from __future__ import annotations

from heapq import heappop, heappush
from typing import TYPE_CHECKING

from shoal.wire import messages as m
from shoald.objects.effects import Effect, ToStore
from shoald.objects.pull import ENDING, QUEUED, ROOM, Pull

if TYPE_CHECKING:
    from shoal.config import Config

_SHARED_MAX = 256  # pulls in one lease


def room_for(size: int) -> int:
    """What an object of ``size`` bytes takes out of the store."""
    return (size + 63) & -64 or 64


class Admission:
    """Asks the store for room, as its client ``proc``.

    Attributes:
        taken: bytes that pulls have, or have asked for.
    """

    def __init__(self, proc: bytes, budget: int, config: Config, outbox: list[Effect]) -> None:
        self._proc = proc
        self._budget = budget
        self._config = config
        self._outbox = outbox
        self._queue: list[tuple[int, int, Pull]] = []
        self._asked: dict[int, tuple[list[Pull], int]] = {}
        self._number = 0
        self.taken = 0

    def enter(self, pull: Pull) -> None:
        """The pull is ready for its room; also when its priority has changed meanwhile."""
        pull.state = QUEUED
        heappush(self._queue, (pull.priority, pull.order, pull))

    def leave(self, pull: Pull) -> None:
        """Its room, which it has, goes back."""
        assert pull.copy is not None
        if pull.allocated:
            self._outbox.append(ToStore(self._proc, [m.EXTENT_RETURN, pull.copy.offset, pull.allocated]))
            self.used(pull)
        pull.copy.offset = -1

    def used(self, pull: Pull) -> None:
        """Its room counts no longer: it is an object now, or has gone back."""
        self.taken -= pull.allocated
        pull.allocated = 0

    def admit(self) -> None:
        """Ask for the room of those whose turn it is."""
        group: list[Pull] = []
        size = 0
        while self._queue:
            priority, _, pull = self._queue[0]
            if pull.state != QUEUED or pull.priority != priority:
                heappop(self._queue)
                continue
            assert pull.copy is not None
            room = room_for(pull.copy.size)
            if self.taken and self.taken + room > self._budget:
                break
            if group and (size + room > self._config.pull_chunk_bytes or len(group) >= _SHARED_MAX):
                self._ask(group, size)
                group, size = [], 0
            heappop(self._queue)
            pull.state = ROOM
            pull.rooming = True
            self.taken += room
            group.append(pull)
            size += room
            if pull.alone:  # a smaller piece may be found sooner
                self._ask(group, size)
                group, size = [], 0
        if group:
            self._ask(group, size)

    def number(self) -> int:
        """A number for a request of this client."""
        self._number += 1
        return self._number

    def _ask(self, group: list[Pull], size: int) -> None:
        self._asked[self.number()] = (group, size)
        ways = 0 if group[0].is_patient else m.ALLOC_OR_FILE
        self._outbox.append(ToStore(self._proc, [m.ALLOC, self._number, size, size, ways]))

    def granted(self, number: int, offset: int, length: int) -> list[Pull]:
        """EXTENT: the pulls that have room now; each has its `allocated`, and its copy an offset."""
        group, size = self._asked.pop(number)
        if length > size:
            self._outbox.append(ToStore(self._proc, [m.EXTENT_RETURN, offset + size, length - size]))
        for pull in group:
            assert pull.copy is not None
            pull.rooming = False
            pull.copy.offset = offset
            pull.allocated = room_for(pull.copy.size)
            offset += pull.allocated
        return group

    def refused(self, number: int, waited: bool) -> list[Pull]:
        """ALLOC_FAILED: the pulls that have no room; they are to enter again, or to end. ``waited``: for as long as anybody."""
        group, size = self._asked.pop(number)
        self.taken -= size
        for pull in group:
            pull.rooming = False
            pull.alone = True
            pull.tries += waited
        return group

    def validate(self, allocated: int) -> None:
        """Raises AssertionError unless the bytes add up: ``allocated`` are those of pulls that have room."""
        assert self.taken == allocated + sum(size for _, size in self._asked.values())
        asked = [pull for group, _ in self._asked.values() for pull in group]
        assert len(set(asked)) == len(asked), "room was asked for twice"
        assert all(pull.state in (ROOM, ENDING) for pull in asked)

"""Which object goes next when room is needed. Pure; chooses victims, and does nothing to them.

The order: objects that were read back from disk for the first time, and asked for once (see below), and before them what has
a copy on disk and whose cached pins were asked for and have come back; objects that were just written to disk ahead of need
(they were the oldest); others whose pins have come back; then, from a list sorted when it was last empty, secondary copies
and after them primary ones, least recently used first. What was used since the list was made is passed over: the next list
has it. So a victim costs O(log n), and a pin costs a time stamp.

Least recently used is the worst order for who reads one object after the other: what comes next has always just gone. But
what was read once is less likely to be read again than what was never read, and what has a copy on disk costs nothing to drop.
So what comes back goes first, and what was not read yet stays. If that was wrong the object comes back once more, and is
treated like the others from then on: so one restore too many is the worst.

An object that is pinned is no victim. Its pins may be cached, without a view: it is asked for them, once, and
is a victim when the last one has come back. How many bytes of pins are asked for at a time is bounded by
what is lacking, since who gives its cached pins back pays a round trip at its next read; after
config.recall_grace_ms without an answer they count as in use, and others are asked: twice as many each time that none came back.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from shoal.wire import messages as m
from shoald.store.allocator import fits
from shoald.store.ledger import Ledger
from shoald.store.objects import ON_DISK, WRITING, StoredObject
from shoald.store.spills import Spills

_SECONDS_PER_OBJECT = 2e-6  # sorting costs a quarter of this: a list is made anew no sooner
_LIST_PAUSE_S = 0.001
_LEISURE = 100  # times as long when nobody waits
_DIRTY = 4  # to write a byte first, against only dropping it
_HALF_WRITTEN = 2
_MANY = 32  # objects for one piece
_STALE = 8  # a part of what is ready, as many changes of which do not matter yet
_ASKS_MAX = 1024  # times what is lacking, of which pins are asked for
_VAIN_MAX = 4  # lists without a victim in a row, after each of which the next one takes twice as long


class Eviction:
    """Victims for one store.

    Attributes:
        asked_bytes: objects whose pins have been asked for a moment ago.
        again_at: when a new list, or new questions, may bring more; None if nothing is left to try.
    """

    __slots__ = (
        "_asked_until",
        "_asks",
        "_counted_at",
        "_guests",
        "_ledger",
        "_listed_at",
        "_queue",
        "_ready",
        "_ready_bytes",
        "_spills",
        "_urgent",
        "_vain",
        "again_at",
        "asked_bytes",
    )

    def __init__(self, ledger: Ledger, spills: Spills) -> None:
        self._ledger = ledger
        self._spills = spills
        self._guests: deque[tuple[float, StoredObject]] = deque()  # read back for the first time
        self._ready: deque[tuple[float, StoredObject]] = deque()
        self._queue: list[tuple[float, StoredObject]] = []  # the next victim is the last
        self._listed_at = -1e9
        self._asked_until = 0.0
        self._asks = 1
        self.asked_bytes = 0
        self._ready_bytes = 0
        self._urgent = True
        self._vain = 0
        self._counted_at = 0
        self.again_at: float | None = None

    @property
    def coming_bytes(self) -> int:
        """Bytes that pins will come back of: what was asked for, less if that was in vain a moment ago."""
        return self.asked_bytes // self._asks

    def begin(self, urgent: bool, now: float) -> None:
        """Before the first `next` of a turn. ``urgent``: somebody waits; if not, a new list is made much less often."""
        self._urgent = urgent
        if self.asked_bytes and now >= self._asked_until:
            self.asked_bytes = 0
            self._asks = min(2 * self._asks, _ASKS_MAX)
        self.again_at = self._asked_until if self.asked_bytes else None
        self._welcome()

    def next(
        self, lacking: int, dirty: bool, now: float, piece: int = 0, behind: bool = False
    ) -> StoredObject | None:
        """The next victim, in memory and unpinned; None if there is none now (see `again_at`).

        Args:
            lacking: bytes that are needed; pins are asked for up to so much.
            dirty: take objects that have to be written first, too; otherwise the first one of them ends it.
            piece: so does, if it is not 0, one without which there would not be so many bytes in one piece.
            behind: not one of those that only have to be dropped (`ready_bytes`), but the next after them.
        """
        while True:
            source = self._queue if behind else self._guests or self._ready or self._queue
            if not source:
                if not self._list(now):
                    return None
                continue
            entry = source[-1] if source is self._queue else source[0]
            used_at, obj = entry
            if self._is_candidate(obj) and obj.used_at == used_at:
                if obj.pins is not None:
                    if not obj.asked and self.coming_bytes >= lacking:
                        return None  # enough was asked for; the others' turn is when these do not come
                    self._ask(obj, now)
                    if source is self._guests and self.coming_bytes >= lacking:
                        self._take(source)
                        return None  # it is worth a moment's wait: the next one is wanted more
                elif self._goes(obj, dirty, piece):
                    self._take(source)
                    self._vain = 0
                    return obj
                else:
                    return None
            self._take(source)

    def _goes(self, obj: StoredObject, dirty: bool, piece: int) -> bool:
        """Whether an unpinned object is what `next` was asked for."""
        if not dirty and obj.disk is None and not self.expendable(obj):
            return False
        return not piece or self._ledger.allocator.would_fit(piece, obj.offset, obj.allocated)

    def ready_bytes(self) -> int:
        """Of objects that only have to be dropped, and are the next ones; nearly: what was freed or used counts for a moment."""
        counters = self._ledger.counters
        changes = counters["frees"] + counters["evictions"] + counters["pins"]
        if changes - self._counted_at > (len(self._guests) + len(self._ready)) // _STALE:
            self._counted_at = changes
            for source in (self._guests, self._ready):
                for _ in range(len(source)):
                    entry = used_at, obj = source.popleft()
                    if obj.used_at == used_at and self._is_candidate(obj):
                        source.append(entry)
            ready = (obj for source in (self._guests, self._ready) for _, obj in source)
            self._ready_bytes = sum(obj.allocated for obj in ready)
        return self._ready_bytes

    def keep(self, obj: StoredObject) -> None:
        """This victim has a copy elsewhere, and is not needed yet: it is among the next."""
        self._ready.append((obj.used_at, obj))
        self._ready_bytes += obj.allocated

    def put_back(self, objects: list[StoredObject]) -> None:
        """These victims are the next ones again, in the same order."""
        self._queue += [(obj.used_at, obj) for obj in reversed(objects)]

    def expendable(self, obj: StoredObject) -> bool:
        """Whether another node has this object, and nothing depends on the copy here."""
        return (
            not obj.flags & (m.SEAL_PRIMARY | m.SEAL_ERROR)
            and not obj.contained
            and obj.id not in self._ledger.watched
        )

    def hole(self, size: int, now: float, batch: int = 0) -> list[StoredObject]:
        """The objects that are to go so that ``size`` bytes in one piece are free: as few bytes as possible, where those that
        have to be written first count several times. If they are many small ones, a piece of ``batch`` bytes is made, if that can
        be: looking at all objects for each little piece would take most of the time.

        Empty if pinned objects and leased memory leave no such piece. Then the pins of a piece are asked for that
        leaves one if they are only cached, unless some have been asked for a moment ago.
        """
        usable = self._spills.usable(now)

        def can_go(obj: StoredObject) -> bool:
            return usable or obj.disk is not None or self.expendable(obj)

        found = self._cheapest(size, lambda obj: obj.pins is None and can_go(obj), batch)
        if not found and not self.asked_bytes:
            maybe = self._cheapest(
                size, lambda obj: (obj.pins is None or not (obj.asked or obj.recalled)) and can_go(obj)
            )
            for obj in maybe:
                if obj.pins is not None:
                    self._ask(obj, now)
        return found

    def _cheapest(
        self, size: int, movable: Callable[[StoredObject], bool], batch: int = 0
    ) -> list[StoredObject]:
        pieces: list[tuple[int, int, StoredObject | None]] = [
            (offset, length, None) for offset, length in self._ledger.allocator.free_extents()
        ]
        pieces += [
            (obj.offset, obj.allocated, obj)
            for obj in self._ledger.objects.values()
            if obj.offset >= 0 and movable(obj)
        ]
        pieces.sort(key=lambda piece: piece[0])
        found = _cheapest_window(pieces, size, self._cost)
        if size < batch and len(found) >= _MANY:
            found = _cheapest_window(pieces, batch, self._cost) or found
        return found

    def _cost(self, obj: StoredObject) -> int:
        """What it takes to make an object go, in bytes that are only dropped."""
        if obj.disk is None:
            return obj.allocated if self.expendable(obj) else _DIRTY * obj.allocated
        return obj.allocated if obj.disk.state == ON_DISK else _HALF_WRITTEN * obj.allocated

    def _is_candidate(self, obj: StoredObject) -> bool:
        if obj.offset < 0 or self._ledger.objects.get(obj.id) is not obj:
            return False
        return obj.disk is None or obj.disk.state != WRITING

    def _take(self, source: deque[tuple[float, StoredObject]] | list[tuple[float, StoredObject]]) -> None:
        if source is self._ready:
            self._ready_bytes -= self._ready.popleft()[1].allocated
        elif source is self._guests:
            self._ready_bytes -= self._guests.popleft()[1].allocated
        else:
            source.pop()

    def _welcome(self) -> None:
        """What was written, and what has come back, is next."""
        written, returned = self._spills.written, self._ledger.returned
        if returned:
            self._ledger.returned = []
            self._asks = 1
            for obj in returned:
                obj.asked = False
                self.asked_bytes = max(0, self.asked_bytes - obj.allocated)
            # They were the next when they were asked for, and go before what is listed now.
            for obj in reversed(returned):
                if obj.pins is not None:
                    continue
                if obj.disk is not None and obj.disk.state == ON_DISK:
                    self._guests.appendleft((obj.used_at, obj))
                    self._ready_bytes += obj.allocated
                else:
                    self._queue.append((obj.used_at, obj))
        if written:
            for obj in written:
                self.keep(obj)
            written.clear()
        if self._spills.restored:
            self._guests += [(obj.used_at, obj) for obj in self._spills.restored]
            self._ready_bytes += sum(obj.allocated for obj in self._spills.restored)
            self._spills.restored = []

    def _ask(self, obj: StoredObject, now: float) -> None:
        if obj.asked or obj.recalled:
            return
        obj.asked = True
        self.asked_bytes += obj.allocated
        self._asked_until = now + self._ledger.config.recall_grace_ms / 1000
        self.again_at = self._asked_until
        for client in obj.pins or ():
            if client.connected:
                self._ledger.recalls.setdefault(client.proc, []).append(obj.id)

    def _list(self, now: float) -> bool:
        """Sort what there is; False if that was done a moment ago, or there is nothing."""
        objects = self._ledger.objects
        pause = (_LIST_PAUSE_S + _SECONDS_PER_OBJECT * len(objects)) * 2 ** min(self._vain, _VAIN_MAX)
        due = self._listed_at + (pause if self._urgent else _LEISURE * pause)
        if now < due:
            self.again_at = due if self.again_at is None else min(due, self.again_at)
            return False
        self._listed_at = now
        self._vain += 1
        ready = {
            obj for source in (self._guests, self._ready) for used_at, obj in source if obj.used_at == used_at
        }
        found = [obj for obj in objects.values() if obj.offset >= 0 and not obj.recalled and obj not in ready]
        found.sort(key=lambda obj: (self.expendable(obj), -obj.used_at))
        if not self._spills.usable(now):
            found = [obj for obj in found if obj.disk is not None or self.expendable(obj)]
        self._queue = [(obj.used_at, obj) for obj in found]
        return bool(found)


def _cheapest_window(
    pieces: list[tuple[int, int, StoredObject | None]], size: int, cost: Callable[[StoredObject], int]
) -> list[StoredObject]:
    """Of pieces (offset, length, object or None if free) by offset: the objects of the adjacent pieces that
    together have room for ``size`` bytes, and cost the least.
    """
    best: tuple[int, int, int] | None = None  # cost, first piece, last piece
    costs = [cost(obj) if obj is not None else 0 for _, _, obj in pieces]
    first = end = taken = 0
    for last, (offset, length, _) in enumerate(pieces):
        if offset != end:
            first, taken = last, 0
        end = offset + length
        taken += costs[last]
        while first < last and fits(pieces[first + 1][0], end - pieces[first + 1][0], size):
            taken -= costs[first]
            first += 1
        begin = pieces[first][0]
        if fits(begin, end - begin, size) and (best is None or taken < best[0]):
            best = taken, first, last
    if best is None:
        return []
    return [obj for _, _, obj in pieces[best[1] : best[2] + 1] if obj is not None]

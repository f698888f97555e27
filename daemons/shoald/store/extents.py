"""Extents: memory leased to clients ahead of need, and what happens when there is none.

A request that the allocator cannot meet recalls unused leased memory from every client and then waits until
something is freed, or relief (see there) gives up, or has it written to a file. Waiting requests are met in order; a smaller one
may pass a larger one, because its task may be what frees the memory for the larger, until that has waited for
config.store_full_wait_ms. While somebody waits, or more than config.lease_ahead_share of the region is leased, nobody gets
more than the least that it asked for. What was recalled counts as coming back for config.recall_grace_ms: until then
nothing is spilled for want of it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from itertools import islice
from typing import Any

from shoal.sizes import bytes_text
from shoal.wire import messages as m
from shoald.store.allocator import ALIGNMENT, LARGE_BYTES, PAGE, round_up
from shoald.store.errors import ProtocolError
from shoald.store.ledger import Ledger, checked_size, fields
from shoald.store.objects import Client, StoredObject
from shoald.store.report import full_message

_FIELDS_MAX = 5  # tag, request, two sizes, and the ways
_LOOK_MAX = 64  # requests that room is made for at a time


class Waiting:
    """An ALLOC request that waits for room, since ``since``.

    ``keeps``: its client gives up no ref meanwhile; ``or_file``: it would rather have a file than wait for long.
    """

    __slots__ = ("client", "keeps", "least", "or_file", "req", "since", "wanted")

    def __init__(self, client: Client, req: int, least: int, wanted: int, since: float, ways: int) -> None:
        self.keeps = bool(ways & m.ALLOC_KEEPS)
        self.or_file = bool(ways & m.ALLOC_OR_FILE)
        self.client = client
        self.req = req
        self.least = least
        self.wanted = wanted
        self.since = since


class Extents:
    """Leases extents to clients, takes them back, and queues who has to wait.

    Attributes:
        waiting: requests in order of arrival.
        recalled_until: leased memory that clients do not use may still come back until then.
        no_passing: the oldest has waited for so long that nobody passes it any more.
    """

    __slots__ = ("_ledger", "_tried_free", "no_passing", "recalled_until", "waiting")

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self.waiting: deque[Waiting] = deque()
        self.no_passing = False
        self.recalled_until = -1e9
        self._tried_free = 0  # free bytes when the queue was last tried: less or the same is not worth a try

    def alloc(self, client: Client, message: list[Any], now: float) -> None:
        """ALLOC: EXTENT now or later, or ALLOC_FAILED."""
        ledger = self._ledger
        ways = checked_size(message.pop()) if len(message) == _FIELDS_MAX else 0
        req, size_min, size_wanted = fields(message, 3)
        checked_size(req)
        least = round_up(checked_size(size_min))
        wanted = max(least, round_up(checked_size(size_wanted)))
        capacity = ledger.allocator.capacity
        if least > capacity:
            why = f"{bytes_text(least)} can never be stored: the object store of this node has {bytes_text(capacity)}"
            ledger.send(client, [m.ALLOC_FAILED, req, "never", why])
            return
        if self._grant(client, req, least, least if self.waiting else wanted):
            return
        request = Waiting(client, req, least, wanted, now, ways)
        if len(self.waiting) >= ledger.config.store_waiters_max:
            self._refuse(request, "full", "")
            return
        if not self.waiting:
            self.recalled_until = now + ledger.config.recall_grace_ms / 1000
        self.waiting.append(request)
        ledger.arrivals += 1
        self._tried_free = ledger.allocator.free_bytes
        ledger.recall_extents()

    def give_back(self, client: Client, message: list[Any], _now: float) -> None:
        """EXTENT_RETURN: an unused range comes back."""
        offset, size = fields(message, 2)
        checked_size(offset)
        if checked_size(size) == 0 or offset % 64 or size % 64 or not client.leased.take(offset, size):
            raise ProtocolError(f"[{offset}, {offset + size}) is not leased to this client")
        self._ledger.allocator.free(offset, size)

    def drop(self, client: Client) -> None:
        """The client is gone: free what it leased and forget what it asked for."""
        for offset, size in client.leased.ranges():
            self._ledger.allocator.free(offset, size)
        client.leased.clear()
        if any(request.client is client for request in self.waiting):
            self.waiting = deque(request for request in self.waiting if request.client is not client)

    def serve(self) -> None:
        """Meet what can be met of the waiting requests; cheap when nothing was freed since the last try."""
        free = self._ledger.allocator.free_bytes
        if free <= self._tried_free:
            self._tried_free = free
            return
        left: deque[Waiting] = deque()
        waiting = self.waiting
        alone = len(waiting) == 1
        while waiting:
            request = waiting.popleft()
            most = request.wanted if alone else request.least
            if not self._grant(request.client, request.req, request.least, most):
                left.append(request)
                if self.no_passing:
                    break
        left += waiting
        self.waiting = left
        self._tried_free = self._ledger.allocator.free_bytes

    def wanted(self) -> tuple[int, int]:
        """(bytes that the first requests need, at least; what the oldest one needs)."""
        waiting = self.waiting
        if not waiting:
            return 0, 0
        return sum(request.least for request in islice(waiting, _LOOK_MAX)), waiting[0].least

    def coming_back(self, now: float) -> int:
        """Leased bytes that may not be in use, and have been asked for a moment ago."""
        return self._ledger.leased_bytes() if now < self.recalled_until else 0

    def _ahead_max(self) -> int:
        return int(self._ledger.config.lease_ahead_share * self._ledger.allocator.capacity)

    def oldest(self) -> list[float]:
        """Since when the oldest request waits, if there is one."""
        return [self.waiting[0].since] if self.waiting else []

    def describe(self, now: float) -> list[str]:
        """Who waits, for people; nothing if nobody does."""
        if not self.waiting:
            return []
        count = len(self.waiting)
        who = "a process waits" if count == 1 else f"{count} requests wait"
        free = bytes_text(self._ledger.allocator.free_bytes)
        oldest = self.waiting[0]
        return [
            f"{who} for room ({bytes_text(oldest.least)} for {now - oldest.since:.1f} s), {free} are free"
        ]

    def would_rather(self, size_min: int = 0) -> Waiting | None:
        """The oldest request, of so many bytes at least, that would rather have a file."""
        return next(
            (each for each in islice(self.waiting, _LOOK_MAX) if each.or_file and each.least >= size_min),
            None,
        )

    def take(self, request: Waiting) -> None:
        """This one gets a file, and waits no more."""
        self.waiting.remove(request)

    def have_written(self, request: Waiting) -> None:
        """Its client is to write to a file. It is not told who keeps what: to find that out takes 18 ms for 100,000 objects."""
        self.waiting.remove(request)
        why = f"no room for {bytes_text(request.least)} in the object store: all that is in memory is in use."
        self._ledger.send(request.client, [m.ALLOC_FAILED, request.req, "file", why])

    def refuse(self, is_over: Callable[[float], bool], kind: str, trouble: str) -> None:
        """Refuse the requests that have waited long enough."""
        while self.waiting and is_over(self.waiting[0].since):
            self._refuse(self.waiting.popleft(), kind, trouble)

    def refuse_hopeless(self, stays: Callable[[StoredObject], bool]) -> None:
        """Refuse requests for which there is no room whatever else happens.

        Args:
            stays: whether an object stays in the region for as long as a client holds it.
        """
        keepers = {request.client for request in self.waiting if request.keeps}
        gaps = self._gaps(keepers, stays) if keepers else []
        hopeless = [
            request for request in self.waiting if request.keeps and not self._fits(request.least, gaps)
        ]
        for request in hopeless:
            self.waiting.remove(request)
            self._refuse(request, "full", "")

    @staticmethod
    def _fits(size: int, gaps: list[tuple[int, int]]) -> bool:
        unit = PAGE if size >= LARGE_BYTES else ALIGNMENT
        return any(-(-start // unit) * unit + size <= end for start, end in gaps)

    def _gaps(self, keepers: set[Client], stays: Callable[[StoredObject], bool]) -> list[tuple[int, int]]:
        """(start, end) of the pieces of the region between what ``keepers`` keep in it."""
        objects = self._ledger.objects
        kept = {
            obj.offset: obj.allocated
            for client in keepers
            for object_id, count in client.holds.items()
            if count > 0 and (obj := objects.get(object_id)) is not None and stays(obj)
        }
        gaps = []
        end = 0
        for offset, size in sorted(kept.items()):
            gaps.append((end, offset))
            end = offset + size
        return [*gaps, (end, self._ledger.allocator.capacity)]

    def _grant(self, client: Client, req: int, least: int, wanted: int) -> bool:
        ledger = self._ledger
        if least > ledger.allocator.free_bytes:
            return False
        if wanted > least and ledger.leased_bytes() + wanted > self._ahead_max():
            wanted = least
        extent = ledger.allocator.lease(least, wanted)
        if extent is None:
            return False
        client.leased.add(*extent)
        ledger.counters["allocs"] += 1
        ledger.send(client, [m.EXTENT, req, *extent])
        return True

    def _refuse(self, request: Waiting, kind: str, trouble: str) -> None:
        why = full_message(self._ledger, request.least, trouble)
        self._ledger.send(request.client, [m.ALLOC_FAILED, request.req, kind, why])

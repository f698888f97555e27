"""Extents: memory leased to clients ahead of need, and what happens when there is none.

A request that the allocator cannot meet recalls unused leased memory from every client and then waits, for
config.store_full_wait_ms at most, until something is freed. Waiting requests are met in order; a
smaller one may pass a larger one, because its task may be what frees the memory for the larger. While
somebody waits, nobody gets more than the least that it asked for.
"""

from __future__ import annotations

from collections import deque
from typing import Any

from shoal.wire import messages as m
from shoald.store.allocator import round_up
from shoald.store.errors import ProtocolError
from shoald.store.ledger import Ledger, checked_size, fields
from shoald.store.objects import Client
from shoald.store.report import full_message, human


class Waiting:
    """An ALLOC request that waits for room until ``deadline``."""

    __slots__ = ("client", "deadline", "least", "req", "wanted")

    def __init__(self, client: Client, req: int, least: int, wanted: int, deadline: float) -> None:
        self.client = client
        self.req = req
        self.least = least
        self.wanted = wanted
        self.deadline = deadline


class Extents:
    """Leases extents to clients, takes them back, and queues who has to wait.

    Attributes:
        waiting: requests in order of arrival, and so of deadline.
    """

    __slots__ = ("_ledger", "_tried_free", "waiting")

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self.waiting: deque[Waiting] = deque()
        self._tried_free = 0  # free bytes when the queue was last tried: less or the same is not worth a try

    def alloc(self, client: Client, message: list[Any], now: float) -> None:
        """ALLOC: EXTENT now or later, or ALLOC_FAILED."""
        ledger = self._ledger
        req, size_min, size_wanted = fields(message, 3)
        checked_size(req)
        least = round_up(checked_size(size_min))
        wanted = max(least, round_up(checked_size(size_wanted)))
        capacity = ledger.allocator.capacity
        if least > capacity:
            why = (
                f"{human(least)} can never be stored: the object store of this node has {human(capacity)}. "
                "Start the node with a larger --object-store-memory, or store the value in parts."
            )
            ledger.send(client, [m.ALLOC_FAILED, req, "never", why])
            return
        if self._grant(client, req, least, least if self.waiting else wanted):
            return
        request = Waiting(client, req, least, wanted, now + ledger.config.store_full_wait_ms / 1000)
        if len(self.waiting) >= ledger.config.store_waiters_max:
            self._refuse(request)
            return
        self.waiting.append(request)
        self._tried_free = ledger.allocator.free_bytes
        for other in ledger.clients.values():
            if other.leased.size:
                ledger.send(other, [m.EXTENT_RECALL])

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
        alone = len(self.waiting) == 1
        for request in self.waiting:
            most = request.wanted if alone else request.least
            if not self._grant(request.client, request.req, request.least, most):
                left.append(request)
        self.waiting = left
        self._tried_free = self._ledger.allocator.free_bytes

    def expire(self, now: float) -> None:
        """Refuse the requests that have waited long enough."""
        while self.waiting and self.waiting[0].deadline <= now:
            self._refuse(self.waiting.popleft())

    def _grant(self, client: Client, req: int, least: int, wanted: int) -> bool:
        ledger = self._ledger
        if least > ledger.allocator.free_bytes:
            return False
        extent = ledger.allocator.lease(least, wanted)
        if extent is None:
            return False
        client.leased.add(*extent)
        ledger.counters["allocs"] += 1
        ledger.send(client, [m.EXTENT, req, *extent])
        return True

    def _refuse(self, request: Waiting) -> None:
        why = full_message(self._ledger, request.least)
        self._ledger.send(request.client, [m.ALLOC_FAILED, request.req, "full", why])

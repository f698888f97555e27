"""Which of many workers has the fewest tasks, without looking at all of them. Pure.

A heap of (load, number of the lease), in which every lease that may get tasks has an entry with its load or less: its
`ranked`. Nothing is done when a load grows: the entry is put right when it comes to the top. When one shrinks, or a lease may
get tasks again, the owner says so (`eased`). An entry that is not its lease's `ranked` any more is old and is dropped at the
top; when most are old, all are made anew.

A few leases are looked through in less time than that takes; their queue has no ranking (`ranked` is 0 then, and `eased` is
never called, since no load is less).
"""

from __future__ import annotations

from heapq import heapify, heappop, heappush
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from shoal.owner.leases import Lease

UNRANKED = 1 << 62  # more than any load: the lease has no entry, since it may get nothing now
_OLD_MAX = 4  # entries for each lease, beyond which all are made anew
_OLD_MIN = 64


class Ranking:
    """The leases of one queue, in the order in which they came."""

    __slots__ = ("_came", "_entries", "_leases")

    def __init__(self, leases: Iterable[Lease]) -> None:
        self._leases = dict(enumerate(leases))
        self._came = len(self._leases)
        self._entries: list[tuple[int, int]] = []
        for number, lease in self._leases.items():
            lease.number = number
        self.renew()

    def __len__(self) -> int:
        return len(self._entries)

    def renew(self) -> None:
        """Make all entries anew."""
        self._entries = [(len(lease.inflight), number) for number, lease in self._leases.items()]
        heapify(self._entries)
        for lease in self._leases.values():
            lease.ranked = len(lease.inflight)

    def join(self, lease: Lease) -> None:
        """A lease more, after all others."""
        lease.number = self._came
        self._came += 1
        self._leases[lease.number] = lease
        lease.ranked = UNRANKED
        self.eased(lease)

    def leave(self, lease: Lease) -> None:
        """A lease less; its entries are dropped when they are met."""
        del self._leases[lease.number]
        lease.ranked = 0

    def end(self) -> None:
        """There are few leases now."""
        for lease in self._leases.values():
            lease.ranked = 0

    def eased(self, lease: Lease) -> None:
        """It has fewer tasks than its entry says."""
        load = len(lease.inflight)
        if len(self._entries) > _OLD_MIN + _OLD_MAX * len(self._leases):
            self.renew()
        elif load < lease.ranked:
            heappush(self._entries, (load, lease.number))
            lease.ranked = load

    def least(self, below: int) -> Lease | None:
        """Of the leases that may get tasks, the first of those with the fewest, if these are fewer than ``below``."""
        entries = self._entries
        while entries:
            load, number = entries[0]
            if load >= below:
                return None
            lease = self._leases.get(number)
            if lease is None or lease.ranked != load:
                heappop(entries)
            elif not lease.usable():
                lease.ranked = UNRANKED
                heappop(entries)
            elif len(lease.inflight) == load:
                return lease
            else:
                lease.ranked = (
                    UNRANKED  # first: if a signal handler raises in between, it is found when it is eased
                )
                heappop(entries)
                heappush(entries, (len(lease.inflight), number))
                lease.ranked = len(lease.inflight)
        return None

    def validate(self, leases: list[Lease]) -> None:
        """Raises AssertionError unless it has these leases, and each that may get tasks would be found."""
        assert list(self._leases.values()) == leases
        entries = set(self._entries)
        for number, lease in self._leases.items():
            assert lease.number == number
            if lease.usable():
                assert lease.ranked <= len(lease.inflight), lease
                assert (lease.ranked, number) in entries, lease

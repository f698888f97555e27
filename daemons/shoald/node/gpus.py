"""Which of the node's GPUs each lease has. Pure.

The ledger counts GPUs like any resource; but nothing runs on two halves of different ones. So a share of a GPU is all of one GPU,
of the fullest that has room for it, and whole numbers are GPUs that nobody else uses. Bundles of placement groups
reserve amounts, not certain GPUs: their members get theirs when they are leased a worker, as all do. (Shares of more than a half
that others have may keep a member waiting, though its bundle has room.)

Invariant: what leases have of each GPU, and what is free of it, is all of it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from shoald.node.leases import UNITS

if TYPE_CHECKING:
    from collections.abc import Iterable

GPU = "GPU"
Shares = tuple[tuple[int, int], ...]  # (number of a GPU, units of it)


class Gpus:
    """The GPUs of one node, numbered from 0.

    Args:
        units: how many there are, in units of 1/10,000.
    """

    __slots__ = ("_free", "_total")

    def __init__(self, units: int) -> None:
        whole, rest = divmod(units, UNITS)
        self._total = [UNITS] * whole + [rest] * bool(rest)
        self._free = list(self._total)

    def fits(self, units: int) -> bool:
        """Whether so much can be had of GPUs as they are shared now."""
        return not units or self._choose(units) is not None

    def take(self, units: int) -> Shares:
        """Take as much; the caller knows that it fits."""
        if not units:
            return ()
        shares = self._choose(units)
        assert shares is not None, (units, self._free)
        for number, amount in shares:
            self._free[number] -= amount
        return shares

    def give(self, shares: Shares) -> None:
        """Give back what was taken."""
        for number, amount in shares:
            self._free[number] += amount

    def lacking(self, units: int) -> int:
        """How much of it has to come free, at least; 0 if it fits."""
        if self.fits(units):
            return 0
        whole, rest = divmod(units, UNITS)
        most = sorted(self._free, reverse=True)
        wanted = [UNITS] * whole + [rest] * bool(rest)
        return sum(
            max(0, amount - free) for amount, free in zip(wanted, [*most, *[0] * len(wanted)], strict=False)
        )

    def _choose(self, units: int) -> Shares | None:
        whole, rest = divmod(units, UNITS)
        unused = [number for number, free in enumerate(self._free) if free == UNITS]
        if len(unused) < whole:
            return None
        chosen = [(number, UNITS) for number in unused[:whole]]
        if rest:
            others = [n for n, free in enumerate(self._free) if free >= rest and n not in unused[:whole]]
            if not others:
                return None
            chosen.append((min(others, key=lambda number: (self._free[number], number)), rest))
        return tuple(chosen)

    def validate(self, taken: Iterable[Shares]) -> None:
        """Raise AssertionError unless ``taken``, what all leases have, is what is not free."""
        used = [0] * len(self._total)
        for shares in taken:
            for number, amount in shares:
                used[number] += amount
        for free, amount, total in zip(self._free, used, self._total, strict=True):
            assert free >= 0, self._free
            assert free + amount == total, (self._free, used)

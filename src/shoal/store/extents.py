"""The memory this process may write to: slabs leased from the daemon, cut up from below. Pure.

A slab is asked for ahead of need, so that writing a value costs no round trip. Its size follows what is
written: it doubles with every slab that was used up, from config.slab_bytes_min to slab_bytes_max, and starts
over when the daemon wants memory back. A value that is too large for that gets an extent of its own. Only when such values keep
being written one of that size is asked for ahead too: two places then take turns, and none is waited for; the first few rather
wait for an answer and get the pages of the last value, if that was freed, than new ones (100 MB: 0.1 ms against 30).

The caller sends what `want` and `want_ahead` say as ALLOC, tells the answer by `add` or `refused`, and
returns what `add`, `give_back` and `unused` hand out as EXTENT_RETURN. Callers serialize calls.
"""

from __future__ import annotations

_ALIGNMENT = 64
_LARGE_IN_A_ROW = 3  # large values that had to ask for their extents, before one is asked for ahead


def _round_up(size: int) -> int:
    return (size + _ALIGNMENT - 1) & -_ALIGNMENT or _ALIGNMENT


class ExtentLeases:
    """Leased slabs; offsets and sizes are bytes within the region.

    Args:
        slab_min, slab_max: sizes of slabs to ask for.
        ahead_max: nothing larger is asked for ahead.
        slabs_max: partly used slabs that are kept; beyond, the smallest rest goes back.
    """

    __slots__ = (
        "_ahead_max",
        "_asked",
        "_ends",
        "_large",
        "_larges",
        "_slab",
        "_slab_max",
        "_slab_min",
        "_slabs_max",
        "_starts",
        "_worthwhile",
    )

    def __init__(self, slab_min: int, slab_max: int, slabs_max: int, ahead_max: int = 2**63) -> None:
        self._slab_min = min(slab_min, ahead_max)
        self._slab_max = max(self._slab_min, min(slab_max, ahead_max))
        self._ahead_max = ahead_max
        self._slabs_max = slabs_max
        self._slab = self._slab_min
        self._starts: list[int] = []  # the last slab is the one in use
        self._ends: list[int] = []
        self._asked = 0  # bytes that were asked for ahead of need, and have no answer yet
        self._large = 0  # size of the last value that took an extent of its own
        self._larges = 0  # such values that had no extent ahead
        self._worthwhile = False  # something was carved since the last request ahead

    def carve(self, size: int) -> int | None:
        """Take ``size`` bytes (rounded up to 64): their offset, or None if no slab has so much left."""
        size = (size + 63) & -64 or 64
        starts = self._starts
        for index in range(len(starts) - 1, -1, -1):
            offset = starts[index]
            end = offset + size
            if end <= self._ends[index]:
                self._worthwhile = True
                if end == self._ends[index]:
                    del starts[index], self._ends[index]
                else:
                    starts[index] = end
                return offset
        return None

    def want(self, size: int) -> tuple[int, int]:
        """What to ask the daemon for, now that `carve` had no room for ``size``: (size_min, size_wanted)."""
        size = _round_up(size)
        if size > self._slab_max // 2:
            self._large = size
            self._larges += 1
            return size, size
        return size, max(self._slab, min(self._slab_max, 4 * size))

    def want_ahead(self) -> tuple[int, int] | None:
        """The next slab, (size_min, size_wanted), when little is left and none is asked for; else None."""
        if self._asked or not self._worthwhile:
            return None
        if self._large:
            # The place of the last value counts as leased until that is sealed.
            if (
                2 * self._large > self._ahead_max
                or self._larges < _LARGE_IN_A_ROW
                or any(
                    end - start >= self._large for start, end in zip(self._starts, self._ends, strict=True)
                )
            ):
                return None
            self._asked = self._large
            self._worthwhile = False
            return self._slab_min, self._large  # or less: under pressure nobody waits for this
        left = sum(self._ends) - sum(self._starts)
        if left > self._slab // 2:
            return None
        self._asked = self._slab
        self._worthwhile = False
        return self._slab_min, self._slab

    def add(self, offset: int, size: int, ahead: bool = False) -> list[tuple[int, int]]:
        """The daemon leased [offset, offset + size); ``ahead``: in answer to `want_ahead`.

        Returns ranges (offset, size) to give back, usually none.
        """
        if ahead:
            asked, self._asked = self._asked, 0
            if (
                size < self._large == asked
            ):  # of no use for such values, and between two of them it is in the way
                self._large = self._larges = 0
                return [(offset, size)]
        if size >= self._slab:
            self._slab = min(self._slab_max, self._slab * 2)
        index = len(self._starts)
        for at, end in enumerate(self._ends):
            if end == offset:  # the next piece of a slab: one slab again
                self._ends[at] = offset + size
                return []
        self._starts.insert(index, offset)
        self._ends.insert(index, offset + size)
        surplus = []
        while len(self._starts) > self._slabs_max:
            rests = [end - start for start, end in zip(self._starts, self._ends, strict=True)]
            smallest = rests.index(min(rests))
            surplus.append((self._starts.pop(smallest), rests[smallest]))
            del self._ends[smallest]
        return surplus

    def refused(self, ahead: bool = False) -> None:
        """The daemon had no room; slabs start small again."""
        if ahead:
            self._asked = 0
        self._slab = self._slab_min
        self._large = self._larges = 0

    def give_back(self, offset: int, size: int) -> list[tuple[int, int]]:
        """Bytes that were carved and not used after all (writing them failed): kept for the next carve.

        Returns ranges to give back to the daemon, usually none.
        """
        end = offset + _round_up(size)
        for index, start in enumerate(self._starts):
            if start == end:
                self._starts[index] = offset
                return []
        return [(offset, end - offset)]

    def idle(self) -> list[tuple[int, int]]:
        """Nothing was written for a while: what was leased ahead for large values goes back."""
        if not self._large:
            return []
        self._large = self._larges = 0
        keep = [(a, b) for a, b in zip(self._starts, self._ends, strict=True) if b - a <= self._slab_max]
        back = [(a, b - a) for a, b in zip(self._starts, self._ends, strict=True) if b - a > self._slab_max]
        self._starts = [a for a, _ in keep]
        self._ends = [b for _, b in keep]
        return back

    def unused(self) -> list[tuple[int, int]]:
        """Everything that is leased and not carved, to give back; slabs start small again."""
        ranges = [(start, end - start) for start, end in zip(self._starts, self._ends, strict=True)]
        self._starts.clear()
        self._ends.clear()
        self._slab = self._slab_min
        self._large = self._larges = 0
        return ranges

    @property
    def together_max(self) -> int:
        """Bytes of small values that are worth one request: more would count as one large value."""
        return self._slab_min // 2

    @property
    def left_bytes(self) -> int:
        """Bytes that can be carved, in all slabs."""
        return sum(self._ends) - sum(self._starts)

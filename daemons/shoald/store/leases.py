"""The leased memory of one client: the ranges that were given to it and that no object has taken yet."""

from __future__ import annotations

from bisect import bisect_right


class Leased:
    """Disjoint ranges in ascending order; touching ranges are merged, so that returns merge too.

    Attributes:
        size: bytes in all.
    """

    __slots__ = ("_ends", "_starts", "size")

    def __init__(self) -> None:
        self._starts: list[int] = []
        self._ends: list[int] = []
        self.size = 0

    def add(self, offset: int, size: int) -> None:
        """One more range, which does not overlap the others."""
        starts, ends = self._starts, self._ends
        end = offset + size
        index = bisect_right(starts, offset)
        joins_left = index > 0 and ends[index - 1] == offset
        joins_right = index < len(starts) and starts[index] == end
        if joins_left and joins_right:
            ends[index - 1] = ends.pop(index)
            del starts[index]
        elif joins_left:
            ends[index - 1] = end
        elif joins_right:
            starts[index] = offset
        else:
            starts.insert(index, offset)
            ends.insert(index, end)
        self.size += size

    def take(self, offset: int, size: int) -> bool:
        """Cut a range out; False, and nothing has changed, unless all of it is leased and unused."""
        starts, ends = self._starts, self._ends
        index = bisect_right(starts, offset) - 1
        end = offset + size
        if index < 0 or end > ends[index]:
            return False
        if starts[index] == offset:
            if ends[index] == end:
                del starts[index], ends[index]
            else:
                starts[index] = end  # the common case: a client fills its slab from below
        else:
            if ends[index] != end:
                starts.insert(index + 1, end)
                ends.insert(index + 1, ends[index])
            ends[index] = offset
        self.size -= size
        return True

    def ranges(self) -> list[tuple[int, int]]:
        """Every range as (offset, size), by offset."""
        return [(start, end - start) for start, end in zip(self._starts, self._ends, strict=True)]

    def clear(self) -> None:
        """Forget everything; the caller has freed it."""
        self._starts.clear()
        self._ends.clear()
        self.size = 0

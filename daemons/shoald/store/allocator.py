"""Which bytes of [0, capacity) are free: an allocator that hands out the warmest memory first.

First touch is what costs in shared memory (0.3-1.5 GB/s, against 20 in pages that exist), so:
freed extents are reused, most recently freed first within a size class, before memory that was never touched;
untouched memory is taken from the lowest address, where a background thread populates pages ahead.

Free memory is a set of extents that never touch each other: neighbours are merged at every free. They
lie in bins of 8 size classes per power of two, found through a bitmap (good fit, no search); a bin is a
dict, whose order is the order of frees. The extent at the very end (*top*) is in no bin: it is the
memory to take last. Everything that was ever allocated lies below `high_water`.

Not its business: who owns an allocated extent, and freeing only what was allocated (see the ledger); it
checks what it can cheaply, and everything in `validate`.
"""

from __future__ import annotations

ALIGNMENT = 64
PAGE = 4096
LARGE_BYTES = 2 * 1024**2  # from here on, blocks start on a page
_PEEK = 4  # newest extents of the request's own class that are tried before the next larger class
_MASKS = [1 << index for index in range(64 * 8)]


def round_up(size: int, unit: int = ALIGNMENT) -> int:
    """``size`` up to a multiple of ``unit``; at least one unit."""
    return -(-size // unit) * unit or unit


def _class_of(size: int) -> int:
    """The size class that an extent of ``size`` bytes is kept in; larger sizes never have a smaller class."""
    units = size >> 6
    if units < 16:
        return units
    bits = units.bit_length()
    return (bits << 3) + ((units >> (bits - 4)) & 7)


class Allocator:
    """Offsets in, offsets out; sizes are bytes and multiples of 64.

    Attributes:
        capacity: bytes managed.
        free_bytes: bytes that are free, in all.
        high_water: the end of the highest extent that was ever allocated; nothing beyond was touched.
    """

    __slots__ = ("_bins", "_bits", "_ends", "_sizes", "_top", "capacity", "free_bytes", "high_water")

    def __init__(self, capacity: int) -> None:
        if capacity < ALIGNMENT or capacity % ALIGNMENT:
            raise ValueError(f"capacity must be a positive multiple of {ALIGNMENT}, not {capacity}")
        self.capacity = capacity
        self.free_bytes = capacity
        self.high_water = 0
        self._top = 0
        self._sizes: dict[int, int] = {}  # start → size of every binned extent
        self._ends: dict[int, int] = {}  # end → start of the same
        self._bins: list[dict[int, int]] = [{} for _ in _MASKS]
        self._bits = 0  # a set bit: that bin may hold something; cleared lazily

    def allocate(self, size: int) -> int | None:
        """Take ``size`` bytes (rounded up to 64) and return their offset; None if no extent is long enough.

        Blocks of 2 MiB and more start on a page boundary.
        """
        size = round_up(size)
        if size > self.free_bytes:
            return None
        offset = self._from_bins(size)
        if offset is None:
            offset = self._from_top(size)
        if offset is None:
            offset = self._search(size)
        return offset

    def lease(self, size_min: int, size_wanted: int) -> tuple[int, int] | None:
        """Take between the two sizes (rounded up to 64): (offset, size), or None if there is no room.

        Memory that was touched before wins over memory that was not, as long as it is at least a
        quarter of what is wanted.
        """
        least, wanted = round_up(size_min), max(round_up(size_wanted), round_up(size_min))
        offset = self._from_bins(wanted) if wanted <= self.free_bytes else None
        if offset is not None:
            return offset, wanted
        part = self._largest_binned(max(least, round_up(wanted // 4)), wanted)
        if part is not None:
            return part
        offset = self._from_top(wanted)
        if offset is not None:
            return offset, wanted
        part = self._largest_binned(least, wanted)
        rest = self._room_at_top()
        if rest >= least and (part is None or rest > part[1]):
            if part is not None:
                self.free(*part)
            offset = self._from_top(min(rest, wanted))
            return None if offset is None else (offset, min(rest, wanted))
        if part is not None:
            return part
        offset = self._search(least)
        return None if offset is None else (offset, least)

    def free(self, offset: int, size: int) -> None:
        """Give back ``size`` bytes at ``offset``: any part of what was allocated, merged with its neighbours.

        Raises ValueError if the range starts free, ends free or lies outside; then nothing has changed.
        """
        end = offset + size
        sizes, ends = self._sizes, self._ends
        if size <= 0 or offset < 0 or end > self._top or offset in sizes or end in ends:
            raise ValueError(f"[{offset}, {end}) is not allocated")
        self.free_bytes += size
        start = ends.pop(offset, None)
        if start is not None:
            length = sizes.pop(start)
            del self._bins[_class_of(length)][start]
            offset = start
        if end == self._top:
            self._top = offset
            return
        follower = sizes.pop(end, None)
        if follower is not None:
            del self._bins[_class_of(follower)][end]
            end += follower
        length = end - offset
        sizes[offset] = length
        ends[end] = offset
        units = length >> 6  # _class_of, inline: this is the hot path of every free
        bits = units.bit_length()
        index = units if units < 16 else (bits << 3) + ((units >> (bits - 4)) & 7)
        self._bins[index][offset] = length
        self._bits |= _MASKS[index]

    def would_fit(self, size: int, offset: int, length: int) -> bool:
        """Whether there would be room for ``size`` bytes where ``length`` bytes at ``offset`` are, if these were free."""
        start = self._ends.get(offset, offset)
        end = offset + length
        end = self.capacity if end == self._top else end + self._sizes.get(end, 0)
        return fits(start, end - start, size)

    # --- where to take from -----------------------------------------------------------------

    def _from_bins(self, size: int) -> int | None:
        """The newest extent of the smallest class that surely fits, after a peek into the request's own."""
        own = _class_of(size)
        large = size >= LARGE_BYTES
        bits = self._bits
        if bits & _MASKS[own]:
            offset = self._from_own_class(self._bins[own], size)
            if offset is not None:
                return offset
        above = _class_of(size + PAGE if large else size) + 1
        candidates = bits >> above
        while candidates:
            index = above + (candidates & -candidates).bit_length() - 1
            bin_ = self._bins[index]
            if bin_:
                start, length = bin_.popitem()
                return self._carve(start, length, size)
            self._bits &= ~_MASKS[index]
            candidates = self._bits >> above
        return None

    def _from_own_class(self, bin_: dict[int, int], size: int) -> int | None:
        """One of the newest few of a class whose members may or may not be long enough."""
        skipped = []
        found = None
        # popitem, not a look from behind: it also drops the dict's deleted tail, which a look would rescan.
        for _ in range(min(_PEEK, len(bin_))):
            start, length = bin_.popitem()
            if fits(start, length, size):
                found = start, length
                break
            skipped.append((start, length))
        bin_.update(reversed(skipped))
        return None if found is None else self._carve(*found, size)

    def _from_top(self, size: int) -> int | None:
        """The lowest address of the memory at the end; None if that is too short."""
        top = self._top
        offset = round_up(top, PAGE) if size >= LARGE_BYTES and top else top
        end = offset + size
        if end > self.capacity:
            return None
        self._top = end
        if offset > top:
            self._insert(top, offset - top)
        self.free_bytes -= size
        self.high_water = max(self.high_water, end)
        return offset

    def _search(self, size: int) -> int | None:
        """Any extent that fits, however long the search: the last resort before None."""
        for index in range(_class_of(size), _class_of(size + PAGE) + 1):
            bin_ = self._bins[index]
            for start, length in bin_.items():
                if fits(start, length, size):
                    del bin_[start]
                    return self._carve(start, length, size)
        return None

    def _largest_binned(self, least: int, most: int) -> tuple[int, int] | None:
        """As much as there is, up to ``most``, from the class of the longest; None below ``least``."""
        while self._bits:
            index = self._bits.bit_length() - 1
            bin_ = self._bins[index]
            if not bin_:
                self._bits &= ~_MASKS[index]
                continue
            start, length = next(reversed(bin_.items()))
            size = min(length, most)
            if not fits(start, length, size):
                size = length - (round_up(start, PAGE) - start if start else 0)
            if size < least:
                return None
            del bin_[start]
            return self._carve(start, length, size), size
        return None

    def _room_at_top(self) -> int:
        """Bytes that one block at the end can have, page alignment of a large one taken off."""
        room = self.capacity - self._top
        aligned = self.capacity - (round_up(self._top, PAGE) if self._top else 0)
        return aligned if room >= LARGE_BYTES else room

    def _carve(self, start: int, length: int, size: int) -> int:
        """Cut ``size`` bytes out of an extent that is out of its bin already; the rest stays free."""
        del self._sizes[start]
        del self._ends[start + length]
        offset = start
        if size >= LARGE_BYTES and start % PAGE:
            offset = round_up(start, PAGE)
            self._insert(start, offset - start)
        rest = start + length - offset - size
        if rest:
            self._insert(offset + size, rest)
        self.free_bytes -= size
        return offset

    def _insert(self, start: int, length: int) -> None:
        """Put an extent without free neighbours into its bin, as the newest."""
        index = _class_of(length)
        self._sizes[start] = length
        self._ends[start + length] = start
        self._bins[index][start] = length
        self._bits |= _MASKS[index]

    # --- what there is ----------------------------------------------------------------------

    @property
    def used_bytes(self) -> int:
        """Bytes that are allocated."""
        return self.capacity - self.free_bytes

    @property
    def largest_free(self) -> int:
        """Length of the longest free extent."""
        longest = self.capacity - self._top
        for index in range(self._bits.bit_length() - 1, -1, -1):
            if self._bins[index]:
                return max(longest, *self._bins[index].values(), 0)
        return longest

    @property
    def fragmentation(self) -> float:
        """0.0 when all free memory is one extent, towards 1.0 when it is in small pieces."""
        return 1.0 - self.largest_free / self.free_bytes if self.free_bytes else 0.0

    def free_extents(self) -> list[tuple[int, int]]:
        """Every free extent as (offset, size), by offset."""
        extents = sorted(self._sizes.items())
        if self._top < self.capacity:
            extents.append((self._top, self.capacity - self._top))
        return extents

    def validate(self) -> None:
        """Check every invariant; raises AssertionError with the extent at fault."""
        binned = {start: length for bin_ in self._bins for start, length in bin_.items()}
        assert binned == self._sizes, "bins and extents differ"
        assert {s + n: s for s, n in self._sizes.items()} == self._ends, "ends and extents differ"
        for index, bin_ in enumerate(self._bins):
            assert not bin_ or self._bits & _MASKS[index], f"bin {index} is not found by the bitmap"
            assert all(_class_of(n) == index for n in bin_.values()), f"bin {index} holds another class"
        previous = -1
        for start, length in self.free_extents():
            assert length > 0, (start, length)
            assert start % ALIGNMENT == length % ALIGNMENT == 0, (start, length)
            assert start > previous, f"free extents touch or overlap at {start}"
            previous = start + length
        assert previous <= self.capacity, "free beyond the end"
        assert sum(n for _, n in self.free_extents()) == self.free_bytes, "free bytes do not add up"
        assert 0 <= self._top <= self.capacity
        assert self.high_water <= self.capacity
        assert all(s + n <= self.high_water for s, n in self._sizes.items()), "untouched memory in a bin"


def fits(start: int, length: int, size: int) -> bool:
    """Whether ``size`` bytes, page-aligned if that many, fit into an extent."""
    if size >= LARGE_BYTES and start % PAGE:
        return round_up(start, PAGE) - start + size <= length
    return size <= length

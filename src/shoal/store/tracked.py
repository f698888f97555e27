"""When the kernel is asked to say whether an array was written, instead of a hash (`writetracking` is how): pure decisions.

Memory is tracked from the moment at which its pages are write-protected. That costs 0.2 ms for 200 MB (4 ms if its pages are
small), and a write to all of it costs as much as eight hashes then, once: the kernel takes a fault for each page. So an array
is tracked

- when a hash has found it unchanged, as often as `History` asks for: once, and twice as often each time when it was written
  all over soon after it had been protected;
- at once when it was written in a few places only, and passed unchanged before: that costs a few faults.

What is known of a range ends when a part of it is protected again, for whomever: the marks of writes go. So ranges are
disjoint, and whoever asks shows the number of the tracking, which is never used again.
"""

from __future__ import annotations

from itertools import pairwise

# A write to all of a protected range costs as much as so many hashes; if it saved as many, it was worth it.
_WORTH_HASHES = 8
# Up to one page in so many is written in a few places.
_FEW_SHARE = 64
_PATIENCE_MAX = 1024


class History:
    """What happened to one array since it was first passed.

    Attributes:
        token: the number of its tracking; None if it is not tracked.
    """

    __slots__ = ("_at_once", "_patience", "_saved", "_unchanged", "token")

    def __init__(self) -> None:
        self.token: int | None = None
        self._patience = 1
        self._unchanged = 0
        self._saved = 0
        self._at_once = False

    def wants(self) -> bool:
        """Whether to protect it now, before it is hashed or copied."""
        return self.token is None and (self._at_once or self._unchanged >= self._patience)

    def protected(self, token: int) -> None:
        """It is tracked from now on."""
        self.token = token
        self._saved = self._unchanged = 0
        self._at_once = False

    def refused(self) -> None:
        """It cannot be tracked, as it seems; that is asked again, but less and less often."""
        self._start_over(self._patience * 2)

    def found_unchanged(self) -> None:
        """A hash has said so."""
        self._unchanged += 1

    def found_unwritten(self) -> None:
        """The kernel has said so."""
        self._saved += 1

    def found_changed(self) -> None:
        """It was not tracked, and has another content."""
        self._start_over(self._patience)

    def found_written(self, pages: int | None, of: int) -> None:
        """So many of its pages were written since it was protected (None: that is not known). It is not tracked any more."""
        few = pages is not None and pages <= of // _FEW_SHARE
        saved = self._saved
        self._start_over(1 if few or saved >= _WORTH_HASHES else self._patience * 2)
        self._at_once = few and saved > 0

    def _start_over(self, patience: int) -> None:
        self.token = None
        self._patience = min(patience, _PATIENCE_MAX)
        self._saved = self._unchanged = 0
        self._at_once = False


class TrackedRanges:
    """The ranges of one process that are tracked: disjoint, `count_max` at most; those that were asked about last stay."""

    def __init__(self, count_max: int) -> None:
        self._count_max = count_max
        self._ranges: dict[int, tuple[int, int]] = {}
        self._last = 0

    def make_room(self, start: int, end: int) -> list[tuple[int, int]]:
        """Forget what is in the way of tracking ``start`` to ``end``; the ranges that were forgotten."""
        gone = [token for token, (first, last) in self._ranges.items() if first < end and start < last]
        kept = [token for token in self._ranges if token not in gone]
        gone += kept[: max(0, len(kept) + 1 - self._count_max)]
        return [self._ranges.pop(token) for token in gone]

    def add(self, start: int, end: int) -> int:
        """The number of a new tracking, after `make_room` for it."""
        self._last += 1
        self._ranges[self._last] = (start, end)
        return self._last

    def find(self, token: int) -> tuple[int, int] | None:
        """The range of a tracking, which counts as used; None if it has ended."""
        found = self._ranges.pop(token, None)
        if found is not None:
            self._ranges[token] = found
        return found

    def remove(self, token: int) -> tuple[int, int] | None:
        """Forget a tracking; its range, if it had not ended."""
        return self._ranges.pop(token, None)

    def clear(self) -> list[tuple[int, int]]:
        """Forget all; the ranges."""
        ranges = list(self._ranges.values())
        self._ranges.clear()
        return ranges

    def validate(self) -> None:
        """Check the invariants."""
        assert len(self._ranges) <= self._count_max
        ordered = sorted(self._ranges.values())
        assert all(start < end for start, end in ordered)
        assert all(before[1] <= after[0] for before, after in pairwise(ordered))

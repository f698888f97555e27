"""Pages of 2 MiB for the region, also where shared memory has them for nobody who does not ask: units of the file, at its
multiples of `UNIT`.

`madvise(MADV_COLLAPSE)` (Linux 6.1) puts one huge page in the place of the 512 small ones of a unit, whatever the setting for
shared memory (unless it is "deny"); what they contain stays, also under a reader or writer in another process. One of the small
pages must exist, so it is made first. Per GB of new memory: 0.06-0.08 s, against 0.57 for small pages one by one and 0.35
through `pwrite`. A process that maps such a unit later needs 0.6 ms per GB, not 85, if its mapping lies at a multiple of `UNIT`
too: that is what `map_aligned` is for.

Memory in large pieces may be dear, though: what was free for seconds a virtual machine's host has often taken back, and gives
again page by page, at 1-3 s per GB, while the remains of larger pieces, which small pages are made of first, it has left. Pieces
that were freed just now come first, so when units begin to take long, the caller gets small pages for a while.
They can be mended later, by a copy (0.6 s per GB): after a pause of seconds the first touch of each small page is slow there, it
seems because the host has an entry for each in a table of its own (4 MB took 25 ms instead of 1, an Intel Xeon).

The kernel may also refuse at any time (no huge page is free, a page is in use, the cgroup is full, the feature is off). Nothing
is changed then but the one small page, and the caller goes on as if there were no huge pages.
"""

from __future__ import annotations

import ctypes
import errno
import math
import mmap
import sys
import time
from collections.abc import Callable

from shoal import libc

UNIT = 2 * 1024**2
_VAIN_MAX = 4  # units in a row that were refused or slow; then there is a pause
_PAUSE_S = 10.0
_SLOW_S = 0.0007  # small pages take as long
_MADV_POPULATE_WRITE = 23
_MADV_COLLAPSE = 25
_MAP_NORESERVE = 0x4000
_PAGE = mmap.PAGESIZE
_OTHER_GAPS_MAX = 16
_LINUX = sys.platform.startswith("linux")
_madvise = libc.function("madvise", ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
_mincore = libc.function("mincore", ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_char_p)


class HugePages:
    """Makes huge pages in one mapping of the region, while they are to be had and worth it. From any thread.

    Args:
        address: of the mapping; no huge pages are made if it is not a multiple of `UNIT`.
        clock: seconds of processor time of this thread, to see what a page cost.
        now: seconds of any steady clock.
    """

    __slots__ = ("_address", "_again_at", "_clock", "_now", "_vain")

    def __init__(
        self,
        address: int,
        clock: Callable[[], float] = time.thread_time,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._address = address
        self._clock = clock
        self._now = now
        self._vain = 0
        self._again_at = 0.0 if _LINUX and address % UNIT == 0 else math.inf

    def possible(self) -> bool:
        """Whether it is worth asking."""
        return not self._again_at or self._again_at <= self._now()

    def stop(self) -> None:
        """Make no more."""
        self._again_at = math.inf

    @property
    def stopped(self) -> bool:
        """None will be made any more."""
        return self._again_at == math.inf

    def make(self, offset: int) -> bool:
        """Back the whole unit at ``offset``, a multiple of `UNIT`, by one huge page and map it; False if that was refused."""
        address = self._address + offset
        if not self.possible():
            return False
        began = self._clock()
        if _madvise(address, _PAGE, _MADV_POPULATE_WRITE) != 0:
            return False
        made = bool(_madvise(address, UNIT, _MADV_COLLAPSE) == 0)
        if made and self._clock() - began < _SLOW_S:
            self._vain = 0
            self._again_at = 0.0
        elif not made and ctypes.get_errno() == errno.EINVAL:
            self.stop()  # not allowed, or no such call
        else:
            self._vain += 1
            if self._vain >= _VAIN_MAX:
                self._vain -= 1  # one more in vain will do the next time
                self._again_at = self._now() + _PAUSE_S
        return made

    def mend(self, offset: int) -> bool:
        """Put a huge page in the place of the small ones of a unit, if they all exist; however long that takes (some
        milliseconds): for somebody who has the time.
        """
        address = self._address + offset
        exist = ctypes.create_string_buffer(UNIT // _PAGE)
        if self.stopped or _mincore is None or _mincore(address, UNIT, exist) != 0 or b"\0" in exist.raw:
            return False
        made = bool(_madvise(address, UNIT, _MADV_COLLAPSE) == 0)
        if not made and ctypes.get_errno() == errno.EINVAL:
            self.stop()
        return made


def map_aligned(descriptor: int, size: int, protection: int) -> mmap.mmap:
    """A shared mapping of the first ``size`` bytes of a file, at a multiple of `UNIT` where that can be had.

    `mmap.mmap` takes no address, and the kernel takes the highest gap that is large enough: so room is reserved, and a gap of
    just this size opened in it. If the kernel would take another one, that is stopped up meanwhile. Should another thread be
    faster, the mapping lies where it lies, and is only slower.

    Raises OSError as `mmap.mmap`.
    """
    length = -(-size // _PAGE) * _PAGE
    reserved = libc.FAILED
    if _LINUX and size >= UNIT:
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _MAP_NORESERVE
        reserved = libc.mmap(None, length + UNIT, 0, flags, -1, 0)
    if reserved == libc.FAILED:
        return mmap.mmap(descriptor, size, mmap.MAP_SHARED, protection)
    start = -(-reserved // UNIT) * UNIT
    libc.munmap(start, length)
    stopped: list[int] = []
    try:
        for _ in range(_OTHER_GAPS_MAX):
            there = libc.mmap(None, size, protection, mmap.MAP_SHARED, descriptor, 0)
            if there == libc.FAILED:
                break  # mmap.mmap says why
            if there == start:
                libc.munmap(there, length)
                break
            stopped.append(there)
        return mmap.mmap(descriptor, size, mmap.MAP_SHARED, protection)
    finally:
        for there in stopped:
            libc.munmap(there, length)
        if start > reserved:
            libc.munmap(reserved, start - reserved)
        libc.munmap(start + length, reserved + UNIT - start)

"""Touches pages of the region before anybody needs them, in a thread that works only while no task runs.

First touch runs at 0.3-1.5 GB/s and writing into pages that exist at 20; so the pages just above the
allocator's high-water mark are made ahead, a step at a time, within a bound in bytes and a quarter of the
memory that is available. They are huge pages where these can be had (`shoal.store.hugepages`). The madvise
call goes through ctypes, which releases the GIL: the daemon's loop does not notice it.

Low priority alone is not enough: processes that poll for a message yield the processor, and would yield it to this thread
for milliseconds at a time (a task's round trip took 100 µs instead of 35). So it stops while workers are leased.

When the node has been calm for a while, what objects have lain in and is of small pages gets huge ones, a unit at a time
(`HugePages.mend`): by itself no page changes any more.

Pages that nobody needed for a while are given back, and made again when the mark moves. The daemon's loop does that itself: it
alone moves the mark, so nobody can be given a page that is just going. They go by whole units of huge pages, and the one in which
the mark lies stays, like all that objects once lay in: it is used again first.

Where the kernel has no such call (Linux before 5.14, other systems) nothing is populated, and nothing breaks.
"""

from __future__ import annotations

import ctypes
import logging
import math
import mmap
import os
import threading
import time
from collections.abc import Callable

from shoal.store.hugepages import UNIT, HugePages
from shoald.store.memory import memory_available

_MADV_POPULATE_WRITE = 23
_MADV_REMOVE = 9
_GIVE_BACK_STEP = 64 * 1024**2  # some milliseconds, in which the loop does nothing else
_BUSY_LOOK_S = 0.05
_CALM_S = 1.0  # so long after the last turn of the daemon's loop small pages are mended
_AVAILABLE_SHARE = 4
_NICE = 19
_log = logging.getLogger(__name__)


class Populator:
    """The thread; started by the first `wake`, parked whenever there is nothing to do.

    Args:
        region: a mapping of all of it, for writing.
        ahead_max: bytes beyond the high-water mark that are populated, at most.
        available: says how much memory can still be taken, bytes.
        busy: says whether the processors have better things to do; asked on this thread.
        idle_s: pages that were not needed for this long are given back.
        calm_s: pages are mended so long after the last `wake`.

    Attributes:
        populated: the end of what is populated; 0 if nothing was.
    """

    def __init__(
        self,
        region: mmap.mmap,
        ahead_max: int,
        available: Callable[[], int] = memory_available,
        busy: Callable[[], bool] = lambda: False,
        idle_s: float = 30.0,
        calm_s: float = _CALM_S,
    ) -> None:
        self._busy = busy
        self._idle_s = idle_s
        self._calm_s = calm_s
        self._region = region  # kept in place
        self._address = ctypes.addressof(ctypes.c_char.from_buffer(region))
        self._capacity = len(region)
        self._ahead_max = ahead_max
        self._huge = HugePages(self._address)
        self._is_huge = bytearray(self._capacity // UNIT)  # by unit
        self._mended = 0  # units that were looked at since the mark moved last
        self._woken_at = 0.0
        self._available = available
        self._changed = threading.Condition()
        self._high_water = 0
        self._parked = True
        self._stepping = False
        self._closed = False
        self._refused = False
        self._seen = (0, 0)
        self._since = 0.0
        self._hurried = False
        self._remove = _madvise()
        self._thread: threading.Thread | None = None
        self.populated = 0

    def wake(self, high_water: int) -> None:
        """The node does something, and the allocator's high-water mark is ``high_water`` now. Cheap if it did not move.

        First called when the daemon has answered its first client: populating must not delay that.
        """
        self._woken_at = time.monotonic()
        if self._refused or (self._thread is not None and high_water <= self._high_water):
            return
        with self._changed:
            if self._closed:
                return
            self._high_water = max(high_water, self._high_water)
            self._mended = 0
            self._parked = False
            self._changed.notify_all()
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="shoal-populate", daemon=True)
                self._thread.start()

    def wait_parked(self, timeout_s: float) -> bool:
        """Wait until there is nothing to do; False after ``timeout_s`` seconds."""
        with self._changed:
            return self._changed.wait_for(lambda: self._parked, timeout_s)

    def close(self) -> None:
        """End the thread after its current step (some milliseconds). May be repeated."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
            thread, self._thread = self._thread, None
        if thread is not None:
            thread.join()

    def hurry(self) -> None:
        """Memory is short: `give_back` waits for nothing, until what is populated now is gone."""
        self._hurried = self._idle_s < math.inf

    def give_back(self, high_water: int, now: float) -> float | None:
        """Give idle pages back, some at a time. Called by the thread that moves the high-water mark.

        Returns when to call again at the latest, in the clock of ``now`` (s); None if there is nothing to give back.
        """
        if self.populated <= high_water:
            self._hurried = False
            return None
        if self._seen != (high_water, self.populated):
            self._seen = (high_water, self.populated)
            self._since = now
        if now < self._since + self._idle_s and not self._hurried:
            return self._since + self._idle_s
        with self._changed:
            self._parked = True  # it may have paused in the middle
            if self._stepping:
                return now + _BUSY_LOOK_S
            first = -(-high_water // UNIT) * UNIT  # the huge page in which the mark may lie stays
            start = max(first, (self.populated - _GIVE_BACK_STEP) // UNIT * UNIT)
            size = self.populated - start
            if size > 0 and self._remove(self._address + start, size, _MADV_REMOVE) != 0:
                _log.info("idle pages of the store stay: madvise: %s", os.strerror(ctypes.get_errno()))
                self._since = now
                self._hurried = False
                return now + self._idle_s
            self._is_huge[start // UNIT :] = bytes(len(self._is_huge) - start // UNIT)
            self.populated = start if start > first else high_water
            self._seen = (high_water, self.populated)
        return now if self.populated > high_water else None

    def _run(self) -> None:
        _be_nice()
        madvise = _madvise()
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._closed or not self._parked, self._calm_in())
                if self._closed:
                    return
                mends = self._parked
                if mends and self._calm_in() != 0:
                    continue
                if self._busy():
                    self._changed.wait(self._calm_s if mends else _BUSY_LOOK_S)
                    continue
                high_water = self._high_water
                self._stepping = not mends
            if mends:
                self._mend(high_water)
                continue
            more = self._step(high_water, madvise)
            with self._changed:
                self._stepping = False
                if not more and (self._refused or self._high_water == high_water):
                    self._parked = True
                    self._changed.notify_all()

    def _calm_in(self) -> float | None:
        """Seconds, until the next unit is to be mended; None if there is none."""
        if self._mended >= self._high_water // UNIT or self._huge.stopped:
            return None
        return max(0.0, self._woken_at + self._calm_s - time.monotonic())

    def _mend(self, high_water: int) -> None:
        """See to it that one more of the units below the mark is of a huge page, if it can be."""
        end = high_water // UNIT
        unit = self._is_huge.find(False, self._mended, end)
        if unit >= 0 and self._available() // _AVAILABLE_SHARE >= UNIT:
            self._is_huge[unit] = self._huge.mend(unit * UNIT)
            end = unit + 1
        with self._changed:
            if self._high_water == high_water:
                self._mended = end

    def _step(self, high_water: int, madvise: Callable[[int, int, int], int]) -> bool:
        """Populate the next piece, to the end of a unit; False when there is none within the bounds."""
        start = max(self.populated, high_water)
        end = min(self._capacity, (start // UNIT + 1) * UNIT)
        size = end - start
        if self._refused or size <= 0 or end > high_water + self._ahead_max:
            return False
        ahead = start - high_water
        if (ahead + self._available()) // _AVAILABLE_SHARE < ahead + size:
            return False
        if size == UNIT and self._huge.make(start):
            self._is_huge[start // UNIT] = True
            self.populated = end
            return True
        # Down to a page: madvise wants a page's address, and the high-water mark is any multiple of 64.
        address = self._address + start
        below = address % os.sysconf("SC_PAGE_SIZE")
        if madvise(address - below, size + below, _MADV_POPULATE_WRITE) != 0:
            error = os.strerror(ctypes.get_errno())
            _log.info("pages of the store are not populated ahead of demand: madvise: %s", error)
            self._refused = True
            return False
        self.populated = end
        return True


def _be_nice() -> None:
    """Lowest priority for this thread alone; on Linux a thread has a nice value of its own."""
    if hasattr(os, "setpriority"):
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICE)


def _madvise() -> Callable[[int, int, int], int]:
    function = ctypes.CDLL(None, use_errno=True).madvise
    function.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    function.restype = ctypes.c_int

    def madvise(address: int, size: int, advice: int) -> int:
        return int(function(address, size, advice))

    return madvise

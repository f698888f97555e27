"""Whether memory of this process was written since a moment, as the kernel knows it (Linux 6.7): 0.02 ms for 200 MB in huge
pages, 0.6 in small ones, where a hash of them takes 6.

Pages are write-protected through a userfaultfd that nobody reads: with `WP_ASYNC` the kernel itself resolves the fault of the
first write to a page, which leaves a mark, and `PAGEMAP_SCAN` says which pages have no mark. All ways to write count: by any
thread, by the kernel for a system call (`read` into the array), by another process (`process_vm_writev`). It errs to the other
side only: what is unmapped, moved, discarded (`MADV_DONTNEED`), swapped out or being moved by the kernel counts as written. A
mapping that took the place of another one is not registered, which the scan refuses. Splitting a huge page copies its marks;
small ones are not joined by the kernel while they are protected.

What does not go through this process's page tables is not seen, so such memory is not tracked:

- what others map as well: only private memory that is in no file is taken;
- what devices write. That needs memory that was pinned for them: none is tracked where there are GPUs or InfiniBand
  (`_DEVICES`), nor while this process has an io_uring (its registered buffers). What remains is an asynchronous direct read
  that is under way while its target is passed to `.remote()`, and so has no defined content yet: its end is not seen.

The descriptors are about the memory of the process that opened them, also in a child that inherits them: there nothing is
asked. Where anything of this is missing (an older kernel, a filter of system calls, another system), `open_tracker` gives None.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import mmap
import os
import platform
import struct
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

from shoal import libc

from .tracked import TrackedRanges

PAGE_BYTES = mmap.PAGESIZE
_SYSCALLS = {"x86_64": 323, "aarch64": 282}
_USER_MODE_ONLY = 1
_API = 0xAA
_FEATURES = 1 << 15 | 1 << 13  # WP_ASYNC, WP_UNPOPULATED
_MODE_WP = 2
# Requests of ioctl: userfaultfd's, and the scan of a pagemap.
_UFFDIO_API = 0xC018AA3F
_UFFDIO_REGISTER = 0xC020AA00
_UFFDIO_UNREGISTER = 0x8010AA01
_UFFDIO_WRITEPROTECT = 0xC018AA06
_PAGEMAP_SCAN = 0xC0606610
_SCAN_ARG = struct.Struct("12Q")
_WORDS_PER_REGION = 3  # start, end, categories
_CHECK_WPASYNC = 2
_WRITTEN, _FILE, _PRESENT = 2, 4, 8
# Written places that are counted; more are as good as all.
_PLACES_MAX = 64
# What writes to memory that was pinned for it, below /dev.
_DEVICES = ("accel*", "dri/renderD*", "infiniband", "kfd", "neuron*", "nvidia*")
_DESCRIPTORS_MAX = 1024  # with more of them it is not looked whether one is an io_uring: there may be one
_CLOSE_S = 1.0
_syscall = libc.function("syscall", ctypes.c_long, ctypes.c_long, ctypes.c_long)


class WriteTracker:
    """The ranges of this process that are tracked. From any thread; one that finds it in use by another one gets no answer.

    So it is safe in signal handlers, which may come while their thread is in here.

    Args:
        descriptor: a userfaultfd with `_FEATURES`; closed by `close`.
        pagemap: this process's; likewise.
        ranges_max: beyond, what was asked about longest ago is not tracked any more.
    """

    def __init__(self, descriptor: int, pagemap: int, ranges_max: int) -> None:
        self._descriptor = descriptor
        self._pagemap = pagemap
        self._pid = os.getpid()
        self._ranges = TrackedRanges(ranges_max)
        self._busy = threading.Lock()
        self._regions = (ctypes.c_uint64 * (_WORDS_PER_REGION * _PLACES_MAX))()

    def protect(self, start: int, end: int) -> int | None:
        """Track a range from now on; the number to ask with, None if it cannot be.

        Args:
            start, end: addresses, multiples of a page. What is tracked there ends.
        """
        with self._alone() as alone:
            if not alone:
                return None
            gone = self._ranges.make_room(start, end)
            for other in gone:
                if other != (start, end):
                    self._unregister(*other)
            try:
                # Before it is registered: the mappings of others are to stay as they are.
                if _has_io_uring() or not self._is_all(start, end, _PRESENT, _FILE, 0):
                    return None
                self._control(_UFFDIO_REGISTER, "4Q", start, end - start, _MODE_WP, 0)
                self._control(_UFFDIO_WRITEPROTECT, "3Q", start, end - start, 1)
            except OSError:
                self._unregister(start, end)  # this memory cannot be tracked: no failure, but the answer
                return None
            return self._ranges.add(start, end)

    def unwritten(self, token: int) -> bool | None:
        """Whether a range surely has not been written since it is tracked; None if it cannot be asked at this moment."""
        with self._alone() as alone:
            if not alone:
                return None
            found = self._ranges.find(token)
            try:
                return found is not None and self._is_all(*found, _PRESENT, _WRITTEN, _CHECK_WPASYNC)
            except OSError:
                return False  # another mapping is there now

    def pages_written(self, token: int) -> int | None:
        """How many pages of a tracked range were written, or are not there; None if not known, or in too many places."""
        with self._alone() as alone:
            found = self._ranges.find(token) if alone else None
            if found is None:
                return None
            wanted = (_PRESENT, 0, _PRESENT | _WRITTEN)  # not present, or written
            try:
                count = self._scan(*found, _CHECK_WPASYNC, wanted, _PLACES_MAX)
            except OSError:
                return None
            if count >= _PLACES_MAX:
                return None
            words = self._regions[: count * _WORDS_PER_REGION]
            return (
                sum(words[1::_WORDS_PER_REGION]) // PAGE_BYTES - sum(words[::_WORDS_PER_REGION]) // PAGE_BYTES
            )

    def release(self, token: int) -> bool:
        """Track a range no more; False if that has to be tried again."""
        with self._alone() as alone:
            found = self._ranges.remove(token) if alone else None
            if found is not None:
                self._unregister(*found)
            return alone or os.getpid() != self._pid

    def close(self) -> None:
        """Track nothing any more. In a child of the process only its copies of the descriptors are closed. Idempotent."""
        mine = os.getpid() == self._pid
        locked = mine and self._busy.acquire(timeout=_CLOSE_S)
        try:
            for found in self._ranges.clear() if mine else ():
                self._unregister(*found)  # a child that was forked may keep the other copy of the descriptor
            for descriptor in {self._descriptor, self._pagemap} - {-1}:
                os.close(descriptor)
            self._descriptor = self._pagemap = -1
        finally:
            if locked:
                self._busy.release()

    @contextlib.contextmanager
    def _alone(self) -> Iterator[bool]:
        if self._pid != os.getpid() or not self._busy.acquire(blocking=False):
            yield False
            return
        try:
            yield self._descriptor >= 0
        finally:
            self._busy.release()

    def _is_all(self, start: int, end: int, those: int, not_those: int, flags: int) -> bool:
        """Whether each page from ``start`` to ``end`` is in all categories of ``those`` and in none of ``not_those``."""
        found = self._scan(start, end, flags, (not_those, those | not_those, 0), 1)
        return found == 1 and (self._regions[0], self._regions[1]) == (start, end)

    def _scan(self, start: int, end: int, flags: int, wanted: tuple[int, int, int], regions_max: int) -> int:
        """Fill `_regions` with the pages that are wanted: (categories that are inverted, all of these, any of these)."""
        regions = ctypes.addressof(self._regions)
        argument = bytearray(
            _SCAN_ARG.pack(_SCAN_ARG.size, flags, start, end, 0, regions, regions_max, 0, *wanted, _PRESENT)
        )
        count: int = fcntl.ioctl(self._pagemap, _PAGEMAP_SCAN, argument)
        return count

    def _control(self, request: int, form: str, *values: int) -> None:
        fcntl.ioctl(self._descriptor, request, bytearray(struct.pack(form, *values)))

    def _unregister(self, start: int, end: int) -> None:
        with contextlib.suppress(OSError):  # it was not registered, or is no longer mapped: that is as good
            self._control(_UFFDIO_UNREGISTER, "2Q", start, end - start)


def open_tracker(ranges_max: int) -> WriteTracker | None:
    """A tracker for this process; None where the kernel cannot do it, may not, or devices write to memory."""
    number = _SYSCALLS.get(platform.machine()) if sys.platform == "linux" and sys.maxsize > 2**32 else None
    if number is None or _syscall is None or ranges_max < 1 or devices_present(Path("/dev")):
        return None
    descriptor = _syscall(number, os.O_CLOEXEC | os.O_NONBLOCK | _USER_MODE_ONLY)
    if descriptor < 0:
        return None
    try:
        fcntl.ioctl(descriptor, _UFFDIO_API, bytearray(struct.pack("3Q", _API, _FEATURES, 0)))
        pagemap = os.open("/proc/self/pagemap", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        os.close(descriptor)
        return None
    tracker = WriteTracker(descriptor, pagemap, ranges_max)
    if _works(tracker):
        return tracker
    tracker.close()
    return None


def devices_present(folder: Path) -> bool:
    """Whether this machine has devices that write to memory of processes behind their page tables. ``folder``: /dev."""
    return any(next(folder.glob(pattern), None) is not None for pattern in _DEVICES)


def _works(tracker: WriteTracker) -> bool:
    """Whether it sees a write, and none where there was none: some kernels may know the requests, and not what they mean."""
    with mmap.mmap(-1, 2 * PAGE_BYTES, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as memory:
        memory[:] = bytes(2 * PAGE_BYTES)
        view = ctypes.c_char.from_buffer(memory)
        start = ctypes.addressof(view)
        del view
        token = tracker.protect(start, start + 2 * PAGE_BYTES)
        if token is None or tracker.unwritten(token) is not True:
            return False
        memory[PAGE_BYTES] = 1
        works = tracker.unwritten(token) is False and tracker.pages_written(token) == 1
        return tracker.release(token) and works


def _has_io_uring() -> bool:
    """Whether this process may have one."""
    names = os.listdir("/proc/self/fd")
    return len(names) > _DESCRIPTORS_MAX or any(map(_is_io_uring, names))


def _is_io_uring(name: str) -> bool:
    try:
        return os.readlink(f"/proc/self/fd/{name}") == "anon_inode:[io_uring]"
    except FileNotFoundError:
        return False  # closed meanwhile, as that of the listing is

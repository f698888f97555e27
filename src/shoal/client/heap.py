"""Freed memory is kept for the next allocations instead of being returned to the system and faulted in again.

A driver: a shuffle of small parts allocates and frees ten megabytes a round; with glibc's defaults the heap shrank and grew each
time, 2,500 page faults and a tenth of the time. When a large block is freed, glibc raises its thresholds: blocks up to that size
come from the heap from then on, and twice that may stay free at the heap's end. So one block that is allocated and freed
untouched does it, in some microseconds; with another allocator it does nothing.

A worker: the arrays that one task makes and drops are the next one's. Mapped and unmapped each time, as glibc does with blocks
over 32 MB, an array of 100 MB costs 4 ms of zeroed huge pages, or 20 ms where there are none; `numpy.ones` itself takes 4. So
a worker keeps more, and gives all of it back when it has been idle for a while.
"""

from __future__ import annotations

import ctypes
import time

from shoal import libc

_LARGEST = 32 * 1024**2  # glibc does not go beyond by itself
_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3
_M_ARENA_MAX = -8
# Processor time that makes a process active, if it was used within that time.
_ACTIVE_S, _WINDOW_S = 0.01, 0.5
_mallopt = libc.function("mallopt", ctypes.c_int, ctypes.c_int, ctypes.c_int)
_malloc_trim = libc.function("malloc_trim", ctypes.c_int, ctypes.c_size_t)


def keep_freed_memory(limit_bytes: int) -> None:
    """Let this process keep up to ``limit_bytes`` of freed memory at the end of its heap."""
    bytes(min(limit_bytes // 2, _LARGEST))  # zeroed by the system, and so never touched


def keep_arrays_of_tasks(limit_bytes: int) -> None:
    """Let this process and its forks keep up to ``limit_bytes``, of blocks up to that size; without glibc nothing happens."""
    if _mallopt is not None and limit_bytes:
        _mallopt(_M_MMAP_THRESHOLD, min(limit_bytes, 2**31 - 1))
        _mallopt(_M_TRIM_THRESHOLD, min(limit_bytes, 2**31 - 1))


def share_one_arena() -> None:
    """Let all threads of this process allocate from one heap; to be called before there are any.

    Else each has one of its own that keeps what it has freed: 3 MB in a daemon, whose head is imported by one thread and run
    by two others. What is allocated without the GIL is little there.
    """
    if _mallopt is not None:
        _mallopt(_M_ARENA_MAX, 1)


def give_back() -> None:
    """Return the free pages of this process's heap to the system; without glibc nothing happens."""
    if _malloc_trim is not None:
        _malloc_trim(0)


class IdleHeap:
    """Gives the freed memory of one process back when that has used no processor time for ``idle_s`` seconds."""

    def __init__(self, idle_s: float) -> None:
        self._idle_s = idle_s
        self._used = 0.0
        self._used_at = 0.0
        self._since = 0.0
        self._kept = False
        self._trim = _malloc_trim

    def look(self, now: float) -> bool:
        """Called from time to time; ``now`` in s of any steady clock. Whether something is kept."""
        used = time.process_time()
        if used - self._used > _ACTIVE_S:
            self._used, self._used_at = used, now
            self._since = now
            self._kept = self._trim is not None
        elif self._kept and now - self._since >= self._idle_s:
            self._kept = False
            self._trim(0)
            self._used, self._used_at = time.process_time(), now
        elif now - self._used_at >= _WINDOW_S:
            # What an idle process uses to wake up and look must not add up, or it would trim again and again.
            self._used, self._used_at = used, now
        return self._kept

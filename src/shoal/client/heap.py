"""Freed memory is kept for the next allocations instead of being returned to the system and faulted in again.

A shuffle of small parts allocates and frees ten megabytes a round; with glibc's defaults the heap shrank and grew each time,
2,500 page faults and a tenth of the driver's time. When a large block is freed, glibc raises its thresholds: blocks up to
that size come from the heap from then on, and twice that may stay free at the heap's end. So one block that is allocated and
freed untouched does it, in some microseconds; with another allocator it does nothing.
"""

from __future__ import annotations

_LARGEST = 32 * 1024**2  # glibc does not go beyond


def keep_freed_memory(limit_bytes: int) -> None:
    """Let this process, and those forked from it, keep up to ``limit_bytes`` of freed memory at the end of its heap."""
    bytes(min(limit_bytes // 2, _LARGEST))  # zeroed by the system, and so never touched

"""On which processors the threads of a process run, where the kernel sees too little to choose well.

A processor of a virtual machine that has nothing to do sleeps, and counts as one that the host has taken away: the kernel wakes
no thread there. So a thread that was just started, or woken, stays where its starter or waker goes on running, and waits for 1
to 3 ms until somebody looks for work. Where the system has no such calls, or forbids them, nothing is done.
"""

from __future__ import annotations

import ctypes
import os

from shoal import libc

_current = libc.function("sched_getcpu", ctypes.c_int)
POSSIBLE = _current is not None and hasattr(os, "sched_setaffinity")


def current() -> int:
    """The processor that this thread runs on; -1 where that cannot be told."""
    return _current() if POSSIBLE else -1


def confine(places: set[int]) -> None:
    """Have this thread run on these processors only, where that is `POSSIBLE`."""
    try:
        if os.sched_getaffinity(0) != places:
            os.sched_setaffinity(0, places)
    except OSError:
        pass  # a processor has gone meanwhile, or it is forbidden: then the kernel chooses


def leave(place: int) -> None:
    """Move this thread off this processor, if it is there and may run on another one; it may come back."""
    if place < 0 or current() != place:
        return
    try:
        places = os.sched_getaffinity(0)
        others = places - {place}
        if others:
            os.sched_setaffinity(0, others)
            os.sched_setaffinity(0, places)
    except OSError:
        pass  # as above

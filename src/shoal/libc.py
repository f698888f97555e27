"""Functions of the C library, each found once per process: at the import of what calls it, before the fork server forks.

`ctypes.CDLL(None)` makes classes of its own: 0.1 ms, and 50 pages that a forked worker would have for itself.
"""

from __future__ import annotations

import ctypes
from typing import Any

_libc = ctypes.CDLL(None, use_errno=True)


def function(name: str, result: Any, *arguments: Any) -> Any:
    """A function with the types of its result and arguments; None where the library has it not."""
    try:
        found = _libc[name]  # another object each time, whose types are nobody else's
    except AttributeError:
        return None
    found.restype = result
    found.argtypes = arguments
    return found


# At a given address, or without a descriptor that stays: what the module of that name has not.
mmap = function(
    "mmap",
    ctypes.c_void_p,
    *(ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_int64),
)
munmap = function("munmap", ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t)
FAILED: int = ctypes.c_void_p(-1).value or -1  # what mmap returns then

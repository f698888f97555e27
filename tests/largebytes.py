"""Bytes of more than 2 GiB that cost next to nothing to make: pages that nobody has written need no memory."""

import ctypes

MIB = 1024 * 1024


def large_bytes(size, end):
    """``size`` bytes that end with ``end``: zeros, but for the position of each MiB at its beginning.

    So each part can be told from any other, and from memory that nobody has written. Filled one by one they take seconds.
    """
    made = bytes(size)  # the kernel's one page of zeros, again and again
    # Written in place: nobody else has seen the object yet, and its hash is not known.
    first = id(made) + bytes.__basicsize__ - 1
    for position in range(0, size - 8, MIB):
        ctypes.memmove(first + position, position.to_bytes(8, "big"), 8)
    ctypes.memmove(first + size - len(end), end, len(end))
    return made

"""The checksum of an object in a spill file.

That of a large one is made of those of its two halves, so that two threads can read it and check it at the same time: 100 MB
out of the page cache in 5 ms instead of 8.
"""

from __future__ import annotations

import os

from shoal.parallel import Parallel

_HALVES_MIN = 16 * 1024**2
_ALIGNMENT = 4096
_PIECE = 512 * 1024  # what stays in a core's cache between the copy and the sum
_sums = Parallel()


def half(size: int) -> int:
    """Where the second half of an object of ``size`` bytes begins; 0 if it has none."""
    return size // 2 // _ALIGNMENT * _ALIGNMENT if size >= _HALVES_MIN else 0


def joined(first: int, second: int) -> int:
    """The checksum of an object, from the xxh3-64 of its halves."""
    from xxhash import xxh3_64_intdigest

    return int(xxh3_64_intdigest(first.to_bytes(8, "big") + second.to_bytes(8, "big")))


def checksum(content: memoryview) -> int:
    """The checksum of an object, all of whose bytes are there."""
    from xxhash import xxh3_64_intdigest

    middle = half(len(content))
    if not middle:
        return int(xxh3_64_intdigest(content))
    sums: dict[int, int] = {}

    def add(start: int, end: int) -> None:
        sums[start] = xxh3_64_intdigest(content[start:end])

    _sums.run(len(content), add, [(0, middle), (middle, len(content))])
    return joined(sums[0], sums[middle])


def of_file(fd: int, size: int) -> int | None:
    """The checksum of the object that a file begins with; None if the file is too short. By this thread. Raises OSError."""
    from xxhash import xxh3_64

    middle = half(size)
    buffer = memoryview(bytearray(min(size, _PIECE)))
    sums = []
    for start, end in ((0, middle), (middle, size)) if middle else ((0, size),):
        run = xxh3_64()
        at = start
        while at < end:
            count = os.preadv(fd, [buffer[: end - at]], at)
            if not count:
                return None
            run.update(buffer[:count])
            at += count
        sums.append(run.intdigest())
    return joined(*sums) if middle else sums[0]

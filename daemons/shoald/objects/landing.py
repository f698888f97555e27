"""Chunks that are received into files: how they get there, and the checksum of all of them. For the receiving threads.

Nothing can make a thread come back that writes to, or reads from, a file system that hangs. So each of that is done by a thread
of its own (`FileWork`), which is left behind when it has used no processor time for a while; the connection goes on with
other objects. It is never needed again: the file is given up, and goes back when that thread ends.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from shoal.store.checksums import half, joined
from shoal.store.filecopies import FileWork
from shoald.objects.pulls import STALLED, UNWRITTEN
from shoald.store.allocator import round_up

if TYPE_CHECKING:
    from collections.abc import Callable

_STEP = 2 * 1024**2  # a slow disk shows that it takes something each time


def write_piece(
    path: str, offset: int, chunk: memoryview, patience_s: float
) -> tuple[int, str, FileWork | None]:
    """Write a chunk to a lent file: (0, or UNWRITTEN or STALLED with the reason; what is left behind hanging)."""

    def write() -> None:
        fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            done = 0
            while done < len(chunk):
                done += os.pwrite(fd, chunk[done : done + _STEP], offset + done)
        finally:
            os.close(fd)

    return _bounded(write, path, patience_s)


def sum_file(path: str, size: int, patience_s: float) -> tuple[int, str, FileWork | None]:
    """The checksum of all ``size`` bytes of a lent file, which is padded like any object in a file; or as `write_piece`."""
    found = 0

    def work() -> None:
        nonlocal found
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        try:
            os.posix_fallocate(fd, 0, round_up(size))
            middle = half(size)
            first = _sum(fd, 0, middle)
            rest = _sum(fd, middle, size)
            found = joined(first, rest) if middle else rest
        finally:
            os.close(fd)

    failed, reason, hanging = _bounded(work, path, patience_s)
    return failed or found, reason, hanging


def _sum(fd: int, start: int, end: int) -> int:
    import xxhash  # here: a node that is alone does without

    digest = xxhash.xxh3_64()
    while start < end:
        piece = os.pread(fd, min(_STEP, end - start), start)
        if not piece:
            raise OSError(f"it ends at {start} instead of {end}")
        digest.update(piece)
        start += len(piece)
    return int(digest.intdigest())


def _bounded(work: Callable[[], None], path: str, patience_s: float) -> tuple[int, str, FileWork | None]:
    try:
        working = FileWork(work)
    except RuntimeError as error:  # no more threads
        return UNWRITTEN, f"{path}: {error}", None
    if not working.wait(patience_s):
        return STALLED, f"{path} has taken nothing for {patience_s:g} s (does its file system hang?)", working
    problem = working.error
    if problem is None:
        return 0, "", None
    if not isinstance(problem, OSError):
        raise problem
    return UNWRITTEN, f"{path}: {problem.strerror or problem}", None

"""Objects that their creators write to files, because the region has no room for them.

New pages are written through the descriptor, which needs not read or zero them first: 100 MB in 40 ms instead of 73. Those that
the page cache has are written by two threads, one through the descriptor and one through a mapping: two of the first kind wait
for each other, and two of the second take a fault at each page that the kernel has written to the disk meanwhile (12 ms for
100 MB; 13 to 30 by two, and 22 by one of the first). Such a fault first takes a page of 2 MiB apart, and interrupts the other
thread for it; so at the first one the others are all unmapped at once, which saves a fifteenth of the whole.

Files are written over again and again (`shoald.store.spares`): the mappings of those that this process has written are kept for a
while, since the first write to each of their pages takes as long as the copy.
"""

from __future__ import annotations

import ctypes
import os
import resource
import threading
from collections import OrderedDict
from typing import TYPE_CHECKING, TypeAlias

from shoal import libc
from shoal.parallel import BYTES_MIN, in_threads, processors
from shoal.store import checksums, proofs
from shoal.store.copying import copy_blocks
from shoal.store.filecopies import FileWork, Pages

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    from numpy.typing import NDArray

    from shoal.serialization import Serialized

    Bytes: TypeAlias = NDArray[np.uint8]

_ALIGNMENT = 64
# Bytes of one pwrite. At multiples of it the page cache gets its largest pieces, whose pages cost a third when they are written
# again after the kernel has written them to the disk.
_STEP = 4 * 1024**2
# What one of two threads takes at a time, at multiples of it in the file: what the page cache has as 2 MiB is mapped by one
# fault. (The last 1.4 MB of a file of 100 MB took 350, half of all the time that its mapping cost.) Pieces of 2 MiB are a tenth
# slower: after each the thread needs the GIL.
_PIECE = 4 * 1024**2
_KEPT_BYTES_MAX = 4 * 1024**3
_MADV_DONTNEED = 4
_MADV_DONTFORK = 10
_MADV_POPULATE_WRITE = 23
_madvise = libc.function("madvise", ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)


def write_copy(path: str, value: Serialized, sum_later: bool = False) -> int:
    """Write a value into a file that was made for it.

    Returns the proof that it is there, see `proofs`; ``sum_later``: its checksum need not be known yet.
    Raises OSError, also if the disk is full.
    """
    size = -(-value.size // _ALIGNMENT) * _ALIGNMENT or _ALIGNMENT
    fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        is_new = os.fstat(fd).st_size < size
        # Now, not at the touch of a page: that would end this process where the disk is full.
        os.posix_fallocate(fd, 0, size)
        window = windows.take(fd, size)
        value.write_into(window, _into(fd, window) if is_new else _over(fd, window))
        if is_new and _madvise is not None:
            _madvise(window.ctypes.data, size, _MADV_POPULATE_WRITE)  # for the next time
        proof = proofs.by_time(fd) if sum_later and value.size >= proofs.BYTES_MIN else None
        if proof is None:
            proof = checksums.checksum(window[: value.size].data)
        windows.keep(fd, window)
        return proof
    finally:
        os.close(fd)


class Windows:
    """Mappings of whole files to write to, those of a moment ago, by the file: while it is mapped its number is its own."""

    def __init__(self, bytes_max: int = _KEPT_BYTES_MAX) -> None:
        self._bytes_max = bytes_max
        self._lock = threading.Lock()
        self._kept: OrderedDict[tuple[int, int], Bytes] = OrderedDict()
        self._bytes = 0

    def take(self, fd: int, size: int) -> Bytes:
        """A mapping of this file, at least of its first ``size`` bytes; nobody else gets it until it is kept. Raises OSError."""
        window = self._pop(_key(fd))
        return window if window is not None and window.size >= size else _map(fd)

    def keep(self, fd: int, window: Bytes) -> None:
        """This file may be written over soon."""
        if window.size < BYTES_MIN:
            return  # it is not worth a mapping
        key = _key(fd)
        self._pop(key)
        with self._lock:
            self._kept[key] = window
            self._bytes += window.size
        while self._bytes > self._bytes_max:
            self._pop()

    def _pop(self, key: tuple[int, int] | None = None) -> Bytes | None:
        """That of one file, or the oldest, which is not kept any more; it goes when the caller lets go of it."""
        with self._lock:
            if key is None and self._kept:
                key = next(iter(self._kept))
            window = None if key is None else self._kept.pop(key, None)
            self._bytes -= 0 if window is None else window.size
            return window

    def __bool__(self) -> bool:
        return bool(self._kept)

    def drop(self) -> None:
        """Unmap all: the place on the disk of those that were removed meanwhile is free."""
        with self._lock:
            dropped, self._kept, self._bytes = self._kept, OrderedDict(), 0
        dropped.clear()


windows = Windows()


def _key(fd: int) -> tuple[int, int]:
    stat = os.fstat(fd)
    return stat.st_dev, stat.st_ino


def _map(fd: int) -> Bytes:
    import numpy as np

    window: Bytes = np.asarray(Pages(fd, writes=True))
    if _madvise is not None:
        # A child would keep removed files on the disk.
        _madvise(window.ctypes.data, window.size, _MADV_DONTFORK)
    return window


def _into(fd: int, window: Bytes) -> Callable[[Bytes, Bytes], None]:
    """How to write to the parts of ``window``, the mapping of the whole file, through the descriptor."""
    begin = window.ctypes.data
    return lambda target, source: _write(fd, source.data, target.ctypes.data - begin)


def _over(fd: int, window: Bytes) -> Callable[[Bytes, Bytes], None]:
    """The same, also through ``window``, for a file that has these pages."""
    begin = window.ctypes.data

    def copy(target: Bytes, source: Bytes) -> None:
        if source.size < BYTES_MIN or processors() == 1:
            copy_blocks(target, source)
            return
        start = target.ctypes.data - begin
        pieces = _Pieces(start, start + source.size)

        def write() -> None:
            for at, end in iter(pieces.first, None):
                _write(fd, source.data[at - start : end - start], at)

        def assign() -> None:
            before = _faults()
            for number, (at, end) in enumerate(iter(pieces.last, None)):
                copy_blocks(window[at:end], source[at - start : end - start])
                if number == 0 and _madvise is not None and _faults() > before:
                    _madvise(begin, at, _MADV_DONTNEED)  # what lies before it; the file keeps it

        in_threads([write, assign])

    return copy


def _write(fd: int, data: memoryview, start: int) -> None:
    done = 0
    while done < len(data):
        at = start + done
        done += os.pwrite(fd, data[done : done + _STEP - at % _STEP], at)


def _faults() -> int:
    """Of this thread, until now."""
    return resource.getrusage(resource.RUSAGE_THREAD).ru_minflt


class _Pieces:
    """The parts of the bytes [start, end) of a file: whole pieces of it, for two threads that begin at their ends, and the rests
    before and after them.
    """

    def __init__(self, start: int, end: int) -> None:
        self._lock = threading.Lock()
        self._begin = min(end, -(-start // _PIECE) * _PIECE)
        self._end = max(self._begin, end // _PIECE * _PIECE)
        self._rests = [rest for rest in ((start, self._begin), (self._end, end)) if rest[0] < rest[1]]

    def first(self) -> tuple[int, int] | None:
        """A rest, or the first whole piece that is left; None if there is none."""
        with self._lock:
            if self._rests:
                return self._rests.pop()
            begin = self._begin
            self._begin = min(self._end, begin + _PIECE)
            return (begin, self._begin) if begin < self._begin else None

    def last(self) -> tuple[int, int] | None:
        """The last whole piece that is left."""
        with self._lock:
            end = self._end
            self._end = max(self._begin, end - _PIECE)
            return (self._end, end) if self._end < end else None


class FileWrite(FileWork):
    """`write_copy`, as such a work.

    Attributes:
        proof: that it was written, once it has ended without an error.
    """

    def __init__(self, path: str, value: Serialized, sum_later: bool = False) -> None:
        self.proof = 0

        def write() -> None:
            self.proof = write_copy(path, value, sum_later)

        super().__init__(write)

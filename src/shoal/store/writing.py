"""Copies into the region, and what this process knows of the pages it writes to.

The first write to a page costs more than its bytes, in three ways (measured, per GB):

    the page does not exist        0.69 s by copying into the mapping, 0.40 by `pwrite`, which neither zeroes nor faults,
                                   0.10 as a huge page (`shoal.store.hugepages`), in whose place there is nothing yet
    it exists, and is not mapped   0.37 s by copying (a fault per page), 0.27 by mapping many at once first
    it is mapped                   0.05 s

So a large copy asks the kernel where the holes of the file are, has huge pages made in them, writes what is left of them
through the descriptor, maps the others at once, and remembers by chunk what is mapped: the usual copy, into pages that were
written before, asks nothing. What is remembered may be out of date, since others give pages back; then the copy only takes
longer. Everything is done by the caller's thread, without the GIL; when two write new pages, one does so through the mapping,
where they do not wait for each other. Where the platform lacks something, the mapping does it all.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import sys
import threading
from typing import TYPE_CHECKING, TypeAlias

from shoal import libc
from shoal.lazynumpy import np
from shoal.store.copying import copy_large
from shoal.store.hugepages import UNIT, HugePages

if TYPE_CHECKING:
    from numpy.typing import NDArray

Bytes: TypeAlias = "NDArray[np.uint8]"

COPY_BYTES_MIN = 1024**2  # smaller copies are not worth a question
_CHUNK = 1024**2
_MAPPED_SHARE = 16  # all but one in so many chunks: at the joints of former copies one is left out
_STEP = 16 * 1024**2  # bytes of one pwrite, which a signal's handler has to wait for
_MADV_POPULATE_WRITE = 23
_PAGE = mmap.PAGESIZE
_madvise = libc.function("madvise", ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)


class Descriptor:
    """A duplicate of a descriptor, closed when nobody uses it any more: its number must not become another file's under a copy
    in another thread.
    """

    __slots__ = ("number",)

    def __init__(self, number: int) -> None:
        self.number = os.dup(number)

    def __del__(self) -> None:
        os.close(self.number)


class PageWriter:
    """The writing side of one region in one process.

    Args:
        descriptor: of the file, open for writing.
        window: the whole mapping of it.
        rewrites: this process will write to the same pages again and again: new ones are mapped at once, not by their second
            write. A worker's results are like that; a driver that puts its data once saves the mapping.
    """

    __slots__ = ("_address", "_descriptor", "_huge", "_mapped", "_rewrites", "_window", "_writing")

    def __init__(self, descriptor: Descriptor, window: Bytes, rewrites: bool = False) -> None:
        self._rewrites = rewrites
        self._window = window
        self._address = window.ctypes.data
        self._huge = HugePages(self._address)
        self._writing = threading.Lock()  # never waited for
        self._mapped = bytearray(window.size // _CHUNK)
        self._descriptor = descriptor if sys.platform.startswith("linux") else None

    def copy(self, target: Bytes, source: Bytes) -> None:
        """``target[:] = source``; the target is a part of the mapping. Raises OSError if there is no memory for its pages."""
        start = target.ctypes.data - self._address
        position, end = start, start + target.size
        while position < end:
            stop = self._end_of_mapped(position, end)
            if stop == position:
                stop = self._end_of_unmapped(position, end)
                self._write(position, source[position - start : stop - start])
            else:
                copy_large(self._window[position:stop], source[position - start : stop - start])
            position = stop

    def is_mapped(self, target: Bytes) -> bool:
        """Whether nearly all pages of a part of the mapping were mapped before, as far as is known."""
        start = target.ctypes.data - self._address
        first, last = -(-start // _CHUNK), (start + target.size) // _CHUNK
        mapped = self._mapped.count(1, first, last) if first < last else 0
        return mapped * _MAPPED_SHARE >= (last - first) * (_MAPPED_SHARE - 1)

    def prepare(self, target: Bytes) -> None:
        """Map the pages of a part of the mapping that are not, for somebody who writes to it bit by bit; new ones are huge pages
        while these are to be had.
        """
        position = target.ctypes.data - self._address
        end = position + target.size
        while position < end:
            stop = self._end_of_mapped(position, end)
            if stop == position:
                stop = self._end_of_unmapped(position, end)
                self._make(position, stop)
            position = stop

    def _end_of_mapped(self, position: int, end: int) -> int:
        """How far pages are mapped from ``position`` on; the ends of a copy, parts of chunks, take what they find."""
        first, last = -(-position // _CHUNK), end // _CHUNK
        if first >= last:
            return end
        unmapped = self._mapped.find(0, first, last)
        if unmapped < 0:
            return end
        return unmapped * _CHUNK if unmapped > first else position

    def _end_of_unmapped(self, position: int, end: int) -> int:
        last = end // _CHUNK
        mapped = self._mapped.find(1, -(-position // _CHUNK), last)
        return end if mapped < 0 else mapped * _CHUNK

    def _make(self, position: int, end: int) -> None:
        """Map pages, after huge ones were made in the holes."""
        while position < end:
            hole = self._seek(position, os.SEEK_HOLE, end)
            stop = self._seek(hole, os.SEEK_DATA, end) if hole < end else end
            unit = first = -(-hole // UNIT) * UNIT
            while unit + UNIT <= stop and self._make_huge(unit):
                unit += UNIT
            if unit > first:
                self._map(position, first)
                position = unit
            self._map(position, stop)
            position = stop

    def _make_huge(self, position: int) -> bool:
        """Make one huge page at ``position``, a multiple of `UNIT`; it is mapped then."""
        made = self._huge.make(position)
        if made:
            self._mapped[position // _CHUNK : (position + UNIT) // _CHUNK] = b"\1" * (UNIT // _CHUNK)
        return made

    def _write(self, position: int, source: Bytes) -> None:
        """Write where pages are not mapped: holes through the descriptor, the rest after it was mapped."""
        end = position + source.size
        done = 0
        while position < end:
            hole = self._seek(position, os.SEEK_HOLE, end)
            if hole > position:
                self._map(position, hole)
                stop = hole
                copy_large(self._window[position:stop], source[done : done + stop - position])
            else:
                stop = self._seek(position, os.SEEK_DATA, end)
                self._write_hole(position, source[done : done + stop - position])
            done += stop - position
            position = stop

    def _write_hole(self, start: int, source: Bytes) -> None:
        """Write where there are no pages: whole units as huge pages while these are to be had, the rest as small ones."""
        end = start + source.size
        first, last = -(-start // UNIT) * UNIT, end // UNIT * UNIT
        if first >= last or not self._huge.possible():
            self._write_small(start, source)
            return
        self._write_small(start, source[: first - start])
        position = first
        # One at a time: it was zeroed just now, and is in the cache.
        while position < last and self._make_huge(position):
            np.copyto(self._window[position : position + UNIT], source[position - start :][:UNIT])
            position += UNIT
        self._write_small(position, source[position - start :])

    def _write_small(self, start: int, source: Bytes) -> None:
        """Write to new small pages: through the descriptor, where the kernel lets in one thread at a time, else the mapping."""
        for done in range(0, source.size, _STEP):
            step = source[done : done + _STEP]
            position = start + done
            if self._writing.acquire(blocking=False):
                try:
                    self._write_out(position, step)
                finally:
                    self._writing.release()
                if self._rewrites:
                    self._map(position, position + step.size)
            else:
                np.copyto(self._window[position : position + step.size], step)

    def _seek(self, position: int, whence: int, end: int) -> int:
        """Where the next hole or data is; ``end`` if that is not before it, or if this file cannot tell."""
        descriptor = self._descriptor
        if descriptor is None:
            return end
        try:
            return min(os.lseek(descriptor.number, position, whence), end)
        except OSError as error:
            if error.errno != errno.ENXIO:  # otherwise: no data up to the end of the file
                self._descriptor = None
            return end

    def _map(self, start: int, end: int) -> None:
        """Map pages; those that do not exist become small ones."""
        below = start % _PAGE
        if _madvise(self._address + start - below, end - start + below, _MADV_POPULATE_WRITE) == 0:
            first, last = -(-start // _CHUNK), end // _CHUNK
            if first < last:
                self._mapped[first:last] = b"\1" * (last - first)

    def _write_out(self, position: int, source: Bytes) -> None:
        descriptor = self._descriptor
        data = source.data
        done = 0
        while done < len(data) and descriptor is not None:
            try:
                done += os.pwrite(descriptor.number, data[done:], position + done)
            except OSError as error:
                if error.errno != errno.EINVAL:
                    raise
                self._descriptor = descriptor = None  # a file that cannot be written to, as of huge pages
        np.copyto(self._window[position + done : position + len(data)], source[done:])

"""The node's shared memory, as one process sees it: a mapping to read from, and one to write through.

The two come from two descriptors. The reading one was opened read-only, so the kernel refuses a writable
mapping of it and any later upgrade; everything that user code sees lies over it. The writing one stays in
the runtime (R10), is not inherited by a fork (a child must not write where its parent writes), and is
written only within extents that the daemon leased to this process.

Mapping costs the same for any capacity: no page is touched before it is used. Nothing is ever unmapped under
a view: every array keeps the mapping that it lies over, and the last one to go unmaps it.

**Fork.** In the child the writing mapping is a hole that its owner still believes to be mapped: whatever the
child maps there next would be unmapped with it. So the first thing in the child is to fill the hole with
inaccessible memory; then writing raises, until `open_writer` (a worker after the fork server) maps anew.
"""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import os
import weakref
from typing import NamedTuple

from shoal import libc
from shoal.lazynumpy import np
from shoal.store.hugepages import map_aligned
from shoal.store.writing import COPY_BYTES_MIN, Bytes, Descriptor, PageWriter


class _Unused(NamedTuple):
    """A mapping for writing before its first use, which is when numpy is needed."""

    mapping: mmap.mmap
    descriptor: Descriptor
    rewrites: bool


class Region:
    """Both mappings of a region.

    Args:
        read_fd: opened read-only; stays the caller's to close, as does ``write_fd``.
        write_fd: opened for writing; None for a process that only reads.
        capacity: bytes to map, which both files must have.

    Raises OSError if a file cannot be mapped, and ValueError if one is shorter than ``capacity``.

    Attributes:
        capacity: bytes.
        mapping: the read-only mapping, to build arrays over (see `shoal.store.views`).
    """

    __slots__ = (
        "__weakref__",
        "_close_read_fd",
        "_read_fd",
        "_unused",
        "_writable",
        "_writable_at",
        "_writer",
        "capacity",
        "mapping",
    )

    def __init__(self, read_fd: int, write_fd: int | None, capacity: int) -> None:
        _check_size(read_fd, capacity)
        self.capacity = capacity
        self.mapping: mmap.mmap | None = map_aligned(read_fd, capacity, mmap.PROT_READ)
        self._read_fd = os.dup(read_fd)
        self._close_read_fd = weakref.finalize(self, os.close, self._read_fd)
        self._unused: _Unused | None = None
        self._writable: Bytes | None = None
        self._writable_at = 0  # address
        self._writer: PageWriter | None = None
        if write_fd is not None:
            self.open_writer(write_fd)

    def open_writer(self, write_fd: int, rewrites: bool = False) -> None:
        """Map for writing too, in a region that was opened for reading only or inherited by a fork.

        ``rewrites``: see `shoal.store.writing.PageWriter`.

        The descriptor stays the caller's to close. Raises OSError or ValueError like the constructor.
        """
        _check_size(write_fd, self.capacity)
        both = mmap.PROT_READ | mmap.PROT_WRITE
        mapping = map_aligned(write_fd, self.capacity, both)
        if hasattr(mmap, "MADV_DONTFORK"):
            mapping.madvise(mmap.MADV_DONTFORK)
            _regions.add(self)
        if hasattr(mmap, "MADV_HUGEPAGE"):
            # Takes effect where the system says "advise" for shared memory: 2 MiB at a first touch, and in a table of pages.
            with contextlib.suppress(OSError):  # a kernel without, or huge pages of the other kind
                mapping.madvise(mmap.MADV_HUGEPAGE)
        self._writable_at = ctypes.addressof(ctypes.c_char.from_buffer(mapping))
        self._writable = None
        self._unused = _Unused(mapping, Descriptor(write_fd), rewrites)

    def window(self, offset: int, size: int) -> Bytes:
        """Writable bytes [offset, offset + size) of an extent leased to this process; never for user code.

        Raises ValueError outside of the region, or if it was opened for reading only, is
        closed, or was inherited by a fork.
        """
        writable = self._writable
        if writable is None:
            writable = self._first_use()
        if offset < 0 or size < 0 or offset + size > self.capacity:
            raise ValueError(f"[{offset}, {offset + size}) is not within {self.capacity} bytes")
        return writable[offset : offset + size]

    def _first_use(self) -> Bytes:
        unused = self._unused
        if unused is None:
            if self._writable is not None:
                return self._writable  # another thread was here just now
            raise ValueError("the region is closed, inherited by a fork, or was opened for reading only")
        self._writable = writable = np.frombuffer(unused.mapping, np.uint8)
        self._writer = PageWriter(unused.descriptor, writable, unused.rewrites)
        self._unused = None  # last: another thread may be here too, and see the same
        return writable

    def copy(self, target: Bytes, source: Bytes) -> None:
        """``target[:] = source`` for a large part of a window; quicker where its pages are new (`shoal.store.writing`)."""
        writer = self._writer
        if writer is None or target.size < COPY_BYTES_MIN:
            np.copyto(target, source)
        else:
            writer.copy(target, source)

    def is_mapped(self, target: Bytes) -> bool:
        """Whether a window can be written to bit by bit with few faults."""
        writer = self._writer
        return writer is not None and writer.is_mapped(target)

    def prepare(self, target: Bytes) -> None:
        """Have a window mapped at once, for somebody who will write to it bit by bit."""
        writer = self._writer
        if writer is not None:
            writer.prepare(target)

    def private(self, address: int, size: int, source: object) -> Bytes | None:
        """Memory that starts as the ``size`` bytes at ``address`` of the reading mapping, and can be written.

        Pages are copied as they are written; the others stay the region's, so ``source`` is kept alive. None if the region is
        closed, or the system maps no more.
        """
        mapping = self.mapping
        if mapping is None:
            return None
        from shoal.serialization.tensors import private_pages

        start = np.frombuffer(mapping, np.uint8).ctypes.data
        try:
            return private_pages(self._read_fd, address - start, size, source)
        except OSError:
            return None

    def close(self) -> None:
        """Let go of both mappings; each stays in place while an array over it lives. May be repeated."""
        self._writer = None
        self.mapping = None
        self._unused = None
        self._writable = None
        self._close_read_fd()

    def after_fork_in_child(self) -> None:
        """Make the hole of the writing mapping inaccessible memory, and forget about it; runs by itself."""
        self._writer = None
        is_mapped = self._unused is not None or self._writable is not None
        if is_mapped:
            _fill_hole(self._writable_at, self.capacity)
        self._unused = self._writable = None


_regions: weakref.WeakSet[Region] = weakref.WeakSet()
_MAP_NORESERVE = 0x4000
_MAP_FIXED_NOREPLACE = 0x100000


def _check_size(fd: int, capacity: int) -> None:
    """A mapping beyond the end of its file would be memory that kills its reader."""
    size = os.fstat(fd).st_size
    if size < capacity:
        raise ValueError(f"the region has {size} bytes, not {capacity}")


def _fill_holes() -> None:
    for region in list(_regions):
        region.after_fork_in_child()


def _fill_hole(address: int, size: int) -> None:
    """Inaccessible memory at exactly this place; something else there by now stays as it is."""
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _MAP_NORESERVE | _MAP_FIXED_NOREPLACE
    libc.mmap(address, size, 0, flags, -1, 0)


os.register_at_fork(after_in_child=_fill_holes)

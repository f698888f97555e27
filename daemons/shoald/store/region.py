"""The region itself: a memfd, or where there is none a file without a name, and its two descriptors.

A memfd is not limited by the size of /dev/shm (64 MB in many containers), has no name that could be left
behind, and goes with the last process that has it open or mapped. Its pages take memory when they are
first touched; capacity alone costs nothing.
"""

from __future__ import annotations

import contextlib
import mmap
import os

from shoal.store.hugepages import map_aligned
from shoald.store.memory import huge_page_pool

_PAGE = 4096
_HUGE_PAGE = 2 * 1024**2


class RegionFile:
    """A new region and its descriptors, which are closed on exec.

    Args:
        capacity: bytes, rounded up to whole pages (huge ones: of the system's default size).
        directory: where a file is made if there is no memfd; must exist then.
        huge_pages: take pages of the system's huge page pool (hugetlbfs); all are reserved now.

    Raises OSError if neither can be made; then nothing stays open.

    Attributes:
        capacity: bytes.
        write_fd, read_fd: to be sent to clients; they stay open until `close`.
    """

    __slots__ = ("capacity", "read_fd", "write_fd")

    def __init__(self, capacity: int, directory: str | None = None, huge_pages: bool = False) -> None:
        unit = huge_page_pool()[0] or _HUGE_PAGE if huge_pages else _PAGE
        self.capacity = max(1, -(-capacity // unit)) * unit
        if hasattr(os, "memfd_create"):
            self.write_fd = os.memfd_create(
                "shoal-store", os.MFD_CLOEXEC | (os.MFD_HUGETLB if huge_pages else 0)
            )
            try:
                os.ftruncate(self.write_fd, self.capacity)
                if huge_pages:
                    # The file keeps what its first mapping reserves: without that, a process would be killed by SIGBUS later.
                    mmap.mmap(self.write_fd, self.capacity).close()
                # A second open: a duplicate would share the write mode.
                self.read_fd = os.open(f"/proc/self/fd/{self.write_fd}", os.O_RDONLY | os.O_CLOEXEC)
            except OSError:
                os.close(self.write_fd)
                raise
        else:
            self.write_fd, self.read_fd = _unnamed_file(self.capacity, directory)

    def map(self) -> mmap.mmap:
        """All of it to read and write, for the daemon's own use: with numpy, that clients map it by, it would have 10 MB more."""
        mapping = map_aligned(self.write_fd, self.capacity, mmap.PROT_READ | mmap.PROT_WRITE)
        if hasattr(mmap, "MADV_HUGEPAGE"):
            with contextlib.suppress(OSError):  # as in `shoal.store.region`
                mapping.madvise(mmap.MADV_HUGEPAGE)
        return mapping

    def close(self) -> None:
        """Close both descriptors; mappings stay. May be repeated."""
        for fd in (self.read_fd, self.write_fd):
            if fd >= 0:
                os.close(fd)
        self.read_fd = self.write_fd = -1


def _unnamed_file(capacity: int, directory: str | None) -> tuple[int, int]:
    """(descriptor to write, descriptor to read) of a file that is unlinked already."""
    import tempfile

    write_fd, path = tempfile.mkstemp(prefix="shoal-store-", dir=directory)
    try:
        os.ftruncate(write_fd, capacity)
        return write_fd, os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        os.close(write_fd)
        raise
    finally:
        os.unlink(path)

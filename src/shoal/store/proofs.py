"""What tells a reader that an object in a spill file is what was written there: its checksum, or for a while the file's time.

A checksum protects from the disk. In its first moments a large object is in the page cache, where nothing changes it but a write
by somebody else; and that sets the time of the file's last change. So its creator does not sum it, nor do those who read it
soon after: the daemon does, config.spill_sum_after_ms later, if the object is still there (`shoald.store.sums`). 100 MB written
and read back take 16 ms instead of 27.

That needs a file system that has set the time when a write returns, or when a page of a mapping is touched: those of
`_SETS_TIME_AT_ONCE` do. Others, such as NFS and ZFS, set it when they write pages back; what lies there is summed by its creator.
The time changes with each write that follows a look at it since Linux 6.13, and before with each tick, of some ms.

A proof is a number: a checksum (see `checksums`), or below zero: minus the time, in ns.
"""

from __future__ import annotations

import ctypes
import os

from shoal import libc
from shoal.store import checksums

BYTES_MIN = 16 * 1024**2
_SETS_TIME_AT_ONCE = frozenset(
    {
        0xEF53,  # ext2, ext3, ext4
        0x58465342,  # XFS
        0x9123683E,  # Btrfs
        0xF2F52010,  # F2FS
        0x01021994,  # tmpfs; not at the touch of a page, but it has no disk either
    }
)
_SECOND = 1_000_000_000
_STATFS_BYTES = 256  # more than it takes anywhere; it begins with the kind, a long
_fstatfs = libc.function("fstatfs", ctypes.c_int, ctypes.c_int, ctypes.c_void_p)


def by_time(fd: int) -> int | None:
    """The proof of a file that was just written; None if its time proves nothing."""
    if _kind(fd) not in _SETS_TIME_AT_ONCE:
        return None
    time_ns = os.fstat(fd).st_mtime_ns
    return -time_ns if time_ns > 0 and time_ns % _SECOND else None  # ext3 has whole seconds


def fits(proof: int, content: memoryview, path: str) -> bool:
    """Whether the content of a file is what was written. Raises OSError if the file has gone, and its time is what counts."""
    if proof >= 0:
        return checksums.checksum(content) == proof
    return os.stat(path).st_mtime_ns == -proof


def sum_of(path: str, size: int, proof: int) -> int | None:
    """The checksum that takes the place of a proof by time; None if the file has been changed. Raises OSError."""
    with open(path, "rb", buffering=0) as file:
        checksum = checksums.of_file(file.fileno(), size)
        # Looked at last: what was read was not changed before, either.
        return checksum if os.fstat(file.fileno()).st_mtime_ns == -proof else None


def _kind(fd: int) -> int:
    """Of the file system, as statfs(2) lists them; 0 if it is not to be known."""
    if _fstatfs is None:
        return 0
    buffer = ctypes.create_string_buffer(_STATFS_BYTES)
    if _fstatfs(fd, buffer) != 0:
        return 0
    return ctypes.c_ulong.from_buffer(buffer).value & 0xFFFFFFFF

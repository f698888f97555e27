"""Directories that objects are spilled to: one interface over local ones and, through fsspec, remote ones.

In a directory that an operator names, a daemon makes one of its own, `shoal-spill-<node>`, with a file `owner` in
it. Locally that file is locked for as long as the daemon lives, however it ends: so a daemon that starts there
finds what others of its user have left behind, and removes it. A directory is made under another name, and
renamed when its owner is locked: one that is being made never looks like one that was left. Remotely, the file names
machine, process and its start; only the same machine can tell that such a process is gone.

A page cache of memory that was touched before takes 4-5 GB/s of writes and gives 17 back; where its pages have to be
touched first (a virtual machine that returns free memory to its host), it takes 0.3-0.4. Large objects are written past
it then (O_DIRECT: 2-3.3 GB/s, and 1.3-2 back): which way is faster is measured as files are written. But first some GB go
the slow way, once: their pages are written over from then on (see spares), at 10 GB/s, and past the cache it never gets faster.
3 GB through a store of 1 GB, again and again: 4 GB/s instead of 1.4, and the first time 0.63 instead of 0.75.

Calls block, and run in the spiller's threads. They raise OSError; a file that is shorter than it should be
is a `Damaged` one.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import shutil
import socket
import time
from collections.abc import Callable
from typing import Any, Protocol

from shoal.sizes import bytes_text
from shoald.store.summing import PIECE

_WITH_BUCKETS = frozenset({"s3", "s3a", "gs", "gcs"})
_PREFIX = "shoal-spill-"
_OWNER = "owner"
_PARTS_MAX = 1024  # IOV_MAX
_STEP = 1024**3  # the kernel writes 2 GiB at most in one call
_PAGE = 4096
_DIRECT_BYTES_MIN = 2 * 1024**2
_SLOW_CACHE = 1e9  # bytes a second; below, writing past the page cache is tried
_PROBE_EVERY = (
    16  # files written past the cache for each one that is not, to see whether that has become faster
)
_TOUCHED_MAX = (
    4 * 1024**3
)  # bytes that are written to the page cache however slow that is: what the spares may have
_DIRECT = getattr(os, "O_DIRECT", 0)


Done = Callable[[int], None]


class Damaged(Exception):
    """What is in a file is not what was written; the message says how that shows."""


class Directory(Protocol):
    """Where spill files lie; a file is named by a number."""

    path: str

    def prepare(self) -> None:
        """Make it, and remove what dead daemons have left there. Raises OSError."""

    def write(
        self, number: int, parts: list[memoryview], before: Done, aligned: bool = False, over: int = 0
    ) -> bool:
        """A new file of these parts, one after the other; whether it went through this machine's page cache.

        Args:
            before: called with the next bytes, as a count, mostly before they are written.
            aligned: there is one part, and it starts on a page.
            over: a file whose place it takes; 0: none.
        """

    def make(self, number: int, size: int, over: int = 0) -> None:
        """A new file, which a client will write ``size`` bytes into: empty, or with what file ``over`` had; 0: none."""

    def read(self, number: int, offset: int, into: memoryview, done: Done, aligned: bool = False) -> None:
        """Fill ``into`` from a file; ``aligned``: it starts on a page. ``done``: called with the next bytes that are there.

        Raises Damaged if the file is too short.
        """

    def locate(self, number: int) -> str:
        """The path of a file, for processes of this machine; "" if it has none."""

    def remove(self, number: int, emptied: bool = False) -> None:
        """Remove a file; one that does not exist is no error."""

    def is_gone(self) -> bool:
        """Whether somebody has removed it since `prepare`, which makes it again."""

    def close(self) -> None:
        """Remove the directory with all files in it."""


def directory(url: str, name: str, used_max: float) -> Directory:
    """The directory of the daemon called ``name`` in ``url``: a local path, or anything that fsspec knows."""
    if is_remote(url):
        return RemoteDirectory(url, name)
    return LocalDirectory(url.removeprefix("file://"), name, used_max)


def is_remote(url: str) -> bool:
    """Whether it takes fsspec to get there."""
    return "://" in url and not url.startswith("file://")


def check_url(url: str) -> None:
    """Raises ValueError for a place that nothing can be spilled to, as far as that shows without a try."""
    if not is_remote(url):
        try:
            _make(url.removeprefix("file://"))
        except OSError as error:
            raise ValueError(f"cannot spill objects to {url}: {error.strerror}") from None
        return
    if _in_bucket(url) and not url.partition("://")[2].strip("/"):
        raise ValueError(f"cannot spill objects to {url}: it names no bucket")
    try:
        import fsspec

        fsspec.get_filesystem_class(url.partition("://")[0])
    except (ImportError, ValueError) as error:
        raise ValueError(f"cannot spill objects to {url}: {error}; try pip install 'shoal[spill]'") from None


def _make(path: str) -> None:
    """Make a directory, and those that it lies in. Raises OSError, also if it is there and no directory."""
    try:
        os.makedirs(path, mode=0o700, exist_ok=True)
    except FileExistsError:
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), path) from None


def _in_bucket(url: str) -> bool:
    """Whether it begins with a bucket, which has to exist (or a typing error would make one), and has no directories."""
    return url.partition("://")[0] in _WITH_BUCKETS


class LocalDirectory:
    """A directory of a local (or mounted) file system.

    Args:
        used_max: share of the file system that may be in use; beyond, writing fails as if it were full.
    """

    def __init__(self, parent: str, name: str, used_max: float) -> None:
        self._parent = os.path.abspath(parent)
        self.path = os.path.join(self._parent, _PREFIX + name)
        self._used_max = used_max
        self._owner = -1
        self._pace = _Pace()
        self._direct: set[int] = set()  # files that were written past the page cache

    def prepare(self) -> None:
        _make(self._parent)
        self._remove_abandoned()
        if self._owner >= 0:
            os.close(self._owner)
            self._owner = -1
        new = f"{self.path}.new"
        shutil.rmtree(new, ignore_errors=True)  # of a time when it could not take its name
        os.mkdir(new, 0o700)
        self._owner = os.open(os.path.join(new, _OWNER), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        with contextlib.suppress(OSError):  # a file system without locks: nobody cleans there
            fcntl.flock(self._owner, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.rename(new, self.path)

    def _remove_abandoned(self) -> None:
        for entry in os.scandir(self._parent):
            if entry.name.startswith(_PREFIX) and _is_abandoned(entry.path):
                shutil.rmtree(entry.path, ignore_errors=True)

    def write(
        self, number: int, parts: list[memoryview], before: Done, aligned: bool = False, over: int = 0
    ) -> bool:
        size = sum(map(len, parts))
        have = self._take_over(over, number) if over else 0
        self._check_room(size - have)
        direct = not have and aligned and size >= _DIRECT_BYTES_MIN and self._pace.prefers_direct()
        started = time.monotonic()
        if direct and self._write_direct(number, parts[0]):
            self._direct.add(number)
        else:
            direct = False
            self._write_cached(number, parts, before, kept=have)
        if size >= _DIRECT_BYTES_MIN and not have:
            self._pace.measured(direct, size, max(time.monotonic() - started, 1e-9))
        if direct:
            before(size)
        return not direct

    def _take_over(self, old: int, number: int) -> int:
        """Give a file another name; its bytes, 0 if somebody has removed it."""
        try:
            os.rename(self._file(old), self._file(number))
            return os.stat(self._file(number)).st_size
        except FileNotFoundError:
            return 0

    def make(self, number: int, size: int, over: int = 0) -> None:
        have = self._take_over(over, number) if over else 0
        self._check_room(size - have)
        if have > size:
            os.truncate(self._file(number), size)
        elif not have:
            os.close(os.open(self._file(number), os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))

    def _write_cached(
        self,
        number: int,
        parts: list[memoryview],
        before: Done,
        start: int = 0,
        kept: int = 0,
    ) -> None:
        """Write ``parts`` to a file from ``start`` on, through the page cache, over ``kept`` bytes that it has."""
        buffers = [part[at : at + PIECE] for part in parts for at in range(0, len(part), PIECE)]
        emptied = 0 if start or kept else os.O_TRUNC
        fd = os.open(self._file(number), os.O_WRONLY | os.O_CREAT | emptied | os.O_CLOEXEC, 0o600)
        try:
            offset = start
            while buffers:
                piece = _cut_piece(buffers)
                size = sum(map(len, piece))
                before(size)
                _write_all(fd, piece, offset)
                offset += size
            if kept > offset:
                os.ftruncate(fd, offset)
        finally:
            os.close(fd)

    def _write_direct(self, number: int, part: memoryview) -> bool:
        """Write whole pages past the page cache, and the rest through it; False if the file system refuses that."""
        whole = len(part) // _PAGE * _PAGE
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
        try:
            fd = os.open(self._file(number), flags | _DIRECT, 0o600)
            try:
                offset = 0
                while offset < whole:
                    offset += os.pwritev(fd, [part[offset : min(whole, offset + _STEP)]], offset)
            finally:
                os.close(fd)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            self._pace.no_direct()
            return False
        if whole < len(part):
            self._write_cached(number, [part[whole:]], _nothing, whole)
        return True

    def _check_room(self, size: int) -> None:
        disk = os.statvfs(self._parent)
        total, available = disk.f_blocks * disk.f_frsize, disk.f_bavail * disk.f_frsize
        if available - size < (1 - self._used_max) * total:
            left = f"{bytes_text(available)} of {bytes_text(total)} are left"
            raise OSError(errno.ENOSPC, f"{left}, and more than {1 - self._used_max:.0%} is to stay free")

    def read(self, number: int, offset: int, into: memoryview, done: Done, aligned: bool = False) -> None:
        had = 0
        if aligned and number in self._direct and offset % _PAGE == 0:
            had = self._fill(number, offset, into[: len(into) // _PAGE * _PAGE], done, _DIRECT)
        if had < len(into):
            self._fill(number, offset + had, into[had:], done)

    def _fill(self, number: int, offset: int, into: memoryview, done: Done, flag: int = 0) -> int:
        step = _STEP if flag else PIECE
        fd = os.open(self._file(number), os.O_RDONLY | os.O_CLOEXEC | flag)
        try:
            had = 0
            while had < len(into):
                count = os.preadv(fd, [into[had : had + step]], offset + had)
                if not count:
                    raise Damaged(f"{self._file(number)} is shorter than it was")
                had += count
                done(count)
        finally:
            os.close(fd)
        return had

    def remove(self, number: int, emptied: bool = False) -> None:
        self._direct.discard(number)
        with contextlib.suppress(FileNotFoundError):
            if emptied:
                os.truncate(self._file(number), 0)
            os.unlink(self._file(number))

    def is_gone(self) -> bool:
        return not os.path.isdir(self.path)

    def close(self) -> None:
        if self._owner >= 0:
            shutil.rmtree(self.path, ignore_errors=True)
            os.close(self._owner)
            self._owner = -1

    def locate(self, number: int) -> str:
        return self._file(number)

    def _file(self, number: int) -> str:
        return os.path.join(self.path, f"{number}.spill")


class _Pace:
    """Which way of writing is faster, by what was measured last: bytes a second through the page cache and past it."""

    def __init__(self) -> None:
        self._rates: dict[bool, float] = {}
        self._files = 0
        self._touched = 0  # bytes
        self._refused = not _DIRECT

    def no_direct(self) -> None:
        """The file system does not write past the cache."""
        self._refused = True

    def measured(self, direct: bool, size: int, seconds: float) -> None:
        """One new file was written."""
        self._rates[direct] = size / seconds
        if not direct:
            self._touched += size

    def prefers_direct(self) -> bool:
        """How the next file is to be written."""
        cached, direct = self._rates.get(False), self._rates.get(True)
        if self._refused or cached is None or cached >= _SLOW_CACHE or self._touched < _TOUCHED_MAX:
            return False
        self._files += 1
        # Reading is faster out of the cache: a little is not enough.
        return direct is None or (direct > 2 * cached and self._files % _PROBE_EVERY != 0)


def _nothing(_count: int) -> None:
    """Nobody wants to know how far it is."""


def _cut_piece(buffers: list[memoryview]) -> list[memoryview]:
    """Cut off the first of ``buffers``: about a piece, and what one call takes."""
    count = size = 0
    while count < min(len(buffers), _PARTS_MAX) and size < PIECE:
        size += len(buffers[count])
        count += 1
    piece = buffers[:count]
    del buffers[:count]
    return piece


def _write_all(fd: int, buffers: list[memoryview], offset: int) -> None:
    """Write ``buffers``, as many as one call takes, one after the other from ``offset`` on."""
    while buffers:
        written = left = os.pwritev(fd, buffers, offset)
        offset += written
        whole = 0
        while whole < len(buffers) and left >= len(buffers[whole]):
            left -= len(buffers[whole])
            whole += 1
        del buffers[:whole]
        if left:
            buffers[0] = buffers[0][left:]


def _is_abandoned(path: str) -> bool:
    """Whether a directory is this user's, and its owner is gone."""
    try:
        fd = os.open(os.path.join(path, _OWNER), os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return False
    try:
        if os.fstat(fd).st_uid != os.getuid():
            return False
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    finally:
        os.close(fd)
    return True


class RemoteDirectory:
    """A directory of a file system that fsspec knows: s3://bucket/path, memory://path, …"""

    def __init__(self, url: str, name: str) -> None:
        self._parent = url.rstrip("/")
        self.path = f"{self._parent}/{_PREFIX}{name}"
        self._fs: Any = None
        self._root = ""

    def prepare(self) -> None:
        try:
            self._make()
        except OSError:
            raise
        except Exception as error:  # of the libraries for this protocol, which have their own
            raise OSError(errno.EIO, str(error) or type(error).__name__) from error

    def _make(self) -> None:
        from fsspec.core import url_to_fs

        self._fs, parent = url_to_fs(self._parent)
        self._root = f"{parent}/{self.path.rpartition('/')[2]}"
        if not _in_bucket(self._parent):
            self._fs.makedirs(self._root, exist_ok=True)
        for path in self._fs.glob(f"{parent}/{_PREFIX}*/{_OWNER}"):
            if _is_of_dead_process(self._fs.cat_file(path)):
                self._fs.rm(path.rpartition("/")[0], recursive=True)
        self._fs.pipe_file(f"{self._root}/{_OWNER}", json.dumps(_this_process()).encode())

    def write(
        self, number: int, parts: list[memoryview], before: Done, aligned: bool = False, over: int = 0
    ) -> bool:
        with self._fs.open(self._file(number), "wb") as file:
            for part in parts:
                before(len(part))
                file.write(part)
        return False

    def make(self, number: int, size: int, over: int = 0) -> None:
        raise OSError(errno.EOPNOTSUPP, f"{self._file(number)} cannot be written by others ({size} bytes)")

    def read(self, number: int, offset: int, into: memoryview, done: Done, aligned: bool = False) -> None:
        content = self._fs.cat_file(self._file(number), start=offset, end=offset + len(into))
        if len(content) != len(into):
            raise Damaged(f"{self._file(number)} is shorter than it was")
        into[:] = content
        done(len(into))

    def remove(self, number: int, emptied: bool = False) -> None:
        with contextlib.suppress(FileNotFoundError):
            self._fs.rm_file(self._file(number))

    def is_gone(self) -> bool:
        return False  # there are no directories, only names that begin like that

    def close(self) -> None:
        if self._fs is not None:
            with contextlib.suppress(FileNotFoundError):
                self._fs.rm(self._root, recursive=True)
            self._fs = None

    def locate(self, number: int) -> str:
        return ""

    def _file(self, number: int) -> str:
        return f"{self._root}/{number}.spill"


def _this_process() -> dict[str, Any]:
    import psutil

    return {"host": socket.gethostname(), "pid": os.getpid(), "started": psutil.Process().create_time()}


def _is_of_dead_process(owner: bytes) -> bool:
    """Whether an owner file is of a process of this machine that is gone."""
    import psutil

    try:
        facts = json.loads(owner)
        if facts["host"] != socket.gethostname():
            return False
        return bool(abs(psutil.Process(facts["pid"]).create_time() - facts["started"]) > 1.0)
    except psutil.NoSuchProcess:
        return True
    except (ValueError, KeyError, TypeError):
        return False  # not ours

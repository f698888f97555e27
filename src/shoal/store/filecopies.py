"""Objects that are read in files, because the region has no room for them; `filewrites` writes them.

The mapping is read-only and shared, so the page cache is what is read; it stays valid when the daemon removes the
file, for as long as a view over it lives. That it is what was written is made sure of when it is opened (`proofs`). A process
has a thousand descriptors, often, and some ten thousand mappings: so there is one mapping of a file, which keeps no descriptor
(`mmap.mmap` does), and small objects are copied instead, all that are wanted of one file together.

Where a file system hangs, nothing can make a thread that reads or writes there come back; so files are opened, looked through
and written by threads of their own, which can be left behind. What is not bounded is the touch of a page of a view that the
page cache has dropped since the file was opened: that hangs whoever touches it.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import threading
import time
import weakref
from typing import TYPE_CHECKING, Any, TypeVar

from shoal import libc
from shoal.store import checksums, proofs
from shoal.wakeup import bells, ring

if TYPE_CHECKING:
    from collections import deque
    from collections.abc import Callable, Iterable


T = TypeVar("T")
THREAD = "shoal-file"  # the name of threads that write a value to a file, or read one
OPEN_ATTEMPTS = 5  # of errors that may pass
OPEN_PAUSE_S = 0.1  # after the first; twice as long after each
_PASSING = frozenset({errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.EHOSTDOWN})


class FileCopy:
    """A copy of an object in a spill file, or in this process's own memory.

    Args:
        path, offset: where it is; size: bytes.
        flags: SEAL_* bits.
        proof: of its bytes, as in `proofs`; a checksum if it is small.
        small: it is copied when it is opened, and not mapped.
        use: what keeps the daemon from having the file written over.

    Attributes:
        mapping, capacity: of the whole file once opened, as `shoal.store.views` wants them; or the bytes themselves.
        waiters: readers that have asked for it and not read it yet.
        is_damaged: that showed, and the daemon was told.
    """

    __slots__ = (
        "_proof",
        "_small",
        "capacity",
        "flags",
        "is_damaged",
        "mapping",
        "offset",
        "path",
        "size",
        "use",
        "waiters",
    )

    def __init__(
        self,
        path: str,
        offset: int,
        size: int,
        flags: int,
        proof: int,
        small: bool = False,
        use: FileUse | None = None,
    ) -> None:
        self.path = path
        self.use = use
        self._proof = proof
        self._small = small
        self.offset = offset
        self.size = size
        self.flags = flags
        self.capacity = 0
        self.mapping: memoryview | bytes | None = None
        self.waiters = 0
        self.is_damaged = False

    @classmethod
    def of(cls, content: bytes, flags: int) -> FileCopy:
        """A copy in memory."""
        copy = cls("", 0, len(content), flags, 0)
        copy._has(content)
        return copy

    def _has(self, content: bytes) -> None:
        self.offset, self.capacity, self.mapping = 0, len(content), content

    def private(self, address: int, size: int, source: object) -> None:
        """None: by now the file may be gone, and a descriptor of each would be too many (see `shoal.store.views`)."""

    def open(self, patience_s: float | None, others: Iterable[FileCopy] = ()) -> bool:
        """Map the file; False if nothing has come of it for so long: its file system hangs. None: in this thread.

        ``others``: small ones in the same file, which are opened as well, those that can be.
        Raises OSError if it cannot be opened, ValueError if it is not what was written.
        """
        if self.mapping is not None:
            return True
        if patience_s is None:
            self._open(others)
            return True
        opening = FileWork(lambda: self._open(others))
        if not opening.wait(patience_s):
            return False
        if opening.error is not None:
            raise opening.error
        return True

    def _open(self, others: Iterable[FileCopy]) -> None:
        if self._small:
            self._read(others)
            if self.mapping is None:
                raise self._damage()
            return
        mapping = self._mapped()
        view = mapping[self.offset : self.offset + self.size]
        if len(view) < self.size or not proofs.fits(self._proof, view, self.path):
            raise self._damage()
        self.capacity = len(mapping)
        self.mapping = mapping

    def _damage(self) -> ValueError:
        how = (
            "its checksum is not what it was"
            if self._proof >= 0
            else "it was changed after it had been written"
        )
        return ValueError(f"{self.path} is damaged ({how})")

    def _mapped(self) -> memoryview:
        pages = mapped_files.get(self.path)
        if pages is None:
            pages = self._from_file(Pages)
            pages.use = self.use  # views keep the pages, and not this
            with _mapping:  # another thread may have mapped it meanwhile
                pages = mapped_files.setdefault(self.path, pages)
        return pages.view()

    def _read(self, others: Iterable[FileCopy]) -> None:
        def read(fd: int) -> None:
            for copy in (self, *others):
                content = os.pread(fd, copy.size, copy.offset) if copy.mapping is None else b""
                if len(content) == copy.size and checksums.checksum(memoryview(content)) == copy._proof:
                    copy._has(content)

        self._from_file(read)

    def _from_file(self, take: Callable[[int], T]) -> T:
        """What is made of the open file; an error of a mounted file system that may pass is no word on what is in it, and is
        tried again.
        """
        for attempt in range(OPEN_ATTEMPTS):
            try:
                with open(self.path, "rb") as file:
                    return take(file.fileno())
            except OSError as error:
                if error.errno not in _PASSING or attempt == OPEN_ATTEMPTS - 1:
                    raise
                time.sleep(OPEN_PAUSE_S * 2**attempt)
        raise AssertionError("the last attempt returns or raises")


class FileUse:
    """That this process was told of a spill file, and may look at it for as long as this object lives.

    Args:
        number: the file's; ended: where that goes in the end.
    """

    __slots__ = ("_ended", "_number")

    def __init__(self, number: int, ended: deque[int]) -> None:
        self._number = number
        self._ended = ended

    def __del__(self) -> None:
        self._ended.append(self._number)
        if bells:
            ring()


class Pages:
    """A mapping of a whole file, for as long as this object or one of its views lives.

    Args:
        fd: of the file, which it does not keep; writes: it is not read-only.

    Attributes:
        use: ends after the mapping.

    Raises OSError if there is none to be had, ValueError if the file is empty.
    """

    def __init__(self, fd: int, writes: bool = False) -> None:
        self.use: FileUse | None = None
        self._writes = writes
        self._size = os.fstat(fd).st_size
        if not self._size:
            raise ValueError("an empty file cannot be mapped")
        access = mmap.PROT_READ | mmap.PROT_WRITE if writes else mmap.PROT_READ
        address = libc.mmap(None, self._size, access, mmap.MAP_SHARED, fd, 0)
        if address in {None, libc.FAILED}:
            error = ctypes.get_errno()
            raise OSError(error, os.strerror(error))
        self._address: int = address

    def view(self) -> memoryview:
        """Its bytes."""
        import numpy as np

        return np.asarray(self).data

    @property
    def __array_interface__(self) -> dict[str, Any]:
        return {
            "version": 3,
            "typestr": "|u1",
            "shape": (self._size,),
            "data": (self._address, not self._writes),
        }

    def __del__(self) -> None:
        address = getattr(self, "_address", None)
        if address is not None:
            libc.munmap(address, self._size)


# By path, which is no other file's ever.
mapped_files: weakref.WeakValueDictionary[str, Pages] = weakref.WeakValueDictionary()
_mapping = threading.Lock()  # not taken while a file system may hang


def is_own_limit(error: Exception) -> bool:
    """Whether a file could not be opened for lack of what this process has too much of: for others it may be well."""
    return isinstance(error, OSError) and error.errno in {errno.EMFILE, errno.ENFILE, errno.ENOMEM}


class FileWork:
    """Something that is done to a file by a thread of its own; what it needs is the thread's until it has ended.

    Attributes:
        error: what it raised, once it has ended.
    """

    def __init__(self, work: Callable[[], None]) -> None:
        self.error: BaseException | None = None
        self._work: Callable[[], None] | None = work
        self._ended = threading.Event()
        self._lock = threading.Lock()
        self._then: Callable[[], None] | None = None
        self._clock: int | None = None  # of its processor time
        self._thread = threading.Thread(target=self._run, name=THREAD, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        assert self._work is not None
        # Now: of a thread that has ended this may read memory that is gone.
        self._clock = time.pthread_getcpuclockid(threading.get_ident())
        try:
            self._work()
        except BaseException as error:  # noqa: BLE001 - it is raised in the thread that waits
            self.error = error
        self._work = None
        with self._lock:
            self._ended.set()
            then = self._then
        if then is not None:
            then()

    def wait(self, patience_s: float) -> bool:
        """Wait for its end; False if it has used no processor time for so long: it hangs."""
        used = self._used()
        while not self._ended.wait(patience_s):
            before, used = used, self._used()
            if used == before:
                return self._ended.is_set()
        return True

    def _used(self) -> float:
        if self._clock is None:
            return 0.0  # it has not begun
        try:
            return time.clock_gettime(self._clock)
        except OSError:
            return -1.0  # it has just ended

    def then(self, call: Callable[[], None]) -> None:
        """Have this called when it has ended, in its thread; or now, if it has."""
        with self._lock:
            if not self._ended.is_set():
                self._then = call
                return
        call()

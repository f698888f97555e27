"""Arrays that are passed by value again and again: whether they changed since the last call, asked of the kernel, not of a hash.

`store/tracked` decides which are worth it, `store/writetracking` asks. The order makes it exact: an array is protected
first, then hashed (or copied); so as long as it is unwritten, it has the content that it had then. Only whole pages can be
protected: the bytes before and behind them are compared with the stored copy.

What is tracked ends with the array (its owner, if it is a view), since others are to get that memory as it was.
"""

from __future__ import annotations

import mmap
import threading
import weakref
from collections import deque
from typing import TYPE_CHECKING, Any

from shoal.lazynumpy import np
from shoal.serialization.sources import equal_bytes
from shoal.store.tracked import History

if TYPE_CHECKING:
    from shoal.config import Config
    from shoal.serialization import Serialized
    from shoal.store.writetracking import WriteTracker

    Array = np.ndarray[Any, Any]

_PAGE_BYTES = mmap.PAGESIZE


class ArrayWatch:
    """The arrays of one process that are watched; nothing is opened before the first that is worth it."""

    def __init__(self, config: Config) -> None:
        self._ranges_max = config.write_tracked_ranges_max
        self._bytes_min = max(config.write_tracked_bytes_min, _PAGE_BYTES)
        self._tracker: WriteTracker | None = None
        self._opening = threading.Lock()
        self._closed = self._ranges_max < 1
        self._owners: dict[int, weakref.ref[Array]] = {}
        self._ended: deque[int] = deque()  # appended to at any moment, by the end of an owner

    @property
    def count(self) -> int:
        """How many arrays are watched, or were and have not been asked about since."""
        return len(self._owners)

    def new_history(self) -> History:
        """Of an array that was not passed before."""
        return History()

    def owner(self, array: Array) -> weakref.ref[Array]:
        """What stands for the owner of an array: the same object as long as that lives, and never that of another one."""
        return weakref.ref(_owner(array))

    def protect(self, history: History, array: Array, packed: Serialized) -> None:
        """Watch an array if that is worth it; to be called before it is hashed or copied."""
        if self._closed or not history.wants():
            return
        self.sweep()
        pages = self._pages(packed)
        tracker = self._open() if pages is not None else None
        token = tracker.protect(*pages) if tracker is not None and pages is not None else None
        if token is None:
            history.refused()
            return
        history.protected(token)
        ended = self._ended
        self._owners[token] = weakref.ref(_owner(array), lambda _: ended.append(token))

    def is_unchanged(self, history: History, packed: Serialized, copy: Array | None) -> bool:
        """Whether an array surely has the content of its stored ``copy`` (None: which is not at hand), by being watched.

        If it was written, it is not watched any more.
        """
        token = history.token
        if token is None or self._tracker is None:
            return False
        unwritten = self._tracker.unwritten(token)
        if unwritten is False:
            self.changed(history, packed)
        pages, buffer = self._pages(packed), packed.only_buffer()
        if not unwritten or pages is None or buffer is None or copy is None:
            return False
        offset, flat = buffer
        address = flat.ctypes.data
        for first, last in ((0, pages[0] - address), (pages[1] - address, flat.size)):
            if not equal_bytes(flat[first:last], copy[offset + first : offset + last]):
                return False
        history.found_unwritten()
        return True

    def changed(self, history: History, packed: Serialized) -> None:
        """An array was written: note how much of it, if it was watched, which ends."""
        token, tracker = history.token, self._tracker
        self.sweep()
        if token is None or tracker is None or token not in self._owners:
            history.found_changed()  # that array has ended, and this one took its place
            return
        pages = self._pages(packed)
        of = (pages[1] - pages[0]) // _PAGE_BYTES if pages is not None else 0
        history.found_written(tracker.pages_written(token), of)
        self._owners.pop(token, None)
        if not history.wants():
            self._ended.append(token)
            self.sweep()

    def forget(self, history: History) -> None:
        """Nobody will ask about it again."""
        if history.token is not None:
            self._ended.append(history.token)
            self.sweep()

    def sweep(self) -> bool:
        """Give back what ended: its memory is as it was. Whether something of it is in use at this moment."""
        tracker = self._tracker
        for _ in range(len(self._ended)):
            try:
                token = self._ended.popleft()
            except IndexError:
                return True  # another thread does it
            self._owners.pop(token, None)
            if tracker is not None and not tracker.release(token):
                self._ended.append(token)
        return bool(self._ended)

    def close(self) -> None:
        """Watch nothing any more; also in a forked child, whose parent goes on."""
        self._closed = True
        tracker, self._tracker = self._tracker, None
        if tracker is not None:
            tracker.close()

    def _pages(self, packed: Serialized) -> tuple[int, int] | None:
        """(start, end) of the whole pages of a value that is one buffer, if they are worth it."""
        buffer = packed.only_buffer()
        if buffer is None:
            return None
        address, size = buffer[1].ctypes.data, buffer[1].size
        start, end = -(-address // _PAGE_BYTES) * _PAGE_BYTES, (address + size) // _PAGE_BYTES * _PAGE_BYTES
        return (start, end) if end - start >= self._bytes_min else None

    def _open(self) -> WriteTracker | None:
        """The tracker; made at the first call. Where it cannot be, that is not tried again."""
        if not self._opening.acquire(blocking=False):
            return None  # another thread makes it
        try:
            if self._tracker is None and not self._closed:
                from shoal.store.writetracking import open_tracker

                tracker = open_tracker(self._ranges_max)
                if tracker is None:
                    self._closed = True
                self._tracker = tracker
            return self._tracker
        finally:
            self._opening.release()


def _owner(array: Array) -> Array:
    """The array whose end is the end of the memory, as far as numpy knows."""
    base: Any = array.base
    while isinstance(base, np.ndarray):
        array, base = base, base.base
    return array

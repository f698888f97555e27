"""What a read of the store hands out, and how its end is noticed.

An *exporter* is the one array over the bytes of a stored object that a ``get`` opened. Everything that is
rebuilt from those bytes (arrays, Arrow buffers, frame blocks) is made of slices of ``memoryview(exporter)``,
and so keeps it alive: its end is the end of the last view, and then its key goes to a queue.

``__del__`` may run anywhere, in the middle of any bytecode of any thread, also while that thread holds
a lock of ours. So all it does is append to a deque: atomic, and without a lock. It also runs for arrays
derived from an exporter (numpy gives them the same class) and for one whose making failed; these have no
queue.

Read-only is not a flag that could be turned: the memory below is a read-only mapping, and numpy asks it.
"""

from __future__ import annotations

import weakref
from collections import deque
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from shoal.wakeup import bells, ring

if TYPE_CHECKING:
    import mmap

_new = np.ndarray.__new__
_UINT8 = np.dtype(np.uint8)


class Exporter(np.ndarray[Any, np.dtype[np.uint8]]):
    """A one-dimensional read-only uint8 array; made by `make_view` only."""

    # Of the class, so that derived and half-built arrays have them too.
    _released: deque[Any] | None = None
    _key: Any = None
    _source: Mapped | None = None
    _private: weakref.ref[Any] | None = None  # not itself: it keeps the exporter alive

    def private_view(self, address: int, size: int) -> Any:
        """The bytes at ``address`` within this array as memory that can be written to, and keeps the exporter alive.

        One mapping serves all of an exporter: each would cost a descriptor. None if it cannot be had.
        """
        whole = self
        while whole._source is None:  # a slice
            if not isinstance(whole.base, Exporter):
                return None
            whole = whole.base
        pages = None if whole._private is None else whole._private()
        if pages is None:
            pages = whole._source.private(whole.ctypes.data, whole.size, whole)
            if pages is None:
                return None
            whole._private = weakref.ref(pages)
        start = address - whole.ctypes.data
        return pages[start : start + size]

    def __del__(self) -> None:
        released = self._released
        if released is not None:
            released.append(self._key)
            if bells:
                ring()


class Mapped(Protocol):
    """What views can be made over: read-only memory of ``capacity`` bytes."""

    capacity: int
    mapping: mmap.mmap | memoryview | bytes | None

    def private(self, address: int, size: int, source: object) -> Any:
        """Writable memory that starts as these bytes, and keeps ``source`` alive; None if it cannot be had."""


def make_view(region: Mapped, offset: int, size: int, key: Any, released: deque[Any]) -> Exporter:
    """An exporter over [offset, offset + size) of the region, bytes.

    ``released.append(key)`` happens exactly once, when the exporter and everything made from it are gone. The
    base of the exporter is the mapping itself, not an array over it: numpy shortens chains of plain
    arrays, and ``np.asarray(exporter)`` would otherwise skip the exporter and outlive it.

    Raises ValueError if the region is closed or the range is not within it; then nothing is appended.
    """
    if region.mapping is None:
        raise ValueError("the region is closed")
    # numpy checks the end, but takes a negative offset for what it says.
    if offset < 0 or size < 0 or offset + size > region.capacity:
        raise ValueError(f"[{offset}, {offset + size}) is not within {region.capacity} bytes")
    view = _new(Exporter, size, _UINT8, region.mapping, offset)
    view._key = key
    view._released = released
    view._source = region
    return view

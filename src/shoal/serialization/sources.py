"""Where the bytes of a buffer come from, and how they are copied, read in order, and compared.

A source is an array of any layout (a plain buffer is an array of bytes), or the rows of a ragged array. Each
is copied exactly once, straight to where it will be stored. Nothing here allocates as much as the data.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable, Iterator
from functools import cache
from itertools import pairwise
from typing import Any, Literal, TypeAlias

from shoal.config import Config
from shoal.lazynumpy import np
from shoal.parallel import in_threads

Array: TypeAlias = "np.ndarray[Any, Any]"

# Beyond this a copy is split over threads (np.copyto releases the GIL; below it one thread saturates the
# memory, mostly: 100 MB in two threads take between half and 1.04 times as long, as the machine happens to be).
PARALLEL_BYTES_MIN = Config.copy_split_bytes_min
COPY_THREADS_MAX = Config.copy_threads_max
# Hashing and comparing go in steps of this, which fit the cache where they are copied together first.
BLOCK_BYTES = 512 * 1024
_FLAT_BLOCK_BYTES = 16 * 1024 * 1024
# Rows joined in one call: the GIL is held for one step only.
BLOCK_ROWS = 8192


class RaggedRows:
    """Many one-dimensional arrays of one dtype, to be stored one after the other.

    Attributes:
        rows: an object array of the arrays, exact `numpy.ndarray`; not changed by anybody.
        dtype: of every row, without objects.
        offsets: int64, one more than rows; row i takes items ``offsets[i]:offsets[i + 1]``.
        nbytes: of all rows together.
    """

    __slots__ = ("dtype", "nbytes", "offsets", "rows")

    def __init__(self, rows: Array, dtype: np.dtype[Any], offsets: Array) -> None:
        self.rows = rows
        self.dtype = dtype
        self.offsets = offsets
        self.nbytes = int(offsets[-1]) * dtype.itemsize

    def write_into(self, target: Array) -> None:
        """Copy the rows into ``target``, uint8 and ``nbytes`` long."""
        flat: Array = np.ndarray((int(self.offsets[-1]),), self.dtype, target)
        for start, stop in self._steps():
            part = flat[int(self.offsets[start]) : int(self.offsets[stop])]
            np.concatenate(self.rows[start:stop], out=part)

    def blocks(self) -> Iterator[Array]:
        """The stored bytes in order, in pieces."""
        for start, stop in self._steps():
            joined = np.concatenate(self.rows[start:stop])
            if joined.size:
                yield joined.view(np.uint8)

    def tobytes(self) -> bytes:
        """The stored bytes."""
        return np.concatenate(self.rows).tobytes()

    def _steps(self) -> Iterator[tuple[int, int]]:
        count = len(self.rows)
        return ((start, min(start + BLOCK_ROWS, count)) for start in range(0, count, BLOCK_ROWS))


Source: TypeAlias = "Array | RaggedRows"
Copy: TypeAlias = "Callable[[Array, Array], None]"  # target[...] = source


def storage_order(array: Array) -> Literal["C", "F"]:
    """``"F"`` when the array is stored column by column, else ``"C"``.

    A view that is not contiguous is stored in the order that its own strides come closest to.
    """
    if array.ndim < 2 or array.flags.c_contiguous:
        return "C"
    if array.flags.f_contiguous or abs(array.strides[0]) < abs(array.strides[-1]):
        return "F"
    return "C"


def array_bytes(array: Array) -> bytes:
    """A copy of the items in `storage_order`."""
    return _raw(array).tobytes(storage_order(array))


def flat_view(source: Source) -> Array | None:
    """The source as uint8 in one dimension without a copy, or None if it is not contiguous."""
    if isinstance(source, RaggedRows):
        return None
    flags = source.flags
    if not (flags.c_contiguous or flags.f_contiguous):
        return None
    return np.asarray(source).ravel(order="K").view(np.uint8)


def source_bytes(source: Source) -> bytes | memoryview:
    """The stored bytes in one piece; without a copy where that is possible."""
    if isinstance(source, RaggedRows):
        return source.tobytes()
    flat = flat_view(source)
    return flat.data if flat is not None else array_bytes(source)


def write_source(source: Source, target: Array, copy: Copy | None = None) -> None:
    """Copy a source into ``target``: uint8, one dimension, exactly as long as the source.

    What is contiguous is copied by ``copy`` (`numpy.copyto`), perhaps in several threads at the same time.
    """
    if isinstance(source, RaggedRows):
        source.write_into(target)
        return
    flat = flat_view(source)
    if flat is not None:
        _copy(target, flat, 0, copy)
        return
    order = storage_order(source)
    source = _raw(source)
    window: Array = np.ndarray(source.shape, source.dtype, target, order=order)
    _copy(window, source, 0 if order == "C" else source.ndim - 1)


def source_blocks(source: Source) -> Iterator[Array]:
    """The stored bytes in order, as uint8 pieces."""
    if isinstance(source, RaggedRows):
        yield from source.blocks()
        return
    flat = flat_view(source)
    if flat is not None:
        for start in range(0, flat.size, _FLAT_BLOCK_BYTES):
            yield flat[start : start + _FLAT_BLOCK_BYTES]
        return
    transposed = source if storage_order(source) == "C" else source.T
    yield from _strided_blocks(_raw(transposed))


def equal_bytes(piece: Array, stored: Array) -> bool:
    """Whether two contiguous uint8 arrays of one length hold the same bytes. Releases the GIL."""
    if piece.size != stored.size:
        return False
    return _memcmp()(piece.ctypes.data, stored.ctypes.data, piece.size) == 0


@cache
def _memcmp() -> Callable[[int, int, int], int]:
    """The C library's: numpy's comparison writes an array of booleans, and takes half as long again."""
    function = ctypes.CDLL(None).memcmp
    function.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t]
    function.restype = ctypes.c_int
    return function


def _raw(array: Array) -> Array:
    """The array as a plain one; records as opaque items, since numpy does not copy what is between fields."""
    plain = np.asarray(array)
    return plain.view(np.dtype((np.void, plain.dtype.itemsize))) if plain.dtype.fields else plain


def _strided_blocks(array: Array) -> Iterator[Array]:
    """The items in C order as uint8 pieces, of an array of at least one dimension that is not contiguous."""
    row_bytes = max(1, array.nbytes // max(1, len(array)))
    if row_bytes > BLOCK_BYTES and array.ndim > 1:
        for row in array:
            yield from _strided_blocks(row)
        return
    step = max(1, BLOCK_BYTES // row_bytes)
    for start in range(0, len(array), step):
        yield np.ascontiguousarray(array[start : start + step]).ravel().view(np.uint8)


def _copy(target: Array, source: Array, axis: int, copy: Copy | None = None) -> None:
    """``target[...] = source``, over threads along ``axis`` when that is worth it."""
    copy = copy or np.copyto
    length = source.shape[axis]
    # Counting processors reads a file: 40 µs.
    threads = 1 if source.nbytes < PARALLEL_BYTES_MIN else min(COPY_THREADS_MAX, os.cpu_count() or 1, length)
    if threads < 2:
        copy(target, source)
        return
    bounds = [length * i // threads for i in range(threads + 1)]
    lead = (slice(None),) * axis
    cuts = [(*lead, slice(a, b)) for a, b in pairwise(bounds)]
    in_threads([lambda cut=cut: copy(target[cut], source[cut]) for cut in cuts])  # type: ignore[misc]

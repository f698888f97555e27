"""Many small one-dimensional arrays in a list or an object array, stored as one flat buffer and its offsets.

One by one, a million rows are a million pickled objects (0.3 million rows a second) or a million entries in
the buffer table. Packed, they go in and out at memory speed, as views of the flat buffer, and take 8 bytes
each.

`pack` only decides: it looks at every row and gives None unless all are exact `numpy.ndarray`, of one
dimension and one dtype, and no array is there twice. Whether a row also appears elsewhere in the value is
known only when all of it was pickled; `Packed.row_ids` is for that check (see `collector`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from operator import attrgetter
from typing import Any, NamedTuple

from shoal.lazynumpy import np

from .arrays import Placer, Reduced, dtype_code
from .sources import Array, RaggedRows

ROWS_MIN = 64
# Larger rows are better off as buffers of their own, aligned and copied one by one.
MEAN_ROW_BYTES_MAX = 64 * 1024
# How far `replace_rows` looks into nested containers, and how many items of one it looks at.
DEPTH_MAX = 3
WIDTH_MAX = 32
# Rows looked at, or made, at a time: with what they are made of they fit the cache.
_STEP = 2048

_dtype_of = attrgetter("dtype")
_ndim_of = attrgetter("ndim")


class Packed(NamedTuple):
    """Rows that can be packed.

    Attributes:
        rows: their bytes and offsets.
        row_ids: the sorted `id` of each.
    """

    rows: RaggedRows
    row_ids: Array


class PackedSequence:
    """Stands in a value for a list or tuple of rows until the pickler meets it."""

    __slots__ = ("kind", "packed")

    def __init__(self, packed: Packed, kind: type) -> None:
        self.packed = packed
        self.kind = kind


def pack(rows: Sequence[Any] | Array) -> Packed | None:
    """The rows of a list or tuple, or of an object array of one dimension, if they can be packed.

    What is packed are the rows that are there now: nothing that happens to their container afterwards matters.
    """
    count = len(rows)
    if count < ROWS_MIN or not _may_be_rows(rows):
        return None
    held: Array = np.empty(count, object)
    offsets = np.zeros(count + 1, np.int64)
    dtypes: set[np.dtype[Any]] = set()
    # Each test is one pass in C, some 20 ns a row; of a step at a time, so that all but the first find the rows in the cache.
    for start in range(0, count, _STEP):
        step = rows[start : start + _STEP]
        part = held[start : start + _STEP]
        if len(step) != len(part):
            return None  # a list that another thread has shortened
        part[:] = step if isinstance(step, np.ndarray) else np.fromiter(step, object, len(step))
        step = part.tolist()
        if set(map(type, step)) != {np.ndarray} or set(map(_ndim_of, step)) != {1}:
            return None
        dtypes.update(map(_dtype_of, step))
        if len(dtypes) != 1:
            return None
        # By way of a list: numpy.fromiter takes half as long again for these.
        offsets[start + 1 : start + 1 + _STEP] = list(map(len, step))
    (dtype,) = dtypes
    if dtype_code(dtype) is None or dtype.metadata is not None:
        return None
    np.cumsum(offsets, out=offsets)
    if int(offsets[-1]) * dtype.itemsize > count * MEAN_ROW_BYTES_MAX:
        return None
    row_ids = np.sort(_ids(held))
    if bool((row_ids[1:] == row_ids[:-1]).any()):
        return None
    return Packed(RaggedRows(held, dtype, offsets), row_ids)


def replace_rows(value: Any) -> Any:
    """``value`` with lists of rows, at its top or a few containers below it, as `PackedSequence`.

    Containers on the way to such a list are copied, all others and ``value`` itself stay what they are. Looks
    at a bounded number of items, so a value without rows pays a few microseconds at most.
    """
    return _replace(value, DEPTH_MAX, {})


def reduce_sequence(sequence: PackedSequence, place: Placer) -> Reduced:
    """How to pickle a packed list or tuple."""
    return rebuild_sequence, (sequence.kind, *_arguments(sequence.packed.rows, place))


def reduce_object_array(rows: RaggedRows, shape: tuple[int, ...], place: Placer) -> Reduced:
    """How to pickle an object array of rows."""
    return rebuild_object_array, (shape, *_arguments(rows, place))


def rebuild_sequence(kind: type, dtype: Any, flat: Any, offsets: Any) -> Any:
    """The list or tuple of `reduce_sequence`: views of one buffer."""
    return kind(chain.from_iterable(_views(dtype, flat, _bounds(offsets))))


def rebuild_object_array(shape: tuple[int, ...], dtype: Any, flat: Any, offsets: Any) -> Array:
    """The array of `reduce_object_array`: a fresh container of views of one buffer."""
    bounds = _bounds(offsets)
    rows = chain.from_iterable(_views(dtype, flat, bounds))
    return np.fromiter(rows, object, len(bounds) - 1).reshape(shape)


def _arguments(rows: RaggedRows, place: Placer) -> Reduced:
    return dtype_code(rows.dtype), place(rows, rows.nbytes), place(rows.offsets, rows.offsets.nbytes)


def _bounds(offsets: Any) -> Array:
    return np.frombuffer(offsets, np.int64)


def _views(dtype: Any, flat: Any, bounds: Array) -> Iterator[Iterable[Array]]:
    """The rows, a step at a time: the integers of a million bounds at once are 32 MB of new memory, and a fifth of the time."""
    items: Array = np.ndarray((int(bounds[-1]),), dtype, flat)
    lengths = np.diff(bounds)
    if bool((lengths == lengths[0]).all()):
        yield items.reshape(len(lengths), int(lengths[0]))  # iterated in C: 70 ns a row
        return
    for first in range(0, len(lengths), _STEP):
        start, *stops = bounds[first : first + _STEP + 1].tolist()
        rows: list[Array] = []
        append = rows.append
        for stop in stops:  # 140 ns a row; with pairwise 150, with map(slice, ...) 170
            append(items[start:stop])
            start = stop
        yield rows


def _ids(held: Array) -> Array:
    """The `id` of every item of an object array: an array of these is what it consists of."""
    return np.asarray(_Ids(held)).copy()


class _Ids:
    """What numpy takes for an array of integers over the memory of an array of objects, which it refers to."""

    __slots__ = ("__array_interface__", "_held")

    def __init__(self, held: Array) -> None:
        self._held = held
        self.__array_interface__ = {**held.__array_interface__, "typestr": np.dtype(np.uintp).str}
        del self.__array_interface__["descr"]


def _may_be_rows(rows: Sequence[Any] | Array) -> bool:
    """A look at three of them, so that a list of anything else costs next to nothing."""
    probes: Iterable[Any] = (rows[0], rows[len(rows) // 2], rows[-1])
    return all(type(row) is np.ndarray and row.ndim == 1 for row in probes)


def _replace(value: Any, depth: int, seen: dict[int, Any]) -> Any:
    kind = type(value)
    if kind is not list and kind is not tuple and kind is not dict:
        return value
    if id(value) in seen:
        return seen[id(value)]
    seen[id(value)] = value
    count = len(value)
    if count >= ROWS_MIN and kind is not dict:
        packed = pack(value) if _may_be_rows(value) else None
        if packed is not None:
            seen[id(value)] = PackedSequence(packed, kind)
        return seen[id(value)]
    if not depth or count > WIDTH_MAX:
        return value
    items = list(value.values()) if kind is dict else value
    replaced = [_replace(item, depth - 1, seen) for item in items]
    if all(new is old for new, old in zip(replaced, items, strict=True)):
        return value
    copy = dict(zip(value, replaced, strict=True)) if kind is dict else kind(replaced)
    seen[id(value)] = copy
    return copy

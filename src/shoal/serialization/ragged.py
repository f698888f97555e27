"""Many small one-dimensional arrays in a list or an object array, stored as one flat buffer and its offsets.

One by one, a million rows are a million pickled objects (0.3 million rows a second) or a million entries in
the buffer table. Packed, they go in and out at memory speed, as views of the flat buffer, and take 8 bytes
each.

`pack` only decides: it looks at every row and gives None unless all are exact `numpy.ndarray`, of one
dimension and one dtype, and no array is there twice. Whether a row also appears elsewhere in the value is
known only when all of it was pickled; `Packed.row_ids` is for that check (see `collector`).
"""

from __future__ import annotations

from collections.abc import Iterable
from operator import attrgetter
from typing import Any, NamedTuple

import numpy as np

from .arrays import Placer, Reduced, dtype_code
from .sources import Array, RaggedRows

ROWS_MIN = 64
# Larger rows are better off as buffers of their own, aligned and copied one by one.
MEAN_ROW_BYTES_MAX = 64 * 1024
# How far `replace_rows` looks into nested containers, and how many items of one it looks at.
DEPTH_MAX = 3
WIDTH_MAX = 32

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


def pack(rows: list[Any]) -> Packed | None:
    """The rows, if they can be packed; ``rows`` must not change afterwards."""
    count = len(rows)
    if count < ROWS_MIN or not _may_be_rows(rows):
        return None
    # Each test is one pass in C over all rows: some 20 ns a row, the lengths 90 (they are not next to the
    # rest).
    if set(map(type, rows)) != {np.ndarray} or set(map(_ndim_of, rows)) != {1}:
        return None
    dtypes = set(map(_dtype_of, rows))
    dtype = dtypes.pop()
    if dtypes or dtype_code(dtype) is None or dtype.metadata is not None:
        return None
    offsets = np.zeros(count + 1, np.int64)
    # By way of a list: numpy.fromiter takes 155 ns a row for these, the list and its array 102.
    np.cumsum(np.array(list(map(len, rows)), np.int64), out=offsets[1:])
    if int(offsets[-1]) * dtype.itemsize > count * MEAN_ROW_BYTES_MAX:
        return None
    row_ids = np.sort(np.fromiter(map(id, rows), np.uint64, count))
    if bool((row_ids[1:] == row_ids[:-1]).any()):
        return None
    return Packed(RaggedRows(rows, dtype, offsets), row_ids)


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
    rows = _views(dtype, flat, offsets)
    return rows if kind is list else kind(rows)


def rebuild_object_array(shape: tuple[int, ...], dtype: Any, flat: Any, offsets: Any) -> Array:
    """The array of `reduce_object_array`: a fresh container of views of one buffer."""
    rows = _views(dtype, flat, offsets)
    return np.fromiter(rows, object, len(rows)).reshape(shape)


def _arguments(rows: RaggedRows, place: Placer) -> Reduced:
    return dtype_code(rows.dtype), place(rows, rows.nbytes), place(rows.offsets, rows.offsets.nbytes)


def _views(dtype: Any, flat: Any, offsets: Any) -> list[Array]:
    bounds = memoryview(offsets).cast("B").cast("q").tolist()
    items: Array = np.ndarray((bounds[-1],), dtype, flat)
    rows: list[Array] = []
    append = rows.append
    start = 0
    for stop in bounds[1:]:  # 142 ns a row; with pairwise 184
        append(items[start:stop])
        start = stop
    return rows


def _may_be_rows(rows: list[Any]) -> bool:
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
        packed = pack(list(value)) if _may_be_rows(value) else None
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

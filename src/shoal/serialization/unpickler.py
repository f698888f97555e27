"""Values out of their serialized form.

Buffers are handed to the unpickler as memoryviews of what came in, so every array, table and frame that is
made of them keeps it alive: the last view to die lets it go. Nothing that is loaded can write to it.

An array that is given as data must not be a view of a plain `numpy.ndarray`: numpy shortens chains of
those, and its views would keep only that one alive. An array straight over a mapping, or over bytes, is
right.
"""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from typing import Any, TypeAlias

from shoal.ids import split_ids

from . import format as layout
from .format import NEXT_RIDER, SLOT, BrokenFormatError
from .raw import loads_raw
from .sources import Array

# An array is uint8 in one dimension.
Data: TypeAlias = "bytes | bytearray | memoryview | Array"

_loads = pickle.loads
_RAW = layout.RAW_TAG[0]


def deserialize(data: Data, riders: Sequence[Any] = ()) -> Any:
    """The value.

    Args:
        data: what `Serialized.to_bytes` returned, or `Serialized.write_into` has written, and perhaps more
            behind it. Large buffers are read in place and keep ``data`` alive.
        riders: the refs inside, in the order of the refs table; they appear in the value as they are.

    Raises:
        BrokenFormatError: it is not a serialized value, or torn, or there are fewer riders than refs.
        Exception: whatever the value's own code raises while it is rebuilt.
    """
    try:
        if type(data) is bytes and data:
            if data[0] == _RAW:
                return loads_raw(data)
            if data[:2] == layout.PICKLE_MAGIC:
                return _loads(data)
        view = _view(data)
        if not view.readonly:
            view = view.toreadonly()
        if layout.is_plain(view):
            return _loads(view)
        if layout.is_raw(view):
            return loads_raw(view)
        parts = layout.parse(view)
        return _loads(parts.pickle, buffers=_buffers(view, parts, riders))
    except (pickle.UnpicklingError, EOFError) as error:
        raise BrokenFormatError(f"the pickle inside cannot be read: {error}") from error


def contained_ids(data: Data) -> bytes:
    """The concatenated 16-byte ids of the refs inside, without unpickling anything.

    Raises:
        BrokenFormatError: the header, the buffer table or the refs are torn.
    """
    return layout.contained_ids(_view(data))


def loads_code(data: Data, riders: Sequence[Any] = ()) -> Any:
    """The function or class that `dumps_code` made ``data`` from. Raises as `deserialize` does."""
    return deserialize(data, riders)


def _by_id(refs: bytes, riders: Sequence[Any]) -> dict[bytes, Any]:
    return dict(zip(split_ids(refs), riders, strict=False))


def _view(data: Data) -> memoryview:
    return memoryview(data)  # type: ignore[arg-type,unused-ignore]


def _buffers(view: memoryview, parts: layout.Parts, riders: Sequence[Any]) -> list[Any]:
    """What the pickle takes as its buffers: slices, and access to the riders where it asks for that."""
    expected = len(parts.refs) // layout.ID_SIZE
    if len(riders) < expected:
        raise BrokenFormatError(f"{expected} refs inside, but only {len(riders)} were given")
    if not expected:
        if any(offset == SLOT for offset, _ in parts.table):
            raise BrokenFormatError("a slot for riders, but no refs")
        return [view[offset : offset + size] for offset, size in parts.table]
    buffers: list[Any] = []
    for offset, size in parts.table:
        if offset != SLOT:
            buffers.append(view[offset : offset + size])
        else:
            buffers.append(iter(riders).__next__ if size == NEXT_RIDER else _by_id(parts.refs, riders))
    return buffers

"""Whether what other nodes say of objects makes sense: what does not is refused before anything is done. Pure."""

from __future__ import annotations

from typing import Any

from shoal.ids import OBJECT_ID_SIZE
from shoald.store.errors import ProtocolError

_FETCHED_FIELDS = 12
_CHUNKS_MAX = 2**24
_STAMP_SIZE = 16
_STAMP_SIZES = (0, _STAMP_SIZE)


def check_fetched(message: list[Any]) -> None:
    """Raises ProtocolError unless it describes a copy that can be."""
    if len(message) != _FETCHED_FIELDS:
        raise ProtocolError("malformed P_FETCHED")
    _, req, size, flags, contained, stamp, callsite, content_hash, chunk, have, order, holders = message
    if not (
        type(req) is type(size) is type(flags) is type(chunk) is type(order) is int
        and min(req, size, flags, chunk, order) >= 0
        and type(contained) is type(stamp) is type(content_hash) is type(have) is bytes
        and type(callsite) is str
        and (holders == [] or are_nodes(holders))
    ):
        raise ProtocolError("malformed P_FETCHED")
    if (
        len(contained) % OBJECT_ID_SIZE
        or len(stamp) not in _STAMP_SIZES
        or len(content_hash) not in _STAMP_SIZES
    ):
        raise ProtocolError("P_FETCHED with ids, a stamp or a hash of another size")
    if stamp and (not chunk or size // chunk > _CHUNKS_MAX):
        raise ProtocolError(f"P_FETCHED of {size} bytes in chunks of {chunk}")


def are_nodes(nodes: object) -> bool:
    """Whether it is a list of node ids."""
    return type(nodes) is list and all(type(node) is str for node in nodes)


def check_parcel(open_: set[int], positions: Any, sizes: Any, stamps: Any, callsites: Any) -> None:
    """Raises ProtocolError unless they are columns of the same length, about positions that are ``open_``."""
    if not (type(positions) is type(sizes) is type(callsites) is list and type(stamps) is bytes):
        raise ProtocolError("malformed P_PARCEL")
    count = len(positions)
    if not (len(sizes) == len(callsites) == count and len(stamps) == count * _STAMP_SIZE):
        raise ProtocolError("a P_PARCEL with columns of different lengths")
    if any(type(each) is not int for each in positions) or len(set(positions)) != count:
        raise ProtocolError("a P_PARCEL with positions that are none")
    if not open_.issuperset(positions):
        raise ProtocolError("a P_PARCEL of what was not asked for")
    if any(type(size) is not int or size < 0 for size in sizes) or any(
        type(where) is not str for where in callsites
    ):
        raise ProtocolError("a P_PARCEL with sizes or call sites that are none")

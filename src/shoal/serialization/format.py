"""The layout of a serialized value, and the only code that knows it.

    header (40 bytes) · buffer table · refs · pickle · buffers

    header:  magic, CRC-32 of what follows up to the pickle, total, pickle size, buffers, refs
    table:   per buffer its offset and its size; an offset of 2⁶⁴-1 marks a slot that is filled at the load
    refs:    16-byte object ids, in order of first appearance
    buffers: each at a multiple of 64 bytes from the start

All integers are little-endian and unsigned 64-bit (the CRC and magic apart), so neither a buffer, nor the
pickle, nor the number of buffers has a limit in the format. Bytes between the parts have no meaning.

A value without refs and without large buffers has no header at all: it is a plain pickle of protocol 5, or the bytes of a
small array (raw.py), which the first byte tells apart. `parse` trusts nothing outside the pickle: whatever bytes come in,
it raises `BrokenFormatError` or returns parts that lie inside of them. The content of the pickle is not its business.
"""

from __future__ import annotations

import struct
from typing import NamedTuple
from zlib import crc32

ALIGNMENT = 64
ID_SIZE = 16
MAGIC = b"shl1"
PICKLE_MAGIC = b"\x80\x05"
RAW_TAG = b"\x01"  # a plain array, see raw.py
# Slots of the table that take no bytes: the load fills them with access to the riders.
SLOT = 2**64 - 1
NEXT_RIDER = 0
RIDERS_BY_ID = 1

_header = struct.Struct("<4sIQQQQ")
_counts = struct.Struct("<QQQQ")
_entry = struct.Struct("<QQ")
HEADER_SIZE = _header.size
_CRC_END = 8


class BrokenFormatError(ValueError):
    """The bytes are no value that shoal has serialized, or not all of it."""


class Parts(NamedTuple):
    """A parsed layout; views keep what they were cut from alive.

    Attributes:
        pickle: the pickle stream.
        table: (offset, size) per buffer, checked to lie inside; (`SLOT`, kind) for a slot.
        refs: the concatenated ids of the refs inside.
    """

    pickle: memoryview
    table: list[tuple[int, int]]
    refs: bytes


def aligned(position: int) -> int:
    """The next multiple of `ALIGNMENT` that is not below ``position``."""
    return (position + ALIGNMENT - 1) & -ALIGNMENT


def head_size(buffers: int, refs: int) -> int:
    """Bytes in front of the pickle."""
    return HEADER_SIZE + buffers * _entry.size + refs * ID_SIZE


def make_head(table: list[tuple[int, int]], refs: bytes, pickle_size: int, total: int) -> bytes:
    """Header, buffer table and refs of a layout of ``total`` bytes."""
    pack = _entry.pack
    counts = _counts.pack(total, pickle_size, len(table), len(refs) // ID_SIZE)
    body = b"".join([counts, *[pack(offset, size) for offset, size in table], refs])
    return MAGIC + crc32(body).to_bytes(4, "little") + body


def is_raw(data: memoryview | bytes) -> bool:
    """Whether it is a plain array without a header."""
    return data[:1] == RAW_TAG


def is_plain(data: memoryview | bytes) -> bool:
    """Whether it is a pickle without a header."""
    return data[:2] == PICKLE_MAGIC


def parse(data: memoryview) -> Parts:
    """The parts of a layout with a header.

    Args:
        data: unsigned bytes in one dimension; may be longer than the layout.

    Raises:
        BrokenFormatError: it is torn, or something else; nothing outside of ``data`` is ever pointed at.
    """
    total, pickle_size, buffers, refs = _read_header(data)
    start = head_size(buffers, refs)
    refs_start = HEADER_SIZE + buffers * _entry.size
    pickle_end = start + pickle_size
    table: list[tuple[int, int]] = []
    for offset, size in _entry.iter_unpack(data[HEADER_SIZE:refs_start]):
        if offset == SLOT:
            if size > RIDERS_BY_ID:
                raise BrokenFormatError(f"slot of unknown kind {size}")
        elif offset < pickle_end or offset + size > total or offset % ALIGNMENT:
            raise BrokenFormatError(f"buffer of {size} bytes at {offset} does not fit {total} bytes")
        table.append((offset, size))
    return Parts(data[start:pickle_end], table, bytes(data[refs_start:start]))


def contained_ids(data: memoryview) -> bytes:
    """The concatenated ids of the refs inside; nothing is unpickled. Raises as `parse` does."""
    if is_plain(data) or is_raw(data):
        return b""
    _, _, buffers, refs = _read_header(data)
    end = head_size(buffers, refs)
    return bytes(data[end - refs * ID_SIZE : end])


def _read_header(data: memoryview) -> tuple[int, int, int, int]:
    """Total size, pickle size, number of buffers and of refs; checked against the bytes there are."""
    if data.format != "B" or data.ndim != 1 or not data.c_contiguous:
        raise BrokenFormatError(f"expected plain bytes, not format {data.format!r} in {data.ndim} dimensions")
    if len(data) < HEADER_SIZE or data[:4] != MAGIC:
        raise BrokenFormatError(
            f"{len(data)} bytes that start with {bytes(data[:4])!r} are no serialized value"
        )
    _, crc, total, pickle_size, buffers, refs = _header.unpack_from(data)
    if total > len(data):
        raise BrokenFormatError(f"torn: {len(data)} bytes of {total}")
    end = head_size(buffers, refs)
    if end + pickle_size > total:
        raise BrokenFormatError(
            f"{buffers} buffers, {refs} refs and {pickle_size} bytes of pickle exceed {total}"
        )
    if crc32(data[_CRC_END:end]) != crc:
        raise BrokenFormatError("the checksum of header, buffer table and refs does not match")
    return total, pickle_size, buffers, refs

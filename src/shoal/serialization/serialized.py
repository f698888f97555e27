"""A value in the form that is sent or stored, before it is anywhere: the pickle, and sources of the buffers.

Nothing is copied until `Serialized.to_bytes` or `Serialized.write_into`, and then once. Until then it refers
to the memory of the value, and a change to that shows.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pickle import PickleBuffer, dumps
from typing import Any

from shoal.lazynumpy import notice, np

from . import custom
from .arrays import PROTOCOL, in_band
from .culprit import can_serialize, explain
from .format import SLOT, aligned, head_size, make_head
from .pickler import Dump, RowsAliasedError, return_dump, take_dump
from .ragged import replace_rows
from .sources import (
    BLOCK_BYTES,
    Array,
    Copy,
    Source,
    equal_bytes,
    flat_view,
    source_blocks,
    source_bytes,
    write_source,
)

INLINE_BYTES = 100 * 1024
# What `Serialized.glance` looks at: so many pieces of each of the first buffers.
_GLANCE_SOURCES = 8
_GLANCE_PIECES = 16
_GLANCE_BYTES = 1024


class Serialized:
    """The result of `serialize`.

    Attributes:
        size: bytes of the whole.
        refs: the refs inside, each id once, in order of first appearance.
    """

    __slots__ = ("_head", "_pieces", "_placed", "refs", "size")

    def __init__(self, pieces: list[Any], entries: list[Source | int], refs: list[Any]) -> None:
        pickle_size = sum(map(len, pieces))
        self._pieces = pieces
        self._placed: list[tuple[int, Source]] = []
        self._head = b""
        self.refs = refs
        self.size = pickle_size
        if entries or refs:
            self._lay_out(pickle_size, entries, refs)

    @property
    def is_written_bit_by_bit(self) -> bool:
        """Whether some buffers are not copied in one piece each."""
        return not all(flat_view(source) is not None for _, source in self._placed)

    def to_bytes(self) -> bytes:
        """All of it as one bytes object: the inline form."""
        parts = [self._head, *self._pieces] if self._head else self._pieces
        if not self._placed:
            return b"".join(parts)
        parts = list(parts)
        position = len(self._head) + sum(map(len, self._pieces))
        for offset, source in self._placed:
            parts.append(bytes(offset - position))
            parts.append(source_bytes(source))
            position = offset + source.nbytes
        return b"".join(parts)

    def write_into(self, target: Array, copy: Copy | None = None) -> None:
        """Write all of it to the start of ``target``.

        Args:
            target: uint8, one dimension, writable, at least ``size`` long; a multiple of 64 as address.
            copy: how buffers get into their parts of the target: (part, uint8 of the same length); `numpy.copyto`.

        Raises:
            ValueError: it does not fit. After any failure what ``target`` contains is undefined.
        """
        self._write_front(target)
        for offset, source in self._placed:
            write_source(source, target[offset : offset + source.nbytes], copy)

    def write_hashed(self, target: Array) -> bytes:
        """As `write_into`, in one pass with the hash of what ``target`` has then: `content_hash`, unless the value was changed
        meanwhile by another thread. For memory that is mapped: pages that must be made first are better written in large pieces.
        """
        from .hashing import ContentHash

        content = ContentHash()
        content.add(target[: self._write_front(target)])
        for offset, source in self._placed:
            part = target[offset : offset + source.nbytes]
            flat = flat_view(source)
            if flat is not None:
                content.add_copying(flat, part)
            else:
                write_source(source, part)
                content.add(part)
        return content.digest()

    def content_hash(self) -> bytes:
        """16 bytes (xxh3-128) that are equal for equal content; 35 GB/s."""
        from .hashing import ContentHash

        content = ContentHash()
        content.add_pieces(np.frombuffer(piece, np.uint8) for piece in (self._head, *self._pieces) if piece)
        for _, source in self._placed:
            flat = flat_view(source)
            if flat is not None:
                content.add(flat)
            else:
                content.add_pieces(source_blocks(source))
        return content.digest()

    def glance(self) -> bytes:
        """16 bytes that are equal for equal content, and mostly not for another one: a hash of the pickle, and of some pieces
        of what is next to it. Takes some 20 µs for an array, however large.
        """
        import xxhash

        digest = xxhash.xxh3_128(self._head)
        for piece in self._pieces:
            digest.update(piece)
        for _, source in self._placed[:_GLANCE_SOURCES]:
            flat = flat_view(source)
            if flat is not None:
                last = max(0, flat.size - _GLANCE_BYTES)
                for index in range(_GLANCE_PIECES):
                    start = last * index // (_GLANCE_PIECES - 1)
                    digest.update(flat[start : start + _GLANCE_BYTES].data)
        return digest.digest()

    def equals(self, stored: Array) -> bool:
        """Whether a stored value has the same bytes.

        Args:
            stored: uint8, one dimension; what `write_into` has written, and perhaps more behind it.
        """
        if stored.size < self.size:
            return False
        return all(equal_bytes(block, stored[at : at + block.size]) for at, block in self._blocks())

    def only_buffer(self) -> tuple[int, Array] | None:
        """(offset, bytes in place) of the one buffer beside the pickle; None if there are more, or it is not in one piece."""
        if len(self._placed) != 1 or self.refs:
            return None
        offset, source = self._placed[0]
        flat = flat_view(source)
        return None if flat is None else (offset, flat)

    def _write_front(self, target: Array) -> int:
        """Write all but the buffers; where that ends."""
        if target.dtype != np.uint8 or target.ndim != 1 or target.size < self.size:
            raise ValueError(f"need {self.size} bytes, got {target.size} items of {target.dtype}")
        position = 0
        for piece in (self._head, *self._pieces):
            if piece:
                write_source(np.frombuffer(piece, np.uint8), target[position : position + len(piece)])
                position += len(piece)
        return position

    def _lay_out(self, pickle_size: int, entries: list[Source | int], refs: list[Any]) -> None:
        position = head_size(len(entries), len(refs)) + pickle_size
        table: list[tuple[int, int]] = []
        for entry in entries:
            if isinstance(entry, int):
                table.append((SLOT, entry))
                continue
            offset = aligned(position)
            nbytes = entry.nbytes
            table.append((offset, nbytes))
            self._placed.append((offset, entry))
            position = offset + nbytes
        self.size = position
        self._head = make_head(table, b"".join([ref.id for ref in refs]), pickle_size, position)

    def _blocks(self) -> Iterator[tuple[int, Array]]:
        """All bytes that have a meaning, in pieces that fit the cache, each with its position."""
        position = 0
        for piece in (self._head, *self._pieces):
            for start in range(0, len(piece), BLOCK_BYTES):
                size = min(BLOCK_BYTES, len(piece) - start)
                yield position + start, np.frombuffer(piece, np.uint8, size, start)
            position += len(piece)
        for offset, source in self._placed:
            position = offset
            for block in source_blocks(source):
                yield position, block
                position += block.size


def serialize(value: Any, inline_hint: int = INLINE_BYTES) -> Serialized:
    """Serialize a value.

    Args:
        value: anything that pickle or cloudpickle can take, with refs in it.
        inline_hint: up to this size a value that is just one array is not laid out for reading in place.

    Raises:
        TypeError: it cannot be serialized; the message names the path to the part that cannot.
    """
    notice()
    if type(value) is np.ndarray and value.nbytes <= inline_hint:
        reduced = in_band(value)
        if reduced is not None:
            return Serialized([dumps(reduced, PROTOCOL)], [], [])
    dump = take_dump()
    try:
        _run(dump, value)
        return Serialized(dump.pieces, dump.entries, dump.refs)
    finally:
        return_dump(dump)


def dumps_code(value: Any) -> tuple[bytes, list[Any]]:
    """Serialize a function or class; what is in ``__main__`` goes by value, arrays that it captured stay
    writable.

    Returns:
        The bytes for `loads_code`, and the refs inside (a closure may have some). Registered serializers go along.

    Raises:
        TypeError: as `serialize`.
    """
    if custom.any_registered():
        with contextlib.suppress(
            TypeError
        ):  # of a serializer that cannot travel: without it then, or with the code's own error
            return _dumps_code(custom.WithSerializers(value))
    return _dumps_code(value)


def _dumps_code(value: Any) -> tuple[bytes, list[Any]]:
    dump = take_dump(code=True)
    try:
        dump.in_band_bytes_max = SLOT
        _run(dump, value)
        # A large array that stays in the pickle is written as the buffer that it is.
        pieces = [piece.raw() if isinstance(piece, PickleBuffer) else piece for piece in dump.pieces]
        serialized = Serialized(pieces, dump.entries, dump.refs)
    finally:
        return_dump(dump)
    return serialized.to_bytes(), serialized.refs


def _run(dump: Dump, value: Any) -> None:
    try:
        try:
            dump.run(value if dump.code else replace_rows(value))
        except RowsAliasedError:
            in_band_bytes_max = dump.in_band_bytes_max
            dump.clear()
            dump.in_band_bytes_max = in_band_bytes_max
            dump.run(value, packing=False)
    except (MemoryError, RecursionError):
        raise
    except Exception as error:
        dump.clear()
        if can_serialize(value, dump.code):
            raise  # what raised was not the value, but a signal handler in between
        raise TypeError(explain(value, error, dump.code)) from error

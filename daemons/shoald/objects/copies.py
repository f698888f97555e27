"""A copy: the bytes of one run of an object, as chunks, some or all of which are in this node's region. Pure.

Sets of chunks are whole numbers, a bit per chunk: the first missing one of a 100 GiB object is found in a microsecond.
Threads that serve a copy read `have` and `sums`; the loop alone changes `have`. Whatever changed under a reader in
between, the checksum tells: it is made (or came) before the bytes are sent.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from shoal.config import Config
    from shoal.store.filecopies import FileCopy

_CHUNK_ALIGNMENT = 64 * 1024  # bytes


class Copy:
    """Bytes that do not change.

    Attributes:
        id: of the object.
        stamp: 16 bytes that name these bytes everywhere; another run of the object's task has another.
        size, chunk: bytes, in all and of each chunk but the last.
        chunks: how many there are, one at least; all: every chunk's bit.
        offset: where it lies in this node's region; -1 while there is no room for it.
        file: (path, offset, proof) if it is read where it was spilled, for lack of room; `offset` is 0 then.
        mapped: that file, by the thread that read it first.
        spans: (offset, size) of the parts of its one chunk, if they lie in several places: of a parcel, at its source.
        have: the chunks that are here, a bit each.
        sums: chunk → checksum, of those that were served or received.
        readers: nodes that read it from here: node id → their number for it.
        holders: nodes that have read all of it, in that order.
        grants: how many readers there were.
    """

    __slots__ = (
        "all",
        "chunk",
        "chunks",
        "file",
        "grants",
        "have",
        "holders",
        "id",
        "mapped",
        "offset",
        "readers",
        "size",
        "spans",
        "stamp",
        "sums",
    )

    def __init__(self, object_id: bytes, stamp: bytes, size: int, chunk: int, offset: int = -1) -> None:
        self.id = object_id
        self.stamp = stamp
        self.size = size
        self.chunk = chunk
        self.chunks = -(-size // chunk) or 1
        self.all = (1 << self.chunks) - 1
        self.offset = offset
        self.file: tuple[str, int, int] | None = None
        self.mapped: FileCopy | None = None
        self.spans: list[tuple[int, int]] | None = None
        self.have = 0
        self.sums: dict[int, int] = {}
        self.readers: dict[str, int] = {}
        self.holders: dict[str, None] = {}
        self.grants = 0

    def place(self, chunk: int) -> tuple[int, int]:
        """(offset, size) of a chunk in the region."""
        start = chunk * self.chunk
        return self.offset + start, min(self.chunk, self.size - start)

    def places(self, chunk: int) -> list[tuple[int, int]]:
        """(offset, size) of where the bytes of a chunk lie, in order."""
        return [self.place(chunk)] if self.spans is None else self.spans

    def __repr__(self) -> str:
        return f"<copy {self.stamp.hex()} of {self.id.hex()}, {self.have.bit_count()}/{self.chunks} chunks>"


def chunk_bytes(size: int, config: Config) -> int:
    """Into chunks of what size its first source divides a copy: each costs a turn of every reader's loop, and few are no help
    to readers that get them from each other.
    """
    wanted = size // config.relay_parts & -_CHUNK_ALIGNMENT
    return max(config.pull_chunk_bytes, min(wanted, config.pull_chunk_bytes_max))


def pack_bits(bits: int, chunks: int) -> bytes:
    """A set of chunks for a message."""
    return bits.to_bytes(-(-chunks // 8), "little")


def unpack_bits(packed: bytes, chunks: int) -> int:
    """A set of chunks from a message; of a strange node's only those that can be."""
    return int.from_bytes(packed, "little") & ((1 << chunks) - 1)


def first_from(bits: int, start: int) -> int:
    """The lowest chunk of ``bits`` at or above ``start``, or else the lowest of all; there must be one."""
    above = bits >> start << start
    found = above or bits
    return (found & -found).bit_length() - 1


def spread(order: int, chunks: int) -> int:
    """Where reader ``order`` of a copy starts: 0, then the middle, the quarters, …, so that each brings something new."""
    denominator = 1 << order.bit_length()
    numerator = int(f"{order:0{order.bit_length()}b}"[::-1], 2) if order else 0
    return chunks * numerator // denominator

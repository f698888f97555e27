"""Framing: an 8-byte little-endian length, then the body. One body carries a batch of messages.

Two codecs use it. Client to daemon bodies are msgpack lists (daemons never unpickle, R1; garbage raises
and cannot crash or execute). Submitter to worker bodies are one pickle per batch: both ends run user code
anyway, and nothing is unpickled before the handshake (R9).

`FrameDecoder` does no I/O: bytes in, bodies out; an oversized or torn frame raises `BrokenFrame`, after
which the connection can only be closed.
"""

from __future__ import annotations

import struct
from typing import Any

import msgpack

_length = struct.Struct("<Q")
HEADER_SIZE = _length.size


class BrokenFrame(Exception):
    """The peer sent bytes that are no frame of ours; the connection must be closed."""


def frame(body: bytes) -> bytes:
    """``body`` with its length in front."""
    return _length.pack(len(body)) + body


def encode_batch(messages: list[Any]) -> bytes:
    """A frame with a msgpack batch: a list of messages, each a list that starts with its tag.

    Texts in them are for people: what is not Unicode (a file name in another encoding) becomes "?", and the batch goes out.
    """
    body: bytes = msgpack.packb(messages, use_bin_type=True, unicode_errors="replace")
    return _length.pack(len(body)) + body


def decode_batch(body: bytes | memoryview) -> list[list[Any]]:
    """The messages of a msgpack body; raises `BrokenFrame` unless it is a list of non-empty lists."""
    try:
        batch = msgpack.unpackb(body, raw=False, strict_map_key=False, use_list=True)
    except Exception as error:  # noqa: BLE001  msgpack raises several kinds; all mean that the bytes are not ours
        raise BrokenFrame(f"body is not msgpack: {error}") from None
    if type(batch) is not list:
        raise BrokenFrame("body is not a list of messages")
    for message in batch:
        if type(message) is not list or not message or type(message[0]) is not int:
            raise BrokenFrame("message is not a list that starts with a tag")
    return batch


class FrameDecoder:
    """Collects received bytes and cuts them into frame bodies; linear, however bytes are torn."""

    __slots__ = ("_chunks", "_limit", "_needed", "_size")

    def __init__(self, limit: int) -> None:
        self._chunks: list[bytes] = []
        self._size = 0
        self._needed = HEADER_SIZE
        self._limit = limit

    @property
    def torn(self) -> bool:
        """Whether the last bytes are not a whole frame yet."""
        return bool(self._size)

    def feed(self, data: bytes) -> list[bytes]:
        """Add bytes; return every body that is complete now.

        Raises `BrokenFrame` as soon as a header announces more than the limit.
        """
        if not self._size:
            if (
                len(data) >= HEADER_SIZE
                and _length.unpack_from(data)[0] == len(data) - HEADER_SIZE <= self._limit
            ):
                return [data[HEADER_SIZE:]]  # one whole frame, as most often where one waits for the other
        else:
            self._chunks.append(data)
            self._size += len(data)
            if self._size < self._needed:
                return []
            data = b"".join(self._chunks)
        bodies = []
        start, end = 0, len(data)
        needed = HEADER_SIZE
        while end - start >= HEADER_SIZE:
            size = _length.unpack_from(data, start)[0]
            if size > self._limit:
                raise BrokenFrame(f"frame of {size} bytes; the limit is {self._limit}")
            stop = start + HEADER_SIZE + size
            if stop > end:
                needed = HEADER_SIZE + size
                break
            bodies.append(data[start + HEADER_SIZE : stop])
            start = stop
        self._size = end - start
        self._needed = needed
        self._chunks = [data[start:]] if start < end else []
        return bodies

    @property
    def pending_bytes(self) -> int:
        """Bytes of an incomplete frame that wait for the rest."""
        return self._size

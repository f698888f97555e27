"""One direction of the messages between two nodes: in order, each exactly once, whatever becomes of connections. Pure.

The sender numbers messages from 1 and keeps them, encoded in frames, until the receiver has acknowledged that it handled
them. A new connection begins with the receiver's word on how far it is (`OutStream.connected`); frames from there on
are sent again, and the receiver drops what it has handled (`InStream.fresh`).

Invariants: acknowledged numbers only grow, and never beyond what was sent; frames lie in order without gaps; bytes in flight
are at most the window, and one frame.
"""

from __future__ import annotations

from collections import deque
from typing import Any

import msgpack

from shoal.wire import messages as m
from shoal.wire.frames import frame
from shoald.store.errors import ProtocolError

FRAME_BYTES = 256 * 1024  # of messages that leave together; a longer message has a frame of its own
_pack = msgpack.Packer(use_bin_type=True, unicode_errors="replace", autoreset=True).pack
_MESSAGES_MAX = 2**32 - 1  # what the head of a msgpack list can say


def _list_head(length: int) -> bytes:
    head: bytes = msgpack.Packer().pack_array_header(length)
    return head


_BATCH_OF_ONE = _list_head(1) + _list_head(3) + _pack(m.P_STREAM)


class _Frame:
    """Messages that were encoded together."""

    __slots__ = ("data", "last", "size")

    def __init__(self, last: int, data: bytes, size: int) -> None:
        self.last = last  # the number of its last message
        self.data = data
        self.size = size  # of its messages, without what encloses them


class OutStream:
    """Messages to one life of another node.

    Attributes:
        number: of the last message that was given to it.
        acked: of the last message that the receiver has handled.
        waiting_bytes: of messages that are not acknowledged, sent or not.
    """

    def __init__(self, window_bytes: int, message_bytes_max: int) -> None:
        self._window_bytes = window_bytes
        self._message_bytes_max = message_bytes_max
        self.number = 0
        self.acked = 0
        self.waiting_bytes = 0
        self._queue: deque[bytes] = deque()  # not yet in a frame
        self._frames: deque[_Frame] = deque()  # not yet acknowledged, in order
        self._in_frames_bytes = 0
        self._sent = 0  # how many of these went out on this connection

    def send(self, message: list[Any]) -> None:
        """Take over ``message``; later changes to it are not seen. Raises ValueError for one that is too long."""
        data = _pack(message)
        if len(data) > self._message_bytes_max:
            raise ValueError(f"a message of {len(data)} bytes; the limit is {self._message_bytes_max}")
        self.number += 1
        self.waiting_bytes += len(data)
        self._queue.append(data)

    def take(self) -> list[bytes]:
        """The frames to write to the connection now, in order."""
        while self._queue and self._in_frames_bytes < self._window_bytes:
            self._cut()
        frames = [self._frames[index].data for index in range(self._sent, len(self._frames))]
        self._sent = len(self._frames)
        return frames

    def _cut(self) -> None:
        queue = self._queue
        first = self.number - len(queue) + 1
        pieces = [queue.popleft()]
        size = len(pieces[0])
        while queue and size + len(queue[0]) <= FRAME_BYTES:
            pieces.append(queue.popleft())
            size += len(pieces[-1])
        try:
            body = b"".join([_BATCH_OF_ONE, _pack(first), _list_head(len(pieces)), *pieces])
            self._frames.append(_Frame(first + len(pieces) - 1, frame(body), size))
        except MemoryError:
            queue.extendleft(reversed(pieces))
            raise
        self._in_frames_bytes += size

    def connected(self, handled: int) -> None:
        """A new connection, whose other end has handled all up to ``handled``; raises ProtocolError if that cannot be."""
        self._sent = 0
        self.acknowledged(handled)

    def acknowledged(self, handled: int) -> None:
        """The receiver has handled all up to ``handled``; raises ProtocolError, and changes nothing, if that cannot be."""
        if type(handled) is not int or not self.acked <= handled <= self.number - len(self._queue):
            raise ProtocolError(f"{handled!r} handled, of {self.acked} to {self.number}")
        self.acked = handled
        while self._frames and self._frames[0].last <= handled:
            gone = self._frames.popleft()
            self._sent = max(0, self._sent - 1)
            self.waiting_bytes -= gone.size
            self._in_frames_bytes -= gone.size

    def validate(self) -> None:
        """Raise AssertionError if an invariant is broken."""
        assert 0 <= self.acked <= self.number - len(self._queue)
        assert 0 <= self._sent <= len(self._frames)
        assert self._in_frames_bytes == sum(each.size for each in self._frames)
        assert self.waiting_bytes == self._in_frames_bytes + sum(map(len, self._queue))
        lasts = [each.last for each in self._frames]
        assert lasts == sorted(set(lasts)), lasts
        assert not lasts or lasts[-1] == self.number - len(self._queue)


class InStream:
    """Messages from one life of another node.

    Attributes:
        handled: the number of the last message that was handed to its handler.
        told: the last number that the sender was told.
    """

    def __init__(self) -> None:
        self.handled = 0
        self.told = 0

    def fresh(self, message: list[Any]) -> list[list[Any]]:
        """The messages of a P_STREAM that were not handled before, in order.

        Whoever handles one adds 1 to `handled` first: one that fails does not come again. Raises ProtocolError for what is no
        P_STREAM, or if messages before it are missing.
        """
        if len(message) != 3 or type(message[1]) is not int or type(message[2]) is not list:
            raise ProtocolError("a stream needs a number and messages")
        _, first, messages = message
        if not 0 < first <= self.handled + 1:
            raise ProtocolError(f"message {first} after message {self.handled}")
        for each in messages:
            if type(each) is not list or not each or type(each[0]) is not int:
                raise ProtocolError("a message that does not start with its tag")
        fresh: list[list[Any]] = messages[self.handled + 1 - first :]
        return fresh

    def acknowledge(self) -> int:
        """The number to acknowledge now."""
        self.told = self.handled
        return self.handled

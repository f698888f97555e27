"""A client's authenticated Unix socket, as messages: batches in, batches out, descriptors both ways.

What is sent in one turn of the loop leaves in one frame, at `flush`. A descriptor travels with the frame of
its message and is received in order; the receiver takes one for each message that needs one. Descriptors
given to `send` belong to this socket from then on and are closed once the kernel has them (or the
connection is closed).

A peer that does not read is closed when more than `outbox_bytes_max` wait for it; a peer that sends what is
no frame, more descriptors than it may, or a message that its handler refuses, is closed with a log line.
Nothing else is disturbed.
"""

from __future__ import annotations

import array
import errno
import os
import socket
from collections import deque
from typing import TYPE_CHECKING, Any

from shoal.wire.frames import BrokenFrame, FrameDecoder, decode_batch, encode_batch
from shoald.store.errors import ProtocolError

if TYPE_CHECKING:
    from collections.abc import Callable

    from shoal.config import Config
    from shoald.shell.loop import Loop

RECEIVE_BYTES = 64 * 1024
RECEIVES_PER_TURN = 16  # then the other clients have their turn
DESCRIPTORS_WAITING_MAX = 16
# The peer is there, but the kernel has no memory for the message, or too many descriptors are on their way already.
NO_ROOM_NOW = frozenset({errno.ENOBUFS, errno.ENOMEM, getattr(errno, "ETOOMANYREFS", errno.ENOBUFS)})
_NO_ROOM_PAUSE_S = 0.01
_ANCILLARY_BYTES = socket.CMSG_SPACE(4 * DESCRIPTORS_WAITING_MAX)
# A receiver reads the descriptors of one frame with one call, into a buffer for 64.
DESCRIPTORS_PER_FRAME_MAX = 32


class FrameSocket:
    """One client connection after its handshake.

    Args:
        on_batch: gets the messages of each frame, in order. What it raises closes the connection.
        on_closed: called once, with the reason, after the socket was closed by either side.
        to_flush: the socket adds itself when it has something to send; its owner calls `flush` at the end
            of the turn.
    """

    __slots__ = (
        "_batch",
        "_batch_fds",
        "_config",
        "_deaf",
        "_decoder",
        "_in_fds",
        "_loop",
        "_out",
        "_to_flush",
        "_writing",
        "closed",
        "fd",
        "on_batch",
        "on_closed",
        "out_bytes",
        "sock",
    )

    def __init__(
        self,
        loop: Loop,
        sock: socket.socket,
        config: Config,
        on_batch: Callable[[list[list[Any]]], None],
        on_closed: Callable[[str], None],
        to_flush: set[FrameSocket],
    ) -> None:
        self._loop = loop
        self.sock = sock
        self.fd = sock.fileno()
        self._config = config
        self._decoder = FrameDecoder(config.frame_bytes_max)
        self.on_batch = on_batch
        self.on_closed = on_closed
        self._to_flush = to_flush
        self._batch: list[list[Any]] = []
        self._batch_fds: list[int] = []
        self._out: deque[tuple[memoryview, list[int]]] = deque()
        self.out_bytes = 0
        self._in_fds: deque[int] = deque()
        self._writing = False
        self._deaf = False
        self.closed = False
        loop.add_reader(self.fd, self._readable)

    # --- out ---

    def send(self, message: list[Any], *fds: int) -> None:
        """Queue ``message`` for the frame of this turn, and ``fds`` (taken over, few) with it.

        If there is no memory for a message without ``fds``, it is not queued, and MemoryError raised.
        """
        if self.closed or self._deaf:
            for fd in fds:
                os.close(fd)
            return
        if fds and len(self._batch_fds) + len(fds) > DESCRIPTORS_PER_FRAME_MAX:
            self._close_batch()
        self._to_flush.add(self)  # first: a message that there is no memory for is not half queued
        self._batch.append(message)
        self._batch_fds.extend(fds)

    def send_frame(self, data: bytes) -> None:
        """Queue a frame that was encoded before; only for sockets that carry no messages beside such."""
        if not self.closed and not self._deaf:
            self._out.append((memoryview(data), []))
            self.out_bytes += len(data)
            self._to_flush.add(self)

    def flush(self) -> None:
        """Send what was queued, as far as the kernel takes it; the rest follows when there is room."""
        if self.closed:
            return
        if self._batch:
            self._close_batch()
        if self.out_bytes > self._config.outbox_bytes_max:
            self.close(f"does not read: {self.out_bytes} bytes wait for it")
        elif not self._writing:
            self._write()

    def _close_batch(self) -> None:
        data = encode_batch(self._batch)
        self._out.append((memoryview(data), self._batch_fds))
        self.out_bytes += len(data)
        self._batch, self._batch_fds = [], []

    def _write(self) -> None:
        try:
            while self._out:
                data, fds = self._out[0]
                if fds:
                    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))]
                    sent = self.sock.sendmsg([data], rights)
                    _close_all(fds)
                else:
                    sent = self.sock.send(data)
                self.out_bytes -= sent
                if sent < len(data):
                    self._out[0] = (data[sent:], [])
                else:
                    self._out.popleft()
        except BlockingIOError:
            if not self._writing:
                self._writing = True
                self._loop.add_writer(self.fd, self._write)
        except OSError as error:
            if error.errno in NO_ROOM_NOW:  # the kernel does not say when that is over
                self._loop.remove_writer(self.fd)
                self._writing = True
                self._loop.call_later(_NO_ROOM_PAUSE_S, self._write_again)
            else:
                self._hears_nothing()
        else:
            self._stop_writing()

    def _write_again(self) -> None:
        if not self.closed:
            self._writing = False
            self._write()

    def _stop_writing(self) -> None:
        if self._writing:
            self._writing = False
            self._loop.remove_writer(self.fd)

    def _hears_nothing(self) -> None:
        """The peer has ended, and is sent nothing more; but what it had sent before counts: reading ends with its stream."""
        self._deaf = True
        self._stop_writing()
        self._drop_unsent()

    def _drop_unsent(self) -> None:
        _close_all(self._batch_fds)
        for _, fds in self._out:
            _close_all(fds)
        self._out.clear()
        self._batch = []
        self.out_bytes = 0

    # --- in ---

    def take_fd(self) -> int:
        """The descriptor that came with the message being handled; the caller owns it."""
        if not self._in_fds:
            raise ProtocolError("a message without the descriptor that belongs to it")
        return self._in_fds.popleft()

    def drain(self) -> None:
        """Handle all that a peer, which has ended, had sent before; then close."""
        while not self.closed and self._receive_some():
            pass
        self.close("")

    def _readable(self) -> None:
        for _ in range(RECEIVES_PER_TURN):
            if self._receive_some() < RECEIVE_BYTES:
                return

    def _receive_some(self) -> int:
        """Handle what one call to the kernel brings; how many bytes, 0 if there is nothing now or never
        will be.
        """
        try:
            data = self._receive()
            if not data:
                self.close("")
                return 0
            for body in self._decoder.feed(data):
                self.on_batch(decode_batch(body))
                if self.closed:
                    return 0
            return len(data)
        except BlockingIOError:
            return 0
        except (BrokenFrame, ProtocolError) as error:
            self.close(str(error))
        except OSError as error:
            self.close(f"cannot be read: {error}")
        except Exception:
            # A fault of this daemon: the rest of the frame is lost, so the stream cannot go on. The loop
            # logs it.
            self.close("its message met a fault of the daemon")
            raise
        return 0

    def _receive(self) -> bytes:
        data, ancillary, flags, _ = self.sock.recvmsg(
            RECEIVE_BYTES, _ANCILLARY_BYTES, socket.MSG_CMSG_CLOEXEC
        )
        for level, kind, content in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                fds = array.array("i")
                fds.frombytes(content[: len(content) - len(content) % fds.itemsize])
                self._in_fds.extend(fds)
        if flags & socket.MSG_CTRUNC or len(self._in_fds) > DESCRIPTORS_WAITING_MAX:
            raise ProtocolError("more descriptors than messages need")
        return data

    def close(self, reason: str) -> None:
        """Close now and tell `on_closed` why ("": the peer closed it); unsent messages are dropped."""
        if self.closed:
            return
        self.closed = True
        self._loop.remove_reader(self.fd)
        self._stop_writing()
        self.sock.close()
        self._drop_unsent()
        _close_all(self._in_fds)
        self._to_flush.discard(self)
        self.on_closed(reason)


def _close_all(fds: list[int] | deque[int]) -> None:
    while fds:
        os.close(fds.pop())

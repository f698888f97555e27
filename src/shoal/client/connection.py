"""A non-blocking Unix or TCP socket that speaks frames, read by whichever thread leads the reactor.

Sending never blocks: what the kernel does not take waits in `_out`, and the reactor writes it when there is room
(two peers that block in `sendall` to each other would never wake up). All methods are called with the
runtime's lock held, except `receive`, which only the leader calls.
"""

from __future__ import annotations

import array
import contextlib
import os
import pickle
import select
import socket
import struct
from collections import deque
from typing import TYPE_CHECKING, Any

from shoal.wire.frames import BrokenFrame, FrameDecoder, frame

if TYPE_CHECKING:
    from collections.abc import Callable

    from shoal.client.reactor import Reactor

RECEIVE_BYTES = 256 * 1024
_DESCRIPTORS_MAX = 64
_ANCILLARY_BYTES = socket.CMSG_SPACE(4 * _DESCRIPTORS_MAX)


def pickled_frames(messages: list[Any], bytes_max: int) -> list[bytes]:
    """Frames for another process of this job, of at most ``bytes_max`` unless one message is longer."""
    body = pickle.dumps(messages, 5)
    if len(body) <= bytes_max or len(messages) == 1:
        return [frame(body)]
    half = len(messages) // 2
    return pickled_frames(messages[:half], bytes_max) + pickled_frames(messages[half:], bytes_max)


class Connection:
    """One socket of a process.

    Args:
        on_frames: called by the leader, with the lock held, with every batch of complete frame bodies.
        on_closed: called once, with the lock held, when the peer is gone or broke the protocol.
        on_drained: called, with the lock held, when the kernel has taken all that had to wait.
        descriptors: the peer may send file descriptors; they are collected in `descriptors`.

    Attributes:
        ended: the peer has ended it, not an accident or this side: all that it had sent was read.
    """

    __slots__ = ("_decoder", "_out", "_reactor", "closed", "closing", "descriptors", "ended", "fd", "on_closed", "on_drained",
                 "on_frames", "out_bytes", "owner", "sock")  # fmt: skip

    def __init__(
        self,
        sock: socket.socket,
        reactor: Reactor,
        frame_bytes_max: int,
        on_frames: Callable[[Connection, list[bytes]], None],
        on_closed: Callable[[Connection], None],
        descriptors: bool = False,
        on_drained: Callable[[Connection], None] | None = None,
    ) -> None:
        sock.setblocking(False)
        self.sock = sock
        self.fd = sock.fileno()
        self._reactor = reactor
        self._decoder = FrameDecoder(frame_bytes_max)
        self._out: deque[memoryview] = deque()
        self.out_bytes = 0
        self.on_frames = on_frames
        self.on_closed = on_closed
        self.on_drained = on_drained
        self.descriptors: deque[int] | None = deque() if descriptors else None
        self.closed = self.ended = False
        self.closing = False
        self.owner: object = None
        reactor.register(self)

    def send(self, data: bytes) -> None:
        """Send now what the kernel takes, and the rest when it can. A dead peer is noticed by the reader."""
        if self.closed:
            return
        if self._out:
            self._queue(memoryview(data))
            return
        try:
            sent = self.sock.send(data)
        except BlockingIOError:
            sent = 0
        except OSError:
            self._reactor.lost(self)
            return
        if sent < len(data):
            self._queue(memoryview(data)[sent:])
            self._reactor.want_write(self, True)

    def send_pickled(self, messages: list[Any], bytes_max: int) -> None:
        """Send a batch for another process of this job, in frames of at most ``bytes_max`` unless one message is longer."""
        body = pickle.dumps(messages, 5)
        if len(body) <= bytes_max:
            self.send(frame(body))
        else:
            for data in pickled_frames(messages, bytes_max):
                self.send(data)

    def send_with_descriptor(self, data: bytes, descriptor: int) -> None:
        """Send after all that is queued, waiting for the kernel to take its start (the daemon reads whatever happens)."""
        poll = select.poll()
        poll.register(self.fd, select.POLLOUT)
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [descriptor]))]
        while not self.closed:
            if self._out:
                self.writable()
            sent = 0
            try:
                if not self._out:
                    sent = self.sock.sendmsg([data], rights)
            except BlockingIOError:
                sent = 0  # no room at the moment
            except OSError:
                self._reactor.lost(self)
                return
            if sent == len(data):
                return
            if sent:
                self._queue(memoryview(data)[sent:])
                self._reactor.want_write(self, True)
                return
            if any(mask & ~select.POLLOUT for _, mask in poll.poll(1000)):
                return  # the daemon is gone; the reader will notice

    def forget(self) -> None:
        """In a forked child: close this copy of the socket, and touch nothing that the parent shares."""
        self.closed = True
        self.sock.close()
        self._out.clear()
        self.out_bytes = 0

    def _queue(self, data: memoryview) -> None:
        self._out.append(data)
        self.out_bytes += len(data)

    def writable(self) -> None:
        """The kernel has room: go on sending (leader)."""
        while self._out:
            data = self._out[0]
            try:
                sent = self.sock.send(data)
            except BlockingIOError:
                return
            except OSError:
                self._reactor.lost(self)
                return
            self.out_bytes -= sent
            if sent < len(data):
                self._out[0] = data[sent:]
                return
            self._out.popleft()
        self._reactor.want_write(self, False)
        if self.closing:
            self.close()
        elif self.on_drained is not None:
            self.on_drained(self)

    def receive(self) -> list[bytes] | None:
        """Read what is there: complete frame bodies, or None when the peer is gone.

        Raises `BrokenFrame` when the bytes are no frames of ours.
        """
        try:
            if self.descriptors is None:
                data = self.sock.recv(RECEIVE_BYTES)
            else:
                data = self._receive_with_descriptors()
        except BlockingIOError:
            return []
        except OSError:
            self._ends(orderly=self.sock.family == socket.AF_UNIX)  # that loses nothing that was sent
            return None
        if not data:
            self._ends(orderly=True)
            return None
        return self._decoder.feed(data)

    def _ends(self, *, orderly: bool) -> None:
        """Nothing more can be read."""
        self.ended = orderly and not self._decoder.torn

    def _receive_with_descriptors(self) -> bytes:
        data, ancillary, flags, _ = self.sock.recvmsg(
            RECEIVE_BYTES, _ANCILLARY_BYTES, socket.MSG_CMSG_CLOEXEC
        )
        for level, kind, content in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS and self.descriptors is not None:
                fds = array.array("i")
                fds.frombytes(content[: len(content) - len(content) % fds.itemsize])
                self.descriptors.extend(fds)
        if flags & socket.MSG_CTRUNC:  # the next one would be taken for it
            raise BrokenFrame(
                "a connection that came with a message could not be taken: this process has too many open files (ulimit -n)"
            )
        return data

    @property
    def readable(self) -> bool:
        """Whether there is something to read now: messages, or the end."""
        if self.closed:
            return False
        poll = select.poll()
        poll.register(self.fd, select.POLLIN)
        return bool(poll.poll(0))

    def write_out(self) -> None:
        """Send all that is queued, waiting for the kernel to take it; for the daemon, which reads whatever happens."""
        if not self._out:
            return
        poll = select.poll()
        poll.register(self.fd, select.POLLOUT)
        while self._out and not self.closed:
            if any(mask & ~select.POLLOUT for _, mask in poll.poll(1000)):
                return  # it is gone; the reader will notice
            self.writable()

    def send_end(self) -> None:
        """Say that nothing follows what was sent: the peer reads all of that even if what it sends now is read by nobody."""
        with contextlib.suppress(OSError):  # it has ended, or is lost
            self.sock.shutdown(socket.SHUT_WR)

    @property
    def waits_for_kernel(self) -> bool:
        """Whether bytes are left that can go as soon as the kernel has room for them."""
        return bool(self._out) and not self.closed

    def reset(self) -> None:
        """Close now, so that a peer on another machine takes it for an accident, not for the end of all that there was to say."""
        if not self.closed and self.sock.family != socket.AF_UNIX:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close()

    def close_soon(self) -> None:
        """Close after what is queued has been sent."""
        if self._out:
            self.closing = True
        else:
            self.close()

    def close(self) -> None:
        """Close now; unsent bytes are dropped."""
        if not self.closed:
            self.closed = True
            self._reactor.unregister(self)
            self.sock.close()
            self._out.clear()
            self.out_bytes = 0
            while self.descriptors:  # came with messages that nobody will read
                os.close(self.descriptors.popleft())

"""TlsSocket: an encrypted connection that the rest of the daemon takes for a plain socket.

`FrameSocket` and the threads that move chunks use few calls of a socket. Here they mean the same: what would block raises
BlockingIOError, at once or after the time that `set_patience` names, an end is b"" or 0, and scattered and gathered calls do
their first buffer (callers go on with the rest, as they must for any socket).

Nothing waits unseen inside: OpenSSL takes one record from the kernel at a time, and a record is never larger than what is
asked for (`RECORD_BYTES`), so what epoll says of the descriptor is the whole truth.

One thread reads and writes it, except for `shutdown`, which any other may call to wake that one.
"""

from __future__ import annotations

import errno
import select
import socket
import ssl
from typing import Any

RECORD_BYTES = 16 * 1024  # the plaintext of one record, at most


class TlsSocket(ssl.SSLSocket):
    """Made by a context whose `sslsocket_class` it is, of a non-blocking socket; the handshake is the maker's to do."""

    # By `set_patience`: None is not at all, 0 for ever.
    _receive_s: float | None = None
    _send_s: float | None = None

    def set_patience(self, receive_s: float | None, send_s: float | None) -> None:
        """How long calls wait for the peer, at most: None is not at all, 0 for ever."""
        self._receive_s = receive_s
        self._send_s = send_s

    def _wait(self, events: int, limit_s: float | None) -> None:
        poll = select.poll()
        poll.register(self.fileno(), events)
        if limit_s is None or not poll.poll(limit_s * 1000 or None):
            raise BlockingIOError(errno.EAGAIN, "the peer is not ready")

    def greet(self) -> bool:
        """Take the handshake a step further; whether it is complete. Raises OSError."""
        try:
            self.do_handshake()
        except ssl.SSLWantReadError:
            return False
        return True

    def greet_within(self, limit_s: float) -> None:
        """Do the handshake, waiting for the peer that long at every step. Raises OSError (BlockingIOError: too long)."""
        while not self.greet():
            self._wait(select.POLLIN, limit_s)

    def recv(self, buflen: int = RECORD_BYTES, flags: int = 0) -> bytes:
        while True:
            try:
                return super().recv(buflen)
            except ssl.SSLWantReadError:
                self._wait(select.POLLIN, self._receive_s)

    # The base class has neither of the next three, and says so in its types.

    def recvmsg(  # type: ignore[override]
        self, bufsize: int, *_: Any
    ) -> tuple[bytes, list[Any], int, Any]:
        """No descriptor comes this way."""
        return self.recv(bufsize), [], 0, None

    def recv_into(self, buffer: Any, nbytes: int | None = None, flags: int = 0) -> int:
        while True:
            try:
                return super().recv_into(buffer, nbytes or None)
            except ssl.SSLWantReadError:
                self._wait(select.POLLIN, self._receive_s)

    def recvmsg_into(  # type: ignore[override]
        self, buffers: Any, *_: Any
    ) -> tuple[int, list[Any], int, Any]:
        return self.recv_into(buffers[0]), [], 0, None

    def send(self, data: Any, flags: int = 0) -> int:
        while True:
            try:
                return super().send(data)
            except ssl.SSLWantWriteError:
                self._wait(select.POLLOUT, self._send_s)

    def sendmsg(self, buffers: Any, *_: Any) -> int:  # type: ignore[override]
        return self.send(buffers[0])

    def shutdown(self, how: int) -> None:
        """Of the connection. (The base class forgets the keys first, and a thread that reads would go on in clear.)"""
        socket.socket.shutdown(self, how)

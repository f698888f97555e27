"""A connection between a submitter and a worker of another machine, encrypted; `Connection`'s promises hold.

The one that was connected from is TLS's client. Neither side waits for the handshake, since each may be waiting for the other's
process: it goes on as bytes come in, and what is sent before its end waits here, in clear, and counts among `out_bytes`.

TLS works on bytes in memory, and all that has come is decrypted at once: so nothing waits where epoll cannot see it, and what
waits for the kernel is encrypted already.
"""

from __future__ import annotations

import socket
import ssl
from typing import TYPE_CHECKING, Any

from shoal.client.connection import RECEIVE_BYTES, Connection
from shoal.wire.frames import BrokenFrame

if TYPE_CHECKING:
    from shoal.client.reactor import Reactor

_PLAIN_BYTES = 256 * 1024  # of one look for decrypted bytes


class TlsConnection(Connection):
    """A `Connection` with TLS.

    Args:
        context: of this side.
        server_side: this process was connected to.
    """

    __slots__ = ("_held", "_incoming", "_outgoing", "_tls")

    def __init__(
        self,
        context: ssl.SSLContext,
        server_side: bool,
        sock: socket.socket,
        reactor: Reactor,
        *arguments: Any,
        **options: Any,
    ) -> None:
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side=server_side)
        self._held: list[bytes] | None = []  # what is to be sent after the handshake; None after it
        super().__init__(sock, reactor, *arguments, **options)
        self._greet()

    def send(self, data: bytes) -> None:
        """Encrypt and send now what the kernel takes, and the rest when it can."""
        if self._held is None:
            self._send_encrypted(data)
        elif not self.closed:
            self._held.append(data)
            self.out_bytes += len(data)

    def _send_encrypted(self, data: bytes) -> None:
        left = memoryview(data)
        while left:
            left = left[self._tls.write(left) :]
        super().send(self._outgoing.read())

    def receive(self) -> list[bytes] | None:
        """Read and decrypt what is there; see `Connection.receive`."""
        try:
            data = self.sock.recv(RECEIVE_BYTES)
        except BlockingIOError:
            return []
        except OSError:
            self._ends(orderly=False)
            return None
        if not data:
            self._ends(orderly=True)
            return None
        self._incoming.write(data)
        try:
            if self._held is not None and not self._greet():
                return []
            return self._decrypt()
        except ssl.SSLError as error:
            raise BrokenFrame(f"no TLS: {error}") from None

    def _greet(self) -> bool:
        """Take the handshake a step further; whether it is complete."""
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            complete = False
        else:
            complete = True
        finally:
            if self._outgoing.pending:  # also what says why it has failed
                super().send(self._outgoing.read())
        if complete:
            self._release()
        return complete

    def _release(self) -> None:
        """The handshake is complete: what has waited for it goes out."""
        held, self._held = self._held or [], None
        for data in held:
            self.out_bytes -= len(data)
            self._send_encrypted(data)
        if self._out:
            return
        if self.closing:
            self.close()
        elif held and self.on_drained is not None:
            self.on_drained(self)

    def _decrypt(self) -> list[bytes] | None:
        bodies: list[bytes] = []
        try:
            while data := self._tls.read(_PLAIN_BYTES):
                bodies += self._decoder.feed(data)
        except ssl.SSLWantReadError:
            if self._outgoing.pending:  # an answer of TLS itself, to an update of keys
                super().send(self._outgoing.read())
        except ssl.SSLZeroReturnError:
            pass  # its end; the socket's follows
        return bodies

    def close_soon(self) -> None:
        """Close after what is queued, or waits for the handshake, has been sent."""
        if self._held:
            self.closing = True
        else:
            super().close_soon()

    def forget(self) -> None:
        super().forget()
        self._held = []

    def close(self) -> None:
        if not self.closed:
            self._held = []
            super().close()

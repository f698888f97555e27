"""TCP as nodes use it: addresses, socket options, and connections that are opened and proven without blocking the loop.

Whoever takes an open connection over finds it non-blocking, with nothing read beyond the handshake. Addresses of nodes
are numbers ("10.0.0.7:4711", "[fe80::1]:4711"): a name would have to be looked up, which blocks.
"""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING

from shoal.wire import auth
from shoal.wire.tls import TlsUnavailable

if TYPE_CHECKING:
    from collections.abc import Callable

    from shoal.config import Config
    from shoald.shell.identity import Identity
    from shoald.shell.loop import Loop
    from shoald.shell.tlssocket import TlsSocket

_KEEPALIVE_PROBES = 3


def join_address(host: str, port: int) -> str:
    """host:port, with brackets around IPv6."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def split_address(address: str) -> tuple[str, int]:
    """(host, port); raises ValueError for what is no address."""
    host, colon, port = address.rpartition(":")
    if not colon or not port.isdigit() or not host:
        raise ValueError(f"{address!r} is not host:port")
    return host.strip("[]"), int(port)


def set_tcp_options(sock: socket.socket, silence_ms_max: float) -> None:
    """Send at once (replies are small and waited for), and notice a peer that has been unreachable for ``silence_ms_max``."""
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    every_s = max(1, round(silence_ms_max / 1000 / _KEEPALIVE_PROBES))
    for name, value in (
        ("TCP_KEEPIDLE", every_s),
        ("TCP_KEEPINTVL", every_s),
        ("TCP_KEEPCNT", _KEEPALIVE_PROBES),
        ("TCP_USER_TIMEOUT", max(1, round(silence_ms_max))),
    ):
        if hasattr(socket, name):
            sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def outward_host(towards: str) -> str:
    """This machine's address as those see it who are reached by way of ``towards`` (host:port); nothing is sent."""
    host, port = split_address(towards)
    family, kind, number, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)[0]
    with socket.socket(family, kind, number) as sock:
        sock.connect(address)
        name: str = sock.getsockname()[0]
        return name


class Dial:
    """A connection that is being opened and proven.

    Args:
        address: of a node's data listener.
        identity: which this one proves; it says whether TLS follows. (Not done here for tasks: whoever gets the connection does.)
        on_open: gets the socket, which is the callee's.
        on_failed: gets the reason. One of the two is called, once, and neither after `cancel`.

    Attributes:
        tls: whether the connection is to be encrypted.
    """

    def __init__(
        self,
        loop: Loop,
        address: str,
        identity: Identity,
        kind: int,
        target: bytes,
        config: Config,
        on_open: Callable[[socket.socket], None],
        on_failed: Callable[[str], None],
    ) -> None:
        self._loop = loop
        self._address = address
        self._identity = identity
        self.tls = identity.wants_tls(address.rpartition(":")[0])
        self._greets = self.tls and kind != auth.KIND_TASKS
        self._preamble = auth.make_preamble(kind, target, tls=self.tls)
        self._on_open = on_open
        self._on_failed = on_failed
        self._data = b""
        self._done = False
        self._sock: socket.socket | None = None
        self._timer = loop.call_later(config.handshake_ms_max / 1000, lambda: self._fail("no answer in time"))
        self._silence_ms_max = config.node_dead_ms
        try:
            self._connect()
        except (OSError, ValueError) as error:
            reason = str(error)  # in a turn of its own: the caller has not stored this object yet
            loop.call_later(0, lambda: self._fail(reason))

    def _connect(self) -> None:
        host, port = split_address(self._address)
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._sock = sock = socket.socket(family, socket.SOCK_STREAM)
        sock.setblocking(False)
        set_tcp_options(sock, self._silence_ms_max)
        sock.connect_ex((host, port))
        self._loop.add_writer(sock.fileno(), self._connected)

    def _connected(self) -> None:
        sock = self._sock
        assert sock is not None
        self._loop.remove_writer(sock.fileno())
        error = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if error:
            self._fail(os.strerror(error))
            return
        self._loop.add_reader(sock.fileno(), self._readable)
        self._send(self._preamble)

    def _send(self, data: bytes) -> None:
        assert self._sock is not None
        try:
            self._sock.sendall(data)  # fits any socket buffer; otherwise it fails, and closes
        except OSError as error:
            self._fail(error.strerror or str(error))

    def _readable(self) -> None:
        sock = self._sock
        assert sock is not None
        try:
            piece = sock.recv(auth.CHALLENGE_SIZE - len(self._data))
        except BlockingIOError:
            return
        except OSError as error:
            self._fail(error.strerror or str(error))
            return
        self._data += piece
        if not piece:
            self._fail("closed during the handshake")
        elif len(self._data) == auth.CHALLENGE_SIZE:
            self._prove()

    def _prove(self) -> None:
        sock = self._sock
        assert sock is not None
        try:
            proof = auth.answer_challenge(self._identity.secret, self._preamble, self._data)
        except auth.HandshakeFailed as error:
            self._fail(str(error))
            return
        self._send(proof)
        if not self._greets:
            self._open()
        elif not self._done:
            self._begin_tls(sock)

    def _begin_tls(self, sock: socket.socket) -> None:
        try:
            tls = self._identity.wrap(sock, server_side=False)
        except (OSError, TlsUnavailable) as error:
            self._fail(f"no TLS: {error}")
            return
        self._sock = tls
        self._loop.remove_reader(tls.fileno())
        self._loop.add_reader(tls.fileno(), lambda: self._greet(tls))
        self._greet(tls)

    def _greet(self, sock: TlsSocket) -> None:
        try:
            complete = sock.greet()
        except OSError as error:
            self._fail(f"no TLS: {error}")
        else:
            if complete:
                self._open()

    def _open(self) -> None:
        sock = self._sock
        if self._end():
            assert sock is not None
            self._on_open(sock)

    def _end(self) -> bool:
        """Let go of loop and timer; whether this was still under way."""
        if self._done:
            return False
        self._done = True
        self._timer.cancel()
        if self._sock is not None:
            self._loop.remove_reader(self._sock.fileno())
            self._loop.remove_writer(self._sock.fileno())
        return True

    def _fail(self, reason: str) -> None:
        if self._end():
            if self._sock is not None:
                self._sock.close()
            self._on_failed(f"{self._address}: {reason}")

    def cancel(self) -> None:
        """Give up, without a word."""
        if self._end() and self._sock is not None:
            self._sock.close()

"""Listening sockets, Unix and TCP, and the handshakes of those who connect: nobody is heard before the proof (R9).

Peers of another user on a Unix socket are refused by the kernel's word on who they are, where it can tell; the secret
decides in any case. Handshakes have fixed sizes, a time limit and a bound on how many are in progress:
beyond it the oldest is closed. Every refusal is one log line.
"""

from __future__ import annotations

import os
import socket
import struct
from typing import TYPE_CHECKING, Any

from shoal.wire import auth
from shoald.shell.tcp import join_address, set_tcp_options

if TYPE_CHECKING:
    from collections.abc import Callable

    from shoal.config import Config
    from shoald.shell.identity import Identity
    from shoald.shell.loop import Loop, Timer
    from shoald.shell.tlssocket import TlsSocket

ACCEPTS_PER_TURN = 64
BACKLOG = 512
_TLS_DIFFERS = (
    "it wants TLS, which is off here (--tls)",
    "it wants no TLS, which is on here (--tls)",
)
OVERFLOW_UID = 65534  # how a user namespace shows a uid that it cannot name
_credentials = struct.Struct("3i")


def peer_credentials(sock: socket.socket) -> tuple[int, int]:
    """(pid, uid) of the peer of a Unix socket, (0, OVERFLOW_UID) where the platform does not tell."""
    if not hasattr(socket, "SO_PEERCRED"):
        return 0, OVERFLOW_UID
    pid, uid, _ = _credentials.unpack(
        sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _credentials.size)
    )
    return pid, uid


class _Handshake:
    """A connection that has not proved anything yet."""

    __slots__ = ("challenge", "data", "kind", "needed", "peer", "pid", "preamble", "sock", "target", "timer")

    def __init__(self, sock: socket.socket, pid: int, peer: str) -> None:
        self.sock = sock
        self.pid = pid
        self.peer = peer  # for people
        self.data = b""
        self.needed = auth.PREAMBLE_SIZE
        self.preamble = b""
        self.challenge = b""
        self.kind = 0
        self.target = b""
        self.timer: Timer | None = None


class Listener:
    """Accepts connections at ``sock``, which listens, and hands over those that know the secret.

    Args:
        on_connection: gets (kind, target, socket, peer's pid); the socket is non-blocking and now the
            callee's.
        on_refused: gets one line for the log.
    """

    encrypts: Identity | None = None

    def __init__(
        self,
        loop: Loop,
        sock: socket.socket,
        secret: bytes,
        config: Config,
        on_connection: Callable[[int, bytes, socket.socket, int], None],
        on_refused: Callable[[str], None],
    ) -> None:
        self._loop = loop
        self._secret = secret
        self._config = config
        self._on_connection = on_connection
        self._on_refused = on_refused
        self._pending: dict[int, _Handshake] = {}
        self._sock = sock
        loop.add_reader(self._sock.fileno(), self._accept)

    def _accept(self) -> None:
        for _ in range(ACCEPTS_PER_TURN):
            try:
                sock, address = self._sock.accept()
            except BlockingIOError:
                return
            except OSError as error:
                # Out of descriptors, most likely. The connection stays in the backlog: look away for a
                # moment instead of spinning over it.
                self._on_refused(f"cannot accept a connection: {error}")
                self._loop.remove_reader(self._sock.fileno())
                self._loop.call_later(0.1, self._accept_again)
                return
            sock.setblocking(False)
            handshake = self._admit(sock, address)
            if handshake is None:
                sock.close()
            else:
                self._begin(handshake)

    def _admit(self, sock: socket.socket, address: object) -> _Handshake | None:
        raise AssertionError("each kind of listener says whom it hears")

    def _accept_again(self) -> None:
        if self._sock.fileno() >= 0:
            self._loop.add_reader(self._sock.fileno(), self._accept)

    def _begin(self, handshake: _Handshake) -> None:
        if len(self._pending) >= self._config.handshakes_max:
            oldest = next(iter(self._pending.values()))
            self._refuse(oldest, "too many handshakes in progress; this is the oldest")
        self._pending[handshake.sock.fileno()] = handshake
        handshake.timer = self._loop.call_later(
            self._config.handshake_ms_max / 1000,
            lambda: self._refuse(handshake, "the handshake took too long"),
        )
        self._loop.add_reader(handshake.sock.fileno(), lambda: self._advance(handshake))

    def _advance(self, handshake: _Handshake) -> None:
        try:
            # Never more than this step needs: what follows the proof belongs to the next reader.
            piece = handshake.sock.recv(handshake.needed - len(handshake.data))
            if not piece:
                self._refuse(handshake, "closed during the handshake" if handshake.data else "")
                return
            handshake.data += piece
            if len(handshake.data) == handshake.needed:
                self._step(handshake)
        except BlockingIOError:
            return
        except auth.HandshakeFailed as error:
            self._refuse(handshake, str(error))
        except OSError as error:
            self._refuse(handshake, f"broke during the handshake: {error}")

    def _step(self, handshake: _Handshake) -> None:
        if not handshake.preamble:
            handshake.kind, handshake.target = auth.read_preamble(handshake.data)
            handshake.preamble = handshake.data
            if auth.wants_tls(handshake.preamble) is not (self.encrypts is not None):
                raise auth.HandshakeFailed(_TLS_DIFFERS[self.encrypts is not None])
            handshake.challenge = auth.make_challenge(self._secret, handshake.preamble)
            handshake.sock.sendall(
                handshake.challenge
            )  # fits any socket buffer; otherwise it fails, and closes
            handshake.data, handshake.needed = b"", auth.PROOF_SIZE
            return
        auth.check_proof(self._secret, handshake.preamble, handshake.challenge, handshake.data)
        if self.encrypts is None or handshake.kind == auth.KIND_TASKS:  # which is handed on, to who does TLS
            self._proven(handshake)
            return
        handshake.sock = tls = self.encrypts.wrap(handshake.sock, server_side=True)
        self._loop.remove_reader(tls.fileno())
        self._loop.add_reader(tls.fileno(), lambda: self._greet(handshake, tls))

    def _greet(self, handshake: _Handshake, sock: TlsSocket) -> None:
        try:
            if sock.greet():
                self._proven(handshake)
        except OSError as error:  # also: what it sends would not fit into an empty socket buffer
            self._refuse(handshake, f"no TLS: {error}")

    def _proven(self, handshake: _Handshake) -> None:
        self._forget(handshake)
        self._on_connection(handshake.kind, handshake.target, handshake.sock, handshake.pid)

    def _forget(self, handshake: _Handshake) -> None:
        del self._pending[handshake.sock.fileno()]
        self._loop.remove_reader(handshake.sock.fileno())
        if handshake.timer is not None:
            handshake.timer.cancel()

    def _refuse(self, handshake: _Handshake, reason: str) -> None:
        self._forget(handshake)
        handshake.sock.close()
        if reason:
            self._on_refused(f"connection of {handshake.peer} closed: {reason}")

    def close(self) -> None:
        """Stop listening, end unfinished handshakes."""
        for handshake in list(self._pending.values()):
            self._refuse(handshake, "")
        if self._sock.fileno() >= 0:
            self._loop.remove_reader(self._sock.fileno())
            self._sock.close()


class UnixListener(Listener):
    """Listens at ``path``; see Listener. Only this user's processes are heard."""

    def __init__(self, loop: Loop, path: str, *arguments: Any) -> None:
        self._path = path
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | getattr(socket, "SOCK_NONBLOCK", 0))
        sock.setblocking(False)
        try:
            sock.bind(path)
            os.chmod(path, 0o600)
            sock.listen(BACKLOG)
        except OSError:
            sock.close()
            raise
        super().__init__(loop, sock, *arguments)

    def _admit(self, sock: socket.socket, _address: object) -> _Handshake | None:
        pid, uid = peer_credentials(sock)
        if uid in (os.getuid(), OVERFLOW_UID):
            return _Handshake(sock, pid, f"process {pid}")
        self._on_refused(f"refused a connection of user {uid}, process {pid}")
        return None

    def close(self) -> None:
        """Stop listening, end unfinished handshakes, remove the socket's file."""
        super().close()
        try:
            os.unlink(self._path)
        except FileNotFoundError:
            pass  # a cleaner of temporary files, or the user, was faster


def listen_tcp(host: str, port: int = 0) -> socket.socket:
    """A socket that listens there, at any free port for 0; non-blocking. Raises OSError if it cannot."""
    family, kind, number, _, address = socket.getaddrinfo(
        host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    sock = socket.socket(family, kind, number)
    sock.setblocking(False)
    try:
        if port:  # what is left of connections to whoever had it before does not matter
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(address)
        sock.listen(BACKLOG)
    except OSError:
        sock.close()
        raise
    return sock


class TcpListener(Listener):
    """Listens at ``host``, at any free port; see Listener. Its connections have no pid (0).

    Attributes:
        host, port: where, the host as a number.
        encrypts: with what; connections are `TlsSocket`s then, but for those of tasks. To be set before the first comes.

    Raises OSError if the host is not this machine's.
    """

    def __init__(self, loop: Loop, host: str, *arguments: Any) -> None:
        sock = listen_tcp(host)
        self.host, self.port = sock.getsockname()[:2]
        super().__init__(loop, sock, *arguments)

    def _admit(self, sock: socket.socket, address: Any) -> _Handshake | None:
        set_tcp_options(sock, self._config.node_dead_ms)
        return _Handshake(sock, 0, join_address(*address[:2]))

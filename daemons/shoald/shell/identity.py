"""Identity: how this daemon shows to others that it belongs to the cluster, beyond the machine: its secret, and TLS.

Says where TLS is on, and gives contexts; its certificates are made, and written to the session's directory for workers and
drivers, when they are first needed: a daemon that is alone on loopback never imports what makes them. From any thread.
"""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING

from shoal.wire import tls

if TYPE_CHECKING:
    import socket
    import ssl

    from shoald.shell.certificates import Certificates
    from shoald.shell.tlssocket import TlsSocket


class Identity:
    """Of one daemon.

    Args:
        mode: config.tls.
        directory: of the session, which only this user can read.
    """

    def __init__(self, secret: bytes, mode: str, directory: str) -> None:
        self.secret = secret
        self.mode = mode
        self._path = os.path.join(directory, tls.FILE)
        self._lock = threading.Lock()
        self._certificates: Certificates | None = None
        self._contexts: dict[bool, ssl.SSLContext] = {}

    def wants_tls(self, host: str) -> bool:
        """Whether connections to and at ``host`` are encrypted."""
        return tls.wanted(self.mode, host)

    def certificates(self) -> Certificates:
        """Key, certificate and root; they are in the session's file too. Raises TlsUnavailable, or OSError."""
        with self._lock:
            if self._certificates is None:
                import datetime as dt

                from shoald.shell.certificates import make_certificates

                made = make_certificates(self.secret, dt.datetime.now(dt.UTC))
                _write_private(self._path, made.key + made.leaf + made.root)
                self._certificates = made
            return self._certificates

    def wrap(self, sock: socket.socket, *, server_side: bool) -> TlsSocket:
        """Take ``sock``, which does not block, over for TLS; the handshake is still to be done (`TlsSocket.greet`).

        Raises TlsUnavailable, or OSError.
        """
        from shoald.shell.tlssocket import TlsSocket  # with ssl, which a daemon on loopback does without

        made = self._context(server_side).wrap_socket(
            sock, server_side=server_side, do_handshake_on_connect=False
        )
        assert isinstance(made, TlsSocket)
        return made

    def _context(self, server_side: bool) -> ssl.SSLContext:
        from shoald.shell.tlssocket import TlsSocket

        self.certificates()
        with self._lock:
            context = self._contexts.get(server_side)
            if context is None:
                context = self._contexts[server_side] = tls.make_context(self._path, server_side)
                context.sslsocket_class = TlsSocket
            return context


def _write_private(path: str, content: bytes) -> None:
    new = f"{path}.new"
    fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    with open(fd, "wb") as file:
        file.write(content)
    os.replace(new, path)

"""How a connection that the daemon hands over becomes a `Connection`: encrypted, if the other process is on another machine.

Decided once for each connection; those of one machine, and of loopback, never load what encrypts.
"""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

from shoal.client.connection import Connection

if TYPE_CHECKING:
    from collections.abc import Callable

    from shoal.client.runtime import Runtime


def link(
    runtime: Runtime,
    sock: socket.socket,
    tls: bool,
    on_frames: Callable[[Connection, list[bytes]], None],
    on_closed: Callable[[Connection], None],
    *,
    server_side: bool,
    on_drained: Callable[[Connection], None] | None = None,
) -> Connection:
    """A connection between a submitter and a worker (lock held); the worker is TLS's server.

    Where the session's certificates cannot be read, that is reported, and the connection is one that has ended.
    """
    frame_bytes_max = runtime.config.frame_bytes_max
    if tls:
        from shoal.client.tlsconnection import TlsConnection

        try:
            context = runtime.tls.get(server_side)
        except OSError as error:
            runtime.report(
                f"no connection to a process of another machine, its certificates are gone: {error}"
            )
            sock.shutdown(socket.SHUT_RDWR)
        else:
            return TlsConnection(
                context,
                server_side,
                sock,
                runtime.reactor,
                frame_bytes_max,
                on_frames,
                on_closed,
                on_drained=on_drained,
            )
    return Connection(sock, runtime.reactor, frame_bytes_max, on_frames, on_closed, on_drained=on_drained)

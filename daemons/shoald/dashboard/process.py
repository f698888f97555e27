"""The dashboard's process, from its first line to its last.

It goes after all others at the processor, so that whoever looks costs the daemon a question a second and nothing else, and ends
when its standard input does, which the daemon holds open. What it knows of its cluster it asks over the daemon's socket, like any
command. It writes nothing: its standard error is the daemon's log.
"""

from __future__ import annotations

import argparse
import asyncio
import errno
import functools
import json
import os
import signal
import socket
import ssl
import sys
import threading
import time
from typing import Any

from shoal.config import Config, load
from shoal.control import ControlClient
from shoal.sessions import SECRET_FILE, read_secret
from shoal.wire import tls
from shoald.dashboard.gate import Gate
from shoald.dashboard.server import Server
from shoald.dashboard.source import Source

DEFAULT_PORT = 8265
AUTO_PORT = -1  # DEFAULT_PORT, or any that is free if somebody has that
_BACKLOG = 128
_NICE = 10


def main(arguments: list[str]) -> None:
    """Serve until the daemon is gone. What it was told: `_parse`."""
    options = _parse(arguments)
    threading.Thread(target=_end_with_input, name="dashboard-end", daemon=True).start()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.nice(_NICE)
    try:
        listener = listen(options.host, options.port)
    except OSError as error:
        _tell(options.ready_fd, {"ok": False, "error": f"{options.host}: {error.strerror or error}"})
        return
    config = load(json.loads(options.config))
    context = make_context(options.session_dir) if options.tls else None
    asyncio.run(_serve(options, config, listener, context))


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m shoald.dashboard")
    parser.add_argument("--session-dir", required=True, help="of the daemon: its secret and certificate")
    parser.add_argument("--socket", required=True, help="of the daemon")
    parser.add_argument("--host", required=True)
    parser.add_argument("--port", type=int, required=True, help="0: any; -1: AUTO_PORT")
    parser.add_argument("--tls", action="store_true")
    parser.add_argument("--config", default="{}", help="overrides of shoal.config")
    parser.add_argument(
        "--ready-fd", type=int, required=True, help="told ok and port, or an error; it stays open"
    )
    return parser.parse_args(arguments)


def _end_with_input() -> None:
    """The daemon has the other end, and nothing to say: when it is gone, this process is, whatever it does."""
    while os.read(0, 4096):
        continue
    os._exit(0)


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens there; raises OSError."""
    family, _, _, _, address = socket.getaddrinfo(host, max(0, port), type=socket.SOCK_STREAM)[0]
    make = functools.partial(socket.create_server, family=family, backlog=_BACKLOG)
    if port != AUTO_PORT:
        return make((address[0], port))
    try:
        return make((address[0], DEFAULT_PORT))
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            raise
        return make((address[0], 0))


def make_context(session_dir: str) -> ssl.SSLContext:
    """TLS with the cluster's certificate, which browsers do not know; clients show none, they have their token."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_cert_chain(os.path.join(session_dir, tls.FILE))
    return context


async def _serve(
    options: argparse.Namespace, config: Config, listener: socket.socket, context: ssl.SSLContext | None
) -> None:
    directory = options.session_dir
    secret = read_secret(os.path.join(directory, SECRET_FILE))
    port = listener.getsockname()[1]
    gate = Gate(secret, {options.host, socket.gethostname()}, port, context is not None, config, time.time())
    connect = functools.partial(ControlClient, options.socket, secret)
    server = Server(gate, Source(connect, config), config, context)
    serving = await asyncio.start_server(
        server.connected, sock=listener, limit=config.dashboard_request_bytes_max
    )
    _tell(options.ready_fd, {"ok": True, "port": port})
    async with serving:
        await serving.serve_forever()


def _tell(ready_fd: int, facts: dict[str, Any]) -> None:
    try:
        os.write(ready_fd, json.dumps(facts).encode() + b"\n")
    except OSError as error:
        sys.exit(f"the daemon cannot be told: {error.strerror}")  # it is gone

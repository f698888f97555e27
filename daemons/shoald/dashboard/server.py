"""The dashboard's sockets: one request for each connection, within bounds of time, size and number; decides nothing.

A client that is slow holds up only itself: it is cut off after `dashboard_request_ms_max`, or before that if its place is needed:
whoever has not yet said what it wants goes first. What a client does not read is not kept for it any longer either.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import os
import ssl
import time
from pathlib import Path

from shoal.config import Config
from shoal.control import ControlError
from shoal.prometheus import CONTENT_TYPE
from shoal.wire import web
from shoald.dashboard.gate import Gate
from shoald.dashboard.http import END, BadRequest, Request, Response, read_request
from shoald.dashboard.source import Source

_HERE = Path(__file__).parent


def make_page() -> Response:
    """The page: one file with its style and script, which alone may run in it."""
    style, script = ((_HERE / name).read_text("utf-8") for name in ("page.css", "page.js"))
    page = (_HERE / "page.html").read_text("utf-8")
    page = page.replace("/* page.css */", style).replace("/* page.js */", script)
    policy = (
        f"default-src 'none'; style-src '{_digest(style)}'; script-src '{_digest(script)}'; connect-src 'self'; "
        "img-src data:; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
    )
    return Response(200, page.encode(), "text/html; charset=utf-8", {"Content-Security-Policy": policy})


def _digest(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


class Server:
    """Answers requests.

    Args:
        context: of TLS, or None.
    """

    def __init__(self, gate: Gate, source: Source, config: Config, context: ssl.SSLContext | None) -> None:
        self._gate = gate
        self._source = source
        self._config = config
        self._context = context
        self._limit_s = config.dashboard_request_ms_max / 1000
        self._page = make_page()
        # Connections, oldest first; True when the request was read.
        self._open: dict[asyncio.StreamWriter, bool] = {}

    async def connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve a connection to its end."""
        if len(self._open) >= self._config.dashboard_connections_max and not self._make_room():
            writer.transport.abort()
            return
        self._open[writer] = False
        try:
            await self._serve(reader, writer)
        except (TimeoutError, OSError, asyncio.IncompleteReadError):
            writer.transport.abort()  # slow, or gone: it is nobody's fault here
        finally:
            self._open.pop(writer, None)
            writer.close()

    def _make_room(self) -> bool:
        for writer, asked in self._open.items():
            if not asked:
                del self._open[writer]
                writer.transport.abort()
                return True
        return False

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(self._limit_s):
                if self._context is not None:
                    await writer.start_tls(self._context, ssl_handshake_timeout=self._limit_s)
                request = read_request(await reader.readuntil(END))
        except (BadRequest, asyncio.LimitOverrunError) as error:
            await self._send(writer, Response(400, f"{error}\n".encode()).encode())
            return
        self._open[writer] = True
        answer = self._gate.refusal(request, time.time(), os.urandom(web.NONCE_SIZE))
        if answer is None:
            answer = await self._answer(request)
        await self._send(writer, answer.encode(with_body=request.method != "HEAD"))

    async def _send(self, writer: asyncio.StreamWriter, data: bytes) -> None:
        writer.transport.set_write_buffer_limits(0)  # `drain` waits until the kernel has it all
        async with asyncio.timeout(self._limit_s):
            writer.write(data)
            await writer.drain()

    async def _answer(self, request: Request) -> Response:
        """To one who was let in."""
        try:
            if request.path == "/":
                return self._page
            if request.path == "/api/state":
                return Response(200, await self._source.state(), "application/json")
            if request.path == "/metrics":
                return Response(200, await self._source.metrics(), CONTENT_TYPE)
        except ControlError as error:
            return Response(503, f"{error}\n".encode())
        return Response(404, b"there is /, /api/state and /metrics\n")

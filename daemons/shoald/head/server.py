"""HeadServer: the head in a thread of its own, with its own event loop.

So a busy node daemon in the same process does not delay health and heartbeats, and a head that is stopped
leaves nothing in the daemon's loop. Owns the port, the storage and the thread, nothing else.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import sys
import threading
import time

from shoal.config import Config
from shoald.head import reach
from shoald.head.channel import own_versions, quiet_poller, server_credentials, server_options
from shoald.head.core import HeadCore
from shoald.head.ephemeral import EphemeralStorage, Storage
from shoald.head.service import HeadService
from shoald.head.tickets import TicketGate
from shoald.shell.identity import Identity
from shoald.shell.tcp import join_address

import grpc.aio  # isort: skip  (after channel.py, which silences it)

log = logging.getLogger(__name__)
_GRACE_S = 0.2  # for answers on their way out when the head stops


class HeadStartError(Exception):
    """The head cannot start; the message is one line for the operator."""


class HeadServer:
    """A head on ``host``:``port`` (0: any free one), with its durable state in ``data_dir`` ("": none outlives it).

    Args:
        identity: the cluster's secret, which every call must prove to know; and whether calls to ``host`` are encrypted.
        config: bounds and periods.
        here: the id of the node in this process, if there is one.
        held: a socket that listens at that port until the head does; closed then.
    """

    def __init__(
        self,
        host: str,
        port: int,
        identity: Identity,
        data_dir: str,
        config: Config,
        here: str = "",
        held: socket.socket | None = None,
    ) -> None:
        self._host = host
        self._port = port
        self._identity = identity
        self._data_dir = data_dir
        self._config = config
        self._here = here
        self._held = held
        self._thread: threading.Thread | None = None
        self._ready = threading.Event()
        self._failure: BaseException | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopping: asyncio.Event | None = None

    def start(self) -> int:
        """Start, and return the port once calls are answered.

        Raises:
            HeadStartError: the port is in use, the host is not this machine's, or the storage, or TLS, cannot be used.
                Nothing is left running.
        """
        assert self._thread is None, "started twice"
        self._thread = threading.Thread(target=self._run, name="shoal-head", daemon=True)
        self._thread.start()
        self._ready.wait()
        if self._failure is not None:
            self._thread.join()
            self._thread = None
            raise HeadStartError(str(self._failure)) from self._failure
        return self._port

    def stop(self) -> None:
        """Stop and wait for the end; no effect if it does not run."""
        thread, loop, stopping = self._thread, self._loop, self._stopping
        if thread is None or loop is None or stopping is None:
            return
        loop.call_soon_threadsafe(stopping.set)
        thread.join()
        self._thread = None

    def _run(self) -> None:
        try:
            asyncio.run(self._serve())
        except BaseException as error:
            if self._ready.is_set():
                log.exception("the head ends because of a fault of its own")
            self._failure = error
        finally:
            self._ready.set()

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._loop.set_exception_handler(quiet_poller)
        self._stopping = asyncio.Event()
        storage = self._open_storage()
        try:
            now = time.monotonic()
            core = HeadCore(
                self._config,
                own_versions(sys.version_info[:2]),
                storage.load(),
                now,
                time.time() - now,
                self._here,
            )
            gate = TicketGate(self._identity.secret, self._config.ticket_ms_max, self._config.tickets_max)
            service = HeadService(core, storage, gate, self._config, os.urandom(8).hex(), self._obstacle)
            server = grpc.aio.server(options=server_options(self._config))
            server.add_generic_rpc_handlers((service.handlers(),))
            self._port = self._bind(server)
            await server.start()
            self._ready.set()
            await self._stopping.wait()
            service.close()
            await server.stop(_GRACE_S)
        finally:
            storage.close()

    def _open_storage(self) -> Storage:
        if not self._data_dir:
            return EphemeralStorage(self._config, os.urandom(16).hex())
        from shoald.head.storage import HeadStorage  # with SQLite

        return HeadStorage(self._data_dir, self._config, lambda: os.urandom(16).hex())

    async def _obstacle(self, address: str) -> str:
        # Half the time that a node gives its registration: it is to hear why.
        return await reach.obstacle(address, self._identity, self._config.handshake_ms_max / 2000)

    def _bind(self, server: grpc.aio.Server) -> int:
        address = join_address(self._host, self._port)
        credentials = server_credentials(self._identity) if self._identity.wants_tls(self._host) else None
        if self._held is not None:
            self._held.close()  # who has knocked there meanwhile comes again (HeadLink)
        try:
            if credentials is None:
                return server.add_insecure_port(address)
            return server.add_secure_port(address, credentials)
        except RuntimeError as error:
            raise HeadStartError(
                f"cannot listen on {address}: the port is in use (is a head running already?), "
                "or the host is not an address of this machine"
            ) from error

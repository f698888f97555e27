"""The node's side of the head: starts the head if this daemon hosts it, and the link to it, in threads of
their own.

gRPC takes a quarter of a second to import: that happens in a thread, after the node's socket is up, and no
task waits for it. What comes back is handed to the node's loop; nothing here is called from another thread
than the loop's, but `_start`.

The head of a driver's own cluster *rests*: nothing of it is there but its port, until somebody connects to that (another
node), or this node has a question that is for a head to answer. The node is alone so long, and knows all that such a head
would know. Without anything to do gRPC takes 20 MB, and nine threads that wake up fourteen times a second.
"""

from __future__ import annotations

import importlib
import threading
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from shoald.shell.absent import without_module
from shoald.shell.listener import listen_tcp
from shoald.shell.tcp import join_address, split_address
from shoald.store.spilldirs import is_remote

LOOPBACK = "127.0.0.1"

# A node in the head's own process says so rarely that it lives: when it does not, nor does the head. Each time costs the
# wake-ups of ten threads, and was a third of what an idle cluster used.
_HERE_BEAT_MS = 60_000.0
_HERE_SILENCE_MS = 5 * _HERE_BEAT_MS

ANY_HOSTS = ("0.0.0.0", "::")  # noqa: S104  (compared: these name no machine that others could reach)

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable
    from concurrent.futures import Future

    from shoald.node.options import NodeOptions
    from shoald.shell.identity import Identity
    from shoald.shell.loop import Loop

    _Question = tuple[str, dict[str, Any], Callable[[bool, Any], None]]


def load_asyncio() -> None:
    """Import asyncio without ssl, which is OpenSSL and 3 MB: gRPC has its own, and where TLS is off nothing else needs it before
    there are other nodes.
    """
    with without_module("ssl"):
        importlib.import_module("asyncio")


class HeadSide:
    """Head and link of one daemon.

    Args:
        on_settled: called in the loop with (address, "") when the node has registered, or ("", reason); before that with
            (address, "") of a head that `rests`.
        on_message: called in the loop with each message of the link.

    Attributes:
        rests: there is no head yet, but there will be when it is needed.
    """

    def __init__(
        self,
        loop: Loop,
        options: NodeOptions,
        identity: Identity,
        on_settled: Callable[[str, str], None],
        on_message: Callable[[dict[str, Any]], None],
    ) -> None:
        self._loop = loop
        self._options = options
        self._identity = identity
        self._facts: dict[str, Any] = {}
        self._on_settled = on_settled
        self._on_message = on_message
        self._server: Any = None
        self._link: Any = None
        self._lock = threading.Lock()  # start against stop
        self._stopped = False
        self._thread: threading.Thread | None = None
        self._held: socket.socket | None = None  # the port of a head that rests
        self._asked: list[_Question] = []  # while it rests, and starts
        self.rests = False

    @property
    def wanted(self) -> bool:
        """Whether this daemon hosts or joins a head at all."""
        return self._options.head or bool(self._options.head_address)

    @property
    def settled(self) -> bool:
        """Whether there is a link to a head; before, nobody else can be in this cluster."""
        return self._link is not None

    def start(self, facts: dict[str, Any]) -> None:
        """Begin, and register with ``facts`` (see HeadLink); returns at once. Again changes nothing."""
        options = self._options
        if not self.wanted or self._facts or self._stopped:
            return
        self._facts = facts
        if options.owner_pid and options.head and not options.data_dir:
            self._rest()
        else:
            self._begin()

    def _rest(self) -> None:
        host, port = self._options.host or LOOPBACK, self._options.port
        try:
            self._held = listen_tcp(host, port)
        except OSError as error:
            self._on_settled("", f"cannot listen on {join_address(host, port)}: {error.strerror}")
            return
        self.rests = True
        self._loop.add_reader(self._held.fileno(), self.wake)
        self._on_settled(self._address(self._held.getsockname()[1]), "")

    def wake(self) -> None:
        """Start a head that rests; otherwise no effect."""
        if self.rests and self._thread is None:
            assert self._held is not None
            self._loop.remove_reader(self._held.fileno())  # closed when the head has the port
            self._begin()

    def _begin(self) -> None:
        self._thread = threading.Thread(target=self._start, name="shoal-head-start", daemon=True)
        self._thread.start()

    def _start(self) -> None:
        try:
            address, reason = self._connect(), ""
        except Exception as error:  # noqa: BLE001 - whatever it is, the daemon hears of it in one line
            address, reason = "", " ".join(str(error).split()) or type(error).__name__
        self._loop.call_soon_threadsafe(lambda: self._settle(address, reason))

    def _settle(self, address: str, reason: str) -> None:
        self.rests = False
        if self._held is not None:
            self._held.close()  # if the head did not come so far
        self._on_settled(address, reason)
        asked, self._asked = self._asked, []
        for question in asked:
            self.call(*question)

    def _address(self, port: int) -> str:
        host = self._options.host or LOOPBACK
        if host in ANY_HOSTS:  # which leads nobody here: its data listener has found out what does
            host, _ = split_address(self._facts["address"])
        return join_address(host, port)

    def _connect(self) -> str:
        options = self._options
        config = options.config
        remote = any(map(is_remote, options.spilling_directories))  # its client runs on asyncio, over https
        if not remote and not any(map(self._identity.wants_tls, options.hosts)):
            load_asyncio()

        from shoald.head.link import HeadLink

        address = options.head_address
        with self._lock:
            if self._stopped:
                raise RuntimeError("the daemon stops")
            if options.head:
                from shoald.head.server import HeadServer

                host, port = options.host or LOOPBACK, options.port
                if self._held is not None:
                    port = self._held.getsockname()[1]
                here = self._facts["node_id"]
                self._server = HeadServer(
                    host, port, self._identity, options.data_dir, config, here, self._held
                )
                address = self._address(self._server.start())
                config = replace(config, heartbeat_ms=_HERE_BEAT_MS, node_dead_ms=_HERE_SILENCE_MS)
            self._link = HeadLink(address, self._identity, self._facts, self._hand_over, config)
            self._link.start()
        self._link.wait_registered(options.config.handshake_ms_max / 1000)
        return address

    def _hand_over(self, message: dict[str, Any]) -> None:
        self._loop.call_soon_threadsafe(lambda: self._on_message(message))

    def report(self, report: dict[str, Any], then: Callable[[], None] | None = None) -> None:
        """Tell the head, once there is a link; before, the snapshot at the registration will.

        ``then`` is called in the loop when the head has confirmed it; without a link it is never called.
        """
        if self._link is None:
            return
        if then is None:
            self._link.report(report)
        else:
            self._link.report(report, lambda: self._loop.call_soon_threadsafe(then))

    def report_actors(self, actors: list[dict[str, Any]], snapshot: bool = False) -> None:
        """Tell the head of actors that this node hosts, once there is a link."""
        if self._link is not None:
            self._link.report_actors(actors, snapshot)

    def report_kill(self, actor_id: bytes, reason: str, then: Callable[[], None]) -> None:
        """Tell the head that an actor was killed (HeadLink.report_kill); ``then`` is called in the loop when it knows."""
        if self._link is not None:
            self._link.report_kill(actor_id, reason, lambda: self._loop.call_soon_threadsafe(then))

    def tell_groups(self, news: dict[str, Any]) -> None:
        """News of placement groups (HeadLink.tell_groups)."""
        if self._link is not None:
            self._link.tell_groups(news)

    def call(self, method: str, params: dict[str, Any], then: Callable[[bool, Any], None]) -> None:
        """Ask the head; ``then`` is called in the loop with (True, answer) or (False, text). One that rests starts for it."""
        if self.rests and len(self._asked) < self._options.config.head_outbox_max:
            self._asked.append((method, params, then))
            self.wake()
            return
        if self._link is None:
            then(False, "this node has no connection to a head yet")
            return

        def done(future: Future[dict[str, Any]]) -> None:
            error = future.exception()
            outcome = (False, str(error)) if error is not None else (True, future.result())
            self._loop.call_soon_threadsafe(lambda: then(*outcome))

        self._link.call(method, params).add_done_callback(done)

    def stop(self, limit_s: float) -> None:
        """Leave the cluster, and stop the head if it is here; returns after ``limit_s`` at the latest."""
        if self._thread is None:
            self._stopped, self.rests = True, False
            if self._held is not None:
                self._loop.remove_reader(self._held.fileno())
                self._held.close()
            return
        stopper = threading.Thread(target=self._stop, name="shoal-head-stop", daemon=True)
        stopper.start()
        stopper.join(limit_s)

    def _stop(self) -> None:
        with self._lock:
            self._stopped = True
        if self._link is not None:
            self._link.stop("the node stops")
        if self._server is not None:
            self._server.stop()

"""HeadLink: a node's connection to the head, in a thread of its own (gRPC stays out of the node's loop).

Keeps one stream: proves itself, checks the head's proof, registers, reports and hears; when the stream
breaks it comes back with growing pauses, for ever, because what runs on the node does not need the
head (R3). A refusal is final and told once. Decides nothing: what to tell is merged by `ReportBuffer`.

Before the head has proven itself for the first time a failed proof, or an answer that we are not
admitted, is final: the operator has the wrong secret. Later it is not: somebody may have taken the
port of a head that is down, and learns nothing by that.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future
from typing import Any

from shoal.config import Config, load
from shoal.ids import split_ids
from shoal.wire.tls import TlsUnavailable
from shoald.head import codec, tickets
from shoald.head.channel import (
    METHODS,
    metadata_value,
    open_channel,
    own_versions,
    quiet_poller,
)
from shoald.head.pb import head_pb2 as pb
from shoald.head.reports import ActorBuffer, Confirmations, KillBuffer, ReportBuffer
from shoald.shell.identity import Identity
from shoald.shell.tcp import split_address

import grpc.aio  # isort: skip  (after channel.py, which silences it)

log = logging.getLogger(__name__)
_NOT_OURS = "CERTIFICATE_VERIFY_FAILED"  # in what gRPC says of a peer with another root
OnMessage = Callable[[dict[str, Any]], None]


class HeadRefusedError(Exception):
    """The head does not admit this node, and will not; the message says why."""


class HeadUnreachableError(Exception):
    """The head did not answer in time; the message says what the last attempt met."""


class HeadLink:
    """The node's side of the stream.

    Args:
        address: the head's "host:port".
        identity: the cluster's secret, and whether TLS is on at ``address``.
        node: what to register; see codec.NODE_KEYS.
        on_message: called in the link's thread with {"kind": …}, and must not block:
            "registered" {"cluster_id", "epoch", "nodes"}: answer with a report that is a snapshot (for a node
            see codec.node_dict);
            "nodes" {"nodes"}: these changed; "free" | "lost" {"ids"}; "drain" {"reason"};
            "gauges" {"nodes"}: what these have free; "groups" {"orders", "states"}: placement groups (head.proto);
            "actor" {"actor"}: it has changed, and this node had asked for it; "host_actor" {"actor"}: host it;
            "end_actor" {"actor"}: it was killed, or, if it is not dead, lives elsewhere;
            "disconnected" {"reason"}: attempts go on (told again with another reason);
            "refused" {"reason"}: final, told once.
    """

    def __init__(
        self,
        address: str,
        identity: Identity,
        node: Mapping[str, Any],
        on_message: OnMessage,
        config: Config | None = None,
    ) -> None:
        self._address = address
        self._identity = identity
        self._tls = self._tls_wanted = identity.wants_tls(split_address(address)[0])
        self._config = config or load()
        self._register = codec.register_message(node, own_versions(sys.version_info[:2]))
        self._on_message = on_message
        self._lock = threading.Lock()  # guards the buffer and the calls under way
        self._buffer = ReportBuffer()
        self._has_news = False  # and the thread knows
        self._actors = ActorBuffer()
        self._unconfirmed = Confirmations()
        self._kills = KillBuffer(self._config.actor_kills_max)
        self._told_registered = False
        self._groups: list[Mapping[str, Any]] = []  # news of this session that were not sent yet
        self._loop: asyncio.AbstractEventLoop | None = None
        self._attempt: asyncio.Future[None] | None = None
        self._thread: threading.Thread | None = None
        self._stopping = False
        self._goodbye = "left"
        self._refused = ""
        self._trouble = "no attempt was finished"
        self._once_proven = False
        self._once_failed = False
        self._beat_ms = self._config.heartbeat_ms
        self._ended = False
        self._calls: set[Future[dict[str, Any]]] = set()  # under way
        self._settled = threading.Event()  # registered for the first time, or refused

    # --- any thread ------------------------------------------------------------------------------

    def start(self) -> None:
        """Start connecting; returns at once."""
        assert self._thread is None, "started twice"
        started = threading.Event()
        self._thread = threading.Thread(
            target=self._run, args=(started,), name="shoal-head-link", daemon=True
        )
        self._thread.start()
        started.wait()

    def wait_registered(self, timeout_s: float) -> None:
        """Block until the node has registered once.

        Raises:
            HeadRefusedError: final.
            HeadUnreachableError: not within ``timeout_s``; attempts go on.
        """
        settled = self._settled.wait(timeout_s)
        if self._refused:
            raise HeadRefusedError(self._refused)
        if not settled:
            raise HeadUnreachableError(
                f"no head answers at {self._address}{' with TLS' if self._tls else ''} ({self._trouble}): check the "
                "address, and that --tls is the same there, or start one there with `shoal start-head`"
            )

    def report(self, report: Mapping[str, Any], then: Callable[[], None] | None = None) -> None:
        """Tell the head something, soon and merged with other reports (see ReportBuffer.add).

        ``then`` is called in the link's thread when the head has confirmed it, perhaps as a part of a later snapshot; it must
        not block. Raises ValueError for an unknown key.
        """
        with self._lock:
            self._buffer.add(report)
            if then is not None:
                self._unconfirmed.add(then)
            awake, self._has_news = self._has_news, True
        if not awake:  # else it was woken for what it has not taken yet: a turn of its loop costs as much as one of the daemon's
            self._wake_up()

    def report_actors(self, actors: Iterable[Mapping[str, Any]], snapshot: bool = False) -> None:
        """Tell the head what has become of actors that this node hosts (see ActorBuffer.add, codec.actors_message)."""
        with self._lock:
            self._actors.add(actors, snapshot)
        self._wake_up()

    def report_kill(self, actor_id: bytes, reason: str, then: Callable[[], None]) -> None:
        """Tell the head, at once, that an actor was killed: over the next stream again, until the head has made it durable.

        ``then`` is called in the link's thread when it has.
        """
        with self._lock:
            self._kills.add(actor_id, reason, then)
        self._wake_up(urgent=True)

    def tell_groups(self, news: Mapping[str, Any]) -> None:
        """News of placement groups (codec.groups_message), at once and in order.

        Without a session they are dropped: the next one begins with a snapshot of them all.
        """
        with self._lock:
            if not self._told_registered:
                return
            self._groups.append(news)
        self._wake_up(urgent=True)

    def call(self, method: str, params: Mapping[str, Any] | None = None) -> Future[dict[str, Any]]:
        """Ask the head, for example ``call("GetCluster")``; waits for a head that is down, in bounds.

        Returns:
            A future of the answer's fields; it fails with HeadUnreachableError after config.head_call_ms_max,
            HeadRefusedError, or ValueError for what the head does not accept.
        """
        future: Future[dict[str, Any]] = Future()
        with self._lock:
            if self._loop is None or self._stopping or self._ended:
                future.set_exception(HeadUnreachableError("the link to the head is closed"))
            else:
                self._calls.add(future)
                self._loop.call_soon_threadsafe(self._begin_call, future, method, dict(params or {}))
        return future

    def stop(self, reason: str = "left") -> None:
        """Say goodbye, so that the head declares this node gone at once, and end. Idempotent, bounded."""
        thread = self._thread
        if thread is None:
            return
        self._goodbye = reason
        self._stopping = True
        self._wake_up()
        thread.join(self._config.stop_ms_max / 1000)
        if thread.is_alive():
            log.error("the link to the head did not end in %d ms", self._config.stop_ms_max)
        self._thread = None

    def _wake_up(self, urgent: bool = False) -> None:
        loop = self._loop
        if loop is None:
            return
        try:
            loop.call_soon_threadsafe(self._on_wake, urgent)
        except RuntimeError:
            log.debug("the link to the head has ended already")

    # --- the link's thread -----------------------------------------------------------------------

    def _run(self, started: threading.Event) -> None:
        try:
            asyncio.run(self._live(started))
        except Exception:
            log.exception("the link to the head ends because of a fault of its own")
            self._refuse("the link to the head failed; the log has the reason")
        finally:
            with self._lock:
                self._ended = True
                calls, self._calls = self._calls, set()
            for future in calls:
                if not future.done():
                    future.set_exception(HeadUnreachableError("the link to the head was closed"))
            self._settled.set()

    async def _live(self, started: threading.Event) -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(quiet_poller)
        self._wake = asyncio.Event()
        self._urgent = asyncio.Event()
        self._registered = asyncio.Event()
        self._loop = loop
        started.set()
        pause_ms = self._config.reconnect_ms_min
        while not self._stopping and not self._refused:
            began = time.monotonic()
            self._attempt = asyncio.ensure_future(self._session())
            await asyncio.wait([self._attempt])
            self._judge(self._attempt)
            if time.monotonic() - began > self._config.reconnect_ms_max / 1000:
                pause_ms = self._config.reconnect_ms_min  # it had lasted
            await self._pause(pause_ms)
            pause_ms = min(2 * pause_ms, self._config.reconnect_ms_max)
        while not self._stopping:  # refused: what is asked is answered with that
            self._wake.clear()
            await self._wake.wait()

    def _judge(self, attempt: asyncio.Future[None]) -> None:
        """Take in how a session ended; raises what is no trouble of the network but a fault of ours."""
        # gRPC cancels what is sent when what is to be received is given up: a head that was silent for too long.
        error = TimeoutError() if attempt.cancelled() else attempt.exception()
        if isinstance(error, HeadRefusedError) or (isinstance(error, TlsUnavailable) and self._tls_wanted):
            self._refuse(str(error))
        elif isinstance(
            error, TlsUnavailable | grpc.RpcError | TimeoutError | tickets.HeadNotProven | ConnectionError
        ):
            self._lose(error)
        elif error is not None:
            raise error

    def _on_wake(self, urgent: bool) -> None:
        self._wake.set()
        if urgent:
            self._urgent.set()
        if self._stopping and self._attempt is not None and not self._registered.is_set():
            self._attempt.cancel()

    async def _pause(self, pause_ms: float) -> None:
        until = time.monotonic() + pause_ms / 1000
        while not self._stopping and not self._refused and (left := until - time.monotonic()) > 0:
            self._wake.clear()
            await _wait(self._wake, left)

    async def _session(self) -> None:
        channel = self._channel = open_channel(self._address, self._identity, self._tls, self._config)
        try:
            stream = await self._open(channel)
            with self._lock:
                self._buffer.start_over()
                self._actors.start_over()
                self._unconfirmed.start_over()
                self._kills.start_over()
                self._groups = []
                self._told_registered = False
            listener = asyncio.ensure_future(self._listen(stream))
            try:
                await stream.write(self._register)
                await self._speak(stream, listener)
            except asyncio.InvalidStateError:  # the stream has ended, which the listener is about to find out
                await listener
                raise
            finally:
                listener.cancel()
                stream.cancel()
                # Or its error would be logged as forgotten.
                await asyncio.gather(listener, return_exceptions=True)
        finally:
            self._registered.clear()  # no call begins on a channel that is closed
            await channel.close()

    async def _open(self, channel: grpc.aio.Channel) -> Any:
        method = METHODS["Connect"]
        timeout_s = self._config.handshake_ms_max / 1000
        ticket = self._ticket(method.path)
        opener = channel.stream_stream(
            method.path, method.request.SerializeToString, method.response.FromString
        )
        stream = opener(metadata=((tickets.TICKET_KEY, ticket),))
        try:
            metadata = await asyncio.wait_for(stream.initial_metadata(), timeout_s)
            proof = metadata_value(metadata, tickets.PROOF_KEY)
            if proof is None:
                await self._explain(stream, timeout_s)
            tickets.check_proof(self._identity.secret, method.path, ticket, proof)
        except BaseException:
            stream.cancel()
            raise
        self._once_proven = True
        return stream

    async def _explain(self, stream: Any, timeout_s: float) -> None:
        """Raise what an answer without a proof means."""
        code = await asyncio.wait_for(stream.code(), timeout_s)
        details = await stream.details()
        if code == grpc.StatusCode.UNAUTHENTICATED and not self._once_proven:
            raise HeadRefusedError(f"the head at {self._address} refuses: {details}")
        raise ConnectionError(details or str(code))

    async def _listen(self, stream: Any) -> None:
        silence_s = self._config.node_dead_ms / 1000
        while True:
            message = await asyncio.wait_for(stream.read(), silence_s)
            if message is grpc.aio.EOF:
                raise ConnectionError("the head closed the connection")
            self._take(message)

    def _take(self, message: pb.HeadMessage) -> None:
        kind = message.WhichOneof("kind")
        if kind == "registered":
            self._beat_ms = min(
                self._config.heartbeat_ms, message.registered.heartbeat_ms or self._config.heartbeat_ms
            )
            self._registered.set()
            self._wake.set()  # the next report may be due earlier now
            self._trouble = ""
            with self._lock:
                self._told_registered = True
            self._tell({"kind": kind, **codec.plain_dict(message.registered)})
            self._settled.set()
        elif kind == "refused":
            raise HeadRefusedError(message.refused.message)
        elif kind == "nodes":
            self._tell({"kind": kind, "nodes": codec.plain_list(message.nodes.nodes)})
        elif kind in {"gauges", "groups"}:
            self._tell({"kind": kind, **codec.plain_dict(getattr(message, kind))})
        elif kind in {"free", "lost"}:
            self._tell({"kind": kind, "ids": split_ids(getattr(message, kind).ids)})
        elif kind == "acked":
            with self._lock:
                confirmed = self._unconfirmed.acknowledged(message.acked.number)
            for then in confirmed:
                then()
        elif kind == "kills_acked":
            with self._lock:
                confirmed = self._kills.acknowledged(message.kills_acked.number)
            for then in confirmed:
                then()
        elif kind == "drain":
            self._tell({"kind": kind, "reason": message.drain.reason})
        elif kind in {"actor", "host_actor", "end_actor"}:
            self._tell({"kind": kind, "actor": codec.plain_dict(getattr(message, kind))})

    async def _speak(self, stream: Any, listener: asyncio.Future[None]) -> None:
        """Send reports as they come, and a heartbeat when none came; ends with the listener or at stop.

        News of placement groups and kills are sent at once: somebody waits for them.
        """
        number = killed = 0
        config = self._config
        rested = spoke = 0.0  # when reports may be sent again, and when the last one was
        while not self._stopping:
            if listener.done():
                listener.result()
            self._urgent.clear()
            now = time.monotonic()
            if now >= rested:  # else what woke it has still to be sent
                self._wake.clear()
            with self._lock:
                if now >= rested:
                    self._has_news = False
                groups, self._groups = self._groups, []
                killed += not self._kills.empty
                kills = self._kills.take(killed)
                wanted = (
                    not self._buffer.empty or self._unconfirmed.waiting or now >= spoke + self._beat_ms / 1000
                )
                due = now >= rested and wanted
                parts = self._buffer.take(config.head_batch_ids_max) if due else []
                if due and not self._buffer.wants_snapshot:
                    self._unconfirmed.sent(number + len(parts))
                actors = self._actors.take() if now >= rested else None
            for news in groups:
                await stream.write(codec.groups_message(news))
            if kills:
                await stream.write(codec.kills_message(killed, kills.items()))
            for part in parts:
                number += 1
                await stream.write(codec.report_message(number, part))
            if actors is not None:
                await stream.write(codec.actors_message(*actors))
            if due or actors is not None:
                rested = now + config.report_ms_min / 1000
                spoke = now
            await self._wait_for_news(listener, rested - now, spoke + self._beat_ms / 1000 - now)
        await stream.write(pb.NodeMessage(goodbye=pb.Goodbye(reason=self._goodbye)))
        await stream.done_writing()
        await asyncio.wait([listener], timeout=config.handshake_ms_max / 1000)

    async def _wait_for_news(self, listener: asyncio.Future[None], pause_s: float, timeout_s: float) -> None:
        """Return when there is something to send (reports not before ``pause_s``), or the listener ends."""
        if pause_s > 0 and await _wait_any(self._urgent, listener, pause_s):
            return
        await _wait_any(self._wake, listener, timeout_s)

    def _begin_call(self, future: Future[dict[str, Any]], name: str, params: dict[str, Any]) -> None:
        task = asyncio.ensure_future(self._call(name, params))
        task.add_done_callback(lambda task: self._end_call(future, task))

    def _end_call(self, future: Future[dict[str, Any]], task: asyncio.Future[dict[str, Any]]) -> None:
        if task.cancelled():
            return  # the link ends, which fails all calls that are left
        with self._lock:
            self._calls.discard(future)
        error = task.exception()
        if future.cancelled():
            return
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(task.result())

    async def _call(self, name: str, params: dict[str, Any]) -> dict[str, Any]:
        method = METHODS.get(name)
        if method is None or method.streaming:
            raise ValueError(f"the head has no method {name!r}")
        request = method.request(**params)
        until = time.monotonic() + self._config.head_call_ms_max / 1000
        trouble = self._trouble
        while (left := until - time.monotonic()) > 0 and not self._stopping:
            if self._refused:
                raise HeadRefusedError(self._refused)
            if not await _wait(self._registered, min(left, self._config.heartbeat_ms / 1000)):
                trouble = self._trouble
                continue
            try:
                return await self._ask(method.path, request, method.response, left)
            except grpc.RpcError as error:
                code, trouble = _code(error), _one_line(error)
                if code == grpc.StatusCode.INVALID_ARGUMENT:
                    raise ValueError(trouble) from None
                # The stream breaks with the channel; give it the time to notice.
                await asyncio.sleep(self._config.reconnect_ms_min / 1000)
            except asyncio.CancelledError:
                task = asyncio.current_task()
                if task is None or task.cancelling():
                    raise  # the link ends
                trouble = "no answer in time"  # a head that was silent was given up, and its channel closed
        raise HeadUnreachableError(f"the head at {self._address} did not answer {name}: {trouble}")

    async def _ask(self, path: str, request: Any, response: Any, timeout_s: float) -> dict[str, Any]:
        ticket = self._ticket(path)
        caller = self._channel.unary_unary(path, type(request).SerializeToString, response.FromString)
        call = caller(request, metadata=((tickets.TICKET_KEY, ticket),), timeout=timeout_s)
        answer = await call
        proof = metadata_value(await call.initial_metadata(), tickets.PROOF_KEY)
        tickets.check_proof(self._identity.secret, path, ticket, proof)
        return codec.plain_dict(answer)

    def _ticket(self, path: str) -> bytes:
        return tickets.make_ticket(
            self._identity.secret, path, int(time.time() * 1000), os.urandom(tickets.NONCE_SIZE)
        )

    def _lose(self, error: BaseException) -> None:
        if self._stopping:
            return
        final = isinstance(error, tickets.HeadNotProven) or _NOT_OURS in str(error)
        if not self._once_proven and not self._once_failed and not final:
            # A head that rested (HeadSide) starts by this, and is there at the next attempt.
            self._once_failed = True
            return
        if not self._once_proven and self._identity.mode == "auto" and not self._tls_wanted:
            # Loopback may lead to a head that listens beyond it. (The other way round nobody gives TLS up.)
            self._tls = not self._tls
        trouble, self._trouble = self._trouble, _one_line(error)
        if isinstance(error, tickets.HeadNotProven) and not self._once_proven:
            self._refuse(f"{self._address}: {self._trouble}")
            return
        if _NOT_OURS in self._trouble and not self._once_proven:
            self._refuse(
                f"{self._address}: what answers there has no certificate of this cluster (wrong secret?)"
            )
            return
        if self._trouble != trouble:  # a head that stays down is told of once, not at every attempt
            log.warning("no connection to the head at %s: %s", self._address, self._trouble)
            self._tell({"kind": "disconnected", "reason": self._trouble})

    def _refuse(self, reason: str) -> None:
        self._refused = reason
        log.error("the head refuses this node: %s", reason)
        self._tell({"kind": "refused", "reason": reason})
        self._settled.set()

    def _tell(self, message: dict[str, Any]) -> None:
        try:
            self._on_message(message)
        except Exception:
            log.exception("a message of the head (%s) was not taken", message.get("kind"))


async def _wait(event: asyncio.Event, timeout_s: float) -> bool:
    try:
        await asyncio.wait_for(event.wait(), timeout_s)
    except TimeoutError:
        return False
    return True


async def _wait_any(wake: asyncio.Event, listener: asyncio.Future[Any], timeout_s: float) -> bool:
    """Return when ``wake`` is set, the listener ends, or after ``timeout_s``; whether it was one of the first two."""
    woken: asyncio.Future[Any] = asyncio.ensure_future(wake.wait())
    try:
        done, _ = await asyncio.wait(
            [woken, listener], timeout=max(0.0, timeout_s), return_when=asyncio.FIRST_COMPLETED
        )
    finally:
        woken.cancel()
    return bool(done)


def _code(error: BaseException) -> grpc.StatusCode | None:
    return error.code() if isinstance(error, grpc.aio.AioRpcError) else None


def _one_line(error: BaseException) -> str:
    if isinstance(error, TimeoutError):
        return "no answer in time"
    text = (error.details() or str(error.code())) if isinstance(error, grpc.aio.AioRpcError) else str(error)
    # Of "failed to connect to all addresses; last error: UNKNOWN: ipv4:…: Failed to connect to remote host: Connection refused".
    text = text.rpartition("last error: ")[2].rpartition("Failed to connect to remote host: ")[2]
    return " ".join(text.split()) or type(error).__name__

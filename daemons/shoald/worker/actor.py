"""A worker that has become an actor: makes the instance, then runs the calls of all callers on it.

Three ways to run calls, chosen by the class and its options:
    in order    one after the other on the main thread, as they come (of each caller: as it submitted them)
    threads     `max_concurrency` over 1 or concurrency groups: a pool of threads per group (`lanes`)
    event loop  a class with async methods: all calls on one asyncio loop, up to a limit per group (`asynclanes`)

In the last two the main thread reads the sockets. Replies go in batches, as a task worker's do. Callers may connect before the
constructor has returned: their calls wait here. What the constructor raises is sent to the daemon, for all callers.
"""

from __future__ import annotations

import os
import pickle
import threading
from collections import deque
from time import perf_counter
from typing import TYPE_CHECKING, Any, NoReturn

from shoal.actors.actor_class import group_of_methods
from shoal.actors.api import ActorExit
from shoal.actors.handle import ActorHandle
from shoal.client.awaits import Never
from shoal.client.connection import Connection
from shoal.context import ActorIdentity, TaskContext, current_task
from shoal.exceptions import ActorDiedError, ShoalError, format_remote_traceback
from shoal.refs import ObjectRef
from shoal.serialization import deserialize, loads_code, serialize
from shoal.wire import messages as m
from shoal.wire.frames import BrokenFrame
from shoald.worker import output
from shoald.worker.arguments import Arguments
from shoald.worker.asynclanes import AsyncLanes
from shoald.worker.blocking import Blocking
from shoald.worker.calls import Calls
from shoald.worker.cancels import Cancels
from shoald.worker.executor import Peer
from shoald.worker.functions import FunctionCache
from shoald.worker.lanes import Lanes
from shoald.worker.results import Results

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    from shoal.client.runtime import Runtime

_MAIN = threading.main_thread()
_UNSENT_S = 1.0  # what was answered before an intended end is waited for this long


class _Inbox:
    """Calls that wait for the main thread (an `Awaited` of the reactor)."""

    __slots__ = ("calls", "wake")

    def __init__(self) -> None:
        self.calls: deque[tuple[Peer, tuple[Any, ...]]] = deque()
        self.wake: object = None

    @property
    def ready(self) -> bool:
        return bool(self.calls)


class ActorExecutor:
    """The actor that this process is.

    Args:
        status: 64 bytes shared with the daemon; the first 16 name the call that was started last.
        become: the BECOME_ACTOR message.
    """

    def __init__(
        self, runtime: Runtime, status: memoryview, set_task_name: Callable[[str], None], become: list[Any]
    ) -> None:
        _, self._actor_id, self._info = become
        self.runtime = runtime
        self._status = status
        status[:16] = self._actor_id  # it has begun; in threads and on a loop no single call is current
        self._inbox = _Inbox()
        self._peers: list[Peer] = []
        self._running: list[bytes] = []
        self._cancels = Cancels(self._running, runtime.lock)
        self._lanes: Lanes | AsyncLanes | None = None
        self._short: set[bytes] = set()
        self._unsent_since = 0.0
        self._unsent = False
        self._serial = 0
        self._watched = (0, 0.0)
        self._reply_delay_s = runtime.config.reply_delay_us / 1e6
        resources = {name: units / 10_000 for name, units in self._info["resources"].items()}
        self.calls = Calls(
            runtime, Arguments(runtime), Results(runtime), self._info["class"], resources, self.reply_now,
            set_task_name, self._cancels,
        )  # fmt: skip
        blocking = Blocking(runtime, lambda: bool(self._running), self._send_replies_locked)
        runtime.tick_hook = self._watch
        runtime.blocking_hook = blocking.begin if "CPU" in resources else None
        runtime.unblocked_hook = blocking.end if "CPU" in resources else None
        runtime.run_here = None
        runtime.dispatch.cancel_here = lambda task_id: None
        runtime.serve_peers(self._on_peer, actor=True)

    # --- becoming ---

    def run(self) -> NoReturn:
        """Make the instance, say so, and run calls until the process ends."""
        runtime = self.runtime
        try:
            ref, cls, settings, args, kwargs = self._prepare()
        except BaseException as error:  # noqa: BLE001  whatever it is, callers have to hear of it
            self._fail(error)
        self._enter(ref)
        if settings["asynchronous"] or settings["groups"] or settings["concurrency"] > 1:
            groups = {"": settings["concurrency"], **settings["groups"]}
            kind = AsyncLanes if settings["asynchronous"] else Lanes
            self._lanes = kind(self.calls, groups, group_of_methods(cls), self._answer, self._exit)
        else:
            self._cancels.install()
        try:
            self._construct(cls, args, kwargs)
        except ActorExit:
            self._exit("exit_actor() was called in its constructor")
        except BaseException as error:  # noqa: BLE001  callers have to hear of it
            self._fail(error)
        del args, kwargs
        with runtime.lock:
            runtime.table.to_node([m.ACTOR_READY, self._actor_id])
            runtime.flush()
        self._serve()

    def _prepare(self) -> tuple[ObjectRef[Any], type, dict[str, Any], tuple[Any, ...], dict[str, Any]]:
        """What the actor is made from; raises what cannot be loaded, and the error of an argument that failed."""
        runtime = self.runtime
        ref: ObjectRef[Any] = ObjectRef(self._actor_id)
        blob, captured, job, settings, self._table, given, inside = runtime.values.get(ref, None)
        runtime.identity.job_id = self._info["job_id"]
        FunctionCache(runtime).enter_job({**job, "namespace": self._info["namespace"]})
        cls = loads_code(blob, captured)
        self._captured = captured
        args, kwargs = deserialize(given, inside)
        refs = [value for value in (*args, *kwargs.values()) if type(value) is ObjectRef]
        values = dict(zip([id(each) for each in refs], runtime.values.get_all(refs, None), strict=True))
        arguments = tuple(values[id(value)] if type(value) is ObjectRef else value for value in args)
        named = {
            name: values[id(value)] if type(value) is ObjectRef else value for name, value in kwargs.items()
        }
        return ref, cls, settings, arguments, named

    def _enter(self, ref: ObjectRef[Any]) -> None:
        info, identity = self._info, self.runtime.identity
        # It borrows the lifetime object without a hold: an actor does not keep itself alive.
        handle = ActorHandle(ref, self._table)
        identity.namespace = info["namespace"]
        identity.actor = ActorIdentity(self._actor_id.hex(), info["name"], info["restarts"] > 0, handle)

    def _construct(self, cls: type, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        name = f"{self._info['class']}.__init__"
        context = TaskContext(self._actor_id, name, name, 0, self.calls.resources)
        context.arguments = (*args, *kwargs.values())

        def make() -> None:
            token = current_task.set(context)
            try:
                self.calls.instance = cls(*args, **kwargs)
            finally:
                current_task.reset(token)
                context.arguments = ()

        self.calls.set_task_name(context.name)
        if isinstance(self._lanes, AsyncLanes):
            self._lanes.run_first(make)
        else:
            make()

    def _fail(self, error: BaseException) -> NoReturn:
        """The actor cannot be made: tell the daemon, which tells the callers and ends this process."""
        info, runtime = self._info, self.runtime
        if isinstance(error, ShoalError) and not isinstance(error, ActorDiedError):
            text = f"an argument of its constructor failed: {error}"
        else:
            text = (
                f"its constructor raised {type(error).__name__}: {error}\n\n{format_remote_traceback(error)}"
            )
        died = ActorDiedError(
            f"actor {info['class']} is dead: {text}",
            actor_id=self._actor_id.hex(), actor_name=info["name"], node=runtime.identity.node_id, pid=os.getpid(),
            next_step="mend the constructor, or what it is given, and make a new actor",
        )  # fmt: skip
        with runtime.lock:
            runtime.table.to_node([m.ACTOR_FAILED, self._actor_id, serialize(died).to_bytes()])
            runtime.flush()
        self._only_read()

    # --- the loop ---

    def _serve(self) -> NoReturn:
        lanes = self._lanes
        if lanes is not None:
            with self.runtime.lock:
                calls = self._inbox.calls
                lanes.deliver(list(calls))
                calls.clear()
                lanes.open = True
            self._only_read()
        inbox = self._inbox
        calls = inbox.calls
        wait = self.runtime.wait
        while True:
            try:
                peer, message = calls.popleft()
            except IndexError:
                self._send_replies()
                wait(inbox, None)
                continue
            self._execute(peer, message)

    def _only_read(self) -> NoReturn:
        """The main thread leads at the sockets; others, or nobody, run calls."""
        while True:
            self.runtime.wait(Never(), None)

    def _execute(self, peer: Peer, message: tuple[Any, ...]) -> None:
        """Run a call on the main thread, and queue its reply."""
        name = message[2]
        if self._unsent and (
            name not in self._short or perf_counter() - self._unsent_since > self._reply_delay_s
        ):
            self._send_replies()
        task_id = message[1]
        self._status[:16] = task_id
        self._serial += 1
        self._running.append(task_id)
        started = perf_counter()
        try:
            reply = self.calls.run(peer.proc, message)
        except ActorExit:
            self._exit("exit_actor() was called")
        except SystemExit as error:
            self._leave(error)
        finally:
            self._running.pop()
            self._cancels.ended(task_id)
        now = perf_counter()
        if reply[0] == m.DONE:
            run_us = (now - started) * 1e6
            if run_us < 500:
                self._short.add(name)
            else:
                self._short.discard(name)
            reply = (*reply, run_us)
        if not self._unsent:
            self._unsent = True
            self._unsent_since = now
        peer.replies.append(reply)

    # --- replies ---

    def _answer(self, answers: list[tuple[Peer, tuple[Any, ...]]]) -> None:
        """Send the replies of calls that ran elsewhere."""
        with self.runtime.lock:
            for peer, reply in answers:
                peer.replies.append(reply)
            self._send_replies_locked()

    def _send_replies(self) -> None:
        with self.runtime.lock:
            self._send_replies_locked()

    def _send_replies_locked(self) -> None:
        self.runtime.flush()  # seals and holds that the replies speak of go first
        self._unsent = False
        for peer in self._peers:
            replies = peer.replies
            if replies and peer.connection is not None:
                peer.replies = []
                peer.connection.send_pickled(replies, self.runtime.config.batch_bytes_max)

    def reply_now(self, proc: bytes, message: tuple[Any, ...], urgent: bool) -> None:
        """Send an item of a generator; results that wait go with it."""
        with self.runtime.lock:
            for peer in self._peers:
                if peer.proc == proc:
                    peer.replies.append(message)
                    break
            if urgent or self._lanes is not None or perf_counter() - self._unsent_since > self._reply_delay_s:
                self._send_replies_locked()
            else:
                self._unsent = True

    def _watch(self, now: float) -> float | None:
        """Send finished replies when a call runs long (lock held; on the backup thread)."""
        if not self._running or threading.current_thread() is _MAIN:
            return None
        tick_s = self.runtime.config.tick_ms / 1000
        again = self._cancels.remind()
        serial, since = self._watched
        if serial != self._serial:
            self._watched = (self._serial, now)
            return tick_s
        if now - since >= 0.0015 and any(peer.replies for peer in self._peers):
            self._send_replies_locked()
        return tick_s if again or self.calls.producers or now - since < 0.0015 else None

    # --- ends ---

    def _exit(self, reason: str) -> NoReturn:
        """End on purpose: what was answered is sent, the daemon knows that it is no accident."""
        runtime = self.runtime
        with runtime.lock:
            runtime.table.to_node([m.ACTOR_EXITS, self._actor_id, reason])
            self._send_replies_locked()
        self._end_process(0)

    def _leave(self, error: SystemExit) -> NoReturn:
        """A method called sys.exit: the process ends; callers learn it from the daemon."""
        self._send_replies()
        self._end_process(error.code if isinstance(error.code, int) else int(error.code is not None))

    def _end_process(self, code: int) -> NoReturn:
        deadline = perf_counter() + _UNSENT_S
        connections = [peer.connection for peer in self._peers if peer.connection is not None]
        connections.append(self.runtime.node.connection)
        while any(each.out_bytes for each in connections) and perf_counter() < deadline:
            with self.runtime.lock:
                for each in connections:
                    if each.out_bytes and not each.closed:
                        each.writable()
        output.flush()
        os._exit(code)

    # --- messages of callers (lock held) ---

    def _on_peer(self, message: list[Any], sock: socket.socket) -> None:
        _, lease_id, proc, _, resources, _ = message
        runtime = self.runtime
        for old in [peer for peer in self._peers if peer.proc == proc]:
            if old.connection is not None:
                old.connection.close()
            self._drop(old)
        peer = Peer(lease_id, proc, resources)
        peer.connection = Connection(
            sock, runtime.reactor, runtime.config.frame_bytes_max, self._on_frames, self._on_peer_closed
        )
        peer.connection.owner = peer
        self._peers.append(peer)

    def _on_peer_closed(self, connection: Connection) -> None:
        peer: Any = connection.owner
        self._drop(peer)

    def _drop(self, peer: Peer) -> None:
        """Forget a caller; its calls that have not started do not run."""
        if peer in self._peers:
            self._peers.remove(peer)
        calls = self._inbox.calls
        for item in [item for item in calls if item[0] is peer]:
            calls.remove(item)
        if self._lanes is not None:
            self._lanes.drop(peer)

    def _on_frames(self, connection: Connection, bodies: list[bytes]) -> None:
        peer: Any = connection.owner
        arrived: list[tuple[Peer, tuple[Any, ...]]] = []
        for body in bodies:
            for message in pickle.loads(body):
                tag = message[0]
                if tag == m.TASK:
                    arrived.append((peer, message))
                elif tag == m.CANCEL:
                    self._receive(arrived)
                    arrived = []
                    self._cancel(peer, message[1], message[3])
                elif tag == m.CONSUMED:
                    producer = self.calls.producers.get(message[1])
                    if producer is not None:
                        producer.consumed(message[2])
                elif tag != m.JOB:
                    raise BrokenFrame(f"unknown message {tag} from a caller")
        self._receive(arrived)

    def _receive(self, arrived: list[tuple[Peer, tuple[Any, ...]]]) -> None:
        if arrived and self._lanes is not None and self._lanes.open:
            self._lanes.deliver(arrived)
        else:
            self._inbox.calls.extend(arrived)

    def _cancel(self, peer: Peer, task_id: bytes, recursive: bool) -> None:
        calls = self._inbox.calls
        for item in calls:
            if item[1][1] == task_id:
                calls.remove(item)
                peer.replies.append((*self.calls.results.cancelled(task_id), b"", True))
                self._send_replies_locked()
                return
        if self._lanes is not None:
            self._lanes.cancel(task_id)
        elif task_id in self._running:
            self._cancels.request(task_id)
        if recursive:
            self.runtime.dispatch.cancel_children(task_id, False)

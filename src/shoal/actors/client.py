"""Actors of one process: makes them, connects to those it has handles to, and routes what they answer.

The shell around `ActorCalls`. A connection lives as long as this process has a handle that was used; whether it has is what
the object table says of the actor's lifetime object.
"""

from __future__ import annotations

import pickle
import socket
import time
from typing import TYPE_CHECKING, Any

from shoal.actors.calls import ActorCalls
from shoal.actors.handle import ActorHandle
from shoal.client.awaits import ignored
from shoal.client.connection import Connection
from shoal.client.linking import link
from shoal.client.packing import NOTHING_PACKED, Packed
from shoal.client.submitting import enter, refs_of
from shoal.client.values import callsite
from shoal.client.withdrawing import withdraw
from shoal.context import current_task
from shoal.exceptions import ActorUnavailableError, PendingCallsLimitExceeded
from shoal.ids import split_ids
from shoal.owner.leases import Lease
from shoal.owner.tasks import TaskRecord
from shoal.refs import ObjectRef, released
from shoal.serialization import serialize
from shoal.wire import messages as m
from shoal.wire.frames import BrokenFrame

if TYPE_CHECKING:
    from collections.abc import Callable

    from shoal.actors.actor_class import ActorClass
    from shoal.actors.handle import CallForm
    from shoal.actors.method import ClassTable
    from shoal.client.environments import Environment
    from shoal.client.runtime import Runtime

_SWEEP_S = 0.1  # unused connections are looked for this often
_ENDS = frozenset({"dead", "restarting"})  # states that say that a process has ended
_PLAIN = (int, float, bool, str, type(None))


class Actors:
    """The actors that one process knows."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self.calls: dict[bytes, ActorCalls] = {}
        self.become: list[Any] | None = None  # the message that makes this worker an actor
        self.caller_left: Callable[[bytes], None] = (
            ignored  # in an actor: what to do when a caller is gone (lock held)
        )
        self._swept = 0.0
        # Ends of processes that are held back, since their last replies may still come: actor → (the message, until when).
        self._ends: dict[bytes, tuple[list[Any], float]] = {}
        # Connections to their next processes, which wait for that: actor → (ACTOR_PEER, the socket).
        self._next: dict[bytes, tuple[list[Any], socket.socket]] = {}

    def handlers(self) -> dict[int, Callable[[list[Any]], None]]:
        """What to do with the daemon's messages about actors (lock held)."""
        return {
            m.ACTOR_PEER: self._on_peer,
            m.ACTOR_STATE: self._on_state,
            m.BECOME_ACTOR: self._on_become,
            m.CALLER_LEFT: lambda message: self.caller_left(message[1]),
        }

    # --- making ---

    def create(
        self, actor_class: ActorClass[Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> ActorHandle:
        """Make an actor; its handle. Raises ValueError if its name is taken."""
        runtime = self._runtime
        if runtime.closed:
            raise runtime.connection_lost()
        options = actor_class._options
        if runtime.identity.group is not None:
            options = runtime.groups.inherit(options, runtime.identity.group)
        table = actor_class.table()
        environment = runtime.environments.of(options.runtime_env)
        ref = self._seal(actor_class, args, kwargs, environment)
        constraints = options.constraints()
        if environment is not None:
            constraints = {**constraints, "env": environment["key"]}
        info = {
            "name": options.name or "",
            "namespace": options.namespace or "",
            "class": table.name,
            "resources": options.resource_units(),
            "placement": options.placement_units(),
            "constraints": constraints,
            "max_restarts": options.max_restarts,
            "detached": options.lifetime == "detached",
            "get_if_exists": options.get_if_exists,
            "table": pickle.dumps(table, 5) if options.name else b"",
        }
        handle = ActorHandle(ref, table)
        if options.name:
            return self._create_named(handle, info)
        with runtime.lock:
            self.attach(handle, created=True)
            runtime.table.to_node([m.CREATE_ACTOR, 0, ref.id, info])
            if runtime.node_backlog():
                runtime.flush()
        runtime.reactor.nudge()
        return handle

    def _create_named(self, handle: ActorHandle, info: dict[str, Any]) -> ActorHandle:
        """Wait for the daemon, which alone knows whether the name is free."""
        with self._runtime.lock:
            calls = self.attach(handle, created=True)  # before its connection can come
        try:
            data = self._ask(lambda number: [m.CREATE_ACTOR, number, handle._actor_id, info])
        except BaseException:
            with self._runtime.lock:
                self._forget(calls)
            raise
        if data["actor"] == handle._actor_id:
            return handle
        with self._runtime.lock:
            self._forget(calls)
        return self._received(data)

    def _ask(self, message: Callable[[int], list[Any]]) -> Any:
        runtime = self._runtime
        with runtime.lock:
            runtime.table.drain_released()  # an actor whose last handle has gone has no name any more
            number, answer = runtime.node.ask()
            runtime.table.to_node(message(number))
        runtime.wait(answer, None)
        if not answer.message:
            raise runtime.connection_lost()
        _, _, good, data = answer.message
        if not good:
            raise ValueError(data)
        return data

    def _received(self, data: dict[str, Any]) -> ActorHandle:
        """A handle to an actor that the daemon has told of; it has registered a hold for this process."""
        runtime = self._runtime
        with runtime.lock:
            (entry,) = runtime.table.received_held(split_ids(data["actor"]), None)
        return ActorHandle(ObjectRef(entry.id, entry), pickle.loads(data["table"]))

    def named(self, name: str, namespace: str | None) -> ActorHandle:
        """The living actor of that name; raises ValueError if there is none, ActorUnavailableError if nobody can say."""
        what = {"name": name, "namespace": namespace or ""}
        data = self._ask(lambda number: [m.REQUEST, number, "named_actor", what])
        if "unavailable" in data:
            raise ActorUnavailableError(
                data["unavailable"],
                actor_name=name,
                next_step="try again; `shoal status` shows the head and the nodes",
            )
        return self._received(data)

    def _seal(
        self,
        actor_class: ActorClass[Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        environment: Environment | None,
    ) -> ObjectRef[Any]:
        """Store what the actor is made from as its lifetime object; it contains every ref that the constructor gets."""
        runtime = self._runtime
        blob, captured = actor_class._export.code(runtime)
        options = actor_class._options
        args, kwargs = self._store_large(args, kwargs)
        settings = {
            "class": actor_class.__name__,
            "asynchronous": actor_class._export.is_async,
            "concurrency": actor_class.concurrency(),
            "groups": dict(options.concurrency_groups),
            "backlog": options.generator_backpressure_num_objects,
            "packages": runtime.environments.refs_of(environment),
        }
        job = {**runtime.job, "runtime_env": environment}
        # By themselves: they can only be loaded where the job's modules are found.
        given = serialize((args, kwargs))
        packed = serialize((blob, captured, job, settings, actor_class.table(), given.to_bytes(), given.refs))
        where = callsite()
        object_id = runtime.ids.next_id()
        runtime.values.escape_all(packed.refs)
        runtime.store.seal(object_id, packed, m.SEAL_PRIMARY, runtime.table.proc, where)
        with runtime.lock:
            entry = runtime.table.add_stored(object_id, packed.size)
            entry.callsite = where
        return ObjectRef(object_id, entry)

    def _store_large(
        self, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Large arguments become refs to stored copies, which several actors share."""
        runtime = self._runtime

        def shared(value: Any) -> Any:
            if isinstance(value, _PLAIN) or type(value) is ObjectRef:
                return value
            packed = serialize(value)
            large = packed.size > runtime.config.inline_bytes_max
            return (
                runtime.packer.store_shared(packed, "argument of an actor's constructor") if large else value
            )

        if not args and not kwargs:
            return args, kwargs
        return tuple(shared(value) for value in args), {name: shared(value) for name, value in kwargs.items()}

    # --- calling ---

    def call(self, handle: ActorHandle, form: CallForm, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Queue a call; its ref, a list of refs, None, or a generator of refs, as `num_returns` says."""
        runtime = self._runtime
        if runtime.closed:
            raise runtime.connection_lost()
        limit = handle._table.max_pending_calls
        if limit > 0 and handle._calls is not None and handle._calls.pending >= limit:
            raise PendingCallsLimitExceeded(f"{limit} calls wait for actor {handle._table.name}", limit=limit)
        packed: Packed = NOTHING_PACKED
        function, options = form.function, form.options
        if args or kwargs:
            packed = runtime.packer.pack(args, kwargs, function.name)
        task_id = runtime.ids.next_id()
        count = options.num_returns
        dispatch, table = runtime.dispatch, runtime.table
        context = current_task.get()
        task = None
        try:
            with runtime.lock:
                if released:
                    table.drain_released()
                calls = handle._calls if handle._runtime is runtime else None
                if calls is None:
                    calls = self.attach(handle)
                task = TaskRecord(task_id, function, options, packed[0], calls)  # type: ignore[arg-type]  # another kind
                task.careful = False
                entry = enter(table, task, packed, context, count)
                returns = task.returns
                calls.submit(task)
                if dispatch.urgent or len(table.node_out) >= 8:
                    runtime.flush()
            runtime.reactor.nudge()
            if count == 1:
                return ObjectRef(task_id, entry)
            return refs_of(runtime, task, entry, returns)
        except BaseException:
            withdraw(runtime, task_id, task, packed)
            raise

    def attach(self, handle: ActorHandle, created: bool = False) -> ActorCalls:
        """The calls of ``handle``'s actor, connected if they are not (lock held); of this session from now on."""
        runtime = self._runtime
        entry = runtime.table.entry_of(handle._ref)
        calls = self.calls.get(entry.id)
        if calls is None:
            table: ClassTable = handle._table
            calls = self.calls[entry.id] = ActorCalls(entry.id, table, runtime.dispatch, entry)
            if not created:
                runtime.table.to_node([m.CONNECT_ACTOR, entry.id, 0])
        calls.entry = entry  # a new one, if all earlier handles had gone
        handle._calls = calls
        handle._runtime = runtime
        return calls

    def kill(self, handle: ActorHandle, no_restart: bool) -> None:
        """End the actor's process; no later call of this process reaches it. Returns when the kill cannot get lost."""
        with self._runtime.lock:
            self.attach(handle).lost()
        self._ask(lambda number: [m.KILL_ACTOR, number, handle._actor_id, no_restart])

    # --- messages of the daemon (lock held) ---

    def _on_peer(self, message: list[Any]) -> None:
        actor_id = message[1]
        sock = socket.socket(fileno=self._runtime.node.take_descriptor())
        calls = self.calls.get(actor_id)
        if calls is None:
            sock.close()
        elif actor_id in self._ends and not self._read_last_replies(calls):
            self._drop_next(actor_id)
            self._next[actor_id] = message, sock
        else:
            self._let_end(actor_id)
            self._meet(calls, message, sock)

    def _drop_next(self, actor_id: bytes) -> None:
        """A connection that waits is not wanted any more; nothing if there is none."""
        waiting = self._next.pop(actor_id, None)
        if waiting is not None:
            waiting[1].close()

    def _meet(self, calls: ActorCalls, message: list[Any], sock: socket.socket) -> None:
        """The actor's present process is at the other end of a socket."""
        _, _, incarnation, proc, pid, tls = message
        runtime = self._runtime
        connection = link(
            runtime,
            sock,
            tls,
            self._on_replies,
            self._on_closed,
            server_side=False,
            on_drained=runtime.drained,
        )
        node = runtime.identity.node_id
        lease = Lease(0, proc, pid, calls, connection, node)  # type: ignore[arg-type]  # a queue of another kind
        connection.owner = lease
        calls.connected(lease, incarnation, {**runtime.job, "caller": runtime.table.proc})

    def _on_state(self, message: list[Any]) -> None:
        _, actor_id, state, details = message
        calls = self.calls.get(actor_id)
        if calls is None or calls.is_past(details):
            return
        self._let_end(actor_id)  # states of one process come in order
        has_ended = self._read_last_replies(calls)
        lease = calls.lease
        if lease is None or state not in _ENDS or has_ended or not self._replies_may_be_late(lease, details):
            self._take_state(calls, state, details)
            return
        lease.broken = True  # nothing is sent to it any more
        self._ends[actor_id] = message, time.monotonic() + self._runtime.config.late_replies_ms / 1000

    def _take_state(self, calls: ActorCalls, state: str, details: dict[str, Any]) -> None:
        if state == "dead":
            calls.died(details)
        elif state == "restarting":
            calls.restarting(calls.known(details, self._has_ended(calls.lease, details)))
        else:
            calls.infeasible = details.get("reason") or None
            if calls.infeasible:
                self._runtime.report(f"actor {calls.table.name} cannot be placed now: {calls.infeasible}")

    def _replies_may_be_late(self, lease: Lease, details: dict[str, Any]) -> bool:
        """Of a process on another node: its replies and its end come on different ways. Not if all of the node died."""
        return bool(lease.inflight) and not details.get("node_died") and not self._is_here(details)

    def _is_here(self, details: dict[str, Any]) -> bool:
        return details.get("node") in {None, "", self._runtime.identity.node_id}

    def _has_ended(self, lease: Lease | None, details: dict[str, Any]) -> bool:
        """Whether a connection whose last replies were read has ended in order. From this node nothing is on its way."""
        connection: Connection | None = lease.connection if lease is not None else None
        if connection is None or connection.ended:
            return True
        return self._is_here(details) and not connection.closed

    def _let_end(self, actor_id: bytes) -> None:
        """Take the end of a process that was held back, if one was."""
        held = self._ends.pop(actor_id, None)
        calls = self.calls.get(actor_id)
        if held is not None and calls is not None:
            _, _, state, details = held[0]
            self._read_last_replies(calls)
            self._take_state(calls, state, details)
            if actor_id in self._next:
                self._meet(calls, *self._next.pop(actor_id))

    def _read_last_replies(self, calls: ActorCalls) -> bool:
        """What the actor had answered before it died counts: it may still lie in the socket. Whether nothing more can come."""
        connection: Connection | None = calls.lease.connection if calls.lease is not None else None
        if connection is None:
            return True
        while connection.readable:
            bodies = connection.receive()
            if bodies is None:
                return True
            self._on_replies(connection, bodies)
        return bool(connection.closed)

    def _on_become(self, message: list[Any]) -> None:
        self._runtime.peer_handler = None  # callers that come from now on are the actor's
        self.become = message

    # --- messages of actors (lock held) ---

    def _on_replies(self, connection: Connection, bodies: list[bytes]) -> None:
        lease: Any = connection.owner
        calls: ActorCalls = lease.queue
        dispatch = self._runtime.dispatch
        done = dispatch.done
        for body in bodies:
            for message in pickle.loads(body):
                tag = message[0]
                if tag == m.DONE:
                    done(lease, message)
                elif tag == m.FAILED:
                    calls.failed(lease, message)
                elif tag == m.ITEM:
                    dispatch.item(lease, message[1], message[2], message[3])
                elif tag == m.RESUMED:
                    calls.resumed(lease, message[1])
                elif tag == m.NOT_BEGUN:
                    calls.not_begun.update(message[1])
                else:
                    raise BrokenFrame(f"unknown message {tag} from an actor")
            if tag != m.RESUMED:  # that one is by itself in its frame, and does not count
                calls.heard_frame(lease, len(body))
        calls.settle()

    def _on_closed(self, connection: Connection) -> None:
        lease: Any = connection.owner
        calls: ActorCalls = lease.queue
        if lease is calls.lease and calls.actor_id in self._ends:
            self._let_end(calls.actor_id)
        elif not lease.broken and lease is calls.lease:
            calls.lost()
            self._runtime.table.to_node([m.CONNECT_ACTOR, calls.actor_id, calls.incarnation])

    # --- from time to time ---

    def tick(self, now: float) -> bool:
        """Close connections to actors that nothing here refers to any more (lock held); whether an end waits for its time."""
        for actor_id in [actor_id for actor_id, (_, until) in self._ends.items() if until <= now]:
            self._let_end(actor_id)
        if not self.calls or now - self._swept < _SWEEP_S:
            return bool(self._ends)
        self._swept = now
        entries = self._runtime.table.entries
        for calls in list(self.calls.values()):
            if calls.waiting:
                calls.settle()
            if not calls.held and calls.actor_id not in entries:
                self._forget(calls)
                self._runtime.table.to_node([m.DISCONNECT_ACTOR, calls.actor_id])
        return bool(self._ends)

    def _forget(self, calls: ActorCalls) -> None:
        self.calls.pop(calls.actor_id, None)
        self._ends.pop(calls.actor_id, None)
        self._drop_next(calls.actor_id)
        lease, calls.lease = calls.lease, None
        if lease is not None:
            if lease.connection is not None:
                if not lease.broken:
                    lease.connection.send_pickled([(m.LEAVE,)], self._runtime.config.batch_bytes_max)
                lease.connection.close()
            lease.broken = True

    def close(self) -> None:
        """The session ends (lock held)."""
        for calls in list(self.calls.values()):
            self._forget(calls)

    def describe_sent(self, task: TaskRecord) -> str | None:
        """Where a call of an actor is that was sent; None for a task."""
        queue: object = task.queue
        return queue.where(task) if isinstance(queue, ActorCalls) else None

    def describe_wait(self, task: TaskRecord) -> str | None:
        """What an unsent call of an actor waits for; None for a task."""
        queue: object = task.queue
        return queue.why(task) if isinstance(queue, ActorCalls) else None

    @staticmethod
    def waits_for_process(task: TaskRecord) -> bytes:
        """The actor whose process an unsent call waits for; b"" if it waits for something else."""
        queue: object = task.queue
        return queue.actor_id if isinstance(queue, ActorCalls) and not task.unresolved else b""

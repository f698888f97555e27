"""One process's part in a cluster: the owner core with its sockets, store and threads.

A driver has one between init and shutdown, a worker for its life. It routes messages of the daemon to the cores,
flushes outboxes, and offers what the API and the executor build on: submit, values, wait.

Lock order: `lock` is the only lock; it is never held while user code runs, values are pickled, or large data is copied.
"""

from __future__ import annotations

import os
import pickle
import socket
import sys
import threading
from typing import TYPE_CHECKING, Any

from shoal.actors.client import Actors
from shoal.client import forks
from shoal.client.awaits import Promoted, ignored
from shoal.client.cancelling import cancel_asked
from shoal.client.connection import Connection
from shoal.client.deaths import Deaths
from shoal.client.endings import SHUT_DOWN, fail_everything, node_died, session_over
from shoal.client.environments import Environments
from shoal.client.errors import make_error, retriable
from shoal.client.explain import Explain
from shoal.client.futures import Resolver
from shoal.client.groups import Groups
from shoal.client.heap import IdleHeap, keep_freed_memory
from shoal.client.interrupts import Interruptible, nothing
from shoal.client.keptviews import KeptViews, keep_views
from shoal.client.linking import link
from shoal.client.node import NodeLink
from shoal.client.objectstore import ClientStore
from shoal.client.outboxes import flush_lease, flush_node
from shoal.client.packing import NOTHING_PACKED, Packed, Packer
from shoal.client.reactor import Reactor
from shoal.client.submitting import enter, new_queue, refs_of
from shoal.client.ticks import Ticks
from shoal.client.timeline import Timeline
from shoal.client.values import Values, callsite
from shoal.client.waits import Waits
from shoal.client.withdrawing import withdraw
from shoal.context import Identity, current_task
from shoal.exceptions import ClusterStartError
from shoal.ids import IdSource, node_tag, split_ids
from shoal.owner.dispatch import Dispatcher
from shoal.owner.nodestream import MESSAGE_IDS_MAX
from shoal.owner.objects import FAILED, REFUSED
from shoal.owner.table import ObjectTable
from shoal.owner.tasks import FunctionExport, TaskRecord
from shoal.refs import ObjectRef, released
from shoal.sizes import bytes_text
from shoal.wire import messages as m
from shoal.wire.frames import BrokenFrame
from shoal.wire.tls import Contexts

if TYPE_CHECKING:
    import concurrent.futures
    from collections.abc import Callable

    from shoal.config import Config
    from shoal.options import TaskOptions
    from shoal.owner.objects import Entry
    from shoal.store.region import Region


class Runtime:
    """This process in the cluster.

    Args:
        socket_path, secret: where and with what the node daemon is reached.
        node_id: which node that is; the ids made here carry its tag.
        kind: "driver" or "worker".
        info: the rest of HELLO, see wire.messages.
        region: the store's mapping, if this process has it already (workers inherit it from the fork server).

    Raises ClusterNotFoundError, AuthenticationError or ClusterStartError if it cannot join.
    """

    def __init__(
        self,
        socket_path: str,
        secret: bytes,
        node_id: str,
        kind: str,
        info: dict[str, Any],
        config: Config,
        region: Region | None = None,
    ) -> None:
        heap = IdleHeap(config.worker_heap_idle_ms / 1000) if kind == "worker" else None
        if heap is None:  # workers have it from the fork server
            keep_freed_memory(config.heap_kept_bytes_max)
        self.config = config
        self._region = region
        self.kind = kind
        self.lock = threading.RLock()  # see `waits`: a finalizer may use shoal where it has interrupted shoal
        self.ids = IdSource(tag=node_tag(node_id))
        self.table = ObjectTable(self.ids.process_id)
        self.dispatch = Dispatcher(self.table, config, make_error)
        self.dispatch.is_retriable = retriable
        self.dispatch.flush_now = self.flush
        self.closed = False  # no use can be made of it any more
        self._left = False
        self.lost_reason = ""
        self._no_store: ClusterStartError | None = None
        self._no_room = b""
        self.garbage_suspected = False  # garbage in cycles may hold refs or views that matter to others
        self.identity = Identity(kind=kind)
        self.tls = Contexts(os.path.dirname(socket_path))
        self.welcome: dict[str, Any] = {}
        self.job: dict[str, Any] = {}
        self.peer_handler: Callable[[list[Any], socket.socket], None] | None = None
        self._early_peers: list[tuple[list[Any], socket.socket]] = []
        self.log_handler: Callable[[list[Any]], None] | None = None
        self.on_exit: Callable[[], None] | None = None
        self.on_leave: Callable[[], None] | None = None
        self.blocking_hook: Callable[[object], bool] | None = None
        self.unblocked_hook: Callable[[object], None] | None = None
        self.run_here: Callable[[TaskRecord], None] | None = None
        self.may_run_here: Callable[[TaskRecord], bool] = lambda task: False
        self._flushing = self._flush_again = False
        self.waits = waits = Waits(self)
        self.wait = waits.wait
        self.wait_for_objects = waits.wait_for_objects
        self.poll = waits.poll
        self.explain = Explain(self)
        self.futures = Resolver(self)
        self.deaths = Deaths(self)
        self.actors = Actors(self)
        self.groups = Groups(self)
        self.environments = Environments(self)
        self.timeline = Timeline(config.timeline_tasks_max)
        self.ticks = Ticks(self, heap)
        self.reactor = Reactor(
            self.lock, self._flush, self.ticks.look, config.poll_us / 1e6, config.tick_ms / 1e3, self.report
        )
        self.kept_views: KeptViews | None = None
        self.store: ClientStore = None  # type: ignore[assignment]  # set by the WELCOME that __init__ waits for
        try:
            self.node = NodeLink(socket_path, secret, self.reactor, config, self._handlers(), self._node_lost)
        except BaseException:
            self.reactor.stop()
            raise
        self.values = Values(self)
        self.packer = Packer(self)
        self.pid = os.getpid()
        forks.install()
        self._join(kind, info)

    # --- joining and leaving ---

    def _join(self, kind: str, info: dict[str, Any]) -> None:
        with self.lock:
            _, self._welcomed = self.node.ask()
            self.table.to_node(self.node.hello(self.ids.process_id, kind, info))
        try:
            self.wait(self._welcomed, self.config.handshake_ms_max / 1000)
            if not self.welcome:
                raise self._no_store or self.connection_lost()
        except BaseException:
            self.closed = True
            with self.lock:
                self.node.connection.close()
            self.reactor.stop()
            raise
        self.reactor.start()

    def _on_welcome(self, message: list[Any]) -> None:
        info: dict[str, Any] = message[1]
        try:
            region = self.node.map_store(info["capacity"], self._region)
        except OSError as error:
            self._no_store = ClusterStartError(
                f"this process cannot map the object store of {bytes_text(info['capacity'])}: {error.strerror}",
                next_step="let it have more address space (ulimit -v), or make the store smaller (object_store_memory)",
            )
            self._welcomed.set(message)
            return
        self.welcome = info
        self.store = ClientStore(self, self.node, region)
        identity = self.identity
        identity.node_id = info["node_id"]
        identity.job_id = info.get("job_id") or ""
        identity.session_dir = info["session_dir"]
        identity.address = info.get("address") or ""
        identity.namespace = info.get("namespace") or ""
        identity.worker_id = self.table.proc.hex()
        self._welcomed.set(message)

    def close(self, timeout_s: float = 5.0) -> None:
        """Leave in order: worker output that is under way is printed, then connections close. Idempotent."""
        if self._left:
            return
        self._left = True
        try:
            if not self.closed:
                with self.lock:
                    number, answer = self.node.ask()
                    self._goodbye = number
                    self.table.to_node([m.COUNTED, dict(self.dispatch.counters)])
                    if self.store is not None:
                        self.kept_views = keep_views(self)
                    self.table.to_node([m.GOODBYE])
                self.wait(answer, timeout_s)
        finally:  # also if Ctrl-C has ended that wait: whoever waits in this session is told that it is over
            with Interruptible(nothing):
                self._disconnect()

    def _disconnect(self) -> None:
        self.closed = True
        with self.lock:
            self.ticks.close()
            self._end(SHUT_DOWN)
            for lease in list(self.dispatch.leases.values()):
                if lease.connection is not None:
                    lease.connection.close()
            self.actors.close()
            self.node.connection.close()
        self.reactor.stop()
        self.packer.close()
        if self.store is not None:
            self.store.close()
        self.futures.close()

    def _on_exit(self, message: list[Any]) -> None:
        """The daemon wants this process to end, perhaps after what it does now."""
        leave = (self.on_leave if len(message) > 1 else None) or self.on_exit
        if leave is not None:
            leave()

    def _node_lost(self) -> None:
        self.closed = True
        if self.on_exit is not None:
            self.on_exit()
        self._end("the connection to the node daemon closed")

    def _end(self, reason: str) -> None:
        self.lost_reason = self.lost_reason or reason
        fail_everything(self, self.lost_reason)
        self.groups.end(self.lost_reason)

    def connection_lost(self) -> Exception:
        """The error for whoever needs the daemon when it is gone."""
        return session_over(self.lost_reason or SHUT_DOWN)

    def report(self, text: str) -> None:
        """Something for people to read that is nobody's exception."""
        print(f"[shoal] {text}", file=sys.__stderr__, flush=True)

    # --- messages of the daemon (lock held) ---

    def _handlers(self) -> dict[int, Callable[[list[Any]], None]]:
        table, dispatch = self.table, self.dispatch
        return {
            m.WELCOME: self._on_welcome,
            m.EXTENT: lambda message: self.store.extent_granted(message),
            m.ALLOC_FAILED: lambda message: self.store.extent_refused(message),
            m.PINNED: lambda message: self.store.pinned(message),
            m.PINNED_MANY: lambda message: self.store.pinned_many(message),
            m.FILE_LENT: lambda message: self.store.files.lent(message),
            m.PINNED_IN_FILE: lambda message: self.store.pinned_in_file(message),
            m.PIN_FAILED: lambda message: self.store.pin_failed(message),
            m.UNPIN_RECALL: lambda message: self.store.recalled(split_ids(message[1])),
            m.EXTENT_RECALL: lambda message: self.store.return_unused(),
            m.AVAILABLE: self._on_available,
            m.NODE_DIED: lambda message: node_died(self, message),
            m.RECOVER: self._on_recover,
            m.GRANT: self._on_grant,
            m.RECALL_LEASE: lambda message: dispatch.recall(message[1]),
            m.WORKER_DIED: self.deaths.worker_died,
            m.DEMAND_STATUS: self._on_demand_status,
            m.PEER: self._on_peer,
            m.EXIT: self._on_exit,
            m.CANCEL_ASKED: lambda message: cancel_asked(self, message),
            m.JOB_ENDED: lambda message: self.on_exit() if self.on_exit else None,
            m.RESPONSE: lambda message: ignored(self.node.answered(message[1], message)),
            m.QUERY: lambda message: table.to_node(
                [m.ANSWER, message[1], self.explain.answer(message[2], message[3])]
            ),
            m.LOG: lambda message: self.log_handler(message[1]) if self.log_handler else None,
            m.GOODBYE_OK: lambda message: ignored(self.node.answered(self._goodbye, message)),
            **self.actors.handlers(),
            **self.groups.handlers(),
        }

    def _on_available(self, message: list[Any]) -> None:
        _, object_id, size, _, problem = message
        error = make_error("lost", None, problem) if problem else None
        self.table.available(object_id, size, error)

    def _on_recover(self, message: list[Any]) -> None:
        refused = self.dispatch.lineage.recover(message[1])
        if refused is not None:
            self.table.to_node([m.UNRECOVERABLE, message[1], *refused])

    def _on_grant(self, message: list[Any]) -> None:
        _, shape_id, lease_id, proc, pid, _, node, tls = message
        sock = socket.socket(fileno=self.node.take_descriptor())
        connection = link(
            self,
            sock,
            tls,
            self._on_replies,
            self._on_worker_gone,
            server_side=False,
            on_drained=self.drained,
        )
        queue = self.dispatch.by_shape_id.get(shape_id)
        environment = queue.environment if queue is not None else None
        job = {**self.job, "caller": self.table.proc, "runtime_env": environment}
        connection.send_pickled([(m.JOB, job)], self.config.batch_bytes_max)
        lease = self.dispatch.granted(shape_id, lease_id, proc, pid, connection, node)
        if lease is None:
            connection.close()
        else:
            connection.owner = lease

    def _on_demand_status(self, message: list[Any]) -> None:
        queue = self.dispatch.by_shape_id.get(message[1])
        if queue is None:
            return
        queue.infeasible = message[3] if message[2] != "ok" else None
        if message[2] == "infeasible":
            names = sorted({task.name for task in queue.ready})
            what = f"task {names[0]!r}" if len(names) == 1 else f"{len(queue.ready)} tasks"
            self.report(f"{what} cannot run now: {message[3]}")
        elif message[2] in ("limit", "never"):
            self.dispatch.refused(queue, message[3])

    def _on_peer(self, message: list[Any]) -> None:
        sock = socket.socket(fileno=self.node.take_descriptor())
        if self.peer_handler is None:
            self._early_peers.append((message, sock))
        else:
            self.peer_handler(message, sock)

    def serve_peers(
        self, handler: Callable[[list[Any], socket.socket], None], *, actor: bool = False
    ) -> None:
        """Give submitters' connections to ``handler``, with the lock held; those that came before, now.

        Those of a worker that is to become an actor are for the ``actor``'s handler.
        """
        with self.lock:
            if self.actors.become is not None and not actor:
                return
            self.peer_handler = handler
            early, self._early_peers = self._early_peers, []
            for message, sock in early:
                handler(message, sock)

    # --- messages of workers (lock held) ---

    def _on_replies(self, connection: Connection, bodies: list[bytes]) -> None:
        lease: Any = connection.owner
        self.take_replies(lease, bodies)
        self.dispatch.settle(lease)

    def take_replies(self, lease: Any, bodies: list[bytes]) -> None:
        """Messages of a leased worker."""
        dispatch = self.dispatch
        done = dispatch.done
        for body in bodies:
            for message in pickle.loads(body):
                tag = message[0]
                if tag == m.DONE:
                    done(lease, message)
                elif tag == m.FAILED:
                    dispatch.failed(lease, message)
                elif tag == m.ITEM:
                    dispatch.item(lease, message[1], message[2], message[3])
                elif tag == m.GIVEN_BACK:
                    dispatch.given_back(lease, message[1])
                elif tag == m.RUNNING:
                    lease.stalled = True
                elif tag == m.USED_UP:
                    lease.used_up = True
                else:
                    raise BrokenFrame(f"unknown message {tag} from a worker")

    def _on_worker_gone(self, connection: Connection) -> None:
        lease: Any = connection.owner
        if lease is None or self.deaths.connection_ended(lease):
            return
        if not lease.broken:
            lease.broken = True
            if not lease.inflight:
                self.dispatch.give_back(lease, m.RETURN_BROKEN)
            else:
                # Its tasks wait for the confirmed death (WORKER_DIED), which this brings about if only the connection broke.
                self.table.to_node([m.RETURN, lease.lease_id, m.RETURN_BROKEN])

    # --- sending (lock held) ---

    def flush(self) -> None:
        """Write out what is queued. A signal handler that raises does so when that is done."""
        if released or self.dispatch.dirty or self.table.has_output():
            with Interruptible(nothing):
                self._flush()

    def flush_seals(self) -> None:
        """Before replies that speak of them go: seals and holds are with the kernel, and do not end with this process."""
        self.flush()
        self.node.connection.write_out()

    def _flush(self) -> None:
        """Write out what is queued. Where a finalizer has interrupted just that, the interrupted one does it, in order."""
        if not (released or self.dispatch.dirty or self.table.has_output()):
            return  # as most often, in 0.15 µs instead of 0.3, or of 2 with signals caught
        self._flush_again = True
        if self._flushing:
            return
        self._flushing = True
        try:
            while self._flush_again:
                self._flush_again = False
                self._flush_once()
        finally:
            self._flushing = False

    def _flush_once(self) -> None:
        """To the daemon first, since what goes to workers may refer to it."""
        table, dispatch = self.table, self.dispatch
        if released:
            table.drain_released()
        store = self.store
        if store is not None:
            if table.promotions:
                self._promote()
            if table.freed:
                store.release_freed()
        if table.has_node_messages():
            flush_node(table, self.node)
        dispatch.urgent = False
        while dispatch.dirty:
            flush_lease(dispatch, dispatch.dirty.pop(), self.config)

    @staticmethod
    def drained(connection: Connection) -> None:
        """What had to wait for a worker or an actor was sent: it may get more."""
        lease: Any = connection.owner
        if lease is not None and lease.held_back:
            lease.held_back = False
            lease.queue.go_on()

    def _promote(self) -> None:
        """Write what has to go to the store, in order. What there is no room or no memory for stays queued, as it is."""
        table, promotions = self.table, self.table.promotions
        count = self.store.promoter.promote(promotions, self._promoted_value)
        done = promotions[:count]
        del promotions[:count]
        for entry in done:
            table.promoted(entry)

    def _promoted_value(self, entry: Entry) -> tuple[bytes, int]:
        """(content, flags) of what is written for an entry."""
        refused = entry.flags & REFUSED
        flags = m.SEAL_PRIMARY | (m.SEAL_ERROR if refused or entry.state == FAILED else 0)
        return self._no_room if refused else entry.value, flags

    def write_promotions(self) -> None:
        """Return when the values whose refs were sent away are in the store, or there was no room for too long.

        What is sent now outlives this process.
        """
        with self.lock:
            self.flush()
        self.wait(Promoted(self.table), self.config.store_full_wait_ms / 1000)

    def promotions_failed(self, reason: str) -> None:
        """There is no room for values whose refs were sent away: an error takes their place, for whoever reads them elsewhere.

        That is small; until there is room even for that it is tried again, and who waits by then is told each time (lock held).
        """
        self._no_room = make_error("store_full", None, reason)
        refused = [entry for entry in self.table.promotions if not entry.flags & REFUSED]
        for entry in refused:
            entry.flags |= REFUSED
        waiting = [entry.id for entry in self.table.promotions]
        for start in range(0, len(waiting), MESSAGE_IDS_MAX):
            ids = b"".join(waiting[start : start + MESSAGE_IDS_MAX])
            self.table.to_node([m.UNRECOVERABLE, ids, "full", reason])
        if refused:
            self.report(f"{len(refused)} value(s) that tasks refer to do not fit into the store: {reason}")

    def node_backlog(self) -> bool:
        """Whether enough waits for the daemon to be worth a system call."""
        return len(self.table.node_out) >= 8

    # --- submitting ---

    def submit(
        self, function: FunctionExport, options: TaskOptions, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """Queue a task; its ref, a list of refs, None, or a generator of refs, as `num_returns` says."""
        if self.closed:
            raise self.connection_lost()
        packed: Packed = NOTHING_PACKED
        if args or kwargs:
            packed = self.packer.pack(args, kwargs, function.name)
        task_id = self.ids.next_id()
        task = None
        count = options.num_returns
        dispatch, table = self.dispatch, self.table
        context = current_task.get()
        if context is not None and self.identity.group is not None:
            options = self.groups.inherit(options, self.identity.group)
        try:
            queue = dispatch.queues.get(options.shape_key()) or new_queue(self, options, function.name)
            with self.lock:
                if released:
                    table.drain_released()
                task = TaskRecord(task_id, function, options, packed[0], queue)
                entry = enter(table, task, packed, context, count)
                returns = task.returns
                dispatch.submit(task)
                if dispatch.urgent or len(table.node_out) >= 8:
                    self.flush()
            self.reactor.nudge()
            if count == 1:
                return ObjectRef(task_id, entry)
            return refs_of(self, task, entry, returns)
        except BaseException:
            withdraw(self, task_id, task, packed)
            raise

    # --- other services ---

    def request(self, method: str, params: dict[str, Any], timeout_s: float = 10.0) -> Any:
        """Ask the daemon a question (REQUEST); raises RuntimeError with its answer if it cannot."""
        with self.lock:
            self.store.give_back()  # so that the answer knows of what this process has let go of
            number, answer = self.node.ask()
            self.table.to_node([m.REQUEST, number, method, params])
        try:
            answered = self.wait(answer, timeout_s)
        finally:
            with self.lock:
                self.node.forget(number)
        if not answered:
            raise TimeoutError(f"the node daemon did not answer {method!r} within {timeout_s} s")
        if not answer.message:
            raise self.connection_lost()
        _, _, good, data = answer.message
        if not good:
            raise RuntimeError(data)
        return data

    def round_trip(self) -> None:
        """Return when the daemon has answered what it was asked before, as far as it can."""
        self.request("logs_dir", {})

    def future(self, ref: ObjectRef[Any]) -> concurrent.futures.Future[Any]:
        """A future for the value of ``ref``."""
        return self.futures.future_of(ref)

    def where(self) -> str:
        """The call site of the user's code, for people."""
        return callsite()

"""Drivers and workers for simulations: the production owner core, with a shell that runs tasks for a drawn virtual time.

What a task does is in its `Plan`, whose number is its payload: it reads its arguments, runs, may submit tasks of its own and
wait for them, and returns a small value or a stored one. A process sends what its cores want when it has dealt with an event.
"""

from __future__ import annotations

from collections import deque
from functools import partial
from typing import TYPE_CHECKING, Any

from tests.sim.storage import Reading, Storage

from shoal.options import TaskOptions
from shoal.owner.dispatch import Dispatcher
from shoal.owner.leases import Lease
from shoal.owner.objects import FAILED, PENDING, STORED, Entry
from shoal.owner.table import ObjectTable
from shoal.owner.tasks import FunctionExport, TaskRecord
from shoal.refs import released
from shoal.wire import messages as m

if TYPE_CHECKING:
    from tests.sim.cluster import Cluster
    from tests.sim.daemons import Daemon
    from tests.sim.workload import Plan

_NO_TASK = bytes(16)
_VALUE = b"value"
_INNER_BYTES = 120_000


class Connection:
    """Between a submitter and a worker; it ends when either does, or breaks."""

    def __init__(self, cluster: Cluster, submitter: Process, worker: Worker) -> None:
        self.submitter = submitter
        self.worker = worker
        self.lease: Lease | None = None
        self.accepted = False
        self.ended = False
        self.early: list[list[Any]] = []
        network = cluster.network
        one, other = submitter.daemon.node_id, worker.daemon.node_id
        if one == other:
            other += " "
        self.there = network.channel(
            one, other, self._at_worker, lasting=one == other.strip(), on_broken=self.broken
        )
        self.back = network.channel(
            other, one, self._at_submitter, lasting=one == other.strip(), on_broken=self.broken
        )

    def _at_worker(self, batch: list[Any] | None) -> None:
        if not self.worker.alive:
            return
        if batch is None:
            self.worker.left(self)
            self.end()
        elif self.accepted:
            self.worker.take(self, batch)
        else:
            self.early.append(batch)

    def accept(self) -> None:
        """The worker has got its end."""
        self.accepted = True
        for batch in self.early:
            self.worker.take(self, batch)

    def _at_submitter(self, batch: list[Any] | None) -> None:
        if not self.submitter.alive:
            return
        if batch is None:
            self.end()
            self.submitter.worker_gone(self)
        else:
            self.submitter.replies(self, batch)

    def close_soon(self) -> None:
        """The submitter needs it no longer."""
        self.there.send(None)

    def broken(self) -> None:
        """The connection is lost, and both ends notice."""
        if not self.ended:
            self.end()
            if self.worker.alive:
                self.worker.left(self)
            if self.submitter.alive:
                self.submitter.worker_gone(self)

    def end(self) -> None:
        """Nothing passes any more."""
        self.ended = True
        self.there.close()
        self.back.close()
        self.worker.connections.pop(self, None)


class Process:
    """Whoever submits tasks.

    Attributes:
        outcomes: plan number → its result's entry, of tasks whose results user code here refers to.
    """

    kind = "driver"

    def __init__(self, cluster: Cluster, daemon: Daemon, pid: int) -> None:
        self.cluster = cluster
        self.daemon = daemon
        self.config = cluster.config
        self.pid = pid
        self.proc = proc = daemon.new_process_id()
        self.job_id = ""
        self.alive = True
        self.exit_code = 0
        self.worker_id = b""
        self.status = _NO_TASK
        self.table = ObjectTable(proc)
        self.table.node_sequence = 1  # HELLO
        self.dispatch = Dispatcher(self.table, cluster.config, _make_error)
        self.dispatch.flush_now = self.flush
        network = cluster.network
        host = daemon.node_id
        self.up = network.channel(host + " ", host, lambda batch: daemon.from_client(self, batch))
        self.down = network.channel(host, host + " ", self._from_daemon)
        self._functions: dict[str, FunctionExport] = {}
        self._counter = self._puts = 0
        self._idle_due = float("inf")
        self._held: dict[Lease, list[Any]] = {}
        self.storage = Storage(self)
        self.client: Any = None  # what actorside takes for its connection

    def __repr__(self) -> str:
        return f"<{self.kind} {self.proc.hex()}>"

    @property
    def now(self) -> float:
        return self.cluster.clock.now

    def new_put_id(self) -> bytes:
        self._puts += 1
        return self.proc + (1 << 31 | self._puts).to_bytes(4, "big") + bytes(4)

    # --- submitting ---

    def submit(
        self, plan: Plan, arguments: tuple[Entry, ...], waiter: Any, parent: bytes | None = None
    ) -> Entry:
        """Submit a task; its entry has one use, which is the caller's. ``waiter`` is told when it is ready."""
        table, dispatch = self.table, self.dispatch
        function = self._functions.get(plan.function)
        if function is None:
            name = plan.function
            function = self._functions[name] = FunctionExport(name.encode().ljust(16), b"code", name, [])
        options = plan.options
        queue = dispatch.queues.get(options.shape_key())
        if queue is None:
            constraints = {"name": plan.function, **options.constraints()}
            queue = dispatch.queue_for(options.shape_key(), options.resource_units(), constraints)
        self._counter += 1
        task_id = self.proc + self._counter.to_bytes(4, "big") + bytes(4)
        task = TaskRecord(task_id, function, options, plan.number.to_bytes(8, "big"), queue)
        for entry in arguments:
            entry.count += 1
        task.lifted = arguments
        task.parent = parent
        entry = table.entries[task_id] = Entry(task_id, PENDING, 1, task)
        entry.waiters = [waiter]
        task.returns = (entry,)
        dispatch.submit(task)
        return entry

    # --- messages ---

    def _from_daemon(self, message: list[Any]) -> None:
        if not self.alive:
            return
        tag = message[0]
        if tag == m.GRANT:
            self._granted(message)
        elif tag == m.RECALL_LEASE:
            self.dispatch.recall(message[1])
        elif tag == m.WORKER_DIED:
            self._worker_died(message)
        elif tag == m.DEMAND_STATUS:
            queue = self.dispatch.by_shape_id.get(message[1])
            if queue is not None:
                queue.infeasible = message[3] if message[2] != "ok" else None
                if message[2] in ("limit", "never"):
                    self.dispatch.refused(queue, message[3])
        elif tag == m.AVAILABLE:
            self.table.available(message[1], message[2], message[4].encode() or None)
        elif tag == m.RECOVER:
            refused = self.dispatch.lineage.recover(message[1])
            if refused is not None:
                self.table.to_node([m.UNRECOVERABLE, message[1], *refused])
        else:
            self.hears(message)
        self.flush()

    def hears(self, message: list[Any]) -> None:
        """A message that is not for the owner core."""
        if not self.storage.hears(message):
            raise AssertionError(f"{self} got {message}")

    def _granted(self, message: list[Any]) -> None:
        _, shape_id, lease_id, proc, pid, _, node, connection = message
        lease = self.dispatch.granted(shape_id, lease_id, proc, pid, connection, node)
        if lease is None:
            connection.close_soon()
            return
        connection.lease = lease
        if connection.ended:
            self.worker_gone(connection)

    def replies(self, connection: Connection, batch: list[Any]) -> None:
        """Messages of a leased worker."""
        lease = connection.lease
        if lease is None:
            return
        dispatch = self.dispatch
        for message in batch:
            tag = message[0]
            if tag == m.DONE:
                dispatch.done(lease, message)
            elif tag == m.FAILED:
                dispatch.failed(lease, message)
            elif tag == m.GIVEN_BACK:
                dispatch.given_back(lease, message[1])
            else:
                lease.stalled = True
        dispatch.settle(lease)
        self.flush()

    def worker_gone(self, connection: Connection) -> None:
        """Nothing more comes from a worker."""
        lease = connection.lease
        if lease is None or not self.alive:
            return
        if lease in self._held:
            self._tell_death(lease, self._held.pop(lease))
        elif not lease.broken:
            lease.broken = True
            if not lease.inflight:
                self.dispatch.give_back(lease, m.RETURN_BROKEN)
            else:
                self.table.to_node([m.RETURN, lease.lease_id, m.RETURN_BROKEN])
        self.flush()

    def _worker_died(self, message: list[Any]) -> None:
        """Of a worker elsewhere the last replies may come later."""
        lease = self.dispatch.leases.get(message[1])
        if lease is None:
            return
        lease.broken = True
        late = lease.node != self.daemon.node_id and message[6].get("kind") != "node"
        if late and not lease.connection.ended:
            self._held[lease] = message
            self.cluster.clock.at(self.config.late_replies_ms / 1000, lambda: self._too_late(lease))
        else:
            self._tell_death(lease, message)

    def _too_late(self, lease: Lease) -> None:
        if lease in self._held and self.alive:
            self._tell_death(lease, self._held.pop(lease))
            self.flush()

    def _tell_death(self, lease: Lease, message: list[Any]) -> None:
        self.dispatch.worker_died(message[1], message[4], {"message": message[5], **message[6]})

    # --- sending ---

    def flush(self) -> None:
        """Send what the cores want."""
        table, dispatch = self.table, self.dispatch
        while released or dispatch.dirty or table.has_output():
            if released:
                table.drain_released()
            if table.promotions:
                self._promote()
            if table.freed:
                freed, table.freed = table.freed, []
                self.storage.unpin(self.storage.pins.recall(freed))
            if table.has_node_messages():
                self.up.send(table.take_node_messages())
            dirty = sorted(dispatch.dirty, key=lambda lease: lease.lease_id)
            dispatch.dirty.clear()
            for lease in dirty:
                self._flush_lease(lease)
        if dispatch.leases and self._idle_due == float("inf"):
            self._look_for_idle(self.config.lease_idle_ms / 1000)

    def _promote(self) -> None:
        """Errors of results that others wait for are written to the store."""
        promotions, self.table.promotions = self.table.promotions, []
        for entry in promotions:
            flags = m.SEAL_PRIMARY | (m.SEAL_ERROR if entry.state == FAILED else 0)
            self.storage.write(entry.id, len(entry.value), flags, self.proc, partial(self._promoted, entry))

    def _promoted(self, entry: Entry, error: str) -> None:
        assert not error or self.daemon.disk.troubled or not self.daemon.store.spills.enabled, error
        self.table.promoted(entry)

    @staticmethod
    def _flush_lease(lease: Lease) -> None:
        if lease.outbox and not lease.broken:
            outbox, lease.outbox, lease.outbox_bytes = lease.outbox, [], 0
            lease.connection.there.send(outbox)

    def _look_for_idle(self, wait_s: float) -> None:
        self._idle_due = self.now + wait_s
        self.cluster.clock.at(wait_s, self._return_idle)

    def _return_idle(self) -> None:
        self._idle_due = float("inf")
        if self.alive:
            idle_s = self.config.lease_idle_ms / 1000
            due = self.dispatch.return_idle(self.now, idle_s)
            if self.dispatch.leases:
                self._look_for_idle(idle_s / 5 if due is None else max(0.001, due - self.now))
            self.flush()


class Run:
    """A task at its worker.

    Attributes:
        stored: stored arguments, with their stamps; reading: of these, until they are not needed any more.
        children: how many tasks of its own are not ready.
    """

    def __init__(self, connection: Connection, message: tuple[Any, ...], plan: Plan) -> None:
        self.connection = connection
        self.task_id: bytes = message[1]
        self.plan = plan
        self.stored: dict[bytes, tuple[bytes, int]] = {}
        self.reading: Reading | None = None
        self.looks_inside: Reading | None = None
        self.children = 0
        self.results: list[Entry] = []
        self.blocked = self.is_long = False
        self.began = 0.0
        self.error = b""
        if message[4]:
            for value in message[4][1]:
                if type(value) is tuple and type(value[1]) is tuple:
                    self.stored[value[0]] = value[1]


class Worker(Process):
    """A worker process.

    Attributes:
        status: the task that it started last, as its daemon can see.
    """

    kind = "worker"

    def __init__(self, cluster: Cluster, daemon: Daemon, worker_id: bytes, pid: int) -> None:
        super().__init__(cluster, daemon, pid)
        self.worker_id = worker_id
        self.connections: dict[Connection, None] = {}
        self.current: Run | None = None
        self.acting: Any = None  # acting.Acting, of an actor
        self._inbox: deque[tuple[Connection, tuple[Any, ...]]] = deque()

    def hears(self, message: list[Any]) -> None:
        tag = message[0]
        if tag == m.PEER:
            connection = message[2]
            self.connections[connection] = None
            connection.accept()
        elif tag == m.EXIT and len(message) == 1:
            self.cluster.kill(self)
        elif not self.cluster.becomes(self, message):
            super().hears(message)

    def left(self, connection: Connection) -> None:
        """A submitter is gone, or has given this worker back."""
        self.connections.pop(connection, None)
        self._inbox = deque(each for each in self._inbox if each[0] is not connection)

    def take(self, connection: Connection, batch: list[Any]) -> None:
        """Messages of a submitter."""
        for message in batch:
            if message[0] == m.TASK:
                self._inbox.append((connection, message))
            elif message[0] == m.TAKE_BACK:
                self._take_back(connection, message[1])
        run = self.current
        if run is not None and (run.is_long or run.blocked):
            self._give_back_all()
        self._next()
        self.flush()

    def _take_back(self, connection: Connection, count: int) -> None:
        """Give back unstarted tasks of a submitter, newest first."""
        mine = [each for each in self._inbox if each[0] is connection]
        given = mine[len(mine) - min(count, len(mine)) :]
        if given:
            ids = [message[1] for _, message in given]
            gone = set(ids)
            self._inbox = deque(each for each in self._inbox if each[1][1] not in gone)
            connection.back.send([(m.GIVEN_BACK, ids)])

    def _give_back_all(self) -> None:
        for connection in list(self.connections):
            self._take_back(connection, len(self._inbox))

    # --- running ---

    def _next(self) -> None:
        while self.current is None and self._inbox and self.alive:
            connection, message = self._inbox.popleft()
            plan = self.cluster.plans[int.from_bytes(message[3], "big")]
            run = self.current = Run(connection, message, plan)
            self.status = run.task_id
            self.cluster.started(self, run)
            if run.stored:
                run.reading = self.storage.read(
                    run.stored.items(), m.PRIORITY_ARGUMENT, partial(self._loaded, run)
                )
                if run.reading.missing:
                    self.cluster.clock.at(self.config.tick_ms / 1000, partial(self._runs_long, run))
                    lend_s = self.config.arguments_lend_ms / 1000
                    self.cluster.clock.at(lend_s, partial(self._lend, run))
            else:
                self._begin(run)

    def _loaded(self, run: Run, reading: Reading) -> None:
        """The stored arguments are there, or not to be had."""
        run.reading = reading
        if run.blocked:
            self._block(run, False)
        if reading.error:
            run.error = reading.error.encode()
            self._reply(run)
        elif reading.inner and not run.looks_inside:
            run.looks_inside = reading
            wanted = [(inner, self.table.stamp_now()) for inner in reading.inner]
            self.storage.read(wanted, m.PRIORITY_GET, partial(self._looked_inside, run))
            self.flush()
        else:
            self._begin(run)

    def _looked_inside(self, run: Run, reading: Reading) -> None:
        """What the arguments contain was there, or is lost."""
        self.storage.close(reading)
        if reading.error:
            run.error = reading.error.encode()
            self._reply(run)
        else:
            self._begin(run)

    def _lend(self, run: Run) -> None:
        if self.alive and self.current is run and run.reading and run.reading.missing and not run.blocked:
            self._block(run, True)
            self.flush()

    def _block(self, run: Run, blocked: bool) -> None:
        run.blocked = blocked
        self.table.to_node([m.BLOCKED, blocked])
        if blocked:
            self._give_back_all()

    def _begin(self, run: Run) -> None:
        """The arguments are there."""
        clock = self.cluster.clock
        run.began = clock.now
        run_s = run.plan.run_s
        if run_s > self.config.tick_ms / 1000:
            clock.at(self.config.tick_ms / 1000, lambda: self._runs_long(run))
        if run.plan.children:
            clock.at(run_s / 2, lambda: self._submit_children(run))
        else:
            clock.at(run_s, lambda: self._ran(run))

    def _runs_long(self, run: Run) -> None:
        if self.alive and self.current is run and not run.is_long:
            run.is_long = True
            self._give_back_all()
            run.connection.back.send([(m.RUNNING, run.task_id)])

    def _submit_children(self, run: Run) -> None:
        if not self.alive:
            return
        run.children = len(run.plan.children)
        for plan in run.plan.children:
            run.results.append(self.submit(plan, (), _Child(self, run, plan), run.task_id))
        if run.children:
            self._block(run, True)
        self.flush()

    def child_ready(self, run: Run) -> None:
        run.children -= 1
        if not run.children and self.current is run:
            if run.blocked:
                self._block(run, False)
            self.cluster.clock.at(run.plan.run_s / 2, lambda: self._ran(run))

    def _ran(self, run: Run) -> None:
        """The function has returned."""
        if not self.alive:
            return
        if run.results:
            self.table.drop_uses(run.results)
            run.results = []
        plan = run.plan
        if plan.fails:
            run.error = b"the function raised"
        if run.error or plan.size <= self.config.inline_bytes_max:
            self._reply(run)
        else:
            self._write_inner(run)
        self.flush()

    def _write_inner(self, run: Run) -> None:
        """A run's own value, which its result has a ref to: another run of the task has another one."""
        if not run.plan.nests:
            self._write_result(run)
            return
        inner = self.new_put_id()
        then = partial(self._has_written_inner, run, inner)
        self.storage.write(inner, _INNER_BYTES, m.SEAL_PRIMARY, self.proc, then)

    def _has_written_inner(self, run: Run, inner: bytes, error: str) -> None:
        if error:
            self._sealed(run, error)
            return
        entry = self.table.add_stored(inner, _INNER_BYTES)
        self.table.escape(entry)
        run.results.append(entry)
        self._write_result(run, (inner,))

    def _write_result(self, run: Run, contained: tuple[bytes, ...] = ()) -> None:
        holder = run.connection.submitter.proc
        then = partial(self._sealed, run)
        self.storage.write(run.task_id, run.plan.size, m.SEAL_PRIMARY, holder, then, contained)

    def _sealed(self, run: Run, error: str) -> None:
        """The result is in the store, or could not be written."""
        stamp = self.table.stamp_now()
        if run.plan.nests:
            self.table.drop_uses(run.results)
        if error:
            run.error = error.encode()
            self._reply(run)
        else:
            self._reply(run, (m.RESULT_STORED, run.plan.size, stamp))

    def _reply(self, run: Run, result: Any = _VALUE) -> None:
        if run.reading is not None:
            self.storage.close(run.reading)
        run_us = (self.now - run.began) * 1e6
        if run.error:
            reply: tuple[Any, ...] = (m.FAILED, run.task_id, run.error, (), b"", False)
        else:
            reply = (m.DONE, run.task_id, [result], b"", run_us)
        self.current = None
        self.cluster.ran(self, run)
        self.flush()  # to the daemon first, since the reply may refer to it
        run.connection.back.send([reply])
        self._next()


class _Child:
    """Waits for the result of a task's own task."""

    __slots__ = ("_plan", "_run", "_worker")

    def __init__(self, worker: Worker, run: Run, plan: Plan) -> None:
        self._worker = worker
        self._run = run
        self._plan = plan

    def entry_ready(self, entry: Entry) -> None:
        self._worker.cluster.ended(self._plan, entry)
        self._worker.child_ready(self._run)


def _make_error(kind: str, task: TaskRecord | None, details: Any = None) -> bytes:
    return f"{kind}: {details}".encode()


def place_of(entry: Entry) -> bytes:
    """The tag of the node where a stored result was made."""
    return entry.stamp[0][:3] if entry.state == STORED and entry.stamp else b""


PLAIN = TaskOptions()

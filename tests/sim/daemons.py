"""A node daemon for simulations: all cores of the production daemon, in its order.

What is simulated is what the cores do not do: messages travel, workers start and end, connections are opened, and chunks move
over a link of limited bandwidth. What a node sends to another in one turn travels as one message.
"""

from __future__ import annotations

from collections import Counter
from functools import partial
from typing import TYPE_CHECKING, Any

from tests.sim.actorside import Actors
from tests.sim.disks import Disk
from tests.sim.groupside import GroupSide
from tests.sim.headlink import HeadLink
from tests.sim.traffic import Traffic
from tests.unit.store.fakedisk import FakeRegion

from shoal.ids import node_tag, split_ids
from shoal.wire import messages as m
from shoald.head import events as ev
from shoald.node.awayleases import AwayLease, AwayLeases
from shoald.node.cluster import DIED, JOINED, ClusterView
from shoald.node.effects import Effect, EndWorker, Grant, Send, StartWorker
from shoald.node.guests import Guests
from shoald.node.placement import Placement
from shoald.node.pool import Pool
from shoald.node.scheduler import SchedulerCore
from shoald.objects.cluster_refs import ClusterRefs
from shoald.objects.core import ObjectCore
from shoald.objects.effects import Locate, Receive, Sum, Tell
from shoald.store.core import StoreCore

if TYPE_CHECKING:
    from tests.sim.cluster import Cluster
    from tests.sim.network import Channel
    from tests.sim.workers import Connection, Process, Worker

_NO_TASK = bytes(16)
_FORK_S = (0.001, 0.004)
_REAP_S = 0.001
_AT_ONCE_MAX = 1000  # turns that a daemon wants at the same moment


class Daemon:
    """One node.

    Attributes:
        clients: processes connected here, by id.
        numbers: messages processed of each one's stream.
        resumed: leases whose task has waited, and went on.
        region: what lies where, if anybody wants to know.
        asked: id → how often somebody wanted to read it here.
    """

    def __init__(
        self,
        cluster: Cluster,
        number: int,
        resources: dict[str, int],
        capacity: int,
        directories: int,
    ) -> None:
        self.node_id = node_id = f"{number:06x}" + "00" * 13
        self.cluster = cluster
        self.config = config = cluster.config
        self.network = cluster.network
        self.info = ev.NodeInfo("sim", resources=resources, store_capacity_bytes=capacity)
        self.alive = True
        self.clients: dict[bytes, Process] = {}
        self.numbers: dict[bytes, int] = {}
        self.forks: dict[bytes, Worker | None] = {}
        self.view = ClusterView(node_id, config.dead_nodes_max)
        self.store = StoreCore(capacity, config, bytes.fromhex(node_id), directories)
        self.region = FakeRegion() if cluster.watches_bytes else None
        self.disk = Disk(self)
        self.asked: Counter[bytes] = Counter()
        self.refs = ClusterRefs(self.store)
        self.objects: ObjectCore | None = None
        pool = Pool(bytes.fromhex(node_id)[:8], config.workers_max)
        self.scheduler = SchedulerCore(resources, pool, config, Placement(node_id, {}, config))
        self.scheduler.view = self.view
        self.away = AwayLeases(self.scheduler, self.view, config, self._job_of)
        self.guests = Guests(node_id, self.scheduler, config, cluster.new_token, self._current)
        self.groups = GroupSide(self)
        self.resumed: set[int] = set()
        self.traffic = Traffic(self, self.network)
        self._channels: dict[str, Channel] = {}
        self._outgoing: dict[str, list[list[Any]]] = {}
        self._early: dict[str, list[list[list[Any]]]] = {}
        self._in_turn = False
        self._due = float("inf")
        self._woken_at, self._at_once = 0.0, 0
        self._gauges_due = False
        self._processes = 0
        self.handlers: dict[int, Any] = {
            m.P_DEMAND: self.guests.demanded,
            m.P_LEASE: self.away.leased,
            m.P_FROM_CLIENT: self.guests.from_client,
            m.P_FOR_CLIENT: self.away.for_client,
            m.P_CLIENT_LEFT: self.guests.left,
            m.P_JOB_ENDED: self._job_ended,
            m.P_JOB_GONE: lambda node_id, fields, now: None,
        }
        self.on_node_dead: list[Any] = []
        self.actors = Actors(self)
        self.link = HeadLink(self, self.network, cluster.head, config)
        self.scheduler.start(self.now)
        self.turn()

    def __repr__(self) -> str:
        return f"<daemon {self.node_id[:6]}>"

    @property
    def now(self) -> float:
        return self.network.clock.now

    def new_process_id(self) -> bytes:
        self._processes += 1
        return node_tag(self.node_id) + self._processes.to_bytes(5, "big")

    # --- other nodes ---

    def heard(self, rows: list[dict[str, Any]]) -> None:
        """Nodes as the head sends them."""
        for node, change in self.view.update(rows):
            if change == JOINED:
                if self.objects is None:
                    self._meet()
                self.refs.joined(node.node_id)
                self.actors.cluster.joined()
                for batch in self._early.pop(node.node_id, ()):
                    self._handle_batch(node.node_id, batch)
            elif change == DIED:
                self._node_died(node.node_id)
        self.scheduler.view_changed(self.now)
        self.groups.core.nodes_changed(self.now)

    def heard_gauges(self, rows: Any) -> None:
        """What nodes have free."""
        live = self.view.live
        for (
            row
        ) in rows:  # ClusterView.update_gauges takes dictionaries, which would be made for each node anew
            node = live.get(row.node_id)
            if node is not None:
                node.available = row.available
                node.store_used = row.store_used_bytes
                node.waiting = row.waiting
        self.scheduler.view_changed(self.now)

    def _meet(self) -> None:
        """There are other nodes."""
        store = self.store
        self.objects = ObjectCore(
            self.node_id, store, self.info.store_capacity_bytes, self.config, self.traffic
        )
        for tag in self.objects.tags:
            self.handlers[tag] = self._for_objects
        for tag in (m.P_HOLD, m.P_SEALED, m.P_HELD):
            self.handlers[tag] = self._for_refs

    def _for_objects(self, node_id: str, fields: list[Any], now: float) -> None:
        assert self.objects is not None
        self.objects.from_node(node_id, fields, now)

    def _for_refs(self, node_id: str, message: list[Any], now: float) -> None:
        self.refs.handle(node_id, message)
        located, self.refs.located = self.refs.located, []
        for object_id, where, size, flags in located:
            self.store.located(object_id, where, size, flags)

    def _node_died(self, node_id: str) -> None:
        now = self.now
        channel = self._channels.pop(node_id, None)
        if channel is not None:
            channel.close()
        self._outgoing.pop(node_id, None)
        self._early.pop(node_id, None)
        for tell in self.on_node_dead:
            tell(node_id, self.view.nodes[node_id].reason)
        self.away.node_died(self.view.nodes[node_id], now)
        for job_id in self.guests.node_died(node_id, now):
            self._job_ended(node_id, [job_id], now)
        if self.objects is not None:
            self.traffic.node_died(node_id)
            self.objects.node_dead(node_id, now)
        self.refs.died(node_id)
        grace_s = self.config.directory_grace_ms / 1000
        self.network.clock.at(grace_s, lambda: self._forget(node_id))

    def _forget(self, node_id: str) -> None:
        if self.alive:
            self.refs.forget(node_id, self.now)
            self.turn()

    def send(self, node_id: str, message: list[Any]) -> None:
        """To another node, with the other messages of this turn, and after the holds of what was handed over (RefSide)."""
        self.refs.hand_over()
        self._send_refs()
        if node_id in self.view.live:
            self._outgoing.setdefault(node_id, []).append(message)

    def _send_all(self) -> None:
        outgoing, self._outgoing = self._outgoing, {}
        for node_id, batch in outgoing.items():
            channel = self._channels.get(node_id)
            if channel is None:
                other = self.cluster.daemons[node_id]
                channel = self._channels[node_id] = self.network.channel(
                    self.node_id, node_id, partial(other.from_node, self.node_id)
                )
            channel.send(batch)

    def from_node(self, node_id: str, batch: list[list[Any]]) -> None:
        """Messages of another node."""
        if not self.alive:
            return
        if node_id in self.view.live:
            self._handle_batch(node_id, batch)
            self.turn()
        elif node_id not in self.view.nodes:  # it knows of this node earlier than the other way round
            self._early.setdefault(node_id, []).append(batch)

    def _handle_batch(self, node_id: str, batch: list[list[Any]]) -> None:
        now = self.now
        for message in batch:
            tag = message[0]
            whole = m.P_HOLD <= tag < m.P_ACTOR_HOST
            if tag == m.P_FETCH:
                self.asked.update(split_ids(message[2]))
            self.handlers[tag](node_id, message if whole else message[1:], now)

    def snapshot(self) -> dict[str, Any]:
        return self.refs.snapshot()

    def refused(self) -> None:
        """The head has declared this node dead: it stops."""
        self.cluster.kill_node(self)

    def gauges(self) -> dict[str, Any]:
        """What the head is told from time to time."""
        pending = [
            ev.Demand(demand.resources, demand.backlog) for demand in list(self.scheduler.waiting)[:100]
        ]
        return {"available": self.scheduler.available(), "pending": tuple(pending)}

    def _report_gauges(self) -> None:
        self._gauges_due = False
        gauges = self.gauges()
        if self.alive and gauges != self.link.gauges:
            self.link.gauges = gauges
            self.link.report(gauges)

    # --- clients ---

    def job_began(self, process: Process, job_id: str) -> None:
        """A driver says hello."""
        self._join(process, "driver", job_id)
        self.link.tell_head(ev.JobStarts(ev.Job(job_id, self.node_id)))

    def _join(self, process: Process, kind: str, job_id: str) -> None:
        self.clients[process.proc] = process
        self.numbers[process.proc] = 1  # HELLO
        self.scheduler.client_joined(process.proc, kind, job_id)
        self.store.register(process.proc, {"pid": process.pid, "kind": kind, "job_id": job_id})

    def from_client(self, process: Process, batch: list[list[Any]] | None) -> None:
        """Messages of a process of this node; None: it has ended."""
        if not self.alive:
            return
        if batch is None:
            self._client_ended(process)
            self.turn()
            return
        proc, now = process.proc, self.now
        if proc not in self.clients:
            return
        for message in batch:
            tag = message[0]
            if m.DEMAND <= tag <= m.WORKER_NOTE:
                if tag == m.BLOCKED and not message[1]:
                    self._resumes(proc)
                if not self.away.leases or not self.away.from_client(proc, message):
                    self.scheduler.handle(proc, message, now)
            elif m.CREATE_GROUP <= tag <= m.WATCH_GROUP:
                self.groups.from_client(process, message, now)
            elif m.CREATE_ACTOR <= tag <= m.ACTOR_EXITS:
                self.actors.from_client(process, message, now)
            else:
                self.store.handle(proc, message, now)
                if tag == m.SEAL:
                    self.cluster.seals(message[1])
                elif tag == m.SEAL_IN_FILE:
                    self.cluster.seals(message[3])
                elif tag == m.PIN:
                    self.asked[message[2]] += 1
                elif tag == m.PIN_TOGETHER:
                    self.asked.update(message[1][::3])
        self.numbers[proc] += len(batch)
        self.store.advanced(proc, self.numbers[proc], now)
        self.turn()

    def _resumes(self, proc: bytes) -> None:
        record = self.scheduler.pool.by_proc.get(proc)
        if record is not None and record.lease_id:
            self.resumed.add(record.lease_id)

    def tell(self, proc: bytes, message: list[Any]) -> bool:
        """To a process of this node, if it is connected."""
        process = self.clients.get(proc)
        if process is not None:
            process.down.send(message)
        return process is not None

    def _client_ended(self, process: Process) -> None:
        """Its connection is closed, and its death is confirmed."""
        proc, now = process.proc, self.now
        if self.clients.pop(proc, None) is None:
            return
        self.scheduler.client_left(proc, now)
        self.away.client_left(proc)
        self.groups.core.client_left(proc)
        self.actors.client_left(proc)
        if process.kind == "driver":
            self.groups.core.job_ended(process.job_id, now)
            self.actors.job_ended(process.job_id, now)
            self.link.tell_head(ev.JobEnds(process.job_id, ev.JOB_FINISHED, "", now))
            self.scheduler.job_ended(process.job_id, now)
            self.guests.job_ended(process.job_id, "", now)
            for node_id in self.view.live:
                self.send(node_id, [m.P_JOB_ENDED, process.job_id])
            self.store.drop(proc, now)
        else:
            self.scheduler.worker_lost(process.worker_id, now)
            self.network.clock.at(_REAP_S, lambda: self._reaped(process))

    def _reaped(self, process: Process) -> None:
        """The fork server confirms a worker's death."""
        if self.alive:
            self.forks.pop(process.worker_id, None)
            self.scheduler.worker_exited(process.worker_id, process.exit_code, 0, process.status, self.now)
            self.store.drop(process.proc, self.now)
            self.turn()

    def _job_ended(self, node_id: str, fields: list[Any], now: float) -> None:
        self.guests.job_ended(fields[0], node_id, now)
        self.groups.core.job_ended(fields[0], now)
        self.actors.job_ended(fields[0], now)

    def _job_of(self, client: Any) -> dict[str, Any] | None:
        if client.job is None:
            return None
        job_id = client.job.job_id
        return self.guests.jobs.get(job_id) or {"id": job_id, "node": self.node_id}

    def _current(self, worker_id: bytes) -> bytes:
        worker = self.forks.get(worker_id)
        return worker.status if worker is not None else _NO_TASK

    # --- the turn ---

    def turn(self) -> None:
        """What every event ends with (NodeDaemon.turn_end)."""
        if self._in_turn or not self.alive:
            return
        self._in_turn = True
        now = self.now
        scheduler = self.scheduler
        self.away.forgive(now)
        due = [self.actors.turn(now), self.groups.core.turn(now), scheduler.schedule(now)]
        while scheduler.outbox:
            effects, scheduler.outbox = scheduler.outbox, []
            for effect in effects:
                self._carry_out(effect)
        self.store.relieve(now)
        if self.objects is not None:
            self._turn_objects(now)
            due.append(self.objects.next_deadline())
        self.disk.turn()
        self._turn_refs()
        due.append(self.store.next_deadline())
        self._tell_clients()
        due.append(self.away.turn(now))
        self._flush_leases()
        self.groups.flush()
        if scheduler.outbox or self.store.outbox or self.refs.outbox:
            due.append(now)
        if self._outgoing:
            self._send_all()
        self._in_turn = False
        if not self._gauges_due:
            self._gauges_due = True
            self._watch_gauges()
        self._wake(min((each for each in due if each is not None), default=None))

    def _watch_gauges(self) -> None:
        """Look at them every so often, as long as they may have changed."""
        if self.scheduler.available() == self.link.gauges.get("available") and not self.scheduler.waiting:
            self._gauges_due = False
            return
        self.network.clock.at(self.config.view_ms / 2000, self._report_gauges)

    def _turn_refs(self) -> None:
        changes = self.refs.turn()
        if changes:
            number = self.refs.reported
            self.link.report({"changes": changes}, lambda: self.refs.confirmed(number))
        self._send_refs()

    def _send_refs(self) -> None:
        outbox, self.refs.outbox = self.refs.outbox, []
        for node_id, message in outbox:
            self.send(node_id, message)

    def _turn_objects(self, now: float) -> None:
        objects = self.objects
        assert objects is not None
        objects.turn(now)
        outbox = objects.outbox[:]
        objects.outbox.clear()
        for effect in outbox:
            if isinstance(effect, Tell):
                if effect.known:
                    self.refs.when_known(partial(self.send, effect.node, effect.message))
                else:
                    self.send(effect.node, effect.message)
            elif isinstance(effect, Receive):
                self.traffic.receive(effect)
            elif isinstance(effect, Sum):
                self.traffic.sum(effect)
            elif isinstance(effect, Locate):
                self.link.locate(effect.object_ids, partial(self._located, effect.object_ids))

    def _located(self, object_ids: list[bytes], copies: list[list[str]] | None) -> None:
        if self.alive and self.objects is not None:
            for object_id, nodes in zip(object_ids, copies or [None] * len(object_ids), strict=True):
                others = None if nodes is None else [each for each in nodes if each != self.node_id]
                self.objects.pulls.located(object_id, others, self.now)
            self.turn()

    def _tell_clients(self) -> None:
        outbox = self.store.outbox
        for proc, message in outbox:
            self.tell(proc, message)
        outbox.clear()

    def _wake(self, due: float | None) -> None:
        if due is None or due >= self._due:
            return
        self._due = due = max(due, self.now)
        self.network.clock.at(due - self.now, lambda: self._woken(due))

    def _woken(self, due: float) -> None:
        if due == self._due:
            self._due = float("inf")
            self._at_once = self._at_once + 1 if due == self._woken_at else 0
            self._woken_at = due
            assert self._at_once < _AT_ONCE_MAX, f"{self} is never done with what is due at {due}"
            self.turn()

    # --- leases ---

    def _carry_out(self, effect: Effect) -> None:
        if isinstance(effect, Grant):
            self._grant(effect)
        elif isinstance(effect, Send):
            if effect.proc in self.actors.core.by_proc:
                self.actors.told(effect.proc, effect.message, self.now)
            elif not self.tell(effect.proc, effect.message):
                self._tell_guest(effect.proc, effect.message)
        elif isinstance(effect, StartWorker):
            self.forks[effect.worker_id] = None
            fork_s = self.network.random.uniform(*_FORK_S)
            self.network.clock.at(fork_s, lambda: self._forked(effect.worker_id))
        elif isinstance(effect, EndWorker):
            self._end_worker(effect)

    def _tell_guest(self, proc: bytes, message: list[Any]) -> None:
        if message[0] == m.WORKER_DIED:
            message = [*message[:6], {"node": self.node_id, **message[6]}]
        self.guests.tell(proc, message)

    def _forked(self, worker_id: bytes) -> None:
        if not self.alive or worker_id not in self.scheduler.pool.workers:
            return
        worker = self.forks[worker_id] = self.cluster.new_worker(self, worker_id)
        self.scheduler.worker_forked(worker_id, worker.pid)
        self.scheduler.worker_ready(worker_id, worker.proc, worker.pid, self.now)
        self._join(worker, "worker", "")
        self.turn()

    def _end_worker(self, effect: EndWorker) -> None:
        worker = self.forks.get(effect.worker_id)
        if worker is None:
            return
        if effect.politely:
            patient = effect.patience_ms is not None
            worker.down.send([m.EXIT, True] if patient else [m.EXIT])
            wait_s = (effect.patience_ms if patient else self.config.worker_exit_ms_max) / 1000
            self.network.clock.at(wait_s, lambda: self.cluster.kill(worker))
        else:
            self.cluster.kill(worker)

    def _grant(self, grant: Grant) -> None:
        submitter = self.clients.get(grant.proc)
        record = self.scheduler.pool.workers[grant.worker_id]
        worker = self.clients.get(record.proc)
        if self.actors.granted(grant, record.pid, self.now):
            return
        if submitter is None and self.guests.granted(grant, record):
            return
        if submitter is None or worker is None:
            return
        connection = self.cluster.connect(submitter, worker)
        self._introduce(worker, grant.lease_id, connection, record.job)
        told = [m.GRANT, grant.shape_id, grant.lease_id, worker.proc, worker.pid, grant.resources]
        submitter.down.send([*told, self.node_id, connection])

    @staticmethod
    def _introduce(worker: Process, lease_id: int, connection: Connection, job_id: str) -> None:
        worker.job_id = job_id
        worker.down.send([m.PEER, lease_id, connection])

    def _flush_leases(self) -> None:
        while self.away.outbox or self.guests.outbox:
            effects = self.away.outbox + self.guests.outbox
            self.away.outbox, self.guests.outbox = [], []
            for effect in effects:
                self._carry_out_lease(*effect)

    def _carry_out_lease(self, kind: str, subject: Any, message: Any = None) -> None:
        clock = self.network.clock
        if kind == "send":
            self.send(subject, message)
        elif kind == "client":
            self.tell(subject, message)
        elif kind == "move":
            self.actors.cluster.move(subject, message)
        elif kind == "dial":
            clock.at(self._latency_s(), lambda: self._dial(subject))
        elif kind == "timer":
            clock.at(self.config.lease_connect_ms / 1000, lambda: self._token_due(subject))

    def _latency_s(self) -> float:
        return self.network.random.choice(self.network.latencies_s)

    def _token_due(self, token: bytes) -> None:
        if self.alive:
            self.guests.token_due(token, self.now)
            self.turn()

    def _dial(self, lease: AwayLease) -> None:
        """The connection arrives at the lender."""
        lender = self.cluster.daemons[lease.node_id]
        if not lender.alive or self.network.parted(self.node_id, lease.node_id):
            self.network.clock.at(self._latency_s(), lambda: self._dialed(lease, None))
            return
        token = lender.guests.connected(lease.token)
        record = lender.scheduler.pool.workers.get(token.worker_id) if token is not None else None
        worker = lender.clients.get(record.proc) if record is not None else None
        client = self.clients.get(lease.proc)
        connection = None
        if token is not None and record is not None and worker is not None and client is not None:
            connection = self.cluster.connect(client, worker)
            self._introduce(worker, token.lease_id, connection, record.job)
        # A connection that leads to nobody was opened all the same: it ends at once.
        self.network.clock.at(self._latency_s(), lambda: self._dialed(lease, connection))

    def _dialed(self, lease: AwayLease, connection: Connection | None) -> None:
        if not self.alive or self.away.leases.get(lease.lease_id) is not lease:
            if connection is not None:
                connection.close_soon()
            return
        if connection is None:
            self.away.dial_failed(lease, self.now)
        else:
            lease.open = True
            grant = [m.GRANT, lease.shape_id, lease.lease_id, lease.worker, lease.pid, lease.resources]
            self.tell(lease.proc, [*grant, lease.node_id, connection])
        self.turn()

    # --- checks ---

    def validate(self) -> None:
        """Every core of this node is sound."""
        self.scheduler.validate()
        self.away.validate()
        self.guests.validate()
        self.groups.core.validate()
        self.actors.core.validate()
        self.actors.cluster.away.validate()
        self.store.validate()
        self.refs.validate()
        self.view.validate()
        if self.objects is not None:
            self.objects.validate()

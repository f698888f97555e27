"""Actors in a simulated daemon: the production cores, and what carries their effects: `ActorSide`, `ActorCluster`.

What those two need of a daemon is here in one object (`_Parts`). Connections between callers and actors are simulated ones; what
nodes and head say to each other passes through the production codec.
"""

from __future__ import annotations

from functools import partial
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from tests.sim.acting import ActorConnection

from shoal.wire import messages as m
from shoald.head import codec
from shoald.head import events as ev
from shoald.head.pb import head_pb2 as pb
from shoald.node.actorcluster import ActorCluster
from shoald.node.actors import ActorRecord
from shoald.node.actorside import ActorSide

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.sim.cluster import Cluster
    from tests.sim.daemons import Daemon
    from tests.sim.workers import Process


class _Client:
    """A process, as the production code sees its connection."""

    def __init__(self, process: Process) -> None:
        self.process = process
        self.proc, self.pid, self.kind = process.proc, process.pid, process.kind
        self.worker_id = process.worker_id
        self.sock = SimpleNamespace(send=self._send)

    @property
    def job_id(self) -> str:
        return self.process.job_id

    @job_id.setter
    def job_id(self, job_id: str) -> None:
        self.process.job_id = job_id

    def _send(self, message: list[Any]) -> None:
        self.process.down.send(message)


class _Clients:
    def __init__(self, daemon: Daemon) -> None:
        self._daemon = daemon

    def get(self, proc: bytes) -> _Client | None:
        process = self._daemon.clients.get(proc)
        return client_of(process) if process is not None else None

    def __contains__(self, proc: bytes) -> bool:
        return proc in self._daemon.clients


def client_of(process: Process) -> _Client:
    """Always the same for one process."""
    if process.client is None:
        process.client = _Client(process)
    client: _Client = process.client
    return client


class _Jobs:
    """What the production code asks of the daemon's leases: about jobs."""

    def __init__(self, daemon: Daemon) -> None:
        self.guests = daemon.guests
        self._node_id = daemon.node_id

    def job_facts(self, job_id: str) -> dict[str, Any]:
        own = {"id": job_id, "node": self._node_id, "namespace": "sim", "log_to_driver": False}
        return self.guests.jobs.get(job_id) or own

    def namespace_of(self, _job_id: str) -> str:
        return "sim"


class _Head:
    """The link, as far as actors go."""

    settled = True

    def __init__(self, daemon: Daemon) -> None:
        self._daemon = daemon

    def report_actors(self, rows: list[dict[str, Any]], snapshot: bool = False) -> None:
        self._daemon.link.report_actors(rows, snapshot)

    def report_kill(self, actor_id: bytes, reason: str, then: Callable[[], None]) -> None:
        self._daemon.link.report_kill(actor_id, reason, then)

    def call(self, method: str, params: dict[str, Any], then: Callable[[bool, Any], None]) -> None:
        ask = _find if method == "FindActor" else _claim
        self._daemon.link.call(partial(ask, params=params), partial(self._answered, then))

    def _answered(self, then: Callable[[bool, Any], None], ok: bool, answer: Any) -> None:
        if self._daemon.alive:
            then(ok, answer)
            self._daemon.turn()


def _find(head: Any, params: dict[str, Any]) -> dict[str, Any]:
    """HeadService._find_actor."""
    actors = head.core.actors
    actor_id = params.get("actor_id", b"")
    if not actor_id:
        owner = actors.named(params["namespace"], params["name"])
        actor_id = owner.actor_id if owner is not None else b""
    asker = params["node_id"]
    actor = actors.find(actor_id, asker if head.core.nodes.get(asker) else "")
    return {"known": actor is not None, "actor": row_of(actor) if actor is not None else None}


def _claim(head: Any, params: dict[str, Any]) -> dict[str, Any]:
    """HeadService._claim_actor."""
    actor = codec.actor_of(pb.Actor(**params["actor"]))
    head.take(ev.ActorClaimed(actor))
    return {"actor": row_of(head.core.actors.named(actor.namespace, actor.name) or actor)}


def row_of(actor: Any) -> dict[str, Any]:
    """An actor as daemons get it."""
    return codec.plain_dict(codec.actor_message(actor))


class _Parts:
    """What the production code takes for its daemon."""

    def __init__(self, daemon: Daemon) -> None:
        self._daemon = daemon
        self.scheduler, self.config, self.node_id = daemon.scheduler, daemon.config, daemon.node_id
        self.store = daemon.store
        self.clients = _Clients(daemon)
        self.jobs: dict[str, Any] = {}
        self.lease_side = _Jobs(daemon)
        self.groups = daemon.groups
        self.head = _Head(daemon)
        self.cluster = daemon.view
        self.on_node_dead = daemon.on_node_dead
        self.loop = SimpleNamespace(now=lambda: daemon.now, call_later=self._later)
        self.peers = SimpleNamespace(send=daemon.send, on=self._on, identity=None)
        self.log = SimpleNamespace(line=lambda text: None)
        self.side = SimpleNamespace(encrypts=False)

    def _later(self, seconds: float, then: Callable[[], None]) -> None:
        def due() -> None:
            if self._daemon.alive:
                then()
                self._daemon.turn()

        self._daemon.network.clock.at(seconds, due)

    def _on(self, tag: int, handler: Callable[[str, list[Any]], None]) -> None:
        self._daemon.handlers[tag] = lambda node_id, fields, now: handler(node_id, [tag, *fields])


class Actors(ActorSide):
    """The actors of one simulated node."""

    def __init__(self, daemon: Daemon) -> None:
        self.daemon = daemon
        super().__init__(_Parts(daemon))  # type: ignore[arg-type]  # as much of a daemon as it needs
        self.cluster = Connecting(daemon, self._daemon, self)
        self.cluster.join()

    def from_client(self, process: Process, message: list[Any], now: float) -> None:
        """A message of a process about actors."""
        self.handle(client_of(process), message, now)  # type: ignore[arg-type]

    def head_says(self, message: ev.ActorChanged | ev.ActorGiven | ev.ActorEnds) -> None:
        kind = {ev.ActorChanged: "actor", ev.ActorGiven: "host_actor", ev.ActorEnds: "end_actor"}[
            type(message)
        ]
        self.cluster.heard({"kind": kind, "actor": row_of(message.actor)})

    def _connect(self, proc: bytes, record: ActorRecord) -> None:
        caller, actor = self.daemon.clients.get(proc), self.worker_of(record)
        if (
            actor is None
            or (caller is None and not self.cluster.offer(proc, record, actor))
            or caller is None
        ):
            return
        connection = ActorConnection(self.daemon.cluster, caller, actor.process)  # type: ignore[attr-defined]
        introduce(connection, record.actor_id, record.incarnation)


def introduce(connection: ActorConnection, actor_id: bytes, incarnation: int) -> None:
    """Both ends get it."""
    worker = connection.worker
    connection.submitter.down.send([m.ACTOR_PEER, actor_id, incarnation, worker.proc, worker.pid, connection])
    worker.down.send([m.PEER, 0, connection])


class Connecting(ActorCluster):
    """`ActorCluster`, with simulated connections between nodes."""

    def __init__(self, daemon: Daemon, parts: Any, side: Actors) -> None:
        self._sim = daemon
        super().__init__(parts, side)

    def _dial(
        self,
        node_id: str,
        proc: bytes,
        actor_id: bytes,
        incarnation: int,
        worker: bytes,
        pid: int,
        token: bytes,
    ) -> None:
        sim, network = self._sim, self._sim.network

        def arrives() -> None:
            lender = sim.cluster.daemons[node_id]
            caller = sim.clients.get(proc)
            reached = lender.alive and not network.parted(sim.node_id, node_id)
            if caller is not None and reached and sim.alive:
                lender.actors.cluster.accept(token, caller, actor_id, incarnation)
            elif sim.alive:
                self.away.not_there(node_id, actor_id, sim.now)
                sim.turn()

        if node_id in sim.view.live and proc in sim.clients:
            network.clock.at(network.random.choice(network.latencies_s), arrives)

    def accept(self, token: bytes, process: Process, actor_id: bytes, incarnation: int) -> None:
        """`take_connection`: one that leads to nobody any more breaks at once."""
        record, made, proc = self._tokens.pop(token, (None, 0, b""))
        actor = self._side.worker_of(record) if record is not None else None
        if record is None or actor is None or proc not in self._callers or made != record.incarnation:
            connection = ActorConnection(self._sim.cluster, process, None)
            process.down.send([m.ACTOR_PEER, actor_id, incarnation, b"", 0, connection])
            return
        introduce(ActorConnection(self._sim.cluster, process, actor.process), actor_id, incarnation)  # type: ignore[attr-defined]


def check_gone(cluster: Cluster) -> None:
    """Nobody has a handle to any actor, and detached ones were killed: nothing of one is left.

    With all nodes dead nobody could kill those: what may restart then waits for a node that joins.
    """
    left = cluster.head.core.actors.all()[: len(cluster.head.core.actors)]  # the living come first
    if not any(daemon.alive for daemon in cluster.daemons.values()):
        unkilled = set().union(*(driver.casts.unkilled for driver in cluster.drivers))
        left = [
            actor for actor in left if actor.node_id or not actor.detached or actor.actor_id not in unkilled
        ]
    assert not left, f"the head keeps {left}"
    for daemon in cluster.daemons.values():
        if daemon.alive:
            core = daemon.actors.core
            assert not core.actors, f"{daemon} keeps {core.actors}"
            assert not core.names, f"{daemon} keeps {core.names}"
            assert not daemon.actors.cluster.away.actors, daemon.actors.cluster.away.actors

"""Nodes and a head for simulations: the production cores, with shells that only carry messages over the fake network."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from shoal.config import Config
from shoal.ids import new_process_id, node_tag
from shoal.wire import messages as m
from shoald.head import events as ev
from shoald.head import groupwords as gw
from shoald.head.actors import Actor, ForgetActor, SaveActor
from shoald.head.core import Durable, HeadCore
from shoald.head.reports import Confirmations, ReportBuffer
from shoald.objects.cluster_refs import ClusterRefs
from shoald.store.core import StoreCore

if TYPE_CHECKING:
    from tests.sim.network import Channel, Network

HEAD = "head"
VERSIONS = ev.Versions(1, 3, 11)
CAPACITY = 1 << 24
IDS_IN_A_PART = 3  # batches of several parts are common then
P_FETCH, P_FETCHED, P_FETCH_DONE, P_TOLD = (
    9000,
    9001,
    9002,
    9003,
)  # of the simulator's own transfers and confirmed deaths
SIZE = 100


class Head:
    """HeadCore; a restart keeps what storage keeps: the tables of nodes, jobs, actors and groups."""

    def __init__(self, network: Network, config: Config) -> None:
        self.network = network
        self.config = config
        self.saved: dict[str, ev.NodeView] = {}
        self.saved_jobs: dict[str, ev.Job] = {}
        self.saved_actors: dict[bytes, Actor] = {}
        self.saved_groups: dict[bytes, gw.GroupState] = {}
        self.down: dict[int, Channel] = {}
        self.on_dead: Callable[[str], None] = lambda node_id: None
        self.up = True
        self._streams = 0
        self.core = self._new_core()

    def _new_core(self) -> HeadCore:
        durable = Durable(
            tuple(self.saved.values()),
            tuple(self.saved_jobs.values()),
            tuple(self.saved_actors.values()),
            tuple(self.saved_groups.values()),
        )
        return HeadCore(self.config, VERSIONS, durable, self.network.clock.now, 0.0)

    def connect(self, down: Channel) -> int:
        """A node's connection; returns its number."""
        self._streams += 1
        self.down[self._streams] = down
        return self._streams

    def take(self, event: ev.Event) -> None:
        """Something happened to the head."""
        if not self.up:
            return
        for effect in self.core.handle(event, self.network.clock.now):
            if isinstance(effect, ev.SaveNode):
                self.saved[effect.node.node_id] = effect.node
                if effect.node.state == ev.DEAD:
                    self.on_dead(effect.node.node_id)
            elif isinstance(effect, ev.Send) and effect.stream in self.down:
                self.down[effect.stream].send(effect.message)
            elif isinstance(effect, ev.CloseStream):
                self.stream_ended(effect.stream)
            else:
                self._save(effect)
        self._wake()

    def _save(self, effect: ev.Effect) -> None:
        if isinstance(effect, ev.SaveJob):
            self.saved_jobs[effect.job.job_id] = effect.job
        elif isinstance(effect, ev.ForgetJob):
            del self.saved_jobs[effect.job_id]
        elif isinstance(effect, SaveActor):
            self.saved_actors[effect.actor.actor_id] = effect.actor
        elif isinstance(effect, ForgetActor):
            self.saved_actors.pop(effect.actor_id, None)
        elif isinstance(effect, gw.SaveGroup):
            self.saved_groups[effect.state.group.group_id] = effect.state
        elif isinstance(effect, gw.ForgetGroup):
            self.saved_groups.pop(effect.group_id, None)

    def stream_ended(self, stream: int) -> None:
        """A connection is gone, for whatever reason."""
        down = self.down.pop(stream, None)
        if down is not None:
            down.break_soon()
            self.take(ev.StreamBreaks(stream))

    def _wake(self) -> None:
        deadline = self.core.next_deadline()
        if deadline is not None:
            core = self.core
            wait_s = max(0.0, deadline - self.network.clock.now)
            self.network.clock.at(wait_s, lambda: self._time(core, deadline))

    def _time(self, core: HeadCore, deadline: float) -> None:
        if core is self.core and core.next_deadline() == deadline:
            self.take(ev.TimePasses())

    def crash(self) -> None:
        """All that is not durable is lost, until `restart`."""
        self.up = False
        for down in list(self.down.values()):
            down.break_soon()
        self.down.clear()

    def restart(self) -> None:
        self.up = True
        self.core = self._new_core()
        self._wake()


class Node:
    """A node daemon: store, references, its link to the head, links to other nodes, and the processes' streams.

    Attributes:
        told: called with each message for a process of this node.
    """

    def __init__(
        self, number: int, network: Network, head: Head, told: Callable[[bytes, list[Any]], None]
    ) -> None:
        self.node_id = f"{number:06x}" + "00" * 13
        self.network = network
        self.head = head
        self.config = head.config
        self.store = StoreCore(CAPACITY, self.config)
        self.refs = ClusterRefs(self.store)
        self.buffer = ReportBuffer()
        self.confirmations = Confirmations()
        self.told = told
        self.on_told: Callable[[list[Any]], None] = lambda message: None
        self.on_handed: Callable[[bytes, bytes, str], None] = lambda holder, object_id, giver: None
        self.peers: dict[str, Channel] = {}
        self.nodes: dict[str, Node] = {}
        self.buried: set[str] = set()
        self.alive = True
        self._stream = 0
        self._up: Channel | None = None
        self._number = 0
        self._flush_due = False
        self._pulls: dict[bytes, int] = {}
        self._early: dict[str, list[list[Any]]] = {}
        self.puller = b"\0P" + bytes(6)
        self.store.register(self.puller, {"kind": "pull", "pid": 0})
        self._connect()
        self._beat()

    def __repr__(self) -> str:
        return f"<node {self.node_id[:6]}>"

    @property
    def now(self) -> float:
        return self.network.clock.now

    def new_process_id(self, number: int) -> bytes:
        return new_process_id(node_tag(self.node_id))[:3] + number.to_bytes(5, "big")

    # --- the head ---

    def _connect(self) -> None:
        if not self.alive:
            return
        if not self.head.up or self.network.parted(self.node_id, HEAD):
            self.network.clock.at(0.2, self._connect)
            return
        up = self.network.channel(
            self.node_id, HEAD, self._at_head, lasting=False, on_broken=lambda: self._broken(up)
        )
        down = self.network.channel(
            HEAD, self.node_id, lambda message: self._from_head(up, message), lasting=False
        )
        self._up = up
        self._stream = stream = self.head.connect(down)
        self._number = 0
        self.buffer.start_over()
        self.confirmations.start_over()
        up.send((stream, ev.NodeRegisters(stream, self.node_id, "1", ev.NodeInfo(), VERSIONS)))
        down._on_broken = up.break_now

    def _at_head(self, message: tuple[int, ev.Event]) -> None:
        stream, event = message
        if stream in self.head.down:
            self.head.take(event)

    def _broken(self, up: Channel) -> None:
        if self._up is up:
            self._up = None
            self.head.stream_ended(self._stream)
            self.network.clock.at(0.1, self._connect)

    def _from_head(self, up: Channel, message: ev.Message) -> None:
        if self._up is not up or not self.alive:
            return
        match message:
            case ev.Registered(nodes) | ev.NodesChanged(nodes):
                for view in nodes:
                    self._heard_of(view)
                if isinstance(message, ev.Registered):
                    self.turn()
                    self.buffer.add({"snapshot": True, **self.refs.snapshot()})
            case ev.Acked(number):
                for then in self.confirmations.acknowledged(number):
                    then()
            case ev.FreeObjects(ids):
                self.refs.free(list(ids))
        self.turn()

    def _heard_of(self, view: ev.NodeView) -> None:
        node_id = view.node_id
        if node_id == self.node_id or node_id in self.buried:
            return
        if view.state == ev.DEAD:
            self.buried.add(node_id)
            channel = self.peers.pop(node_id, None)
            if channel is not None:
                channel.close()
                self.refs.died(node_id)
                self.network.clock.at(self.config.directory_grace_ms / 1000, lambda: self._forget(node_id))
                self.store.drop(_client_of(node_id), self.now)
                self._pulls.clear()
                self.on_told([P_TOLD, "node", node_id])
        elif node_id not in self.peers:
            self.refs.joined(node_id)
            self.store.register(_client_of(node_id), {"kind": "node", "pid": 0})
            other = self.nodes[node_id]
            self.peers[node_id] = self.network.channel(
                self.node_id, node_id, lambda message: other.from_peer(self.node_id, message)
            )
            for message in self._early.pop(node_id, ()):
                self.from_peer(node_id, message)

    def _forget(self, node_id: str) -> None:
        if self.alive:
            self.refs.forget(node_id, self.now)
            self.turn()

    def _beat(self) -> None:
        if self.alive:
            self._flush()
            self.network.clock.at(self.config.heartbeat_ms / 1000, self._beat)

    def _flush(self) -> None:
        self._flush_due = False
        if self._up is None or not self.alive:
            return
        parts = self.buffer.take(IDS_IN_A_PART)
        if not self.buffer.wants_snapshot:
            self.confirmations.sent(self._number + len(parts))
        for part in parts:
            self._number += 1
            event = ev.NodeReports(self._stream, self._number, None, part.objects, part.snapshot, part.more)
            self._up.send((self._stream, event))

    # --- the turn ---

    def turn(self) -> None:
        """What every event ends with."""
        for proc, message in self.store.outbox:
            if not proc.startswith(b"\0"):
                self.told(proc, message)
        self.store.outbox.clear()
        changes = self.refs.turn()
        if changes:
            number = self.refs.reported
            self.buffer.add({"changes": changes})
            self.confirmations.add(lambda: self._confirmed(number))
        for node_id, message in self.refs.outbox:
            if node_id in self.peers:
                self.peers[node_id].send(message)
        self.refs.outbox.clear()
        self.refs.located.clear()
        if not self.buffer.empty and not self._flush_due:
            self._flush_due = True
            self.network.clock.at(self.network.random.choice((0.0, 0.02)), self._flush)

    def _confirmed(self, number: int) -> None:
        self.refs.confirmed(number)

    # --- processes and other nodes ---

    def from_process(self, proc: bytes, message: list[Any]) -> None:
        """The next message of a process's stream."""
        if self.alive:
            self.store.handle(proc, message, self.now)
            self.turn()

    def from_peer(self, node_id: str, message: list[Any]) -> None:
        """A message of another node."""
        if not self.alive or node_id in self.buried:
            return
        if node_id not in self.peers:  # it knows of this node earlier than the other way round
            self._early.setdefault(node_id, []).append(message)
            return
        tag = message[0]
        if tag in (m.P_HOLD, m.P_SEALED, m.P_HELD):
            if tag == m.P_HOLD:
                for start in range(0, len(message[3]), 16):
                    self.on_handed(message[2], message[3][start : start + 16], node_id)
            elif tag == m.P_SEALED:
                for object_id in message[3][::3]:
                    self.on_handed(message[2], object_id, node_id)
            self.refs.handle(node_id, message)
        elif tag == P_FETCH:
            self._serve(node_id, message[1])
        elif tag == P_FETCHED:
            self._fetched(node_id, *message[1:])
        elif tag == P_FETCH_DONE:
            self.store.handle(_client_of(node_id), [m.UNPIN, message[1]], self.now)
        elif tag == P_TOLD:
            self.on_told(message)
        self.turn()

    # --- transfers, as far as references go ---

    def pull(self, object_id: bytes, source: Node) -> None:
        """Get a copy, if it is not here or on its way."""
        if (
            self.alive
            and source.node_id in self.peers
            and object_id not in self._pulls
            and not self.has(object_id)
        ):
            self._pulls[object_id] = 1
            self.peers[source.node_id].send([P_FETCH, object_id])

    def has(self, object_id: bytes) -> bool:
        """Whether there is a copy."""
        return object_id in self.store._ledger.objects

    def contained(self, object_id: bytes) -> tuple[bytes, ...]:
        """What the copy here contains, if there is one."""
        obj = self.store._ledger.objects.get(object_id)
        return obj.contained if obj is not None else ()

    def _serve(self, node_id: str, object_id: bytes) -> None:
        obj = self.store._ledger.objects.get(object_id)
        if obj is None or obj.recalled:
            self.peers[node_id].send([P_FETCHED, object_id, None])
            return
        self.store.sharing.share(object_id)
        self.store.handle(_client_of(node_id), [m.PIN, 1, object_id, bytes(8), 0, 0], self.now)
        self.peers[node_id].send([P_FETCHED, object_id, b"".join(obj.contained)])

    def _fetched(self, node_id: str, object_id: bytes, contained: bytes | None) -> None:
        self._pulls.pop(object_id, None)
        if contained is None:
            return
        if not self.has(object_id):
            self.seal(self.puller, object_id, contained, 0, bytes(8))
        peer = self.peers[node_id]
        self.refs.when_known(lambda: peer.send([P_FETCH_DONE, object_id]))

    def seal(self, proc: bytes, object_id: bytes, contained: bytes, flags: int, holder: bytes) -> None:
        """Lease room and seal, in one step."""
        self.store.handle(proc, [m.ALLOC, 1, SIZE, SIZE], self.now)
        [extent] = [message for _, message in self.store.outbox if message[0] == m.EXTENT]
        self.store.outbox[:] = [entry for entry in self.store.outbox if entry[1] is not extent]
        self.store.handle(
            proc, [m.SEAL, object_id, extent[2], SIZE, contained, flags, holder, "sim", b""], self.now
        )

    def evict(self, object_id: bytes) -> None:
        """Make room: a secondary copy goes that contains nothing, and that nobody reads."""
        ledger = self.store._ledger
        obj = ledger.objects.get(object_id)
        if obj is not None and not (obj.flags & m.SEAL_PRIMARY or obj.contained or obj.pins or obj.recalled):
            ledger.evict(obj)
            self.turn()

    def kill(self) -> None:
        """The machine is gone."""
        self.alive = False
        self.network.kill(self.node_id)

    def validate(self) -> None:
        """Every core of this node is sound."""
        self.store.validate()
        self.refs.validate()


def _client_of(node_id: str) -> bytes:
    return b"\0N" + bytes.fromhex(node_id)[:6]

"""The head and a node's link to it, for simulations with everything in them: `HeadCore`, and what `HeadLink` does to a node.

A link registers, sends what the node reports in batches, with a sign of life at the least, and calls whoever waits for the
head's word. It breaks with the connection or the head, and then tries again until it is registered.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tests.sim.machines import HEAD, VERSIONS, Head

from shoald.head import codec
from shoald.head import events as ev
from shoald.head.reports import ActorBuffer, Confirmations, KillBuffer, ReportBuffer

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.sim.daemons import Daemon
    from tests.sim.network import Channel, Network

    from shoal.config import Config

_RETRY_S = 0.1


class ClusterHead(Head):
    """A head that counts its messages.

    Attributes:
        heard, said: messages that nodes have sent, and that were sent to them.
    """

    def __init__(self, network: Network, config: Config) -> None:
        self.heard = self.said = 0
        self._due = float("inf")
        super().__init__(network, config)

    def take(self, event: ev.Event) -> None:
        if self.up:
            self.heard += not isinstance(event, ev.TimePasses)
        super().take(event)

    def connect(self, down: Channel) -> int:
        send = down.send

        def counted(message: Any) -> None:
            self.said += 1
            send(message)

        down.send = counted  # type: ignore[method-assign]
        return super().connect(down)

    def _wake(self) -> None:
        """Call when the core wants it; looked at again at most so often, since the core looks at every node for that."""
        now = self.network.clock.now
        if self._due <= now + self.config.view_ms / 2000:
            return
        deadline = self.core.next_deadline()
        if deadline is not None and deadline < self._due:
            self._due = max(deadline, now)
            due, core = self._due, self.core
            self.network.clock.at(due - now, lambda: self._tick(due, core))

    def _tick(self, due: float, core: object) -> None:
        if due == self._due:
            self._due = float("inf")
            if core is self.core:
                self.take(ev.TimePasses())
            else:
                self._wake()

    def crash(self) -> None:
        super().crash()
        self._due = float("inf")


def row_of(view: ev.NodeView) -> dict[str, Any]:
    """A node as daemons get it (codec.node_dict)."""
    gauges = view.gauges
    return {
        "node_id": view.node_id,
        "incarnation": view.incarnation,
        "address": "sim",
        "state": view.state,
        "reason": view.reason,
        "draining": view.draining,
        "labels": view.info.labels,
        "resources": view.info.resources,
        "available": gauges.available,
        "store_used_bytes": gauges.store_used_bytes,
        "store_capacity_bytes": view.info.store_capacity_bytes,
        "pending": [{"count": demand.count} for demand in gauges.pending],
    }


class HeadLink:
    """A daemon's link to the head."""

    def __init__(self, daemon: Daemon, network: Network, head: Head, config: Config) -> None:
        self._daemon = daemon
        self._network = network
        self._head = head
        self._config = config
        self._buffer = ReportBuffer()
        self._confirmations = Confirmations()
        self._actors = ActorBuffer()
        self._kills = KillBuffer(config.actor_kills_max)
        self._killed = 0
        self._up: Channel | None = None
        self._stream = 0
        self._number = 0
        self._flush_due = False
        self._sent_at = 0.0
        self._rows: dict[int, dict[str, Any]] = {}
        self.gauges: dict[str, Any] = {}
        self._connect()
        self._beat()

    @property
    def empty(self) -> bool:
        """Whether the head has been sent everything."""
        return self._buffer.empty

    def _connect(self) -> None:
        if not self._daemon.alive:
            return
        host = self._daemon.node_id
        if not self._head.up or self._network.parted(host, HEAD):
            self._network.clock.at(_RETRY_S, self._connect)
            return
        up = self._network.channel(
            host, HEAD, self._at_head, lasting=False, on_broken=lambda: self._broken(up)
        )
        down = self._network.channel(
            HEAD, host, lambda message: self._from_head(up, message), lasting=False, on_broken=up.break_now
        )
        self._up = up
        self._stream = stream = self._head.connect(down)
        self._number = 0
        self._buffer.start_over()
        self._confirmations.start_over()
        self._actors.start_over()
        self._kills.start_over()
        self._killed = 0
        up.send((stream, ev.NodeRegisters(stream, host, "1", self._daemon.info, VERSIONS)))

    def _at_head(self, message: tuple[int, ev.Event]) -> None:
        stream, event = message
        if stream in self._head.down:
            self._head.take(event)

    def _broken(self, up: Channel) -> None:
        if self._up is up:
            self._up = None
            if self._daemon.alive:
                self._daemon.groups.core.disconnected()
            self._head.stream_ended(self._stream)
            self._network.clock.at(_RETRY_S, self._connect)

    def _from_head(self, up: Channel, message: ev.Message) -> None:
        daemon = self._daemon
        if self._up is not up or not daemon.alive:
            return
        match message:
            case ev.Registered(nodes):
                daemon.heard([row_of(view) for view in nodes])
                self._send_kills()
                self.gauges = daemon.gauges()
                self._buffer.add({**self.gauges, "snapshot": True, **daemon.snapshot()})
                self.wants_flush()
                daemon.actors.cluster.registered()
                daemon.groups.core.connected(daemon.now)
            case ev.NodesChanged(nodes):
                daemon.heard([row_of(view) for view in nodes])
            case ev.GaugesChanged(rows):
                daemon.heard_gauges(rows)
            case ev.Acked(number):
                for then in self._confirmations.acknowledged(number):
                    then()
            case ev.FreeObjects(ids):
                daemon.refs.free(list(ids))
            case ev.LostObjects(ids):
                daemon.store.lost(list(ids))
            case ev.KillsAcked(number):
                for then in self._kills.acknowledged(number):
                    then()
            case ev.ActorChanged() | ev.ActorGiven() | ev.ActorEnds():
                daemon.actors.head_says(message)
            case ev.GroupsTold():
                daemon.groups.told(message)
            case ev.Refused():
                daemon.refused()
                return
        daemon.turn()

    def report(self, report: dict[str, Any], then: Callable[[], None] | None = None) -> None:
        """Tell the head soon; ``then`` is called when it has confirmed that."""
        self._buffer.add(report)
        if then is not None:
            self._confirmations.add(then)
        self.wants_flush()

    def wants_flush(self) -> None:
        """Send what there is, but not too often."""
        if not self._flush_due:
            self._flush_due = True
            now = self._network.clock.now
            wait_s = self._sent_at + self._config.report_ms_min / 1000 - now
            self._network.clock.at(max(0.0, wait_s), self._flush)

    def _beat(self) -> None:
        if self._daemon.alive:
            beat_s = self._config.heartbeat_ms / 1000
            if self._sent_at + beat_s / 2 < self._network.clock.now and not self._flush_due:
                self._flush()
            self._network.clock.at(beat_s / 2, self._beat)

    def _flush(self) -> None:
        self._flush_due = False
        if self._up is None or not self._daemon.alive:
            return
        self._sent_at = self._network.clock.now
        parts = self._buffer.take(self._config.head_batch_ids_max)
        if not self._buffer.wants_snapshot:
            self._confirmations.sent(self._number + len(parts))
        for part in parts:
            self._number += 1
            gauges = (
                ev.Gauges(part.gauges["available"], pending=part.gauges["pending"]) if part.gauges else None
            )
            event = ev.NodeReports(self._stream, self._number, gauges, part.objects, part.snapshot, part.more)
            self._up.send((self._stream, event))
        actors = self._actors.take()
        if actors is not None:
            report = codec.actors_message(*actors).actors
            self._up.send((self._stream, codec.actors_event(self._stream, report)))

    def report_actors(self, rows: list[dict[str, Any]], snapshot: bool) -> None:
        """What has become of actors that this node hosts."""
        self._actors.add(rows, snapshot)
        self.wants_flush()

    def report_kill(self, actor_id: bytes, reason: str, then: Callable[[], None]) -> None:
        """An actor was killed: told at once, and over each stream again until the head has confirmed it."""
        self._kills.add(actor_id, reason, then)
        self._send_kills()

    def _send_kills(self) -> None:
        if self._up is None or self._kills.empty:
            return
        self._killed += 1
        report = codec.kills_message(self._killed, self._kills.take(self._killed).items()).kills
        self._up.send((self._stream, codec.kills_event(self._stream, report)))

    def call(self, ask: Callable[[Head], Any], then: Callable[[bool, Any], None]) -> None:
        """Ask the head; ``then`` gets (whether it answered, what)."""
        clock, latency_s = self._network.clock, self._network.latencies_s[0]

        def asked() -> None:
            if not self._head.up or self._network.parted(self._daemon.node_id, HEAD):
                then(False, "the head does not answer")
            else:
                answer = ask(self._head)
                clock.at(latency_s, lambda: then(True, answer))

        clock.at(latency_s, asked)

    def tell_groups(self, news: Any) -> None:
        """News of placement groups (a GroupNews of head.proto), at once, as part of this session."""
        if self._up is not None:
            self._up.send((self._stream, codec.groups_event(self._stream, news)))

    def tell_head(self, event: ev.Event) -> None:
        """A call that is made again until the head has answered."""
        clock, host = self._network.clock, self._daemon.node_id

        def asked() -> None:
            if not self._head.up or self._network.parted(host, HEAD):
                clock.at(_RETRY_S, asked)
            elif self._daemon.alive:
                self._head.take(event)

        clock.at(self._network.latencies_s[0], asked)

    def locate(self, object_ids: list[bytes], then: Callable[[list[list[str]] | None], None]) -> None:
        """Ask who has each of these objects; None if the head cannot be asked."""
        host, clock = self._daemon.node_id, self._network.clock

        def asked() -> None:
            if not self._head.up or self._network.parted(host, HEAD):
                then(None)
                return
            entries = map(self._head.core.directory.get, object_ids)
            copies = [sorted(entry.copies) if entry is not None else [] for entry in entries]
            clock.at(self._network.latencies_s[0], lambda: then(copies))

        clock.at(self._network.latencies_s[0], asked)

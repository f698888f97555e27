"""HeadCore: every decision of the head. Events and the time go in, effects come out; no I/O.

The core joins the node table, the object directory and the job table, each a noun of its own; it draws the
consequences that cross them: a dead node's holds and copies go, its jobs have failed, everyone is told.

After a restart the head knows nodes and jobs from storage, and nothing of objects. It frees nothing until
every node that was live has sent a snapshot, or is dead (`recovering`): a death period goes by for one that is
not heard of, and one that comes back at its end has as long again to send its snapshot.

Not responsible for sockets, protobuf, durability (it says what to save; the shell saves it before it
carries out what follows) and durable keys, about which there is nothing to decide.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Any

import msgpack

from shoal.config import Config
from shoal.wire.labels import labels_of, matches
from shoald.head import events as ev
from shoald.head.actors import Actor, ActorTable, EndActor, HostActor, TellNode
from shoald.head.directory import Directory
from shoald.head.gauges import GaugeBatches, NodeGauges
from shoald.head.groups import GroupTable
from shoald.head.groupwords import GroupState, NodeRoom, TellGroups
from shoald.head.jobs import JobTable
from shoald.head.news import NodeNews
from shoald.head.nodes import NodeRecord, NodeTable
from shoald.node import constraints


@dataclass(frozen=True)
class Durable:
    """What storage remembers of an earlier run."""

    nodes: tuple[ev.NodeView, ...] = ()
    jobs: tuple[ev.Job, ...] = field(default=())
    actors: tuple[Actor, ...] = field(default=())
    groups: tuple[GroupState, ...] = field(default=())
    kills: tuple[Actor, ...] = field(default=())


class HeadCore:
    """The head's state machine.

    Args:
        config: bounds and periods.
        versions: the head's own; a node must have the same.
        durable: what an earlier run left.
        now: monotonic seconds.
        unix_offset_s: Unix time minus monotonic time, for times that people see.
        here: the id of the node in this process, if there is one.
    """

    def __init__(
        self,
        config: Config,
        versions: ev.Versions,
        durable: Durable,
        now: float,
        unix_offset_s: float,
        here: str = "",
    ) -> None:
        self._config = config
        self._versions = versions
        self._unix_offset_s = unix_offset_s
        self.started = now
        self.nodes = NodeTable(config.node_suspect_ms / 1000, config.node_dead_ms / 1000, here)
        self.directory = Directory(config.directory_grace_ms / 1000)
        self.jobs = JobTable(config.jobs_max, durable.jobs)
        self.actors = ActorTable(
            self._host_for,
            self.nodes.is_live,
            config.dead_actors_max,
            durable.actors,
            config.actor_kills_max,
            durable.kills,
        )
        self.groups = GroupTable(self._rooms, config, durable.groups)
        self._gauges = GaugeBatches(config)
        self._news = NodeNews(config)
        self._awaited: set[str] = set()
        self._recovery_ends = now + 2 * config.node_dead_ms / 1000
        for view in durable.nodes:
            self._remember(view, now)
        self.recovering = bool(self._awaited)
        self._effects: list[ev.Effect] = []
        self._handlers: dict[type, Callable[[Any, float], None]] = {
            ev.NodeRegisters: self._on_registers,
            ev.NodeReports: self._on_reports,
            ev.NodeLeaves: self._on_leaves,
            ev.StreamBreaks: self._on_stream_breaks,
            ev.DrainAsked: self._on_drain,
            ev.JobStarts: self._on_job_starts,
            ev.JobEnds: self._on_job_ends,
            ev.ActorsReported: self._on_actors_reported,
            ev.ActorClaimed: self._on_actor_claimed,
            ev.ActorsKilled: self._on_actors_killed,
            ev.GroupsHeard: self._on_groups_heard,
            ev.TimePasses: self._on_time_passes,
        }

    def handle(self, event: ev.Event, now: float) -> list[ev.Effect]:
        """Take one event in; returns what is to be done, in this order."""
        effects: list[ev.Effect] = []
        self._effects = effects
        self._handlers[type(event)](event, now)
        # Whoever is told of an actor or a group somewhere is to know that node.
        if self._news.due(self.nodes.live_count, now) or self.actors.effects or self.groups.changed:
            self._pass_news_on(now)
        if self.actors.effects:
            self._carry_actors()
        if self.groups.changed:
            self._carry_groups()
        return effects

    def next_deadline(self) -> float | None:
        """When the core wants a `TimePasses` at the latest, in monotonic seconds."""
        deadlines = [
            self.nodes.next_deadline(),
            self.groups.next_deadline(),
            self._gauges.next_deadline(self.nodes.live_count),
            self._news.next_deadline(self.nodes.live_count),
            self._recovery_ends if self.recovering else self.directory.next_deadline(),
        ]
        return min((deadline for deadline in deadlines if deadline is not None), default=None)

    def views(self, now: float) -> tuple[ev.NodeView, ...]:
        """All nodes, live ones first."""
        return tuple(record.view(now) for record in self.nodes)

    # --- nodes -----------------------------------------------------------------------------------

    def _remember(self, view: ev.NodeView, now: float) -> None:
        record = NodeRecord(view.node_id, view.incarnation, view.info, now)
        record.draining = view.draining
        record.become(ev.SUSPECTED, "not heard of since the head started", now)
        if view.state == ev.DEAD:
            record.become(ev.DEAD, view.reason, now)
            self.nodes.add_dead(record)
        else:
            self.nodes.add(record)
            self._awaited.add(view.node_id)

    def _on_registers(self, event: ev.NodeRegisters, now: float) -> None:
        refusal = self._refusal(event)
        if refusal is not None:
            self._effects.append(ev.Note(f"node {event.node_id} refused: {refusal.message}"))
            self._close(event.stream, refusal)
            return
        record = self.nodes.get(event.node_id)
        if record is not None and record.incarnation != event.incarnation:
            if record.stream is not None:
                replaced = ev.Refused(ev.REFUSED_REPLACED, "a newer daemon took this node's place")
                self._close(record.stream, replaced)
            self._bury(record, "replaced by a newer daemon", now)
            record = None
        if record is None:
            record = NodeRecord(event.node_id, event.incarnation, event.info, now)
            self.nodes.add(record)
        elif record.stream is not None and record.stream != event.stream:
            self._effects.append(ev.CloseStream(record.stream))
        record.info = event.info
        record.parts = []
        self._seen(record, now)
        self.nodes.attach(record, event.stream)
        view = record.view(now)
        # The head's periods count, whatever the node was configured with: it would be declared dead for its silence.
        beat_ms = 0.0 if record.here else min(self._config.heartbeat_ms, self._config.node_suspect_ms / 2)
        self._effects += [ev.SaveNode(view), ev.Send(event.stream, ev.Registered(self.views(now), beat_ms))]
        self._news.add(record)
        self.actors.nodes_changed()
        self.groups.nodes_changed(now)

    def _refusal(self, event: ev.NodeRegisters) -> ev.Refused | None:
        if not event.node_id or not event.incarnation:
            return ev.Refused(ev.REFUSED_INVALID, "a node registers with an id and an incarnation")
        if event.versions != self._versions:
            ours, theirs = _spell(self._versions), _spell(event.versions)
            return ev.Refused(
                ev.REFUSED_VERSION, f"the head speaks {ours}, the node {theirs}; install the same on both"
            )
        if self.nodes.is_dead(event.node_id, event.incarnation):
            return ev.Refused(ev.REFUSED_DEAD, "this node was declared dead; start it again to rejoin")
        nodes_max = self._config.nodes_max
        if self.nodes.get(event.node_id) is None and self.nodes.live_count >= nodes_max:
            return ev.Refused(ev.REFUSED_INVALID, f"the cluster has {nodes_max} nodes already (nodes_max)")
        return None

    def _on_reports(self, event: ev.NodeReports, now: float) -> None:
        record = self.nodes.of_stream(event.stream)
        if record is None:
            return
        self._seen(record, now)
        if event.gauges is not None:
            self._take_gauges(record, event.gauges, now)
        record.parts.append(event)
        if not event.more:
            self._apply(record, now)
            self._end_recovery(now)
        elif len(record.parts) >= self._config.report_parts_max:
            self._close(event.stream, ev.Refused(ev.REFUSED_INVALID, "a report in too many parts"))
            return
        self._effects.append(ev.Send(event.stream, ev.Acked(event.number)))

    def _take_gauges(self, record: NodeRecord, gauges: ev.Gauges, now: float) -> None:
        record.gauges = gauges
        waiting = sum(demand.count for demand in gauges.pending)
        self._gauges.changed(NodeGauges(record.node_id, gauges.available, gauges.store_used_bytes, waiting))
        self.groups.gauges(record.node_id, now)

    def _pass_gauges_on(self, now: float) -> None:
        rows = self._gauges.take(self.nodes.live_count, now)
        if rows:
            message = ev.GaugesChanged(rows)
            streams = [record.stream for record in self.nodes.live if record.stream is not None]
            self._effects += [ev.Send(stream, message) for stream in streams]

    def _apply(self, record: NodeRecord, now: float) -> None:
        parts, record.parts = record.parts, []
        batch = parts[0].objects if len(parts) == 1 else _join(part.objects for part in parts)
        if parts[0].snapshot:
            self._awaited.discard(record.node_id)
            self._draw(*self.directory.replace(record.node_id, batch, now))
        else:
            self._draw(*self.directory.apply(record.node_id, batch, now))

    def _on_leaves(self, event: ev.NodeLeaves, now: float) -> None:
        record = self.nodes.of_stream(event.stream)
        if record is not None:
            self._bury(record, event.reason or "left", now)
            self._effects.append(ev.CloseStream(event.stream))
            self._end_recovery(now)

    def _on_stream_breaks(self, event: ev.StreamBreaks, now: float) -> None:
        record = self.nodes.of_stream(event.stream)
        if record is None:
            return
        self.nodes.detach(record)
        if record.state == ev.ALIVE:
            self._suspect(record, "its connection broke", now)

    def _on_drain(self, event: ev.DrainAsked, now: float) -> None:
        record = self.nodes.get(event.node_id)
        if record is None or record.draining:
            return
        record.draining = True
        self._effects.append(ev.SaveNode(record.view(now)))
        if record.stream is not None:
            self._effects.append(ev.Send(record.stream, ev.DrainNode(event.reason)))
        self._news.add(record)

    def _on_time_passes(self, _event: ev.TimePasses, now: float) -> None:
        suspects, deaths = self.nodes.silent(now)
        for record in suspects:
            self._suspect(record, f"silent for {now - record.last_seen:.1f} s", now)
        for record in deaths:
            if record.stream is not None:
                self._close(record.stream, ev.Refused(ev.REFUSED_DEAD, "declared dead after a long silence"))
            self._bury(record, f"silent for {now - record.last_seen:.1f} s", now)
        self._end_recovery(now)
        if not self.recovering:
            self._propose(self.directory.ripe(now))
        self.groups.tick(now)
        self._pass_gauges_on(now)

    def _seen(self, record: NodeRecord, now: float) -> None:
        record.last_seen = now
        if record.state == ev.SUSPECTED:
            record.become(ev.ALIVE, "heard of again", now)
            self.nodes.revived(record)
            self.groups.nodes_changed(now)
            self.actors.nodes_changed()
            self._news.add(record)

    def _suspect(self, record: NodeRecord, reason: str, now: float) -> None:
        record.become(ev.SUSPECTED, reason, now)
        self._effects.append(ev.Note(f"node {record.node_id} is suspected: {reason}"))
        self._news.add(record)

    def _bury(self, record: NodeRecord, reason: str, now: float) -> None:
        self.nodes.bury(record, reason, now)
        self._awaited.discard(record.node_id)
        self._effects += [ev.Note(f"node {record.node_id} is dead: {reason}"), ev.SaveNode(record.view(now))]
        while self.nodes.dead_count > self._config.dead_nodes_max:
            oldest = self.nodes.forget_oldest_dead()
            self._effects.append(ev.ForgetNode(oldest.node_id, oldest.incarnation))
        for job in self.jobs.running_on(record.node_id):
            self._end_job(job.job_id, ev.JOB_FAILED, f"its node died: {reason}", now + self._unix_offset_s)
        self.actors.node_died(record.node_id, reason, record.draining)
        self._gauges.forget(record.node_id)
        self.groups.node_died(record.node_id, reason, now)
        self._news.add(record)
        self._draw(*self.directory.forget_node(record.node_id, now))

    def _pass_news_on(self, now: float) -> None:
        records = self._news.take(self.nodes.live_count, now)
        if records:
            changed = ev.NodesChanged(tuple(record.view(now) for record in records))
            self._effects += [
                ev.Send(other.stream, changed)
                for other in self.nodes.live
                if other.stream is not None and records != [other]
            ]

    def _close(self, stream: int, refusal: ev.Refused) -> None:
        self._effects += [ev.Send(stream, refusal), ev.CloseStream(stream)]

    # --- objects ---------------------------------------------------------------------------------

    def _draw(self, free: Iterable[bytes], lost: Iterable[bytes]) -> None:
        if not self.recovering:
            self._propose(free)
        by_node: dict[str, list[bytes]] = {}
        for object_id in lost:
            entry = self.directory.get(object_id)
            for node_id in entry.holders if entry is not None else ():
                by_node.setdefault(node_id, []).append(object_id)
        self._send_ids(by_node, ev.LostObjects)

    def _propose(self, free: Iterable[bytes]) -> None:
        by_node: dict[str, list[bytes]] = {}
        for object_id in free:
            entry = self.directory.get(object_id)
            for node_id in entry.copies if entry is not None else ():
                by_node.setdefault(node_id, []).append(object_id)
        self._send_ids(by_node, ev.FreeObjects)

    def _send_ids(
        self, by_node: dict[str, list[bytes]], message: type[ev.FreeObjects | ev.LostObjects]
    ) -> None:
        # A node without a stream is told nothing: its next snapshot brings the question up again.
        for node_id in sorted(by_node):
            record = self.nodes.get(node_id)
            if record is not None and record.stream is not None:
                self._effects.append(ev.Send(record.stream, message(tuple(by_node[node_id]))))

    def _end_recovery(self, now: float) -> None:
        if self.recovering and (not self._awaited or now >= self._recovery_ends):
            self.recovering = False
            self._awaited.clear()
            self._propose(sorted(self.directory.unheld))

    # --- jobs ------------------------------------------------------------------------------------

    def _on_job_starts(self, event: ev.JobStarts, now: float) -> None:
        job = event.job if event.job.started_s else replace(event.job, started_s=now + self._unix_offset_s)
        forgotten = self.jobs.start(job)
        self._effects.append(ev.SaveJob(job))
        self._effects += [ev.ForgetJob(old.job_id) for old in forgotten]

    def _on_job_ends(self, event: ev.JobEnds, _now: float) -> None:
        self._end_job(event.job_id, event.state, event.message, event.ended_s)

    def _end_job(self, job_id: str, state: str, message: str, ended_s: float) -> None:
        job = self.jobs.end(job_id, state, message, ended_s)
        if job is not None:
            self._effects.append(ev.SaveJob(job))
            self.actors.job_ended(job_id)
            self.groups.job_ended(job_id)

    # --- actors ----------------------------------------------------------------------------------

    def _on_actors_reported(self, event: ev.ActorsReported, now: float) -> None:
        record = self.nodes.of_stream(event.stream)
        if record is None:
            return
        self._seen(record, now)
        if event.snapshot:
            self.actors.snapshot(record.node_id, event.actors)
        else:
            self.actors.reported(record.node_id, event.actors)

    def _on_actor_claimed(self, event: ev.ActorClaimed, _now: float) -> None:
        self.actors.claim(event.actor)

    def _on_actors_killed(self, event: ev.ActorsKilled, now: float) -> None:
        record = self.nodes.of_stream(event.stream)
        if record is None:
            return
        self._seen(record, now)
        for actor_id, reason in event.kills:
            self.actors.kill(actor_id, reason)
        self._effects.append(ev.Send(event.stream, ev.KillsAcked(event.number)))

    def _host_for(self, actor: Actor) -> str:
        """The node for an actor that lost its own: one that has what it needs where it may be, the one with most free CPUs."""
        fit = [
            record
            for record in self.nodes.live
            if record.state == ev.ALIVE
            and not record.draining
            and all(amount <= record.info.resources.get(name, 0) for name, amount in actor.placement.items())
        ]
        if actor.strategy:
            fit = self._allowed(fit, msgpack.unpackb(actor.strategy))
        best = max(
            fit, key=lambda record: (record.gauges.available.get("CPU", 0), record.node_id), default=None
        )
        return best.node_id if best is not None else ""

    def _allowed(self, records: list[NodeRecord], options: dict[str, Any]) -> list[NodeRecord]:
        """Those of the nodes that constraints allow (shoald.node.constraints); of a placement group, those with its bundles."""
        wishes = constraints.read(options)
        if wishes is None:
            return records
        if wishes.group:
            nodes = self.groups.nodes_of(wishes.group, wishes.bundle)
            return [record for record in records if record.node_id in nodes]
        if wishes.affinity:
            there = [record for record in records if record.node_id == wishes.affinity]
            records = there if there or not wishes.soft else records
        return [
            record
            for record in records
            if matches({**labels_of(record.node_id), **record.info.labels}, wishes.hard)
        ]

    def _carry_actors(self) -> None:
        for effect in self.actors.take():
            message: ev.Message
            if isinstance(effect, TellNode):
                node_id, message = effect.node_id, ev.ActorChanged(effect.actor)
            elif isinstance(effect, HostActor):
                node_id, message = effect.actor.node_id, ev.ActorGiven(effect.actor)
            elif isinstance(effect, EndActor):
                node_id, message = effect.node_id, ev.ActorEnds(effect.actor)
            else:
                self._effects.append(effect)
                continue
            record = self.nodes.get(node_id)
            if record is not None and record.stream is not None:
                # Without a stream: a host's next snapshot brings it up again, and who asked asks again.
                self._effects.append(ev.Send(record.stream, message))

    # --- placement groups ------------------------------------------------------------------------

    def _on_groups_heard(self, event: ev.GroupsHeard, now: float) -> None:
        record = self.nodes.of_stream(event.stream)
        if record is not None:
            self._seen(record, now)
            self.groups.heard(record.node_id, event.news, now)

    def _rooms(self) -> dict[str, NodeRoom]:
        return {
            record.node_id: NodeRoom(
                record.info.resources,
                record.gauges.available,
                {**labels_of(record.node_id), **record.info.labels},
            )
            for record in self.nodes.live
            if record.state == ev.ALIVE and not record.draining
        }

    def _carry_groups(self) -> None:
        for effect in self.groups.take():
            if not isinstance(effect, TellGroups):
                self._effects.append(effect)
                continue
            record = self.nodes.get(effect.node_id)
            if record is not None and record.stream is not None:  # else its next snapshot brings it up again
                self._effects.append(ev.Send(record.stream, ev.GroupsTold(effect.orders, effect.states)))

    def validate(self) -> None:
        """Check the invariants of every part and between them; raises AssertionError."""
        self.nodes.validate()
        self.jobs.validate()
        self.groups.validate({record.node_id for record in self.nodes.live})
        self.actors.validate({record.node_id for record in self.nodes.live})
        live = {record.node_id for record in self.nodes.live}
        self.directory.validate(live)
        assert self._awaited <= live, f"awaits nodes that are not live: {self._awaited - live}"
        assert self.recovering or not self._awaited


def _spell(versions: ev.Versions) -> str:
    return f"protocol {versions.protocol} with Python {versions.python_major}.{versions.python_minor}"


def _join(batches: Iterable[ev.ObjectBatch]) -> ev.ObjectBatch:
    born: list[tuple[bytes, int]] = []
    hold: list[bytes] = []
    release: list[bytes] = []
    freed: list[bytes] = []
    for batch in batches:
        born += batch.born
        hold += batch.hold
        release += batch.release
        freed += batch.freed
    return ev.ObjectBatch(tuple(born), tuple(hold), tuple(release), tuple(freed))

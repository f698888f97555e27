"""Between protobuf messages, the core's events and effects, and the plain dicts that nodes use.

The dicts (keys are optional unless said otherwise; resources in units of 1/10,000; ids as hex for nodes
and 16 raw bytes for objects):

    node     {"node_id" (required), "incarnation" (required), "address", "hostname", "pid", "name",
              "resources", "labels", "store_capacity_bytes"}
    gauges   {"available", "store_used_bytes", "store_objects", "workers", "pending": [{"resources", "count",
              "reason"}]}; a report adds deltas to them (reports.py)

Whatever comes from the wire and makes no sense raises ValueError.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import zip_longest
from typing import Any

from shoal.ids import OBJECT_ID_SIZE, split_ids
from shoal.wire import labels
from shoald.head import events as ev
from shoald.head import groupwords as gw
from shoald.head.actors import Actor
from shoald.head.gauges import NodeGauges
from shoald.head.pb import head_pb2 as pb
from shoald.head.planning import STRATEGIES
from shoald.head.reports import Part

_INFO_KEYS = {"address", "hostname", "pid", "name", "resources", "labels", "store_capacity_bytes"}
NODE_KEYS = frozenset({"node_id", "incarnation"} | _INFO_KEYS)
_NAME_LENGTH_MAX = 128


# --- node's side: dicts to messages ----------------------------------------------------------------


def register_message(node: Mapping[str, Any], versions: ev.Versions) -> pb.NodeMessage:
    """Raises ValueError for an unknown key, KeyError for a missing id."""
    unknown = set(node) - NODE_KEYS
    if unknown:
        raise ValueError(f"a node has no {sorted(unknown)}; known are {sorted(NODE_KEYS)}")
    info = pb.NodeInfo(**{key: node[key] for key in _INFO_KEYS & set(node)})
    return pb.NodeMessage(
        register=pb.Register(
            node_id=node["node_id"],
            incarnation=node["incarnation"],
            info=info,
            versions=pb.Versions(
                protocol=versions.protocol,
                python_major=versions.python_major,
                python_minor=versions.python_minor,
            ),
        )
    )


def gauges_message(gauges: Mapping[str, Any]) -> pb.Gauges:
    plain = {key: gauges[key] for key in gauges if key != "pending"}
    return pb.Gauges(pending=[pb.Demand(**demand) for demand in gauges.get("pending", ())], **plain)


def report_message(number: int, part: Part) -> pb.NodeMessage:
    """One report of the stream, numbered from 1."""
    batch = part.objects
    objects = pb.ObjectBatch(
        born=b"".join(object_id for object_id, _ in batch.born),
        born_bytes=[size for _, size in batch.born],
        hold=b"".join(batch.hold),
        release=b"".join(batch.release),
        freed=b"".join(batch.freed),
    )
    gauges = None if part.gauges is None else gauges_message(part.gauges)
    report = pb.Report(number=number, gauges=gauges, objects=objects, snapshot=part.snapshot, more=part.more)
    return pb.NodeMessage(report=report)


def actors_message(actors: Iterable[Mapping[str, Any]], snapshot: bool) -> pb.NodeMessage:
    """What a node says of actors that it hosts; each a dict with the fields of `shoald.head.actors.Actor`."""
    report = pb.ActorReport(actors=[pb.Actor(**actor) for actor in actors], snapshot=snapshot)
    return pb.NodeMessage(actors=report)


def kills_message(number: int, kills: Iterable[tuple[bytes, str]]) -> pb.NodeMessage:
    """Actors that are to end for good, with the reason; numbered from 1 in each stream."""
    rows = [pb.Kill(actor_id=actor_id, reason=reason) for actor_id, reason in kills]
    return pb.NodeMessage(kills=pb.KillReport(number=number, kills=rows))


def groups_message(news: Mapping[str, Any]) -> pb.NodeMessage:
    """What a node says of placement groups: a dict with the fields of GroupNews in head.proto, as plain values."""
    return pb.NodeMessage(groups=pb.GroupNews(**news))


# --- head's side: messages to events ---------------------------------------------------------------


def registers_event(stream: int, message: pb.Register) -> ev.NodeRegisters:
    versions = message.versions
    return ev.NodeRegisters(
        stream,
        _node_id(message.node_id),
        _node_id(message.incarnation),
        _info(message.info),
        ev.Versions(versions.protocol, versions.python_major, versions.python_minor),
    )


def reports_event(stream: int, message: pb.Report) -> ev.NodeReports:
    return ev.NodeReports(
        stream,
        message.number,
        _gauges(message.gauges) if message.HasField("gauges") else None,
        _batch(message.objects),
        message.snapshot,
        message.more,
    )


def job_event(message: pb.Job) -> ev.JobStarts:
    if not message.job_id:
        raise ValueError("a job has an id")
    return ev.JobStarts(
        ev.Job(
            message.job_id,
            message.node_id,
            message.name,
            message.namespace,
            message.pid,
            started_s=message.started_s,
        )
    )


def _node_id(text: str) -> str:
    if len(text) > _NAME_LENGTH_MAX:
        raise ValueError(f"an id of {len(text)} characters")
    return text


def _info(message: pb.NodeInfo) -> ev.NodeInfo:
    if any(amount < 0 for amount in message.resources.values()):
        raise ValueError("a node has less than nothing of a resource")
    return ev.NodeInfo(
        message.address,
        message.hostname,
        message.pid,
        message.name,
        dict(message.resources),
        dict(message.labels),
        message.store_capacity_bytes,
    )


def _gauges(message: pb.Gauges) -> ev.Gauges:
    return ev.Gauges(
        dict(message.available),
        message.store_used_bytes,
        message.store_objects,
        message.workers,
        tuple(ev.Demand(dict(demand.resources), demand.count, demand.reason) for demand in message.pending),
    )


def _batch(message: pb.ObjectBatch) -> ev.ObjectBatch:
    if len(message.born) != len(message.born_bytes) * OBJECT_ID_SIZE:
        raise ValueError(f"{len(message.born)} bytes of ids with {len(message.born_bytes)} sizes")
    return ev.ObjectBatch(
        tuple(zip(split_ids(message.born), message.born_bytes, strict=True)),
        tuple(split_ids(message.hold)),
        tuple(split_ids(message.release)),
        tuple(split_ids(message.freed)),
    )


def actors_event(stream: int, message: pb.ActorReport) -> ev.ActorsReported:
    return ev.ActorsReported(stream, tuple(map(actor_of, message.actors)), message.snapshot)


def kills_event(stream: int, message: pb.KillReport) -> ev.ActorsKilled:
    kills = tuple((_actor_id(kill.actor_id), kill.reason) for kill in message.kills)
    return ev.ActorsKilled(stream, message.number, kills)


def _actor_id(actor_id: bytes) -> bytes:
    if len(actor_id) != OBJECT_ID_SIZE:
        raise ValueError(f"an actor's id has {OBJECT_ID_SIZE} bytes, not {len(actor_id)}")
    return actor_id


def actor_of(message: pb.Actor) -> Actor:
    _actor_id(message.actor_id)
    fields = {name: getattr(message, name) for name in Actor.__slots__}
    return Actor(**{**fields, "placement": dict(message.placement)})


def groups_event(stream: int, message: pb.GroupNews) -> ev.GroupsHeard:
    held = tuple(
        gw.Held(_group_id(each.group_id), tuple(each.prepared), tuple(each.committed))
        for each in message.held
    )
    answers = tuple(
        gw.Answer(_group_id(each.group_id), each.attempt, each.ok, each.reason) for each in message.answers
    )
    news = gw.News(
        message.snapshot,
        held,
        tuple(map(_group_of, message.made)),
        tuple(map(_group_of, message.wanted)),
        answers,
        tuple(map(_group_id, message.removed)),
        tuple(map(_group_id, message.watched)),
    )
    return ev.GroupsHeard(stream, news)


def _group_id(group_id: bytes) -> bytes:
    if len(group_id) != OBJECT_ID_SIZE:
        raise ValueError(f"a placement group's id has {OBJECT_ID_SIZE} bytes, not {len(group_id)}")
    return group_id


def _group_of(message: pb.Group) -> gw.Group:
    bundles = tuple(dict(bundle.resources) for bundle in message.bundles)
    if not bundles or any(amount < 0 for bundle in bundles for amount in bundle.values()):
        raise ValueError("a placement group has bundles, of not less than nothing")
    if message.strategy not in STRATEGIES:
        raise ValueError(f"there is no strategy {message.strategy!r}")
    selectors = tuple(dict(bundle.selector) for bundle in message.bundles)
    for selector in selectors:
        labels.parse(selector)
    return gw.Group(
        _group_id(message.group_id),
        message.name,
        message.namespace,
        message.strategy,
        bundles,
        message.detached,
        message.job_id,
        message.node_id,
        selectors if any(selectors) else (),
    )


# --- head's side: effects to messages --------------------------------------------------------------


def head_message(message: ev.Message, cluster_id: str, epoch: str) -> pb.HeadMessage:
    """What the core sends, as it goes over the wire."""
    match message:
        case ev.Registered(nodes, heartbeat_ms):
            registered = pb.Registered(
                cluster_id=cluster_id, epoch=epoch, nodes=map(node_message, nodes), heartbeat_ms=heartbeat_ms
            )
            return pb.HeadMessage(registered=registered)
        case ev.Refused(reason, text):
            return pb.HeadMessage(refused=pb.Refused(reason=pb.Refused.Reason.Name(reason), message=text))
        case ev.NodesChanged(nodes):
            return pb.HeadMessage(nodes=pb.NodesChanged(nodes=map(node_message, nodes)))
        case ev.Acked(number):
            return pb.HeadMessage(acked=pb.Acked(number=number))
        case ev.FreeObjects(ids):
            return pb.HeadMessage(free=pb.ObjectIds(ids=b"".join(ids)))
        case ev.LostObjects(ids):
            return pb.HeadMessage(lost=pb.ObjectIds(ids=b"".join(ids)))
        case ev.DrainNode(reason):
            return pb.HeadMessage(drain=pb.Drain(reason=reason))
        case ev.GaugesChanged(rows):
            gauges = pb.GaugesChanged(nodes=map(_gauges_row, rows))
            return pb.HeadMessage(gauges=gauges)
        case ev.GroupsTold(orders, states):
            told = pb.GroupOrders(orders=map(_order_message, orders), states=map(group_message, states))
            return pb.HeadMessage(groups=told)
        case ev.ActorChanged(actor):
            return pb.HeadMessage(actor=actor_message(actor))
        case ev.ActorGiven(actor):
            return pb.HeadMessage(host_actor=actor_message(actor))
        case ev.KillsAcked(number):
            return pb.HeadMessage(kills_acked=pb.KillsAcked(number=number))
        case ev.ActorEnds(actor):
            return pb.HeadMessage(end_actor=actor_message(actor))


def node_message(view: ev.NodeView) -> pb.Node:
    info, gauges = view.info, view.gauges
    return pb.Node(
        node_id=view.node_id,
        incarnation=view.incarnation,
        info=pb.NodeInfo(
            address=info.address,
            hostname=info.hostname,
            pid=info.pid,
            name=info.name,
            resources=info.resources,
            labels=info.labels,
            store_capacity_bytes=info.store_capacity_bytes,
        ),
        state=view.state,
        reason=view.reason,
        draining=view.draining,
        silent_ms=view.silent_ms,
        gauges=pb.Gauges(
            available=gauges.available,
            store_used_bytes=gauges.store_used_bytes,
            store_objects=gauges.store_objects,
            workers=gauges.workers,
            pending=[
                pb.Demand(resources=demand.resources, count=demand.count, reason=demand.reason)
                for demand in gauges.pending
            ],
        ),
    )


def _gauges_row(row: NodeGauges) -> pb.NodeGauges:
    return pb.NodeGauges(
        node_id=row.node_id,
        available=row.available,
        store_used_bytes=row.store_used_bytes,
        waiting=row.waiting,
    )


def _order_message(order: gw.Order) -> pb.GroupOrder:
    return pb.GroupOrder(
        kind=order.kind,
        group_id=order.group_id,
        attempt=order.attempt,
        indices=order.indices,
        bundles=[pb.Bundle(resources=amounts) for amounts in order.bundles],
    )


def group_message(state: gw.GroupState) -> pb.GroupState:
    group = state.group
    return pb.GroupState(
        group=pb.Group(
            group_id=group.group_id,
            name=group.name,
            namespace=group.namespace,
            strategy=group.strategy,
            bundles=[
                pb.Bundle(resources=amounts, selector=selector)
                for amounts, selector in zip_longest(group.bundles, group.selectors)
            ],
            detached=group.detached,
            job_id=group.job_id,
            node_id=group.node_id,
        ),
        state=state.state,
        reason=state.reason,
        nodes=state.nodes,
    )


def actor_message(actor: Actor) -> pb.Actor:
    return pb.Actor(**{name: getattr(actor, name) for name in Actor.__slots__})


def job_message(job: ev.Job) -> pb.Job:
    return pb.Job(**{name: getattr(job, name) for name in ev.Job.__slots__})


# --- node's side: messages to dicts ----------------------------------------------------------------


def plain_dict(message: Any) -> dict[str, Any]:
    """A message as a dict with all its fields; enums are numbers, and a Node is flat (`node_dict`)."""
    return {
        field.name: _plain_value(field, getattr(message, field.name)) for field in message.DESCRIPTOR.fields
    }


def plain_list(messages: Iterable[Any]) -> list[dict[str, Any]]:
    return [
        node_dict(message) if isinstance(message, pb.Node) else plain_dict(message) for message in messages
    ]


def node_dict(node: pb.Node) -> dict[str, Any]:
    """A node of the cluster: its fields, with those of its info and its gauges beside them."""
    plain = plain_dict(node)
    info, gauges = plain.pop("info"), plain.pop("gauges")
    return {**plain, **info, **gauges}


def _plain_value(field: Any, value: Any) -> Any:
    if field.message_type is None:
        return list(value) if field.is_repeated else value
    if field.message_type.GetOptions().map_entry:
        return dict(value)
    return plain_list(value) if field.is_repeated else plain_dict(value)

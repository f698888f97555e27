"""What happens to the head (events) and what it answers (effects): the vocabulary of `HeadCore`.

A *stream* is a number that the shell gives to one connection of one node, never used twice: so what
arrives late from an old connection is told apart from the new one. Times are monotonic seconds unless a
name says otherwise; resources are units of 1/10,000; ids are hex for nodes, 16 raw bytes for objects.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

from shoald.head.actors import Actor, ForgetActor, ForgetKill, SaveActor, SaveKill
from shoald.head.gauges import NodeGauges
from shoald.head.groupwords import ForgetGroup, GroupState, News, Order, SaveGroup

ALIVE = "ALIVE"
SUSPECTED = "SUSPECTED"
DEAD = "DEAD"

REFUSED_DEAD = 1
REFUSED_REPLACED = 2
REFUSED_VERSION = 3
REFUSED_INVALID = 4

JOB_RUNNING = "RUNNING"
JOB_FINISHED = "FINISHED"
JOB_FAILED = "FAILED"


@dataclass(frozen=True, slots=True)
class Versions:
    """What must agree between head and node: the protocol, and the Python that pickles values."""

    protocol: int
    python_major: int
    python_minor: int


@dataclass(frozen=True, slots=True)
class NodeInfo:
    """What a node says about itself when it registers; `resources` are its totals."""

    address: str = ""
    hostname: str = ""
    pid: int = 0
    name: str = ""
    resources: Mapping[str, int] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)
    store_capacity_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Demand:
    """`count` leases of `resources` each that wait, and why."""

    resources: Mapping[str, int]
    count: int
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Gauges:
    """How a node is now."""

    available: Mapping[str, int] = field(default_factory=dict)
    store_used_bytes: int = 0
    store_objects: int = 0
    workers: int = 0
    pending: tuple[Demand, ...] = ()


@dataclass(frozen=True, slots=True)
class ObjectBatch:
    """What changed about objects on one node, applied in the order of the fields (see head.proto)."""

    born: tuple[tuple[bytes, int], ...] = ()
    hold: tuple[bytes, ...] = ()
    release: tuple[bytes, ...] = ()
    freed: tuple[bytes, ...] = ()


@dataclass(frozen=True, slots=True)
class Job:
    """One driver's work; times are Unix seconds, `ended_s` is 0 while it runs."""

    job_id: str
    node_id: str = ""
    name: str = ""
    namespace: str = ""
    pid: int = 0
    state: str = JOB_RUNNING
    message: str = ""
    started_s: float = 0.0
    ended_s: float = 0.0


@dataclass(frozen=True, slots=True)
class NodeView:
    """A node as others see it."""

    node_id: str
    incarnation: str
    info: NodeInfo
    state: str
    reason: str
    draining: bool
    silent_ms: int
    gauges: Gauges


# --- events --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class NodeRegisters:
    stream: int
    node_id: str
    incarnation: str
    info: NodeInfo
    versions: Versions


@dataclass(frozen=True, slots=True)
class NodeReports:
    """`gauges` None: as before. `snapshot`: the batch is all there is. `more`: its other parts follow."""

    stream: int
    number: int
    gauges: Gauges | None = None
    objects: ObjectBatch = ObjectBatch()
    snapshot: bool = False
    more: bool = False


@dataclass(frozen=True, slots=True)
class NodeLeaves:
    stream: int
    reason: str


@dataclass(frozen=True, slots=True)
class StreamBreaks:
    """The connection is gone; the node may be well."""

    stream: int


@dataclass(frozen=True, slots=True)
class DrainAsked:
    node_id: str
    reason: str


@dataclass(frozen=True, slots=True)
class JobStarts:
    job: Job


@dataclass(frozen=True, slots=True)
class JobEnds:
    job_id: str
    state: str
    message: str
    ended_s: float


@dataclass(frozen=True, slots=True)
class ActorsReported:
    """What has become of actors that a node hosts; `snapshot`: these are all of them."""

    stream: int
    actors: tuple[Actor, ...]
    snapshot: bool = False


@dataclass(frozen=True, slots=True)
class ActorClaimed:
    """An actor with a name is about to be made; afterwards the table knows whose the name is."""

    actor: Actor


@dataclass(frozen=True, slots=True)
class ActorsKilled:
    """Actors that processes of a node have killed, hosted anywhere: (id, reason)."""

    stream: int
    number: int
    kills: tuple[tuple[bytes, str], ...]


@dataclass(frozen=True, slots=True)
class GroupsHeard:
    """What a node says of placement groups."""

    stream: int
    news: News


@dataclass(frozen=True, slots=True)
class TimePasses:
    """The deadline that the core asked for has come."""


Event: TypeAlias = (
    NodeRegisters
    | NodeReports
    | NodeLeaves
    | StreamBreaks
    | DrainAsked
    | JobStarts
    | JobEnds
    | ActorsReported
    | ActorClaimed
    | ActorsKilled
    | GroupsHeard
    | TimePasses
)

# --- effects -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Registered:
    """`heartbeat_ms`: how often the node has to report at least; 0 leaves it to the node."""

    nodes: tuple[NodeView, ...]
    heartbeat_ms: float = 0.0


@dataclass(frozen=True, slots=True)
class Refused:
    reason: int
    message: str


@dataclass(frozen=True, slots=True)
class NodesChanged:
    nodes: tuple[NodeView, ...]


@dataclass(frozen=True, slots=True)
class Acked:
    number: int


@dataclass(frozen=True, slots=True)
class FreeObjects:
    ids: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class LostObjects:
    ids: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class DrainNode:
    reason: str


@dataclass(frozen=True, slots=True)
class ActorChanged:
    """For a node that asked for this actor."""

    actor: Actor


@dataclass(frozen=True, slots=True)
class ActorGiven:
    """The node is this actor's host from now on."""

    actor: Actor


@dataclass(frozen=True, slots=True)
class KillsAcked:
    number: int


@dataclass(frozen=True, slots=True)
class ActorEnds:
    """The actor was killed: whatever the node has of it, or is given of it, ends.

    Or, if it is not dead, it lives elsewhere: an earlier life of it that the node has ends.
    """

    actor: Actor


@dataclass(frozen=True, slots=True)
class GaugesChanged:
    nodes: tuple[NodeGauges, ...]


@dataclass(frozen=True, slots=True)
class GroupsTold:
    """What the node is to do about placement groups, and how those are that it has to do with."""

    orders: tuple[Order, ...]
    states: tuple[GroupState, ...]


Message: TypeAlias = (
    Registered
    | Refused
    | NodesChanged
    | Acked
    | FreeObjects
    | LostObjects
    | DrainNode
    | ActorChanged
    | ActorGiven
    | KillsAcked
    | ActorEnds
    | GaugesChanged
    | GroupsTold
)


@dataclass(frozen=True, slots=True)
class Send:
    stream: int
    message: Message


@dataclass(frozen=True, slots=True)
class CloseStream:
    """After everything sent before has gone out."""

    stream: int


@dataclass(frozen=True, slots=True)
class SaveNode:
    """Must be durable before the effects behind it are carried out: a fence may not be forgotten."""

    node: NodeView


@dataclass(frozen=True, slots=True)
class ForgetNode:
    node_id: str
    incarnation: str


@dataclass(frozen=True, slots=True)
class SaveJob:
    job: Job


@dataclass(frozen=True, slots=True)
class ForgetJob:
    job_id: str


@dataclass(frozen=True, slots=True)
class Note:
    """A line for the log."""

    text: str


Effect: TypeAlias = (
    Send
    | CloseStream
    | SaveNode
    | ForgetNode
    | SaveJob
    | ForgetJob
    | SaveActor
    | ForgetActor
    | SaveKill
    | ForgetKill
    | SaveGroup
    | ForgetGroup
    | Note
)

"""What nodes and head say to each other about placement groups: the vocabulary of `GroupTable`. Amounts in units of 1/10,000."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

PENDING, CREATED, RESCHEDULING, REMOVED, REFUSED = (
    "PENDING", "CREATED", "RESCHEDULING", "REMOVED", "REFUSED",
)  # fmt: skip
PREPARE, COMMIT, RESERVE, RETURN = "PREPARE", "COMMIT", "RESERVE", "RETURN"
OVER = (REMOVED, REFUSED)

Amounts = Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Group:
    """A placement group as its maker wants it. Amounts in units of 1/10,000.

    Attributes:
        selectors: what labels the node of each bundle must have (`label_selector`); empty if no bundle asks for any.
    """

    group_id: bytes
    name: str = ""
    namespace: str = ""
    strategy: str = "PACK"
    bundles: tuple[Amounts, ...] = ()
    detached: bool = False
    job_id: str = ""
    node_id: str = ""
    selectors: tuple[Mapping[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class GroupState:
    """How a group is: `nodes` has the node of each bundle, "" for one without."""

    group: Group
    state: str
    reason: str
    nodes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Order:
    """What a node is to do about bundles of a group (see head.proto)."""

    kind: str
    group_id: bytes
    attempt: int
    indices: tuple[int, ...]
    bundles: tuple[Amounts, ...] = ()


@dataclass(frozen=True, slots=True)
class Answer:
    """A node's answer to PREPARE or RESERVE."""

    group_id: bytes
    attempt: int
    ok: bool
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Held:
    """The bundles of a group that a node has."""

    group_id: bytes
    prepared: tuple[int, ...] = ()
    committed: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class News:
    """What a node says of groups, in this order (see head.proto)."""

    snapshot: bool = False
    held: tuple[Held, ...] = ()
    made: tuple[Group, ...] = ()
    wanted: tuple[Group, ...] = ()
    answers: tuple[Answer, ...] = ()
    removed: tuple[bytes, ...] = ()
    watched: tuple[bytes, ...] = ()


@dataclass(frozen=True, slots=True)
class TellGroups:
    node_id: str
    orders: tuple[Order, ...]
    states: tuple[GroupState, ...]


@dataclass(frozen=True, slots=True)
class SaveGroup:
    state: GroupState


@dataclass(frozen=True, slots=True)
class ForgetGroup:
    group_id: bytes


GroupEffect = TellGroups | SaveGroup | ForgetGroup


@dataclass(frozen=True, slots=True)
class NodeRoom:
    """A node that bundles may be put on: all that it has, what it said it has free, and its labels, its id among them."""

    total: Amounts
    free: Amounts
    labels: Mapping[str, str] = field(default_factory=dict)

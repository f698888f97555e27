"""Scheduling strategies other than "DEFAULT" and "SPREAD", for the option `scheduling_strategy`. Ray's names.

Each is checked when it is made, and has `to_wire()`: the plain values that node daemons read (shoald.node.constraints).
Conditions on labels are `In`, `NotIn`, `Exists` and `DoesNotExist`; `label_selector` spells them as strings:
"v", "!v", "in(a, b)", "!in(a, b)".
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from shoal.wire.labels import EXISTS, IN, NOT_EXISTS, NOT_IN

if TYPE_CHECKING:
    from shoal.util.placement_group import PlacementGroup

_NODE_ID = re.compile(r"[0-9a-f]{32}")


class _Strategy:
    """Equal, and equally hashed, if they mean the same."""

    def to_wire(self) -> list[Any]:
        """What daemons get: plain values."""
        raise AssertionError("each strategy says what it is")

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and other.to_wire() == self.to_wire()

    def __hash__(self) -> int:
        return hash(repr(self.to_wire()))


class NodeAffinitySchedulingStrategy(_Strategy):
    """Run on one node.

    Args:
        node_id: hexadecimal, as `nodes()` and `get_runtime_context().get_node_id()` give it.
        soft: run elsewhere if the node is gone or too small; otherwise the task then fails.
    """

    def __init__(self, node_id: str, soft: bool) -> None:
        given: Any = node_id
        if not isinstance(given, str):
            raise TypeError(f"node_id needs a node's id in hexadecimal, not {type(given).__name__}")
        if not _NODE_ID.fullmatch(node_id):
            raise ValueError(f"{node_id!r} is no node id: that has 32 hexadecimal digits (see shoal.nodes())")
        if not isinstance(soft, bool):
            raise TypeError(f"soft needs True or False, not {type(soft).__name__}")
        self.node_id = node_id
        self.soft = soft

    def to_wire(self) -> list[Any]:
        return ["affinity", self.node_id, self.soft]

    def __repr__(self) -> str:
        return f"NodeAffinitySchedulingStrategy({self.node_id!r}, soft={self.soft})"


class _Condition:
    """What a label must be."""

    op = ""

    def __init__(self, *values: str) -> None:
        for value in values:
            if not isinstance(value, str):
                raise TypeError(f"{type(self).__name__} needs strings, not {type(value).__name__}")
        if not values:
            raise ValueError(f"{type(self).__name__} needs at least one value")
        self.values = list(values)

    def to_wire(self) -> list[Any]:
        return [self.op, self.values]

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and other.values == self.values

    def __hash__(self) -> int:
        return hash((self.op, *self.values))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(map(repr, self.values))})"


class In(_Condition):
    """The label has one of these values."""

    op = IN


class NotIn(_Condition):
    """The label has none of these values, or is not there."""

    op = NOT_IN


class Exists(_Condition):
    """The label is there."""

    op = EXISTS

    def __init__(self) -> None:
        self.values = []


class DoesNotExist(_Condition):
    """The label is not there."""

    op = NOT_EXISTS

    def __init__(self) -> None:
        self.values = []


class NodeLabelSchedulingStrategy(_Strategy):
    """Run on a node with certain labels.

    Args:
        hard: label → In, NotIn, Exists or DoesNotExist: without such a node the task waits.
        soft: the same, for nodes to be preferred among those.
    """

    def __init__(
        self, hard: Mapping[str, _Condition] | None = None, *, soft: Mapping[str, _Condition] | None = None
    ) -> None:
        self.hard = _conditions("hard", hard)
        self.soft = _conditions("soft", soft)
        if not self.hard and not self.soft:
            raise ValueError("NodeLabelSchedulingStrategy needs at least one condition, hard or soft")

    def to_wire(self) -> list[Any]:
        hard = {key: each.to_wire() for key, each in self.hard.items()}
        return ["labels", hard, {key: each.to_wire() for key, each in self.soft.items()}]

    def __repr__(self) -> str:
        return f"NodeLabelSchedulingStrategy({self.hard!r}, soft={self.soft!r})"


def _conditions(name: str, given: Mapping[Any, Any] | None) -> dict[str, _Condition]:
    if given is None:
        return {}
    if not isinstance(given, Mapping):
        raise TypeError(f"{name} needs a dict of labels and conditions, not {type(given).__name__}")
    for key, condition in given.items():
        if not isinstance(key, str) or not key:
            raise TypeError(f"{name}: a label is a non-empty string, not {key!r}")
        if not isinstance(condition, _Condition):
            raise TypeError(
                f"{name}[{key!r}] needs In, NotIn, Exists or DoesNotExist, not {type(condition).__name__}"
            )
    return dict(given)


class PlacementGroupSchedulingStrategy(_Strategy):
    """Run in a placement group.

    Args:
        placement_group: of `shoal.util.placement_group`.
        placement_group_bundle_index: which of its bundles; -1 for any.
        placement_group_capture_child_tasks: what the task submits runs in the group too, unless it says otherwise.
    """

    def __init__(
        self,
        placement_group: PlacementGroup,
        placement_group_bundle_index: int = -1,
        placement_group_capture_child_tasks: bool | None = None,
    ) -> None:
        from shoal.util.placement_group import PlacementGroup

        if not isinstance(placement_group, PlacementGroup):
            raise TypeError(
                f"placement_group needs what shoal.util.placement_group() returns, not {type(placement_group).__name__}"
            )
        index, count = placement_group_bundle_index, placement_group.bundle_count
        if isinstance(index, bool) or not isinstance(index, int):
            raise TypeError(f"placement_group_bundle_index needs an int, not {type(index).__name__}")
        if not -1 <= index < count:
            raise ValueError(
                f"placement_group_bundle_index={index}: the group has {count} bundles, from 0; -1 is any"
            )
        self.placement_group = placement_group
        self.placement_group_bundle_index = index
        self.placement_group_capture_child_tasks = bool(placement_group_capture_child_tasks)

    def check_fits(self, units: Mapping[str, int]) -> None:
        """Raise ValueError if ``units`` (of 1/10,000) are more than any bundle allowed here has."""
        group, index = self.placement_group, self.placement_group_bundle_index
        bundles = group.bundle_units if index < 0 else group.bundle_units[index : index + 1]
        if not any(all(amount <= b.get(name, 0) for name, amount in units.items()) for b in bundles):
            needs = ", ".join(f"{name} {amount / 10_000:g}" for name, amount in units.items())
            which = "no bundle" if index < 0 else f"not bundle {index}"
            raise ValueError(
                f"{needs} can never run in this placement group: {which} of {group.bundle_specs} has as much"
            )

    def to_wire(self) -> list[Any]:
        return [
            "group",
            self.placement_group.id.binary(),
            self.placement_group_bundle_index,
            self.placement_group_capture_child_tasks,
        ]

    def __repr__(self) -> str:
        return (
            f"PlacementGroupSchedulingStrategy({self.placement_group!r}, {self.placement_group_bundle_index}, "
            f"{self.placement_group_capture_child_tasks})"
        )


__all__ = [
    "DoesNotExist",
    "Exists",
    "In",
    "NodeAffinitySchedulingStrategy",
    "NodeLabelSchedulingStrategy",
    "NotIn",
    "PlacementGroupSchedulingStrategy",
]

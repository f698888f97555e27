"""Placement groups: resources on one or several nodes, reserved together, for tasks and actors that belong together.

    group = placement_group([{"CPU": 1}, {"CPU": 1, "GPU": 1}], strategy="SPREAD")
    shoal.get(group.ready())
    f.options(scheduling_strategy=PlacementGroupSchedulingStrategy(group, 1)).remote()
    remove_placement_group(group)

The bundles are reserved all or none. A group ends when it is removed, or with its job unless `lifetime="detached"`; what runs
in its bundles then ends too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from shoal import session
from shoal.config import load
from shoal.option_checks import gpus, seconds, selector, to_units

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from shoal.refs import ObjectRef

STRATEGIES = ("PACK", "SPREAD", "STRICT_PACK", "STRICT_SPREAD")
_ID_SIZE = 16
_BUNDLES_MAX = load().bundles_max


class PlacementGroupID:
    """The id of a placement group."""

    __slots__ = ("_binary",)

    def __init__(self, binary: bytes) -> None:
        if not isinstance(binary, bytes):
            raise TypeError(f"a placement group's id needs bytes, not {type(binary).__name__}")
        if len(binary) != _ID_SIZE:
            raise ValueError(f"a placement group's id has {_ID_SIZE} bytes, not {len(binary)}")
        self._binary = binary

    @classmethod
    def from_hex(cls, text: str) -> PlacementGroupID:
        """The id that `hex` gave."""
        return cls(bytes.fromhex(text))

    def binary(self) -> bytes:
        """The 16 bytes."""
        return self._binary

    def hex(self) -> str:
        """In hexadecimal."""
        return self._binary.hex()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, PlacementGroupID) and other._binary == self._binary

    def __hash__(self) -> int:
        return hash(self._binary)

    def __reduce__(self) -> Any:
        return PlacementGroupID, (self._binary,)

    def __repr__(self) -> str:
        return f"PlacementGroupID({self._binary.hex()})"


class PlacementGroup:
    """A placement group. Made by `placement_group`; can be passed to tasks and stored.

    Attributes:
        id: its id.
    """

    def __init__(
        self,
        id: PlacementGroupID,  # noqa: A002  Ray's name
        bundle_cache: list[dict[str, float]] | None = None,
    ) -> None:
        self.id = id
        self._bundles = bundle_cache

    @property
    def bundle_specs(self) -> list[dict[str, float]]:
        """What each bundle has."""
        if self._bundles is None:
            row = _row_of(self.id.hex())
            if row is None:
                raise ValueError(f"placement group {self.id.hex()} was removed, or has never existed")
            self._bundles = _specs(row)
        return [dict(bundle) for bundle in self._bundles]

    @property
    def bundle_count(self) -> int:
        """How many bundles it has."""
        return len(self.bundle_specs)

    @property
    def bundle_units(self) -> list[dict[str, int]]:
        """What each bundle has, in units of 1/10,000."""
        return [
            {name: to_units(name, amount) for name, amount in bundle.items()} for bundle in self.bundle_specs
        ]

    @property
    def is_empty(self) -> bool:
        """Whether this is no group at all: what `get_current_placement_group` never returns."""
        return self.id.binary() == bytes(_ID_SIZE)

    def ready(self) -> ObjectRef[PlacementGroup]:
        """A ref that is there, with this group as its value, as soon as all bundles are reserved.

        `get` raises PlacementError if the group is removed before.
        """
        ref: ObjectRef[PlacementGroup] = session.runtime().groups.ready(self)
        return ref

    def wait(self, timeout_seconds: float = 30) -> bool:
        """Block until all bundles are reserved, ``timeout_seconds`` at most (-1: without limit); whether they are."""
        from shoal.api import get, wait

        timeout = None if seconds("timeout_seconds", timeout_seconds) < 0 else timeout_seconds
        ready, _ = wait([self.ready()], timeout=timeout)
        if ready:
            get(ready)
        return bool(ready)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, PlacementGroup) and other.id == self.id

    def __hash__(self) -> int:
        return hash(self.id)

    def __reduce__(self) -> Any:
        return PlacementGroup, (self.id, self._bundles)

    def __repr__(self) -> str:
        return f"PlacementGroup({self.id.hex()}, {self._bundles})"


def placement_group(
    bundles: Sequence[Mapping[str, float]],
    strategy: str = "PACK",
    name: str = "",
    lifetime: str | None = None,
    bundle_label_selector: Sequence[Mapping[str, str]] | None = None,
) -> PlacementGroup:
    """Ask for resources that are reserved together; returns at once, see `PlacementGroup.ready`.

    Args:
        bundles: resources of each bundle, like {"CPU": 1, "memory": 2**30}; a bundle is on one node.
        strategy: "PACK" (as few nodes as possible), "SPREAD" (as many), "STRICT_PACK" (one node), "STRICT_SPREAD" (each bundle
            on another node); the strict ones wait rather than bend.
        name: for `get_placement_group`, unique in the namespace.
        lifetime: "detached": it outlives its driver, until it is removed.
        bundle_label_selector: for each bundle, what labels its node must have, spelled like `label_selector` of tasks:
            [{"zone": "in(a, b)"}, {}]; a group that no node meets waits, like one that is too large.

    Raises ValueError for bundles that are empty, an unknown strategy, a name that is taken, or selectors that make no sense, or
    are not as many as bundles; TypeError for a wrong kind.
    """
    units = _check_bundles(bundles)
    if strategy not in STRATEGIES:
        raise ValueError(f"strategy needs one of {', '.join(STRATEGIES)}, not {strategy!r}")
    if not isinstance(name, str):
        raise TypeError(f"name needs a string, not {type(name).__name__}")
    if lifetime not in (None, "detached"):
        raise ValueError(f'lifetime needs None or "detached", not {lifetime!r}')
    selectors = _check_selectors(bundle_label_selector, len(units))
    runtime = session.current() or session.runtime()
    info = {
        "name": name,
        "namespace": "",
        "strategy": strategy,
        "bundles": units,
        "selectors": selectors,
        "detached": lifetime == "detached",
    }
    group_id = runtime.groups.create(info)
    return PlacementGroup(PlacementGroupID(group_id), [dict(bundle) for bundle in bundles])


def _check_bundles(bundles: Any) -> list[dict[str, int]]:
    if not isinstance(bundles, list | tuple):
        raise TypeError(f"bundles needs a list of dicts, not {type(bundles).__name__}")
    if not bundles:
        raise ValueError("a placement group needs at least one bundle")
    if len(bundles) > _BUNDLES_MAX:
        raise ValueError(f"{len(bundles)} bundles are more than the {_BUNDLES_MAX} of bundles_max")
    units = []
    for number, bundle in enumerate(bundles):
        if not hasattr(bundle, "items") or not all(isinstance(key, str) for key in bundle):
            raise TypeError(f"bundles[{number}] needs a dict of resource names and amounts, not {bundle!r}")
        amounts = {}
        for key, amount in bundle.items():
            name = f"bundles[{number}][{key!r}]"
            amounts[key] = to_units(name, gpus(name, amount) if key == "GPU" else amount)
        amounts = {key: amount for key, amount in amounts.items() if amount}
        if not amounts:
            raise ValueError(f"bundles[{number}] = {bundle!r} asks for nothing: a bundle needs some resource")
        units.append(amounts)
    return units


def _check_selectors(given: Any, count: int) -> list[dict[str, str]]:
    if given is None:
        return []
    if not isinstance(given, list | tuple):
        raise TypeError(f"bundle_label_selector needs a list of dicts, not {type(given).__name__}")
    if len(given) != count:
        raise ValueError(
            f"bundle_label_selector has {len(given)} selectors for {count} bundles; {{}} is no condition"
        )
    found = [selector(f"bundle_label_selector[{number}]", each) for number, each in enumerate(given)]
    return found if any(found) else []


def remove_placement_group(placement_group: PlacementGroup) -> None:
    """Give a group up. Its resources are free again when the tasks and actors in it, which end now, are gone."""
    _check_group(placement_group)
    session.runtime().groups.remove(placement_group.id.binary())


def _check_group(given: object) -> None:
    if not isinstance(given, PlacementGroup):
        raise TypeError(
            f"placement_group needs what shoal.util.placement_group() returns, not {type(given).__name__}"
        )


def get_placement_group(placement_group_name: str) -> PlacementGroup:
    """The group of that name in this job's namespace; raises ValueError if there is none, TypeError for what is no name."""
    if not isinstance(placement_group_name, str):
        raise TypeError(
            f"get_placement_group needs the name of a group, a string, not {type(placement_group_name).__name__}"
        )
    if not placement_group_name:
        raise ValueError("a placement group is found by its name, a string that is not empty")
    try:
        row = session.runtime().request("group", {"name": placement_group_name, "namespace": ""})
    except RuntimeError as error:
        raise ValueError(str(error)) from None
    return PlacementGroup(PlacementGroupID.from_hex(row["group_id"]), _specs(row))


def placement_group_table(placement_group: PlacementGroup | None = None) -> dict[str, Any]:
    """How a group is, or all of them by id: name, bundles, the node of each bundle, strategy, state and why."""
    if placement_group is not None:
        _check_group(placement_group)
        row = _row_of(placement_group.id.hex())
        return _table_row(row) if row is not None else {}
    rows = session.runtime().request("groups", {})["rows"]
    return {row["group_id"]: _table_row(row) for row in rows}


def _table_row(row: dict[str, Any]) -> dict[str, Any]:
    return {
        "placement_group_id": row["group_id"],
        "name": row["name"],
        "bundles": dict(enumerate(_specs(row))),
        "bundles_to_node_id": dict(enumerate(row["nodes"])),
        "strategy": row["strategy"],
        "state": row["state"],
        "stats": {"scheduling_state": row["reason"] or row["state"]},
    }


def get_current_placement_group() -> PlacementGroup | None:
    """The group that this task or actor runs in; None outside of one."""
    runtime = session.current()
    group = runtime.identity.group if runtime is not None else None
    return PlacementGroup(PlacementGroupID(group[0])) if group is not None else None


def _row_of(group_id: str) -> dict[str, Any] | None:
    rows = session.runtime().request("groups", {})["rows"]
    return next((row for row in rows if row["group_id"] == group_id), None)


def _specs(row: dict[str, Any]) -> list[dict[str, float]]:
    return [dict(amounts) for amounts in row["bundles"]]


__all__ = [
    "PlacementGroup",
    "get_current_placement_group",
    "get_placement_group",
    "placement_group",
    "placement_group_table",
    "remove_placement_group",
]

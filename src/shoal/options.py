"""Options of tasks and actors: one frozen object each, checked when it is made, cheap to vary.

`merged(**overrides)` is what `.options(...)` does; it is on the hot path, so results are remembered per
object, and only what is overridden is checked again. What a lease depends on is in `shape_key()` and
`resource_units()`, made once.

None means that an option is not given: it has its default (`num_returns`: it keeps what it had, since the
default depends on the function). Ray's other names are accepted: some mean the same as one of ours, some
(`IGNORED`) have no effect here.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Hashable
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar, Self

from shoal import option_checks as checks
from shoal.config import load
from shoal.option_checks import Check
from shoal.suggest import UnknownNameError
from shoal.wire import labels

# Amount of accelerator_type:X that a task asks for: the kind of machine, not a share of it.
_ACCELERATOR_AMOUNT = 0.001
_CACHE_MAX = load().options_cache_max
_LEASED_BY = frozenset(
    {
        "num_cpus",
        "num_gpus",
        "memory",
        "resources",
        "accelerator_type",
        "runtime_env",
        "scheduling_strategy",
        "label_selector",
    }
)
_COMMON: dict[str, Check] = {
    "num_cpus": checks.amount,
    "num_gpus": checks.gpus,
    "memory": checks.amount,
    "resources": checks.resources,
    "name": checks.text,
    "runtime_env": checks.environment,
    "scheduling_strategy": checks.strategy,
    "label_selector": checks.selector,
    "accelerator_type": checks.text,
    "enable_task_events": checks.flag,
}
# Accepted for Ray's sake, without an effect here.
IGNORED: dict[str, Check] = {
    "_labels": checks.texts,
    "_metadata": checks.mapping,
    "_num_objects_per_yield": checks.whole(1),
    "object_store_memory": checks.whole(0),
    "enable_tensor_transport": checks.flag,
    "allow_out_of_order_execution": checks.flag,
    "fallback_strategy": lambda name, value: value,  # nothing to fall back from
    "placement_group": checks.one_of("default"),  # a group goes into scheduling_strategy
    "placement_group_bundle_index": checks.whole(-1),
    "placement_group_capture_child_tasks": checks.flag,
}
_ALIASES = {
    "_generator_backpressure_num_objects": "generator_backpressure_num_objects",
    "_actor_generator_backpressure_num_objects": "generator_backpressure_num_objects",
}


@dataclass(frozen=True)
class _Options(ABC):
    """What tasks and actors have in common. Amounts: CPUs and GPUs as numbers, `memory` in bytes.

    `scheduling_strategy` None: "DEFAULT", or the placement group of the task that submits, if that captures its children.
    """

    num_gpus: float = 0
    memory: float = 0
    resources: dict[str, float] = field(default_factory=dict)
    name: str | None = None
    runtime_env: dict[str, Any] | None = None
    scheduling_strategy: Any = None
    label_selector: dict[str, str] = field(default_factory=dict)
    accelerator_type: str | None = None
    enable_task_events: bool = True
    generator_backpressure_num_objects: int | None = None

    what: ClassVar[str]
    known: ClassVar[dict[str, Check]]
    defaults: ClassVar[dict[str, Any]]

    def __post_init__(self) -> None:
        given = {each.name: self.__dict__[each.name] for each in fields(self)}
        changed = {name: value for name, value in given.items() if value is not self.defaults[name]}
        self.__dict__.update(self._checked(changed))
        self._check_together()

    def merged(self, **overrides: Any) -> Self:
        """These options with some changed.

        Raises ValueError for an unknown name (with the nearest known one) or a value out of range, TypeError
        for one of the wrong kind. These options stay as they are.
        """
        if not overrides:
            return self
        try:
            # The types too: True and 1 are equal, and only one of them is right.
            key = (*overrides.items(), *map(type, overrides.values()))
            found: Self | None = self._remembered().get(key)
        except TypeError:  # a dict or list among the values
            return self._merge(overrides)
        if found is None:
            found = self._merge(overrides)
            remembered = self._remembered()
            if len(remembered) >= _CACHE_MAX:
                remembered.clear()
            remembered[key] = found
        return found

    def _remembered(self) -> dict[Any, Self]:
        cache: dict[Any, Self] | None = self.__dict__.get("_merged")
        if cache is None:
            cache = self.__dict__["_merged"] = {}
        return cache

    def _merge(self, overrides: dict[str, Any]) -> Self:
        changes = self._checked(overrides)
        made = object.__new__(type(self))
        state = made.__dict__
        state.update(self.__dict__)
        state.pop("_merged", None)
        state.update(changes)
        if not _LEASED_BY.isdisjoint(changes):
            state.pop("_units", None)
            state.pop("_shape", None)
        made._check_together()
        return made

    @classmethod
    def _checked(cls, given: dict[str, Any]) -> dict[str, Any]:
        """The values to keep, under our names."""
        kept = {}
        for name, value in given.items():
            own_name = _ALIASES.get(name, name)
            check = cls.known.get(own_name)
            if check is None:
                cls._check_ignored(name, value)
            elif value is not None:
                kept[own_name] = check(name, value)
            elif own_name != "num_returns":
                kept[own_name] = cls.defaults[own_name]
        return kept

    @classmethod
    def _check_ignored(cls, name: str, value: Any) -> None:
        if name not in IGNORED:
            raise UnknownNameError(f"option of {cls.what}", name, [*cls.known, *IGNORED])
        if name == "placement_group" and value not in (None, "default"):
            raise ValueError(
                "use scheduling_strategy=PlacementGroupSchedulingStrategy(...) instead of placement_group"
            )
        if value is not None:
            IGNORED[name](name, value)

    def _check_together(self) -> None:
        """Raise ValueError for options that do not go with each other."""
        check_fits = getattr(self.scheduling_strategy, "check_fits", None)
        if check_fits is not None:
            if self.label_selector:
                raise ValueError("label_selector has no effect in a placement group: use one of them")
            check_fits(self._group_units())

    def _group_units(self) -> dict[str, int]:
        """What a bundle of a placement group must have."""
        return self.resource_units()

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if not name.startswith("_")}

    # --- what a lease depends on ---

    def resource_units(self) -> dict[str, int]:
        """What running takes, in units of 1/10,000, without zeros: {"CPU": 10000}. Not to be changed."""
        units: dict[str, int] | None = self.__dict__.get("_units")
        if units is None:
            units = self.__dict__["_units"] = self._units_with_cpus(self._cpus_to_run())
        return units

    def shape_key(self) -> Hashable:
        """Equal for options that can share leases: resources, environment, strategy, labels."""
        key: Hashable = self.__dict__.get("_shape")
        if key is None:
            key = self.__dict__["_shape"] = (
                tuple(sorted(self.resource_units().items())),
                checks.freeze(self.runtime_env) if self.runtime_env else None,
                checks.freeze(self.constraints()),
            )
        return key

    def constraints(self) -> dict[str, Any]:
        """Where it may run, as daemons read it (shoald.node.constraints): {} for anywhere."""
        strategy, found = self.scheduling_strategy, {}
        if strategy not in (None, "DEFAULT"):
            found["strategy"] = strategy if isinstance(strategy, str) else strategy.to_wire()
        if self.label_selector:
            found["labels"] = labels.parse(self.label_selector)
        return found

    @abstractmethod
    def _cpus_to_run(self) -> float:
        """The CPUs that a lease for it takes."""

    def _units_with_cpus(self, cpus: float) -> dict[str, int]:
        amounts = {"CPU": cpus, "GPU": self.num_gpus, "memory": self.memory, **self.resources}
        if self.accelerator_type:
            amounts[f"accelerator_type:{self.accelerator_type}"] = _ACCELERATOR_AMOUNT
        units = {name: checks.to_units(name, amount) for name, amount in amounts.items()}
        return {name: amount for name, amount in units.items() if amount}


@dataclass(frozen=True)
class TaskOptions(_Options):
    """How a task is to be run.

    Attributes:
        num_returns: how many refs a call gives; "streaming" (or "dynamic"): a generator of refs.
        max_retries: runs after the first that may be lost to crashes; -1 for no limit.
        retry_exceptions: whether exceptions of the task count as well: all, or these classes.
        max_calls: calls of this function after which its worker is replaced; 0 for never.
        generator_backpressure_num_objects: unread items before the generator waits; None as configured.
    """

    num_cpus: float = 1
    num_returns: int | str = 1
    max_retries: int = 3
    retry_exceptions: bool | tuple[type[BaseException], ...] = False
    max_calls: int = 0

    what = "a task"
    known: ClassVar = {
        **_COMMON,
        "num_returns": checks.returns,
        "max_retries": checks.whole(0, also=-1),
        "retry_exceptions": checks.retriable,
        "max_calls": checks.whole(0),
        "generator_backpressure_num_objects": checks.backpressure,
    }

    def _cpus_to_run(self) -> float:
        return self.num_cpus

    def retries_on(self, error: BaseException | None) -> bool:
        """Whether an exception that the task raised is a reason to run it again (while retries are left)."""
        wanted = self.retry_exceptions
        return wanted if isinstance(wanted, bool) else isinstance(error, wanted)


@dataclass(frozen=True)
class ActorOptions(_Options):
    """How an actor is to be made and run.

    Attributes:
        num_cpus: None: 1 to be placed, 0 to run.
        max_restarts, max_task_retries: -1 for no limit. An actor with max_restarts moves when its node drains (`shoal drain`), or
            restarts elsewhere when a node that drained goes; that does not count.
        max_concurrency: calls at once; None: 1, and 1000 for an actor with async methods.
        max_pending_calls: calls of one handle that may wait; -1 for no limit.
        lifetime: "detached": it outlives its handles and its driver.
        get_if_exists: with a name: the actor of that name if there is one.
    """

    num_cpus: float | None = None
    max_restarts: int = 0
    max_task_retries: int = 0
    max_concurrency: int | None = None
    concurrency_groups: dict[str, int] = field(default_factory=dict)
    max_pending_calls: int = -1
    namespace: str | None = None
    lifetime: str | None = None
    get_if_exists: bool = False

    what = "an actor"
    known: ClassVar = {
        **_COMMON,
        "max_restarts": checks.whole(0, also=-1),
        "max_task_retries": checks.whole(0, also=-1),
        "max_concurrency": checks.whole(1),
        "concurrency_groups": checks.groups,
        "max_pending_calls": checks.whole(0, also=-1),
        "namespace": checks.text,
        "lifetime": checks.one_of("detached", "non_detached"),
        "get_if_exists": checks.flag,
        "generator_backpressure_num_objects": checks.backpressure,
    }

    def _check_together(self) -> None:
        super()._check_together()
        if self.get_if_exists and not self.name:
            raise ValueError("get_if_exists needs a name: which actor should it get?")

    def placement_units(self) -> dict[str, int]:
        """What a node must have free to be chosen, in units of 1/10,000."""
        return self._units_with_cpus(1 if self.num_cpus is None else self.num_cpus)

    def _group_units(self) -> dict[str, int]:
        return self.placement_units() if self.num_cpus is not None else self.resource_units()

    def _cpus_to_run(self) -> float:
        return self.num_cpus or 0


for _cls in (TaskOptions, ActorOptions):
    _cls.defaults = {
        each.name: {} if each.name in {"resources", "label_selector", "concurrency_groups"} else each.default
        for each in fields(_cls)
    }

"""How the public types are used: mypy reads this file, nothing runs it.

A line that mypy is to reject carries the error it is to give; an ignore that nothing needs is an error too.
"""

from typing import assert_type

import numpy as np
import numpy.typing as npt

import shoal
from shoal import ObjectRef
from shoal.util import placement_group
from shoal.util.placement_group import PlacementGroup
from shoal.util.scheduling_strategies import (
    In,
    NodeAffinitySchedulingStrategy,
    NodeLabelSchedulingStrategy,
    PlacementGroupSchedulingStrategy,
)

Array = npt.NDArray[np.float64]


@shoal.remote
def add(x: int, y: int = 1) -> int:
    """Bare decorator."""
    return x + y


@shoal.remote(num_cpus=2, max_retries=0)
def mean(array: Array) -> float:
    """Decorator with options."""
    return float(array.mean())


# The function keeps its parameters and its result.
assert_type(add.underlying(1, y=2), int)
add.underlying("one")  # type: ignore[arg-type]
add.underlying(1, 2, 3)  # type: ignore[call-arg]
assert_type(add.remote(1, 2), ObjectRef[int])
assert_type(add.remote(1, y=2), ObjectRef[int])
assert_type(add.options(num_cpus=0.5, name="sum").remote(1), ObjectRef[int])
assert_type(mean.remote(np.zeros(3)), ObjectRef[float])
assert_type(shoal.remote(len).remote([1]), ObjectRef[int])

# A ref stands for its value, as an argument.
array_ref: ObjectRef[Array] = shoal.put(np.zeros(3))
assert_type(mean.remote(array_ref), ObjectRef[float])
assert_type(add.remote(add.remote(1), y=add.remote(2)), ObjectRef[int])


# Actors. As a decorator mypy takes the class for itself: it does not follow decorators of classes.
class Plain:
    """A class."""


Remote = shoal.remote(Plain)
assert_type(Remote, shoal.ActorClass[Plain])
assert_type(shoal.remote(num_cpus=0)(Plain), shoal.ActorClass[Plain])
assert_type(Remote.remote(), shoal.ActorHandle)
assert_type(Remote.options(name="plain").remote(), shoal.ActorHandle)
shoal.kill(shoal.get_actor("plain"))

# Objects.
assert_type(shoal.put("text"), ObjectRef[str])
assert_type(shoal.get(shoal.put("text")), str)
assert_type(shoal.get([add.remote(1), add.remote(2)]), list[int])
assert_type(shoal.get(add.remote(1), timeout=0.5), int)
ready, not_ready = shoal.wait([add.remote(1)], num_returns=1, timeout=0)
shoal.get(ready + not_ready)


async def awaited() -> int:
    """A ref can be awaited."""
    assert_type(await add.remote(1), int)
    return await add.remote(1)


assert_type(add.remote(1).future().result(), int)
assert_type(add.remote(1).hex(), str)
assert_type(add.remote(1).binary(), bytes)

# Placement.
group = placement_group([{"CPU": 1}], strategy="SPREAD")
assert_type(shoal.get(group.ready()), PlacementGroup)
assert_type(group.wait(1), bool)
assert_type(
    add.options(scheduling_strategy=PlacementGroupSchedulingStrategy(group, 0)).remote(1), ObjectRef[int]
)
NodeAffinitySchedulingStrategy(3, soft=True)  # type: ignore[arg-type]
NodeLabelSchedulingStrategy({"zone": In("a")}, soft={"disk": "ssd"})  # type: ignore[dict-item]

# What is no ref.
shoal.get(3)  # type: ignore[call-overload]
shoal.wait(add.remote(1))  # type: ignore[arg-type]
text: ObjectRef[str] = add.remote(1)  # type: ignore[assignment]
add.option(num_cpus=1)  # type: ignore[attr-defined]

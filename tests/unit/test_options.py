"""Options of tasks and actors: what is accepted, what is refused and how, what leases depend on."""

import pickle
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal import options
from shoal.option_checks import UNITS, freeze, to_units
from shoal.options import ActorOptions, TaskOptions
from shoal.suggest import UnknownNameError, nearest


class Affinity:
    def __init__(self, node):
        self.node = node

    def to_wire(self):
        return ["affinity", self.node]


def test_defaults_are_those_of_the_documentation():
    task = TaskOptions()
    assert (task.num_cpus, task.num_gpus, task.memory, task.resources) == (1, 0, 0, {})
    assert (task.num_returns, task.max_retries, task.retry_exceptions, task.max_calls) == (1, 3, False, 0)
    assert (task.name, task.runtime_env, task.scheduling_strategy) == (None, None, None)
    actor = ActorOptions()
    assert (actor.max_restarts, actor.max_task_retries, actor.max_concurrency) == (0, 0, None)
    assert (actor.max_pending_calls, actor.lifetime, actor.get_if_exists) == (-1, None, False)
    assert actor.placement_units() == {"CPU": UNITS}
    assert actor.resource_units() == {}
    assert ActorOptions(num_cpus=2).resource_units() == {"CPU": 2 * UNITS}


@pytest.mark.parametrize(
    ("cls", "name", "value", "kind"),
    [
        (TaskOptions, "num_cpus", "1", TypeError),
        (TaskOptions, "num_cpus", True, TypeError),
        (TaskOptions, "num_cpus", -1, ValueError),
        (TaskOptions, "num_cpus", 0.00001, ValueError),
        (TaskOptions, "num_cpus", float("nan"), ValueError),
        (TaskOptions, "num_gpus", float("inf"), ValueError),
        (TaskOptions, "num_gpus", 1.5, ValueError),
        (ActorOptions, "num_gpus", 2.0001, ValueError),
        (TaskOptions, "memory", 2**60, ValueError),
        (TaskOptions, "memory", [1], TypeError),
        (TaskOptions, "resources", {"CPU": 1}, ValueError),
        (TaskOptions, "resources", {"": 1}, TypeError),
        (TaskOptions, "resources", {"a": "1"}, TypeError),
        (TaskOptions, "resources", {"a": 1e-5}, ValueError),
        (TaskOptions, "resources", ["a"], TypeError),
        (TaskOptions, "num_returns", -1, ValueError),
        (TaskOptions, "num_returns", 1.0, TypeError),
        (TaskOptions, "num_returns", True, TypeError),
        (TaskOptions, "num_returns", "many", ValueError),
        (TaskOptions, "max_retries", -2, ValueError),
        (TaskOptions, "num_returns", 10**12, ValueError),
        (TaskOptions, "max_retries", "3", TypeError),
        (TaskOptions, "retry_exceptions", 1, TypeError),
        (TaskOptions, "retry_exceptions", [3], TypeError),
        (TaskOptions, "retry_exceptions", [int], TypeError),
        (TaskOptions, "retry_exceptions", ValueError, TypeError),
        (TaskOptions, "max_calls", -1, ValueError),
        (TaskOptions, "name", 3, TypeError),
        (TaskOptions, "name", "", ValueError),
        (TaskOptions, "runtime_env", "env", TypeError),
        (TaskOptions, "runtime_env", {1: 2}, TypeError),
        (TaskOptions, "scheduling_strategy", "PACK", ValueError),
        (TaskOptions, "scheduling_strategy", 3, TypeError),
        (TaskOptions, "label_selector", {"a": 1}, TypeError),
        (TaskOptions, "enable_task_events", 1, TypeError),
        (TaskOptions, "generator_backpressure_num_objects", 0, ValueError),
        (ActorOptions, "max_restarts", -2, ValueError),
        (ActorOptions, "max_concurrency", 0, ValueError),
        (ActorOptions, "lifetime", "forever", ValueError),
        (ActorOptions, "lifetime", 3, TypeError),
        (ActorOptions, "concurrency_groups", {"io": 0}, ValueError),
        (ActorOptions, "concurrency_groups", 3, TypeError),
        (ActorOptions, "get_if_exists", True, ValueError),
    ],
)
def test_bad_values_are_refused_by_name(cls, name, value, kind):
    for make in (lambda: cls().merged(**{name: value}), lambda: cls(**{name: value})):
        with pytest.raises(kind, match=name):
            make()


@pytest.mark.parametrize(
    ("given_name", "meant"),
    [
        ("num_cpu", "num_cpus"),
        ("max_retry", "max_retries"),
        ("numreturns", "num_returns"),
        ("retry_exception", "retry_exceptions"),
        ("generator_backpressure", "generator_backpressure_num_objects"),
        ("Name", "name"),
    ],
)
def test_an_unknown_option_names_the_nearest(given_name, meant):
    with pytest.raises(ValueError, match=f"did you mean '{meant}'"):
        TaskOptions().merged(**{given_name: 1})


def test_of_very_many_known_names_not_all_are_listed():
    text = str(UnknownNameError("setting", "zzz", [f"name{number:03}" for number in range(300)]))
    assert text.endswith("name039 and 260 more")


def test_an_unknown_option_like_no_other_lists_them():
    with pytest.raises(ValueError, match=r"known are .*num_cpus"):
        TaskOptions().merged(zzz=1)
    with pytest.raises(TypeError):  # what Python raises for unknown keywords
        TaskOptions().merged(zzz=1)
    with pytest.raises(ValueError, match="an actor"):
        ActorOptions().merged(max_retries=1)
    assert nearest("zzz", ["abc"]) is None


def test_none_is_the_default_and_leaves_num_returns():
    varied = TaskOptions(num_returns="streaming", num_cpus=4, name="x", max_retries=0)
    same = varied.merged(num_returns=None, num_cpus=None, name=None, max_retries=None)
    assert (same.num_returns, same.num_cpus, same.name, same.max_retries) == ("streaming", 1, None, 3)


def test_merging_leaves_the_original():
    base = TaskOptions(num_cpus=2)
    varied = base.merged(num_cpus=0.5, resources={"disk": 0.0001}, num_returns=3)
    assert (base.num_cpus, base.resources, base.num_returns) == (2, {}, 1)
    assert varied.resource_units() == {"CPU": 5000, "disk": 1}
    assert base.resource_units() == {"CPU": 20000}
    assert varied.merged() is varied
    with pytest.raises(AttributeError):
        varied.num_cpus = 3


def test_what_is_given_is_copied():
    environment = {"env_vars": {"A": "1"}}
    wanted = {"disk": 1}
    task = TaskOptions(runtime_env=environment, resources=wanted)
    before = task.shape_key()
    environment["env_vars"]["A"] = "2"
    wanted["disk"] = 5
    assert task.merged(name="x").shape_key() == before
    assert task.resources == {"disk": 1}


def test_repeated_options_are_remembered_within_a_bound(monkeypatch):
    base = TaskOptions()
    assert base.merged(num_cpus=2) is base.merged(num_cpus=2)
    assert base.merged(num_cpus=2, name="a") is not base.merged(num_cpus=2, name="b")
    assert base.merged(max_calls=1).max_calls == 1
    with pytest.raises(TypeError):
        base.merged(max_calls=True)
    monkeypatch.setattr(options, "_CACHE_MAX", 4)
    for number in range(20):
        base.merged(name=f"task {number}")
    assert len(base._remembered()) <= 5


def test_shape_keys_tell_what_can_share_leases():
    base = TaskOptions()
    shared = base.merged(num_returns=2, name="x", max_retries=0, retry_exceptions=True, max_calls=3)
    assert shared.shape_key() == base.shape_key()
    different = [
        {"num_cpus": 2},
        {"memory": 100},
        {"resources": {"a": 1}},
        {"runtime_env": {"env_vars": {"A": "1"}}},
        {"runtime_env": {"env_vars": {"A": "2"}}},
        {"scheduling_strategy": "SPREAD"},
        {"scheduling_strategy": Affinity("n1")},
        {"scheduling_strategy": Affinity("n2")},
        {"label_selector": {"zone": "a"}},
        {"accelerator_type": "A100"},
    ]
    keys = [base.shape_key(), *(base.merged(**each).shape_key() for each in different)]
    assert len(set(keys)) == len(keys)
    assert keys == [base.shape_key(), *(TaskOptions(**each).shape_key() for each in different)]


def test_retries_on():
    assert not TaskOptions().retries_on(ValueError())
    assert TaskOptions(retry_exceptions=True).retries_on(ValueError())
    some = TaskOptions(retry_exceptions=[KeyError, OSError])
    assert some.retries_on(FileNotFoundError())
    assert not some.retries_on(ValueError())
    assert not some.retries_on(None)


def test_names_of_ray_are_accepted():
    task = TaskOptions().merged(
        _metadata={"a": 1},
        _labels={"a": "b"},
        object_store_memory=100,
        placement_group="default",
        placement_group_bundle_index=-1,
        placement_group_capture_child_tasks=None,
        _generator_backpressure_num_objects=5,
        enable_task_events=False,
        max_retries=-1,
    )
    assert task.generator_backpressure_num_objects == 5
    assert task.merged(generator_backpressure_num_objects=-1).generator_backpressure_num_objects is None
    assert task.max_retries == -1
    assert not task.enable_task_events
    with pytest.raises(ValueError, match="PlacementGroupSchedulingStrategy"):
        TaskOptions().merged(placement_group=object())
    actor = ActorOptions().merged(
        name="a", get_if_exists=True, lifetime="detached", namespace="n", concurrency_groups={"io": 2}
    )
    assert actor.concurrency_groups == {"io": 2}


def test_options_pickle():
    task = TaskOptions(num_cpus=0.5, retry_exceptions=[ValueError])
    task.shape_key()
    task.merged(name="x")
    copied = pickle.loads(pickle.dumps(task))
    assert copied == task
    assert copied.shape_key() == task.shape_key()


def test_numbers_of_other_kinds():
    assert to_units("x", np.float32(0.5)) == 5000
    assert to_units("x", np.int64(3)) == 30000
    assert to_units("x", Fraction(1, 4)) == 2500
    assert to_units("x", 1 / 3) == to_units("x", Fraction(1, 3)) == 3333
    assert to_units("x", 2 / 3) == 6666
    assert to_units("x", 1.99999) == 19999
    assert TaskOptions(num_returns=np.int64(3)).num_returns == 3
    with pytest.raises(TypeError):
        to_units("x", None)
    with pytest.raises(TypeError):
        to_units("x", np.array([1, 2]))


@given(st.integers(0, 10**13))
def test_every_multiple_of_the_granularity_is_exact(units):
    assert to_units("x", units / UNITS) == units


@given(
    st.recursive(st.integers() | st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner))
)
def test_frozen_values_are_hashable_and_equal_for_equal_values(value):
    assert hash(freeze(value)) == hash(freeze(pickle.loads(pickle.dumps(value))))
    assert freeze(value) == freeze(pickle.loads(pickle.dumps(value)))

"""Plans of graphs give what Dask gives, step by step in one process; and what becomes one task."""

import operator

import dask
import numpy as np
import pytest
from dask._task_spec import Alias, DataNode, Dict, GraphNode, List, Task, TaskRef, fuse_linear_task_spec
from hypothesis import given
from hypothesis import strategies as st

from shoal.util.dask.plan import Constant, make_plan
from shoal.util.programs import Encoder, run


def nothing_large(value):
    return False


def perform(graph, requested, is_large=nothing_large, options_of=None):
    """(values of the requested keys, the plan), with each step's program run here; checks the plan's invariants."""
    plan = make_plan(graph, requested, is_large, options_of)
    stored = []
    encoder = Encoder(lambda value: stored.append(value) or f"ref {len(stored)}")
    values = {}
    uses = dict(plan.uses)
    kept = set(plan.results.values())
    for step in plan.steps:
        assert len(set(step.needs)) == len(step.needs)
        needed = [value.value if isinstance(value, Constant) else values[value] for value in step.needs]
        program, functions = encoder.encode(step.program, len(needed))
        needed += [stored[int(name.removeprefix("ref ")) - 1] for name in functions]
        assert step.key not in values
        values[step.key] = run(program, *needed)
        for value in step.needs:
            uses[value] -= 1
            if not uses[value] and value not in kept:
                values.pop(value, None)
    assert not any(uses.values())
    assert set(values) == {value for value in kept if not isinstance(value, Constant)}, (
        "what nobody needs has gone"
    )
    results = plan.results.items()
    return {
        key: value.value if isinstance(value, Constant) else values[value] for key, value in results
    }, plan


def increment(number):
    return number + 1


def total(*parts, extra=0):
    return extra + sum(part if isinstance(part, int) else total(*part) for part in parts)


@st.composite
def graphs(draw):
    """(graph, requested keys): tasks with arguments of all kinds, that refer to what is before them."""
    graph = {}
    keys = []
    for number in range(draw(st.integers(1, 12))):
        key = draw(st.sampled_from([f"key-{number}", ("key", number)]))
        argument = st.integers(0, 9)
        if keys:
            before = st.sampled_from(keys)
            ref = before.map(TaskRef)
            lists = st.lists(ref, max_size=3).map(lambda refs: List(*refs, 3))
            argument = st.one_of(argument, ref, lists, before.map(Alias))
        kind = draw(st.sampled_from(["task", "data", "chain", "nested", "keyword"] + ["alias"] * bool(keys)))
        if kind == "data":
            graph[key] = DataNode(key, draw(st.integers(0, 9)))
        elif kind == "alias":
            graph[key] = Alias(key, draw(before))
        elif kind == "chain" and keys:
            graph[key] = (
                Task(key, increment, TaskRef(keys[-1])) if not isinstance(graph[keys[-1]], Alias) else 7
            )
        elif kind == "nested":
            graph[key] = Task(key, total, Task(None, total, draw(argument), 1), draw(argument))
        elif kind == "keyword" and keys:
            graph[key] = Task(key, total, draw(argument), extra=TaskRef(draw(before)))
        else:
            graph[key] = Task(key, total, *draw(st.lists(argument, max_size=4)))
        keys.append(key)
    return graph, draw(st.lists(st.sampled_from(keys), min_size=1, unique=True))


@given(graphs(), st.booleans(), st.booleans())
def test_gives_what_dask_gives(made, fused, large):
    graph, requested = made
    expected = dict(zip(requested, dask.get(graph, requested), strict=True))
    if fused and all(isinstance(node, GraphNode) for node in graph.values()):
        graph = fuse_linear_task_spec(graph, set(requested))
    values, _ = perform(graph, requested, lambda value: large and isinstance(value, int))
    assert values == expected


def test_old_style_graphs():
    graph = {
        "one": 1,
        "also": "one",
        "two": (increment, "one"),
        "deep": (sum, ["also", (increment, "two"), [0, "two"][1]]),
        ("part", 0): (operator.mul, "deep", 10),
        "data": [1, "text", {"a": 2}],
    }
    requested = ["deep", ("part", 0), "also", "data"]
    values, plan = perform(graph, requested)
    assert tuple(values[key] for key in requested) == dask.get(graph, requested)
    assert [step.keys for step in plan.steps] == [("two", "deep"), (("part", 0),)]


def test_dicts_and_keywords():
    graph = {
        "a": DataNode("a", 5),
        "b": Task("b", dict, x=TaskRef("a"), y=Dict({"z": TaskRef("a"), "plain": 1})),
    }
    assert perform(graph, ["b"])[0] == {"b": {"x": 5, "y": {"z": 5, "plain": 1}}}


def test_a_chain_is_one_step_unless_others_need_its_parts():
    graph = {0: Task(0, int, 1)} | {n: Task(n, increment, TaskRef(n - 1)) for n in range(1, 10)}
    values, plan = perform(graph, [9])
    assert values == {9: 10}
    assert [step.keys for step in plan.steps] == [tuple(range(10))]
    assert [step.keys for step in perform(graph, [4, 9])[1].steps] == [(0, 1, 2, 3, 4), (5, 6, 7, 8, 9)]
    graph["side"] = Task("side", increment, TaskRef(6))
    plan = perform(graph, [9, "side"])[1]
    assert sorted(step.keys for step in plan.steps if "side" not in step.keys) == [tuple(range(7)), (7, 8, 9)]


def test_a_chain_through_an_alias():
    graph = {
        "a": Task("a", int, 1),
        "b": Alias("b", "a"),
        "c": Task("c", increment, TaskRef("b")),
    }
    values, plan = perform(graph, ["c"])
    assert values == {"c": 2}
    assert [step.keys for step in plan.steps] == [("a", "c")]


def test_tasks_with_other_options_are_not_in_one_step():
    graph = {0: Task(0, int, 1)} | {n: Task(n, increment, TaskRef(n - 1)) for n in range(1, 4)}
    plain, special = {}, {"num_cpus": 2}
    asked = []

    def options_of(keys):
        asked.append(list(keys))
        return special if 2 in keys else plain

    _, plan = perform(graph, [3], options_of=options_of)
    assert [(step.keys, step.options) for step in plan.steps] == [
        ((0, 1), plain),
        ((2,), special),
        ((3,), plain),
    ]
    asked.clear()
    fused = {9: Task.fuse(*graph.values(), key=9)}
    perform(fused, [9], options_of=options_of)
    assert asked == [[0, 1, 2, 3, 9]], "what Dask has fused is asked for by all of its keys"


def test_what_is_large_is_a_dependency_once():
    array = np.arange(10)
    graph = {
        "data": DataNode("data", array),
        "a": Task("a", np.add, TaskRef("data"), array),
        "b": Task("b", np.add, DataNode(None, array), TaskRef("a")),
        "c": Task("c", np.sum, TaskRef("b")),
    }
    values, plan = perform(fuse_linear_task_spec(graph, {"c"}), ["c"], lambda value: value is array)
    assert values["c"] == 3 * array.sum()
    assert {id(value.value) for value in plan.uses if isinstance(value, Constant)} == {id(array)}


def test_instructions_know_what_is_not_needed_after_them():
    graph = {0: Task(0, int, 1)} | {n: Task(n, increment, TaskRef(n - 1)) for n in range(1, 4)}
    (step,) = make_plan(graph, [3], nothing_large).steps
    assert [instruction.last_uses for instruction in step.program] == [(), (0,), (1,), (2,)]


def test_a_node_of_an_unknown_class_is_called_as_dask_would():
    class Doubled(Task):
        __slots__ = ()

        def __call__(self, values=()):
            return 2 * super().__call__(values)

    graph = {"a": DataNode("a", 4), "b": Doubled("b", increment, TaskRef("a"))}
    assert perform(graph, ["b"])[0] == {"b": 10}


def test_a_large_function_is_stored_once():
    text = "x" * 100_000
    long = lambda number: len(text) + number
    graph = {n: Task(n, long, n) for n in range(3)}
    values, _ = perform(graph, [0, 1, 2])
    assert values == {0: 100_000, 1: 100_001, 2: 100_002}


@pytest.mark.parametrize(
    ("graph", "requested", "error"),
    [
        ({"a": 1}, ["b"], KeyError),
        ({"a": Task("a", increment, TaskRef("b"))}, ["a"], KeyError),
        ({"a": Alias("a", "b"), "b": Alias("b", "a")}, ["a"], RuntimeError),
        (
            {"a": Task("a", increment, TaskRef("b")), "b": Task("b", increment, TaskRef("a"))},
            ["a"],
            RuntimeError,
        ),
    ],
)
def test_what_cannot_be_planned(graph, requested, error):
    with pytest.raises(error):
        make_plan(graph, requested, nothing_large)

"""Graphs of Dask on the cluster: values, refs, errors, options, and how much is in the store meanwhile."""

import io
import operator
import os
import re
import time
from pathlib import Path

import dask
import dask.array as da
import numpy as np
import pytest
from dask.callbacks import Callback
from dask.diagnostics import ProgressBar

import shoal
from marks import Marks, until
from shoal.exceptions import TaskError
from shoal.refs import ObjectRef
from shoal.util.dask import (
    disable_dask_on_shoal,
    enable_dask_on_ray,
    enable_dask_on_shoal,
    ray_dask_get,
    shoal_dask_get,
    shoal_dask_persist,
)
from shoal.util.state import list_objects

DOCS = Path(__file__).resolve().parents[2] / "docs"


@pytest.fixture(autouse=True)
def session(shoal_session):
    with enable_dask_on_shoal():
        yield


@dask.delayed(pure=False)
def increment(number):
    return number + 1


@dask.delayed
def total(numbers):
    return sum(numbers)


@dask.delayed(pure=False)
def fail(number):
    raise KeyError(f"no {number}")


def pid(*_):
    return os.getpid()


def cpus(block):
    """A block of the number of CPUs that its task has."""
    return np.full_like(block, shoal.get_runtime_context().get_assigned_resources().get("CPU", 0))


def test_delayed_functions():
    numbers = [increment(number) for number in range(100)]
    sums = [total(numbers[start : start + 10]) for start in range(0, 100, 10)]
    assert total(sums).compute() == sum(range(101))
    assert dask.compute(numbers[3], {"all": total(sums)}, 5) == (4, {"all": 5050}, 5)
    assert dask.delayed(pid, pure=False)(numbers[0]).compute() != os.getpid()


def test_plain_graphs_and_nested_keys():
    graph = {"x": 1, "y": "x", "z": (operator.add, "x", 2), "w": (sum, ["x", "y", "z", (operator.neg, "z")])}
    assert shoal_dask_get(graph, "w") == 2
    assert shoal_dask_get(graph, ["w", ["z", "y"], "x"]) == (2, (3, 1), 1)
    assert ray_dask_get(graph, ["z"]) == (3,)


def test_what_is_of_the_script_itself():
    class Pair:
        def __init__(self, left, right):
            self.left, self.right = left, right

    made = dask.delayed(lambda left, right: Pair(left, right))(increment(1), right=Pair(1, [2]))
    pair = dask.delayed(lambda pair: (pair.left, pair.right.right))(made)
    assert pair.compute() == (2, [2])


def test_arrays():
    plain = np.random.default_rng(0).random((300, 400))
    array = da.from_array(plain, chunks=(100, 150))
    product = array @ array.T
    results = dask.compute(
        array[10:250, ::3].sum(axis=0),
        product,
        array.std(),
        (array + 1).T.reshape(-1).max(),
        array[array > 0.5],
    )
    expected = (
        plain[10:250, ::3].sum(axis=0), plain @ plain.T, plain.std(), plain.max() + 1, plain[plain > 0.5]
    )  # fmt: skip
    for result, value in zip(results, expected, strict=True):
        assert np.allclose(result, value)


def test_blocks_are_in_the_store_only_while_they_are_needed():
    array = da.ones((400, 1000), chunks=(100, 1000))
    kept = (array + 1).persist()
    assert (kept * 2 + array).sum().compute(optimize_graph=False) == 5 * 400_000
    until(lambda: len(list_objects()) == 4)
    del kept
    until(lambda: not list_objects())


def test_persisted_collections_have_refs_and_run_on(tmp_path):
    gate = tmp_path / "gate"

    def wait_at_gate(block):
        until(gate.exists)
        return block + 1

    array = da.zeros((400, 400), chunks=200).map_blocks(wait_at_gate, meta=np.zeros((0, 0)))
    began = array.persist()  # does not wait
    assert all(type(began.dask[key]) is ObjectRef for key in dask.core.flatten(began.__dask_keys__()))
    more = (began * 2)[:300].persist()
    (also,) = shoal_dask_persist(began.sum())
    gate.touch()
    assert began.sum().compute() == 400 * 400
    assert more.sum().compute() == 2 * 300 * 400
    assert also.compute() == 400 * 400
    assert np.array_equal(shoal.get(began.dask[began.name, 0, 0]), np.ones((200, 200)))
    one = increment(1).persist()
    assert increment(one).compute() == 3
    assert total([one, increment(one), 5]).compute() == 10


def test_refs_are_arguments():
    ref = shoal.put(41)
    assert increment(ref).compute() == 42
    block = shoal.put(np.ones((100, 200)))
    assert da.from_delayed(dask.delayed(block), (100, 200), float).sum().compute() == 20_000


def test_errors(tmp_path):
    marks = Marks(tmp_path)

    def never_ends():
        marks.add("begun")
        while True:
            time.sleep(0.01)

    def fail_late():
        marks.wait("begun")
        raise KeyError("late")

    endless = dask.delayed(never_ends)()
    began = time.monotonic()
    with pytest.raises(KeyError, match="late") as caught:
        dask.compute(increment(dask.delayed(fail_late)()), total([endless, increment(1)]))
    assert isinstance(caught.value, TaskError)
    assert "in fail_late" in str(caught.value)
    assert time.monotonic() - began < 60
    assert total([increment(1)]).compute() == 2  # the endless task was cancelled: both CPUs are free
    persisted = increment(fail(3)).persist()
    with pytest.raises(KeyError, match="no 3"):
        persisted.compute()


def test_options():
    with dask.annotate(shoal_remote_args={"num_cpus": 2}):
        two = da.zeros(4, chunks=2).map_blocks(cpus, dtype=float)
    assert two.compute().tolist() == [2, 2, 2, 2]
    assert (two + 1).sum().compute() == 12  # also where Dask has fused what is annotated with what is not
    one = da.zeros(4, chunks=2).map_blocks(cpus, dtype=float)
    assert one.sum().compute() == 4
    assert one.sum().compute(shoal_remote_args={"num_cpus": 0.5}) == 2
    assert dask.compute(one.sum(), ray_remote_args={"num_cpus": 0.5}) == (2,)
    with pytest.raises(ValueError, match="shoal_remote_args"):
        one.compute(resources={"GPU": 1})
    with dask.annotate(resources={"GPU": 1}), pytest.raises(ValueError, match="shoal_remote_args"):
        one.compute()
    with pytest.raises(ValueError, match="num_returns"):
        one.compute(shoal_remote_args={"num_returns": 2})
    with pytest.raises(TypeError, match="num_cpu"):
        one.compute(shoal_remote_args={"num_cpu": 2})


def test_retries(tmp_path):
    marks = Marks(tmp_path)

    def fail_twice(number):
        if marks.add("run") < 2:
            raise OSError("not yet")
        return number

    with dask.annotate(retries=2):
        value = dask.delayed(fail_twice)(7)
    assert value.compute() == 7
    assert marks.count("run") == 3


def test_enabled_and_disabled():
    disable_dask_on_shoal()
    here = dask.delayed(pid)
    assert here().compute() == os.getpid()
    assert here().compute(scheduler=shoal_dask_get) != os.getpid()
    with enable_dask_on_ray():
        assert here().compute() != os.getpid()
    assert here().compute() == os.getpid()
    enable_dask_on_shoal()
    assert here().compute() != os.getpid()
    dask.threaded.default_pool.shutdown()
    dask.threaded.default_pool = None  # and the next one that needs threads makes others


def test_a_graph_inside_of_a_task():
    @shoal.remote
    def compute_there(count):
        return total([increment(number) for number in range(count)]).compute(scheduler=shoal_dask_get)

    assert shoal.get([compute_there.remote(count) for count in (5, 20)]) == [15, 210]


def test_callbacks_of_dask():
    seen = []
    watch = Callback(
        pretask=lambda key, graph, state: seen.append(("begin", key)),
        posttask=lambda key, ref, graph, state, worker: seen.append(("end", key)),
        finish=lambda graph, state, failed: seen.append((failed, len(state["finished"]))),
    )
    out = io.StringIO()
    with watch, ProgressBar(out=out):
        assert total([increment(number) for number in range(5)]).compute() == 15
        with pytest.raises(KeyError):
            fail(1).compute()
    assert [len([each for each in seen if each[0] == name]) for name in ("begin", "end")] == [7, 6]
    assert (False, 6) in seen
    assert (True, 0) in seen
    assert "100% Completed" in out.getvalue()


def test_the_example_of_the_docs(monkeypatch, capsys):
    (code,) = re.findall(r"```python\n(.*?)```", (DOCS / "dask.md").read_text(), re.DOTALL)
    monkeypatch.setattr(shoal, "init", lambda num_cpus: None)  # a session is there
    exec(compile(code, "dask.md", "exec"), {"__name__": "__main__"})
    mean, shape, corner = capsys.readouterr().out.splitlines()
    assert 0.99 < float(mean) < 1.01
    assert shape == "(2000,)"
    assert 0 < float(corner) < 2

"""Tasks from the outside: how they are declared, called, given arguments and resources, and what they know of themselves."""

import fnmatch
import functools
import os
import threading
import time

import numpy as np
import pytest

import shoal
from marks import until


@shoal.remote
def add(a, b=10, *, c=0):
    return a + b + c


@shoal.remote
def identity(value):
    return value


@shoal.remote
def pid():
    return os.getpid()


class Adder:
    def __init__(self, step):
        self.step = step

    def __call__(self, value):
        return value + self.step


# --- declaring and calling ---


def test_remote_comes_bare_with_options_and_as_a_call(shoal_session):
    @shoal.remote
    def bare(x):
        return x

    @shoal.remote(num_cpus=0.5, max_retries=1)
    def with_options(x):
        return x + 1

    plain = shoal.remote(lambda x: x + 2)
    assert shoal.get([bare.remote(1), with_options.remote(1), plain.remote(1)]) == [1, 2, 3]
    assert shoal.get(shoal.remote(len).remote("four")) == 4
    assert shoal.get(shoal.remote(Adder(5)).remote(1)) == 6


def test_what_cannot_be_remote_says_so(shoal_session):
    with pytest.raises(TypeError, match="needs a function"):
        shoal.remote(3)
    with pytest.raises(TypeError, match="remote already"):
        shoal.remote(add)
    with pytest.raises(TypeError, match="keyword arguments"):
        shoal.remote(add, num_cpus=1)
    with pytest.raises(ValueError, match="num_cpus"):
        shoal.remote(num_cpu=1)(lambda: None)


def test_a_direct_call_says_to_use_remote(shoal_session):
    with pytest.raises(TypeError, match=r"add\.remote\(\.\.\.\)"):
        add(1)
    assert add.underlying(1) == 11


@pytest.mark.parametrize(
    ("args", "kwargs"),
    [((), {}), ((1, 2, 3), {}), ((1,), {"d": 1}), ((1, 2), {"b": 3}), ((), {"b": 1})],
)
def test_arguments_that_do_not_fit_raise_at_remote(shoal_session, args, kwargs):
    with pytest.raises(TypeError, match="add"):
        add.remote(*args, **kwargs)


def test_arguments_that_fit_arrive(shoal_session):
    calls = [add.remote(1), add.remote(1, 2), add.remote(1, b=3), add.remote(a=1, c=5), add.remote(1, 2, c=3)]
    assert shoal.get(calls) == [11, 3, 4, 16, 6]


def test_builtins_without_a_signature_are_checked_when_they_run(shoal_session):
    assert shoal.get(shoal.remote(max).remote(1, 2, key=lambda x: -x)) == 1
    with pytest.raises(TypeError, match="max"):
        shoal.get(shoal.remote(max).remote())


def test_options_make_a_variant_and_leave_the_function_as_it_is(shoal_session):
    two = identity.options(num_returns=2, name="pair")
    first, second = two.remote((1, 2))
    assert shoal.get([first, second]) == [1, 2]
    assert shoal.get(identity.remote((1, 2))) == (1, 2)
    with pytest.raises(ValueError, match="num_cpus"):
        identity.options(num_cpuz=1)


def test_closures_and_changed_globals_are_taken_as_they_are_at_the_first_call(shoal_session):
    functions = []
    for factor in range(3):

        @shoal.remote
        def scaled(x):
            return factor * x  # noqa: B023  the late binding is the point

        functions.append(scaled)
        assert shoal.get(scaled.remote(10)) == factor * 10
    assert shoal.get([f.remote(1) for f in functions]) == [0, 1, 2]


def test_functions_may_be_arguments_results_and_call_each_other(shoal_session):
    @shoal.remote
    def apply(function, value):
        return shoal.get(function.remote(value))

    @shoal.remote
    def make(step):
        return shoal.remote(lambda value: value + step)

    assert shoal.get(apply.remote(identity, 7)) == 7
    made = shoal.get(make.remote(5))
    assert shoal.get(made.remote(1)) == 6


def test_what_functools_makes(shoal_session):
    """Of the main module, as in a script or notebook: cloudpickle alone pickles neither."""
    namespace = {"__name__": "__main__", "functools": functools}
    exec(
        """
@functools.lru_cache(maxsize=500)
def fibonacci(n):
    return n if n < 2 else fibonacci(n - 1) + fibonacci(n - 2)

class Box:
    made = 0

    @functools.cached_property
    def content(self):
        Box.made += 1
        return [1]

    @functools.cache
    def twice(self, x):
        return 2 * x

@functools.singledispatch
def kind(value):
    return "any"

@kind.register
def _(value: int):
    return "int"

def use(function):
    box = Box()
    cached = box.content is box.content, Box.made, box.twice(2)
    return fibonacci(80), function(30), function.cache_parameters(), *cached, kind(1), kind("")
""",
        namespace,
    )
    fibonacci = namespace["fibonacci"]
    fibonacci(10)
    assert namespace["kind"](1) == "int"
    found = shoal.get(shoal.remote(namespace["use"]).remote(fibonacci))
    assert found == (23416728348467685, 832040, {"maxsize": 500, "typed": False}, True, 1, 4, "int", "any")
    assert shoal.get(shoal.remote(fibonacci).remote(30)) == 832040
    assert shoal.get(shoal.put(fnmatch._compile_pattern)) is fnmatch._compile_pattern, (
        "what can be imported is"
    )


def test_a_namespace_like_that_of_a_notebook(shoal_session):
    namespace = {"shoal": shoal, "__name__": "__main__"}
    cells = [
        "base = 3\ndef helper(x):\n    return base + x",
        "@shoal.remote\ndef f(x):\n    return helper(x)",
        "first = shoal.get(f.remote(1))",
        "base = 4\n@shoal.remote\ndef f(x):\n    return 10 * helper(x)",
        "second = shoal.get(f.remote(1))",
    ]
    for cell in cells:
        exec(compile(cell, "<cell>", "exec"), namespace)
    assert (namespace["first"], namespace["second"]) == (4, 50)


# --- refs as arguments ---


def test_top_level_refs_arrive_as_values_and_nested_ones_as_refs(shoal_session):
    @shoal.remote
    def kinds(a, b, *, c, d):
        return type(a).__name__, type(b[0]).__name__, type(c).__name__, type(d["x"]).__name__, shoal.get(b[0])

    small, large = shoal.put(5), shoal.put(np.arange(50_000))
    result = shoal.get(kinds.remote(small, [small], c=large, d={"x": large}))
    assert result == ("int", "ObjectRef", "ndarray", "ObjectRef", 5)


def test_the_same_ref_several_times(shoal_session):
    ref = shoal.put(2)
    assert shoal.get(add.remote(ref, ref, c=ref)) == 6


def test_get_on_an_argument_that_was_a_ref_returns_it(shoal_session):
    @shoal.remote
    def both_ways(x, refs):
        return shoal.get(x) + 1, [shoal.get(ref) for ref in refs]

    @shoal.remote
    def no_ref(x):
        return shoal.get(3)

    assert shoal.get(both_ways.remote(shoal.put([5][0]), [shoal.put(1), shoal.put(2)])) == (6, [1, 2])
    with pytest.raises(ValueError, match="needs an ObjectRef"):
        shoal.get(no_ref.remote(shoal.put(1)))


def test_a_task_runs_when_its_arguments_are_there(shoal_session, tmp_path):
    gate = tmp_path / "gate"

    @shoal.remote
    def wait_for_gate():
        while not gate.exists():
            time.sleep(0.005)
        return 1

    slow = wait_for_gate.remote()
    chained = add.remote(add.remote(slow, 1), slow)
    ready, _ = shoal.wait([chained], timeout=0.05)
    assert not ready
    gate.touch()
    assert shoal.get(chained) == 3


def test_a_ref_returned_by_a_task_is_usable_after_the_task(shoal_session):
    @shoal.remote
    def outer():
        return identity.remote("inner"), [shoal.put(np.ones(30_000))]

    child, (array,) = shoal.get(outer.remote())
    assert shoal.get(child) == "inner"
    assert shoal.get(array).sum() == 30_000


def test_a_long_chain_and_a_wide_fan_in(shoal_session):
    ref = identity.remote(0)
    for _ in range(200):
        ref = add.remote(ref, 1)
    assert shoal.get(ref) == 200

    @shoal.remote
    def total(*values):
        return sum(values)

    assert shoal.get(total.remote(*[identity.remote(i) for i in range(500)])) == 124_750


# --- returns ---


def test_num_returns(shoal_session):
    assert identity.options(num_returns=0).remote(None) is None
    assert isinstance(identity.options(num_returns=1).remote(1), shoal.ObjectRef)
    refs = identity.options(num_returns=3).remote([np.zeros(40_000), "b", None])
    assert len(refs) == 3
    assert shoal.get(refs[0]).shape == (40_000,)
    assert shoal.get(refs[1:]) == ["b", None]
    many = identity.options(num_returns=1000).remote(range(1000))
    assert shoal.get(many) == list(range(1000))


@pytest.mark.parametrize(
    ("value", "said"), [((1, 2), "2 value"), (5, "returned int"), (iter([1, 2, 3, 4]), "4 value")]
)
def test_a_wrong_number_of_returns_says_so_in_every_one(shoal_session, value, said):
    @shoal.remote(num_returns=3)
    def wrong():
        return iter(list(value)) if hasattr(value, "__next__") else value

    if hasattr(value, "__next__"):
        value = [1, 2, 3, 4]
    for ref in wrong.remote():
        with pytest.raises(ValueError, match=said):
            shoal.get(ref)


def test_a_task_without_returns_runs(shoal_session, tmp_path):
    @shoal.remote(num_returns=0)
    def touch(path):
        open(path, "w").close()

    assert touch.remote(str(tmp_path / "done")) is None
    until((tmp_path / "done").exists)


# --- resources ---


@shoal.remote
def overlap(folder, count, limit_s):
    """Whether `count` of these tasks were there at the same time, or None after ``limit_s``."""
    open(os.path.join(folder, str(os.getpid())), "w").close()
    deadline = time.monotonic() + limit_s
    while len(os.listdir(folder)) < count:
        if time.monotonic() > deadline:
            return False
        time.sleep(0.002)
    return True


def test_fractions_of_a_cpu_share_it(shoal_session, tmp_path):
    half = overlap.options(num_cpus=0.5)
    assert all(shoal.get([half.remote(str(tmp_path), 4, 20) for _ in range(4)]))


def test_no_more_tasks_than_cpus(shoal_session, tmp_path):
    # Three at once is impossible on two CPUs, whatever the time allowed.
    refs = [overlap.remote(str(tmp_path), 3, 0.15) for _ in range(2)]
    assert not any(shoal.get(refs))


def test_a_task_that_needs_no_cpu_runs_beside_a_full_node(shoal_session, tmp_path):
    gate = tmp_path / "gate"

    @shoal.remote
    def hold():
        until(gate.exists)

    holding = [hold.remote() for _ in range(2)]
    assert shoal.get(identity.options(num_cpus=0).remote(1), timeout=60) == 1
    gate.touch()
    shoal.get(holding)


def test_assigned_resources(shoal_session):
    @shoal.remote
    def assigned():
        return shoal.get_runtime_context().get_assigned_resources()

    assert shoal.get(assigned.remote()) == {"CPU": 1.0}
    assert shoal.get(assigned.options(num_cpus=0.25).remote()) == {"CPU": 0.25}
    assert shoal.get(assigned.options(num_cpus=0).remote()) == {}
    assert shoal.get_runtime_context().get_assigned_resources() == {}


# --- runtime context ---


def test_runtime_context_of_a_task(shoal_session):
    @shoal.remote
    def facts():
        context = shoal.get_runtime_context()
        return {
            "job": context.get_job_id(),
            "node": context.get_node_id(),
            "worker": context.get_worker_id(),
            "task": context.get_task_id(),
            "name": context.get_task_name(),
            "function": context.get_task_function_name(),
            "actor": context.get_actor_id(),
            "group": context.get_placement_group_id(),
            "namespace": context.namespace,
            "session": context.get_session_dir(),
            "temp": context.get_temp_dir(),
            "reconstructed": context.was_current_actor_reconstructed,
        }

    ref = facts.options(name="a name").remote()
    found = shoal.get(ref)
    here = shoal.get_runtime_context()
    assert found["job"] == here.get_job_id() != ""
    assert found["node"] == here.get_node_id()
    assert found["worker"] != here.get_worker_id()
    assert found["task"] == ref.hex()
    assert found["name"] == "a name"
    assert found["function"].endswith("facts")
    assert found["actor"] is None
    assert found["group"] is None
    assert found["namespace"] == here.namespace != ""
    assert found["session"] == here.get_session_dir()
    assert os.path.isdir(found["session"])
    assert found["temp"] == here.get_temp_dir() == os.path.dirname(found["session"])
    assert not found["reconstructed"]
    assert here.get_task_id() is None
    assert here.get_task_name() is None


def test_tasks_that_run_in_place_know_themselves(shoal_session):
    @shoal.remote
    def child():
        context = shoal.get_runtime_context()
        return context.get_task_id(), context.get_task_name(), context.get_assigned_resources(), os.getpid()

    @shoal.remote
    def parent():
        ref = child.options(name="junior", num_cpus=0.5).remote()
        found = shoal.get(ref)
        mine = shoal.get_runtime_context()
        return ref.hex(), found, mine.get_task_id(), mine.get_task_name()

    ref = parent.remote()
    child_id, found, own_id, own_name = shoal.get(ref)
    assert found[:3] == (child_id, "junior", {"CPU": 0.5})
    assert own_id == ref.hex()
    assert own_name.endswith("parent")


# --- max_calls ---


def test_max_calls_replaces_the_worker(shoal_session):
    once = pid.options(max_calls=1)
    assert len(set(shoal.get([once.remote() for _ in range(6)]))) == 6
    twice = shoal.remote(max_calls=2)(lambda: os.getpid())
    pids = shoal.get([twice.remote() for _ in range(8)])
    assert max(pids.count(each) for each in pids) <= 2


def test_a_worker_that_owns_unfinished_tasks_is_not_replaced(shoal_session, tmp_path):
    gate = tmp_path / "gate"

    @shoal.remote
    def child():
        until(gate.exists)
        return "of an owner that is used up"

    @shoal.remote(max_calls=1)
    def parent():
        return child.remote()

    ref = shoal.get(parent.remote())
    gate.touch()
    assert shoal.get(ref) == "of an owner that is used up"


# --- from many threads ---


def test_threads_may_all_use_the_session(shoal_session):
    failures = []

    def work(number):
        try:
            for i in range(20):
                ref = add.remote(number, shoal.put(i))
                assert shoal.get(ref) == number + i
                ready, rest = shoal.wait([identity.remote(i), identity.remote(i)], num_returns=2)
                assert len(ready) == 2
                assert not rest
                array = np.full(30_000, number)
                assert shoal.get(identity.remote(array)).sum() == 30_000 * number
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not failures

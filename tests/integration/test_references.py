"""References: memory comes back when they go, whatever held them, and nothing that is referenced is freed.

Every test ends with an empty store, to the byte.
"""

import builtins
import gc
import os
import signal
import sys

import numpy as np
import pytest

import shoal
from ledger import bytes_of_objects, everything_came_back, rows
from marks import Marks, until
from shoal import session

SIZE = 50_000  # float64: 400 kB, a stored object


def array(seed=1.0):
    return np.full(SIZE, seed)


@pytest.fixture(autouse=True)
def empty_in_the_end(shoal_session):
    yield
    everything_came_back()


@shoal.remote
def total(value):
    return float(np.sum(value))


@shoal.remote
def total_of_first(refs):
    return float(np.sum(shoal.get(refs[0])))


@shoal.remote
def make(seed):
    return array(seed)


@shoal.remote
def small(value):
    return value


@shoal.remote
def slow_small(value):
    import time

    time.sleep(0.2)
    return value


# --- variables ---


def test_a_put_goes_with_its_last_ref(shoal_session):
    ref = shoal.put(array())
    second = ref
    del ref
    assert bytes_of_objects() > 0
    assert shoal.get(second).sum() == SIZE
    del second
    assert bytes_of_objects() == 0


def test_a_view_keeps_its_object_and_nothing_else_does(shoal_session):
    ref = shoal.put(array())
    view = shoal.get(ref)[5:10]
    del ref
    gc.collect()
    assert bytes_of_objects() > 0
    assert view.tolist() == [1.0] * 5
    del view
    until(lambda: bytes_of_objects() == 0)


def test_a_result_that_nobody_waits_for_goes(shoal_session):
    make.remote(1.0)


def test_a_result_goes_with_its_ref(shoal_session):
    ref = make.remote(2.0)
    assert shoal.get(ref).sum() == 2 * SIZE
    del ref
    until(lambda: bytes_of_objects() == 0)


def test_refs_that_die_on_another_thread(shoal_session):
    import threading

    box = [shoal.put(array()), make.remote(1.0)]
    thread = threading.Thread(target=box.clear)
    thread.start()
    thread.join()


# --- arguments ---


def test_arguments_of_a_task_live_until_it_is_done_and_not_longer(shoal_session):
    assert shoal.get(total.remote(shoal.put(array()))) == SIZE
    assert shoal.get(total_of_first.remote([shoal.put(array())])) == SIZE
    assert shoal.get(total_of_first.remote(refs=[make.remote(3.0)])) == 3 * SIZE


def test_small_values_inside_arguments(shoal_session):
    """A small value whose ref is nested is written to the store for whoever gets the ref."""
    inner = shoal.put(5)
    assert shoal.get(total_of_first.remote([inner])) == 5
    assert shoal.get(total_of_first.remote([slow_small.remote(7)])) == 7  # pending when it is sent
    assert shoal.get(inner) == 5


def test_a_small_container_as_a_top_level_argument(shoal_session):
    """Its value travels with the task; the refs inside are read by the worker before or after they are sealed."""
    for _ in range(30):
        container = shoal.put([shoal.put(array()), shoal.put("x")])
        assert shoal.get(total_of_first.remote(container)) == SIZE


def test_a_large_container_as_a_top_level_argument(shoal_session):
    for _ in range(10):
        container = shoal.put([shoal.put(array(2.0)), array()])
        assert shoal.get(total_of_first.remote(container)) == 2 * SIZE


# --- containers ---


def test_containers_in_containers(shoal_session):
    inner = shoal.put(array(4.0))
    outer = shoal.put({"a": [shoal.put((inner, 1)), 2]})
    del inner
    middle = shoal.get(outer)["a"][0]
    del outer
    gc.collect()
    innermost, one = shoal.get(middle)
    del middle
    gc.collect()
    assert one == 1
    assert shoal.get(innermost).sum() == 4 * SIZE


@pytest.mark.parametrize("padding", [0, SIZE])
def test_refs_read_out_of_a_container_survive_it(shoal_session, padding):
    container = shoal.put([[shoal.put(array(float(i))) for i in range(5)], np.zeros(padding)])
    kept = shoal.get(container)[0][3]
    assert len(rows()) == 6 if padding else 5
    del container
    gc.collect()
    until(lambda: len(rows()) == 1)
    assert shoal.get(kept).sum() == 3 * SIZE
    assert shoal.get(total.remote(kept)) == 3 * SIZE


def test_a_container_read_twice_gives_refs_that_both_count(shoal_session):
    container = shoal.put([shoal.put(array()), array()])
    first, second = shoal.get(container)[0], shoal.get(container)[0]
    del container
    del first
    gc.collect()
    assert shoal.get(second).sum() == SIZE


def test_a_deep_chain_of_containers_goes_at_once(shoal_session):
    ref = shoal.put(array())
    for _ in range(300):
        ref = shoal.put([ref, b"x" * 200_000])
    del ref


# --- results ---


@shoal.remote
def one_ref(seed):
    return shoal.put(array(seed))


@shoal.remote
def many_refs(count, padding=0):
    return (
        [shoal.put(array(float(i))) for i in range(count)],
        {"more": shoal.put(b"small")},
        np.zeros(padding),
    )


@shoal.remote
def child(seed):
    return make.remote(seed)


@shoal.remote
def slow_child(seed):
    return slow_small.remote(seed)


@shoal.remote
def grandchild(seed):
    return child.remote(seed)


def test_a_ref_as_a_result(shoal_session):
    for _ in range(10):
        assert shoal.get(shoal.get(one_ref.remote(1.0))).sum() == SIZE


@pytest.mark.parametrize("padding", [0, SIZE])
def test_a_result_with_refs(shoal_session, padding):
    result = many_refs.remote(4, padding)
    refs, named, _ = shoal.get(result)
    del result
    gc.collect()
    assert [shoal.get(ref).sum() for ref in refs] == [0, SIZE, 2 * SIZE, 3 * SIZE]
    assert shoal.get(named["more"]) == b"small"
    kept = refs[2]
    del refs, named, _
    gc.collect()
    assert shoal.get(kept).sum() == 2 * SIZE


def test_a_child_as_a_result(shoal_session):
    assert shoal.get(shoal.get(child.remote(2.0))).sum() == 2 * SIZE
    assert shoal.get(shoal.get(slow_child.remote(5))) == 5
    assert shoal.get(shoal.get(shoal.get(grandchild.remote(3.0)))).sum() == 3 * SIZE


def test_results_with_refs_go_unread(shoal_session):
    del_me = [child.remote(1.0), grandchild.remote(1.0), many_refs.remote(3), slow_child.remote(1)]
    shoal.wait(del_me, num_returns=4)
    many_refs.remote(3, SIZE)


def test_a_result_with_refs_as_an_argument(shoal_session):
    @shoal.remote
    def use(value):
        refs, named, _ = value
        return [float(shoal.get(ref).sum()) for ref in refs] + [shoal.get(named["more"])]

    for padding in (0, SIZE):
        assert shoal.get(use.remote(many_refs.remote(2, padding))) == [0.0, SIZE, b"small"]


@pytest.mark.parametrize("padding", [0, SIZE])
def test_a_borrowed_ref_in_a_result(shoal_session, padding):
    """The submitter lets go of the argument when the result comes; the result must hold the ref by then."""

    @shoal.remote
    def pass_on(refs, padding):
        return refs[0], np.zeros(padding)

    @shoal.remote
    def pass_through(refs, padding):
        return pass_on.remote(refs, padding)

    for _ in range(30):
        result = pass_on.remote([shoal.put(array())], padding)
        assert shoal.get(shoal.get(result)[0]).sum() == SIZE
    for _ in range(10):
        result = pass_through.remote([shoal.put(array())], padding)
        assert shoal.get(shoal.get(shoal.get(result))[0]).sum() == SIZE


def test_items_of_generators_with_refs(shoal_session):
    @shoal.remote
    def items():
        for seed in range(5):
            yield [shoal.put(array(float(seed)))]
            yield array(float(seed))

    kept = []
    for position, ref in enumerate(items.remote()):
        value = shoal.get(ref)
        kept.append(value[0] if not position % 2 else ref)
    assert [shoal.get(ref).sum() for ref in kept] == [SIZE * (i // 2) for i in range(10)]
    half = items.remote()
    next(half)
    del half


# --- errors ---


class CarriesRefError(Exception):
    def __init__(self, ref):
        super().__init__(ref)
        self.ref = ref


@shoal.remote
def fails_with_ref(refs=None):
    raise CarriesRefError(refs[0] if refs else shoal.put(array(6.0)))


def test_an_exception_that_carries_a_ref(shoal_session):
    ref = fails_with_ref.remote()
    for _ in range(2):
        with pytest.raises(CarriesRefError) as caught:
            shoal.get(ref)
        assert shoal.get(caught.value.ref).sum() == 6 * SIZE
    del ref
    gc.collect()
    assert shoal.get(caught.value.ref).sum() == 6 * SIZE
    del caught


def test_an_exception_with_a_borrowed_ref(shoal_session):
    with pytest.raises(CarriesRefError) as caught:
        shoal.get(fails_with_ref.remote([shoal.put(array())]))
    assert shoal.get(caught.value.ref).sum() == SIZE
    del caught


def test_an_exception_with_a_ref_through_dependents_and_nesting(shoal_session):
    failed = fails_with_ref.remote()
    with pytest.raises(CarriesRefError) as caught:
        shoal.get(total.remote(total.remote(failed)))
    assert shoal.get(caught.value.ref).sum() == 6 * SIZE

    @shoal.remote
    def reads(refs):
        try:
            shoal.get(refs[0])
        except CarriesRefError as error:
            return float(shoal.get(error.ref).sum())

    assert shoal.get(reads.remote([failed])) == 6 * SIZE
    assert shoal.get(reads.remote([fails_with_ref.remote()])) == 6 * SIZE
    del caught


def test_an_exception_with_a_ref_for_several_results(shoal_session):
    several = fails_with_ref.options(num_returns=3).remote()
    none = fails_with_ref.options(num_returns=0).remote()
    assert none is None
    for ref in several:
        with pytest.raises(CarriesRefError) as caught:
            shoal.get(ref)
    del several, ref
    gc.collect()
    assert shoal.get(caught.value.ref).sum() == 6 * SIZE
    del caught


def test_attempts_that_fail_with_refs(shoal_session, tmp_path):
    marks = Marks(tmp_path)

    @shoal.remote(max_retries=3, retry_exceptions=[CarriesRefError])
    def flaky():
        if marks.add("run") < 2:
            raise CarriesRefError(shoal.put(array()))
        return [shoal.put(array(2.0))]

    assert shoal.get(shoal.get(flaky.remote())[0]).sum() == 2 * SIZE


def test_a_task_that_fails_after_some_of_its_results_were_stored(shoal_session):
    @shoal.remote(num_returns=3)
    def half():
        return array(), [shoal.put(array())], lambda: sys._getframe()

    @shoal.remote(num_returns=3)
    def broken():
        import threading

        return array(), [shoal.put(array())], threading.Lock()

    first, _, third = half.remote()
    assert shoal.get(first).sum() == SIZE
    assert callable(shoal.get(third))
    for ref in broken.remote():
        with pytest.raises(TypeError):
            shoal.get(ref)


# --- closures ---


def capturing():
    """A function that captured three refs: of a stored object, a small one, and one that is not there yet."""
    stored, little, pending = shoal.put(array()), shoal.put(3), slow_small.remote(4)

    @shoal.remote
    def captures(factor):
        return factor * float(shoal.get(stored).sum()) + shoal.get(little) + shoal.get(pending)

    return captures


def test_refs_captured_by_a_function_go_with_it(shoal_session):
    captures = capturing()
    results = [captures.remote(i) for i in range(4)]
    assert shoal.get(results) == [SIZE * i + 7 for i in range(4)]
    assert bytes_of_objects() > 0
    del captures, results
    gc.collect()
    until(lambda: bytes_of_objects() == 0)


def same_function_twice():
    stored = shoal.put(array())

    def make_function():
        return shoal.remote(lambda: float(shoal.get(stored).sum()))

    return make_function(), make_function()


def test_two_functions_with_the_same_capture(shoal_session):
    first, second = same_function_twice()
    assert shoal.get([first.remote(), second.remote(), first.remote()]) == [SIZE] * 3
    del first
    gc.collect()
    assert shoal.get([second.remote(), second.remote()]) == [SIZE] * 2


def test_a_function_dropped_before_its_tasks_ran(shoal_session):
    def calls():
        stored = shoal.put(array())
        captures = shoal.remote(lambda: float(shoal.get(stored).sum()))
        return [captures.remote() for _ in range(5)]

    assert shoal.get(calls()) == [SIZE] * 5


# --- what workers keep ---


@shoal.remote
def keep_inner(name, value, depth):
    """Keep the first of what is ``depth`` gets away."""
    for _ in range(depth):
        value = shoal.get(value[0])
    builtins.__dict__.setdefault("_shoal_test_kept", {})[name] = value[0]
    return os.getpid()


@shoal.remote
def kept_total(name):
    kept = getattr(builtins, "_shoal_test_kept", {})
    if name not in kept:
        return None
    return float(shoal.get(kept[name]).sum()), os.getpid()


@shoal.remote
def forget(name):
    getattr(builtins, "_shoal_test_kept", {}).pop(name, None)
    return os.getpid()


def read_kept(name):
    """What a worker kept, from whichever worker kept it."""
    for _ in range(200):
        found = shoal.get(kept_total.remote(name))
        if found is not None:
            return found
    raise AssertionError("no worker has kept it")


def forget_kept(name, pid):
    until(lambda: shoal.get(forget.remote(name)) == pid)


def test_a_worker_keeps_a_nested_ref(shoal_session):
    pid = shoal.get(keep_inner.remote("nested", [shoal.put([shoal.put(array())])], 1))
    assert read_kept("nested") == (SIZE, pid)
    assert len(rows()) == 1
    forget_kept("nested", pid)


@pytest.mark.parametrize("padding", [0, SIZE])
def test_a_worker_keeps_a_ref_out_of_a_container(shoal_session, padding):
    for how in ("top level", "nested"):
        for _ in range(10):
            container = shoal.put([shoal.put(array(2.0)), np.zeros(padding)])
            argument, depth = (container, 0) if how == "top level" else ([container], 1)
            pid = shoal.get(keep_inner.remote("inner", argument, depth))
            del container, argument
            gc.collect()
            assert read_kept("inner") == (2 * SIZE, pid)
            forget_kept("inner", pid)


def test_a_worker_puts_borrowed_refs_into_objects_of_its_own(shoal_session):
    @shoal.remote
    def wrap(refs):
        return shoal.put([refs[0], array(0.0)])

    for _ in range(30):
        wrapped = wrap.remote([shoal.put(array())])
        assert shoal.get(shoal.get(shoal.get(wrapped))[0]).sum() == SIZE


def test_a_worker_hands_borrowed_refs_to_children_that_keep_them(shoal_session):
    @shoal.remote
    def delegate(name, refs):
        return shoal.get(keep_inner.options(num_cpus=0).remote(name, [shoal.put(refs)], 1))

    for _ in range(10):
        pid = shoal.get(delegate.remote("child", [shoal.put(array())]))
        assert read_kept("child") == (SIZE, pid)
        forget_kept("child", pid)


# --- deaths ---


def test_a_worker_that_dies_lets_go_of_what_it_kept(shoal_session):
    pid = shoal.get(keep_inner.remote("dying", [shoal.put(array())], 0))
    os.kill(pid, signal.SIGKILL)
    pid = shoal.get(keep_inner.remote("dying", [shoal.put([shoal.put(array())])], 1))
    os.kill(pid, signal.SIGKILL)


def test_what_a_dead_worker_made_outlives_it(shoal_session):
    @shoal.remote
    def made():
        return [shoal.put(array(3.0)), shoal.put("small"), os.getpid()]

    stored, little, pid = shoal.get(made.remote())
    os.kill(pid, signal.SIGKILL)
    assert shoal.get(small.remote(1)) == 1
    assert shoal.get(stored).sum() == 3 * SIZE
    assert shoal.get(little) == "small"


def test_a_task_killed_in_its_middle(shoal_session, tmp_path):
    marks = Marks(tmp_path)

    @shoal.remote(max_retries=1)
    def dies_once(refs):
        held = [shoal.put(array()), shoal.get(refs[0]), make.remote(1.0)]
        shoal.get(held[2])
        if marks.add("run") == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return held[0], array()

    value = shoal.get(dies_once.remote([shoal.put(array())]))
    assert shoal.get(value[0]).sum() == SIZE
    marks.add("run")

    @shoal.remote(max_retries=0)
    def dies(refs):
        held = [shoal.put(array()), shoal.get(refs[0])]
        os.kill(os.getpid(), signal.SIGKILL)
        return held

    with pytest.raises(shoal.exceptions.WorkerCrashedError):
        shoal.get(dies.remote([shoal.put(array())]))


def test_small_values_outlive_a_worker_that_dies_right_after_its_reply(shoal_session):
    @shoal.remote(max_retries=0)
    def made(count):
        return [shoal.put(number) for number in range(count)], os.getpid()

    for _ in range(5):
        refs, pid = shoal.get(made.remote(200))
        os.kill(pid, signal.SIGKILL)
        assert shoal.get(refs) == list(range(200))


def test_a_put_that_a_signal_ends_leaves_nothing(shoal_session, monkeypatch):
    """It has told the daemon of its hold by then."""

    def interrupted():
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(session.runtime(), "node_backlog", interrupted)
        with pytest.raises(KeyboardInterrupt):
            shoal.put(array())

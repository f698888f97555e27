"""Actors on a real cluster: calls, order, handles, construction, ways of running, cancel."""

import os
import threading
import time

import numpy as np
import pytest

import shoal
from actorparts import get, wait_until
from processes import alive
from shoal.exceptions import ActorDiedError, PendingCallsLimitExceeded, TaskError


@shoal.remote
class Counter:
    """Counts."""

    def __init__(self, start=0):
        self.value = start

    def add(self, amount=1):
        self.value += amount
        return self.value

    def pid(self):
        return os.getpid()

    def fail(self, text):
        raise ValueError(text)

    def nothing(self):
        pass

    def hold(self, refs):
        self.held = refs

    def held_values(self):
        return shoal.get(self.held)

    @shoal.method(num_returns=2)
    def pair(self, a, b):
        return a, b

    def count_to(self, n):
        for i in range(n):
            self.value = i
            yield i

    def call(self, other):
        return shoal.get(other.add.remote(), timeout=60)

    def me(self):
        return shoal.get_runtime_context().current_actor


# --- calls ---


def test_calls_change_state_and_come_in_order(shoal_session):
    counter = Counter.remote(10)
    assert get([counter.add.remote() for _ in range(500)]) == list(range(11, 511))


def test_keyword_and_default_arguments(shoal_session):
    counter = Counter.remote(start=5)
    assert get(counter.add.remote(amount=2)) == 7


def test_a_wrong_call_is_refused_at_once(shoal_session):
    counter = Counter.remote()
    with pytest.raises(TypeError, match=r"Counter\.add"):
        counter.add.remote(1, 2)
    with pytest.raises(TypeError, match="Counter"):
        Counter.remote(1, 2, 3)
    with pytest.raises(AttributeError, match="no method 'subtract'"):
        counter.subtract.remote()
    with pytest.raises(TypeError, match="remote"):
        counter.add()
    with pytest.raises(TypeError, match="remote"):
        Counter()


def test_an_actor_class_is_no_base_class(shoal_session):
    with pytest.raises(TypeError, match="inherit from the plain class"):

        class Sub(Counter):
            pass


def test_an_exception_arrives_as_itself_and_the_actor_goes_on(shoal_session):
    counter = Counter.remote()
    with pytest.raises(ValueError, match="no luck") as caught:
        get(counter.fail.remote("no luck"))
    assert isinstance(caught.value, TaskError)
    assert get(counter.add.remote()) == 1


def test_several_returns_and_none(shoal_session):
    counter = Counter.remote()
    first, second = counter.pair.remote("a", "b")
    assert get([first, second]) == ["a", "b"]
    assert counter.nothing.options(num_returns=0).remote() is None


def test_order_holds_while_arguments_are_computed(shoal_session, tmp_path):
    @shoal.remote
    def slow(value, gate):
        while not os.path.exists(gate):
            time.sleep(0.005)
        return value

    gate = str(tmp_path / "gate-order")
    counter = Counter.remote()
    first = counter.add.remote(slow.remote(100, gate))
    second = counter.add.remote(1)
    other = Counter.remote()
    assert get(other.add.remote()) == 1  # another actor is not held up
    open(gate, "w").close()
    assert get([first, second]) == [100, 101]


def test_callers_do_not_block_each_other(shoal_session, tmp_path):
    @shoal.remote
    def never(gate):
        while not os.path.exists(gate):
            time.sleep(0.005)
        return 1

    @shoal.remote
    def call(counter):
        return shoal.get(counter.add.remote(5), timeout=60)

    gate = str(tmp_path / "gate-callers")
    counter = Counter.remote()
    mine = counter.add.remote(never.remote(gate))
    assert get(call.options(num_cpus=0).remote(counter)) == 5
    open(gate, "w").close()
    assert get(mine) == 6


def test_a_failed_argument_fails_the_call_alone(shoal_session):
    @shoal.remote
    def bad():
        raise KeyError("gone")

    counter = Counter.remote()
    with pytest.raises(KeyError):
        get(counter.add.remote(bad.remote()))
    assert get(counter.add.remote()) == 1


def test_results_feed_calls_and_tasks(shoal_session):
    @shoal.remote
    def double(x):
        return 2 * x

    counter = Counter.remote()
    assert get(double.remote(counter.add.remote(double.remote(4)))) == 16


def test_streaming_generator(shoal_session):
    counter = Counter.remote()
    assert [get(ref) for ref in counter.count_to.remote(200)] == list(range(200))


def test_large_arguments_and_results(shoal_session):
    @shoal.remote
    class Holder:
        def __init__(self, array):
            self.array = array

        def total(self):
            return float(self.array.sum())

        def address(self):
            return self.array.ctypes.data

        def give(self):
            return self.array

    array = np.arange(500_000.0)
    ref = shoal.put(array)
    one, two = Holder.remote(ref), Holder.remote(array)
    assert get([one.total.remote(), two.total.remote()]) == [array.sum()] * 2
    del ref
    assert np.array_equal(get(one.give.remote()), array)
    assert get(one.total.remote()) == array.sum()  # its view stays valid


def test_refs_that_an_actor_keeps_stay_alive(shoal_session):
    counter = Counter.remote()
    get(counter.hold.remote([shoal.put(np.ones(50_000)), shoal.put("small")]))
    array, small = get(counter.held_values.remote())
    assert array.sum() == 50_000
    assert small == "small"


def test_pending_calls_limit(shoal_session, tmp_path):
    @shoal.remote(max_pending_calls=3)
    class Slow:
        def wait(self, gate):
            while not os.path.exists(gate):
                time.sleep(0.005)

    gate = str(tmp_path / "gate-pending")
    slow = Slow.remote()
    refs = [slow.wait.remote(gate) for _ in range(3)]
    with pytest.raises(PendingCallsLimitExceeded):
        slow.wait.remote(gate)
    open(gate, "w").close()
    get(refs)
    get(slow.wait.remote(gate))


# --- construction ---


def test_constructor_error_reaches_every_caller(shoal_session):
    @shoal.remote
    class Broken:
        def __init__(self):
            raise RuntimeError("no model file")

        def call(self):
            pass

    broken = Broken.remote()
    refs = [broken.call.remote() for _ in range(3)]
    for ref in refs:
        with pytest.raises(ActorDiedError, match="no model file") as caught:
            get(ref)
        assert "in __init__" in str(caught.value)

    class Unloadable:
        def __reduce__(self):
            return (__import__, ("a_module_that_is_nowhere",))

    with pytest.raises(
        ActorDiedError, match=r"Next: have workers find 'a_module_that_is_nowhere'.*, and make a new actor\.$"
    ):
        get(Counter.remote(Unloadable()).add.remote())

    @shoal.remote
    def call(handle):
        return shoal.get(handle.call.remote(), timeout=60)

    with pytest.raises(ActorDiedError, match="no model file"):
        get(call.remote(broken))


def test_constructor_waits_for_refs_and_fails_with_them(shoal_session):
    @shoal.remote
    def make(x):
        if x is None:
            raise ValueError("no start")
        return x

    assert get(Counter.remote(make.remote(4)).add.remote()) == 5
    assert get(Counter.remote(start=make.remote(4)).add.remote()) == 5
    with pytest.raises(ActorDiedError, match="no start") as caught:
        get(Counter.remote(make.remote(None)).add.remote())
    assert str(caught.value).count("Next: ") == 1


def test_state_that_cannot_be_pickled(shoal_session):
    @shoal.remote
    class Locked:
        def __init__(self):
            self.lock = threading.Lock()
            self.file = open("/dev/null", "w")  # noqa: SIM115  kept open on purpose

        def use(self):
            with self.lock:
                self.file.write("x")
            return True

    assert get(Locked.remote().use.remote())


def test_runtime_context_in_an_actor(shoal_session):
    @shoal.remote
    class Looks:
        def look(self):
            context = shoal.get_runtime_context()
            return context.get_actor_id(), context.get_task_name(), context.was_current_actor_reconstructed

    handle = Looks.remote()
    actor_id, name, again = get(handle.look.remote())
    assert actor_id == handle._actor_id.hex()
    assert name == "Looks.look"
    assert not again
    assert shoal.get_runtime_context().get_actor_id() is None


# --- handles ---


def test_the_actor_ends_with_its_last_handle(shoal_session):
    counter = Counter.remote()
    pid = get(counter.pid.remote())
    copy = counter
    del counter
    assert get(copy.add.remote()) == 1
    del copy
    wait_until(lambda: not alive(pid))


def test_calls_under_way_keep_the_actor_alive(shoal_session):
    ref = Counter.remote(1).add.remote()
    assert get(ref) == 2
    refs = [Counter.remote(i).add.remote() for i in range(5)]
    assert get(refs) == [1, 2, 3, 4, 5]


def test_handles_travel(shoal_session):
    counter = Counter.remote()

    @shoal.remote
    def use(handles, by_name):
        return [shoal.get(handle.add.remote(), timeout=60) for handle in (*handles, by_name["counter"])]

    @shoal.remote
    def make():
        return [Counter.remote(100)]

    @shoal.remote
    def closure():
        return shoal.get(counter.add.remote(), timeout=60)

    assert get(use.remote([counter], {"counter": counter})) == [1, 2]
    assert get(closure.remote()) == 3
    (made,) = get(make.remote())
    assert get(made.add.remote()) == 101
    (again,) = get(shoal.put([counter]))
    assert again == counter
    assert get(again.add.remote()) == 4
    assert get(Counter.remote().call.remote(counter)) == 5


def test_a_handle_kept_by_another_actor_keeps_the_actor_alive(shoal_session):
    keeper, counter = Counter.remote(), Counter.remote()
    pid = get(counter.pid.remote())
    get(keeper.hold.remote([counter]))
    del counter
    get([keeper.add.remote() for _ in range(10)])
    assert alive(pid)
    get(keeper.hold.remote([]))
    wait_until(lambda: not alive(pid))


def test_an_actor_does_not_keep_itself_alive_but_can_be_passed_on(shoal_session):
    counter = Counter.remote()
    pid = get(counter.pid.remote())
    me = get(counter.me.remote())
    assert me == counter
    del counter
    assert get(me.add.remote()) == 1
    del me
    wait_until(lambda: not alive(pid))


def test_a_handle_pickles_only_through_shoal(shoal_session):
    import pickle

    with pytest.raises(TypeError):
        pickle.dumps(Counter.remote())


def test_a_handle_in_a_stored_value_keeps_the_actor_alive(shoal_session):
    counter = Counter.remote()
    pid = get(counter.pid.remote())
    box = shoal.put([counter, np.zeros(50_000)])
    del counter
    assert alive(pid)
    assert get(get(box)[0].add.remote()) == 1
    del box
    wait_until(lambda: not alive(pid))

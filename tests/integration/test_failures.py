"""What goes wrong in tasks and workers, and what callers see of it: exceptions, crashes, retries, lost daemons."""

import ctypes
import os
import signal
import sys
import threading
import time

import numpy as np
import psutil
import pytest

import shoal
from marks import Marks, until
from shoal import session
from shoal.exceptions import ShoalError, TaskError, WorkerCrashedError


@pytest.fixture
def marks(tmp_path):
    return Marks(tmp_path)


@shoal.remote
def identity(value):
    return value


def kill_self(signal_number=signal.SIGKILL):
    os.kill(os.getpid(), signal_number)


# --- exceptions ---


class WithConstructor(Exception):
    def __init__(self, code, *, why):
        super().__init__(f"{code}: {why}")
        self.code = code
        self.why = why


def test_an_exception_arrives_as_itself_and_as_task_error(shoal_session):
    @shoal.remote
    def fail():
        raise WithConstructor(3, why="no reason")

    with pytest.raises(WithConstructor) as caught:
        shoal.get(fail.remote())
    error = caught.value
    assert isinstance(error, TaskError)
    assert isinstance(error, ShoalError)
    assert error.code == 3
    assert error.why == "no reason"
    assert "raise WithConstructor(3" in str(error)
    assert "fail" in error.task_name
    assert error.pid not in (0, os.getpid())
    assert error.node == shoal.get_runtime_context().get_node_id()


def test_an_exception_passes_through_dependent_tasks_and_names_them(shoal_session):
    @shoal.remote
    def fail():
        raise KeyError("the cause")

    first = identity.options(name="second").remote(fail.options(name="first").remote())
    last = identity.options(name="third").remote(first)
    with pytest.raises(KeyError) as caught:
        shoal.get(last)
    assert "first" in str(caught.value)
    assert caught.value.dependents == ("second", "third")


def test_an_exception_passes_through_nested_gets(shoal_session):
    @shoal.remote
    def inner():
        raise ZeroDivisionError("deep")

    @shoal.remote
    def middle():
        return shoal.get(inner.remote())

    @shoal.remote
    def outer():
        return shoal.get(middle.remote())

    with pytest.raises(ZeroDivisionError) as caught:
        shoal.get(outer.remote())
    text = str(caught.value)
    for name in ("inner", "middle", "outer"):
        assert name in text


def test_a_task_can_catch_the_class_of_a_childs_exception(shoal_session):
    @shoal.remote
    def inner():
        raise LookupError("x")

    @shoal.remote
    def outer():
        try:
            shoal.get(inner.remote())
        except LookupError as error:
            return type(error).__mro__[1].__name__

    assert shoal.get(outer.remote()) == "TaskError"


def test_exceptions_that_cannot_travel_still_arrive(shoal_session):
    class Awkward(Exception):
        def __init__(self, lock):
            super().__init__("with a lock")
            self.lock = lock

    class Refuses(Exception):
        def __reduce__(self):
            raise RuntimeError("not me")

    @shoal.remote
    def fail(kind):
        raise (Awkward if kind == "lock" else Refuses)(threading.Lock())

    with pytest.raises(TaskError, match="with a lock"):
        shoal.get(fail.remote("lock"))
    with pytest.raises(TaskError, match="Refuses"):
        shoal.get(fail.remote("refuses"))


def test_an_exception_of_any_size_keeps_its_class(shoal_session):
    @shoal.remote
    def fail():
        error = ValueError("x" * 10_000_000, 7)
        error.row, error.rows = 3, list(range(1_000_000))
        raise error

    with pytest.raises(ValueError, match="could not be sent as it is") as caught:
        shoal.get(fail.remote())
    assert (caught.value.args[1], caught.value.row) == (7, 3)
    assert not hasattr(caught.value, "rows")
    assert len(str(caught.value)) < 100_000


@pytest.mark.parametrize("kind", [KeyboardInterrupt, GeneratorExit, StopIteration])
def test_exceptions_that_steer_python_arrive_as_task_error_only(shoal_session, kind):
    @shoal.remote
    def fail():
        raise kind("steer")

    with pytest.raises(TaskError) as caught:
        shoal.get(fail.remote())
    assert not isinstance(caught.value, kind)
    assert kind.__name__ in str(caught.value)


def test_the_first_failure_of_a_list_raises_at_once(shoal_session, marks):
    @shoal.remote
    def fail():
        raise ValueError("first")

    @shoal.remote
    def wait_for_mark():
        marks.wait("go")

    slow = wait_for_mark.remote()
    with pytest.raises(ValueError, match="first"):
        shoal.get([slow, fail.remote()], timeout=60)
    marks.add("go")
    shoal.get(slow)


def test_results_and_arguments_that_cannot_be_pickled_name_the_culprit(shoal_session):
    @shoal.remote
    def give():
        return {"lock": threading.Lock()}

    with pytest.raises(TypeError, match="lock"):
        shoal.get(give.remote())
    with pytest.raises(TypeError, match="lock"):
        identity.remote([threading.Lock()])


def test_a_function_that_cannot_be_imported_by_the_worker_fails(shoal_session):
    class Unloadable:
        def __reduce__(self):
            return (__import__, ("a_module_that_is_nowhere",))

    with pytest.raises(ModuleNotFoundError, match="nowhere"):
        shoal.get(identity.remote(Unloadable()))
    assert shoal.get(identity.remote(1)) == 1

    class Needs:
        def __reduce__(self):
            return (__import__, ("a_module_that_is_nowhere",))

    needed = Needs()

    @shoal.remote
    def needs_it():
        return needed

    with pytest.raises(
        ModuleNotFoundError, match=r"(?s)^task test_.*needs_it .*have workers find 'a_module_that_is_nowhere'"
    ):
        shoal.get(needs_it.remote())


def test_who_writes_to_an_argument_is_told_to_copy_it(shoal_session):
    @shoal.remote
    def write(array):
        array[0] = 1

    with pytest.raises(ValueError, match=r"(?s)is read-only.*Next: change a copy \(x = x.copy\(\)\)"):
        shoal.get(write.remote(np.zeros(3)))


def test_recursion_without_end_is_an_exception(shoal_session):
    @shoal.remote
    def endless():
        def again():
            again()

        again()

    with pytest.raises(RecursionError):
        shoal.get(endless.remote())


# --- retry_exceptions ---


def test_exceptions_are_retried_only_when_asked(shoal_session, marks):
    @shoal.remote
    def flaky(name, failures, error):
        if marks.add(name) < failures:
            raise error
        return "done"

    with pytest.raises(ValueError, match="once"):
        shoal.get(flaky.remote("plain", 1, ValueError("once")))
    assert marks.count("plain") == 1
    always = flaky.options(retry_exceptions=True)
    assert shoal.get(always.remote("all", 3, ValueError("x"))) == "done"
    listed = flaky.options(retry_exceptions=[OSError])
    assert shoal.get(listed.remote("listed", 2, FileNotFoundError("x"))) == "done"
    with pytest.raises(ValueError, match="not listed"):
        shoal.get(listed.remote("other", 2, ValueError("not listed")))
    assert marks.count("other") == 1


def test_retries_of_exceptions_are_bounded_by_max_retries(shoal_session, marks):
    @shoal.remote(retry_exceptions=True)
    def fail(name):
        marks.add(name)
        raise ValueError("again")

    for name, retries, runs in (("none", 0, 1), ("two", 2, 3)):
        with pytest.raises(ValueError, match="again"):
            shoal.get(fail.options(max_retries=retries).remote(name))
        assert marks.count(name) == runs


def test_a_failed_argument_is_not_retried(shoal_session, marks):
    @shoal.remote
    def fail():
        marks.add("fail")
        raise ValueError("once")

    dependent = identity.options(retry_exceptions=True)
    with pytest.raises(ValueError, match="once"):
        shoal.get(dependent.remote(fail.remote()))
    assert marks.count("fail") == 1


def test_retries_in_place(shoal_session, marks):
    @shoal.remote(retry_exceptions=True, max_retries=2)
    def flaky(name, failures):
        if marks.add(name) < failures:
            raise ValueError(name)
        return "done"

    @shoal.remote
    def parent(name, failures):
        return shoal.get(flaky.remote(name, failures)), os.getpid()

    assert shoal.get(parent.remote("two", 2))[0] == "done"
    assert marks.count("two") == 3
    with pytest.raises(ValueError, match="three"):
        shoal.get(parent.remote("three", 3))
    assert marks.count("three") == 3


# --- crashes ---


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("kill", "SIGKILL"),
        ("segfault", "SIGSEGV"),
        ("exit", "exit code 7"),
        ("sys.exit", "exit code 3"),
        ("abort", "SIGABRT"),
    ],
)
def test_a_crash_says_how_the_worker_ended(shoal_session, how, said):
    @shoal.remote(max_retries=0)
    def crash():
        if how == "kill":
            kill_self()
        elif how == "segfault":
            ctypes.string_at(0)
        elif how == "exit":
            os._exit(7)
        elif how == "abort":
            os.abort()
        sys.exit(3)

    with pytest.raises(WorkerCrashedError) as caught:
        shoal.get(crash.remote())
    error = caught.value
    assert said in {error.signal_name, f"exit code {error.exit_code}"}
    assert error.pid
    assert shoal.get(identity.remote(1)) == 1


def test_a_crash_is_retried_three_times_by_default(shoal_session, marks):
    @shoal.remote
    def crash(name, failures):
        if marks.add(name) < failures:
            kill_self()
        return "done"

    assert shoal.get(crash.remote("thrice", 3)) == "done"
    assert marks.count("thrice") == 4
    with pytest.raises(WorkerCrashedError, match=r"tried 4 times \(max_retries=3\)"):
        shoal.get(crash.remote("four times", 4))
    assert marks.count("four times") == 4
    with pytest.raises(WorkerCrashedError):
        shoal.get(crash.options(max_retries=0).remote("never", 1))
    assert marks.count("never") == 1
    assert shoal.get(crash.options(max_retries=-1).remote("always", 8)) == "done"


def test_a_task_that_is_killed_from_outside_runs_again(shoal_session, marks):
    @shoal.remote
    def slow():
        if marks.add("slow") == 0:
            time.sleep(60)
        return os.getpid()

    ref = slow.remote()
    marks.wait("slow")
    victim = marks.pid("slow")
    os.kill(victim, signal.SIGKILL)
    assert shoal.get(ref, timeout=60) != victim


def test_only_the_running_task_counts_an_attempt(shoal_session, marks):
    """Many short tasks are sent ahead to a worker that one of them kills: the others run as if nothing had been."""

    @shoal.remote
    def warm(_):
        return os.getpid()

    @shoal.remote(max_retries=0)
    def once(number, killer):
        marks.add(f"run{number}")
        if number == killer:
            kill_self()
        return number

    shoal.get([once.remote(-1, -2) for _ in range(20)])
    refs = [once.remote(number, 60) for number in range(120)]
    results = []
    for number, ref in enumerate(refs):
        try:
            results.append(shoal.get(ref, timeout=60))
        except WorkerCrashedError:
            results.append(("crashed", number))
    assert results == [number if number != 60 else ("crashed", 60) for number in range(120)]
    assert all(marks.count(f"run{number}") == 1 for number in range(120))


def test_results_that_were_lost_with_the_worker_cost_no_attempt(shoal_session, marks):
    @shoal.remote(max_retries=1)
    def short(number, killers):
        if number in killers and marks.add(f"kill{number}") == 0:
            kill_self()
        return number

    shoal.get([short.remote(-1, ()) for _ in range(20)])
    killers = tuple(range(10, 200, 10))
    assert shoal.get([short.remote(n, killers) for n in range(200)], timeout=60) == list(range(200))


def test_a_crash_in_place_is_the_childs_in_the_end(shoal_session, marks):
    """A child that runs inside its parent takes it down once; then it runs apart, and its own max_retries count."""

    @shoal.remote(max_retries=1)
    def child():
        marks.add("child")
        kill_self()

    @shoal.remote
    def parent():
        marks.add("parent")
        try:
            shoal.get(child.remote())
        except WorkerCrashedError:
            return "the child crashed"

    assert shoal.get(parent.remote(), timeout=60) == "the child crashed"
    assert marks.count("parent") <= 2


def test_neither_parent_nor_child_that_may_not_run_twice_shares_a_process(shoal_session, marks):
    @shoal.remote
    def hold():
        marks.add("held")
        marks.wait("release")

    @shoal.remote(max_retries=0)
    def crash():
        kill_self()

    @shoal.remote
    def fine():
        return os.getpid()

    @shoal.remote
    def parent():
        with pytest.raises(WorkerCrashedError):
            shoal.get(crash.remote())
        return os.getpid(), shoal.get(fine.remote())

    holding = hold.remote()  # or a child might get the other CPU before its parent waits for it
    marks.wait("held")
    own, childs = shoal.get(parent.remote(), timeout=60)
    own_careful, childs_careful = shoal.get(parent.options(max_retries=0).remote(), timeout=60)
    assert own == childs  # in place
    assert own_careful != childs_careful
    marks.add("release")
    shoal.get(holding)


def test_sys_exit_in_place_ends_the_child_alone(shoal_session, marks):
    @shoal.remote(max_retries=2)
    def leave():
        marks.add("leave")
        sys.exit(5)

    @shoal.remote
    def parent():
        marks.add("parent")
        try:
            shoal.get(leave.remote())
        except WorkerCrashedError as error:
            return error.exit_code

    assert shoal.get(parent.remote()) == 5
    assert (marks.count("parent"), marks.count("leave")) == (1, 3)


def test_children_of_a_dead_worker_are_cancelled_and_its_results_fail(shoal_session, marks):
    @shoal.remote
    def child():
        marks.add("child")
        time.sleep(60)

    @shoal.remote(max_retries=0)
    def parent():
        ref = child.remote()
        marks.wait("child")
        shoal.put([ref])
        marks.add("parent")
        time.sleep(60)

    ref = parent.remote()
    marks.wait("parent")
    child_pid = marks.pid("child")
    os.kill(marks.pid("parent"), signal.SIGKILL)
    with pytest.raises(WorkerCrashedError):
        shoal.get(ref, timeout=60)
    until(lambda: not psutil.pid_exists(child_pid))


def test_idle_workers_may_be_killed(shoal_session):
    for _ in range(3):
        victim = shoal.get(shoal.remote(os.getpid).remote())
        os.kill(victim, signal.SIGKILL)
        assert shoal.get([identity.remote(i) for i in range(10)], timeout=60) == list(range(10))


def test_grandchildren_of_a_worker_go_with_it(shoal_session, marks):
    @shoal.remote(max_retries=0)
    def start_process():
        process = psutil.Popen(["sleep", "300"], start_new_session=True)
        open(os.path.join(marks.folder, f"sleeper.0.{process.pid}"), "w").close()
        kill_self()

    with pytest.raises(WorkerCrashedError):
        shoal.get(start_process.remote())
    sleeper = marks.pid("sleeper")
    until(lambda: not psutil.pid_exists(sleeper))


# --- what cannot be placed ---


def test_what_can_never_be_placed_says_so(shoal_session, capfd):
    impossible = identity.options(resources={"unobtainium": 1}).remote(1)
    said = ""

    def is_said():
        nonlocal said
        shoal.wait([impossible], timeout=0.01)
        said += capfd.readouterr().err
        return "cannot run now" in said and said.endswith("\n")

    until(is_said)
    with pytest.raises(shoal.exceptions.GetTimeoutError, match="unobtainium"):
        shoal.get(impossible, timeout=0.01)
    assert "unobtainium 1" in said
    assert "CPU 2" in said
    assert shoal.get(identity.remote(2)) == 2


def test_a_broken_connection_to_a_living_worker_is_a_death_of_it(shoal_session, marks):
    """Nothing waits for ever for a worker that has closed the connection, whatever made it do that."""

    @shoal.remote
    def long(name):
        if marks.add(name) == 0:
            time.sleep(600)
        return os.getpid()

    def break_connection():
        runtime = session.runtime()
        with runtime.lock:
            (lease,) = [lease for lease in runtime.dispatch.leases.values() if lease.inflight]
            lease.connection.send(b"\xff" * 64)  # no frame
            return lease.pid

    ref = long.options(max_retries=0).remote("once")
    marks.wait("once")
    break_connection()
    with pytest.raises(WorkerCrashedError):
        shoal.get(ref, timeout=60)
    ref = long.remote("twice")
    marks.wait("twice")
    broken = break_connection()
    assert shoal.get(ref, timeout=60) != broken
    assert marks.count("twice") == 2

"""Tasks on another node than their driver: everything that holds on one node holds there too."""

import os
import signal
import socket
import subprocess
import sys
import time

import pytest

import shoal
from marks import Marks
from nodeclient import until
from shoal.control import request
from shoal.exceptions import TaskCancelledError, TaskError, WorkerCrashedError
from shoal.testing import Cluster

TIMEOUT_S = 60


@pytest.fixture
def marks(tmp_path):
    return Marks(tmp_path)


@pytest.fixture(scope="module")
def two(module_leaves_nothing):
    """A driver on a node without CPUs, and another node with two; yields that other node."""
    with Cluster(num_cpus=0) as cluster:
        other = cluster.add_node(num_cpus=2, resources={"disk": 1})
        shoal.init(cluster.address)
        try:
            yield other
        finally:
            shoal.shutdown()


@pytest.fixture
def shoal_session(two):
    """The module's cluster; the name says to the check for leaks that it is shared."""
    return shoal


@pytest.fixture
def other(two, shoal_session):
    return two


def get(refs):
    return shoal.get(refs, timeout=TIMEOUT_S)


@shoal.remote
def where():
    return shoal.get_runtime_context().get_node_id()


@shoal.remote
def identity(value):
    return value


def test_a_task_runs_where_there_are_cpus(other):
    assert get(where.remote()) == other.node_id != shoal.get_runtime_context().get_node_id()


def test_a_task_runs_where_its_resource_is(other):
    assert get(where.options(num_cpus=0, resources={"disk": 1}).remote()) == other.node_id


def test_a_task_that_needs_nothing_stays(other):
    assert get(where.options(num_cpus=0).remote()) == shoal.get_runtime_context().get_node_id()


def test_many_tasks(other):
    assert get([identity.remote(number) for number in range(3000)]) == list(range(3000))


def test_results_feed_tasks(other):
    ref = identity.remote(0)
    for _ in range(20):
        ref = identity.remote(ref)
    assert get(ref) == 0


def test_an_exception_says_where_it_was_raised(other):
    @shoal.remote
    def fail():
        raise KeyError("there")

    with pytest.raises(KeyError) as caught:
        get(identity.remote(fail.remote()))
    assert isinstance(caught.value, TaskError)
    assert caught.value.node == other.node_id


def test_nested_tasks(other):
    @shoal.remote
    def fibonacci(number):
        if number < 2:
            return number
        return sum(shoal.get([fibonacci.remote(number - 1), fibonacci.remote(number - 2)]))

    assert get(fibonacci.remote(8)) == 21


def test_children_run_on_the_nodes_that_have_room(other):
    @shoal.remote
    def parent():
        return shoal.get(where.options(num_cpus=0).remote()), shoal.get(where.remote())

    assert get(parent.remote()) == (other.node_id, other.node_id)


def test_a_generator_streams(other):
    @shoal.remote(num_returns="streaming")
    def count(number):
        for value in range(number):
            yield value, shoal.get_runtime_context().get_node_id()

    items = [get(ref) for ref in count.remote(200)]
    assert items == [(value, other.node_id) for value in range(200)]


def test_several_returns(other):
    @shoal.remote(num_returns=3)
    def three():
        return 1, 2, 3

    assert get(three.remote()) == [1, 2, 3]


# --- crashes ---


def test_a_crash_is_tried_again_and_says_where(other, marks):
    @shoal.remote(max_retries=2)
    def crash():
        marks.add("run")
        os.kill(os.getpid(), signal.SIGKILL)

    with pytest.raises(WorkerCrashedError) as caught:
        get(crash.remote())
    assert marks.count("run") == 3
    error = caught.value
    assert error.node == other.node_id
    assert error.signal_name == "SIGKILL"
    assert error.log_path.startswith(other.session_dir)


def test_replies_of_a_worker_that_dies_count(other, marks):
    """Sent before the end, they may arrive after its news."""

    @shoal.remote(max_retries=0)
    def work(number):
        if number == 99:
            os._exit(3)
        marks.add(f"run{number}")
        return number

    refs = [work.remote(number) for number in range(100)]
    assert get(refs[:99]) == list(range(99))
    with pytest.raises(WorkerCrashedError) as caught:
        get(refs[99])
    assert caught.value.exit_code == 3
    assert all(marks.count(f"run{number}") == 1 for number in range(99))


def test_leaving_through_max_calls(other):
    @shoal.remote(max_calls=2)
    def pid():
        return os.getpid()

    pids = get([pid.remote() for _ in range(8)])
    assert len(set(pids)) >= 4


# --- cancel ---


def assert_cancelled(ref):
    with pytest.raises(TaskCancelledError):
        get(ref)


@pytest.mark.parametrize("force", [False, True])
def test_a_running_task_is_cancelled(other, marks, force):
    @shoal.remote(max_retries=0)
    def sleep():
        marks.add("begun")
        time.sleep(60)

    ref = sleep.remote()
    marks.wait("begun")
    shoal.cancel(ref, force=force)
    assert_cancelled(ref)
    assert get(identity.remote(1)) == 1


def test_a_queued_task_is_cancelled(other, marks):
    @shoal.remote
    def hold():
        marks.add("held")
        marks.wait("release")

    @shoal.remote
    def never():
        marks.add("never")

    holding = [hold.remote() for _ in range(2)]
    marks.wait("held", 2)
    ref = never.remote()
    shoal.cancel(ref)
    assert_cancelled(ref)
    marks.add("release")
    get(holding)
    assert marks.count("never") == 0


def test_a_cancel_reaches_children(other, marks):
    @shoal.remote
    def child():
        marks.add("begun")
        while True:
            time.sleep(0.01)

    @shoal.remote
    def parent():
        return shoal.get(child.remote())

    ref = parent.remote()
    marks.wait("begun")
    shoal.cancel(ref, recursive=True)
    assert_cancelled(ref)
    assert get(identity.remote(1)) == 1


# --- the end of drivers ---


def workers_of(node):
    return [row for row in _rows(node, "workers") if row["job"]]


def _rows(node, what):
    return request(node.socket, node.secret, what, {})["rows"]


SCRIPT = """
import os, sys, time
import shoal
shoal.init({address!r})

@shoal.remote
def hold(number):
    print("line", number, flush=True)
    if {stay}:
        time.sleep(600)

refs = [hold.remote(number) for number in range(2)]
if {stay}:
    print("waits", flush=True)
    time.sleep(600)
shoal.get(refs)
shoal.shutdown()
"""


def test_nothing_is_left_of_a_driver_that_was_killed(other, tmp_path):
    script = SCRIPT.format(address=_address(), stay=True)
    driver = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    try:
        until(lambda: len(_of_other_jobs(other)) >= 2, "its tasks run")
    finally:
        driver.kill()
        driver.communicate()
    until(lambda: not _of_other_jobs(other), "its workers are gone")
    assert get(identity.remote(1)) == 1


def _of_other_jobs(node):
    own = shoal.get_runtime_context().get_job_id()
    return [row for row in workers_of(node) if row["job"] != own]


def _address():
    return shoal.get_runtime_context().gcs_address


def test_what_workers_there_print_is_all_printed_before_a_driver_ends(other):
    script = SCRIPT.format(address=_address(), stay=False)
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True
    )
    lines = sorted(line.partition(") ")[2] for line in done.stdout.splitlines() if line.startswith("("))
    assert lines == ["line 0", "line 1"], done.stdout
    assert other.node_id[:8] in done.stdout
    until(lambda: not _of_other_jobs(other), "its workers are gone")


# --- connections that break, and much at once ---


def test_a_connection_that_breaks_costs_an_attempt_and_no_more(other, marks):
    """The worker lives, and only the way to it is gone: nobody but the submitter can notice."""

    @shoal.remote(max_retries=1)
    def cut():
        if not marks.add("run"):
            marks.wait("never")
        return marks.count("run")

    ref = cut.remote()
    marks.wait("run")
    runtime = shoal.session.runtime()
    with runtime.lock:
        [lease] = [lease for lease in runtime.dispatch.leases.values() if lease.inflight]
        lease.connection.sock.shutdown(socket.SHUT_RDWR)
    assert get(ref) == 2


def test_what_workers_there_print_is_printed_however_much_it_is(other):
    script = f"""
import shoal
shoal.init({_address()!r})

@shoal.remote
def write(name):
    for number in range(20_000):
        print(name, number)

shoal.get([write.remote(name) for name in "ab"])
shoal.shutdown()
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True
    )
    printed = [line.partition(") ")[2] for line in done.stdout.splitlines()]
    for name in "ab":
        numbers = [int(line[2:]) for line in printed if line.startswith(f"{name} ")]
        assert numbers == list(range(20_000))

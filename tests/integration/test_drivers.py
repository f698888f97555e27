"""Drivers as users start them: scripts, sessions one after another, and every way to die.

Each test has processes of its own; the check that nothing is left behind (`no_leaks`) is part of each.
"""

import os
import signal
import threading
import time

import psutil
import pytest

import shoal
from marks import Marks, until
from scripts import PRELUDE, Script
from shoal.exceptions import NodeDiedError


@pytest.fixture
def script(tmp_path):
    started = []

    def start(source, **environment):
        started.append(Script(tmp_path, source, **environment))
        return started[-1]

    yield start
    for each in started:
        if each.process.poll() is None:
            each.process.kill()
        each.process.communicate()


@pytest.fixture
def marks(tmp_path):
    (tmp_path / "marks").mkdir()
    return Marks(tmp_path / "marks")


# --- scripts ---


def test_what_a_script_prints_right_after_a_fact_is_not_lost(script):
    run = script("print('before\\n{\"a\": 1}\\nafter', flush=True)")
    assert run.line() == {"a": 1}
    assert run.finish()[0] == "before\nafter\n"


def test_functions_of_main_and_of_modules_beside_the_script(script, tmp_path):
    (tmp_path / "helpers.py").write_text("OFFSET = 100\n\ndef shifted(x):\n    return OFFSET + x\n")
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "__init__.py").write_text("from package.inner import tripled\n")
    (tmp_path / "package" / "inner.py").write_text(
        "import shoal\n\n@shoal.remote\ndef tripled(x):\n    return 3 * x\n"
    )
    run = script(
        PRELUDE
        + """
from dataclasses import dataclass
import helpers
from package import tripled

SCALE = 2

@dataclass
class Point:
    x: int

def scaled(x):
    return SCALE * helpers.shifted(x)

@shoal.remote
def f(point):
    return Point(scaled(point.x))

@shoal.remote
def fact(n):
    return 1 if n == 0 else n * shoal.get(fact.remote(n - 1))

def make(step):
    return shoal.remote(lambda x: x + step)

if __name__ == "__main__":
    shoal.init(num_cpus=2)
    point = shoal.get(f.remote(Point(1)))
    tell(
        point=point.x,
        same_class=type(point) is Point,
        fact=shoal.get(fact.remote(20)),
        tripled=shoal.get(tripled.remote(5)),
        made=shoal.get(make(7).remote(1)),
        cwd=shoal.get(shoal.remote(os.getcwd).remote()) == os.getcwd(),
    )
"""
    )
    assert run.line() == {
        "point": 202,
        "same_class": True,
        "fact": 2432902008176640000,
        "tripled": 15,
        "made": 8,
        "cwd": True,
    }
    run.finish()


def test_functions_and_classes_of_a_spawned_process(script, no_leaks):
    """Its main module is called __mp_main__, which no worker can import."""
    run = script(
        PRELUDE
        + """
import multiprocessing
from dataclasses import dataclass

STEP = 3

@dataclass
class Point:
    x: int

def moved(point):
    return Point(point.x + STEP)

def drive():
    shoal.init(num_cpus=1)
    there = shoal.get(shoal.remote(moved).remote(Point(1)))
    kept = shoal.get(shoal.put([Point(5)]))
    tell(x=there.x, same_class=type(there) is Point, kept=kept == [Point(5)])
    shoal.shutdown()

if __name__ == "__main__":
    child = multiprocessing.get_context("spawn").Process(target=drive)
    child.start()
    child.join()
"""
    )
    assert run.line() == {"x": 4, "same_class": True, "kept": True}
    run.finish()


def test_a_process_without_room_for_the_store_is_told_so(script, no_leaks):
    run = script(
        PRELUDE
        + """
import resource
resource.setrlimit(resource.RLIMIT_AS, (3 << 30, 3 << 30))
try:
    shoal.init(num_cpus=1, object_store_memory=2 << 30)
except shoal.exceptions.ClusterStartError as error:
    tell(error=str(error))
"""
    )
    assert "cannot map the object store of 2.15 GB" in run.line()["error"]
    assert run.finish()[1] == ""


def test_a_script_without_init_and_without_shutdown(script):
    run = script(
        PRELUDE
        + """
@shoal.remote
def f(x):
    print("from the task")
    return x

tell(value=shoal.get(f.remote(5)))
"""
    )
    assert run.line() == {"value": 5}
    out, err = run.finish()
    assert "from the task" in out + err


def test_a_script_that_raises_leaves_nothing_and_its_own_exit_code(script):
    run = script(
        PRELUDE
        + """
shoal.init(num_cpus=1)
refs = [shoal.remote(time.sleep).remote(300) for _ in range(4)]
raise SystemExit(7)
"""
    )
    run.finish(7)


def test_a_script_that_exits_while_threads_wait_in_get(script):
    run = script(
        PRELUDE
        + """
shoal.init(num_cpus=1)
ref = shoal.remote(time.sleep).remote(300)
threading.Thread(target=lambda: shoal.get(ref), daemon=True).start()
time.sleep(0.2)
tell(ready=True)
"""
    )
    run.line()
    run.finish()


def test_multiprocessing_in_a_driver_with_a_session(script):
    run = script(
        PRELUDE
        + """
import multiprocessing

def child(queue):
    try:
        shoal.put(1)
    except RuntimeError as error:
        queue.put(str(error))

shoal.init(num_cpus=1)
context = multiprocessing.get_context("fork")
queue = context.SimpleQueue()
process = context.Process(target=child, args=(queue,))
process.start()
said = queue.get()
process.join()
tell(said=said, after=shoal.get(shoal.remote(lambda: 5).remote()))
"""
    )
    facts = run.line()
    assert "forked" in facts["said"]
    assert facts["after"] == 5
    run.finish()


# --- sessions one after another ---


def test_init_shutdown_init(no_leaks):
    @shoal.remote
    def f(x):
        return x + 1

    for number in range(4):
        shoal.init(num_cpus=1)
        assert shoal.is_initialized()
        assert shoal.get(f.remote(number)) == number + 1
        if number == 1:
            with pytest.raises(RuntimeError, match="second time"):
                shoal.init()
            assert shoal.init(ignore_reinit_error=True).node_id
        shoal.shutdown()
        shoal.shutdown()
        assert not shoal.is_initialized()


def test_a_session_as_a_context_manager(no_leaks):
    with shoal.init(num_cpus=1) as context:
        assert context.address_info["node_id"] == context.node_id
        assert context.address_info["address"].startswith("127.0.0.1:")  # though its head is just starting
        assert shoal.get(shoal.remote(lambda: 1).remote()) == 1
    assert not shoal.is_initialized()


def test_shutdown_while_other_threads_wait(no_leaks):
    shoal.init(num_cpus=1)
    ref = shoal.remote(time.sleep).remote(300)
    failures = []

    def wait(how):
        try:
            how()
        except BaseException as error:
            failures.append(error)

    waits = [lambda: shoal.get(ref), lambda: shoal.wait([ref]), lambda: ref.future().result()]
    threads = [threading.Thread(target=wait, args=(how,)) for how in waits]
    for thread in threads:
        thread.start()
    entry = shoal.session.runtime().table.entry_of(ref)
    until(lambda: len(entry.waiters or ()) == len(threads))
    shoal.shutdown()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()
    assert [type(error) for error in failures].count(NodeDiedError) >= 2


def test_custom_resources_and_memory_are_shared_out(no_leaks, tmp_path):
    shoal.init(num_cpus=4, resources={"licence": 1.5})
    try:

        @shoal.remote(num_cpus=0, resources={"licence": 0.75})
        def hold(number):
            (tmp_path / f"start{number}").touch()
            time.sleep(0.05)
            concurrent = len(list(tmp_path.glob("start*"))) - len(list(tmp_path.glob("end*")))
            (tmp_path / f"end{number}").touch()
            return concurrent

        @shoal.remote
        def identity(value):
            return value

        assert max(shoal.get([hold.remote(number) for number in range(8)])) <= 2
        until(lambda: all(row["NodeManagerPort"] > 0 for row in shoal.nodes()))
        assert {row["NodeManagerAddress"] for row in shoal.nodes()} == {"127.0.0.1"}
        total = shoal.cluster_resources()
        assert total["licence"] == 1.5
        half = identity.options(memory=int(total["memory"] / 2))
        assert shoal.get([half.remote(i) for i in range(4)]) == [0, 1, 2, 3]
        assert shoal.get(identity.options(resources={"licence": 0.0001}).remote(1)) == 1
    finally:
        shoal.shutdown()


# --- deaths ---


def test_a_worker_that_owns_unfinished_work_is_not_ended_for_idling(no_leaks, marks, monkeypatch):
    monkeypatch.setenv("SHOAL_IDLE_WORKER_MS", "50")
    monkeypatch.setenv("SHOAL_LEASE_IDLE_MS", "20")

    @shoal.remote(num_cpus=0)
    def child():
        marks.wait("go")
        return "made"

    @shoal.remote
    def parent():
        ref = child.remote()
        marks.add("parent")
        marks.wait("parent", 4)  # each in a process of its own
        return ref, os.getpid()

    with shoal.init(num_cpus=1):
        # Several owners, so that some of them are more than the number that is kept warm.
        made = shoal.get([parent.options(num_cpus=0).remote() for _ in range(4)])
        shoal.get(shoal.remote(os.getpid).remote())
        time.sleep(0.5)  # long enough for idle ones to be ended
        marks.add("go")
        assert shoal.get([ref for ref, _ in made], timeout=60) == ["made"] * 4


def parent_of(process):
    """Its parent's id; None if it has ended, which it may at any time."""
    try:
        return process.ppid()
    except psutil.NoSuchProcess:
        return None


def processes():
    """The daemon, its fork server, and the workers, of this process's session."""
    daemon = next(child for child in psutil.Process().children() if "shoald" in " ".join(child.cmdline()))
    family = daemon.children(
        recursive=True
    )  # in one look: a process that is ending has no children to ask for
    parents = [parent_of(process) for process in family]
    server = max(daemon.children(), key=lambda child: parents.count(child.pid))
    return daemon, server, [process for process in family if parent_of(process) == server.pid]


def test_the_fork_server_may_die(no_leaks):
    shoal.init(num_cpus=2)
    try:
        marks = shoal.remote(os.getpid)
        before = shoal.get([marks.remote() for _ in range(4)])
        for _ in range(2):
            _, server, workers = processes()
            server.kill()
            psutil.wait_procs([server, *workers], timeout=60)
            after = shoal.get([marks.remote() for _ in range(20)], timeout=60)
            assert not set(after) & set(before)
            before = after
    finally:
        shoal.shutdown()


def test_the_daemon_is_killed(no_leaks, marks):
    shoal.init(num_cpus=2)

    @shoal.remote
    def sleep():
        marks.add("sleep")
        time.sleep(300)

    refs = [sleep.remote() for _ in range(3)]
    marks.wait("sleep", 2)
    daemon, server, workers = processes()
    threading.Timer(0.2, daemon.kill).start()
    with pytest.raises(NodeDiedError, match="daemon"):
        shoal.get(refs)
    psutil.wait_procs([server, *workers], timeout=60)
    assert not server.is_running()
    assert not any(worker.is_running() for worker in workers)
    for call in (
        lambda: shoal.get(refs[0]),
        lambda: sleep.remote(),
        lambda: shoal.put(bytes(10**6)),
        lambda: shoal.nodes(),
    ):
        with pytest.raises(NodeDiedError):
            call()
    with pytest.raises(NodeDiedError):
        shoal.get(shoal.wait(refs, timeout=60)[0])
    shoal.init(num_cpus=1)  # a new one, without an explicit shutdown
    try:
        assert shoal.get(shoal.remote(lambda: 7).remote()) == 7
    finally:
        shoal.shutdown()


DYING = (
    PRELUDE
    + """
import numpy as np, signal

signal.signal(signal.SIGHUP, signal.SIG_DFL)  # as it is unless the tests run under nohup
folder = sys.argv[1]
shoal.init(num_cpus=2)
stored = shoal.put(np.ones(2_000_000))

@shoal.remote
def nested(depth):
    if depth:
        return shoal.get(nested.options(max_retries=0).remote(depth - 1))
    open(os.path.join(folder, "deep"), "w").close()
    time.sleep(300)

refs = [nested.remote(3), *[shoal.remote(lambda x: x.sum()).remote(stored) for _ in range(100)]]
while not os.path.exists(os.path.join(folder, "deep")):
    time.sleep(0.005)
context = shoal.get_runtime_context()
tell(session=context.get_session_dir())
"""
)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGHUP])
def test_a_driver_that_is_killed_leaves_nothing(script, number):
    run = script(DYING + "\nshoal.get(refs)\n")
    session = run.line()["session"]
    family = psutil.Process(run.process.pid).children(recursive=True)
    assert len(family) >= 5
    run.process.send_signal(number)
    run.finish(-number)
    psutil.wait_procs(family, timeout=60)
    assert not [process for process in family if process.is_running()]
    until(lambda: not os.path.exists(session))


def test_driver_and_daemon_killed_at_once_leave_no_process(script):
    run = script(DYING + "\nshoal.get(refs)\n")
    session = run.line()["session"]
    family = psutil.Process(run.process.pid).children(recursive=True)
    daemon = psutil.Process(run.process.pid).children()[0]
    run.process.send_signal(signal.SIGSTOP)  # it does not see the daemon's end
    daemon.kill()
    run.process.kill()
    run.finish(-signal.SIGKILL)
    psutil.wait_procs(family, timeout=60)
    assert not [process for process in family if process.is_running()]
    # The directory is swept by the next session of this user.
    with shoal.init(num_cpus=1):
        assert not os.path.exists(session)

"""Drivers as users start them: scripts, Ctrl-C, signals, sessions one after another, and every way to die.

Each test has processes of its own; the check that nothing is left behind (`no_leaks`) is part of each.
"""

import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import psutil
import pytest

import shoal
from marks import Marks, until
from shoal.exceptions import NodeDiedError

LIMIT_S = 60


class Script:
    """A driver in a process of its own, which prints a line of JSON for each fact that a test needs."""

    def __init__(self, folder: Path, source: str, **environment: str) -> None:
        self.path = folder / "script.py"
        self.path.write_text(textwrap.dedent(source))
        self.process = subprocess.Popen(
            [sys.executable, str(self.path), str(folder)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=folder,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **environment},
        )

    def line(self):
        """The next fact; fails with the script's errors if it has ended."""
        while True:
            text = self.process.stdout.readline()
            if not text:
                pytest.fail(f"the script ended: {self.process.communicate()[1]}")
            if text.startswith("{"):
                return json.loads(text)

    def finish(self, code=0):
        """Wait for its end; returns what else it printed, and its errors."""
        out, err = self.process.communicate(timeout=LIMIT_S)
        assert self.process.returncode == code, err
        return out, err


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


PRELUDE = """
import json, os, signal, sys, threading, time
import shoal

def tell(**facts):
    print(json.dumps(facts), flush=True)
"""


# --- scripts ---


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


# --- Ctrl-C and signals ---


CTRL_C = (
    PRELUDE
    + """
folder = sys.argv[1]

@shoal.remote
def sleep(number):
    open(os.path.join(folder, f"started{number}"), "w").close()
    time.sleep(300)

@shoal.remote
def alive(x):
    return x

shoal.init(num_cpus=2)
shoal.get(alive.remote(1))
refs = [sleep.remote(number) for number in range(4)]
while not all(os.path.exists(os.path.join(folder, f"started{number}")) for number in range(2)):
    time.sleep(0.005)

pressed = None

def press():
    global pressed
    time.sleep(0.3)
    pressed = time.monotonic()
    os.kill(os.getpid(), signal.SIGINT)
"""
)


def test_ctrl_c_in_get_returns_at_once_with_the_tasks_cancelled(script):
    run = script(
        CTRL_C
        + """
threading.Thread(target=press).start()
try:
    WAIT
except KeyboardInterrupt:
    tell(took_s=time.monotonic() - pressed)
states = []
for ref in refs:
    try:
        shoal.get(ref, timeout=30)
    except shoal.exceptions.TaskCancelledError:
        states.append("cancelled")
tell(states=states, values=shoal.get([alive.remote(i) for i in range(10)]))
""".replace("WAIT", "shoal.get(refs)")
    )
    # A hundred milliseconds on an idle machine; here it is shared, and the clock also counts its other work.
    assert run.line()["took_s"] < 0.5
    assert run.line() == {"states": ["cancelled"] * 4, "values": list(range(10))}
    run.finish()


@pytest.mark.parametrize(
    "wait",
    [
        "shoal.wait(refs)",
        "shoal.get(refs[0], timeout=300)",
        "refs[0].future().result()",
        "next(shoal.remote(num_returns='streaming')(lambda: time.sleep(300) or []).remote())",
    ],
)
def test_ctrl_c_in_other_waits_returns_and_the_session_goes_on(script, wait):
    run = script(
        CTRL_C
        + f"""
threading.Thread(target=press).start()
try:
    {wait}
except KeyboardInterrupt:
    tell(took_s=time.monotonic() - pressed)
for ref in refs:
    shoal.cancel(ref, force=True)
tell(values=shoal.get([alive.remote(i) for i in range(10)], timeout=30))
"""
    )
    assert run.line()["took_s"] < 0.5
    assert run.line() == {"values": list(range(10))}
    run.finish()


def test_ctrl_c_that_is_not_caught_ends_the_script(script):
    run = script(CTRL_C + "\nthreading.Thread(target=press).start()\nshoal.get(refs)\n")
    _, err = run.finish(-signal.SIGINT)
    assert "KeyboardInterrupt" in err


def test_ctrl_c_many_times_while_tasks_are_submitted_and_read(script):
    run = script(
        PRELUDE
        + """
@shoal.remote
def alive(x):
    return x

shoal.init(num_cpus=2)
shoal.get(alive.remote(0))
stop = armed = False

def on_signal(number, frame):
    global armed
    if armed:  # once per attempt: this script's own bookkeeping is not what is tested
        armed = False
        raise KeyboardInterrupt

signal.signal(signal.SIGINT, on_signal)

def press():
    while not stop:
        time.sleep(0.003)
        os.kill(os.getpid(), signal.SIGINT)

presser = threading.Thread(target=press)
presser.start()
hits = 0
deadline = time.monotonic() + 1.5
while time.monotonic() < deadline:
    try:
        armed = True
        while time.monotonic() < deadline:
            shoal.get([alive.remote(i) for i in range(20)], timeout=30)
        armed = False
    except KeyboardInterrupt:
        hits += 1
stop = True
presser.join()
tell(hits=hits > 5, values=shoal.get([alive.remote(i) for i in range(100)], timeout=30) == list(range(100)))
"""
    )
    assert run.line() == {"hits": True, "values": True}
    run.finish()


def test_signal_handlers_of_the_user_are_kept_and_called_during_get(script):
    run = script(
        PRELUDE
        + """
calls = []

def on_signal(number, frame):
    calls.append(signal.Signals(number).name)

class TooLong(Exception):
    pass

def on_alarm(number, frame):
    raise TooLong

signal.signal(signal.SIGINT, on_signal)
signal.signal(signal.SIGUSR1, on_signal)
signal.signal(signal.SIGALRM, on_alarm)
shoal.init(num_cpus=2)

@shoal.remote
def sleep(s):
    time.sleep(s)
    return s

def press():
    for number in (signal.SIGINT, signal.SIGUSR1):
        time.sleep(0.1)
        os.kill(os.getpid(), number)

shoal.get(sleep.remote(0))
threading.Thread(target=press).start()
value = shoal.get(sleep.remote(0.5))
alarms = 0
for _ in range(100):
    signal.setitimer(signal.ITIMER_REAL, 0.003)
    end = time.monotonic() + 0.1  # an exception raised inside of some __del__ is dropped by Python itself
    try:
        while time.monotonic() < end:
            shoal.get([sleep.remote(0) for _ in range(10)])
    except TooLong:
        alarms += 1
same = [signal.getsignal(n) is h for n, h in
        ((signal.SIGINT, on_signal), (signal.SIGUSR1, on_signal), (signal.SIGALRM, on_alarm))]
tell(calls=calls, value=value, alarms=alarms > 50, same=same, after=shoal.get([sleep.remote(0)], timeout=30))
"""
    )
    assert run.line() == {
        "calls": ["SIGINT", "SIGUSR1"],
        "value": 0.5,
        "alarms": True,
        "same": [True, True, True],
        "after": [0],
    }
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
    time.sleep(0.1)
    shoal.shutdown()
    for thread in threads:
        thread.join(20)
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
        assert shoal.get([ref for ref, _ in made], timeout=30) == ["made"] * 4


def processes():
    """The daemon, its fork server, and the workers, of this process's session."""
    daemon = next(child for child in psutil.Process().children() if "shoald" in " ".join(child.cmdline()))
    server = max(daemon.children(), key=lambda child: len(child.children()))
    return daemon, server, server.children()


def test_the_fork_server_may_die(no_leaks):
    shoal.init(num_cpus=2)
    try:
        marks = shoal.remote(os.getpid)
        before = shoal.get([marks.remote() for _ in range(4)])
        for _ in range(2):
            _, server, workers = processes()
            server.kill()
            psutil.wait_procs([server, *workers], timeout=20)
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
    psutil.wait_procs([server, *workers], timeout=20)
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
        shoal.get(shoal.wait(refs, timeout=5)[0])
    shoal.init(num_cpus=1)  # a new one, without an explicit shutdown
    try:
        assert shoal.get(shoal.remote(lambda: 7).remote()) == 7
    finally:
        shoal.shutdown()


DYING = (
    PRELUDE
    + """
import numpy as np

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
    psutil.wait_procs(family, timeout=20)
    assert not [process for process in family if process.is_running()]
    until(lambda: not os.path.exists(session))


def test_driver_and_daemon_killed_at_once_leave_no_process(script):
    run = script(DYING + "\nshoal.get(refs)\n")
    session = run.line()["session"]
    family = psutil.Process(run.process.pid).children(recursive=True)
    daemon = psutil.Process(run.process.pid).children()[0]
    daemon.kill()
    run.process.kill()
    run.finish(-signal.SIGKILL)
    psutil.wait_procs(family, timeout=20)
    assert not [process for process in family if process.is_running()]
    # The directory is swept by the next session of this user.
    with shoal.init(num_cpus=1):
        assert not os.path.exists(session)

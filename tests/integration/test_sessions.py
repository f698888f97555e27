"""Sessions at their edges: how they end, and what threads, finalizers, awaits and the interpreter do meanwhile."""

import asyncio
import os
import subprocess
import sys
import textwrap
import threading
import time

import pytest

import shoal
from shoal import session
from shoal.testing import Cluster

LIMIT_S = 60


@pytest.fixture
def run_script(tmp_path):
    """Runs a driver in a process of its own to its end; gives what it printed. It must not print any error."""

    def run(source, code=0):
        path = tmp_path / "script.py"
        path.write_text(textwrap.dedent(source))
        done = subprocess.run(
            [sys.executable, str(path)],
            capture_output=True,
            check=False,
            cwd=tmp_path,
            text=True,
            timeout=LIMIT_S,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        )
        assert done.stderr == ""
        assert done.returncode == code
        return done.stdout.split("\n")[:-1]

    return run


# --- the end of the interpreter ---


def test_everything_may_be_alive_when_the_interpreter_ends(run_script):
    printed = run_script("""
        import sys
        import numpy as np
        import shoal

        shoal.init(num_cpus=2)

        @shoal.remote
        def echo(value):
            return value

        @shoal.remote
        def items():
            for i in range(1000):
                yield np.ones(30_000)

        class Node:
            def __del__(self):
                print("finalized")

        node = Node()
        node.itself = node
        node.array = shoal.get(shoal.put(np.ones(100_000)))
        node.ref = echo.remote(shoal.put(np.ones(100_000)))
        node.stream = items.remote()
        node.first = next(node.stream)
        node.future = node.ref.future()
        node.waiting = echo.remote(items.remote().completed()).future()
        node.many = [echo.remote(i) for i in range(1000)]
        sys.modules["something_that_goes_late"] = node
        print("end")
    """)
    assert printed == ["end", "finalized"]


def test_a_thread_may_go_on_after_the_main_thread(run_script):
    printed = run_script("""
        import threading
        import shoal

        shoal.init(num_cpus=2)

        @shoal.remote
        def echo(value):
            return value

        ended = threading.Event()

        def work():
            threading.main_thread().join()
            print(shoal.get(echo.remote("a value")), echo.remote("a future").future().result(60))

        threading.Thread(target=work).start()
    """)
    assert printed == ["a value a future"]


def test_futures_that_nothing_will_resolve_fail_at_the_end(run_script):
    printed = run_script(
        """
        import time
        import shoal

        shoal.init(num_cpus=2)

        @shoal.remote
        def forever():
            time.sleep(1000)

        future = forever.remote().future()
        future.add_done_callback(lambda future: print(type(future.exception()).__name__))
        raise SystemExit(3)
        """,
        code=3,
    )
    assert printed == ["NodeDiedError"]


def test_nothing_is_started_any_more_when_the_interpreter_ends(run_script):
    printed = run_script("""
        import atexit

        def late():
            try:
                shoal.put(1)
            except RuntimeError as error:
                print(error)

        atexit.register(late)  # before shoal's: runs after it
        import shoal

        atexit.register(lambda: print(shoal.get(shoal.put("in time"))))
        shoal.init(num_cpus=1)
    """)
    assert printed[0] == "in time"
    assert "the interpreter is ending" in printed[1]


# --- awaiting ---


def test_an_abandoned_await_holds_nothing_up_and_loses_nothing(cluster, tmp_path):
    gate = tmp_path / "gate"

    @shoal.remote
    def items():
        yield "first"
        while not gate.exists():
            time.sleep(0.005)
        yield "second"

    async def impatient():
        stream = items.remote()
        first = await anext(stream)
        for _ in range(3):
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(anext(stream), 0.05)
        return stream, await first

    stream, first = asyncio.run(impatient())  # its end does not wait for the item
    gate.touch()
    assert first == "first"
    assert [shoal.get(ref) for ref in stream] == ["second"]


def test_one_await_after_the_other_is_not_slowed_by_the_tick(cluster):
    """The thread that reads must not pause while something is awaited: 0.3 ms each, not the 2 ms of a tick."""

    @shoal.remote
    def nothing():
        return None

    async def in_turn(count):
        for _ in range(count):
            await nothing.remote()

    asyncio.run(in_turn(50))
    reactor = shoal.session.current().reactor
    pauses = []
    nap = reactor._nap

    class Nap:
        release = nap.release

        def acquire(self, timeout):
            pauses.append(reactor._awaits)
            return nap.acquire(timeout=timeout)

    reactor._nap = Nap()
    try:
        asyncio.run(in_turn(50))
    finally:
        reactor._nap = nap
    assert not any(pauses), "it paused while something was awaited"


# --- finalizers ---


def test_finalizers_may_use_shoal_wherever_they_interrupt_it(run_script):
    """The cycle collector runs them at any allocation: while tables change, messages are encoded, threads lead."""
    printed = run_script("""
        import gc
        import numpy as np
        import shoal

        shoal.init(num_cpus=2)

        @shoal.remote
        def echo(value):
            return value

        class Cycle:
            finalized = 0

            def __init__(self, kind):
                self.itself = self
                self.kind = kind
                self.small = shoal.put(1)
                self.large = shoal.put(np.ones(20_000))
                self.result = echo.remote(self.large)

            def __del__(self):
                Cycle.finalized += 1
                if self.kind == 0:
                    shoal.put(2)
                elif self.kind == 1:
                    echo.remote([self.small, self.large])
                elif self.kind == 2:
                    shoal.cancel(self.result)
                elif self.kind == 3:
                    shoal.put(np.ones(20_000))
                else:
                    self.result.future()

        gc.set_threshold(30, 3, 3)
        turn = 0
        while Cycle.finalized < 400:
            Cycle(turn % 5)
            turn += 1
            numbers = [echo.remote(number) for number in range(20)]
            assert shoal.get(numbers, timeout=60) == list(range(20))
            while numbers:
                done, numbers = shoal.wait(numbers, timeout=60)
                assert done
            assert shoal.get(echo.remote(np.ones(20_000)), timeout=60).sum() == 20_000
        gc.collect()  # what is left would be finalized after the session has ended
        gc.disable()
        runtime = shoal.session.current()
        with runtime.lock:
            runtime.dispatch.validate()
            runtime.table.validate()
        shoal.shutdown()
        print("well")
    """)
    assert printed == ["well"]


def test_a_finalizer_that_would_wait_for_what_it_interrupted_is_told_so(cluster):
    runtime = shoal.session.current()

    @shoal.remote
    def slow():
        time.sleep(0.2)
        return 1

    ref = slow.remote()
    with runtime.lock:  # as the thread has it while tables change
        assert shoal.get(shoal.put(1)) == 1
        for call in (lambda: shoal.get(ref), lambda: shoal.wait([ref]), shoal.nodes):
            with pytest.raises(RuntimeError, match="cannot wait here"):
                call()
    assert shoal.get(ref) == 1


# --- ends that are interrupted, and beginnings that fail ---


def test_a_shutdown_that_is_interrupted_ends_the_session_all_the_same():
    with Cluster(num_cpus=1) as cluster:
        shoal.init(cluster.address)
        runtime = session.runtime()
        task = shoal.remote(time.sleep).remote(300)
        said = []

        def read():
            try:
                shoal.get(task)
            except shoal.exceptions.NodeDiedError as error:
                said.append(str(error))

        reader = threading.Thread(target=read)
        reader.start()
        while not task._entry.waiters:
            time.sleep(0.001)

        def interrupted(*_):
            raise KeyboardInterrupt

        runtime.wait = interrupted  # Ctrl-C, while the goodbye is waited for
        with pytest.raises(KeyboardInterrupt):
            shoal.shutdown()
        reader.join(LIMIT_S)
        assert said, "whoever waits in the session is told that it is over"
        assert "shoal.init()" in said[0]
        assert not [each for each in threading.enumerate() if each.name == "shoal-backup"]
        shoal.init(cluster.address)
        assert shoal.get(shoal.remote(len).remote([1]), timeout=LIMIT_S) == 1
        shoal.shutdown()


def test_a_driver_in_a_directory_that_is_gone_is_told_so_and_leaves_nothing(run_script):
    printed = run_script("""
        import os
        import shoal

        os.mkdir("gone")
        os.chdir("gone")
        os.rmdir("../gone")
        try:
            shoal.init(num_cpus=1)
        except shoal.exceptions.ClusterStartError as error:
            print(*str(error).splitlines())
        with open(f"/proc/self/task/{os.getpid()}/children") as file:
            print("left:", file.read())
        os.chdir("/")
        with shoal.init(num_cpus=1):
            print(shoal.get(shoal.put(1)))
    """)
    assert "was deleted" in printed[0]
    assert "os.chdir" in printed[0]
    assert printed[1:] == ["left: ", "1"]


@pytest.mark.parametrize("closed", ["<&-", ">&-", ">&- 2>&-", "<&- >&- 2>&-"])
def test_a_driver_may_have_no_standard_streams(tmp_path, closed):
    script = tmp_path / "script.py"
    script.write_text(
        """if True:
        import os, shoal

        @shoal.remote
        def loud():
            print("out")
            os.system("echo out; echo err >&2")
            return 7

        with shoal.init(num_cpus=1):
            os.system("echo out; echo err >&2")
            told = str(shoal.get(loud.remote()))
        with open("told", "w") as file:
            file.write(told)
    """
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = f"exec {sys.executable} {script} {closed}"
    done = subprocess.run(["sh", "-c", command], check=False, cwd=tmp_path, timeout=LIMIT_S, env=environment)
    assert done.returncode == 0
    assert (tmp_path / "told").read_text() == "7"


def test_a_failure_after_the_daemon_has_started_leaves_nothing(monkeypatch):
    def fails(*_):
        raise MemoryError("no room for the printer")

    monkeypatch.setattr("shoal.client.driver_output.DriverOutput.__init__", fails)
    with pytest.raises(MemoryError):
        shoal.init(num_cpus=1)
    assert not shoal.is_initialized()
    with open(f"/proc/self/task/{os.getpid()}/children") as file:
        assert file.read() == ""


def test_a_future_that_is_asked_for_while_the_session_ends_has_failed():
    shoal.init(num_cpus=1)
    runtime = session.runtime()
    task = shoal.remote(time.sleep).remote(300)
    late = shoal.remote(len).remote([1, 2])
    late.future()  # the thread of futures exists
    waiting = task.future()
    shoal.shutdown()
    with pytest.raises(shoal.exceptions.NodeDiedError, match="shut down"):
        waiting.result(LIMIT_S)
    with pytest.raises(shoal.exceptions.NodeDiedError, match="shut down"):
        runtime.future(task).result(LIMIT_S)

"""Forks in user code: what a child has read stays as it was while the child lives; a child has no session."""

import multiprocessing
import os
import select
import signal
import time

import numpy as np
import pytest

import shoal
from ledger import everything_came_back
from marks import until
from processes import alive, forks_without_descriptors

MIB = 1024 * 1024
STORE = 64 * MIB


@pytest.fixture
def small_store(no_leaks):
    shoal.init(
        num_cpus=2, object_store_memory=STORE, _system_config={"store_full_wait_ms": 100, "spilling": False}
    )
    yield
    try:
        everything_came_back()
    finally:
        shoal.shutdown()


def forked(run):
    """Fork; `run()` gives what the child sends back. Returns its pid, and where its answer comes and its start signal goes."""
    answer, answer_end = os.pipe()
    start, start_end = os.pipe()
    pid = os.fork()
    if pid == 0:
        code = 1
        os.close(start_end)
        try:
            os.read(start, 1)
            os.write(answer_end, f"{run()}\n".encode())
            code = 0
        except BaseException as error:
            os.write(answer_end, f"{type(error).__name__}: {error}\n".encode())
        finally:
            os._exit(code)
    os.close(answer_end)
    os.close(start)
    return pid, answer, start_end


def finish(pid, answer, start):
    os.write(start, b"x")
    os.close(start)
    text = b""
    while not text.endswith(b"\n") and (piece := os.read(answer, 4096)):
        text += piece
    os.close(answer)
    os.waitpid(pid, 0)
    return text.decode().strip()


def fill_the_store():
    """Write over everything that can be written over; returns how many bytes fitted."""
    held = []
    try:
        while True:
            held.append(shoal.put(np.full(MIB, 255, np.uint8)))
    except shoal.exceptions.ObjectStoreFullError:
        return len(held) * MIB


def a_child_reads_what_its_parent_has_let_go_of():
    ref = shoal.put(np.full(20 * MIB, 7, np.uint8))
    view = shoal.get(ref)
    child = forked(lambda view=view: str(int((view == 7).sum())))
    del ref, view
    assert fill_the_store() <= STORE - 20 * MIB
    assert finish(*child) == str(20 * MIB)


def test_a_child_of_a_driver_reads_what_was_read_before_the_fork(small_store):
    a_child_reads_what_its_parent_has_let_go_of()
    until(lambda: fill_the_store() > STORE - 20 * MIB)


def test_a_child_for_which_there_is_no_pipe_reads_what_was_read_before_the_fork(no_leaks, monkeypatch, capfd):
    """Too many open files: what it may read stays until this process ends."""
    forks_without_descriptors(monkeypatch)
    settings = {"store_full_wait_ms": 100, "spilling": False}
    with shoal.init(num_cpus=2, object_store_memory=STORE, _system_config=settings):
        a_child_reads_what_its_parent_has_let_go_of()
        assert fill_the_store() <= STORE - 20 * MIB
    assert "allow more open files" in capfd.readouterr().err


def test_a_grandchild_counts_too(small_store):
    ref = shoal.put(np.full(20 * MIB, 7, np.uint8))
    view = shoal.get(ref)

    go, go_end = os.pipe()

    def child():
        if os.fork() == 0:  # outlives this child
            os.close(go_end)
            os.read(go, 1)
            os._exit(0)
        return "forked"

    assert finish(*forked(child)) == "forked"
    del ref, view
    assert fill_the_store() <= STORE - 20 * MIB
    os.close(go_end)
    os.close(go)
    until(lambda: fill_the_store() > STORE - 20 * MIB)


def test_without_views_nothing_is_kept(small_store):
    ref = shoal.put(np.full(20 * MIB, 7, np.uint8))
    child = forked(lambda: "done")
    del ref
    until(lambda: fill_the_store() > STORE - 20 * MIB)
    assert finish(*child) == "done"


@shoal.remote
def forks_and_returns(array, folder):
    def child():
        while not os.path.exists(os.path.join(folder, "go")):
            time.sleep(0.005)
        right = bool((array == 9).all())
        with open(os.path.join(folder, "part"), "w") as file:
            file.write(str(right))
        os.rename(os.path.join(folder, "part"), os.path.join(folder, "answer"))

    process = multiprocessing.get_context("fork").Process(target=child)
    process.start()
    return process.pid


def test_a_child_of_a_task_outlives_it(small_store, tmp_path):
    ref = shoal.put(np.full(20 * MIB, 9, np.uint8))
    pid = shoal.get(forks_and_returns.remote(ref, str(tmp_path)))
    del ref
    assert fill_the_store() <= STORE - 20 * MIB
    (tmp_path / "go").touch()
    until((tmp_path / "answer").exists)
    assert (tmp_path / "answer").read_text() == "True"
    until(lambda: fill_the_store() > STORE - 20 * MIB)
    assert pid


@shoal.remote
def uses_a_pool(array):
    with multiprocessing.get_context("fork").Pool(2) as pool:
        return pool.map(np.sum, [array[:10], array[10:30], array])


def test_a_pool_in_a_task(small_store):
    array = np.ones(MIB)
    assert shoal.get(uses_a_pool.remote(shoal.put(array))) == [10, 20, MIB]


def test_shoal_in_a_child_raises_and_the_parent_goes_on(small_store):
    stored, little = shoal.put(np.ones(MIB)), shoal.put(5)
    view = shoal.get(stored)

    @shoal.remote
    def one():
        return 1

    pending = one.remote()
    uses = {
        "get": lambda: shoal.get(little),
        "get stored": lambda: shoal.get(stored),
        "put": lambda: shoal.put(1),
        "wait": lambda: shoal.wait([little]),
        "remote": lambda: one.remote(),
        "result": lambda: shoal.get(pending),
        "future": lambda: little.future(),
    }

    def child():
        raised = []
        for name, use in uses.items():
            try:
                use()
            except RuntimeError as error:
                assert "forked" in str(error), error
                raised.append(name)
        return f"{len(raised)} {view[0]}"

    assert finish(*forked(child)) == f"{len(uses)} 1.0"
    assert shoal.get([little, pending, one.remote()]) == [5, 1, 1]


def test_a_child_that_returns_from_the_task_is_no_second_worker(small_store):
    @shoal.remote(max_retries=0)
    def forks():
        return os.fork()

    pid = shoal.get(forks.remote())
    assert pid > 0
    until(lambda: not alive(pid))
    assert shoal.get(forks.options(num_cpus=0.5).remote()) > 0


def test_forks_while_other_threads_use_the_session(small_store):
    import threading

    ref = shoal.put(np.arange(MIB))
    stop = threading.Event()

    @shoal.remote
    def echo(value):
        return value

    def work():
        while not stop.is_set():
            assert shoal.get(echo.remote(3)) == 3
            assert shoal.get(ref)[5] == 5
            shoal.put(np.ones(30_000))

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        view = shoal.get(ref)
        for _ in range(20):
            assert finish(*forked(lambda: str(view[7]))) == "7"
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def test_a_killed_child_lets_go(small_store):
    view = shoal.get(shoal.put(np.full(20 * MIB, 7, np.uint8)))
    pid, answer, start = forked(lambda view=view: str(view[0]))
    del view
    assert fill_the_store() <= STORE - 20 * MIB
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    os.close(answer)
    os.close(start)
    until(lambda: fill_the_store() > STORE - 20 * MIB)


@shoal.remote(max_concurrency=2)
class Threads:
    def fork(self, leave):
        pid = os.fork()
        if pid == 0 and leave:
            raise SystemExit(7)
        return pid

    def ping(self):
        return "pong"

    def wait_for(self, pid):
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


@shoal.remote
class Loop:
    async def fork(self, leave):
        pid = os.fork()
        if pid == 0 and leave:
            raise SystemExit(7)
        return pid

    async def ping(self):
        return "pong"

    def wait_for(self, pid):
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


@pytest.mark.parametrize(("leave", "code"), [(False, 1), (True, 7)])
@pytest.mark.parametrize("kind", [Threads, Loop])
def test_a_child_that_returns_from_an_actors_method_ends_and_takes_nothing_from_its_parent(
    small_store, kind, leave, code
):
    actor = kind.remote()
    for _ in range(3):
        pid = shoal.get(actor.fork.remote(leave), timeout=30)
        assert shoal.get(actor.wait_for.remote(pid), timeout=30) == code
        assert shoal.get([actor.ping.remote() for _ in range(20)], timeout=30) == ["pong"] * 20


def test_a_child_does_not_wait_for_a_thread_that_was_starting_or_ending_the_session(small_store):
    import threading

    held, done = threading.Event(), threading.Event()

    def hold():
        with shoal.api._lock:
            held.set()
            done.wait(60)

    thread = threading.Thread(target=hold)
    thread.start()
    assert held.wait(60)
    pid, answer, start = forked(lambda: str(shoal.shutdown()))
    try:
        os.write(start, b"x")
        assert select.select([answer], [], [], 30)[0], "the child hangs"
        assert os.read(answer, 100) == b"None\n"
    finally:
        done.set()
        thread.join()
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        os.close(answer)
        os.close(start)

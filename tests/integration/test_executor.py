"""Executor behaves as the standard library's executors do, case by case."""

import asyncio
import concurrent.futures
import gc
import operator
import os
import subprocess
import sys
import threading
import time
import weakref
from concurrent.futures import FIRST_COMPLETED, FIRST_EXCEPTION, BrokenExecutor, CancelledError

import pytest

import shoal
from actorparts import PATIENCE_S, wait_until
from shoal.util import Executor


@pytest.fixture
def executor(shoal_session):
    """One of two workers, shut down after the test."""
    with Executor(max_workers=2) as made:
        yield made


def capture(*args, **kwargs):
    return args, kwargs


def wait_for(path):
    while not os.path.exists(path):
        time.sleep(0.005)
    return path


def mark_and_wait_for(mark, path):
    open(mark, "w").close()
    return wait_for(path)


def raise_error(error):
    raise error


# --- submit ---


def test_arguments_of_any_name(executor):
    assert executor.submit(pow, 2, 8).result(PATIENCE_S) == 256
    future = executor.submit(capture, 1, self=2, fn=3)
    assert future.result(PATIENCE_S) == ((1,), {"self": 2, "fn": 3})
    with pytest.raises(TypeError):
        executor.submit(fn=capture, arg=1)
    with pytest.raises(TypeError):
        executor.submit(arg=1)


def test_submit_never_waits_for_room(shoal_session, tmp_path):
    path = str(tmp_path / "go")
    with Executor(max_workers=1) as executor:
        futures = [executor.submit(wait_for, path) for _ in range(50)]
        assert not any(future.done() for future in futures)
        open(path, "w").close()
        assert [future.result(PATIENCE_S) for future in futures] == [path] * 50


def test_only_so_many_run_at_once(shoal_session, tmp_path):
    def enter(number):
        open(tmp_path / f"in-{number}", "w").close()
        inside = len(list(tmp_path.glob("in-*")))
        time.sleep(0.01)
        os.unlink(tmp_path / f"in-{number}")
        return inside

    with Executor(max_workers=1, num_cpus=0) as executor:
        assert set(executor.map(enter, range(20))) == {1}


def test_callbacks_may_submit(executor):
    later = []

    def again(future):
        later.append(executor.submit(operator.add, future.result(), 1))

    for number in range(10):
        executor.submit(abs, number).add_done_callback(again)
    wait_until(lambda: len(later) == 10)
    assert sorted(future.result(PATIENCE_S) for future in later) == list(range(1, 11))


def test_a_call_that_cannot_be_pickled_fails_its_future(executor):
    future = executor.submit(abs, threading.Lock())
    assert isinstance(future.exception(PATIENCE_S), TypeError)
    assert executor.submit(abs, -1).result(PATIENCE_S) == 1


def test_a_result_that_cannot_be_pickled_fails_its_future(executor):
    assert executor.submit(threading.Lock).exception(PATIENCE_S) is not None
    assert executor.submit(abs, -1).result(PATIENCE_S) == 1


# --- errors ---


class Falsey(Exception):
    """False in a condition."""

    def __bool__(self):
        return False


class Empty(Exception):
    """False as well."""

    def __len__(self):
        return 0


@pytest.mark.parametrize("kind", [Falsey, Empty, ValueError, KeyboardInterrupt])
def test_exceptions_arrive_whatever_they_are(executor, kind):
    future = executor.submit(raise_error, kind("seen"))
    with pytest.raises(kind, match="seen"):
        future.result(PATIENCE_S)


def test_an_exception_says_where_it_was_raised(executor):
    error = executor.submit(raise_error, RuntimeError(123)).exception(PATIENCE_S)
    assert type(error) is RuntimeError
    assert error.args == (123,)
    assert "raise error" in str(error.__cause__)


# --- map ---


def test_map(executor):
    assert list(executor.map(pow, range(10), range(10))) == list(map(pow, range(10), range(10)))
    assert list(executor.map(pow, range(10), range(7), chunksize=3)) == list(map(pow, range(7), range(7)))
    assert list(executor.map(abs, [])) == []
    assert list(executor.map(abs, [], chunksize=5)) == []
    for size in (0, -1):
        with pytest.raises(ValueError, match="chunksize"):
            executor.map(pow, range(4), range(4), chunksize=size)


@pytest.mark.parametrize("chunksize", [1, 2])
def test_map_gives_what_came_before_an_error(executor, chunksize):
    results = executor.map(divmod, [1, 1, 1, 1], [2, 3, 0, 5], chunksize=chunksize)
    assert next(results) == (0, 1)
    assert next(results) == (0, 1)
    with pytest.raises(ZeroDivisionError):
        next(results)


@pytest.mark.parametrize("chunksize", [1, 2])
def test_map_with_a_timeout(shoal_session, tmp_path, chunksize):
    path = str(tmp_path / "go")
    with Executor() as executor:
        for timeout in (0.3, 1, 3, 10, 30):  # more of it where the machine is busy
            seen = []
            results = executor.map(wait_for, ["/", "/", path, path], timeout=timeout, chunksize=chunksize)
            with pytest.raises(TimeoutError):
                for each in results:
                    seen.append(each)  # noqa: PERF402  what came before the error is kept
            if seen == ["/", "/"]:
                break
        open(path, "w").close()
    assert seen == ["/", "/"]


def test_map_submits_before_it_is_read(executor, tmp_path):
    paths = [str(tmp_path / str(number)) for number in range(3)]
    results = executor.map(mark_and_wait_for, paths, paths)
    wait_until(lambda: all(os.path.exists(path) for path in paths))
    assert list(results) == paths


class Tracked:
    """Can be weakly referenced."""

    def method(self):
        pass


def make_tracked(_):
    return Tracked()


@pytest.mark.parametrize("chunksize", [1, 5])
def test_results_are_not_kept(executor, chunksize):
    for each in executor.map(make_tracked, range(10), chunksize=chunksize):
        reference = weakref.ref(each)
        del each
        wait_until(lambda reference=reference: reference() is None)


def test_calls_are_not_kept(executor):
    tracked = Tracked()
    reference = weakref.ref(tracked)
    future = executor.submit(tracked.method)
    future.result(PATIENCE_S)
    del tracked
    gc.collect()
    assert reference() is None


# --- cancel ---


def test_a_waiting_call_is_cancelled_and_never_runs(shoal_session, tmp_path):
    go, never = str(tmp_path / "go"), str(tmp_path / "never")
    with Executor(max_workers=1) as executor:
        running = executor.submit(wait_for, go)
        waiting = executor.submit(mark_and_wait_for, never, "/")
        assert not waiting.running()
        assert waiting.cancel()
        assert waiting.cancelled()
        with pytest.raises(CancelledError):
            waiting.result(0)
        open(go, "w").close()
        assert running.result(PATIENCE_S) == go
        assert not running.cancel()
        assert not running.cancelled()
    assert not os.path.exists(never)


def test_a_running_call_can_be_cancelled_too(executor, tmp_path):
    mark = str(tmp_path / "mark")
    running = executor.submit(mark_and_wait_for, mark, str(tmp_path / "never"))
    wait_until(lambda: os.path.exists(mark))
    assert running.running()
    assert running.cancel()
    assert executor.submit(abs, -1).result(PATIENCE_S) == 1


def test_callbacks_of_cancelled_calls(executor, tmp_path):
    called = []
    future = executor.submit(wait_for, str(tmp_path / "never"))
    future.add_done_callback(called.append)
    future.cancel()
    future.add_done_callback(called.append)
    assert called == [future, future]


# --- shutdown ---


def test_nothing_is_taken_after_shutdown(shoal_session):
    executor = Executor()
    executor.shutdown()
    executor.shutdown()
    for call in (lambda: executor.submit(abs, 1), lambda: executor.map(abs, [1])):
        with pytest.raises(RuntimeError, match="after shutdown"):
            call()


def test_shutdown_waits_for_what_was_submitted(shoal_session):
    executor = Executor(max_workers=2)
    futures = [executor.submit(time.sleep, 0.01) for _ in range(20)]
    executor.shutdown()
    assert all(future.done() for future in futures)


def test_shutdown_that_does_not_wait(shoal_session, tmp_path):
    path = str(tmp_path / "go")
    executor = Executor(max_workers=1)
    first = executor.submit(wait_for, path)
    results = executor.map(abs, range(-5, 5))
    executor.shutdown(wait=False)
    assert not first.done()
    del executor
    open(path, "w").close()
    assert list(results) == [5, 4, 3, 2, 1, 0, 1, 2, 3, 4]


def test_shutdown_cancels_what_does_not_run_yet(shoal_session, tmp_path):
    mark, go = str(tmp_path / "mark"), str(tmp_path / "go")
    executor = Executor(max_workers=1)
    running = executor.submit(mark_and_wait_for, mark, go)
    waiting = [executor.submit(abs, number) for number in range(20)]
    wait_until(lambda: os.path.exists(mark))
    executor.shutdown(wait=False, cancel_futures=True)
    assert all(future.cancelled() for future in waiting)
    assert not running.done()
    open(go, "w").close()
    assert running.result(PATIENCE_S) == go


def test_shutdown_cancels_tasks_that_wait_for_a_worker(shoal_session, tmp_path):
    go = str(tmp_path / "go")
    executor = Executor()  # both CPUs
    futures = [executor.submit(wait_for, go) for _ in range(30)]
    wait_until(lambda: sum(future.running() for future in futures) == 2)
    executor.shutdown(wait=False, cancel_futures=True)
    assert sum(future.cancelled() for future in futures) == 28
    open(go, "w").close()
    concurrent.futures.wait(futures, PATIENCE_S)
    assert sum(not future.cancelled() and future.result() == go for future in futures) == 2


def test_an_executor_that_is_dropped_finishes(shoal_session):
    executor = Executor(max_workers=1)
    results = executor.map(abs, range(-5, 5))
    reference = weakref.ref(executor)
    del executor
    assert list(results) == [5, 4, 3, 2, 1, 0, 1, 2, 3, 4]
    gc.collect()
    wait_until(lambda: reference() is None)


def test_after_the_session(shoal_session, tmp_path):
    executor = Executor(max_workers=1)
    futures = [executor.submit(wait_for, str(tmp_path / "never")) for _ in range(3)]
    shoal.shutdown()
    concurrent.futures.wait(futures, PATIENCE_S)
    assert all(future.exception(0) is not None for future in futures)
    shoal.init(num_cpus=2)
    assert executor.submit(abs, -1).result(PATIENCE_S) == 1
    executor.shutdown()


@pytest.mark.parametrize("after", ["", "executor.shutdown(wait=False)"])
def test_the_interpreter_waits_at_its_end(no_leaks, tmp_path, after):
    path = tmp_path / "out"
    text = f"""
import atexit, sys, time
from shoal.util import Executor

def write(path, text):
    time.sleep(0.1)
    with open(path, "a") as file:
        file.write(text + "\\n")

@atexit.register
def late():
    try:
        executor.submit(write, sys.argv[1], "late")
    except RuntimeError as error:
        write(sys.argv[1], str(error))

executor = Executor(max_workers=1)
executor.submit(write, sys.argv[1], "apple")
executor.submit(write, sys.argv[1], "pear")
{after}
"""
    subprocess.run([sys.executable, "-c", text, str(path)], check=True, timeout=60)
    lines = path.read_text().splitlines()
    assert lines[:2] == ["apple", "pear"]
    assert lines[2].startswith("cannot schedule new futures after")


# --- initializer ---

SETTING = "unset"


def set_setting(value):
    global SETTING
    SETTING = value


def read_setting(_):
    return SETTING


def test_initializer(shoal_session):
    with Executor(max_workers=2, initializer=set_setting, initargs=("set",)) as executor:
        assert list(executor.map(read_setting, range(10))) == ["set"] * 10
    with pytest.raises(TypeError):
        Executor(initializer=1)


def test_wrong_arguments_are_refused_at_once(shoal_session):
    for wrong in (
        {"max_workers": "2"},
        {"max_workers": 1.5},
        {"num_returns": 2},
        {"num_returns": "streaming"},
    ):
        [name] = wrong
        with pytest.raises(TypeError, match=name):
            Executor(**wrong)
    for count in (0, -1):
        with pytest.raises(ValueError, match="max_workers"):
            Executor(count)
    with Executor(2) as executor:
        for chunksize in ("a", 1.5):
            with pytest.raises(TypeError, match="chunksize needs an int"):
                executor.map(abs, range(3), chunksize=chunksize)


def test_an_initializer_that_fails_breaks_the_executor(shoal_session):
    with Executor(max_workers=1, initializer=raise_error, initargs=(ValueError("bad start"),)) as executor:
        futures = [executor.submit(abs, number) for number in range(5)]
        for future in futures:
            with pytest.raises(BrokenExecutor, match="bad start"):
                future.result(PATIENCE_S)
        with pytest.raises(BrokenExecutor):
            executor.submit(abs, 1)


# --- with the rest of concurrent.futures and asyncio ---


def test_wait(shoal_session, tmp_path):
    go, other = str(tmp_path / "go"), str(tmp_path / "other")
    with Executor(max_workers=2) as executor:
        quick, slow = executor.submit(abs, -1), executor.submit(wait_for, go)
        done, rest = concurrent.futures.wait([quick, slow], PATIENCE_S, return_when=FIRST_COMPLETED)
        assert (done, rest) == ({quick}, {slow})
        bad = executor.submit(raise_error, ValueError())
        done, rest = concurrent.futures.wait([slow, bad], PATIENCE_S, return_when=FIRST_EXCEPTION)
        assert (done, rest) == ({bad}, {slow})
        assert concurrent.futures.wait([slow], timeout=0).not_done == {slow}
        second = executor.submit(wait_for, other)
        second.cancel()
        open(go, "w").close()
        every = {slow, quick, bad, second}
        assert concurrent.futures.wait([*every, slow], PATIENCE_S).done == every


def test_as_completed(shoal_session, tmp_path):
    go = str(tmp_path / "go")
    with Executor(max_workers=2) as executor:
        slow = executor.submit(wait_for, go)
        quick = executor.submit(abs, -1)
        order = concurrent.futures.as_completed([slow, quick, quick], PATIENCE_S)
        assert next(order) is quick
        with pytest.raises(TimeoutError):
            list(concurrent.futures.as_completed([slow], timeout=0.05))
        open(go, "w").close()
        assert list(order) == [slow]


def test_asyncio_runs_in_it(executor):
    async def main():
        loop = asyncio.get_running_loop()
        return await asyncio.gather(*(loop.run_in_executor(executor, pow, 2, n) for n in range(10)))

    assert asyncio.run(main()) == [2**n for n in range(10)]


def test_many_calls(executor):
    assert list(executor.map(abs, range(-500, 0))) == list(range(500, 0, -1))

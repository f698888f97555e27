"""Pool behaves as `multiprocessing.Pool` does: the uses that its documentation shows, and its corner cases."""

import concurrent.futures
import itertools
import multiprocessing
import os
import threading
import time

import pytest

from actorparts import PATIENCE_S, wait_until
from shoal.exceptions import ActorDiedError
from shoal.refs import ObjectRef
from shoal.util.multiprocessing import Pool, TimeoutError  # noqa: A004  as in the standard library's documentation
from shoal.util.multiprocessing.results import IMapIterator


def square(x):
    return x * x


def pid_of(_=None):
    return os.getpid()


def times(a, b):
    return a * b


def plus(a, b):
    return a + b


def say(function, args):
    return f"{function.__name__}{args} = {function(*args)}"


def say_all(work):
    return say(*work)


def inverse_of_distance_to_five(x):
    return 1.0 / (x - 5.0)


def wait_for(path):
    while not os.path.exists(path):
        time.sleep(0.005)
    return path


def leave(_):
    os._exit(3)


@pytest.fixture
def pool(shoal_session):
    """One of two processes, terminated after the test."""
    with Pool(processes=2) as made:
        yield made


# --- as in the documentation ---


def test_results_of_all_kinds_of_calls(pool):
    assert pool.map(square, range(10)) == [n * n for n in range(10)]
    assert sorted(pool.imap_unordered(square, range(10))) == [n * n for n in range(10)]
    results = pool.imap(square, range(10))
    assert [next(results), next(results), results.next(timeout=PATIENCE_S)] == [0, 1, 4]
    assert pool.apply_async(square, (20,)).get(timeout=PATIENCE_S) == 400
    pid = pool.apply_async(os.getpid, ()).get(timeout=PATIENCE_S)
    assert pid != os.getpid()
    pids = [pool.apply_async(os.getpid, ()) for _ in range(4)]
    assert len({each.get(timeout=PATIENCE_S) for each in pids}) <= 2


def test_patience(pool, tmp_path):
    path = str(tmp_path / "go")
    result = pool.apply_async(wait_for, (path,))
    for kind in (TimeoutError, multiprocessing.TimeoutError):
        with pytest.raises(kind):
            result.get(timeout=0.01)
    assert not result.ready()
    with pytest.raises(ValueError, match="not ready"):
        result.successful()
    open(path, "w").close()
    result.wait(PATIENCE_S)
    assert result.ready()
    assert result.successful()
    with pytest.raises(StopIteration):
        iterator = pool.imap(square, [2])
        assert [iterator.next(timeout=PATIENCE_S), iterator.next(timeout=PATIENCE_S)]


def test_functions_and_arguments_as_work(pool):
    work = [(times, (n, 7)) for n in range(10)] + [(plus, (n, 8)) for n in range(10)]
    expected = [say(*each) for each in work]
    assert [each.get() for each in [pool.apply_async(say, each) for each in work]] == expected
    assert list(pool.imap(say_all, work)) == expected
    assert sorted(pool.imap_unordered(say_all, work)) == sorted(expected)
    assert pool.map(say_all, work) == expected
    assert pool.starmap(say, work) == expected


def test_results_are_told_without_the_lock(pool, monkeypatch):
    """Also if a call has ended before its end is watched: who is told may wait for a thread that waits for the lock."""
    future, arrived, held = ObjectRef.future, IMapIterator.arrived, []

    def ended_at_once(ref):
        made = future(ref)
        if not held:
            concurrent.futures.wait([made], PATIENCE_S)
        return made

    def told(result, *part):
        held.append(pool._lock._is_owned())
        arrived(result, *part)

    monkeypatch.setattr(ObjectRef, "future", ended_at_once)
    monkeypatch.setattr(IMapIterator, "arrived", told)
    assert sorted(pool.imap_unordered(square, range(20))) == [n * n for n in range(20)]
    assert held == [False] * 20


def test_errors_come_where_their_calls_are(pool):
    with pytest.raises(ZeroDivisionError):
        pool.apply(inverse_of_distance_to_five, (5,))
    for chunksize in (None, 1, 4):
        with pytest.raises(ZeroDivisionError):
            pool.map(inverse_of_distance_to_five, range(10), chunksize)
    with pytest.raises(ZeroDivisionError):
        list(pool.imap(inverse_of_distance_to_five, range(10)))
    results = pool.imap(inverse_of_distance_to_five, range(10))
    failed = []
    for number in range(10):
        try:
            next(results)
        except ZeroDivisionError:
            failed.append(number)
    assert failed == [5]
    with pytest.raises(StopIteration):
        next(results)


def fail_after(delay):
    time.sleep(delay)
    raise ValueError(f"after {delay}")


def test_of_several_errors_the_first_in_order_is_raised(pool):
    with pytest.raises(ValueError, match=r"after 0\.2"):
        pool.map(fail_after, [0.2, 0.0, 0.1], chunksize=1)


# --- corner cases ---


def test_nothing_to_do(pool):
    assert pool.map(square, []) == []
    assert pool.map_async(square, [], chunksize=1).get(timeout=PATIENCE_S) == []
    assert pool.starmap(plus, []) == []
    assert list(pool.imap(square, [])) == []
    assert list(pool.imap_unordered(square, [])) == []


class SayWhen(Exception):
    """What an input raises."""


def numbers_until(stop):
    for number in itertools.count():
        if number == stop:
            raise SayWhen
        yield number


@pytest.mark.parametrize(
    ("stop", "chunksize", "before"), [(0, 1, 0), (3, 1, 3), (7, 2, 6), (7, 4, 4), (60, 1, 60)]
)
def test_an_input_that_raises_is_the_last_result(pool, stop, chunksize, before):
    results = pool.imap(square, numbers_until(stop), chunksize)
    assert [next(results) for _ in range(before)] == [n * n for n in range(before)]
    with pytest.raises(SayWhen):
        next(results)
    with pytest.raises(StopIteration):
        next(results)
    seen = []
    with pytest.raises(SayWhen):
        for each in pool.imap_unordered(square, numbers_until(stop), chunksize):
            seen.append(each)  # noqa: PERF402  what came before the error is kept
    assert set(seen) <= {n * n for n in range(stop)}
    with pytest.raises(SayWhen):
        pool.map(square, numbers_until(stop), chunksize)


def test_an_endless_input_is_read_as_results_are(pool):
    results = pool.imap(square, itertools.count())
    assert [next(results) for _ in range(200)] == [n * n for n in range(200)]


def test_what_cannot_be_pickled(pool):
    errors = []
    result = pool.apply_async(square, (threading.Lock(),), error_callback=errors.append)
    with pytest.raises(TypeError):
        result.get(timeout=PATIENCE_S)
    assert len(errors) == 1
    with pytest.raises(TypeError):
        pool.map(square, [1, threading.Lock()])
    result = pool.apply_async(threading.Lock)
    result.wait(PATIENCE_S)
    assert not result.successful()
    assert pool.apply(square, (2,)) == 4


class Falsey(Exception):
    """False in a condition."""

    def __bool__(self):
        return False


def raise_falsey(_):
    raise Falsey


def test_errors_that_are_false(pool):
    with pytest.raises(Falsey):
        pool.map(raise_falsey, range(4))
    with pytest.raises(Falsey):
        list(pool.imap(raise_falsey, range(4)))


def test_an_error_says_where_it_was_raised(pool):
    with pytest.raises(ZeroDivisionError) as caught:
        pool.apply(inverse_of_distance_to_five, (5,))
    assert "1.0 / (x - 5.0)" in str(caught.value.__cause__)


def test_callbacks_run_once_and_may_raise(pool):
    seen = []

    def boom(value):
        seen.append(value)
        raise RuntimeError("a callback of the user's")

    pool.apply_async(square, (3,), callback=boom).wait(PATIENCE_S)
    pool.map_async(square, range(3), callback=seen.append).wait(PATIENCE_S)
    pool.close()
    pool.join()
    assert seen == [9, [0, 1, 4]]


def test_a_process_that_ends_is_replaced(pool):
    with pytest.raises(ActorDiedError):
        pool.map(leave, [1])
    wait_until(lambda: pool.map(square, range(4)) == [0, 1, 4, 9])


def test_close_lets_everything_end(shoal_session):
    for limit in (None, 1):
        pool = Pool(2, maxtasksperchild=limit)
        results = [pool.apply_async(square, (n,)) for n in range(6)]
        pool.close()
        pool.join()
        assert [each.get(timeout=0) for each in results] == [n * n for n in range(6)]
        with pytest.raises(ValueError, match="not running"):
            pool.map_async(square, [1])
        with pytest.raises(ValueError, match="not running"):
            pool.__enter__()


def test_terminate_ends_readers_too(shoal_session, tmp_path):
    pool = Pool(2)
    never = str(tmp_path / "never")
    results = pool.imap(wait_for, itertools.repeat(never))
    whole = pool.map_async(wait_for, [never] * 1000, chunksize=1)
    pool.terminate()
    pool.join()
    with pytest.raises(ActorDiedError):
        whole.get(timeout=PATIENCE_S)
    with pytest.raises(StopIteration):
        while True:
            try:
                results.next(timeout=PATIENCE_S)
            except ActorDiedError:
                continue


def test_bad_arguments(shoal_session):
    for processes in (0, -1):
        with pytest.raises(ValueError, match="at least 1"):
            Pool(processes)
    with pytest.raises(ValueError, match="maxtasksperchild"):
        Pool(1, maxtasksperchild=0)
    with pytest.raises(TypeError):
        Pool(1, initializer=1)
    with Pool(1) as pool, pytest.raises(ValueError, match="Chunksize"):
        pool.imap(square, [1], chunksize=0)

"""Queue behaves as `queue.Queue` does, between any processes; ActorPool hands out work, whatever is asked in which order."""

import asyncio
import os
import queue as standard
import signal
import threading
import time

import pytest
from click.testing import CliRunner

import shoal
from actorparts import get, wait_until
from shoal.cli.app import app
from shoal.exceptions import TaskCancelledError
from shoal.util import ActorPool
from shoal.util.queue import Empty, Full, Queue

# --- Queue ---


def test_its_errors_are_the_standard_library_s(shoal_session):
    queue = Queue(maxsize=1)
    with pytest.raises(standard.Empty):
        queue.get(block=False)
    queue.put(1, block=False)
    with pytest.raises(standard.Full):
        queue.put(2, block=False, timeout=-5)  # without blocking the timeout says nothing
    with pytest.raises(ValueError, match="timeout"):
        queue.put(2, timeout=-1)
    assert queue.get(block=False, timeout=-5) == 1
    with pytest.raises(ValueError, match="timeout"):
        queue.get(timeout=-1)


def test_a_timeout_is_waited_for(shoal_session):
    queue = Queue(maxsize=1)
    start = time.monotonic()
    with pytest.raises(Empty):
        queue.get(timeout=0.2)
    queue.put("x")
    with pytest.raises(Full):
        queue.put("y", timeout=0.2)
    assert time.monotonic() - start >= 0.4
    assert queue.get() == "x"
    assert queue.empty()


def test_a_blocked_get_and_a_blocked_put_go_on(shoal_session):
    queue = Queue(maxsize=1)

    @shoal.remote(num_cpus=0)
    def take(queue):
        return queue.get()

    taken = take.remote(queue)
    queue.put("first")
    assert get(taken) == "first"
    queue.put("second")
    putting = threading.Thread(target=queue.put, args=("third",))
    putting.start()
    assert [queue.get(), queue.get()] == ["second", "third"]
    putting.join()


@pytest.mark.parametrize("maxsize", [0, 3])
def test_nothing_is_lost_or_given_twice(shoal_session, maxsize):
    @shoal.remote(num_cpus=0)
    def produce(queue, start):
        for number in range(start, start + 50):
            queue.put(number)

    @shoal.remote(num_cpus=0)
    def consume(queue):
        return [queue.get() for _ in range(50)]

    queue = Queue(maxsize=maxsize)
    consumers = [consume.remote(queue) for _ in range(3)]
    get([produce.remote(queue, start) for start in (0, 1000, 2000)])
    seen = sorted(number for part in get(consumers) for number in part)
    assert seen == [start + n for start in (0, 1000, 2000) for n in range(50)]


def test_one_process_s_items_stay_in_order(shoal_session):
    queue = Queue()
    for number in range(100):
        queue.put(number)
    assert [queue.get() for _ in range(100)] == list(range(100))


def test_more_may_wait_than_an_actor_runs_calls(shoal_session):
    queue = Queue()
    waiting = [queue.actor.get.remote(None) for _ in range(1500)]
    for number in range(1500):
        queue.put(number)
    assert sorted(number for _, number in get(waiting)) == list(range(1500))


def test_batches_are_whole_or_nothing(shoal_session):
    queue = Queue(maxsize=5)
    queue.put_nowait_batch(range(3))
    with pytest.raises(Full):
        queue.put_nowait_batch(range(3))
    assert queue.qsize() == 3
    with pytest.raises(Empty):
        queue.get_nowait_batch(4)
    assert queue.get_nowait_batch(0) == []
    assert queue.get_nowait_batch(3) == [0, 1, 2]
    with pytest.raises(ValueError):
        queue.get_nowait_batch(-1)
    with pytest.raises(TypeError):
        queue.put_nowait_batch(1)


def test_a_cancelled_get_takes_nothing(shoal_session):
    queue = Queue()
    waiting = queue.actor.get.remote(None)
    queue.qsize()
    shoal.cancel(waiting)
    with pytest.raises(TaskCancelledError):
        get(waiting)
    queue.put("x")
    assert queue.get(timeout=60) == "x"


def test_a_dead_process_takes_nothing_and_adds_nothing(shoal_session, tmp_path):
    queue = Queue(maxsize=1)

    @shoal.remote(num_cpus=0, max_retries=0)
    def use(queue, path, puts):
        with open(path, "w") as file:
            file.write(str(os.getpid()))
        return queue.put("never") if puts else queue.get()

    def killed_while_it_waits(puts):
        path = tmp_path / f"pid-{puts}"
        using = use.remote(queue, str(path), puts)
        running = ["why", queue.actor._actor_id.hex()]
        wait_until(lambda: "1 call(s) run here" in CliRunner().invoke(app, running).stdout)
        os.kill(int(path.read_text()), signal.SIGKILL)
        with pytest.raises(shoal.exceptions.WorkerCrashedError):
            get(using)
        wait_until(lambda: "0 call(s) run here" in CliRunner().invoke(app, running).stdout)

    killed_while_it_waits(puts=False)
    queue.put("x")
    killed_while_it_waits(puts=True)
    assert queue.get(timeout=60) == "x"
    assert queue.empty()


def test_awaited(shoal_session):
    async def main():
        queue = Queue(maxsize=2)
        getting = [asyncio.create_task(queue.get_async()) for _ in range(3)]
        for number in range(3):
            await queue.put_async(number)
        assert sorted(await asyncio.gather(*getting)) == [0, 1, 2]
        with pytest.raises(Empty):
            await queue.get_async(timeout=0.01)
        with pytest.raises(Empty):
            await queue.get_async(block=False)
        await queue.put_async(1)
        await queue.put_async(2)
        with pytest.raises(Full):
            await queue.put_async(3, timeout=0.01)
        with pytest.raises(ValueError):
            await queue.get_async(timeout=-1)

    asyncio.run(main())


def test_named_and_shut_down(shoal_session):
    queue = Queue(actor_options={"name": "work"})
    assert shoal.get_actor("work") == queue.actor
    queue.put(1)
    queue.shutdown()
    with pytest.raises(shoal.exceptions.ActorDiedError):
        queue.put(2)
    Queue().shutdown(force=True)


# --- ActorPool ---


@shoal.remote
class Doubler:
    """Doubles, and waits if it is told to."""

    def double(self, x):
        if x < 0:
            raise ValueError("negative")
        return 2 * x

    def wait_for(self, path):
        while not os.path.exists(path):
            time.sleep(0.005)
        return path


def double(actor, value):
    return actor.double.remote(value)


def wait_for(actor, path):
    return actor.wait_for.remote(path)


def test_results_that_nobody_took_do_not_come_again(shoal_session, tmp_path):
    go = str(tmp_path / "go")
    pool = ActorPool([Doubler.remote() for _ in range(2)])
    for value in range(5):
        pool.submit(double, value)
    pool.submit(wait_for, go)
    results = pool.map(double, [10, 20])
    open(go, "w").close()
    assert list(results) == [20, 40]
    pool.submit(double, -1)
    assert list(pool.map_unordered(double, [5])) == [10]


def test_failed_calls_raise_in_their_place(shoal_session):
    pool = ActorPool([Doubler.remote() for _ in range(2)])
    results = pool.map(double, [1, -1, 3])
    assert next(results) == 2
    with pytest.raises(ValueError, match="negative"):
        next(results)
    for value in (1, -1, 3):
        pool.submit(double, value)
    outcomes = []
    while pool.has_next():
        try:
            outcomes.append(pool.get_next())
        except ValueError:
            outcomes.append("failed")
    assert outcomes[-3:] == [2, "failed", 6]


def test_timeouts(shoal_session, tmp_path):
    go = str(tmp_path / "go")
    pool = ActorPool([Doubler.remote()])
    pool.submit(wait_for, go)
    pool.submit(double, 2)
    for take in (pool.get_next, pool.get_next_unordered):
        with pytest.raises(TimeoutError):
            take(timeout=0.01)
    assert pool.has_next()
    with pytest.raises(TimeoutError):
        pool.get_next(timeout=0.01, ignore_if_timedout=True)
    open(go, "w").close()
    assert pool.get_next(timeout=60) == 4
    assert not pool.has_next()


def test_an_actor_gets_its_next_call_when_it_is_free(shoal_session, tmp_path):
    first, second = str(tmp_path / "first"), str(tmp_path / "second")
    pool = ActorPool([Doubler.remote() for _ in range(2)])
    pool.submit(wait_for, first)
    pool.submit(wait_for, second)
    pool.submit(double, 1)
    open(second, "w").close()
    assert pool.get_next_unordered(timeout=60) == second
    assert pool.get_next_unordered(timeout=60) == 2
    open(first, "w").close()
    assert pool.get_next(timeout=60) == first


def test_an_actor_is_not_lost_with_a_call_that_could_not_be_made(shoal_session):
    pool = ActorPool([Doubler.remote()])
    with pytest.raises(TypeError):
        pool.submit(lambda actor, _: actor.double.remote(), 1)
    assert pool.has_free()
    pool.submit(double, 1)
    assert pool.get_next() == 2


def test_a_pool_without_actors_says_so(shoal_session):
    pool = ActorPool([])
    pool.submit(double, 1)
    for take in (pool.get_next, pool.get_next_unordered):
        with pytest.raises(ValueError, match="push"):
            take()
    pool.push(Doubler.remote())
    assert pool.get_next() == 2
    wait_until(pool.has_free)

"""ActorPool, Queue, multiprocessing.Pool, Executor, as_completed and map_unordered on a real cluster."""

import asyncio
import concurrent.futures
import multiprocessing
import os
import time

import pytest

import shoal
from shoal.util import ActorPool, Executor, as_completed, get_node_ip_address, map_unordered
from shoal.util.multiprocessing import Pool
from shoal.util.queue import Empty, Full, Queue


def square(x):
    return x * x


def power(base, exponent=2):
    return base**exponent


def fail(x):
    raise ValueError(f"no {x}")


def test_the_address_of_the_node(shoal_session):
    assert get_node_ip_address() == "127.0.0.1"
    assert shoal.get(shoal.remote(get_node_ip_address).remote()) == "127.0.0.1"


# --- iteration ---


def test_as_completed(shoal_session):
    task = shoal.remote(square)
    assert sorted(as_completed([task.remote(i) for i in range(50)])) == [i * i for i in range(50)]
    refs = [task.remote(i) for i in range(5)]
    assert set(as_completed(refs, yield_obj_refs=True)) == set(refs)
    with pytest.raises(ValueError, match="no 1"):
        list(as_completed([shoal.remote(fail).remote(1)]))


def test_map_unordered(shoal_session):
    task = shoal.remote(square)
    assert sorted(map_unordered(task, range(30), backpressure_size=4)) == [i * i for i in range(30)]
    assert sorted(map_unordered(task, range(30), backpressure_size=None)) == [i * i for i in range(30)]


# --- ActorPool ---


@shoal.remote
class Doubler:
    """Doubles."""

    def double(self, x):
        return 2 * x


def test_actor_pool(shoal_session):
    pool = ActorPool([Doubler.remote() for _ in range(2)])
    assert list(pool.map(lambda actor, x: actor.double.remote(x), range(10))) == [2 * x for x in range(10)]
    found = pool.map_unordered(lambda actor, x: actor.double.remote(x), range(10))
    assert sorted(found) == [2 * x for x in range(10)]
    pool.submit(lambda actor, x: actor.double.remote(x), 1)
    pool.submit(lambda actor, x: actor.double.remote(x), 2)
    assert not pool.has_free()
    pool.submit(lambda actor, x: actor.double.remote(x), 3)
    assert pool.get_next_unordered() in (2, 4)
    assert {pool.get_next(), pool.get_next()} <= {2, 4, 6}
    assert not pool.has_next()
    with pytest.raises(StopIteration):
        pool.get_next()
    actor = pool.pop_idle()
    pool.push(actor)
    with pytest.raises(ValueError, match="already"):
        pool.push(actor)


# --- Queue ---


def test_queue(shoal_session):
    queue = Queue(maxsize=3)
    assert queue.empty()
    for i in range(3):
        queue.put(i)
    assert queue.full()
    assert len(queue) == 3
    with pytest.raises(Full):
        queue.put_nowait(3)
    with pytest.raises(Full):
        queue.put(3, timeout=0.01)
    assert [queue.get() for _ in range(3)] == [0, 1, 2]
    with pytest.raises(Empty):
        queue.get_nowait()
    with pytest.raises(Empty):
        queue.get(timeout=0.01)
    with pytest.raises(ValueError, match="timeout"):
        queue.get(timeout=-1)
    queue.put_nowait_batch([1, 2])
    with pytest.raises(Full):
        queue.put_nowait_batch([3, 4])
    with pytest.raises(Empty):
        queue.get_nowait_batch(3)
    assert queue.get_nowait_batch(2) == [1, 2]
    queue.shutdown()


def test_queue_between_tasks(shoal_session):
    @shoal.remote
    def produce(queue, count):
        for i in range(count):
            queue.put(i)

    @shoal.remote
    def consume(queue, count):
        return sum(queue.get() for _ in range(count))

    queue = Queue(maxsize=5)
    consumer = consume.remote(queue, 40)
    shoal.get(produce.remote(queue, 40), timeout=60)
    assert shoal.get(consumer, timeout=60) == sum(range(40))


def test_queue_awaited(shoal_session):
    async def both():
        queue = Queue()
        getting = asyncio.create_task(queue.get_async())
        await queue.put_async("x")
        return await getting

    assert asyncio.run(both()) == "x"


# --- multiprocessing.Pool ---


def remember(value):
    global remembered
    remembered = value


def recall(_):
    return remembered, os.getpid()


def test_pool_calls(shoal_session):
    with Pool(2) as pool:
        assert pool.apply(power, (3,), {"exponent": 3}) == 27
        assert pool.map(square, range(20)) == [i * i for i in range(20)]
        assert pool.starmap(power, [(2, 3), (3, 2)]) == [8, 9]
        assert list(pool.imap(square, range(20), chunksize=3)) == [i * i for i in range(20)]
        assert sorted(pool.imap_unordered(square, range(20))) == [i * i for i in range(20)]
        assert pool.map(square, []) == []
        assert pool.map_async(square, [2]).get(timeout=60) == [4]
        assert pool.apply_async(time.sleep, (0,)).get(timeout=60) is None


def test_pool_errors_and_callbacks(shoal_session):
    with Pool(2) as pool:
        with pytest.raises(ValueError, match="no 3") as caught:
            pool.apply(fail, (3,))
        assert type(caught.value) is ValueError
        with pytest.raises(ValueError, match="no 0"):
            pool.map(fail, range(3))
        iterator = pool.imap(fail, [1])
        with pytest.raises(ValueError, match="no 1"):
            next(iterator)
        good, bad = [], []
        pool.apply_async(square, (3,), callback=good.append).wait(60)
        result = pool.apply_async(fail, (3,), error_callback=bad.append)
        result.wait(60)
        assert not result.successful()
        pool.close()
        pool.join()
        assert good == [9]
        assert str(bad[0]) == "no 3"


def test_pool_lives(shoal_session):
    pool = Pool(2, initializer=remember, initargs=("x",))
    rows = pool.map(recall, range(20), chunksize=1)
    assert {value for value, _ in rows} == {"x"}
    assert len({pid for _, pid in rows}) == 2
    with pytest.raises(ValueError, match="still running"):
        pool.join()
    late = pool.apply_async(square, (5,))
    pool.close()
    with pytest.raises(ValueError, match="not running"):
        pool.apply(square, (1,))
    pool.join()
    assert late.get(timeout=60) == 25
    with Pool(1, maxtasksperchild=1) as short:
        assert len({pid for _, pid in short.map(recall_pid, range(3), chunksize=1)}) == 3
    waiting = Pool(1)
    result = waiting.apply_async(time.sleep, (1000,))
    with pytest.raises(multiprocessing.TimeoutError):
        result.get(timeout=0.01)
    waiting.terminate()
    waiting.join()
    with pytest.raises(shoal.exceptions.ActorDiedError):
        result.get(timeout=60)


def recall_pid(x):
    return x, os.getpid()


# --- Executor ---


def test_executor(shoal_session):
    with Executor() as executor:
        future = executor.submit(power, 2, exponent=5)
        assert future.result(60) == 32
        assert list(executor.map(power, [2, 3], [3, 2])) == [8, 9]
        assert list(executor.map(square, range(10), chunksize=3)) == [i * i for i in range(10)]
        futures = [executor.submit(square, i) for i in range(5)]
        assert {each.result() for each in concurrent.futures.as_completed(futures, 60)} == {0, 1, 4, 9, 16}
        bad = executor.submit(fail, 1)
        assert type(bad.exception(60)) is ValueError
        called = []
        done = executor.submit(square, 3)
        done.add_done_callback(lambda each: called.append(each.result()))
        concurrent.futures.wait([done], 60)
    assert called == [9]
    with pytest.raises(RuntimeError, match="after shutdown"):
        executor.submit(square, 1)


def test_executor_limits_and_cancels(shoal_session):
    with pytest.raises(ValueError, match="max_workers"):
        Executor(max_workers=0)
    executor = Executor(max_workers=2)
    running = executor.submit(time.sleep, 1000)
    assert running.cancel()
    assert running.cancelled()
    with pytest.raises(concurrent.futures.CancelledError):
        running.result()
    other = executor.submit(time.sleep, 1000)
    assert other.cancel()
    executor.shutdown()
    with Executor() as late, pytest.raises(TimeoutError):
        list(late.map(time.sleep, [0, 1], timeout=0.05))


def test_serializers_are_where_ray_has_them():
    for name in ("register_serializer", "deregister_serializer", "inspect_serializability"):
        assert getattr(shoal.util, name) is getattr(shoal, name)
        assert name in shoal.util.__all__

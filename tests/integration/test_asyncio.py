"""Refs in event loops, as futures, and in threads beside them."""

import asyncio
import concurrent.futures
import threading

import numpy as np
import pytest

import shoal
from marks import Marks
from shoal.exceptions import TaskCancelledError, TaskError


@shoal.remote
def double(x):
    return 2 * x


@shoal.remote
def fail():
    raise ValueError("no")


def test_await_gives_the_value(shoal_session):
    async def main():
        return await double.remote(4), await shoal.put("put"), (await double.remote(np.ones(50_000))).sum()

    assert asyncio.run(main()) == (8, "put", 100_000)


def test_await_raises_what_the_task_raised(shoal_session):
    async def main():
        with pytest.raises(ValueError, match="no") as caught:
            await fail.remote()
        assert isinstance(caught.value, TaskError)
        results = await asyncio.gather(fail.remote(), double.remote(1), return_exceptions=True)
        return [type(results[0]).__mro__[2].__name__ != "", results[1]]

    assert asyncio.run(main()) == [True, 2]


def test_gather_and_as_completed_of_many(shoal_session):
    async def main():
        values = await asyncio.gather(*[double.remote(i) for i in range(1000)])
        completed = [await each for each in asyncio.as_completed([double.remote(i) for i in range(100)])]
        return values, sorted(completed)

    values, completed = asyncio.run(main())
    assert values == list(range(0, 2000, 2))
    assert completed == list(range(0, 200, 2))


def test_the_loop_goes_on_while_it_awaits(shoal_session, tmp_path):
    marks = Marks(tmp_path)

    async def main():
        ref = shoal.remote(marks.wait).remote("go")
        ticks = 0
        waiting = asyncio.ensure_future(ref)
        while ticks < 20:
            await asyncio.sleep(0.001)
            ticks += 1
        assert not waiting.done()
        marks.add("go")
        await waiting
        return ticks

    assert asyncio.run(main()) == 20


def test_wait_for_with_a_timeout_leaves_the_task_alone(shoal_session, tmp_path):
    marks = Marks(tmp_path)

    @shoal.remote
    def slow():
        marks.wait("go")
        return "done"

    async def main():
        ref = slow.remote()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asyncio.ensure_future(ref), 0.05)
        marks.add("go")
        return await ref

    assert asyncio.run(main()) == "done"


def test_a_ref_awaited_twice_and_from_two_loops(shoal_session):
    ref = double.remote(3)

    async def main():
        return await ref + await ref

    results = []
    threads = [threading.Thread(target=lambda: results.append(asyncio.run(main()))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert results == [12, 12]


def test_futures(shoal_session):
    futures = [double.remote(i).future() for i in range(50)]
    done, pending = concurrent.futures.wait(futures, timeout=60)
    assert not pending
    assert sorted(future.result() for future in done) == list(range(0, 100, 2))
    with pytest.raises(ValueError, match="no"):
        fail.remote().future().result(60)
    called = threading.Event()
    double.remote(1).future().add_done_callback(lambda future: called.set())
    assert called.wait(60)


def test_a_callback_may_use_shoal(shoal_session):
    answers = []
    called = threading.Event()

    def callback(future):
        answers.append(shoal.get(double.remote(future.result())))
        called.set()

    double.remote(1).future().add_done_callback(callback)
    assert called.wait(60)
    assert answers == [4]


def test_cancel_reaches_who_awaits(shoal_session, tmp_path):
    marks = Marks(tmp_path)

    async def main():
        ref = shoal.remote(marks.wait).remote("never")
        asyncio.get_running_loop().call_later(0.05, shoal.cancel, ref)
        with pytest.raises(TaskCancelledError):
            await ref

    asyncio.run(main())


def test_async_functions_are_tasks(shoal_session):
    @shoal.remote
    async def work(n):
        parts = await asyncio.gather(*[double.remote(i) for i in range(n)])
        await asyncio.sleep(0)
        return sum(parts)

    assert shoal.get([work.remote(10) for _ in range(5)], timeout=60) == [90] * 5


def test_gets_in_threads_beside_a_loop(shoal_session):
    async def main():
        loop = asyncio.get_running_loop()
        calls = [loop.run_in_executor(None, lambda i=i: shoal.get(double.remote(i))) for i in range(20)]
        awaited = asyncio.gather(*[double.remote(i) for i in range(20)])
        return await asyncio.gather(*calls), await awaited

    assert asyncio.run(main()) == ([2 * i for i in range(20)], [2 * i for i in range(20)])

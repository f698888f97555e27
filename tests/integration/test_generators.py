"""Streaming generators: items as they come, a bounded producer, failures in the middle, and readers that leave."""

import asyncio
import os
import signal
import time

import numpy as np
import pytest

import shoal
from marks import Marks, until
from shoal.exceptions import TaskError, WorkerCrashedError


@pytest.fixture
def marks(tmp_path):
    return Marks(tmp_path)


@shoal.remote
def count(n, marks=None):
    for number in range(n):
        if marks is not None:
            marks.add("item")
        yield number


def read(generator):
    return [shoal.get(ref) for ref in generator]


def test_items_come_in_order_and_while_the_generator_runs(shoal_session, marks):
    @shoal.remote
    def stream():
        yield "first"
        marks.wait("go")
        yield "second"

    generator = stream.remote()
    assert isinstance(generator, shoal.ObjectRefGenerator)
    first = next(generator)
    assert isinstance(first, shoal.ObjectRef)
    assert shoal.get(first) == "first"
    marks.add("go")
    assert read(generator) == ["second"]
    with pytest.raises(StopIteration):
        next(generator)


def test_streams_of_any_length(shoal_session):
    assert read(count.remote(0)) == []
    assert read(count.remote(1)) == [0]
    assert read(count.remote(3000)) == list(range(3000))


def test_large_items_go_through_the_store_and_are_freed(shoal_session):
    @shoal.remote
    def arrays(n):
        for number in range(n):
            yield np.full(100_000, number)

    objects = shoal.memory_summary()["objects"]
    assert [int(array[0]) for array in read(arrays.remote(40))] == list(range(40))
    until(lambda: shoal.memory_summary()["objects"] <= objects)


def test_a_function_that_returns_an_iterable_can_stream(shoal_session):
    @shoal.remote(num_returns="streaming")
    def values():
        return [1, 2, 3]

    @shoal.remote(num_returns="streaming")
    def no_values():
        return 5

    assert read(values.remote()) == [1, 2, 3]
    with pytest.raises(TypeError, match="must be a generator"):
        read(no_values.remote())


def test_a_generator_function_with_a_number_of_returns(shoal_session):
    assert shoal.get(count.options(num_returns=3).remote(3)) == [0, 1, 2]


def test_dynamic_is_a_stream_that_get_waits_for(shoal_session):
    generator = shoal.get(count.options(num_returns="dynamic").remote(4))
    assert read(generator) == [0, 1, 2, 3]


@shoal.remote
def sum_of(items):
    return len(items), sum(int(np.sum(shoal.get(ref))) for ref in items)


@shoal.remote
def sum_within(holder):
    items = shoal.get(holder["items"])
    return len(items), sum(shoal.get(ref) for ref in items)


@shoal.remote
class Summing:
    def sum_of(self, items):
        return sum(shoal.get(ref) for ref in items)

    @shoal.method(num_returns="dynamic")
    def count(self, number):
        yield from range(number)


def test_a_dynamic_one_is_gathered_as_often_as_wanted(shoal_session):
    generator = count.options(num_returns="dynamic").remote(4)
    first = shoal.get(generator)
    assert (len(first), read(first), len(first)) == (4, [0, 1, 2, 3], 0)
    assert read(shoal.get(generator)) == read(generator) == [0, 1, 2, 3]
    assert read(shoal.get(generator, timeout=60)) == [0, 1, 2, 3]
    assert [read(one) for one in shoal.get([generator, generator], timeout=60)] == 2 * [[0, 1, 2, 3]]
    again = shoal.get(generator)
    assert shoal.get(again) is again


def test_a_dynamic_one_as_argument_is_iterated_by_the_task(shoal_session):
    dynamic = count.options(num_returns="dynamic")
    generator = dynamic.remote(5)
    assert shoal.get([sum_of.remote(generator), sum_of.remote(items=generator)]) == 2 * [(5, 10)]
    assert shoal.get(sum_of.remote(dynamic.remote(3))) == (3, 3)
    assert shoal.get(sum_within.remote({"items": generator})) == (5, 10)
    assert shoal.get(sum_of.remote(shoal.put(generator))) == (5, 10)
    assert shoal.get(sum_of.remote(large.options(num_returns="dynamic").remote(3))) == (3, 300_000)
    summing = Summing.remote()
    assert shoal.get(summing.sum_of.remote(generator)) == 10
    assert shoal.get(sum_of.remote(summing.count.remote(4))) == (4, 6)
    del generator
    assert shoal.get(parent_of_dynamic.remote(4)) == (4, 6)


@shoal.remote(num_returns="dynamic")
def large(number):
    for _ in range(number):
        yield np.ones(100_000)


@shoal.remote
def parent_of_dynamic(number):
    return shoal.get(sum_of.remote(count.options(num_returns="dynamic").remote(number)))


def test_a_dynamic_one_that_fails(shoal_session):
    @shoal.remote(num_returns="dynamic")
    def fails_after(number):
        yield from range(number)
        raise ValueError("no more")

    items = list(shoal.get(fails_after.remote(2)))
    assert shoal.get(items[:2]) == [0, 1]
    with pytest.raises(ValueError, match="no more"):
        shoal.get(items[2])
    with pytest.raises(ValueError, match="no more"):
        shoal.get(fails_after.remote(0))


def test_what_a_streaming_one_cannot_be(shoal_session):
    with pytest.raises(TypeError, match="stays in its process"):
        sum_of.remote(count.remote(1))
    with pytest.raises(ValueError, match="iterate over the generator"):
        shoal.get(count.remote(1))
    with pytest.raises(TypeError, match="list contains ObjectRefGenerator"):
        shoal.get([count.remote(1)])


def test_the_completion_tells_the_number_of_items(shoal_session):
    generator = count.remote(7)
    assert shoal.get(generator.completed()) == 7
    assert len(read(generator)) == 7


def test_items_can_be_arguments(shoal_session):
    @shoal.remote
    def double(value):
        return 2 * value

    assert shoal.get([double.remote(ref) for ref in count.remote(20)]) == list(range(0, 40, 2))


# --- backpressure ---


def test_the_producer_is_bounded_by_its_reader(shoal_session, marks):
    generator = count.options(_generator_backpressure_num_objects=3).remote(100, marks)
    marks.wait("item", 3)
    time.sleep(0.1)  # it must not go on
    assert marks.count("item") == 3
    for taken in range(1, 11):
        next(generator)
        marks.wait("item", 3 + taken)
    time.sleep(0.05)
    assert marks.count("item") == 13
    assert len(read(generator)) == 90


def test_a_reader_that_computes_between_items_does_not_hold_the_producer(shoal_session, marks):
    generator = count.options(_generator_backpressure_num_objects=1).remote(10, marks)
    next(generator)
    # No call into shoal from here on: the news that an item was taken travels by itself.
    marks.wait("item", 2)
    assert len(read(generator)) == 9


def test_a_dropped_generator_stops_its_producer(shoal_session, marks):
    @shoal.remote
    def endless():
        try:
            while True:
                marks.add("item")
                yield np.zeros(50_000)
        finally:
            marks.add("closed")

    objects = shoal.memory_summary()["objects"]
    generator = endless.remote()
    next(generator)
    del generator
    marks.wait("closed")
    until(lambda: shoal.memory_summary()["objects"] <= objects)
    assert marks.count("item") < 100


def test_close_stops_the_producer(shoal_session, marks):
    generator = count.options(_generator_backpressure_num_objects=2).remote(1000, marks)
    next(generator)
    generator.close()
    assert read(generator) == []
    until(lambda: shoal.available_resources().get("CPU") == 2)
    assert marks.count("item") <= 5


# --- failures ---


def test_an_exception_in_the_middle_is_the_last_item(shoal_session):
    @shoal.remote
    def breaks():
        yield 1
        yield 2
        raise ValueError("after two")

    generator = breaks.remote()
    assert shoal.get(next(generator)) == 1
    assert shoal.get(next(generator)) == 2
    last = next(generator)
    with pytest.raises(ValueError, match="after two"):
        shoal.get(last)
    with pytest.raises(StopIteration):
        next(generator)
    with pytest.raises(TaskError):
        shoal.get(generator.completed())


def test_a_failed_argument_is_the_only_item(shoal_session):
    @shoal.remote
    def fail():
        raise KeyError("argument")

    with pytest.raises(KeyError):
        read(count.remote(fail.remote()))


def test_a_worker_that_dies_in_the_middle_starts_again_without_repeating_items(shoal_session, marks):
    @shoal.remote(_generator_backpressure_num_objects=4)
    def stream(n, deaths):
        attempt = marks.add("attempt")
        for number in range(n):
            if attempt < deaths and number == 10 * (attempt + 1):
                os.kill(os.getpid(), signal.SIGKILL)
            yield number

    assert read(stream.remote(50, 2)) == list(range(50))
    assert marks.count("attempt") == 3


def test_items_that_were_kept_survive_a_second_attempt(shoal_session, marks):
    @shoal.remote
    def stream():
        first = marks.add("attempt") == 0
        for number in range(6):
            yield np.full(30_000, number)
            if first and number == 3:
                marks.wait("go")
                os.kill(os.getpid(), signal.SIGKILL)

    generator = stream.remote()
    kept = [next(generator) for _ in range(4)]
    marks.add("go")
    kept += list(generator)
    assert [int(array[0]) for array in shoal.get(kept)] == list(range(6))


def test_a_worker_that_dies_for_good_ends_the_stream_with_its_error(shoal_session, marks):
    @shoal.remote(max_retries=0)
    def stream():
        yield 1
        marks.wait("seen")
        os.kill(os.getpid(), signal.SIGKILL)

    generator = stream.remote()
    assert shoal.get(next(generator)) == 1
    marks.add("seen")
    with pytest.raises(WorkerCrashedError):
        shoal.get(next(generator))
    with pytest.raises(StopIteration):
        next(generator)


def test_exceptions_of_generators_are_retried_when_asked(shoal_session, marks):
    @shoal.remote(retry_exceptions=True)
    def stream():
        yield 1
        if marks.add("attempt") < 2:
            raise ValueError("again")
        yield 2

    assert read(stream.remote()) == [1, 2]
    assert marks.count("attempt") == 3


# --- asyncio ---


def test_async_iteration(shoal_session):
    async def read_both():
        async def read_one(n):
            return [await ref async for ref in count.remote(n)]

        return await asyncio.gather(read_one(20), read_one(30))

    assert asyncio.run(read_both()) == [list(range(20)), list(range(30))]


def test_async_generators_are_tasks_too(shoal_session):
    @shoal.remote
    async def stream(n):
        for number in range(n):
            await asyncio.sleep(0)
            yield number

    assert read(stream.remote(5)) == [0, 1, 2, 3, 4]


def test_a_generator_read_by_another_task(shoal_session):
    @shoal.remote
    def reader(n):
        return sum(shoal.get(ref) for ref in count.remote(n))

    assert shoal.get(reader.remote(200), timeout=60) == 19_900


def test_a_generator_stays_where_it_is_and_says_so(shoal_session):
    @shoal.remote
    def use(items):
        return len(items)

    with pytest.raises(
        TypeError,
        match=r"argument 0 of .*use.*: .*ObjectRefGenerator object; .*pass on the refs that it gives",
    ):
        use.remote(count.remote(3))
    assert shoal.get(use.remote(list(count.remote(3)))) == 3


# --- wait ---


@shoal.remote
def items_when_told(marks, count):
    for number in range(count):
        marks.wait(f"give {number}")
        yield number


def test_wait_takes_generators_whose_next_ref_is_there(shoal_session, marks):
    slow, fast = items_when_told.remote(marks, 2), count.remote(1)
    plain = shoal.put(0)
    assert shoal.wait([slow, fast, plain], num_returns=2, timeout=60) == ([fast, plain], [slow])
    assert shoal.wait([slow], timeout=0) == ([], [slow])
    marks.add("give 0")
    assert shoal.wait([slow], timeout=60) == ([slow], [])
    assert shoal.wait([slow], timeout=60) == ([slow], [])  # it was not taken yet
    assert shoal.get(next(slow)) == 0
    assert shoal.wait([slow], timeout=0) == ([], [slow])
    marks.add("give 1")
    assert shoal.wait([slow], timeout=60) == ([slow], [])
    assert shoal.get(next(slow)) == 1
    assert shoal.wait([slow], timeout=60) == ([slow], [])  # it has ended
    assert list(slow) == []


def test_a_loop_of_wait_reads_several_generators_to_their_ends(shoal_session):
    streams = [count.remote(length) for length in (0, 1, 5, 20)]
    found = {stream: [] for stream in streams}
    waiting = streams
    while waiting:
        ready, waiting = shoal.wait(waiting, timeout=60)
        for stream in ready:
            ref = next(stream, None)
            if ref is not None:
                found[stream].append(shoal.get(ref))
                waiting.append(stream)
    assert [found[stream] for stream in streams] == [list(range(length)) for length in (0, 1, 5, 20)]


def test_wait_for_a_generator_that_fails_or_of_which_get_waits_for_the_end(shoal_session, marks):
    @shoal.remote
    def fails():
        raise ValueError("after 0")
        yield

    failing = fails.remote()
    assert shoal.wait([failing], timeout=60) == ([failing], [])
    with pytest.raises(ValueError, match="after 0"):
        shoal.get(next(failing))
    whole = items_when_told.options(num_returns="dynamic").remote(marks, 2)
    marks.add("give 0")
    assert shoal.wait([whole], timeout=0.2) == ([], [whole])
    marks.add("give 1")
    assert shoal.wait([whole], timeout=60) == ([whole], [])
    assert [shoal.get(ref) for ref in whole] == [0, 1]


def test_wait_that_ends_without_a_generator_leaves_nothing_with_it(shoal_session, marks):
    slow = items_when_told.remote(marks, 1)
    for _ in range(3):
        assert shoal.wait([slow, shoal.put(0)], timeout=60)[1] == [slow]
    assert slow._stream.waiters == []
    with pytest.raises(ValueError, match="duplicates"):
        shoal.wait([slow, slow])
    marks.add("give 0")
    assert [shoal.get(ref) for ref in slow] == [0]

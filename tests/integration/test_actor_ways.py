"""How actors run calls: in threads, on an event loop, in groups; cancel; and what they take of the node."""

import asyncio
import os
import threading
import time

import pytest

import shoal
from actorparts import get, wait_until
from shoal.exceptions import TaskCancelledError


@shoal.remote
class Counter:
    """Counts."""

    def __init__(self, start=0):
        self.value = start

    def add(self, amount=1):
        self.value += amount
        return self.value


# --- ways of running ---


def test_threaded_actor_runs_calls_at_once(shoal_session):
    @shoal.remote(max_concurrency=4)
    class Meeting:
        def __init__(self):
            self.barrier = threading.Barrier(4)

        def meet(self):
            self.barrier.wait(60)
            return threading.current_thread().name

    meeting = Meeting.remote()
    assert len(set(get([meeting.meet.remote() for _ in range(4)]))) == 4


def test_async_actor_runs_a_thousand_calls_at_once(shoal_session):
    @shoal.remote
    class Gate:
        def __init__(self):
            self.count = 0
            self.open = asyncio.Event()

        async def enter(self):
            self.count += 1
            if self.count == 1000:
                self.open.set()
            await self.open.wait()
            return self.count

        def now(self):
            return self.count

    gate = Gate.remote()
    assert get([gate.enter.remote() for _ in range(1000)]) == [1000] * 1000
    assert get(gate.now.remote()) == 1000


def test_async_actor_awaits_refs_and_streams(shoal_session):
    @shoal.remote
    def one():
        return 1

    @shoal.remote
    class Async:
        async def total(self, refs):
            return sum([await ref for ref in refs])

        async def count_to(self, n):
            for i in range(n):
                await asyncio.sleep(0)
                yield i

        async def fail(self):
            raise KeyError("async")

    actor = Async.remote()
    assert get(actor.total.remote([one.remote() for _ in range(5)])) == 5
    assert [get(ref) for ref in actor.count_to.remote(150)] == list(range(150))
    with pytest.raises(KeyError):
        get(actor.fail.remote())


def test_concurrency_groups_have_limits_of_their_own(shoal_session):
    @shoal.remote(concurrency_groups={"io": 2, "cpu": 1})
    class Grouped:
        def __init__(self):
            self.go = threading.Event()

        @shoal.method(concurrency_group="io")
        def wait(self):
            return self.go.wait(60)

        def release(self):
            self.go.set()

        def where(self):
            return threading.current_thread().name

    grouped = Grouped.remote()
    waiting = [grouped.wait.remote() for _ in range(2)]
    assert "default" in get(grouped.where.remote())
    assert "cpu" in get(grouped.where.options(concurrency_group="cpu").remote())
    get(grouped.release.remote())
    assert get(waiting) == [True, True]


def test_async_concurrency_groups(shoal_session):
    @shoal.remote(concurrency_groups={"io": 1}, max_concurrency=2)
    class Grouped:
        def __init__(self):
            self.go = asyncio.Event()
            self.inside = 0

        @shoal.method(concurrency_group="io")
        async def wait(self):
            self.inside += 1
            await self.go.wait()
            return self.inside

        async def release(self):
            self.go.set()
            return self.inside

    grouped = Grouped.remote()
    waiting = [grouped.wait.remote() for _ in range(3)]
    assert get(grouped.release.remote()) == 1
    assert get(waiting) == [1, 2, 3]


# --- cancel ---


@shoal.remote
class Sleeper:
    """Sleeps until a file is there."""

    def sleep(self, mark):
        open(mark, "w").close()
        while True:
            time.sleep(0.01)

    def quick(self):
        return 1


def test_cancel_of_queued_and_running_calls(shoal_session, tmp_path):
    mark = str(tmp_path / "mark-cancel")
    sleeper = Sleeper.remote()
    running, queued, last = (
        sleeper.sleep.remote(mark),
        sleeper.sleep.remote(mark + "2"),
        sleeper.quick.remote(),
    )
    wait_until(lambda: os.path.exists(mark))
    shoal.cancel(queued)
    with pytest.raises(TaskCancelledError):
        get(queued)
    shoal.cancel(running)
    with pytest.raises(TaskCancelledError):
        get(running)
    assert get(last) == 1
    assert not os.path.exists(mark + "2")


def test_cancel_of_async_calls(shoal_session, tmp_path):
    @shoal.remote(max_concurrency=1)
    class Async:
        async def forever(self, mark):
            open(mark, "w").close()  # noqa: ASYNC230
            await asyncio.sleep(1000)

        async def quick(self):
            return 1

    mark = str(tmp_path / "mark-async")
    actor = Async.remote()
    running, queued = actor.forever.remote(mark), actor.forever.remote(mark)
    wait_until(lambda: os.path.exists(mark))
    shoal.cancel(queued)
    shoal.cancel(running)
    for ref in (queued, running):
        with pytest.raises(TaskCancelledError):
            get(ref)
    assert get(actor.quick.remote()) == 1


def test_cancel_in_threads(shoal_session, tmp_path):
    mark = str(tmp_path / "mark-thread")
    sleeper = Sleeper.options(max_concurrency=2).remote()
    running = sleeper.sleep.remote(mark)
    wait_until(lambda: os.path.exists(mark))
    shoal.cancel(running)
    with pytest.raises(TaskCancelledError):
        get(running)
    assert get(sleeper.quick.remote()) == 1


def test_cancel_of_a_call_that_waits_for_its_arguments(shoal_session):
    @shoal.remote
    def forever():
        time.sleep(1000)

    sleeper = Sleeper.remote()
    argument = forever.remote()
    waiting, later = sleeper.sleep.remote(argument), sleeper.quick.remote()
    shoal.cancel(waiting)
    with pytest.raises(TaskCancelledError):
        get(waiting)
    assert get(later) == 1
    shoal.cancel(argument)


def test_cancel_with_force_is_refused(shoal_session, tmp_path):
    sleeper = Sleeper.remote()
    mark = str(tmp_path / "mark-force")
    ref = sleeper.sleep.remote(mark)
    with pytest.raises(ValueError, match="kill"):
        shoal.cancel(ref, force=True)
    shoal.kill(sleeper)


# --- resources ---


def test_many_actors_and_tasks_share_the_node(shoal_session):
    @shoal.remote
    def one():
        return 1

    counters = [Counter.remote(i) for i in range(20)]
    assert get([counter.add.remote() for counter in counters]) == list(range(1, 21))
    assert get([one.remote() for _ in range(20)]) == [1] * 20


def test_an_actor_holds_what_it_asks_for(shoal_session):
    @shoal.remote(num_cpus=1)
    class Busy:
        def free(self):
            return shoal.available_resources().get("CPU", 0)

    busy = Busy.remote()
    assert get(busy.free.remote()) <= 1
    pid_free = shoal.available_resources().get("CPU", 0)
    assert pid_free <= 1
    del busy
    wait_until(lambda: shoal.available_resources().get("CPU", 0) == 2)

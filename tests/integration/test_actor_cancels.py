"""Cancels of actor calls that come at awkward moments: every call ends, and the actor goes on."""

import asyncio
import os
import time

import pytest

import shoal
from actorparts import get, wait_until
from shoal.exceptions import TaskCancelledError


class Quick:
    """Calls that are over at once, and some that wait."""

    def __init__(self):
        self.ran = 0

    def quick(self):
        self.ran += 1
        return "done"

    def spin(self, microseconds):
        end = time.perf_counter() + microseconds / 1e6
        while time.perf_counter() < end:
            pass
        return "done"

    def items(self):
        for number in range(1_000_000):
            time.sleep(0.001)
            yield number

    def wait_for(self, refs, mark):
        open(mark, "w").close()
        try:
            return shoal.get(refs[0])
        except KeyboardInterrupt:
            open(mark + "-interrupted", "w").close()
            raise


class AsyncQuick:
    """The same on a loop."""

    async def quick(self):
        return "done"

    async def items(self):
        for number in range(1_000_000):
            await asyncio.sleep(0.001)
            yield number

    async def spin(self, microseconds):
        await asyncio.sleep(microseconds / 1e6)
        return "done"


KINDS = {
    "in order": lambda: shoal.remote(Quick).remote(),
    "threads": lambda: shoal.remote(Quick).options(max_concurrency=3).remote(),
    "loop": lambda: shoal.remote(AsyncQuick).options(max_concurrency=3).remote(),
}


def outcome(ref):
    """What came of a call: "done" or "cancelled"; anything else raises."""
    try:
        return get(ref)
    except TaskCancelledError:
        return "cancelled"


@pytest.mark.parametrize("kind", KINDS)
def test_a_cancel_right_behind_its_call_leaves_nobody_hanging(shoal_session, kind):
    actor = KINDS[kind]()
    get(actor.quick.remote())
    for number in range(300):
        refs = [actor.quick.remote() for _ in range(3)]
        shoal.cancel(refs[number % 3])
        outcomes = [outcome(ref) for ref in refs]
        assert [each for place, each in enumerate(outcomes) if place != number % 3] == ["done"] * 2
        assert outcomes[number % 3] in ("done", "cancelled")
    assert get(actor.quick.remote()) == "done"


@pytest.mark.parametrize("kind", KINDS)
def test_a_cancel_at_the_end_of_its_call_harms_no_other(shoal_session, kind):
    actor = KINDS[kind]()
    get(actor.quick.remote())
    for number in range(200):
        ref, other = actor.spin.remote(300), actor.quick.remote()
        time.sleep((200 + number) / 1e6)
        shoal.cancel(ref)
        assert outcome(ref) in ("done", "cancelled")
        assert outcome(other) == "done"
    assert get([actor.quick.remote() for _ in range(10)]) == ["done"] * 10


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("waits", [False, True])
def test_a_generator_under_way_is_cancelled(shoal_session, kind, waits):
    """While it makes an item, and while it waits for its reader."""
    actor = KINDS[kind]()
    stream = actor.items.options(generator_backpressure_num_objects=2 if waits else None).remote()
    assert get(next(stream)) == 0
    if waits:
        time.sleep(0.05)  # the items that it may make ahead
    shoal.cancel(stream)
    with pytest.raises(TaskCancelledError):
        for ref in stream:
            get(ref)
    assert get(actor.quick.remote()) == "done"


@pytest.mark.parametrize("kind", ["in order", "threads"])
def test_a_call_that_waits_in_get_is_interrupted_there(shoal_session, kind, tmp_path):
    @shoal.remote
    def forever():
        time.sleep(1000)

    actor = KINDS[kind]()
    ref = forever.remote()
    mark = str(tmp_path / "mark")
    waiting = actor.wait_for.remote([ref], mark)
    wait_until(lambda: os.path.exists(mark))
    shoal.cancel(waiting)
    with pytest.raises(TaskCancelledError):
        get(waiting)
    wait_until(
        lambda: os.path.exists(mark + "-interrupted")
    )  # a thread's call is given up before it is interrupted
    assert get(actor.quick.remote()) == "done"
    shoal.cancel(ref)


def test_calls_in_threads_that_use_shoal_can_be_cancelled_at_any_point(shoal_session):
    """An interrupt in the middle of the runtime's own work would leave its tables half changed."""

    @shoal.remote
    def one():
        return 1

    @shoal.remote(max_concurrency=4)
    class Busy:
        def work(self):
            while True:
                assert shoal.get([one.remote() for _ in range(3)]) == [1, 1, 1]
                assert shoal.get(shoal.put(b"x" * 200_000)) == b"x" * 200_000

        def check(self):
            return shoal.get(one.remote())

    busy = Busy.remote()
    for number in range(30):
        refs = [busy.work.remote() for _ in range(3)]
        time.sleep(0.002 * (number % 7))
        for ref in refs:
            shoal.cancel(ref)
        assert [outcome(ref) for ref in refs] == ["cancelled"] * 3
        assert get(busy.check.remote()) == 1

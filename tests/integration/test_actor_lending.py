"""Actors that hold CPUs lend them while all their calls wait for others, and take them back."""

import asyncio
import os
import time

import pytest

import shoal
from actorparts import get, wait_until


@shoal.remote
def answer():
    return 42


class Threads:
    """Calls in threads that wait in get and wait."""

    def ask(self):
        return shoal.get(answer.remote())

    def ask_by_wait(self):
        ref = answer.remote()
        shoal.wait([ref])
        return shoal.get(ref)

    def compute(self, mark, stop):
        open(mark, "w").close()
        while not os.path.exists(stop):
            time.sleep(0.001)
        return "computed"

    def wait_for(self, refs):
        return shoal.get(refs[0])


class Loop:
    """Calls on a loop that await refs."""

    async def ask(self):
        return await answer.remote()

    async def ask_by_wait(self):
        return (await asyncio.gather(answer.remote(), asyncio.wrap_future(answer.remote().future())))[1]

    async def compute(self, mark, stop):
        await asyncio.to_thread(Threads().compute, mark, stop)
        return "computed"

    async def wait_for(self, refs):
        return await refs[0]


class Sync(Threads):
    """One call at a time."""


def made(kind):
    options = {"num_cpus": 1, "max_concurrency": 4} if kind is not Sync else {"num_cpus": 1}
    return shoal.remote(kind).options(**options).remote()


@pytest.mark.parametrize("kind", [Sync, Threads, Loop])
def test_waiting_calls_lend_the_cpu(shoal_session, kind):
    actors = [made(kind) for _ in range(2)]  # all CPUs of the node
    refs = [actor.ask.remote() for actor in actors for _ in range(6)]
    refs += [actor.ask_by_wait.remote() for actor in actors for _ in range(3)]
    assert get(refs) == [42] * 18


@pytest.mark.parametrize("kind", [Threads, Loop])
def test_a_computing_call_beside_a_waiting_one_keeps_the_cpu(shoal_session, kind, tmp_path):
    mark, stop, release = str(tmp_path / "mark"), str(tmp_path / "stop"), str(tmp_path / "release")

    @shoal.remote(num_cpus=0)
    def later():
        while not os.path.exists(release):
            time.sleep(0.005)
        return "late"

    actor = made(kind)
    late = later.remote()
    waiting = actor.wait_for.remote([late])
    wait_until(lambda: shoal.available_resources().get("CPU", 0) == 2)  # lent
    computing = actor.compute.remote(mark, stop)
    wait_until(lambda: os.path.exists(mark))
    wait_until(lambda: shoal.available_resources().get("CPU", 0) == 1)  # and taken back
    open(stop, "w").close()
    assert get(computing) == "computed"
    wait_until(lambda: shoal.available_resources().get("CPU", 0) == 2)
    open(release, "w").close()
    assert get(waiting) == "late"
    wait_until(
        lambda: shoal.available_resources().get("CPU", 0) == 1
    )  # an idle actor keeps what it asked for


@pytest.mark.parametrize("kind", [Sync, Threads, Loop])
def test_a_constructor_that_waits_lends_the_cpu(shoal_session, kind):
    class Asks(kind):
        def __init__(self, given):
            self.seen = (given, shoal.get(answer.remote()))

        def result(self):
            return self.seen

    options = {"num_cpus": 1, "max_concurrency": 4} if kind is not Sync else {"num_cpus": 1}
    argument = answer.remote()
    actors = [shoal.remote(Asks).options(**options).remote(argument) for _ in range(2)]
    assert get([actor.result.remote() for actor in actors]) == [(42, 42)] * 2
    wait_until(lambda: shoal.available_resources().get("CPU", 0) == 0)


def test_a_future_that_nobody_waits_for_is_not_a_wait_of_the_next_call(shoal_session, tmp_path):
    release = str(tmp_path / "release")

    @shoal.remote(num_cpus=0)
    def later():
        while not os.path.exists(release):
            time.sleep(0.005)

    @shoal.remote(num_cpus=1)
    class Forgetful:
        def begin(self, refs):
            self.future = refs[0].future()

        def free(self):
            return shoal.available_resources().get("CPU", 0)

    actor = Forgetful.remote()
    late = later.remote()
    get(actor.begin.remote([late]))
    assert get(actor.free.remote()) <= 1
    open(release, "w").close()
    get(late)

"""Lanes of an actor that leaves: what has begun ends and is answered, the rest is given back, and then nothing is left."""

from __future__ import annotations

import asyncio
import sys
import threading
from types import SimpleNamespace

import pytest

from marks import until
from shoal.wire import messages as m
from shoald.worker import faults
from shoald.worker.asynclanes import AsyncLanes
from shoald.worker.callers import Caller
from shoald.worker.lanes import Lanes
from shoald.worker.leaving import WaysOut, give_back


class Actor:
    """What lanes need of an actor; a call runs until its event is set."""

    def __init__(self):
        self.ends = {}
        self.told = []  # in order: ("answer" | "not begun", number of the call), ("idle",)
        self.instance = SimpleNamespace(call=None)
        self.runtime = SimpleNamespace(waits=SimpleNamespace(cancellable=None))
        self.waits = None
        self.running = set()
        self.no_memory = False

    def answered(self, answers):
        if self.no_memory:
            raise MemoryError
        self.told.extend(("answer", reply[1]) for _, reply in answers)

    def names(self, _function_id):
        return "call", "A.call", ""

    def begins(self, task_id):
        pass

    def record(self, *_args):
        pass

    def run(self, _caller, message):
        self.running.add(message[1])
        assert self.ends[message[1]].wait(30.0)
        return (m.DONE, message[1], [], b"")

    async def run_async(self, _caller, message):
        self.running.add(message[1])
        await asyncio.to_thread(self.ends[message[1]].wait, 30.0)
        return (m.DONE, message[1], [], b"", 0.0)


@pytest.fixture(params=[Lanes, AsyncLanes])
def lanes(request):
    actor = Actor()
    calls = SimpleNamespace(
        names=actor.names, begins=actor.begins, ends=actor.record, record=actor.record, run=actor.run,
        instance=actor.instance, runtime=actor.runtime, waits=None,
    )  # fmt: skip
    ways_out = WaysOut(
        lambda given: actor.told.extend(("not begun", each[1][1]) for each in given),
        lambda: actor.told.append(("idle",)),
    )
    lanes = request.param(
        calls,
        {"": 2},
        {},
        actor.answered,
        None,
        None,
        ways_out,
    )
    if request.param is AsyncLanes:
        lanes._call = actor.run_async
    caller = Caller(b"caller", 1)

    def deliver(*numbers):
        for number in numbers:
            actor.ends[number] = threading.Event()
        lanes.deliver([(caller, (m.TASK, number, b"call", b"", (), None)) for number in numbers])

    yield actor, lanes, caller, deliver
    if request.param is AsyncLanes:
        lanes._loop.call_soon_threadsafe(lanes._loop.stop)
        lanes._thread.join(30.0)
        lanes._loop.close()


def test_what_runs_ends_first_and_what_waits_is_given_back(lanes):
    actor, lanes, _, deliver = lanes
    deliver(1, 2, 3, 4)
    until(lambda: actor.running == {1, 2})
    lanes.close()
    until(lambda: len(actor.told) == 2)
    assert actor.told == [("not begun", 3), ("not begun", 4)]
    deliver(5)
    until(lambda: len(actor.told) == 3)
    assert actor.told[2:] == [("not begun", 5)]
    actor.ends[2].set()
    until(lambda: len(actor.told) == 4)
    assert actor.told[3:] == [("answer", 2)], "the other one still runs"
    actor.ends[1].set()
    until(lambda: len(actor.told) == 6)
    assert actor.told[4:] == [("answer", 1), ("idle",)]
    assert actor.running == {1, 2}


def test_an_idle_actor_goes_at_once(lanes):
    actor, lanes, _, deliver = lanes
    deliver(1)
    actor.ends[1].set()
    until(lambda: actor.told == [("answer", 1)])
    until(lambda: lanes.load() == (0, 0))
    lanes.close()
    until(lambda: actor.told == [("answer", 1), ("idle",)])


def test_calls_of_a_caller_that_was_away_are_given_back_when_it_returns(lanes):
    actor, lanes, caller, deliver = lanes
    deliver(1, 2, 3)
    until(lambda: actor.running == {1, 2})
    lanes.hold(caller)
    until(lambda: len(caller.held) == 1)
    lanes.close()
    lanes.release(caller)
    until(lambda: actor.told == [("not begun", 3)])
    actor.ends[1].set()
    actor.ends[2].set()
    until(lambda: actor.told[-1] == ("idle",))


def test_a_reply_that_cannot_be_sent_is_the_end_of_the_process(lanes, monkeypatch):
    actor, lanes, _, deliver = lanes
    ended = []
    monkeypatch.setattr(faults, "end_process", lambda: ended.append(sys.exc_info()[0]))
    actor.no_memory = True
    deliver(1)
    actor.ends[1].set()
    until(lambda: ended)
    assert ended == [MemoryError]


def test_callers_are_told_each_of_its_own():
    one, two = Caller(b"one", 1), Caller(b"two", 1)
    give_back([(one, (m.TASK, 1)), (two, (m.TASK, 2)), (one, (m.TASK, 3))])
    assert (one.replies, two.replies) == ([(m.NOT_BEGUN, [1, 3])], [(m.NOT_BEGUN, [2])])


def test_which_calls_another_one_waits_behind(lanes):
    """In threads those of its group; on a loop the one that holds it up, if one does."""
    actor, lanes, _, deliver = lanes
    blocked = threading.Event()
    if isinstance(lanes, AsyncLanes):
        awaiting = lanes._call

        async def holds_up_the_loop(caller, message):
            if message[1] == 2:
                actor.running.add(2)
                blocked.wait(30.0)
            return await awaiting(caller, message)

        lanes._call = holds_up_the_loop
    deliver(1)
    until(lambda: actor.running == {1})
    deliver(2)
    until(lambda: actor.running == {1, 2})
    deliver(3)
    ahead = [2] if isinstance(lanes, AsyncLanes) else [1, 2]
    assert sorted(lanes.ahead_of(3)) == ahead
    assert [lanes.ahead_of(number) for number in (1, 2, 4)] == [[], [], []], "they run, or are not here"
    blocked.set()
    actor.ends[2].set()
    until(lambda: 3 in actor.running)
    assert lanes.ahead_of(3) == []
    for number in (1, 3):
        actor.ends[number].set()
    until(lambda: lanes.load() == (0, 0))

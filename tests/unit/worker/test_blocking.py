"""When an actor that runs calls at once lends its CPU: while all of them wait, and only if that lasts."""

from types import SimpleNamespace

import pytest

from shoal.config import Config
from shoal.context import TaskContext, current_task
from shoal.wire import messages as m
from shoald.worker.blocking import CallWaits

TICK_S = Config().tick_ms / 1000


class Fake:
    """The waits of one process, and what its daemon was told."""

    def __init__(self):
        self.told = []
        self.rings = 0
        table = SimpleNamespace(to_node=self.told.append)
        reactor = SimpleNamespace(ring=self._ring)
        self.waits = CallWaits(SimpleNamespace(table=table, reactor=reactor, config=Config()))
        self.now = 100.0

    def _ring(self):
        self.rings += 1

    def wait(self, call, token):
        """A wait of ``call`` begins (None: of a thread that runs none)."""
        context = TaskContext(call, "name", "name", 0, {}) if call is not None else None
        before = current_task.set(context)
        try:
            return self.waits.begin(token)
        finally:
            current_task.reset(before)

    def settle(self):
        """Let time pass until nothing changes; what the daemon was told, in order."""
        for _ in range(5):
            self.waits.tick(self.now)
            self.now += TICK_S
        told, self.told[:] = list(self.told), []
        return [message[1] for message in told if message[0] == m.BLOCKED]


@pytest.fixture
def fake():
    return Fake()


def test_it_lends_while_all_wait(fake):
    fake.waits.call_begins(b"1")
    fake.waits.call_begins(b"2")
    fake.wait(b"1", "one")
    assert fake.settle() == []
    fake.wait(b"2", "two")
    assert fake.settle() == [True]
    fake.waits.call_begins(b"3")
    assert fake.settle() == [False]
    fake.waits.call_ends(b"3")
    assert fake.settle() == [True]
    fake.waits.end("one")
    assert fake.settle() == [False]


def test_short_calls_beside_waiting_ones_are_not_told(fake):
    fake.waits.call_begins(b"1")
    fake.wait(b"1", "one")
    assert fake.settle() == [True]
    for _ in range(100):
        fake.waits.call_begins(b"2")
        fake.waits.tick(fake.now)
        fake.waits.call_ends(b"2")
        fake.waits.tick(fake.now)
    assert fake.settle() == []


def test_several_waits_of_one_call_count_once(fake):
    fake.waits.call_begins(b"1")
    fake.waits.call_begins(b"2")
    fake.wait(b"1", "a")
    fake.wait(b"1", "b")
    assert fake.settle() == []
    fake.wait(b"2", "c")
    fake.waits.end("a")
    assert fake.settle() == [True]
    fake.waits.end("b")
    assert fake.settle() == [False]


def test_a_wait_of_no_call_counts_for_one_without(fake):
    assert fake.wait(None, "none") is False
    fake.waits.call_begins(b"1")
    fake.waits.call_begins(b"2")
    assert fake.wait(None, "a") is True
    assert fake.settle() == []
    fake.wait(b"2", "b")
    assert fake.settle() == [True]


def test_waits_that_nobody_ended_go_with_their_call(fake):
    fake.waits.call_begins(b"1")
    fake.wait(b"1", "a")
    assert fake.settle() == [True]
    fake.waits.call_ends(b"1")
    fake.waits.end("a")
    assert fake.settle() == [False]
    fake.waits.call_begins(b"2")
    assert fake.settle() == []

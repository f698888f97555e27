"""How often an idle process looks, and what wakes it when it hardly does."""

import gc
from collections import deque
from types import SimpleNamespace

import numpy as np
import pytest

from shoal import wakeup
from shoal.client.ticks import ACTIVE_S, ASLEEP_AFTER_S, ASLEEP_S, QUIET_AFTER_S, QUIET_S, Ticks
from shoal.generator import ObjectRefGenerator, abandoned
from shoal.owner.tasks import FunctionExport, forgotten
from shoal.refs import ObjectRef, released
from shoal.store.filecopies import FileUse
from shoal.store.views import make_view


class World:
    """As much of a runtime as there is to look at; `rung` says how often its reactor was woken."""

    def __init__(self):
        self.rung = 0
        self.config = SimpleNamespace(lease_idle_ms=500.0)
        self.table = SimpleNamespace(node_sequence=0, drain_released=released.clear)
        self.reactor = SimpleNamespace(turns=0, ring=self.ring)
        self.dispatch = SimpleNamespace(leases={}, forget_functions=forgotten.clear)
        self.actors = SimpleNamespace(tick=lambda now: self.ends)
        self.packer = SimpleNamespace(drop_recent=lambda now: self.recent)
        self.deaths = SimpleNamespace(held={}, tick=lambda now: 0.5)
        self.store = SimpleNamespace(
            closed_views=[], closed_files=[], drain=self.drain, return_idle=lambda now: self.files
        )
        self.ends = self.recent = self.kept = self.files = False
        self.ticks = Ticks(self, SimpleNamespace(look=lambda now: self.kept))

    def ring(self):
        self.rung += 1

    def drain(self):
        self.store.closed_views.clear()
        self.store.closed_files.clear()

    def fall_asleep(self, now=100.0):
        """Something happens at ``now``, and nothing more until the time that is returned."""
        self.table.node_sequence += 1
        self.ticks.look(now)
        now += ASLEEP_AFTER_S + 0.1
        assert self.ticks.look(now) == ASLEEP_S
        return now


@pytest.fixture
def world():
    gc.collect()
    queues = (
        released,
        abandoned,
        forgotten,
    )  # of this process, as are bells: nothing of a test may be left there
    for queue in queues:
        queue.clear()
    world = World()
    yield world
    world.ticks.close()
    for queue in queues:
        queue.clear()
    assert not wakeup.bells


def test_the_longer_nothing_happens_the_more_rarely_it_looks(world):
    world.table.node_sequence = 1
    assert world.ticks.look(100.0) == ACTIVE_S
    assert world.ticks.look(100.0 + QUIET_AFTER_S - 0.1) == ACTIVE_S
    assert world.ticks.look(100.0 + QUIET_AFTER_S + 0.1) == QUIET_S
    assert not wakeup.bells
    assert world.ticks.look(100.0 + ASLEEP_AFTER_S + 0.1) == ASLEEP_S
    world.table.node_sequence = 2
    assert world.ticks.look(200.0) == ACTIVE_S


def test_a_message_that_needs_no_answer_keeps_it_awake_for_a_while(world):
    now = world.fall_asleep()
    world.reactor.turns += 1
    assert world.ticks.look(now) == QUIET_S
    assert world.ticks.look(now + ASLEEP_AFTER_S + 0.1) == ASLEEP_S


@pytest.mark.parametrize("what", ["ends", "recent", "kept", "files"])
def test_it_does_not_sleep_for_long_while_something_waits_for_its_time(world, what):
    now = world.fall_asleep()
    setattr(world, what, True)
    assert world.ticks.look(now) == QUIET_S
    setattr(world, what, False)
    assert world.ticks.look(now) == ASLEEP_S


def test_what_has_a_time_of_its_own_counts(world):
    now = world.fall_asleep()
    world.deaths.held = {1: 2}
    assert world.ticks.look(now) == 0.5
    world.ticks.hook = lambda now: 0.25
    assert world.ticks.look(now) == 0.25


def ref():
    ObjectRef(b"o" * 16, object())


def generator():
    made = ObjectRefGenerator.__new__(ObjectRefGenerator)
    made._stream, made._task = SimpleNamespace(closed=False), object()


def function():
    made = FunctionExport.__new__(FunctionExport)
    made.held, made.function_id = [object()], b"f"


def view():
    queue = []
    make_view(SimpleNamespace(mapping=np.zeros(8, np.uint8), capacity=8), 0, 8, b"key", queue)
    assert queue == [b"key"]


def file():
    queue = deque()
    FileUse(7, queue)
    assert list(queue) == [7]


@pytest.mark.parametrize("dies", [ref, generator, function, view, file])
def test_what_dies_wakes_it_once(world, dies):
    world.fall_asleep()
    dies()
    dies()
    assert world.rung == 1


def test_what_dies_while_it_is_awake_costs_no_bell(world):
    world.ticks.look(100.0)
    ref()
    assert world.rung == 0


def test_what_dies_just_before_there_is_a_bell_is_not_left(world):
    now = world.fall_asleep()
    wakeup.bells.clear()
    # A finalizer, after the look at the queue.
    world.store.return_idle = lambda now: bool(released.append(object()))
    assert world.ticks.look(now) == ACTIVE_S
    assert world.rung == 0


def test_a_finalizer_that_rings_in_between_leaves_nothing_to_do():
    rung = []
    wakeup.bells[:] = [lambda: rung.append(1), lambda: (rung.append(2), wakeup.ring())]
    wakeup.ring()
    assert rung == [2, 1]
    assert not wakeup.bells

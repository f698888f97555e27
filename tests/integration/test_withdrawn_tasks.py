"""Ctrl-C, or another signal handler that raises, inside of `.remote()`: the caller has no ref, so nothing of the task stays."""

import contextlib
import gc
import time

import numpy as np
import pytest

import shoal
from marks import until
from shoal import session


class InterruptedHereError(Exception):
    """What the handler raises."""


@shoal.remote
def one(*values):
    return 1


@shoal.remote
def long(*values):
    time.sleep(600)


@shoal.remote
def items(*values):
    yield from range(1000)


def known():
    runtime = session.runtime()
    gc.collect()
    with runtime.lock:
        runtime.table.drain_released()
        return len(runtime.dispatch.tasks), len(runtime.table.entries)


def raising(function, after):
    """``function``, with a handler that raises before or after it, the first time."""
    times = iter([True])

    def interrupted(*arguments):
        if not next(times, False):
            return function(*arguments)
        if after:
            function(*arguments)
        raise InterruptedHereError

    return interrupted


@contextlib.contextmanager
def released_here(wanted):
    """If ``wanted``, a ref has died, and the reactor does not see to it first."""
    with session.runtime().lock if wanted else contextlib.nullcontext():
        if wanted:
            shoal.put(2)
        yield


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize(
    ("owner", "name"),
    [("dispatch", "submit"), ("reactor", "nudge"), ("table", "drain_released")],
)
@pytest.mark.parametrize(
    "function", [one, long, items, one.options(num_returns=2), one.options(num_returns=0)]
)
def test_nothing_of_it_stays(shoal_session, monkeypatch, owner, name, after, function):
    runtime = session.runtime()
    stored, small = shoal.put(np.ones(50_000)), shoal.put(1)
    shoal.get([one.remote(stored, [small]) for _ in range(100)])
    until(lambda: known() == (0, 2))
    part = getattr(runtime, owner)
    with released_here(name == "drain_released"), monkeypatch.context() as patch:
        patch.setattr(part, name, raising(getattr(part, name), after))
        with pytest.raises(InterruptedHereError):
            function.remote(stored, [small])
    until(lambda: known() == (0, 2))
    assert (stored._entry.count, small._entry.count) == (1, 1)
    assert shoal.get(one.remote(stored, [small])) == 1
    with runtime.lock:
        runtime.table.validate()
        runtime.dispatch.validate()


def test_items_that_came_meanwhile_do_not_stay(shoal_session, monkeypatch):
    runtime = session.runtime()
    nudge = runtime.reactor.nudge

    def nudge_late():
        nudge()
        until(lambda: known()[1] > 10)
        raise InterruptedHereError

    until(lambda: known() == (0, 0))
    with monkeypatch.context() as patch:
        patch.setattr(runtime.reactor, "nudge", nudge_late)
        with pytest.raises(InterruptedHereError):
            items.remote()
    until(lambda: known() == (0, 0))


@shoal.remote
class Actor:
    def one(self, *values):
        return 1


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize(("owner", "name"), [("reactor", "nudge"), ("table", "drain_released")])
@pytest.mark.parametrize("count", [1, 2, 0])
def test_nothing_of_a_call_stays(shoal_session, monkeypatch, owner, name, after, count):
    runtime = session.runtime()
    actor = Actor.remote()
    stored, small = shoal.put(np.ones(50_000)), shoal.put(1)
    shoal.get([actor.one.remote(stored, [small]) for _ in range(100)])
    before = known()
    part = getattr(runtime, owner)
    with released_here(name == "drain_released"), monkeypatch.context() as patch:
        patch.setattr(part, name, raising(getattr(part, name), after))
        with pytest.raises(InterruptedHereError):
            actor.one.options(num_returns=count).remote(stored, [small])
    until(lambda: known() == before)
    assert (stored._entry.count, small._entry.count) == (1, 1)
    assert shoal.get(actor.one.remote(stored, [small])) == 1


def test_an_alarm_during_serialization_is_raised_as_it_is(shoal_session):
    class Slow:
        interrupts = True

        def __reduce__(self):
            if Slow.interrupts:
                Slow.interrupts = False
                raise InterruptedHereError
            return Slow, ()

    with pytest.raises(InterruptedHereError):
        one.remote(Slow())

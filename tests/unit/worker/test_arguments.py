"""Arguments of tasks, as far as no cluster is needed."""

import contextlib
from types import SimpleNamespace

import pytest

from shoal.config import Config
from shoal.exceptions import ObjectLostError, ObjectStoreFullError
from shoald.worker import arguments
from shoald.worker.arguments import Arguments


class Slow:
    """A runtime with one stored object, which takes two seconds to come; the clock is moved by hand."""

    def __init__(self):
        self.now = 100.0
        self.here = False
        self.waits_in_vain = 0
        self.said = []
        self.config = Config()
        self.lock = contextlib.nullcontext()
        entry = SimpleNamespace(count=0, stamp=None)
        self.table = SimpleNamespace(borrow=lambda _id: entry, drop_uses=lambda entries: None)
        self.store = SimpleNamespace(
            pins=SimpleNamespace(lookup=lambda _id: self.here or None),
            request=lambda entries, priority: self.said.append("request") or object(),
            release=lambda waiter: self.said.append("release"),
            view=lambda _id: (b"", 0),
        )

    def wait_for_objects(self, *_):
        self.now += 2.0
        if self.waits_in_vain:
            self.waits_in_vain -= 1
            return False
        self.here = True
        return True

    def wait(self, *_):
        self.now += 1.0
        self.said.append("pause")


@pytest.fixture
def runtime(monkeypatch):
    made = Slow()
    monkeypatch.setattr(arguments, "perf_counter", lambda: made.now)
    return made


def test_the_time_that_arguments_are_waited_for_is_known(runtime):
    """It is no part of how long a function takes: one that had to wait once would get its tasks one by one for a while."""
    it = Arguments(runtime)
    assert it._pin([(b"a" * 16, (b"p" * 8, 1))]) is not None
    assert it.waited_s == 2.0
    assert it._pin([(b"a" * 16, (b"p" * 8, 1))]) is None, "it is here"
    assert it.waited_s == 2.0


def test_who_waits_for_long_lets_go_for_a_moment(runtime):
    """What it has may be what another task lacks, which has what this one lacks."""
    runtime.waits_in_vain = 2
    it = Arguments(runtime)
    assert it._pin([(b"a" * 16, (b"p" * 8, 1))]) is not None
    assert runtime.said == ["request", *["release", "pause", "request"] * 2]
    assert it.waited_s == 8.0


def test_an_argument_without_room_is_not_called_lost():
    problems = {b"X" * 16: ("full", "no room"), b"Y" * 16: ("lost", "its node died")}
    reader = Arguments.__new__(Arguments)
    reader._runtime = SimpleNamespace(store=SimpleNamespace(pin_errors=problems))
    with pytest.raises(ObjectStoreFullError, match="could not be brought to this node: no room"):
        reader._read_again(b"X" * 16)
    with pytest.raises(ObjectLostError, match="is lost: its node died"):
        reader._read_again(b"Y" * 16)

"""Threads move off a processor when they are told to, and may come back."""

import os
import threading

import pytest

from shoal import processors
from shoal.processors import confine, current, leave

ALLOWED = os.sched_getaffinity(0)


def in_a_thread(function):
    found = []
    thread = threading.Thread(target=lambda: found.append(function()))
    thread.start()
    thread.join()
    return found[0]


@pytest.mark.skipif(len(ALLOWED) < 2, reason="there is no other processor")
def test_a_thread_leaves_the_processor_where_it_is_and_may_come_back():
    def move():
        confine({min(ALLOWED)})
        confine(ALLOWED)
        leave(min(ALLOWED))
        return current(), os.sched_getaffinity(0)

    place, allowed = in_a_thread(move)
    assert place != min(ALLOWED)
    assert allowed == ALLOWED


def test_it_stays_where_it_may_run_nowhere_else():
    def stay():
        confine({min(ALLOWED)})
        leave(min(ALLOWED))
        return current(), os.sched_getaffinity(0)

    assert in_a_thread(stay) == (min(ALLOWED), {min(ALLOWED)})


def test_and_where_it_is_elsewhere_anyway(monkeypatch):
    monkeypatch.setattr(os, "sched_setaffinity", None)
    monkeypatch.setattr(processors, "_current", lambda: 1)
    leave(0)


def test_where_that_is_forbidden_the_kernel_chooses(monkeypatch):
    def refuse(_thread, _places):
        raise PermissionError(1, "not here")

    monkeypatch.setattr(os, "sched_setaffinity", refuse)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _thread: {0, 1})
    monkeypatch.setattr(processors, "_current", lambda: 1)
    leave(1)
    confine({0})


def test_where_no_processor_can_be_told_nothing_is_done(monkeypatch):
    monkeypatch.setattr(processors, "POSSIBLE", False)
    monkeypatch.setattr(os, "sched_getaffinity", None)
    assert current() == -1
    leave(current())

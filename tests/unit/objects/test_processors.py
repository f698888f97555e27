"""Where the threads that move chunks run: apart from each other, with their peer, and never where the daemon may not be."""

from __future__ import annotations

import os
import socket
import threading

import pytest

from shoald.objects import processors
from shoald.objects.processors import Receivers, follow

MAIN = 1000


class Machine:
    """Threads that each are somewhere, and may be somewhere; a thread that is confined moves."""

    def __init__(self, count):
        self.allowed = {MAIN: set(range(count))}
        self.places = {}
        self.calls = 0
        self.me = MAIN

    def thread(self, number, place):
        """What follows happens on this thread, which the kernel has put there."""
        self.me = number
        self.places[number] = place
        self.allowed.setdefault(number, set(self.allowed[MAIN]))
        assert place in self.allowed[number]

    def get(self, who):
        return set(self.allowed[who or self.me])

    def set(self, who, places):
        assert not who
        self.calls += 1
        if not places:
            raise OSError(22, "no such processor")
        self.allowed[self.me] = set(places)
        if self.places[self.me] not in places:
            self.places[self.me] = min(places)


@pytest.fixture
def machine(monkeypatch):
    def make(count):
        it = Machine(count)
        monkeypatch.setattr(os, "getpid", lambda: MAIN)
        monkeypatch.setattr(os, "sched_getaffinity", it.get, raising=False)
        monkeypatch.setattr(os, "sched_setaffinity", it.set, raising=False)
        monkeypatch.setattr(threading, "get_ident", lambda: it.me)
        monkeypatch.setattr(processors, "current", lambda: it.places[it.me])
        monkeypatch.setattr(processors, "_POSSIBLE", True)
        return it

    return make


def test_one_receiver_runs_anywhere(machine):
    it, receivers = machine(2), Receivers()
    it.thread(1, 0)
    receivers.settle()
    assert it.allowed[1] == {0, 1}
    assert it.calls == 0


def test_two_receivers_that_were_together_part_and_stay_apart(machine):
    it, receivers = machine(2), Receivers()
    it.thread(1, 0)
    receivers.settle()
    it.thread(2, 0)
    receivers.settle()
    assert it.places[2] == 1
    it.thread(1, 0)
    receivers.settle()
    assert it.allowed[1] == {0}
    calls = it.calls
    for thread in (1, 2):
        it.thread(thread, it.places[thread])
        receivers.settle()
    assert it.calls == calls, "nothing has changed"


def test_where_there_are_many_processors_the_kernel_still_has_a_choice(machine):
    it, receivers = machine(8), Receivers()
    it.thread(1, 3)
    receivers.settle()
    it.thread(2, 3)
    receivers.settle()
    assert it.allowed[2] == {0, 1, 2, 4, 5, 6, 7}


def test_more_receivers_than_processors_share_them_evenly(machine):
    it, receivers = machine(2), Receivers()
    for _ in range(2):
        for thread in range(1, 7):
            it.thread(thread, it.places.get(thread, 0))
            receivers.settle()
    places = [it.places[thread] for thread in range(1, 7)]
    assert places.count(0) == places.count(1) == 3


def test_who_has_nothing_to_do_may_run_anywhere_and_is_in_nobodys_way(machine):
    it, receivers = machine(2), Receivers()
    for thread in (1, 2, 1):
        it.thread(thread, it.places.get(thread, 0))
        receivers.settle()
    it.thread(2, 1)
    receivers.leave()
    assert it.allowed[2] == {0, 1}
    it.thread(1, 0)
    receivers.settle()
    assert it.allowed[1] == {0, 1}


def test_what_the_main_thread_may_use_is_the_limit(machine):
    it, receivers = machine(4), Receivers()
    it.allowed[MAIN] = {2, 3}
    it.thread(1, 2)
    receivers.settle()
    it.thread(2, 2)
    receivers.settle()
    assert it.allowed[2] == {3}
    it.allowed[MAIN] = {0}  # somebody has changed that meanwhile
    it.thread(2, 3)
    receivers.settle()
    assert it.allowed[2] == {0}


def test_a_processor_that_is_refused_changes_nothing(machine, monkeypatch):
    it, receivers = machine(2), Receivers()

    def refuse(_who, _places):
        raise PermissionError(1, "not here")

    monkeypatch.setattr(os, "sched_setaffinity", refuse)
    it.thread(1, 0)
    receivers.settle()
    it.thread(2, 0)
    receivers.settle()
    assert it.allowed[2] == {0, 1}


def test_where_the_system_has_no_such_calls_nothing_is_done(machine, monkeypatch):
    it, receivers = machine(2), Receivers()
    monkeypatch.setattr(processors, "_POSSIBLE", False)
    for thread in (1, 2):
        it.thread(thread, 0)
        receivers.settle()
        receivers.leave()
    assert it.calls == 0


class Asked:
    def __init__(self, place):
        self.place = place

    def getsockopt(self, _level, option):
        assert option == socket.SO_INCOMING_CPU
        return self.place


def test_a_sender_runs_where_the_request_came_from(machine):
    it = machine(4)
    it.thread(1, 0)
    follow(Asked(2))
    assert it.places[1] == 2
    follow(Asked(3))
    assert it.allowed[1] == {3}
    calls = it.calls
    follow(Asked(3))
    assert it.calls == calls


@pytest.mark.parametrize("place", [-1, 3])
def test_a_sender_does_not_go_where_its_daemon_may_not_be(machine, place):
    it = machine(4)
    it.allowed[MAIN] = {0, 1}
    it.thread(1, 0)
    follow(Asked(place))
    assert it.calls == 0

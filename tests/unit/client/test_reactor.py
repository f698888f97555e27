"""The reactor with real threads and socket pairs: nobody sleeps where nobody reads, whoever leaves and whenever."""

import contextlib
import os
import socket
import sys
import threading
import time

import pytest

from shoal.client.connection import RECEIVE_BYTES, Connection
from shoal.client.reactor import _PARK_S, _QUIET_TICKS, Reactor
from shoal.wire.frames import frame

PATIENCE_S = 20.0  # far more than anything here takes: what hangs fails


class Awaited:
    def __init__(self):
        self.ready = False
        self.wake = None


class Bench:
    """A reactor with one connection, whose peer is `peer`; a frame holds the number of the awaited that it makes ready."""

    def __init__(self):
        self.lock = threading.Lock()
        self.out = []
        self.flushed = []
        self.reports = []
        self.closed = []
        self.delay_s = 30.0
        self.ticks = 0
        self.tick_error = None
        self.on_flush = None
        self.awaited = {}
        self.reactor = Reactor(self.lock, self.flush, self.tick, 50e-6, 0.002, self.reports.append)
        ours, self.peer = socket.socketpair()
        self.peer.settimeout(PATIENCE_S)
        with self.lock:
            self.connection = Connection(ours, self.reactor, 1 << 20, self.on_frames, self.closed.append)
        self.threads = []

    def flush(self):
        if self.out:
            taken, self.out = self.out, []
            self.flushed.extend(taken)
        if self.on_flush is not None:
            hook, self.on_flush = self.on_flush, None
            hook()

    def tick(self, now):
        self.ticks += 1
        if self.tick_error is not None:
            error, self.tick_error = self.tick_error, None
            raise error
        return self.delay_s

    def on_frames(self, connection, bodies):
        for body in bodies:
            self.awaited[int(body)].ready = True

    def expect(self, number):
        awaited = self.awaited[number] = Awaited()
        return awaited

    def answer(self, *numbers):
        self.peer.sendall(b"".join(frame(str(number).encode()) for number in numbers))

    def in_thread(self, awaited, timeout_s=None, on_block=None):
        """Wait for it on a thread of its own; the result goes to the list that is returned."""
        result = []
        thread = threading.Thread(
            target=lambda: result.append(self.reactor.wait(awaited, timeout_s, on_block))
        )
        thread.start()
        self.threads.append(thread)
        return result

    def join(self):
        for thread in self.threads:
            thread.join(PATIENCE_S)
            assert not thread.is_alive(), "a wait hangs"

    def until_following(self, count):
        until(lambda: len(self.reactor._followers) == count)


def until(condition):
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.001)


@pytest.fixture
def bench():
    made = Bench()
    yield made
    made.reactor.stop()
    made.join()
    made.peer.close()


def test_a_waiter_reads_what_it_waits_for(bench):
    result = bench.in_thread(bench.expect(1))
    bench.answer(1)
    bench.join()
    assert result == [True]


def test_what_is_ready_or_out_of_time_returns_at_once(bench):
    ready = bench.expect(1)
    ready.ready = True
    assert bench.reactor.wait(ready, None) is True
    assert bench.reactor.wait(bench.expect(2), 0.0) is False
    bench.answer(2)
    assert bench.reactor.wait(bench.awaited[2], 0.0) is True  # a poll reads what is there


def test_followers_are_woken_by_the_leader_that_reads_their_answer(bench):
    leader = bench.in_thread(bench.expect(0))
    until(bench.reactor._lead.locked)
    followers = [bench.in_thread(bench.expect(number)) for number in range(1, 6)]
    bench.until_following(5)
    bench.answer(3)
    until(lambda: followers[2] == [True])
    bench.answer(0)
    until(lambda: leader == [True])
    bench.answer(1, 2, 4, 5)  # whoever took the lead over reads them
    bench.join()
    assert followers == [[True]] * 5


@pytest.mark.parametrize("backup", [False, True])
def test_ten_threads_ask_one_peer_over_one_socket(bench, backup):
    if backup:
        bench.reactor.start()

    def echo():
        buffer = bytearray()
        with contextlib.suppress(OSError):
            while piece := bench.peer.recv(65536):
                buffer += piece
                whole = len(buffer) // 9 * 9
                bench.peer.sendall(b"".join(frame(bytes(buffer[at : at + 9])) for at in range(0, whole, 9)))
                del buffer[:whole]

    def ask(thread):
        for turn in range(150):
            awaited = bench.expect(100_000_000 * (thread + 1) + turn)
            with bench.lock:
                bench.connection.send(b"%09d" % (100_000_000 * (thread + 1) + turn))
            assert bench.reactor.wait(awaited, PATIENCE_S)
        finished.append(thread)

    finished = []
    peer = threading.Thread(target=echo)
    peer.start()
    askers = [threading.Thread(target=ask, args=(number,)) for number in range(9)]
    for each in askers:
        each.start()
    for each in askers:
        each.join(4 * PATIENCE_S)
    with bench.lock:
        bench.connection.close()
    peer.join(PATIENCE_S)
    assert sorted(finished) == list(range(9))


def test_a_follower_that_was_chosen_to_lead_and_needs_nothing_any_more_passes_the_lead_on(bench):
    """Its wait had just timed out, or its object arrived by other means: the next follower must not sleep unread."""

    class ReadyForItself(Awaited):
        """Not ready when the leaving leader looks for a successor, ready when its own thread does."""

        def __init__(self):
            self.chosen = False
            self.wake = None

        @property
        def ready(self):
            return self.chosen and threading.get_ident() == chosen_thread

    first = bench.in_thread(bench.expect(0))
    until(bench.reactor._lead.locked)
    fickle = ReadyForItself()
    chosen = bench.in_thread(fickle)
    chosen_thread = bench.threads[-1].ident
    bench.until_following(1)
    last = bench.in_thread(bench.expect(2))
    bench.until_following(2)
    fickle.chosen = True
    bench.answer(0)
    until(lambda: first == [True])
    until(lambda: chosen == [True])
    bench.answer(2)
    until(lambda: last == [True])


def test_a_wait_on_top_of_a_wait_leads_in_its_place(bench):
    """As a signal handler does that calls shoal while its thread sleeps as the leader."""
    inner = bench.expect(1)

    def handler():
        bench.answer(1)
        nested.append(bench.reactor.wait(inner, PATIENCE_S))
        bench.answer(0)
        return False

    nested = []
    outer = bench.in_thread(bench.expect(0), None, handler)
    bench.join()
    assert nested == [True]
    assert outer == [True]


def test_other_work_ends_the_wait(bench):
    assert bench.reactor.wait(bench.expect(1), None, lambda: True) is False


# --- the backup ---


def test_the_backup_reads_when_nobody_waits(bench):
    bench.reactor.start()
    awaited = bench.expect(1)
    bench.answer(1)
    until(lambda: awaited.ready)


def test_a_waiter_takes_the_lead_from_the_sleeping_backup(bench):
    bench.reactor.start()
    until(lambda: bench.reactor._backup_leads and bench.reactor._asleep)
    result = bench.in_thread(bench.expect(1))
    until(lambda: bench.reactor._leader == bench.threads[0].ident)
    bench.answer(1)
    bench.join()
    assert result == [True]


def test_what_is_queued_while_the_backup_looks_is_not_left_for_the_next_tick(bench):
    """A nudge between the flush and the sleep of the backup."""
    bench.reactor.start()
    until(lambda: bench.reactor._backup_leads and bench.reactor._asleep)

    def late():
        bench.out.append("late")
        bench.on_flush = late if len(bench.flushed) < 5 else None
        bench.reactor.nudge()

    bench.on_flush = late  # at the end of every flush, wherever that is, one more
    bench.reactor.nudge()
    until(lambda: len(bench.flushed) >= 5)
    assert bench.delay_s > PATIENCE_S


def test_the_backup_wakes_up_when_the_leader_leaves_while_it_parks(bench):
    """The leader leaves just after the backup has looked whether there is one."""
    reactor = bench.reactor
    result = bench.in_thread(bench.expect(0))
    until(reactor._lead.locked)
    lead = reactor._lead

    class Lead:
        """As the lock, but its holder leaves between the last look of the backup and what it does about that."""

        acquire, release = lead.acquire, lead.release

        def locked(self):
            held = lead.locked()
            if held and not result and sys._getframe(1).f_locals.get("quiet", 0) >= _QUIET_TICKS:
                bench.answer(0)
                until(lambda: result == [True])
            return held

    reactor._lead = Lead()
    reactor.start()
    until(lambda: result == [True])
    awaited = bench.expect(1)
    bench.answer(1)
    started = time.monotonic()
    until(lambda: awaited.ready)
    assert time.monotonic() - started < _PARK_S - 1


def test_an_error_in_the_tick_is_reported_and_the_backup_goes_on(bench, monkeypatch):
    monkeypatch.setattr("shoal.client.reactor._AFTER_ERROR_S", 0.001)
    bench.tick_error = RuntimeError("this tick fails")
    bench.reactor.start()
    until(lambda: bench.reports)
    assert "this tick fails" in bench.reports[0]
    awaited = bench.expect(1)
    bench.answer(1)
    until(lambda: awaited.ready)


def test_an_idle_backup_ticks_as_often_as_the_tick_asks(bench):
    bench.delay_s = 0.01
    bench.reactor.start()
    until(lambda: bench.ticks > 10)


# --- connections that end ---


def test_the_end_of_a_peer_is_told_once(bench):
    result = bench.in_thread(bench.expect(1))
    until(bench.reactor._lead.locked)
    bench.peer.close()
    until(lambda: bench.closed)
    bench.reactor.ring()
    assert bench.closed == [bench.connection]
    assert bench.connection.closed
    assert result == []


def test_a_failing_handler_costs_its_connection_only(bench):
    bench.answer(99)  # nobody expects that: KeyError
    other, far = socket.socketpair()
    with bench.lock:
        Connection(other, bench.reactor, 1 << 20, bench.on_frames, bench.closed.append)
    result = bench.in_thread(bench.expect(1))
    until(lambda: bench.closed)
    assert "KeyError" in bench.reports[0]
    far.sendall(frame(b"1"))
    bench.join()
    assert result == [True]
    far.close()


def test_a_send_to_a_dead_peer_is_noticed_without_a_reader(bench):
    bench.reactor.start()
    until(lambda: bench.reactor._backup_leads)
    bench.peer.close()
    with bench.lock:
        bench.connection.send(b"x")
    until(lambda: bench.closed == [bench.connection])


def test_all_that_a_dead_peer_had_sent_is_read_though_a_send_failed_first(bench):
    count = 15
    for number in range(count):
        bench.expect(number)
    bench.peer.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
    words = b"".join(frame(str(number).encode().rjust(20_000)) for number in range(count))
    assert len(words) > RECEIVE_BYTES
    bench.peer.sendall(words)
    bench.peer.close()
    with bench.lock:
        bench.connection.send(b"x")
        assert bench.reactor._lost
        bench.reactor._handle_lost()
    assert all(bench.awaited[number].ready for number in range(count))
    assert bench.closed == [bench.connection]


def test_writing_out_waits_for_the_kernel_and_ends_with_the_peer(bench):
    data = os.urandom(1 << 22)
    with bench.lock:
        bench.connection.send(data)
        assert bench.connection.out_bytes
    heard = []
    reader = threading.Thread(
        target=lambda: [heard.append(bench.peer.recv(1 << 16)) for _ in range(20)] and bench.peer.close()
    )
    reader.start()
    with bench.lock:
        bench.connection.write_out()
    reader.join(PATIENCE_S)
    assert not reader.is_alive()
    assert data.startswith(b"".join(heard))
    until(lambda: bench.connection.readable)


def test_writing_out_writes_all_of_it(bench):
    data = os.urandom(1 << 22)
    with bench.lock:
        bench.connection.send(data)
    heard = bytearray()

    def read():
        while len(heard) < len(data):
            heard.extend(bench.peer.recv(1 << 16))

    reader = threading.Thread(target=read)
    reader.start()
    with bench.lock:
        bench.connection.write_out()
        assert not bench.connection.out_bytes
    reader.join(PATIENCE_S)
    assert bytes(heard) == data


# --- stop ---


def test_stop_ends_waits_of_leader_and_followers(bench):
    bench.reactor.start()
    results = [bench.in_thread(bench.expect(number)) for number in range(4)]
    bench.until_following(3)
    bench.reactor.stop()
    bench.join()
    assert results == [[False]] * 4
    assert bench.connection.closed
    assert bench.reactor.wait(bench.expect(9), None) is False  # whoever comes later does not hang either


def test_stop_from_on_top_of_a_wait(bench):
    def handler():
        bench.reactor.stop()
        return False

    bench.reactor.start()
    result = bench.in_thread(bench.expect(0), None, handler)
    bench.join()
    assert result == [False]


def test_a_late_bell_rings_in_nobody_elses_descriptor(bench):
    bench.reactor.stop()
    reader, writer = os.pipe()
    os.set_blocking(reader, False)
    bench.reactor.ring()
    bench.reactor.wake_ready()
    bench.reactor.nudge()
    with pytest.raises(BlockingIOError):
        os.read(reader, 1)
    os.close(reader)
    os.close(writer)


def test_many_reactors_leave_no_descriptor(bench):
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(20):
        other = Bench()
        other.reactor.start()
        other.reactor.stop()
        other.peer.close()
    assert len(os.listdir("/proc/self/fd")) == before


def test_what_comes_with_time_is_not_looked_at_before_each_of_many_short_sleeps(bench):
    reactor = bench.reactor
    reactor._crowding.sleepy_until = float("inf")  # no polling
    reactor._tick_s = PATIENCE_S
    for number in range(20):
        bench.in_thread(bench.expect(number))
        until(lambda: bench.ticks)  # the first one sleeps before its answer comes
        bench.answer(number)
        bench.join()
    assert bench.ticks == 1


def test_a_sleep_that_turns_out_to_be_long_looks_at_what_comes_with_time(bench):
    bench.reactor._crowding.sleepy_until = float("inf")
    for number in range(2):
        bench.ticks = 0
        bench.in_thread(bench.expect(number))
        until(lambda: bench.ticks)
        bench.answer(number)
        bench.join()


class Nap:
    """Stands in for the backup's nap of one tick, during which others take so many turns."""

    def __init__(self, reactor, turns):
        self.reactor = reactor
        self.turns = turns

    def acquire(self, timeout):
        self.reactor.turns += self.turns

    def release(self):
        pass


def test_the_backup_rarely_looks_while_others_take_turn_after_turn(bench):
    reactor = bench.reactor
    reactor._nap = Nap(reactor, 50)
    assert [reactor._backup_turn(0) for _ in range(80)] == [0] * 80
    assert bench.ticks == 10
    reactor._nap = Nap(reactor, 1)
    bench.ticks = 0
    reactor._backup_turn(0)
    assert bench.ticks == 1


def test_a_backup_that_nobody_woke_goes_on_parking_without_a_look(bench):
    reactor = bench.reactor
    reactor._nap = Nap(reactor, 0)
    with reactor._lead:
        assert [reactor._backup_turn(_QUIET_TICKS) for _ in range(3)] == [_QUIET_TICKS] * 3
        assert bench.ticks == 0
        reactor._nap = Nap(reactor, 1)
        assert reactor._backup_turn(_QUIET_TICKS) == 0


def test_a_forked_reactor_rings_in_no_descriptor_of_the_childs(bench):
    reactor = bench.reactor
    number = reactor._bell
    reactor.forked(lambda *_: None)
    read_end, write_end = os.pipe()
    try:
        if write_end != number:
            os.dup2(write_end, number)
        reactor._asleep = reactor._backup_leads = True  # as it was in the parent
        reactor.nudge()
        os.set_blocking(read_end, False)
        with pytest.raises(BlockingIOError):
            os.read(read_end, 8)
    finally:
        for fd in {read_end, write_end, number}:
            os.close(fd)

"""An actor's process that ends: what it waits for, and how its callers learn of the end."""

import socket
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, nullcontext, suppress
from functools import partial
from types import SimpleNamespace

import pytest

from shoal.client.connection import Connection
from shoald.worker import leaving
from shoald.worker.actor import ActorExecutor
from shoald.worker.callers import Callers
from shoald.worker.leaving import flush_out, unacknowledged

REACTOR = SimpleNamespace(
    register=lambda _: None, unregister=lambda _: None, want_write=lambda *_: None, lost=lambda _: None
)


class Watched(Connection):
    """A connection that counts how often it was tried whether the kernel takes more."""

    __slots__ = ("tries",)

    def writable(self):
        self.tries += 1
        super().writable()


@pytest.fixture
def connect():
    """Makes a connection; returns it and its other end."""
    with ExitStack() as ends:

        def connect():
            ours, theirs = socket.socketpair()
            connection = Watched(ours, REACTOR, 1 << 20, None, None)
            connection.tries = 0
            ends.callback(connection.close)
            return connection, ends.enter_context(theirs)

        yield connect


def leave(connect, *callers_connections, **options):
    """Flush out what is for these, and for a daemon; whether all is sent, and the connection of the daemon."""
    node, _ = connect()
    callers = Callers(30.0, 10)
    for number, each in enumerate(callers_connections):
        callers.begins(bytes([number]), 1, each)
    runtime = SimpleNamespace(lock=nullcontext(), node=SimpleNamespace(connection=node))
    return flush_out(runtime, callers, **options), node


def read_all(end):
    data = bytearray()
    while piece := end.recv(65536):
        data += piece
    return data


def test_callers_see_the_end_when_all_was_sent_to_them(connect):
    idle, idle_end = connect()
    busy, busy_end = connect()
    busy.send(bytes(4_000_000))
    assert busy.out_bytes
    with ThreadPoolExecutor(1) as threads:
        got = threads.submit(read_all, busy_end)
        sent, node = leave(connect, idle, busy)
        assert sent
        assert len(got.result(60)) == 4_000_000
    assert idle_end.recv(1) == b""
    assert node.sock.send(b"more") == 4, "the daemon hears more"


def test_a_caller_that_does_not_read_is_waited_for_in_peace_and_not_forever(connect, monkeypatch):
    monkeypatch.setattr(leaving, "_UNSENT_S", 0.2)
    stuck, end = connect()
    stuck.send(bytes(4_000_000))
    sent, _ = leave(connect, stuck)
    assert not sent
    assert stuck.tries < 10
    end.setblocking(False)
    with pytest.raises(BlockingIOError):
        read_all(end)  # no end


def test_a_caller_that_is_gone_is_not_asked_over_and_over(connect, monkeypatch):
    monkeypatch.setattr(leaving, "_UNSENT_S", 0.2)
    lost, end = connect()
    lost.send(bytes(4_000_000))
    end.close()
    sent, _ = leave(connect, lost)
    assert not sent
    assert lost.tries < 50


def test_a_caller_that_was_told_away_may_live_and_hears_of_an_accident():
    done = []
    connection = SimpleNamespace(reset=lambda: done.append("reset"))
    callers = Callers(30.0, 10)
    caller = callers.begins(b"a", 1, connection)
    away = callers.begins(b"b", 1, None)
    actor = SimpleNamespace(_callers=callers, _hold=done.append, _lanes=None)
    actor._forget = partial(ActorExecutor._forget, actor)
    for proc in (b"a", b"b", b"c"):
        ActorExecutor._on_caller_left(actor, proc)
    assert done == [caller, "reset", away]
    assert not list(callers)


@pytest.fixture
def tcp():
    """A connection to another machine, and its other end, which reads nothing yet."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        ours = socket.create_connection(server.getsockname())
        theirs, _ = server.accept()
    connection = Connection(ours, REACTOR, 1 << 20, None, None)
    with theirs:
        yield connection, theirs
    connection.close()


def fill(connection):
    """Send until the kernel takes no more; how many bytes it has taken."""
    sent = 0
    with suppress(BlockingIOError):
        while True:
            sent += connection.sock.send(bytes(65536))
    return sent


def test_that_all_has_arrived_on_another_machine_is_waited_for(connect, tcp, monkeypatch):
    connection, end = tcp
    assert unacknowledged(connection) == 0
    sent = fill(connection)
    assert unacknowledged(connection) > 0
    monkeypatch.setattr(leaving, "_ARRIVAL_S", 0.05)
    assert leave(connect, connection, None, arrival=True)[0]  # not forever
    assert unacknowledged(connection) > 0
    monkeypatch.setattr(leaving, "_ARRIVAL_S", 10.0)
    with ThreadPoolExecutor(1) as threads:
        got = threads.submit(read_all, end)
        assert leave(connect, connection, arrival=True)[0]
        assert unacknowledged(connection) == 0
        assert len(got.result(60)) == sent
    connection.close()
    assert unacknowledged(connection) == 0


def test_on_this_machine_all_has_arrived_that_was_sent(connect):
    connection, _ = connect()
    assert fill(connection)
    assert unacknowledged(connection) == 0


def test_callers_that_go_away_when_they_see_the_end_have_heard_all(connect, monkeypatch):
    callers = Callers(30.0, 10)
    caller = callers.begins(b"a", 1, connect()[0])
    caller.keep(b"frame")
    monkeypatch.setattr(leaving, "_await_arrival", lambda _: callers.parks(caller, 0.0))
    runtime = SimpleNamespace(lock=nullcontext(), node=SimpleNamespace(connection=connect()[0]))
    assert flush_out(runtime, callers, arrival=True)
    assert not flush_out(runtime, callers), "this one was away before"

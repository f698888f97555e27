"""TlsConnection: frames arrive whatever the bytes are cut into, and nothing is sent in clear."""

import os
import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal.client.connection import Connection
from shoal.client.tlsconnection import TlsConnection
from shoal.wire import tls
from shoal.wire.frames import BrokenFrame, frame
from shoald.shell.identity import Identity

LIMIT = 1 << 24


class FakeReactor:
    def __init__(self):
        self.wants = {}
        self.losses = []

    def register(self, connection):
        self.wants[connection] = False

    def unregister(self, connection):
        del self.wants[connection]

    def want_write(self, connection, wanted):
        self.wants[connection] = wanted

    def lost(self, connection):
        self.losses.append(connection)


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    made = {}
    for name, secret in (("ours", b"s" * 32), ("theirs", b"o" * 32)):
        directory = str(tmp_path_factory.mktemp(name))
        Identity(secret, "on", directory).certificates()
        made[name] = os.path.join(directory, tls.FILE)
    return made


class Pair:
    """A submitter and a worker; `turn` is what their reactors would do."""

    def __init__(self, paths, client="ours", server="ours", socks=None):
        self.reactor = FakeReactor()
        self.drained = []
        socks = socks or socket.socketpair()
        self.socks = socks
        self.client = self.make(paths[client], False, socks[0])
        self.server = self.make(paths[server], True, socks[1])
        self.got = {self.client: [], self.server: []}
        self.ended = []

    def make(self, path, server_side, sock):
        context = tls.make_context(path, server_side)
        arguments = (LIMIT, None, None)
        return TlsConnection(
            context, server_side, sock, self.reactor, *arguments, on_drained=self.drained.append
        )

    def turn(self):
        """Both sides read and write what they can; whether anything happened."""
        busy = False
        for connection in (self.client, self.server):
            if self.reactor.wants.get(connection):
                before = connection.out_bytes
                connection.writable()
                busy = busy or connection.out_bytes != before
            if connection.closed or connection in self.ended or not connection.readable:
                continue
            busy = True
            bodies = connection.receive()
            if bodies is None:
                self.ended.append(connection)
            else:
                self.got[connection] += bodies
        return busy

    def settle(self):
        while self.turn():
            pass

    def close(self):
        self.client.close()
        self.server.close()


@pytest.fixture
def pair(paths):
    made = Pair(paths)
    yield made
    made.close()


def test_what_is_sent_before_the_handshake_arrives_after_it(pair):
    pair.client.send(frame(b"one"))
    pair.server.send(frame(b"two"))
    assert pair.client.out_bytes == len(frame(b"one"))
    pair.client.send(frame(b"three"))
    pair.settle()
    assert pair.got == {pair.client: [b"two"], pair.server: [b"one", b"three"]}
    assert pair.client.out_bytes == pair.server.out_bytes == 0
    assert sorted(map(id, pair.drained)) == sorted(map(id, (pair.client, pair.server)))


@given(sizes=st.lists(st.integers(0, 200_000), max_size=8), early=st.integers(0, 8))
def test_frames_arrive_in_order(paths, sizes, early):
    it = Pair(paths)
    bodies = [os.urandom(1) * size for size in sizes]
    for body in bodies[:early]:
        it.client.send(frame(body))
    it.settle()
    for body in bodies[early:]:
        it.client.send(frame(body))
        it.server.send(frame(body[:10]))
    it.settle()
    assert it.got[it.server] == bodies
    assert it.got[it.client] == [body[:10] for body in bodies[early:]]
    assert it.client.out_bytes == 0
    it.close()


def test_what_the_kernel_does_not_take_waits_and_is_counted(pair):
    pair.settle()
    body = os.urandom(8_000_000)
    pair.client.send(frame(body))
    assert pair.client.out_bytes > 1_000_000
    assert pair.reactor.wants[pair.client]
    pair.client.close_soon()
    assert not pair.client.closed
    pair.settle()
    assert pair.got[pair.server] == [body]
    assert pair.client.closed


def test_closing_soon_waits_for_the_handshake(pair):
    pair.client.send(frame(b"last"))
    pair.client.close_soon()
    assert not pair.client.closed
    pair.settle()
    assert pair.client.closed
    assert pair.got[pair.server] == [b"last"]
    assert pair.ended == [pair.server]


@pytest.mark.parametrize(("client", "server"), [("ours", "theirs"), ("theirs", "ours")])
def test_nothing_is_sent_to_one_of_another_cluster(paths, client, server):
    it = Pair(paths, client, server)
    it.client.send(frame(b"secret"))
    it.server.send(frame(b"secret"))
    with pytest.raises(BrokenFrame, match="no TLS"):
        it.settle()
    assert not any(it.got.values())
    it.close()


@pytest.mark.parametrize(
    "garbage", [b"GET / HTTP/1.1\r\n\r\n", frame(b"clear"), b"\x16\x03\x01\x02\x00" + b"\xff" * 512]
)
@pytest.mark.parametrize("server_side", [True, False])
def test_one_who_speaks_no_tls_is_not_heard_and_hears_nothing(paths, garbage, server_side):
    ours, theirs = socket.socketpair()
    context = tls.make_context(paths["ours"], server_side)
    connection = TlsConnection(context, server_side, ours, FakeReactor(), LIMIT, None, None)
    connection.send(frame(b"secret"))
    theirs.sendall(garbage)
    with pytest.raises(BrokenFrame, match="no TLS"):
        connection.receive()
    connection.close()
    heard = b""
    while piece := theirs.recv(100_000):
        heard += piece
    assert b"secret" not in heard
    theirs.close()


def test_bytes_changed_on_the_way_end_the_connection(paths):
    """A relay between the two flips one bit after the handshake."""
    (client, left), (right, server) = socket.socketpair(), socket.socketpair()
    it = Pair(paths, socks=(client, server))

    def relay(change=lambda data: data):
        moved = True
        while moved:
            moved = it.turn()
            for source, sink in ((left, right), (right, left)):
                try:
                    data = source.recv(1 << 20, socket.MSG_DONTWAIT)
                except BlockingIOError:
                    continue
                assert b"secret" not in data
                sink.sendall(change(data))
                moved = True

    relay()
    it.client.send(frame(b"secret 1"))
    relay()
    assert it.got[it.server] == [b"secret 1"]
    it.client.send(frame(b"secret 2"))
    with pytest.raises(BrokenFrame, match="no TLS"):
        relay(lambda data: data[:-1] + bytes([data[-1] ^ 1]))
    assert it.got[it.server] == [b"secret 1"]
    it.close()
    left.close()
    right.close()


def test_connections_of_one_machine_are_the_plain_ones():
    assert not issubclass(Connection, TlsConnection)
    assert "ssl" not in Connection.__init__.__globals__

"""A `Connection` tells a peer that has ended it from an accident: only after the former was all read that was sent."""

import socket
import struct
from types import SimpleNamespace

import pytest

from shoal.client.connection import Connection
from shoal.wire.frames import frame

REACTOR = SimpleNamespace(register=lambda connection: None, unregister=lambda connection: None)


@pytest.fixture(params=["unix", "tcp"])
def pair(request):
    if request.param == "unix":
        ours, theirs = socket.socketpair()
    else:
        with socket.create_server(("127.0.0.1", 0)) as server:
            theirs = socket.create_connection(server.getsockname())
            ours, _ = server.accept()
    connection = Connection(ours, REACTOR, 1 << 20, None, None)
    with theirs:
        yield connection, theirs
    connection.close()


def read(connection):
    """All frames until nothing more can come."""
    bodies = []
    while True:
        ours = connection.sock
        ours.settimeout(10.0)
        got = connection.receive()
        if got is None:
            return bodies
        bodies += got


def test_the_peer_ends_it(pair):
    connection, peer = pair
    peer.sendall(frame(b"one") + frame(b"two"))
    assert not connection.ended
    peer.close()
    assert read(connection) == [b"one", b"two"]
    assert connection.ended


def test_an_end_in_the_middle_of_a_frame_is_an_accident(pair):
    connection, peer = pair
    peer.sendall(frame(b"one") + frame(b"two")[:-1])
    peer.close()
    assert read(connection) == [b"one"]
    assert not connection.ended


def test_a_reset_is_an_accident_between_machines_only(pair):
    """Over TCP it may overtake what was sent; a Unix socket loses nothing."""
    connection, peer = pair
    connection.sock.send(b"never read")
    unix = peer.family == socket.AF_UNIX
    if not unix:
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    peer.close()
    assert read(connection) == []
    assert connection.ended == unix


def test_one_that_is_reset_ends_by_accident_between_machines(pair):
    connection, peer = pair
    unix = peer.family == socket.AF_UNIX
    other = Connection(peer, REACTOR, 1 << 20, None, None)
    other.reset()
    assert other.closed
    other.reset()
    assert read(connection) == []
    assert connection.ended == unix


def test_this_side_closes_it(pair):
    connection, _ = pair
    connection.close()
    assert not connection.ended


def test_all_is_read_of_a_peer_that_says_that_it_ends_and_leaves_things_unread(pair):
    connection, peer = pair
    connection.sock.send(b"never read")
    peer.sendall(frame(b"last"))
    leaving = Connection(peer.dup(), REACTOR, 1 << 20, None, None)
    leaving.send_end()
    leaving.close()
    peer.close()
    assert read(connection) == [b"last"]
    assert connection.ended

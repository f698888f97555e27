"""A process's side of its connections: what does not fit into it is said."""

import os
import resource
import socket
from types import SimpleNamespace

import pytest

from shoal.client.connection import Connection
from shoal.wire.frames import BrokenFrame, encode_batch


@pytest.fixture
def ends():
    ours, theirs = socket.socketpair()
    reactor = SimpleNamespace(register=lambda _: None, unregister=lambda _: None)
    connection = Connection(ours, reactor, 1000, None, None, descriptors=True)
    yield connection, theirs
    connection.close()
    theirs.close()


def test_a_descriptor_that_cannot_be_taken_is_not_passed_over(ends):
    connection, theirs = ends
    data = encode_batch([[1]])
    socket.send_fds(theirs, [data], [0])
    assert connection.receive() == [data[8:]]
    assert len(connection.descriptors) == 1
    socket.send_fds(theirs, [data], [0])
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    free = os.dup(0)
    os.close(free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free, limits[1]))
    try:
        with pytest.raises(BrokenFrame, match="too many open files"):
            connection.receive()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)

"""Connections to an actor on another node that break while it lives: no call is lost, none runs twice, the order holds."""

import socket

import pytest

import shoal
from actorparts import get, wait_until
from shoal import session
from shoal.testing import Cluster

SETTINGS = {"actor_reconnect_ms_max": 5.0}


@pytest.fixture
def cluster():
    """The head's node, where the driver is, and one with the resource "there"."""
    with Cluster(num_cpus=1, system_config=SETTINGS) as cluster:
        cluster.add_node(num_cpus=1, resources={"there": 1}, system_config=SETTINGS)
        shoal.init(cluster.address)
        yield cluster
        shoal.shutdown()


@shoal.remote(resources={"there": 0.1})
class Log:
    """Remembers what it was told, in order."""

    def __init__(self):
        self.seen = []

    def note(self, number, payload=b""):
        self.seen.append(number)
        return number

    def all(self):
        return self.seen

    def node(self):
        return shoal.get_runtime_context().get_node_id()


def cut(handle, heard):
    """Break the connection once something new has come over it; what was heard by then."""
    calls = session.runtime().actors.calls[handle._actor_id]
    lease = calls.lease
    if calls.heard == heard or lease is None or lease.broken:
        return heard
    try:
        lease.connection.sock.shutdown(socket.SHUT_RDWR)
    except OSError:  # the other end saw the last cut first, and has closed this connection by itself
        return heard
    return calls.heard


@pytest.mark.parametrize("size", [0, 50_000])
def test_calls_to_another_node_survive_broken_connections(cluster, size):
    log = Log.remote()
    assert get(log.node.remote()) != shoal.get_runtime_context().get_node_id()
    refs, heard, cuts = [], -1, 0
    number = 0
    while cuts < 15:
        refs += [log.note.remote(number + k, bytes(size)) for k in range(50)]
        number += 50
        now = cut(log, heard)
        cuts += now != heard
        heard = now
        get(refs[-200:-100])
    assert get(refs) == list(range(number))
    assert get(log.all.remote()) == list(range(number))
    wait_until(lambda: session.runtime().actors.calls[log._actor_id].pending == 0)

"""The head of a driver's own cluster rests: nothing of it is there until somebody comes to its port, or a question needs it."""

import os
import socket
from pathlib import Path

import numpy as np
import pytest

import shoal
from nodeclient import until
from shoal.bootstrap import DaemonOptions, resolve_address, start_daemon, stop_session
from shoal.control import request
from shoal.util import get_placement_group, placement_group, remove_placement_group
from shoal.util.scheduling_strategies import PlacementGroupSchedulingStrategy

TIMEOUT_S = 60


@shoal.remote
def where():
    return shoal.get_runtime_context().get_node_id()


@shoal.remote
def add(values):
    return int(values.sum())


@shoal.remote
def add_to(name):
    return shoal.get(shoal.get_actor(name).add.remote())


@shoal.remote
class Counter:
    def __init__(self):
        self.count = 0

    def add(self):
        self.count += 1
        return self.count


@pytest.fixture
def settings(request):
    """Of all nodes; with time for a head to start on a machine that is busy."""
    return {"tls": getattr(request, "param", "off"), "reconnect_ms_max": 30_000, "handshake_ms_max": 30_000}


@pytest.fixture
def own(no_leaks, settings):
    """The session of this driver's own daemon."""
    with shoal.init(num_cpus=1, resources={"here": 1}, _system_config=settings) as context:
        yield resolve_address(context["address"])


@pytest.fixture
def join(own, settings):
    """Has another node join."""
    nodes = []

    def start():
        options = DaemonOptions(
            head_address=own.head_address, num_cpus=1, resources={"there": 1}, config=settings
        )
        nodes.append(start_daemon(options))
        until(lambda: len(living()) == 1 + len(nodes), "the node has joined")
        return nodes[-1]

    yield start
    for node in nodes:
        stop_session(node.session)
        node.process.wait(TIMEOUT_S)


def living():
    return [node for node in shoal.nodes() if node["Alive"]]


def rests(session):
    return "cygrpc" not in Path(f"/proc/{session.pid}/maps").read_text()


def log_of(session):
    return Path(session.directory, "logs", "node.log").read_text()


def get(ref):
    return shoal.get(ref, timeout=TIMEOUT_S)


def test_a_node_that_is_alone_does_without_a_head(own):
    assert get(where.remote()) == own.node_id
    assert get(add.remote(shoal.put(np.ones(100_000)))) == 100_000
    assert [node["NodeID"] for node in shoal.nodes()] == [own.node_id]
    assert shoal.cluster_resources()["CPU"] == 1
    counter = Counter.options(name="c", num_cpus=0).remote()
    assert get(counter.add.remote()) == 1
    assert get(add_to.remote("c")) == 2
    with pytest.raises(ValueError, match="there is no actor named 'd'"):
        shoal.get_actor("d")
    with pytest.raises(ValueError, match="'c' exists already"):
        Counter.options(name="c", num_cpus=0).remote()
    shoal.kill(counter)
    group = placement_group([{"CPU": 1}])
    assert group.wait(TIMEOUT_S)
    remove_placement_group(group)
    head = request(own.socket, own.secret, "status", {"cluster": True})["head"]
    assert head == {"address": own.head_address, "trouble": ""}
    assert rests(own)


@pytest.mark.parametrize("settings", ["off", "on"], indirect=True)
def test_a_node_joins_a_head_that_rests(own, join):
    ref = shoal.put(np.ones(1_000_000))
    counter = Counter.options(name="c", num_cpus=0, resources={"here": 0.1}).remote()
    assert get(counter.add.remote()) == 1
    group = placement_group([{"here": 0.5}])
    assert group.wait(TIMEOUT_S)
    assert rests(own)
    node = join()
    there = {"resources": {"there": 1}}
    assert get(where.options(**there).remote()) == node.node_id
    assert get(add.options(**there).remote(ref)) == 1_000_000
    assert get(add_to.options(**there).remote("c")) == 2
    strategy = PlacementGroupSchedulingStrategy(group)
    inside = where.options(num_cpus=0, resources={"here": 0.1}, scheduling_strategy=strategy)
    assert get(inside.remote()) == own.node_id
    for session in (own, node.session):
        assert log_of(session).count("registered at the head") == 1
        assert "no connection to the head" not in log_of(session)


def test_a_node_that_joined_may_die(own, join):
    first, second = join(), join()
    assert get(where.options(resources={"there": 1}).remote()) in {first.node_id, second.node_id}
    first.process.kill()
    until(lambda: len(living()) == 2, "its death is known")


def test_the_name_of_a_group_is_for_the_head_to_give(own):
    assert rests(own)
    group = placement_group([{"CPU": 1}], name="g")
    assert group.wait(TIMEOUT_S)
    assert get_placement_group("g").id == group.id
    assert not rests(own)


def test_a_question_for_the_head_waits_until_it_has_started(own):
    assert rests(own)
    with pytest.raises(ValueError, match="no placement group named 'h'"):
        get_placement_group("h")
    assert not rests(own)


def test_whoever_knocks_with_rubbish_is_no_harm(own, join):
    host, _, port = own.head_address.rpartition(":")
    for data in (b"", b"\xff" * 1000):
        with socket.create_connection((host, int(port)), timeout=TIMEOUT_S) as sock:
            sock.sendall(data)
    node = join()
    assert get(where.options(resources={"there": 1}).remote()) == node.node_id


def test_it_may_end_while_the_head_starts(own):
    host, _, port = own.head_address.rpartition(":")
    with socket.create_connection((host, int(port)), timeout=TIMEOUT_S):
        shoal.shutdown()


def test_a_port_that_is_taken_is_said(no_leaks):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        node = start_daemon(DaemonOptions(head=True, port=port, num_cpus=1, owner_pid=os.getpid()))
        try:
            said = f"cannot listen on 127.0.0.1:{port}: Address already in use"

            def trouble():
                return request(node.socket, node.secret, "status", {})["head"]["trouble"]

            until(lambda: trouble() == said, "it says so")
        finally:
            stop_session(node.session)
            node.process.wait(TIMEOUT_S)

"""TLS between the nodes of a cluster, forced on over loopback: all works as without, and nothing can be read on the way."""

import os
import socket
import subprocess
import sys
import threading

import numpy as np
import pytest

import shoal
from nodeclient import until
from shoal.control import request
from shoal.exceptions import ActorDiedError, TaskError
from shoal.sessions import SECRET_FILE
from shoal.testing import Cluster

TIMEOUT_S = 60
WITH_TLS = {"tls": "on"}
MARK = b"open sesame, open sesame, open sesame"


@pytest.fixture(scope="module")
def three(module_leaves_nothing):
    """A driver on a node without CPUs, and two others."""
    with Cluster(num_cpus=0, system_config=WITH_TLS) as cluster:
        for name in ("a", "b"):
            cluster.add_node(num_cpus=2, resources={name: 100}, system_config=WITH_TLS)
        shoal.init(cluster.address)
        try:
            yield cluster
        finally:
            shoal.shutdown()


@pytest.fixture
def shoal_session(three):
    """The module's cluster is shared: `module_leaves_nothing` checks."""
    return three


def at(name, **more):
    return {"resources": {name: 1}, "num_cpus": 0.1, **more}


def get(refs):
    return shoal.get(refs, timeout=TIMEOUT_S)


@shoal.remote
def echo(value):
    return value


@shoal.remote
def ones(size):
    return np.ones(size, np.uint8)


@shoal.remote
def total(array):
    return int(array.sum())


@shoal.remote
def asks(child):
    return shoal.get(echo.options(**at("b")).remote(child), timeout=TIMEOUT_S)


@shoal.remote
def fails():
    raise LookupError("of this task")


@shoal.remote
def counts(number):
    yield from range(number)


@shoal.remote
class Counter:
    def __init__(self):
        self.number = 0

    def add(self, value=b""):
        self.number += 1
        return self.number, value

    def end(self):
        os._exit(3)


def test_tasks_large_and_small_and_nested(shoal_session):
    assert get([echo.options(**at("a")).remote(number) for number in range(500)]) == list(range(500))
    blocks = [bytes([number]) * 90_000 for number in range(100)]
    assert get([echo.options(**at("b")).remote(block) for block in blocks]) == blocks
    assert get([asks.options(**at("a")).remote(number) for number in range(5)]) == list(range(5))
    assert [get(each) for each in counts.options(**at("a")).remote(20)] == list(range(20))


def test_objects_move_between_nodes(shoal_session):
    made = [ones.options(**at(name)).remote(20_000_000) for name in ("a", "b")]
    other = [total.options(**at(name)).remote(ref) for name, ref in zip(("b", "a"), made, strict=True)]
    assert get(other) == [20_000_000] * 2
    assert int(get(made[0]).sum()) == 20_000_000


def test_errors_come_as_without(shoal_session):
    with pytest.raises(LookupError, match="of this task") as caught:
        get(fails.options(**at("b")).remote())
    assert isinstance(caught.value, TaskError)


def test_actors_and_their_callers_on_three_nodes(shoal_session):
    counter = Counter.options(**at("b")).remote()
    assert get([counter.add.remote(b"x" * 50_000) for _ in range(50)])[-1] == (50, b"x" * 50_000)

    @shoal.remote
    def call(counter):
        return shoal.get(counter.add.remote(), timeout=TIMEOUT_S)[0]

    assert get(call.options(**at("a")).remote(counter)) == 51
    counter.end.remote()
    with pytest.raises(ActorDiedError):
        get(counter.add.remote())


def test_a_worker_that_dies_is_replaced(shoal_session, tmp_path):
    @shoal.remote
    def once(path):
        if not os.path.exists(path):
            open(path, "w").close()
            os._exit(1)
        return "again"

    assert get(once.options(**at("a")).remote(str(tmp_path / "been"))) == "again"


def test_a_node_that_wants_none_is_refused_in_one_line(shoal_session, three):
    secret_file = os.path.join(three.head.session_dir, SECRET_FILE)
    command = [
        sys.executable,
        "-m",
        "shoal",
        "start-node",
        "--address",
        three.address,
        "--secret-file",
        secret_file,
    ]
    # Who is to speak without TLS hears nothing, however long it waits.
    for mode, reason, wait_ms in (("auto", "--tls", 30_000), ("off", "no head answers", 300)):
        environment = {**os.environ, "SHOAL_HANDSHAKE_MS_MAX": str(wait_ms)}
        options = ["--num-cpus", "1", "--object-store-memory", "16MB", "--tls", mode]
        done = subprocess.run(
            [*command, *options], capture_output=True, text=True, env=environment, check=False
        )
        assert done.returncode != 0
        assert reason in done.stderr
        assert "Traceback" not in done.stderr


class Tap:
    """What goes over loopback, to or from some ports: `seen` bytes, and whether MARK is among them."""

    def __init__(self):
        self.sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 * 1024 * 1024)
        self.sock.bind(("lo", 0))
        self.sock.settimeout(0.2)
        self.ports = {}
        self.ended = False
        self.found = set()
        self.thread = threading.Thread(target=self.run)

    def run(self):
        while True:
            try:
                data = self.sock.recv(1 << 17)
            except TimeoutError:
                if self.ended:
                    return
                continue
            for port in (int.from_bytes(data[34:36], "big"), int.from_bytes(data[36:38], "big")):
                if port in self.ports:
                    self.ports[port] += len(data)
                    if MARK in data:
                        self.found.add(port)

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.ended = True
        self.thread.join()
        self.sock.close()


def _may_listen():
    try:
        socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3)).close()
    except (PermissionError, AttributeError):
        return False
    return True


@pytest.mark.skipif(not _may_listen(), reason="reading along needs root")
def test_nothing_can_be_read_on_the_way(shoal_session, three):
    nodes = _ports_of_others(three)
    with Tap() as tap:
        with socket.create_server(("127.0.0.1", 0)) as control:
            own = control.getsockname()[1]
            tap.ports = dict.fromkeys([*nodes, own], 0)
            with socket.create_connection(("127.0.0.1", own)) as sock:
                sock.sendall(MARK)
                accepted, _ = control.accept()
                with accepted:
                    assert accepted.recv(100) == MARK
        assert get(echo.options(**at("a")).remote(MARK)) == MARK
        stored = ones.options(**at("a")).remote(1000)
        assert get(echo.options(**at("b")).remote([MARK * 10_000, stored]))[0] == MARK * 10_000
        counter = Counter.options(**at("b")).remote()
        assert get(counter.add.remote(MARK))[1] == MARK
        until(lambda: own in tap.found, "what was sent in clear")
        until(lambda: all(tap.ports.values()), "what was sent to the nodes")
    assert tap.found == {own}


def _ports_of_others(cluster):
    """Of the data listeners of the nodes that the driver is not on."""
    rows = request(cluster.head.socket, cluster.head.secret, "nodes", {})["rows"]
    others = [row for row in rows if row["state"] == "ALIVE" and row["node_id"] != cluster.head.node_id]
    return [int(row["address"].rpartition(":")[2]) for row in others]

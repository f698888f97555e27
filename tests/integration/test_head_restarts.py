"""A head that keeps its state in a directory comes back after it was killed, and its cluster goes on."""

import json
import os
import signal
import tempfile

import pytest

from nodeclient import until
from scripts import PRELUDE, Script
from shoal.bootstrap import BootstrapError, DaemonOptions, start_daemon, stop_session
from shoal.control import request

# On the node that lives: a detached actor, and a task of a driver that is there before, while and after the head is gone.
DRIVER = (
    PRELUDE
    + """
folder = sys.argv[1]
shoal.init(os.environ["ADDRESS"], namespace="jobs")

@shoal.remote(resources={"here": 0.1}, num_cpus=0)
class Counter:
    def __init__(self): self.value = 0
    def add(self):
        self.value += 1
        return self.value

@shoal.remote(num_cpus=0)
def node():
    return shoal.get_runtime_context().get_node_id()

if os.environ["MAKE"]:
    counter = Counter.options(name="kept", lifetime="detached").remote()
else:
    counter = shoal.get_actor("kept")
tell(value=shoal.get(counter.add.remote()),
     nodes=shoal.get([node.remote(), node.options(resources={"here": 0.1}).remote()]))
"""
)


@pytest.fixture
def folder(monkeypatch):
    """A short path: sockets are in it, and it is not where other sessions are."""
    with tempfile.TemporaryDirectory() as path:
        monkeypatch.setenv("SHOAL_TEMP_DIR", path)
        yield path


def drive(tmp_path, address, make):
    script = Script(tmp_path, DRIVER, ADDRESS=address, MAKE="yes" if make else "")
    facts = script.line()
    script.finish()
    return facts


def states(daemon):
    rows = request(daemon.socket, daemon.secret, "nodes", {})["rows"]
    return {row["node_id"]: row["state"] for row in rows}


def test_a_head_goes_on_where_it_was_killed(no_leaks, folder, tmp_path):
    config = {"heartbeat_ms": 200, "node_suspect_ms": 600, "node_dead_ms": 1500, "reconnect_ms_max": 200}
    head = DaemonOptions(head=True, num_cpus=1, data_dir=os.path.join(folder, "data"), config=config)
    first = start_daemon(head)
    node = start_daemon(
        DaemonOptions(head_address=first.address, num_cpus=1, resources={"here": 1}, config=config)
    )
    daemons = [first, node]
    try:
        assert drive(tmp_path, first.address, make=True)["value"] == 1
        os.kill(first.pid, signal.SIGKILL)
        first.process.wait()
        port = int(first.address.rpartition(":")[2])
        second = start_daemon(DaemonOptions(**{**vars(head), "port": port}))
        daemons.append(second)
        assert second.secret == first.secret
        expected = {first.node_id: "DEAD", node.node_id: "ALIVE", second.node_id: "ALIVE"}
        until(
            lambda: states(second) == expected, "the node is back, and what went with the first head is dead"
        )
        facts = drive(tmp_path, second.address, make=False)
        assert facts["value"] == 2, "the actor lived on"
        assert facts["nodes"] == [second.node_id, node.node_id]
        with pytest.raises(BootstrapError, match="does another head use this directory"):
            start_daemon(head)
    finally:
        for daemon in reversed(daemons):
            stop_session(daemon.session)
            daemon.process.wait()


def test_a_directory_that_others_can_read_keeps_no_secret(folder):
    data = os.path.join(folder, "data")
    os.mkdir(data, 0o755)
    with pytest.raises(BootstrapError, match="700"):
        start_daemon(DaemonOptions(head=True, data_dir=data))
    assert json.dumps(os.listdir(data)) == "[]"

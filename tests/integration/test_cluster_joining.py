"""Joining: nodes by a join string and at other addresses, drivers on machines that have no node."""

import json
import os
import subprocess
import sys
import tempfile

import pytest

import shoal
from nodeclient import until
from shoal.control import request
from shoal.joining import make_join_string
from shoal.testing import Cluster


@pytest.fixture
def cluster(no_leaks):
    with Cluster(num_cpus=1) as cluster:
        yield cluster


@pytest.fixture
def elsewhere(tmp_path_factory, monkeypatch):
    """A folder for sessions that knows none: as on another machine."""
    path = tmp_path_factory.mktemp("e", numbered=True)
    monkeypatch.delenv("SHOAL_SECRET_FILE", raising=False)
    return str(path)


@pytest.fixture
def there(elsewhere, monkeypatch):
    """This process, and those that it starts, know no sessions either."""
    monkeypatch.setenv("TMPDIR", elsewhere)
    monkeypatch.setattr(tempfile, "tempdir", elsewhere)
    return elsewhere


def run(*arguments, text=""):
    command = [sys.executable, "-m", "shoal", *arguments]
    return subprocess.run(command, input=text, capture_output=True, text=True, timeout=60, check=False)


def nodes_of(cluster):
    rows = request(cluster.head.socket, cluster.head.secret, "nodes", {})["rows"]
    return {row["node_id"]: row for row in rows if row["state"] == "ALIVE"}


@shoal.remote
def where():
    return shoal.get_runtime_context().get_node_id()


def test_a_join_string_is_all_that_a_node_needs(cluster, elsewhere):
    line = run("join-string", "--address", cluster.address).stdout
    assert line == make_join_string(cluster.address, cluster.head.secret) + "\n"
    options = [
        "--num-cpus",
        "1",
        "--resources",
        "there=1",
        "--host",
        "127.0.0.2",
        "--object-store-memory",
        "64MB",
    ]
    started = run("start-node", "--join", "-", "--temp-dir", elsewhere, "--json", *options, text=line)
    assert started.returncode == 0, started.stderr
    node_id = json.loads(started.stdout)["node_id"]
    try:
        assert nodes_of(cluster)[node_id]["address"].startswith("127.0.0.2:")
        shoal.init(cluster.address)
        try:
            assert shoal.get(where.options(resources={"there": 1}).remote(), timeout=60) == node_id
        finally:
            shoal.shutdown()
    finally:
        run("stop", "--temp-dir", elsewhere)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--join", "-"], "standard input holds no join string"),
        (["--join", "/nowhere"], "cannot read /nowhere"),
        ([], "either --address"),
        (["--join", "-", "--address", "127.0.0.1:7462"], "either --address"),
    ],
)
def test_what_cannot_be_joined_is_said_in_one_line(arguments, said):
    done = run("start-node", *arguments, text="nonsense")
    assert done.returncode == 1
    assert said in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_host_of_another_machine_is_refused_in_one_line(cluster):
    done = run(
        "start-node", "--address", cluster.address, "--host", "192.0.2.1", "--object-store-memory", "64MB"
    )
    assert done.returncode == 1
    assert "cannot listen on 192.0.2.1" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_driver_without_a_node_brings_one_for_itself(cluster, there, monkeypatch):
    monkeypatch.setenv("SHOAL_SECRET_FILE", os.path.join(cluster.head.session_dir, "secret"))
    shoal.init(cluster.address)
    try:
        own = shoal.get_runtime_context().get_node_id()
        assert own != cluster.head.node_id
        assert nodes_of(cluster)[own]["resources"]["CPU"] == 0
        assert shoal.get(where.remote(), timeout=60) == cluster.head.node_id
    finally:
        shoal.shutdown()
    until(lambda: set(nodes_of(cluster)) == {cluster.head.node_id}, "its node has left")
    assert not any(os.scandir(there))


def test_without_the_secret_a_driver_is_told_what_to_do(cluster, there):
    with pytest.raises(ConnectionError, match="SHOAL_SECRET_FILE"):
        shoal.init(cluster.address)


def test_the_node_of_a_driver_ends_with_it_however_it_ends(cluster, there):
    script = f"""
import os, shoal
shoal.init({cluster.address!r})
print(shoal.get_runtime_context().get_node_id(), flush=True)
os.kill(os.getpid(), 9)
"""
    environment = {**os.environ, "SHOAL_SECRET_FILE": os.path.join(cluster.head.session_dir, "secret")}
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env=environment,
    )
    assert len(done.stdout.strip()) == 32, done.stderr
    until(lambda: set(nodes_of(cluster)) == {cluster.head.node_id}, "its node has left")

"""The command line against real daemons: start, join, look, stop, and each mistake as one clear line."""

import os
import signal
import socket
import subprocess
import sys
import tempfile

import pytest

from commandline import PATIENCE_S, run, until

DRIVER = """
import sys, time
import numpy as np
import shoal

shoal.init("auto")

@shoal.remote
def wait_for(value, path):
    import os, time
    while not os.path.exists(path):
        time.sleep(0.01)
    return value

kept = shoal.put(np.ones(1_000_000))
running = wait_for.remote(1, sys.argv[1])
waiting = wait_for.remote(running, sys.argv[1])
print(waiting.hex(), flush=True)
assert shoal.get(waiting) == 1
"""


@pytest.fixture
def head():
    """A head and node of the test's own, as start-head --json describes it."""
    result = run("start-head", "--port", "0", "--num-cpus", "1", "--object-store-memory", "128MB", "--json")
    assert result.status == 0, result.err
    yield result.json
    assert run("stop").status == 0


def test_a_cluster_from_start_to_stop(head):
    address = head["head_address"]
    joined = run(
        "start-node", "--address", address, "--num-cpus", "2", "--object-store-memory", "64MB", "--name", "b",
        "--num-gpus", "3", "--memory", "8GB",
    )  # fmt: skip
    assert joined.status == 0, joined.err
    assert "started node" in joined.out
    nodes = run("list", "nodes", "--json").json["rows"]
    assert sorted((node["resources"]["CPU"], node["state"]) for node in nodes) == [
        (1.0, "ALIVE"),
        (2.0, "ALIVE"),
    ]
    assert [(n["resources"]["GPU"], n["resources"]["memory"]) for n in nodes if n["name"] == "b"] == [
        (3, 8e9)
    ]
    assert "0/3 CPU" in run("status").out
    assert run("health-check").status == 0
    stopped = run("stop", "--session", "b")
    assert stopped.out.startswith("stopped: node")
    until(lambda: [n["state"] for n in run("list", "nodes", "--json").json["rows"]].count("DEAD") == 1)
    assert "left" in run("status").out or "stops" in run("status").out
    assert run("stop").out.startswith("stopped: head and node")
    assert "nothing to stop" in run("stop").out


def test_tables_show_what_a_driver_does(head, tmp_path):
    gate = tmp_path / "gate"
    driver = subprocess.Popen([sys.executable, "-c", DRIVER, str(gate)], stdout=subprocess.PIPE, text=True)
    try:
        waiting = driver.stdout.readline().strip()
        tasks = until(
            lambda: (
                len(rows := run("list", "tasks", "--json").json["rows"]) == 2
                and rows[0]["state"] == "RUNNING"
                and rows
            )
        )
        assert {task["name"].rpartition(".")[2] for task in tasks} == {"wait_for"}
        memory = run("memory", "--json", "--stats").json
        [row] = memory["rows"]
        assert row["size_bytes"] >= 8_000_000
        assert {holder["pid"] for holder in row["holders"]} == {driver.pid}
        total = memory["total"]
        assert sum(row["allocated_bytes"] for row in memory["rows"]) + total["leased"] == total["used"]
        assert "which is all that is used" in run("memory").out
        assert "which is all that is used" in run("memory", "--group-by", "call-site").out
        assert "capacity" not in run("memory").out
        assert "capacity" in run("memory", "--stats").out
        assert "OBJECT " not in run("memory", "--stats-only").out
        assert "resources 1/1 CPU" in run("status").out
        assert str(driver.pid) in run("list", "jobs").out
        assert "wait_for" in run("why", waiting).out
        for kind in ("workers", "objects"):
            assert run("list", kind, "--json").json["rows"]
    finally:
        gate.touch()
        assert driver.wait(PATIENCE_S) == 0
        driver.stdout.close()
    until(lambda: run("memory", "--json").json["total"]["used"] == 0)


def test_a_head_elsewhere_says_how_scripts_find_it(no_leaks, monkeypatch):
    monkeypatch.delenv("SHOAL_TEMP_DIR", raising=False)
    elsewhere = tempfile.mkdtemp()
    try:
        started = run("start-head", "--port", "0", "--num-cpus", "0", "--temp-dir", elsewhere)
        assert f"export SHOAL_TEMP_DIR={elsewhere}\n" in started.out
        monkeypatch.setenv("SHOAL_TEMP_DIR", elsewhere)
        assert "1 alive" in run("status").out
        assert elsewhere not in run("start-head", "--port", "0", "--num-cpus", "0").out, (
            "that is where others look"
        )
    finally:
        run("stop", "--temp-dir", elsewhere)
    assert f"as far as {elsewhere}" in run("status").error
    os.rmdir(elsewhere)


def test_mistakes_are_one_clear_line(head, tmp_path):
    address = head["head_address"]
    port = address.rpartition(":")[2]
    assert "is running at" in run("start-head", "--port", port).error
    elsewhere = ("--temp-dir", tempfile.mkdtemp())  # of a short path, and not where the other head is known
    assert "the port is in use" in run("start-head", "--port", port, *elsewhere).error
    assert "no cluster at 127.0.0.1:1" in run("start-node", "--address", "127.0.0.1:1").error
    assert "no address" in run("start-node", "--address", "somewhere").error
    wrong = tmp_path / "wrong"
    wrong.write_bytes(b"w" * 32)
    assert "chmod 600" in run("start-node", "--address", address, "--secret-file", str(wrong)).error
    wrong.chmod(0o600)
    assert "wrong secret" in run("start-node", "--address", address, "--secret-file", str(wrong)).error
    with socket.socket() as placeholder:
        placeholder.bind(("127.0.0.1", 0))
        nobody = f"127.0.0.1:{placeholder.getsockname()[1]}"
        joining = ("start-node", "--address", nobody, "--secret-file", str(wrong))
        assert "no head answers" in run(*joining, "--system-config", "handshake_ms_max=300").error
    assert "no daemon of yours" in run("stop", "--session", "nothing").error
    new = ("start-head", "--port", "0")
    assert "did you mean 'poll_us'?" in run(*new, "--system-config", "pol_us=1").error
    assert "'poll_us'" in run(*new, "--system-config", "poll_us=x").error
    assert "too small" in run(*new, "--object-store-memory", "1KB").error
    assert "does not fit" in run(*new, "--object-store-memory", "1000TB").error
    assert "--num-cpus" in run(*new, "--num-cpus", "nan").error
    assert "disk" in run(*new, "--resources", "disk=-1").error
    assert "no id" in run("why", "xyz").error
    unknown = run("why", "abcd")
    assert "nobody here knows" in unknown.out
    assert unknown.status == 1
    assert "Did you mean 'start-head'?" in run("start-hed").err
    assert "No such command 'xyzzy'." in run("xyzzy").err
    assert "cannot write /nowhere/trace.json: No such file" in run("timeline", "/nowhere/trace.json").error
    for words in (("list", "node"), ("get", "nodes", head["node_id"]), ("summary", "task")):
        assert run(*words, "--json").json
    assert "no log file" in run("logs", "nothing").error
    os.rmdir(elsewhere[1])


def test_without_a_cluster():
    for command in (("status",), ("memory",), ("list", "tasks"), ("why", "ab"), ("health-check",)):
        assert "shoal start-head" in run(*command).error
    assert "nothing to stop" in run("stop").out
    assert "no daemon" in run("logs").error


def test_logs(head):
    assert "node.log" in run("logs").out
    assert "registered at the head" in run("logs", "node.log").out
    follower = subprocess.Popen(
        [sys.executable, "-m", "shoal", "logs", "node.log", "-n", "1", "-f"],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert follower.stdout.readline()
    run("stop")
    follower.send_signal(signal.SIGINT)
    follower.stdout.read()
    follower.stdout.close()
    assert follower.wait(PATIENCE_S) == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_block_ends_with_its_daemon(number):
    command = [sys.executable, "-m", "shoal", "start-head", "--port", "0", "--num-cpus", "1", "--block"]
    process = subprocess.Popen(
        [*command, "--object-store-memory", "64MB"], stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    assert process.stdout.readline().startswith("started head")
    process.send_signal(number)
    assert "stopped: head and node" in process.stdout.read()
    process.stdout.close()
    assert process.wait(PATIENCE_S) == 0
    assert "nothing to stop" in run("stop").out


def test_a_killed_daemon_is_noticed_and_cleaned_up(head):
    os.kill(head["pid"], signal.SIGKILL)
    until(lambda: run("status").status == 1)
    assert os.path.exists(head["directory"])
    again = run("start-head", "--port", "0", "--num-cpus", "1", "--object-store-memory", "64MB")
    assert again.status == 0
    assert not os.path.exists(head["directory"])


def test_nodes_outlive_their_head_and_say_so(head):
    address = head["head_address"]
    joined = run(
        "start-node", "--address", address, "--num-cpus", "1", "--object-store-memory", "64MB", "--json"
    )
    assert joined.status == 0, joined.err
    os.kill(head["pid"], signal.SIGKILL)
    until(lambda: "no connection: " in run("status").out)
    until(lambda: "no connection to its head" in run("health-check").error)
    assert [node["node_id"] for node in run("list", "nodes", "--json").json["rows"]] == [
        joined.json["node_id"]
    ]
    again = run(
        "start-head",
        "--port",
        address.rpartition(":")[2],
        "--object-store-memory",
        "64MB",
        "--num-cpus",
        "1",
        "--json",
    )
    assert again.status == 0, again.err
    # The address is the new head's now, and the node that is left belongs to another cluster.
    for asked in ("auto", address):
        assert run("status", "--address", asked, "--json").json["node_id"] == again.json["node_id"]


def test_a_cluster_at_an_ipv6_address(no_leaks):
    with socket.socket(socket.AF_INET6) as sock:
        try:
            sock.bind(("::1", 0))
        except OSError as error:
            pytest.skip(f"this machine has no IPv6: {error}")
    start = ("--num-cpus", "1", "--object-store-memory", "64MB", "--json")
    result = run("start-head", "--host", "::1", "--port", "0", *start)
    assert result.status == 0, result.err
    address = result.json["head_address"]
    assert address.startswith("[::1]:")
    assert run("start-node", "--address", address, *start).status == 0
    assert [row["state"] for row in run("list", "nodes", "--json").json["rows"]] == ["ALIVE", "ALIVE"]
    assert run("stop").status == 0


def test_a_killed_node_is_declared_dead(no_leaks):
    fast = "heartbeat_ms=200,node_suspect_ms=600,node_dead_ms=1500"
    start = ("--num-cpus", "1", "--object-store-memory", "64MB", "--system-config", fast, "--json")
    head = run("start-head", "--port", "0", *start).json
    node = run("start-node", "--address", head["head_address"], *start).json
    os.kill(node["pid"], signal.SIGKILL)

    def dead():
        rows = {row["node_id"]: row for row in run("list", "nodes", "--json").json["rows"]}
        assert rows[head["node_id"]]["state"] == "ALIVE"
        return rows[node["node_id"]]["state"] == "DEAD"

    until(dead)
    assert "silent for" in run("status").out
    assert run("stop").status == 0
    assert not os.path.exists(node["directory"])


def test_a_microbenchmark():
    rows = run("microbenchmark", "--seconds", "0.01", "--num-cpus", "1", "--json").json["rows"]
    assert len(rows) == len({row["name"] for row in rows}) >= 9
    assert all(row["rate"] > 0 and row["rates"] == sorted(row["rates"]) for row in rows)
    assert "actor calls" in run("microbenchmark", "ACTOR", "--seconds", "0.01").out
    assert "no figure is called like x" in run("microbenchmark", "x").error
    assert "shoal start-head" in run("microbenchmark", "--address", "auto").error
    assert (
        "num_cpus: this is for a new cluster"
        in run("microbenchmark", "--address", "auto", "--num-cpus", "1").error
    )
    assert run("microbenchmark", "--seconds", "0").status == 2


def test_help_of_every_command():
    names = [
        line.split()[0] for line in run("--help").out.partition("Commands:")[2].splitlines() if line.strip()
    ]
    assert {"start-head", "status", "memory", "why"} <= set(names)
    for name in names:
        result = run(name, "--help")
        assert result.status == 0, result.err
        assert "--json" in result.out


def test_huge_pages_that_the_system_has_not_set_aside():
    wanted = ["--huge-pages", "--object-store-memory", "1000TB", "--port", "0"]
    line = run("start-head", *wanted).error
    assert "--huge-pages: " in line
    assert "nothing to stop" in run("stop").out

"""shoal get, summary, stack and `shoal.util.state` of a real cluster; which of several clusters is asked, and stopped."""

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import shoal
from commandline import PATIENCE_S, run, until
from marks import Marks
from shoal.util import state
from shoal.util.metrics import Counter
from twonodes import two_nodes


@pytest.fixture
def nodes(no_leaks):
    """A driver's node without CPUs, and another with two; its session is this process's."""
    with two_nodes() as nodes:
        yield nodes


@pytest.fixture
def marks(tmp_path):
    return Marks(tmp_path)


@shoal.remote
def made(size):
    return bytes(size)


@shoal.remote
def hold(marks):
    marks.add("held")
    marks.wait("release")
    return bytes(200_000)


@shoal.remote
class Adder:
    def add(self):
        return 1


def test_one_row_and_sums_by_command_and_by_function(nodes, marks):
    head, other = nodes
    counter = Adder.options(name="c").remote()
    assert shoal.get(counter.add.remote()) == 1
    kept = shoal.put(bytes(300_000))
    ref = hold.remote(marks)
    marks.wait("held")
    [task] = state.list_tasks(filters=[("state", "=", "RUNNING")])
    assert task.task_id == task.id == ref.hex()
    assert task["worker_node"] == other.node_id
    asked = ("--address", head.address)
    found = run("get", "task", ref.hex()[:24], "--json", *asked).json
    assert (found["state"], found["name"]) == ("RUNNING", task.name)
    assert f"state         {found['state']}" in run("get", "task", ref.hex(), *asked).out
    [actor] = state.list_actors()
    assert run("get", "actor", actor.actor_id[:8], "--json", *asked).json["name"] == "c"
    assert state.get_actor(actor.actor_id).name == "c"
    assert state.get_object(kept.hex()).size_bytes >= 300_000
    assert state.get_objects(kept.hex())[0].state == "STORED"
    assert run("get", "worker", str(task.worker_pid), "--json", *asked).json["node_id"] == other.node_id
    assert {row.node_id for row in state.list_nodes()} == {head.node_id, other.node_id}
    assert state.get_node(other.node_id[:12]).resources["CPU"] == 2
    assert len(state.list_jobs()) == 1
    assert state.list_placement_groups() == []
    functions = run("summary", "tasks", "--json", *asked).json["cluster"]["summary"]
    assert functions[task.name]["state_counts"] == {"RUNNING": 1}
    assert state.summarize_tasks()["cluster"]["summary"] == functions
    assert "1 actors" in run("summary", "actors", *asked).out
    assert "Adder" in next(iter(state.summarize_actors()["cluster"]["summary"]))
    assert state.summarize_objects()["cluster"]["total_size_bytes"] >= 300_000
    assert "CALL SITE" in run("summary", "objects", *asked).out
    results = [made.remote(size) for size in (1, 300_000)]
    shoal.get(results)
    sites = state.summarize_objects()["cluster"]["summary"]
    assert sites["result of made"]["state_counts"] == {"INLINE": 1, "STORED": 1}
    marks.add("release")
    shoal.get(ref)
    until(lambda: state.get_task(ref.hex()).state == "FINISHED")


def test_ids_that_mean_nothing_or_too_much(nodes):
    asked = ("--address", nodes[0].address)
    assert "no task 'ffff' is known; `shoal list tasks`" in run("get", "task", "ffff", *asked).error
    kept = [shoal.put(number) for number in range(3)]
    shared = kept[0].hex()[:16]  # what all of this process begin with
    assert "may be each of" in run("get", "object", shared, *asked).error
    assert state.get_task("ffff") is None
    assert state.get_objects("ffff") == []
    with pytest.raises(ValueError, match="say more of the id"):
        state.get_object(shared)
    with pytest.raises(ValueError, match="no field"):
        state.list_nodes(filters=[("nothing", "=", 1)])
    assert len(state.list_objects(limit=2)) == 2
    with pytest.raises(AttributeError, match="no field 'nothing'"):
        _ = state.list_nodes()[0].nothing
    with pytest.raises(ConnectionError, match="no node of the cluster"):
        state.list_nodes("127.0.0.1:1")


def test_stacks_of_all_processes_with_what_runs_there(nodes, marks):
    asked = ("--address", nodes[0].address)
    ref = hold.remote(marks)
    marks.wait("held")
    until(lambda: any(row.get("task_id") == ref.hex() for row in state.list_workers()))
    rows = run("stack", "--json", *asked).json["rows"]
    assert os.getpid() in [row["pid"] for row in rows]
    [row] = [row for row in rows if row["task_id"] == ref.hex()]
    assert row["task"].endswith("hold")
    [main] = [thread for thread in row["threads"] if thread["main"]]
    assert [__file__, "hold"] in [[file, function] for file, _, function in main["frames"]]
    printed = run("stack", str(row["pid"]), *asked).out
    assert f"task {ref.hex()} " in printed
    assert " in hold\n" in printed
    assert "shoal's own" not in run("stack", "--all", *asked).out
    nobody = run("stack", "1", *asked)
    assert (nobody.status, "no process with pid 1 has answered" in nobody.err) == (1, True)
    marks.add("release")
    shoal.get(ref)


@pytest.fixture
def two_clusters(no_leaks):
    """The addresses of two clusters of this machine."""
    options = ("--port", "0", "--num-cpus", "1", "--object-store-memory", "64MB", "--json")
    try:
        heads = [run("start-head", *options) for _ in range(2)]
        yield [head.json["head_address"] for head in heads]
    finally:
        run("stop")


def test_of_several_clusters_one_has_to_be_named(two_clusters, monkeypatch):
    first, second = two_clusters
    for command in (("status",), ("list", "nodes"), ("stack",), ("get", "node", "a"), ("summary", "tasks")):
        error = run(*command).error
        assert first in error, error
        assert second in error, error
        assert "say which: --address HOST:PORT" in error

    def node_ids(*asked):
        return [row["node_id"] for row in run("list", "nodes", "--json", *asked).json["rows"]]

    ids = [node_ids("--address", address) for address in two_clusters]
    assert ids[0] != ids[1]
    with pytest.raises(ConnectionError, match="several clusters run"):
        shoal.init("auto")
    with pytest.raises(ConnectionError, match="several clusters run"):
        state.list_nodes()
    monkeypatch.setenv("SHOAL_ADDRESS", second)
    assert node_ids() == ids[1]
    assert [row.node_id for row in state.list_nodes()] == ids[1]
    monkeypatch.delenv("SHOAL_ADDRESS")
    assert (
        "no daemon of yours is of the cluster at 127.0.0.1:1" in run("stop", "--address", "127.0.0.1:1").error
    )
    assert "no address" in run("stop", "--address", "somewhere").error
    stopped = run("stop", "--address", first, "--json").json
    assert [row["outcome"] for row in stopped] == ["stopped"]
    assert node_ids() == ids[1], "the other one is alone now"


def test_what_is_no_kind(no_leaks):
    for command in (
        ("get", "thing", "ab"),
        ("summary", "nodes"),
        ("get", "task"),
        ("stack", "x"),
        ("stack", "0"),
    ):
        wrong = run(*command)
        assert wrong.status == 2
        assert "Usage:" in wrong.err
    for command in (("get", "task", "ab"), ("summary", "tasks"), ("stack",)):
        assert "shoal start-head" in run(*command).error


def thread_states(pid):
    """What the kernel says of the threads of a process: "T" for one that is stopped."""
    states = set()
    for path in Path("/proc", str(pid), "task").glob("*/stat"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # that thread has ended since
            states.add(path.read_text().rpartition(")")[2].split()[0])
    return states


def test_a_process_that_cannot_answer_is_named(nodes):
    source = "import shoal, sys, time\nshoal.init(sys.argv[1])\nprint(flush=True)\nsys.stdin.read()\n"
    driver = subprocess.Popen(
        [sys.executable, "-c", source, nodes[0].address],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        driver.stdout.readline()
        os.kill(driver.pid, signal.SIGSTOP)
        until(lambda: thread_states(driver.pid) == {"T"})
        asked = ("--address", nodes[0].address)
        stopped = run("stack", *asked)
        assert str(driver.pid) in stopped.out.partition("no answer from")[2]
        assert f"{os.getpid()}" in stopped.out
    finally:
        os.kill(driver.pid, signal.SIGCONT)
        driver.communicate(timeout=PATIENCE_S)


@shoal.remote
class Counting:
    def __init__(self, counter):
        self._counter = counter

    def add(self):
        self._counter.inc(2)


def test_metrics_of_all_processes(nodes):
    asked = ("--address", nodes[0].address)
    counter = Counter("test_metrics_of_all", "Added.")
    counter.inc()
    counting = Counting.remote(counter)
    shoal.get([counting.add.remote(), counting.add.remote()])
    lines = run("metrics", *asked).out.splitlines()
    assert lines.count("# TYPE test_metrics_of_all counter") == 1
    series = [line for line in lines if line.startswith("test_metrics_of_all{")]
    assert sorted(line.rpartition(" ")[2] for line in series) == ["1", "4"]
    assert any(f'node_id="{nodes[1].node_id}"' in line for line in series)
    assert any(f'pid="{os.getpid()}"' in line for line in series)
    assert len(run("metrics", "--json", *asked).json["rows"]) >= 2


DRIVER = """
import shoal, sys
shoal.init(sys.argv[1], log_to_driver=False)
f = shoal.remote(num_cpus=0)(lambda: 1)
shoal.get([f.remote() for _ in range(7)])
"""


def value(lines, name, **labels):
    """The sum of a metric's values over the series that have these labels."""
    wanted = [f'{label}="{text}"' for label, text in labels.items()]
    return sum(
        float(line.rpartition(" ")[2])
        for line in lines
        if line.startswith((f"{name}{{", f"{name} ")) and all(each in line for each in wanted)
    )


def test_metrics_of_the_runtime(nodes, marks):
    head, other = nodes
    asked = ("--address", head.address)
    before = run("metrics", *asked).out.splitlines()
    kept = shoal.put(bytes(300_000))
    running, waiting = hold.remote(marks), hold.options(num_cpus=2).remote(marks)
    dependent = shoal.remote(lambda data: len(data)).remote(waiting)
    marks.wait("held")
    subprocess.run([sys.executable, "-c", DRIVER, head.address], check=True, timeout=PATIENCE_S)
    lines = run("metrics", *asked).out.splitlines()
    here = {"node_id": head.node_id}
    for each in ("RUNNING", "PENDING_NODE", "PENDING_ARGS"):
        assert value(lines, "shoal_tasks", state=each, **here) == 1, each
    ended = [value(each, "shoal_tasks_finished_total", **here) for each in (before, lines)]
    assert ended[1] - ended[0] == 7  # of a driver that is gone
    assert value(lines, "shoal_object_store_bytes", state="primary", **here) >= 300_000
    for node in nodes:
        capacity = value(lines, "shoal_object_store_capacity_bytes", node_id=node.node_id)
        assert value(lines, "shoal_object_store_bytes", node_id=node.node_id) == capacity > 0
    assert value(lines, "shoal_resources", node_id=other.node_id, resource="CPU") == 2
    assert value(lines, "shoal_resources_available", node_id=other.node_id, resource="CPU") == 1
    assert value(lines, "shoal_nodes", state="ALIVE") == 2
    assert value(lines, "shoal_workers", node_id=other.node_id, state="leased") >= 1
    assert value(lines, "shoal_scheduler_waiting_leases") >= 1
    assert value(lines, "shoal_workers_memory_bytes", node_id=other.node_id) > 0
    marks.add("release")
    assert shoal.get([running, dependent], timeout=PATIENCE_S)[1] == 200_000
    assert shoal.init(ignore_reinit_error=True).dashboard_url is None
    assert "serves no dashboard" in run("dashboard", *asked).error
    del kept

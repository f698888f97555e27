"""shoal.timeline on real clusters: tasks, children in place, all kinds of actors, failures, ended workers, other nodes."""

import asyncio
import json
import os
import time
from pathlib import Path

import pytest
from click.testing import CliRunner

import shoal
from nodeclient import until
from shoal.cli.app import app
from shoal.testing import Cluster

TIMEOUT_S = 60
CLOCKS_S = 0.01  # between two clocks of one machine


def get(refs):
    return shoal.get(refs, timeout=TIMEOUT_S)


def spans(name):
    return [event for event in shoal.timeline() if event["ph"] == "X" and event["name"] == name]


@shoal.remote
def sleeps(seconds):
    began = time.time()
    time.sleep(seconds)
    return os.getpid(), began, time.time()


@shoal.remote
def fails():
    raise ValueError("on purpose")


@shoal.remote
def child():
    return os.getpid()


@shoal.remote
def parent():
    return get([child.remote() for _ in range(3)])


@shoal.remote
class Plain:
    def call(self):
        return os.getpid()

    def leave(self):
        shoal.exit_actor()


@shoal.remote
class Async:
    async def call(self):
        await asyncio.sleep(0.01)
        return os.getpid()


def test_tasks_are_there_with_their_times_workers_and_outcomes(cluster):
    pid, began, ended = get(sleeps.options(name="nap").remote(0.05))
    (span,) = spans("nap")
    assert span["tid"] == pid
    assert span["args"]["state"] == "FINISHED"
    assert span["ts"] / 1e6 <= began + CLOCKS_S
    assert (span["ts"] + span["dur"]) / 1e6 >= ended - CLOCKS_S
    with pytest.raises(ValueError, match="on purpose"):
        get(fails.remote())
    assert [each["args"]["state"] for each in spans("fails")] == ["FAILED"]


def test_children_are_there_wherever_they_ran(cluster):
    pids = get(parent.remote())
    assert sorted(span["tid"] for span in spans("child")) == sorted(pids)
    assert len(spans("parent")) == 1


@pytest.mark.parametrize(("cls", "options"), [(Plain, {}), (Plain, {"max_concurrency": 2}), (Async, {})])
def test_calls_of_actors_are_there(cluster, cls, options):
    actor = cls.options(**options).remote()
    pids = get([actor.call.remote() for _ in range(3)])
    name = f"{cls.__name__}.call"
    assert [span["tid"] for span in spans(name)] == pids
    assert {span["args"]["state"] for span in spans(name)} == {"FINISHED"}


def test_what_ended_workers_ran_is_kept(cluster):
    pid, _, _ = get(sleeps.options(max_calls=1, name="once").remote(0))
    actor = Plain.remote()
    actor_pid = get(actor.call.remote())
    actor.leave.remote()
    until(lambda: not any(Path(f"/proc/{each}").exists() for each in (pid, actor_pid)))
    assert [span["tid"] for span in spans("once")] == [pid]
    assert [span["tid"] for span in spans("Plain.call")] == [actor_pid]


def test_the_newest_are_kept_up_to_a_bound():
    shoal.init(num_cpus=1, _system_config={"timeline_tasks_max": 5})
    try:
        get([sleeps.options(name=f"number {number}").remote(0) for number in range(9)])
        names = [event["name"] for event in shoal.timeline() if event["ph"] == "X"]
        assert names == [f"number {number}" for number in range(4, 9)]
    finally:
        shoal.shutdown()


def test_files_and_the_command_line(cluster, tmp_path):
    get(sleeps.remote(0))
    assert shoal.timeline(tmp_path / "api.json") is None
    trace = json.loads((tmp_path / "api.json").read_text())
    assert [event["name"] for event in trace if event["ph"] == "X"] == ["sleeps"]
    session = shoal.get_runtime_context().get_temp_dir()
    result = CliRunner().invoke(
        app, ["timeline", str(tmp_path / "cli.json"), "--temp-dir", os.path.dirname(session), "--json"]
    )
    assert result.exit_code == 0, result.output
    assert json.loads(result.output)["events"] == 1
    assert json.loads((tmp_path / "cli.json").read_text()) == trace


def test_all_nodes_are_in_one_trace():
    with Cluster(num_cpus=1) as cluster:
        cluster.add_node(num_cpus=1, resources={"other": 1})
        shoal.init(cluster.address)
        try:
            get([sleeps.remote(0), sleeps.options(num_cpus=0, resources={"other": 1}).remote(0)])
            assert len({span["pid"] for span in spans("sleeps")}) == 2
        finally:
            shoal.shutdown()

"""What the command line shows of a working cluster: memory that adds up and whose it is, tasks, and why they wait."""

import inspect
import json
import os
import re
from dataclasses import replace

import numpy as np
import pytest
from click.testing import CliRunner

import shoal
from ledger import everything_came_back
from marks import Marks, until
from shoal.cli.app import app

N = 100_000  # 8-byte numbers in an array: 0.8 MB, which goes to the store


@pytest.fixture
def marks(tmp_path):
    return Marks(tmp_path)


def run(*arguments):
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    return done.stdout


def rows(*arguments):
    return json.loads(run(*arguments, "--json"))["rows"]


def here():
    """The call site of the calling line."""
    return f"{__file__}:{inspect.stack()[1].lineno}"


@shoal.remote
def keep(value, marks, *also):
    """Keep arguments until the mark "go" is there."""
    shoal.get([ref for each in also for ref in each])
    marks.add("kept")
    until(lambda: marks.count("go"))


@shoal.remote
def ones(size):
    return np.ones(size)


@shoal.remote
def fail(size):
    raise ValueError(np.ones(size))


def kinds(row):
    return {(holder["role"], holder["pid"], holder["kind"]) for holder in row["holders"]}


def rows_are_sorted_by_age():
    ages = [row["age_s"] for row in rows("memory", "--sort-by", "age")]
    assert ages == sorted(ages, reverse=True)


def rows_add_up(found, total):
    assert sum(row["allocated_bytes"] for row in found) + total["leased"] == total["used"]
    assert sum(row["allocated_bytes"] for row in found) == total["sealed"] + total["duplicates"]
    assert total["used"] + total["free"] == total["capacity"]


def test_the_rows_of_memory_add_up_to_what_the_store_uses(shoal_session, marks):
    me = os.getpid()
    put = shoal.put(np.ones(N))
    put_at = f"{__file__}:{inspect.currentframe().f_lineno - 1}"
    inner = shoal.put(np.ones(2 * N))
    container = shoal.put([inner, np.ones(3 * N)])
    inner_id = inner.hex()
    del inner
    result = ones.remote(4 * N)
    view = shoal.get(result)[5:7]
    result_id = result.hex()
    del result
    busy = keep.remote(put, marks, [container])
    by_value = keep.remote(np.zeros(5 * N), marks)
    marks.wait("kept", 2)
    until(
        lambda: all(
            row["state"] == "RUNNING"
            for row in rows("list", "tasks")
            if row["name"].endswith("keep") and row["state"] != "FINISHED"
        )
    )

    def settled():
        """The driver's release of what it holds no more is under way: it is told of in batches."""
        found = {row["id"]: row for row in rows("memory")}
        return found.get(result_id, {}).get("state") == "unreferenced" and (
            "driver",
            me,
            "hold",
        ) not in kinds(found[inner_id])

    until(settled)
    workers = {row["id"]: row["worker_pid"] for row in rows("list", "tasks")}
    answer = json.loads(run("memory", "--stats", "--json"))
    total = answer["total"]
    rows_add_up(answer["rows"], total)
    assert "which is all that is used" in run("memory")

    found = {row["id"]: row for row in answer["rows"]}
    assert len(found) == 5
    assert found[put.hex()]["callsite"] == put_at
    assert {("driver", me, "hold"), ("worker", workers[busy.hex()], "pin")} <= kinds(found[put.hex()])
    assert {each for each in kinds(found[inner_id]) if each[2] != "pin"} == {("object", None, "container")}
    assert ("driver", me, "hold") in kinds(found[container.hex()])
    assert found[result_id]["state"] == "unreferenced"
    assert kinds(found[result_id]) == {("driver", me, "pin")}
    assert found[result_id]["callsite"] == "result of ones"
    [passed] = [row for row in answer["rows"] if row["callsite"] == "argument of keep"]
    assert ("worker", workers[by_value.hex()], "pin") in kinds(passed)
    assert all(
        0 <= row["age_s"] < 600 and row["size_bytes"] <= row["allocated_bytes"] for row in found.values()
    )

    text = run("memory")
    assert f"object {container.hex()} (contains it)" in text
    assert f"worker {workers[busy.hex()]} in keep (" in text
    assert f"driver {me}" in text
    for by in ("node", "call-site", "state"):
        grouped = json.loads(run("memory", "--group-by", by, "--json"))["groups"]
        assert sum(group["bytes"] for group in grouped) == total["sealed"], by
    sizes = [row["allocated_bytes"] for row in rows("memory", "--sort-by", "size", "-n", "3")]
    assert sizes == sorted(sizes, reverse=True)[:3]
    rows_are_sorted_by_age()
    assert re.search(r" \d+ B ", run("memory", "--units", "B"))
    marks.add("go")
    shoal.get([busy, by_value])
    assert view.sum() == 2
    del view, put, container, busy, by_value
    everything_came_back()


def test_errors_with_values_are_rows_too(shoal_session):
    ref = fail.remote(N)
    with pytest.raises(ValueError, match="1"):
        shoal.get(ref)
    total = json.loads(run("memory", "--json"))
    assert (
        sum(row["allocated_bytes"] for row in total["rows"]) + total["total"]["leased"]
        == total["total"]["used"]
    )


@shoal.remote
def parent(argument, marks):
    """Wait for a child that cannot run."""
    child = keep.options(name="child", resources={"tape": 1}).remote(argument, marks)
    marks.add("parent")
    try:
        return shoal.get(child)
    finally:
        marks.add("ended")


@shoal.remote
def use(*arguments):
    return None


def test_why_follows_the_chain_through_processes(shoal_session, marks):
    waits = parent.remote(1, marks)
    last = use.remote(waits, 1)
    end = use.remote(last)
    marks.wait("parent")
    # Each says it in its own words: the driver what needs what, the worker what its task waits for.
    until(lambda: "cannot run now: needs CPU 1, tape 1" in run("why", end.hex()))
    lines = run("why", end.hex()).splitlines()
    assert lines[0].startswith(f"driver {os.getpid()}")
    assert lines[1] == f"  object {end.hex()} of task 'use', which waits for 1 argument"
    assert lines[2] == f"    object {last.hex()} of task 'use', which waits for 1 argument"
    assert re.fullmatch(rf"      object {waits.hex()} of task 'parent', which runs at worker (\d+)", lines[3])
    worker = lines[3].rpartition(" ")[2]
    assert lines[4] == f"worker {worker}:"
    assert re.match(
        rf"  task {waits.hex()} 'parent' has waited [\d.]+ s here for object \w+ of task 'child'", lines[5]
    )
    assert len(lines) == 6
    # Asked for the task itself, its worker answers once.
    assert run("why", waits.hex()).count("has waited") == 1
    states = {
        row["name"]: row["state"]
        for row in rows("list", "tasks")
        if row["state"] not in ("FINISHED", "FAILED")
    }
    assert states == {"parent": "RUNNING", "child": "PENDING_NODE", "use": "PENDING_ARGS"}
    with pytest.raises(
        shoal.exceptions.GetTimeoutError,
        match=f"{end.hex()} of task 'use', which waits for 1 argument, "
        f"namely {last.hex()} .*, namely {waits.hex()} of task 'parent', which runs at worker {worker}",
    ):
        shoal.get(end, timeout=0.1)
    shoal.cancel(waits)
    marks.wait("ended")
    with pytest.raises(shoal.exceptions.TaskCancelledError):
        shoal.get(end)


def test_why_of_a_task_that_waits_for_a_worker_and_of_what_is_there(shoal_session, marks):
    busy = [keep.remote(1, marks) for _ in range(2)]
    marks.wait("kept", 2)
    queued = [use.remote(number) for number in range(3)]
    until(lambda: "held by workers" in run("why", queued[-1].hex()))
    assert "which waits for a worker with 1 CPU (2 workers leased, all busy)" in run("why", queued[-1].hex())
    assert re.search(r"use +3 +1 CPU .*held by workers", run("status"))
    big, small = shoal.put(np.ones(N)), shoal.put(1)
    assert f"object {big.hex()} is there, on node" in run("why", big.hex())
    assert "is there, in the memory of this process" in run("why", small.hex())
    marks.add("go")
    shoal.get([*busy, *queued])
    done = queued[0].hex()
    assert "is there" in run("why", done)
    queued.clear()
    until(lambda: f"task {done} 'use' has FINISHED" in run("why", done))


def test_a_get_that_waits_long_says_once_what_for(shoal_session, marks, monkeypatch, capfd):
    runtime = shoal.session.runtime()
    monkeypatch.setattr(runtime, "config", replace(runtime.config, get_warning_s=0.2))
    waiting = keep.remote(1, marks)
    marks.wait("kept")
    for timeout in (0.1, 0.6):
        with pytest.raises(shoal.exceptions.GetTimeoutError):
            shoal.get(waiting, timeout=timeout)
    said = capfd.readouterr().err
    assert said.count("get has waited 0.2 s for an object:") == 1
    assert f"{waiting.hex()} of task 'keep', which runs at worker" in said
    marks.add("go")
    shoal.get(waiting)
    assert "has waited" not in capfd.readouterr().err


def test_lists_of_a_driver(shoal_session, marks):
    busy = keep.remote(1, marks)
    marks.wait("kept")
    [task] = [row for row in rows("list", "tasks") if row["id"] == busy.hex()]
    assert (task["name"], task["state"], task["process"]) == ("keep", "RUNNING", task["process"])
    assert task["process"].startswith(f"driver {os.getpid()}")
    [worker] = [row for row in rows("list", "workers") if row["pid"] == task["worker_pid"]]
    assert (worker["state"], worker["task_id"], worker["resources"]) == ("leased", busy.hex(), {"CPU": 1.0})
    [job] = rows("list", "jobs")
    assert job["pid"] == os.getpid()
    [node] = rows("list", "nodes")
    assert node["node_id"] == worker["node_id"]
    pending = [row for row in rows("list", "objects") if row["id"] == busy.hex()]
    assert [(row["state"], row["function"]) for row in pending] == [("PENDING", "keep")]
    marks.add("go")
    shoal.get(busy)

"""What people see of actors: the list, why one waits, and which objects they hold."""

import json
import os
import signal
import time

import numpy as np
import pytest
from click.testing import CliRunner

import shoal
from actorparts import get, wait_until
from shoal.cli.app import app
from shoal.exceptions import ActorDiedError
from shoal.sizes import bytes_text


def run(*arguments):
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    return done.stdout


def rows(*arguments):
    return json.loads(run(*arguments, "--json"))["rows"]


def row_of(handle, state):
    """What is listed of an actor, once it is in this state: the head hears a moment later than the caller."""
    found = []

    def is_listed():
        found[:] = [
            row
            for row in rows("list", "actors")
            if row["actor_id"] == handle._actor_id.hex() and row["state"] == state
        ]
        return found

    wait_until(is_listed)
    return found[0]


@shoal.remote
def wait_for(path):
    while not os.path.exists(path):
        time.sleep(0.005)
    return path


class Asker:
    """Waits for others, and keeps things."""

    def ask(self, refs):
        return shoal.get(refs[0])

    def keep(self, value):
        self.kept = value
        return os.getpid()

    def nothing(self):
        pass


@pytest.mark.parametrize("options", [{}, {"max_concurrency": 3}])
def test_why_says_what_the_calls_of_an_actor_wait_for(shoal_session, tmp_path, options):
    path = str(tmp_path / "go")
    actor = shoal.remote(Asker).options(**options).remote()
    pid = get(actor.keep.remote(None))
    awaited = wait_for.remote(path)
    asking, behind = actor.ask.remote([awaited]), actor.nothing.remote()
    wait_until(lambda: "has waited" in run("why", asking.hex()))
    text = run("why", asking.hex())
    assert f"is at actor Asker, process {pid}" in text
    assert "'Asker.ask' has waited" in text
    assert awaited.hex() in text
    text = run("why", actor._actor_id.hex())
    assert f"is ALIVE in process {pid}" in text
    assert "1 call(s) run here" in text
    assert awaited.hex() in text
    if not options:
        assert "behind 1 call(s) of this process" in run("why", behind.hex())
    open(path, "w").close()
    assert get(asking) == path


def test_why_says_what_an_actor_without_a_process_waits_for(shoal_session):
    """Not only what can never be met is said: here two want most of the memory."""
    most = shoal.cluster_resources()["memory"] * 0.6
    first = shoal.remote(Asker).options(memory=most).remote()
    pid = get(first.keep.remote(None))
    second = shoal.remote(Asker).options(memory=most).remote()
    call = second.nothing.remote()
    task = wait_for.options(memory=most).remote("/")
    for waits in (call, second._actor_id, task):
        wait_until(lambda waits=waits: f"(held by workers {pid})" in run("why", waits.hex()))
        assert "GB more" in run("why", waits.hex())
    assert f"{bytes_text(most)} memory" in run("why", task.hex())
    del first
    get(call)
    del second
    get(task)


def test_the_list_says_how_actors_are_and_why(shoal_session):
    alive = shoal.remote(Asker).options(name="seen").remote()
    get(alive.nothing.remote())
    row = row_of(alive, "ALIVE")
    assert (row["class"], row["name"], row["restarts"]) == ("Asker", "seen", 0)
    huge = shoal.remote(Asker).options(num_cpus=64).remote()
    ref = huge.nothing.remote()
    wait_until(lambda: "CPU 64" in row_of(huge, "PENDING_CREATION")["reason"])
    wait_until(lambda: "CPU 64" in run("why", ref.hex()))
    dead = shoal.remote(Asker).remote()
    os.kill(get(dead.keep.remote(None)), signal.SIGKILL)
    with pytest.raises(ActorDiedError):
        get(dead.nothing.remote())
        get(dead.nothing.remote())
    assert "signal 9" in row_of(dead, "DEAD")["reason"]
    assert "is DEAD; it was in process" in run("why", dead._actor_id.hex())


def test_memory_names_actors_as_holders(shoal_session):
    actor = shoal.remote(Asker).options(name="keeper").remote()
    value = shoal.put(np.ones(100_000))
    pid = get(actor.keep.remote(value))
    wait_until(
        lambda: any(
            (holder["pid"], holder["kind"]) == (pid, "pin")
            for row in rows("memory")
            if row["id"] == value.hex()
            for holder in row["holders"]
        )
    )
    assert f"actor Asker 'keeper' {pid}" in run("memory", "--stats")

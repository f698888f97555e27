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
from shoal.exceptions import ActorDiedError, GetTimeoutError
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


class Inward:
    """Waits for itself."""

    def ask_itself(self, others, timeout):
        return shoal.get(shoal.get_runtime_context().current_actor.answer.remote(others), timeout=timeout)

    def wait_for_itself(self):
        return shoal.wait([shoal.get_runtime_context().current_actor.answer.remote([])])

    def answer(self, others):
        return shoal.get([each.ask_itself.remote([], None) for each in others])


class InwardAsync(Inward):
    async def answer(self, others):
        return others


@pytest.mark.parametrize(("cls", "calls"), [(Inward, 1), (Inward, 2), (InwardAsync, 1)])
def test_an_actor_that_waits_for_itself_is_a_deadlock(shoal_session, cls, calls):
    actor = shoal.remote(cls).options(max_concurrency=calls).remote()
    refs = [actor.ask_itself.remote([], None) for _ in range(calls)]
    wait_until(lambda: "this is a deadlock" in run("why", refs[0].hex()))
    told = f"{cls.__name__}.ask_itself waits for {cls.__name__}.answer, which cannot begin before the end of "
    assert f"{told}{cls.__name__}.ask_itself" in run("why", refs[0].hex())
    shoal.kill(actor)


def test_so_is_one_that_waits_for_a_ref_of_its_own(shoal_session):
    actor = shoal.remote(Inward).remote()
    ref = actor.wait_for_itself.remote()
    told = "this is a deadlock: Inward.wait_for_itself waits for Inward.answer"
    wait_until(lambda: told in run("why", ref.hex()))
    shoal.kill(actor)


def test_an_actor_that_waits_for_itself_in_vain_is_told_so(shoal_session):
    actor = shoal.remote(Inward).remote()
    with pytest.raises(GetTimeoutError, match=r"a deadlock: Inward.ask_itself waits for Inward.answer"):
        get(actor.ask_itself.remote([], 0.2))
    roomy = shoal.remote(Inward).options(max_concurrency=2).remote()
    assert get(roomy.ask_itself.remote([], None)) == []


def test_actors_that_wait_for_each_other_are_a_deadlock(shoal_session):
    first, second = (shoal.remote(Inward).remote() for _ in range(2))
    ref = first.answer.remote([second])
    wait_until(lambda: "this is a deadlock: Inward.ask_itself waits" in run("why", ref.hex()))
    shoal.kill(second)
    ref = first.answer.remote([first])
    wait_until(lambda: "this is a deadlock: Inward.answer waits" in run("why", ref.hex()))
    shoal.kill(first)


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
    wait_until(lambda: "actor Asker" in str(json.loads(run("status", "--json"))["pending"]))
    dead = shoal.remote(Asker).remote()
    os.kill(get(dead.keep.remote(None)), signal.SIGKILL)
    with pytest.raises(ActorDiedError):
        get(dead.nothing.remote())
        get(dead.nothing.remote())
    assert "signal 9" in row_of(dead, "DEAD")["reason"]
    assert "is DEAD; it was in process" in run("why", dead._actor_id.hex())


@pytest.mark.parametrize("calls", [1, 2])
def test_what_an_actor_does_is_a_call_or_nothing(shoal_session, tmp_path, calls):
    path = str(tmp_path / "go")
    actor = shoal.remote(Asker).options(max_concurrency=calls).remote()
    pid = get(actor.keep.remote(None))
    asking = actor.ask.remote([wait_for.remote(path)])
    wait_until(lambda: "has waited" in run("why", asking.hex()))
    [doing] = [row["task_id"] for row in rows("list", "workers") if row["pid"] == pid]
    assert doing == (asking.hex() if calls == 1 else "0" * 32), "of several calls none is told"
    open(path, "w").close()
    get(asking)


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

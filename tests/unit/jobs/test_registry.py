"""The registry of jobs when its records cannot be written: whoever waits hears of an end, and nothing is left half."""

import asyncio
import sqlite3
from types import SimpleNamespace

import pytest

from shoal.exceptions import ActorDiedError, ActorUnavailableError
from shoal.jobs.records import JobRecords, JobStatus
from shoal.jobs.registry import NAMESPACE, Registry


class Archive:
    """Fails from its save number ``fails_at`` on."""

    def __init__(self, fails_at):
        self.left = fails_at

    def save(self, job, stopping):
        self.left -= 1
        if self.left <= 0:
            raise sqlite3.OperationalError("database or disk is full")

    def forget(self, jobs):
        assert list(jobs) == []


async def answer(value=None):
    return value


def supervisor():
    """One whose script ends at once, well."""
    ready, run = (SimpleNamespace(remote=lambda *_args, value=value: answer(value)) for value in (None, 0))
    return SimpleNamespace(ready=ready, run=run)


@pytest.fixture
def registry(tmp_path, monkeypatch):
    made = Registry.__new__(Registry)
    made._node_id, made._logs = "node", str(tmp_path)
    made._records, made._supervisors, made._watches, made._stops = JobRecords(), {}, {}, set()
    made.ends = []
    monkeypatch.setattr(Registry, "_end", staticmethod(made.ends.append))
    return made


def submit(registry, who):
    async def main():
        await registry.submit("j", "true", {}, {}, who, "address")
        await asyncio.wait_for(asyncio.wait(list(registry._watches.values())), 10)

    asyncio.run(main())


@pytest.mark.parametrize(
    ("fails_at", "status", "message"),
    [
        (2, JobStatus.FAILED, "its record could not be written: database or disk is full"),
        (3, JobStatus.SUCCEEDED, "exit status 0"),
    ],
)
def test_a_job_ends_though_its_record_cannot_be_written(registry, fails_at, status, message, capsys):
    registry._archive = Archive(fails_at)
    who = supervisor()
    submit(registry, who)
    job = registry._records.get("j")
    assert job.status is status
    assert message in job.message
    assert registry.ends == [who]
    assert registry._supervisors == registry._watches == {}
    assert "disk is full" in capsys.readouterr().err


def test_what_cannot_be_recorded_is_not_submitted(registry):
    registry._archive = Archive(1)
    who = supervisor()
    with pytest.raises(sqlite3.OperationalError):
        submit(registry, who)
    assert registry._records.all() == []
    assert registry.ends == [who]


def test_who_does_not_answer_has_not_ended(monkeypatch):
    """Else its job would count as lost, while the script runs on."""
    from shoal.actors import api

    monkeypatch.setattr(
        api, "list_named_actors", lambda all_namespaces: [{"namespace": NAMESPACE, "name": "job a"}]
    )
    for error, found in ((ValueError("gone"), {}), (ActorDiedError("dead"), {})):
        monkeypatch.setattr(api, "get_actor", raiser(error))
        assert Registry._living_supervisors() == found
    monkeypatch.setattr(api, "get_actor", raiser(ActorUnavailableError("the head does not answer")))
    with pytest.raises(ActorUnavailableError):
        Registry._living_supervisors()


def raiser(error):
    def call(*_args, **_kwargs):
        raise error

    return call

"""The table of submitted jobs, whatever happens to them and in whatever order."""

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, rule

from shoal.jobs.records import JobDetails, JobRecords, JobStatus, checked_id


def records(*ids, jobs_max=3):
    table = JobRecords(jobs_max)
    for submission_id in ids:
        table.add(JobDetails(submission_id, "true"))
    return table


def test_a_life():
    table = records("a")
    assert table.get("a").status == "PENDING"
    table.started("a", 5)
    assert (table.get("a").status, table.get("a").start_time) == (JobStatus.RUNNING, 5)
    ended = table.ended("a", 0, "", 9)
    assert (ended.status, ended.end_time, ended.driver_exit_code) == (JobStatus.SUCCEEDED, 9, 0)
    assert table.ended("a", 1, "", 10) == ended, "what has ended changes no more"
    assert not table.stop("a")
    assert str(ended.status) == "SUCCEEDED"


@pytest.mark.parametrize(
    ("exit_code", "trouble", "words"),
    [(3, "", "exit status 3"), (-9, "", "signal 9"), (None, "its supervisor failed: gone", "gone")],
)
def test_failures_say_why(exit_code, trouble, words):
    table = records("a")
    table.started("a", 1)
    failed = table.ended("a", exit_code, trouble, 2)
    assert failed.status is JobStatus.FAILED
    assert words in failed.message


@pytest.mark.parametrize("exit_code", [0, -15, None])
def test_one_that_was_to_stop_has_stopped_whatever_its_exit_status(exit_code):
    table = records("a")
    assert table.stop("a")
    assert table.ended("a", exit_code, "killed", 2).status is JobStatus.STOPPED


def test_one_that_was_to_stop_has_stopped_also_in_another_table():
    table = JobRecords()
    table.restore(JobDetails("a", "true"), stopping=True)
    assert table.ended("a", None, "nobody watched", 2).status is JobStatus.STOPPED
    assert not table.is_stopping("a")


def test_unknown_and_taken_ids():
    table = records("a")
    for ask in (table.get, table.stop, table.delete):
        with pytest.raises(LookupError, match="no job 'b' is known"):
            ask("b")
    with pytest.raises(ValueError, match="a job 'a' already"):
        table.add(JobDetails("a", "true"))
    with pytest.raises(ValueError, match="PENDING; stop it first"):
        table.delete("a")


def test_at_the_bound_those_that_ended_first_are_forgotten():
    table = records("a", "b", "c")
    with pytest.raises(ValueError, match="3 jobs have not ended"):
        table.add(JobDetails("d", "true"))
    table.ended("b", 0, "", 5)
    table.ended("a", 0, "", 6)
    assert [job.submission_id for job in table.add(JobDetails("d", "true"))] == ["b"]
    assert [job.submission_id for job in table.all()] == ["a", "c", "d"]


def test_ids():
    assert checked_id("a.b-C_9") == "a.b-C_9"
    for wrong in ("", "a/b", "..", "a b", "x" * 101, "ä"):
        with pytest.raises(ValueError, match="cannot be the id"):
            checked_id(wrong)


class Lives(RuleBasedStateMachine):
    """Any events in any order leave the table whole."""

    def __init__(self):
        super().__init__()
        self.table, self.now = JobRecords(3), 0

    ids = Bundle("ids")

    @rule(target=ids, name=st.sampled_from("abcde"))
    def add(self, name):
        try:
            self.table.add(JobDetails(name, "true"))
        except ValueError:
            assert any(job.submission_id == name for job in self.table.all()) or all(
                not job.status.is_terminal() for job in self.table.all()
            )
        return name

    @rule(name=ids, what=st.sampled_from(["start", "stop", "delete", 0, 1, -9, None]))
    def event(self, name, what):
        self.now += 1
        try:
            if what == "start":
                self.table.started(name, self.now)
            elif what == "stop":
                self.table.stop(name)
            elif what == "delete":
                self.table.delete(name)
            else:
                assert self.table.ended(name, what, "", self.now).status.is_terminal()
        except LookupError:
            assert all(job.submission_id != name for job in self.table.all())
        except ValueError:
            assert what == "delete"

    @rule()
    def begin_anew(self):
        left = [(job, self.table.is_stopping(job.submission_id)) for job in self.table.all()]
        self.table = JobRecords(3)
        for job, stopping in left:
            self.table.restore(job, stopping)
        assert self.table.all() == [job for job, _ in left]

    @invariant()
    def whole(self):
        self.table.validate()


TestLives = Lives.TestCase

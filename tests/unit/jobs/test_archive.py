"""Records of jobs on disk, as the next registry finds them."""

import sqlite3

import pytest

from shoal.jobs.archive import Archive, Saved, ScriptEnd, note_end, noted_end, remove_files
from shoal.jobs.records import JobDetails, JobStatus


@pytest.fixture
def archive(tmp_path):
    made = Archive(str(tmp_path / "jobs"))
    yield made
    made.close()


def again(tmp_path):
    found = Archive(str(tmp_path / "jobs"))
    try:
        return found.load()
    finally:
        found.close()


def test_jobs_are_found_as_they_were_left_in_the_order_of_their_submission(archive, tmp_path):
    first = JobDetails("b", "true", metadata={"a": "b"}, runtime_env={"env_vars": {"A": "1"}})
    second = JobDetails(
        "a", "x", JobStatus.FAILED, "why", 1, 2, driver_exit_code=-9, log_path="/l", address="h:1"
    )
    archive.save(first, stopping=False)
    archive.save(second, stopping=False)
    archive.save(first, stopping=True)
    assert again(tmp_path) == [Saved(first, True), Saved(second, False)]
    assert again(tmp_path)[1].job.status is JobStatus.FAILED
    archive.forget([first])
    assert again(tmp_path) == [Saved(second, False)]
    assert (tmp_path / "jobs").stat().st_mode & 0o077 == 0
    assert (tmp_path / "jobs" / "jobs.sqlite").stat().st_mode & 0o077 == 0


def test_what_it_cannot_read_is_refused_with_its_name(tmp_path):
    (tmp_path / "jobs").mkdir()
    (tmp_path / "jobs" / "jobs.sqlite").write_text("no database at all" * 100)
    with pytest.raises(sqlite3.DatabaseError, match=r"jobs.sqlite: .*move it away"):
        Archive(str(tmp_path / "jobs"))


def test_another_schema_is_refused(archive, tmp_path):
    archive._db.execute("PRAGMA user_version=99")
    with pytest.raises(sqlite3.DatabaseError, match="has schema 99, this shoal 1"):
        Archive(str(tmp_path / "jobs"))


def test_ends_of_scripts(tmp_path):
    log = str(tmp_path / "job-a.log")
    assert noted_end(log) is None
    note_end(log, ScriptEnd(-9, 17))
    assert noted_end(log) == ScriptEnd(exit_code=-9, time_ms=17)
    remove_files(log)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("left", ["", "[1", "7", "[1, 2, 3]"])
def test_an_end_that_a_crash_has_cut_off_is_none(tmp_path, left):
    (tmp_path / "job-a.log.end").write_text(left)
    assert noted_end(str(tmp_path / "job-a.log")) is None

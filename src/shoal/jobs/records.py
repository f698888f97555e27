"""What is known of submitted jobs. Pure.

    PENDING → RUNNING → SUCCEEDED | FAILED | STOPPED      (PENDING → FAILED | STOPPED)

Invariants: an id names one job; a job that has ended changes no more; one that was to stop ends as STOPPED, whatever its exit
status. At the bound those that ended first are forgotten, and with none of them a new job is refused.
"""

from __future__ import annotations

import enum
import re
from dataclasses import dataclass, field, replace
from typing import Any

JOBS_MAX = 1000
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")


class JobStatus(str, enum.Enum):  # noqa: UP042  (str() gives the value alone in Ray's, too)
    """Where a job is in its life; equal to its name as text."""

    PENDING = "PENDING"
    RUNNING = "RUNNING"
    STOPPED = "STOPPED"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"

    def __str__(self) -> str:
        return self.value

    def is_terminal(self) -> bool:
        """Whether it has ended."""
        return self in {JobStatus.STOPPED, JobStatus.SUCCEEDED, JobStatus.FAILED}


@dataclass(frozen=True)
class JobDetails:
    """A submitted job.

    Attributes:
        entrypoint: what the shell runs.
        message: why it is in its status, for people.
        start_time, end_time: in milliseconds since 1970; None if not yet.
        driver_exit_code: of the shell; negative: the signal that ended it.
        node_id: where the script runs.
        log_path: its output, on that node.
        address: the cluster's, for the script.
    """

    submission_id: str
    entrypoint: str
    status: JobStatus = JobStatus.PENDING
    message: str = ""
    start_time: int | None = None
    end_time: int | None = None
    metadata: dict[str, str] = field(default_factory=dict)
    runtime_env: dict[str, Any] = field(default_factory=dict)
    driver_exit_code: int | None = None
    node_id: str = ""
    log_path: str = ""
    address: str = ""


def checked_id(submission_id: str) -> str:
    """``submission_id``, which also names files; raises ValueError if it cannot be one."""
    if not _ID.fullmatch(submission_id):
        raise ValueError(
            f"{submission_id!r} cannot be the id of a job: use up to 100 letters, digits, '_', '-' and '.'"
        )
    return submission_id


class JobRecords:
    """Jobs by id, in the order in which they were submitted."""

    def __init__(self, jobs_max: int = JOBS_MAX) -> None:
        self._jobs_max = jobs_max
        self._jobs: dict[str, JobDetails] = {}
        self._stopping: set[str] = set()

    def restore(self, job: JobDetails, stopping: bool) -> None:
        """A job as another table has left it; they come in the order in which they were submitted."""
        self._jobs[job.submission_id] = job
        if stopping and not job.status.is_terminal():
            self._stopping.add(job.submission_id)

    def is_stopping(self, submission_id: str) -> bool:
        """Whether somebody has asked for its end, and it has not ended."""
        return submission_id in self._stopping

    def all(self) -> list[JobDetails]:
        return list(self._jobs.values())

    def get(self, submission_id: str) -> JobDetails:
        """Raises LookupError if there is none."""
        if submission_id not in self._jobs:
            raise LookupError(f"no job {submission_id!r} is known; `shoal job list` shows those there are")
        return self._jobs[submission_id]

    def add(self, job: JobDetails) -> list[JobDetails]:
        """A new job; returns those that are forgotten for it. Raises ValueError if the id is taken, or no room is."""
        if job.submission_id in self._jobs:
            raise ValueError(f"there is a job {job.submission_id!r} already; submit it under another id")
        surplus = len(self._jobs) + 1 - self._jobs_max
        ended = sorted((known for known in self._jobs.values() if known.end_time), key=_end)
        if surplus > len(ended):
            raise ValueError(f"{self._jobs_max} jobs have not ended; stop some, or wait")
        forgotten = ended[: max(0, surplus)]
        for known in forgotten:
            del self._jobs[known.submission_id]
        self._jobs[job.submission_id] = job
        return forgotten

    def discard(self, submission_id: str) -> None:
        """It could not be submitted after all."""
        del self._jobs[submission_id]

    def started(self, submission_id: str, now_ms: int) -> None:
        job = self.get(submission_id)
        if job.status is JobStatus.PENDING:
            running = replace(job, status=JobStatus.RUNNING, message="the script runs", start_time=now_ms)
            self._jobs[submission_id] = running

    def stop(self, submission_id: str) -> bool:
        """It is to end; False if it has."""
        if self.get(submission_id).status.is_terminal():
            return False
        self._stopping.add(submission_id)
        return True

    def ended(self, submission_id: str, exit_code: int | None, trouble: str, now_ms: int) -> JobDetails:
        """Its script has ended with ``exit_code``, or, if that is None, for ``trouble``; as it is now."""
        job = self.get(submission_id)
        if job.status.is_terminal():
            return job
        if submission_id in self._stopping:
            self._stopping.discard(submission_id)
            status, message = JobStatus.STOPPED, "it was stopped"
        elif exit_code == 0:
            status, message = JobStatus.SUCCEEDED, "the script has ended with exit status 0"
        else:
            status, message = JobStatus.FAILED, trouble or _exit_text(exit_code)
        ended = replace(job, status=status, message=message, driver_exit_code=exit_code, end_time=now_ms)
        self._jobs[submission_id] = ended
        return ended

    def delete(self, submission_id: str) -> JobDetails:
        """Forget a job that has ended; raises ValueError for one that has not."""
        job = self.get(submission_id)
        if not job.status.is_terminal():
            raise ValueError(f"job {submission_id!r} is {job.status}; stop it first")
        return self._jobs.pop(submission_id)

    def validate(self) -> None:
        """Check every invariant; raises AssertionError."""
        assert len(self._jobs) <= self._jobs_max
        for submission_id, job in self._jobs.items():
            assert job.submission_id == submission_id
            assert job.status.is_terminal() == (job.end_time is not None), job
            assert not (job.status.is_terminal() and submission_id in self._stopping), job
        assert self._stopping <= self._jobs.keys()


def _end(job: JobDetails) -> int:
    assert job.end_time is not None
    return job.end_time


def _exit_text(exit_code: int | None) -> str:
    if exit_code is not None and exit_code < 0:
        return f"the script was ended by signal {-exit_code}; its log may say more (`shoal job logs`)"
    return f"the script has ended with exit status {exit_code}; `shoal job logs` shows what it wrote"

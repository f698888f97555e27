"""The job table: which drivers work or worked on the cluster. Durable; the shell saves what it returns.

    RUNNING → FINISHED | FAILED

A job whose node dies has failed: its driver's tasks were cancelled with it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from shoald.head.events import JOB_FAILED, JOB_FINISHED, JOB_RUNNING, Job


class JobTable:
    """Jobs by id, in the order in which they started; bounded, those that ended first are forgotten first."""

    def __init__(self, jobs_max: int, jobs: Iterable[Job] = ()) -> None:
        self._jobs_max = jobs_max
        self._jobs: dict[str, Job] = {job.job_id: job for job in jobs}

    def __len__(self) -> int:
        return len(self._jobs)

    def all(self) -> tuple[Job, ...]:
        return tuple(self._jobs.values())

    def get(self, job_id: str) -> Job | None:
        return self._jobs.get(job_id)

    def start(self, job: Job) -> list[Job]:
        """Add or replace a running job; returns the jobs that were forgotten for it."""
        self._jobs[job.job_id] = replace(job, state=JOB_RUNNING, ended_s=0.0)
        surplus = len(self._jobs) - self._jobs_max
        if surplus <= 0:
            return []
        ended = sorted((known for known in self._jobs.values() if known.ended_s), key=lambda job: job.ended_s)
        for known in ended[:surplus]:
            del self._jobs[known.job_id]
        return ended[:surplus]

    def end(self, job_id: str, state: str, message: str, ended_s: float) -> Job | None:
        """The job as it ended, or None if it is unknown or had ended before.

        Raises ValueError for a state that is no end.
        """
        if state not in {JOB_FINISHED, JOB_FAILED}:
            raise ValueError(f"a job ends as {JOB_FINISHED} or {JOB_FAILED}, not {state!r}")
        job = self._jobs.get(job_id)
        if job is None or job.state != JOB_RUNNING:
            return None
        ended = self._jobs[job_id] = replace(job, state=state, message=message, ended_s=ended_s)
        return ended

    def running_on(self, node_id: str) -> list[Job]:
        return [job for job in self._jobs.values() if job.node_id == node_id and job.state == JOB_RUNNING]

    def validate(self) -> None:
        """Check every invariant; raises AssertionError."""
        for job_id, job in self._jobs.items():
            assert job.job_id == job_id
            assert job.state in {JOB_RUNNING, JOB_FINISHED, JOB_FAILED}, job.state
            assert (job.state == JOB_RUNNING) == (job.ended_s == 0.0), job

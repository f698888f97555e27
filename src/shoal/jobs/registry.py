"""The actor that knows all submitted jobs of a cluster, and watches over their supervisors.

It is asynchronous: while jobs run it waits, and answers questions. What it knows is in its memory: one that begins anew, after a
crash, ends the supervisors that the last one has left, so that no script runs of which nobody knows.
"""

from __future__ import annotations

import asyncio
import os
import time
from typing import TYPE_CHECKING, Any

from shoal.exceptions import ShoalError
from shoal.jobs.records import JobDetails, JobRecords

if TYPE_CHECKING:
    from shoal.actors.handle import ActorHandle

NAME, NAMESPACE = "registry", "_shoal_jobs"


class Registry:
    """One per cluster."""

    def __init__(self) -> None:
        from shoal.api import get_runtime_context

        context = get_runtime_context()
        self._node_id: str = context.get_node_id()
        self._logs = os.path.join(context.get_session_dir(), "logs")
        self._records = JobRecords()
        self._supervisors: dict[str, ActorHandle] = {}
        self._watches: dict[str, asyncio.Task[None]] = {}
        self._end_orphans()

    @classmethod
    def _end_orphans(cls) -> None:
        from shoal.actors.api import get_actor, list_named_actors

        for actor in list_named_actors(all_namespaces=True):
            if isinstance(actor, dict) and actor["namespace"] == NAMESPACE and actor["name"] != NAME:
                cls._end(get_actor(actor["name"], namespace=NAMESPACE))

    async def node_id(self) -> str:
        """Where this is, and where the supervisors are to be."""
        return self._node_id

    async def submit(
        self,
        submission_id: str,
        entrypoint: str,
        metadata: dict[str, str],
        env: dict[str, Any],
        supervisor: ActorHandle,
        address: str,
    ) -> None:
        """Have ``supervisor`` run a new job; raises ValueError if its id is taken."""
        path = os.path.join(self._logs, f"job-{submission_id}.log")
        job = JobDetails(
            submission_id,
            entrypoint,
            message="its supervisor starts",
            metadata=metadata,
            runtime_env=env,
            node_id=self._node_id,
            log_path=path,
        )
        try:
            forgotten = self._records.add(job)
        except ValueError:
            self._end(supervisor)
            raise
        for known in [
            *forgotten,
            job,
        ]:  # of this id too: a job that was forgotten in a crash may have left one
            self._remove_log(known)
        self._supervisors[submission_id] = supervisor
        self._watches[submission_id] = asyncio.create_task(self._watch(job, address))

    async def _watch(self, job: JobDetails, address: str) -> None:
        supervisor = self._supervisors[job.submission_id]
        exit_code, trouble = None, ""
        try:
            await supervisor.ready.remote()
            self._records.started(job.submission_id, _now_ms())
            exit_code = await supervisor.run.remote(job.entrypoint, job.log_path, address, job.runtime_env)
        except ShoalError as error:
            trouble = f"its supervisor failed: {error}"
        finally:
            self._records.ended(job.submission_id, exit_code, trouble, _now_ms())
            del self._supervisors[job.submission_id], self._watches[job.submission_id]
            self._end(supervisor)

    async def jobs(self) -> list[JobDetails]:
        return self._records.all()

    async def job(self, submission_id: str) -> JobDetails:
        """Raises LookupError."""
        return self._records.get(submission_id)

    async def stop(self, submission_id: str) -> bool:
        """Stop it, and wait until it has ended; False if it had. Raises LookupError."""
        if not self._records.stop(submission_id):
            return False
        watch, supervisor = self._watches[submission_id], self._supervisors[submission_id]
        if self._records.get(submission_id).start_time is None:
            self._end(supervisor)
        else:
            try:
                await supervisor.stop.remote()
            except ShoalError:
                self._end(supervisor)  # it cannot be asked: then it ends, and its script with it
        await asyncio.wait([watch])
        return True

    async def delete(self, submission_id: str) -> None:
        """Forget a job that has ended, with its log. Raises LookupError, or ValueError if it has not."""
        self._remove_log(self._records.delete(submission_id))

    async def logs(self, submission_id: str, offset: int, size_max: int) -> bytes:
        """What its script wrote from byte ``offset`` on; b"" if nothing more yet. Raises LookupError."""
        return _read(self._records.get(submission_id).log_path, offset, size_max)

    @staticmethod
    def _remove_log(job: JobDetails) -> None:
        if os.path.exists(job.log_path):
            os.unlink(job.log_path)

    @staticmethod
    def _end(supervisor: ActorHandle) -> None:
        from shoal.actors.api import kill

        kill(supervisor)


def _read(path: str, offset: int, size_max: int) -> bytes:
    if not os.path.exists(path):
        return b""
    with open(path, "rb") as file:
        file.seek(offset)
        return file.read(size_max)


def _now_ms() -> int:
    return int(1000 * time.time())

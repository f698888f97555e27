"""The actor that knows all submitted jobs of a cluster, and watches over their supervisors.

It is asynchronous: while jobs run it waits, and answers questions. What it knows is on disk before anybody is told of it
(`archive`). It is not restarted: when it has died, or the head's node with it, whoever asks next makes another one, on the node
that the head has then, and that goes on from there:

    its supervisor is there      it is watched again (`run` may be called twice)
    its supervisor has gone      it ended as that has noted, or, if nothing is noted, with it: FAILED, nobody watched
    a supervisor, and no job     its submission was not made to the end: the supervisor ends, so that no script runs unknown
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sqlite3
import time
import traceback
from typing import TYPE_CHECKING, Any

from shoal import session
from shoal.exceptions import ActorDiedError, ShoalError
from shoal.jobs.archive import Archive, noted_end, remove_files
from shoal.jobs.records import JobDetails, JobRecords

if TYPE_CHECKING:
    from shoal.actors.handle import ActorHandle

NAME, NAMESPACE = "registry", "_shoal_jobs"
_LOST = (
    "its script ended while nobody watched: the head's node, or what supervised it there, was ended or lost; "
    "`shoal job logs` shows what it wrote until then"
)


class Registry:
    """One per cluster."""

    def __init__(self) -> None:
        from shoal.api import get_runtime_context

        self._node_id: str = get_runtime_context().get_node_id()
        folders = session.runtime().request("job_folders", {})
        self._logs: str = folders["logs"]
        os.makedirs(self._logs, mode=0o700, exist_ok=True)
        self._archive = Archive(folders["records"])
        self._records = JobRecords()
        self._supervisors: dict[str, ActorHandle] = {}
        self._watches: dict[str, asyncio.Task[None]] = {}
        self._stops: set[asyncio.Task[None]] = set()  # of jobs that the last registry was to stop
        self._go_on()

    def _go_on(self) -> None:
        """Where the last registry was."""
        living = self._living_supervisors()
        for saved in self._archive.load():
            job = saved.job
            self._records.restore(job, saved.stopping)
            if job.status.is_terminal():
                continue
            supervisor = living.pop(supervisor_name(job.submission_id), None)
            if supervisor is None:
                self._ended_meanwhile(job)
                continue
            self._watch(job, supervisor)
            if saved.stopping:
                self._stops.add(asyncio.get_running_loop().create_task(self._end_script(job.submission_id)))
        for supervisor in living.values():
            self._end(supervisor)

    def _ended_meanwhile(self, job: JobDetails) -> None:
        end = noted_end(job.log_path)
        if end is None:
            self._records.ended(job.submission_id, None, _LOST, _now_ms())
        else:
            self._records.ended(job.submission_id, end.exit_code, "", end.time_ms)
        self._save(job.submission_id)

    @staticmethod
    def _living_supervisors() -> dict[str, ActorHandle]:
        """By name. Raises ActorUnavailableError: who does not answer has not ended, and the next registry may find it."""
        from shoal.actors.api import get_actor, list_named_actors

        found = {}
        for actor in list_named_actors(all_namespaces=True):
            if isinstance(actor, dict) and actor["namespace"] == NAMESPACE and actor["name"] != NAME:
                # One that cannot be found ends, or is on a node that died and took it along.
                with contextlib.suppress(ValueError, ActorDiedError):
                    found[actor["name"]] = get_actor(actor["name"], namespace=NAMESPACE)
        return found

    def _save(self, submission_id: str) -> None:
        self._archive.save(self._records.get(submission_id), self._records.is_stopping(submission_id))

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
            message="its packages are installed" if "pip" in env else "its supervisor starts",
            metadata=metadata,
            runtime_env=env,
            node_id=self._node_id,
            log_path=path,
            address=address,
        )
        try:
            forgotten = self._records.add(job)
        except ValueError:
            self._end(supervisor)
            raise
        try:
            self._archive.forget(forgotten)
            self._save(submission_id)
            # Of this id too: a submission that was not made to the end may have left files.
            for known in [*forgotten, job]:
                remove_files(known.log_path)
        except BaseException:
            self._records.discard(submission_id)
            self._end(supervisor)
            raise
        self._watch(job, supervisor)

    def _watch(self, job: JobDetails, supervisor: ActorHandle) -> None:
        self._supervisors[job.submission_id] = supervisor
        self._watches[job.submission_id] = asyncio.get_running_loop().create_task(
            self._watching(job, supervisor)
        )

    async def _watching(self, job: JobDetails, supervisor: ActorHandle) -> None:
        submission_id, exit_code, trouble = job.submission_id, None, ""
        try:
            await supervisor.ready.remote()
            self._records.started(submission_id, _now_ms())
            self._save(submission_id)
            exit_code = await supervisor.run.remote(
                job.entrypoint, job.log_path, job.address, job.runtime_env
            )
        except ShoalError as error:
            trouble = f"its supervisor failed: {error}"
        except sqlite3.Error as error:
            trouble = f"its record could not be written: {error}"
        try:
            self._records.ended(submission_id, exit_code, trouble, _now_ms())
            self._save(submission_id)
        except sqlite3.Error:
            traceback.print_exc()  # who asks is told the end all the same
        finally:
            del self._supervisors[submission_id], self._watches[submission_id]
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
        self._save(submission_id)
        await self._end_script(submission_id)
        return True

    async def _end_script(self, submission_id: str) -> None:
        watch, supervisor = self._watches[submission_id], self._supervisors[submission_id]
        if self._records.get(submission_id).start_time is None:
            self._end(supervisor)
        else:
            try:
                await supervisor.stop.remote()
            except ShoalError:
                self._end(supervisor)  # it cannot be asked: then it ends, and its script with it
        await asyncio.wait([watch])

    async def delete(self, submission_id: str) -> None:
        """Forget a job that has ended, with its log. Raises LookupError, or ValueError if it has not."""
        job = self._records.delete(submission_id)
        self._archive.forget([job])
        remove_files(job.log_path)

    async def logs(self, submission_id: str, offset: int, size_max: int) -> bytes:
        """What its script wrote from byte ``offset`` on; b"" if nothing more yet. Raises LookupError."""
        return _read(self._records.get(submission_id).log_path, offset, size_max)

    @staticmethod
    def _end(supervisor: ActorHandle) -> None:
        from shoal.actors.api import kill

        kill(supervisor)


def supervisor_name(submission_id: str) -> str:
    """Of the actor that runs this job."""
    return f"job {submission_id}"


def _read(path: str, offset: int, size_max: int) -> bytes:
    if not os.path.exists(path):
        return b""
    with open(path, "rb") as file:
        file.seek(offset)
        return file.read(size_max)


def _now_ms() -> int:
    return int(1000 * time.time())

"""JobSubmissionClient: submit driver scripts to a cluster, ask after them, read what they wrote, stop them; by Ray's names.

It uses the session of this process, or begins one.
"""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Any

from shoal import session
from shoal.exceptions import ActorDiedError, ActorUnavailableError, TaskError
from shoal.jobs.records import JobDetails, JobStatus, checked_id
from shoal.jobs.registry import NAME, NAMESPACE, Registry, supervisor_name
from shoal.jobs.supervisor import Supervisor
from shoal.runtime_env import check

if TYPE_CHECKING:
    from collections.abc import Iterator

    from shoal.actors.handle import ActorHandle

_READ_BYTES = 1024 * 1024
_LOOK_S = 0.2
_PATIENCE_S = (
    60.0  # until the node of an earlier head is known to be dead, and what knew the jobs there with it
)
_TRIES = 3  # to ask the registry, which may end meanwhile
_FIELDS = ("env_vars", "working_dir", "excludes", "pip")


class JobSubmissionClient:
    """
    Args:
        address: host:port, or "auto"; without one that of this process's session, of SHOAL_ADDRESS, or of this machine.

    Raises ConnectionError if there is no such cluster.
    """

    def __init__(self, address: str | None = None) -> None:
        from shoal.api import init

        running = session.current()
        if running is None or running.closed:
            init(address or os.environ.get("SHOAL_ADDRESS") or "auto", log_to_driver=False)

    def submit_job(
        self,
        *,
        entrypoint: str,
        submission_id: str | None = None,
        runtime_env: dict[str, Any] | None = None,
        metadata: dict[str, str] | None = None,
    ) -> str:
        """Have ``entrypoint`` run by a shell on the head's node; returns the job's id at once.

        Args:
            runtime_env: "env_vars", "working_dir" (with "excludes") and "pip": the script's, and what its tasks inherit. Without
                a working directory it runs in the current one, if that node has it. Local packages of "pip" are taken along.

        Raises ValueError for an id that is taken, or what is wrong with the arguments.
        """
        if type(entrypoint) is not str or not entrypoint.strip():
            raise ValueError(f"entrypoint needs a command, like 'python script.py', not {entrypoint!r}")
        submission_id = checked_id(submission_id) if submission_id else f"job_{os.urandom(8).hex()}"
        env = check("runtime_env", runtime_env or {})
        others = [field for field in env if field not in _FIELDS]
        if others:
            raise ValueError(f"runtime_env[{others[0]!r}] is not for jobs: pass it to init() in the script")
        if any(job.submission_id == submission_id for job in self.list_jobs()):
            raise ValueError(f"there is a job {submission_id!r} already; submit it under another id")
        supervisor = self._supervisor(submission_id, self._asked("node_id"), env)
        facts = (submission_id, entrypoint, dict(metadata or {}), env)
        self._answer(self._registry().submit.remote(*facts, supervisor, _address()))
        return submission_id

    def list_jobs(self) -> list[JobDetails]:
        """All jobs that are remembered, in the order in which they were submitted."""
        return list(self._asked("jobs"))

    def get_job_info(self, submission_id: str) -> JobDetails:
        """Raises LookupError if there is no such job; so do the others."""
        details: JobDetails = self._asked("job", submission_id)
        return details

    def get_job_status(self, submission_id: str) -> JobStatus:
        return self.get_job_info(submission_id).status

    def get_job_logs(self, submission_id: str) -> str:
        """All that its script has written so far."""
        return "".join(self._written(submission_id, [0]))

    def tail_job_logs(self, submission_id: str) -> Iterator[str]:
        """What its script has written, and writes, until it ends."""
        offset = [0]
        while True:
            ended = self.get_job_status(
                submission_id
            ).is_terminal()  # asked first: nothing is written after it
            yield from self._written(submission_id, offset)
            if ended:
                return
            time.sleep(_LOOK_S)

    def stop_job(self, submission_id: str) -> bool:
        """Stop it, and wait until it has ended; False if it had."""
        return bool(self._asked("stop", submission_id))

    def delete_job(self, submission_id: str) -> bool:
        """Forget it, and remove its log; raises ValueError if it has not ended."""
        self._answer(self._registry().delete.remote(submission_id))
        return True

    def _written(self, submission_id: str, offset: list[int]) -> Iterator[str]:
        """From byte ``offset[0]`` on, which moves; whole lines, unless there are no more."""
        rest = b""
        while True:
            data = self._asked("logs", submission_id, offset[0], _READ_BYTES)
            offset[0] += len(data)
            lines, newline, end = (rest + data).rpartition(b"\n")
            rest = end if data else b""
            text = lines + newline if data else lines + newline + end
            if text:
                yield text.decode(errors="replace")
            if not data:
                return

    def _asked(self, method: str, *args: Any) -> Any:
        """The registry's answer to what may be asked twice: it may end meanwhile, and another one goes on from there."""
        for left in reversed(range(_TRIES)):
            try:
                return self._answer(getattr(self._registry(), method).remote(*args))
            except (ActorDiedError, ActorUnavailableError):
                if not left:
                    raise
        raise AssertionError("unreachable")

    @staticmethod
    def _answer(ref: Any) -> Any:
        """The registry's answer, or its error as if it had been raised here."""
        from shoal.api import get

        try:
            return get(ref)
        except TaskError as error:
            cause = error.cause
            if isinstance(cause, LookupError | ValueError):
                raise type(cause)(*cause.args) from None
            raise

    @staticmethod
    def _registry() -> ActorHandle:
        """The one there is, or a new one, which goes on where the last one was."""
        from shoal.actors.api import get_actor
        from shoal.api import remote

        deadline = time.monotonic() + _PATIENCE_S
        while True:
            try:
                return get_actor(NAME, namespace=NAMESPACE)
            except ActorUnavailableError:
                if time.monotonic() > deadline:
                    raise
            except ValueError:  # there is none
                try:
                    options = {**_options(NAME, _head_node()), "get_if_exists": True}
                    handle: ActorHandle = remote(Registry).options(**options).remote()
                    return handle
                except ValueError:  # or there is, on a node that does not answer
                    if time.monotonic() > deadline:
                        raise
            time.sleep(_LOOK_S)

    @staticmethod
    def _supervisor(submission_id: str, node_id: str, env: dict[str, Any]) -> ActorHandle:
        from shoal.api import remote

        options = {
            **_options(supervisor_name(submission_id), node_id),
            "max_concurrency": 100,
            "runtime_env": env,
        }
        handle: ActorHandle = remote(Supervisor).options(**options).remote()
        return handle


def _options(name: str, node_id: str) -> dict[str, Any]:
    from shoal.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    return {
        "name": name,
        "namespace": NAMESPACE,
        "lifetime": "detached",
        "num_cpus": 0,
        "scheduling_strategy": NodeAffinitySchedulingStrategy(node_id, soft=False),
    }


def _head_node() -> str:
    """The head's own node, where the records are; raises ConnectionError while it is not there."""
    rows = session.runtime().request("status", {"cluster": True})["nodes"]
    for row in rows:
        if row.get("hosts_head") and row["state"] == "ALIVE":
            return str(row["node_id"])
    raise ConnectionError(
        "the head's node does not answer, and jobs run there; try again, `shoal status` shows the nodes"
    )


def _address() -> str:
    from shoal.api import init

    return init(ignore_reinit_error=True).address_info["address"]

"""Submitted jobs: driver scripts that run in the cluster, apart from whoever submitted them.

    client ── init ──► registry (a detached actor: what jobs there are, and what became of them)
                           └──► supervisor (an actor for each job that runs) ──► sh -c ENTRYPOINT, its output in a log file

All on one node, that of the head: calls, authentication, environments and the end of processes are those of actors. A script
finds its cluster through SHOAL_ADDRESS. `JOBS_MAX` jobs are remembered, on disk (`archive`): as long as the session of the head's
node, or its `--data-dir`.
"""

from shoal.jobs.client import JobSubmissionClient
from shoal.jobs.records import JobDetails, JobStatus

__all__ = ["JobDetails", "JobStatus", "JobSubmissionClient"]

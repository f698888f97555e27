"""`JobSubmissionClient`, under the name that it has in Ray."""

from shoal.jobs import JobDetails, JobStatus, JobSubmissionClient

__all__ = ["JobDetails", "JobStatus", "JobSubmissionClient"]

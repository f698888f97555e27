"""What a test asks of processes that are not its own, and how it lets `os.fork` fail."""

import os
import resource


def alive(pid):
    """Whether the process runs; one that has ended and was not waited for does not.

    It may end between the opening of its file and the reading: both fail then, each with an `OSError` of its own.
    """
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as stat:
            return stat.read().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def forks_without_descriptors(monkeypatch):
    """Let `os.fork` find that this process may open no more files."""
    fork = os.fork

    def fork_without_descriptors():
        limits = resource.getrlimit(resource.RLIMIT_NOFILE)
        free = os.dup(0)
        os.close(free)
        resource.setrlimit(resource.RLIMIT_NOFILE, (free, limits[1]))
        try:
            return fork()
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)

    monkeypatch.setattr(os, "fork", fork_without_descriptors)

"""What tests of actors share: bounded waits, and whether a process lives."""

import time

import shoal

PATIENCE_S = 60.0


def get(refs, timeout=PATIENCE_S):
    """`shoal.get` that gives up."""
    return shoal.get(refs, timeout=timeout)


def alive(pid):
    """Whether the process runs; one that has ended and was not waited for does not."""
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii") as stat:
            return stat.read().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def wait_until(condition, timeout_s=PATIENCE_S):
    """Wait for a condition."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true in time"
        time.sleep(0.01)

"""What tests of actors share: bounded waits, and whether a process lives."""

import time

import shoal

PATIENCE_S = 60.0


def get(refs, timeout=PATIENCE_S):
    """`shoal.get` that gives up."""
    return shoal.get(refs, timeout=timeout)


def wait_until(condition, timeout_s=PATIENCE_S):
    """Wait for a condition."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true in time"
        time.sleep(0.01)

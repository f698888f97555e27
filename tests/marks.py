"""Marks that tasks leave in a folder, so that tests can count their runs, find their processes and wait for them."""

import os
import time
from collections.abc import Callable

LIMIT_S = 60.0


def until(condition: Callable[[], object], limit_s: float = LIMIT_S) -> None:
    """Wait until `condition()` is true; AssertionError after `limit_s`."""
    deadline = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline, f"it did not happen within {limit_s:g} s"
        time.sleep(0.003)


class Marks:
    """A folder in which tasks leave a mark for each of their runs."""

    def __init__(self, folder):
        self.folder = str(folder)

    def add(self, name):
        """Mark a run of ``name``; returns how many there were before."""
        before = self.count(name)
        open(os.path.join(self.folder, f"{name}.{time.monotonic_ns()}.{os.getpid()}"), "w").close()
        return before

    def count(self, name):
        """How many runs of ``name`` there were."""
        return sum(each.startswith(f"{name}.") for each in os.listdir(self.folder))

    def pid(self, name):
        """The process of one run of ``name``."""
        return next(
            int(each.rpartition(".")[2]) for each in os.listdir(self.folder) if each.startswith(f"{name}.")
        )

    def wait(self, name, count=1):
        """Wait until ``name`` has run ``count`` times."""
        until(lambda: self.count(name) >= count)

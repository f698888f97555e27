"""Finds what a test left behind: processes, descriptors, threads, shared memory, files of the session.

A snapshot is taken before and compared after, for a bounded time: what is on its way out may finish. A line
of the answer says what leaked and how to recognise it.
"""

import os
import tempfile
import threading
import time
from dataclasses import dataclass, fields
from pathlib import Path

import psutil

POLL_S = 0.02
# Opened once by a library for the life of the process.
LASTING_TARGETS = ("/dev/urandom", "/dev/null", "/usr/", "/etc/")


@dataclass(frozen=True)
class Snapshot:
    """What this process and its run have at one moment, each as a set of lines for people."""

    processes: frozenset[str]
    descriptors: frozenset[str]
    threads: frozenset[str]
    shared_memory: frozenset[str]
    files: frozenset[str]

    @classmethod
    def take(cls, run: str) -> "Snapshot":
        """The present state; `run` is the value of SHOAL_TEST_RUN that the run's processes inherit."""
        return cls(
            frozenset(_processes(run)),
            frozenset(_descriptors()),
            frozenset(f"thread {thread.name} ({thread.ident})" for thread in threading.enumerate()),
            frozenset(_shared_memory()),
            frozenset(_files()),
        )

    def new_in(self, later: "Snapshot") -> list[str]:
        """The lines of `later` that are not in this snapshot."""
        return [
            line
            for field in fields(self)
            for line in sorted(getattr(later, field.name) - getattr(self, field.name))
        ]


def difference_after_wait(before: Snapshot, run: str, wait_s: float) -> list[str]:
    """What is there beyond `before`, after up to `wait_s` seconds for it to go. Empty: nothing is left."""
    deadline = time.monotonic() + wait_s
    while leaked := before.new_in(Snapshot.take(run)):
        if time.monotonic() > deadline:
            return leaked
        time.sleep(POLL_S)
    return []


def _processes(run: str) -> list[str]:
    """Processes of this run, other than this one: its descendants, and whoever inherited its mark.

    Read at least twice for each test, of every process of the machine: what psutil would make of each takes longer than that.
    """
    pids = [int(name) for name in os.listdir("/proc") if name.isdigit()]
    mark = f"SHOAL_TEST_RUN={run}".encode()
    me = os.getpid()
    marked = {pid for pid in pids if mark in _read(pid, "environ")}
    children: dict[int, list[int]] = {}
    for pid in pids:
        # pid (name) state parent …; a name may have spaces and brackets. Nothing, if it has ended meanwhile.
        if after_name := _read(pid, "stat").rpartition(b")")[2].split():
            children.setdefault(int(after_name[1]), []).append(pid)
    found = set()
    below = [me]
    while below:
        grown = children.get(below.pop(), [])
        found.update(grown)
        below += grown
    return [_describe(pid) for pid in (found | marked) - {me}]


def _read(pid: int, name: str) -> bytes:
    """A file of a process; empty if the process has gone, or is another user's."""
    try:
        with open(f"/proc/{pid}/{name}", "rb", buffering=0) as file:
            return file.read()
    except OSError:
        return b""


def _describe(pid: int) -> str:
    try:
        process = psutil.Process(pid)
        return f"process {pid} ({process.status()}): {' '.join(process.cmdline())[:120]}"
    except psutil.ZombieProcess:
        return f"process {pid} (zombie): ended, and its parent has not waited for it"
    except psutil.NoSuchProcess:
        return f"process {pid}: ended just now"


def _descriptors() -> list[str]:
    lines = []
    # Not standard input and output, which pytest captures and gives back.
    for number in set(os.listdir("/proc/self/fd")) - {"0", "1", "2"}:
        try:
            target = os.readlink(f"/proc/self/fd/{number}")
        except OSError:  # the descriptor of this listing itself
            continue
        if not target.startswith(LASTING_TARGETS):
            lines.append(f"descriptor {number} → {target}")
    return lines


def _shared_memory() -> list[str]:
    folder = Path("/dev/shm")
    return [f"shared memory {path}" for path in folder.glob("shoal*")] if folder.is_dir() else []


def _files() -> list[str]:
    """Sessions in the temporary folder of this run, and their sockets; not what pytest keeps there."""
    folder = Path(tempfile.gettempdir())
    return [f"file {path}" for path in folder.glob("*") if not path.name.startswith("pytest-of-")]

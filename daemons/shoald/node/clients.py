"""The daemon's clients: drivers, workers and command lines, each with its stream of numbered messages.

A connection is anonymous until its HELLO; a command line's needs none. Routes messages by tag and nothing
more: what they mean is the store's, the scheduler's and the daemon's business.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from shoal.ids import PROCESS_ID_SIZE
from shoal.wire import messages as m
from shoald.store.errors import ProtocolError

if TYPE_CHECKING:
    from shoald.shell.framesocket import FrameSocket

KINDS = ("driver", "worker", "cli")
_NAME_BYTES_MAX = 200


class Job:
    """What a driver started: everything bound to it ends with it."""

    __slots__ = ("driver", "info", "job_id", "started_s")

    def __init__(self, job_id: str, driver: Client, info: dict[str, Any], started_s: float) -> None:
        self.job_id = job_id
        self.driver = driver
        self.info = info
        self.started_s = started_s

    @property
    def namespace(self) -> str:
        """As the driver named it; its own otherwise."""
        return str(self.info.get("namespace") or self.job_id)


class Client:
    """One connection.

    Attributes:
        proc: the process's id, b"" before its HELLO.
        pid: what the kernel says, or where it does not tell, what the client says.
        number: messages processed of its stream.
        leaving: it said GOODBYE.
    """

    __slots__ = ("info", "job_id", "kind", "leaving", "number", "pid", "proc", "sock", "worker_id")

    sock: FrameSocket

    def __init__(self, pid: int, kind: str = "") -> None:
        self.pid = pid
        self.kind = kind
        self.proc = b""
        self.job_id = ""
        self.worker_id = b""
        self.info: dict[str, Any] = {}
        self.number = 0
        self.leaving = False

    def __str__(self) -> str:
        return f"{self.kind or 'client'} {self.pid}"

    def describe(self) -> str:
        """For people: what this process is."""
        if self.kind == "driver":
            return f"driver {self.info.get('argv0') or ''}".strip()[:_NAME_BYTES_MAX]
        return self.kind


def read_hello(message: list[Any]) -> tuple[bytes, str, int, dict[str, Any]]:
    """(proc, kind, pid, info) of a HELLO; raises ProtocolError for anything else."""
    if message[0] != m.HELLO or len(message) != 5:
        raise ProtocolError("the first message has to be HELLO")
    _, proc, kind, pid, info = message
    if type(proc) is not bytes or len(proc) != PROCESS_ID_SIZE or proc == bytes(PROCESS_ID_SIZE):
        raise ProtocolError("HELLO without a process id")
    if kind not in KINDS or type(pid) is not int or type(info) is not dict:
        raise ProtocolError("HELLO of an unknown kind")
    return proc, kind, pid, info

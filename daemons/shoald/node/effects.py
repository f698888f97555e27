"""What the scheduler wants done; the daemon carries it out in order. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class StartWorker:
    """Fork a worker, which becomes ``python`` if that is not ""; its slot in the status board is free."""

    worker_id: bytes
    slot: int
    python: str = ""


@dataclass(frozen=True, slots=True)
class EndWorker:
    """End a worker: at once, or, if ``politely``, after it had ``patience_ms`` (None: `worker_exit_ms_max`) to end by itself."""

    worker_id: bytes
    reason: str
    politely: bool
    patience_ms: float | None = None


@dataclass(frozen=True, slots=True)
class Grant:
    """Connect a submitter and a worker: GRANT to the one, PEER to the other, with the ends of one socket
    pair.
    """

    proc: bytes
    shape_id: int
    lease_id: int
    worker_id: bytes
    resources: dict[str, int]


@dataclass(frozen=True, slots=True)
class Send:
    """Send ``message`` to client ``proc``, if it is still connected."""

    proc: bytes
    message: list[Any]


Effect = StartWorker | EndWorker | Grant | Send

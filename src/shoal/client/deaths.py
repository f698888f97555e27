"""Leased workers that died: their last replies are taken, then their tasks learn of it. Called with the lock held.

On one machine all that a dead worker sent is in the socket when its death is told. From another node the two come on
different ways: there the death is held back until the connection has ended too, or for `late_replies_ms`.
"""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Any

from shoal.wire.frames import BrokenFrame

if TYPE_CHECKING:
    from shoal.client.runtime import Runtime
    from shoal.owner.leases import Lease


class Deaths:
    """Deaths of the workers that one process has leased.

    Attributes:
        held: lease → (its WORKER_DIED, until when it is held back).
    """

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._bound_s = runtime.config.late_replies_ms / 1000
        self.held: dict[Lease, tuple[list[Any], float]] = {}

    def worker_died(self, message: list[Any]) -> None:
        """WORKER_DIED."""
        lease = self._runtime.dispatch.leases.get(message[1])
        if lease is None:
            return
        lease.broken = True
        if self._last_replies(lease) or not self._may_be_late(lease, message[6]):
            self._tell(lease, message)
        else:
            self.held[lease] = message, time.monotonic() + self._bound_s

    def _may_be_late(self, lease: Lease, facts: dict[str, Any]) -> bool:
        """Not so if the whole node died: what was under way from there is lost with it."""
        return lease.node != self._runtime.identity.node_id and facts.get("kind") != "node"

    def connection_ended(self, lease: Lease) -> bool:
        """Nothing more comes from a worker; whether its death was held back, and is told now."""
        if lease not in self.held:
            return False
        self._release(lease)
        return True

    def tick(self, now: float) -> float:
        """Tell what was held back long enough; seconds until the next."""
        for lease in [lease for lease, (_, until) in self.held.items() if until <= now]:
            self._release(lease)
        return max(0.001, min((until for _, until in self.held.values()), default=now + 1.0) - now)

    def _release(self, lease: Lease) -> None:
        message, _ = self.held.pop(lease)
        self._last_replies(lease)
        self._tell(lease, message)

    def _tell(self, lease: Lease, message: list[Any]) -> None:
        _, lease_id, exit_code, signal_number, current, text, facts = message
        logs_dir = facts.get("logs_dir") or os.path.join(self._runtime.identity.session_dir, "logs")
        details = {
            "exit_code": exit_code,
            "signal": signal_number,
            "message": text,
            "node": lease.node,
            "pid": lease.pid,
            "log_path": os.path.join(logs_dir, f"worker-{lease.pid}.log"),
            **facts,
        }
        self._runtime.dispatch.worker_died(lease_id, current, details)

    def _last_replies(self, lease: Lease) -> bool:
        """Take what a dead worker had sent, so that it does not count as lost; whether that was all there can be."""
        connection = lease.connection
        while connection.readable:
            try:
                bodies = connection.receive()
                if bodies is None:
                    return True
                self._runtime.take_replies(lease, bodies)
            except BrokenFrame as error:
                self._runtime.report(f"the last words of worker {lease.pid} are no messages: {error}")
                return True
        return bool(connection.closed)

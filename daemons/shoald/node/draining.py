"""A node that is to leave gives away what it has: nothing new starts here, what runs ends in peace, within `drain_ms_max`.

Leases are recalled: their submitters send nothing more, take back what was not started, and return them when the rest is done.
Then what only this node has a copy of goes to others (`moving`). Not responsible for telling the head, which announces it to the
others (they ask nothing of this node then), nor for what comes after. Actors that may restart do so on other nodes, and that
does not count (`actors`); the others stay until the node goes. A node that is drained may live on: when it is to go at last, it
waits for what is being moved again, since a node that had taken it is dead (within `drain_ms_max` of that).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from shoald.node.daemon import NodeDaemon

_LOOK_S = 0.05


class Draining:
    """The draining of one daemon.

    Attributes:
        reason: why it drains; "" if it does not.
    """

    def __init__(self, daemon: NodeDaemon) -> None:
        self._daemon = daemon
        self.reason = ""
        self._until = 0.0
        self._then: list[Callable[[bool], None]] = []
        self._over: bool | None = None
        self._moving_begun = False

    @property
    def moves_again(self) -> bool:
        """It was drained, but objects are on their way again."""
        return self._over is not None and not self._daemon.moving.over

    def begin(self, reason: str, then: Callable[[bool], None]) -> None:
        """Drain; ``then`` is called with whether everything had ended when this was over. Again only adds a ``then``."""
        daemon, now = self._daemon, self._daemon.loop.now()
        patience_s = daemon.config.drain_ms_max / 1000
        if self._over is not None and daemon.moving.over:
            then(self._over)
            return
        self._then.append(then)
        if self._over is not None:
            self._over = None
            self._until = daemon.moving.given_at + patience_s
            self._look()
            return
        if self.reason:
            return
        self.reason = reason
        self._until = now + patience_s
        daemon.log.line(f"this node drains: {reason}")
        daemon.scheduler.placement.draining = True
        daemon.scheduler.view_changed(now)
        self._look()

    def _look(self) -> None:
        daemon, now = self._daemon, self._daemon.loop.now()
        leaving = daemon.actors.drain(now)
        leases = [lease for lease in daemon.scheduler.leases.values() if lease.demand.client.kind != "actor"]
        for lease in leases:
            if lease.recalled_at is None:
                daemon.scheduler.recall(lease, now)
        if (leases or leaving) and now < self._until:
            daemon.loop.call_later(_LOOK_S, self._look)
            return
        begins = not leases and not self._moving_begun
        if not leases and (begins or not daemon.moving.over) and now < self._until:
            daemon.loop.call_later(_LOOK_S, self._look)  # whatever comes of this one
            if begins:
                self._moving_begun = True
                daemon.moving.begin()
            return
        self._over = not leases
        left = (
            f"{len(leases)} leases have not ended in time (drain_ms_max)" if leases else "nothing runs here"
        )
        daemon.log.line(f"this node is drained: {left}")
        told, self._then = self._then, []
        for then in told:
            then(self._over)

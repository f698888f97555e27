"""The memory watch's shell: takes readings while workers run something, and ends whom the core chooses. Decides nothing.

A reading of the machine costs some tens of microseconds; an idle node takes none.
"""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

from shoal.sizes import bytes_text
from shoald.node.memorywatch import Candidate, MemoryWatch, Reading
from shoald.store.memory import kernel_kills, memory_in_use, own_bytes

if TYPE_CHECKING:
    from collections.abc import Callable

    from shoald.node.daemon import NodeDaemon
    from shoald.node.leases import Lease
    from shoald.node.pool import Worker
    from shoald.shell.loop import Timer

_FIRST_LOOK_S = 0.05  # in which 200 MB may have been filled


class MemorySide:
    """The memory watch of one daemon.

    Attributes:
        on_short: called when memory gets short, before anybody is ended: whoever keeps spare memory gives it back.
    """

    def __init__(self, daemon: NodeDaemon) -> None:
        self._daemon = daemon
        self._timer: Timer | None = None
        self._last: Reading | None = None
        self.core = MemoryWatch(daemon.config)
        self.on_short: list[Callable[[], None]] = []

    def watch(self) -> None:
        """Workers may run something from now on."""
        if self._timer is None and self._daemon.config.memory_monitor_ms:
            self._look_in(min(_FIRST_LOOK_S, self._daemon.config.memory_monitor_ms / 1000))

    def _look_in(self, seconds: float) -> None:
        self._timer = self._daemon.loop.call_later(seconds, self._look)

    def _look(self) -> None:
        daemon = self._daemon
        self._timer = None
        if not daemon.scheduler.leases:
            daemon.scheduler.hold_back(False, daemon.loop.now())
            return
        now = daemon.loop.now()
        self._last = reading = self._reading()
        self.core.kernel_kills(kernel_kills(), now)
        self._look_in(self.core.look_again_s(reading))
        was_short = self.core.short
        urgent = self.core.is_short(reading, now)
        if self.core.short and not was_short:
            for give_back in self.on_short:
                give_back()
        daemon.scheduler.hold_back(self.core.short, now)
        victim = self.core.choose(reading, self._candidates(), now) if urgent else None
        if victim is not None:
            daemon.log.line(f"worker {victim.worker_id.hex()} is {victim.reason}")
            facts = {"kind": "memory", "used_bytes": victim.used_bytes, "limit_bytes": victim.limit_bytes}
            worker = daemon.scheduler.pool.workers[victim.worker_id]
            daemon.scheduler.end_worker(worker, victim.reason, now, facts=facts)

    def say_why(self, worker: Worker, signal_number: int) -> None:
        """A worker died, not by this daemon: if the kernel did it for lack of memory, that is what its task's error says."""
        reading = self._last
        if signal_number != signal.SIGKILL or reading is None:
            return
        if not self.core.kernel_kills(kernel_kills(), self._daemon.loop.now()):
            return
        used, limit = reading.used_bytes, reading.limit_bytes
        worker.reason = (
            f"the kernel ended it for lack of memory, faster than this node could look: "
            f"{bytes_text(used)} of {bytes_text(limit)} of {reading.what} were in use shortly before"
        )
        worker.end_facts = {"kind": "memory", "used_bytes": used, "limit_bytes": limit}

    def _reading(self) -> Reading:
        daemon = self._daemon
        limit = daemon.config.memory_limit_bytes
        if not limit:
            used, limit, what = memory_in_use()
            return Reading(used, limit, what)
        workers = daemon.scheduler.pool.workers.values()
        used = sum(own_bytes(worker.pid) for worker in workers if worker.pid) + daemon.store.stats()["used"]
        return Reading(used, limit, "this node (memory_limit_bytes)")

    def _candidates(self) -> list[Candidate]:
        return [self._candidate(lease) for lease in self._daemon.scheduler.leases.values()]

    def _candidate(self, lease: Lease) -> Candidate:
        daemon = self._daemon
        worker = daemon.scheduler.pool.workers[lease.worker_id]
        actor = bool(lease.demand.options.get("actor"))
        name = (
            daemon.actors.name_of(worker.worker_id) or f"task {lease.demand.options.get('name', '')}".strip()
        )
        return Candidate(
            worker.worker_id,
            worker.pid,
            name,
            own_bytes(worker.pid),
            lease.granted_at,
            daemon.actors.may_restart(worker.worker_id) if actor else daemon.board.repeatable(worker.slot),
            actor,
        )

"""The memory watch's shell: takes readings while workers run something, and ends whom the core chooses. Decides nothing.

A reading of the machine costs some tens of microseconds; an idle node takes none.
"""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

from shoal.sizes import bytes_text
from shoald.node.memoryroom import MemoryRoom
from shoald.node.memorywatch import Candidate, MemoryWatch, Reading
from shoald.store.memory import kernel_kills, memory_in_use, own_bytes

if TYPE_CHECKING:
    from collections.abc import Callable

    from shoald.node.daemon import NodeDaemon
    from shoald.node.leases import Demand, Lease
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
        # Of each worker: what it runs, and since when, about.
        self._tasks: dict[bytes, tuple[bytes, float]] = {}
        self.core = MemoryWatch(daemon.config)
        self.room: MemoryRoom[Demand] = MemoryRoom(daemon.config)
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
            self._tasks = {}
            daemon.scheduler.hold_back(False, daemon.loop.now())
            daemon.scheduler.wait_for_memory({}, daemon.loop.now())
            return
        now = daemon.loop.now()
        self._last = reading = self._reading()
        self._see_tasks(now)
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
            lease = daemon.scheduler.leases[worker.lease_id]
            daemon.scheduler.end_worker(worker, victim.reason, now, facts=facts)
            if not lease.demand.options.get("actor"):
                self.room.ended(lease.demand, self._candidate(lease), now)
        if self.room:
            leases = daemon.scheduler.leases.values()
            running = [each for each in leases if not each.blocked and not each.demand.options.get("actor")]
            waiting = self.room.lacking(reading, [self._candidate(each) for each in running], now)
            daemon.scheduler.wait_for_memory(waiting, now)

    def _see_tasks(self, now: float) -> None:
        """Notice which workers have begun something since the last look."""
        daemon = self._daemon
        seen = self._tasks
        self._tasks = {}
        for lease in daemon.scheduler.leases.values():
            task = daemon.board.current(daemon.scheduler.pool.workers[lease.worker_id].slot)
            before, since = seen.get(lease.worker_id, (task, lease.granted_at))
            self._tasks[lease.worker_id] = task, since if before == task else now

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
        task = daemon.board.task_name(worker.slot) or str(lease.demand.options.get("name", ""))
        return Candidate(
            worker.worker_id,
            worker.pid,
            daemon.actors.name_of(worker.worker_id) or f"task {task}".strip(),
            own_bytes(worker.pid),
            lease.granted_at if actor else self._tasks.get(worker.worker_id, (b"", lease.granted_at))[1],
            daemon.actors.may_restart(worker.worker_id) if actor else daemon.board.repeatable(worker.slot),
            actor,
        )

"""How many worker processes there are: warm ones for the CPUs, more while demands miss them, fewer after
idling. Pure.

At most `blocked_workers_max` above the CPUs. When that room is used up by idle workers of other jobs, the one
that idled longest ends. Starts that fail are tried again with a pause, and demands are told.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from shoald.node.effects import StartWorker
from shoald.node.pool import IDLE, STARTING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from shoald.node.pool import Worker
    from shoald.node.scheduler import SchedulerCore


class Staffing:
    """Starts and ends workers for one scheduler.

    Attributes:
        stopping: nothing is started any more.
        last_failure: why the last start failed; "" since one succeeded.
    """

    def __init__(self, core: SchedulerCore) -> None:
        self._core = core
        self.stopping = False
        self.last_failure = ""
        self._failures = 0
        self._paused_until = 0.0

    @property
    def processes_max(self) -> int:
        """How many workers there may be: for the CPUs, for tasks whose parents wait, and one for each actor."""
        core = self._core
        most = core.cpus + core.config.blocked_workers_max + core.actors
        return min(core.config.workers_max, most)

    def room(self) -> int:
        """How many more workers may be started, counting those that idle ones of other jobs could make way
        for.
        """
        pool = self._core.pool
        return max(0, self.processes_max - pool.living + len(self._spare()))

    def _spare(self) -> list[Worker]:
        """Idle workers that may be ended, idle for longest first."""
        return [worker for worker in self._core.pool.in_state(IDLE) if not worker.note.get("unfinished")]

    def worked(self) -> None:
        """A worker started a task, or was returned in order: workers can work."""
        self._failures = 0
        self.last_failure = ""

    @property
    def failing(self) -> bool:
        """Workers have failed so often in a row that they are started with pauses."""
        return self._failures >= self._core.config.worker_start_failures_max

    def start_failed(self, reason: str, now: float) -> None:
        """A worker could not be forked, or ended by itself before it had started any task."""
        self._failures += 1
        self.last_failure = reason
        if self.failing:
            self._paused_until = now + self._core.config.worker_restart_ms / 1000

    def resize(self, short: Mapping[str, int], now: float) -> float | None:
        """Start workers for leases that miss one (``short``: how many, by interpreter) and to keep the CPUs' number warm; end
        idle extra ones.

        Returns when it has to be called again.
        """
        if self.stopping:
            return None
        core, pool = self._core, self._core.pool
        deadlines: list[float | None] = []
        pythons = self._missing(short)
        wanted = len(pythons)
        if wanted > 0 and now < self._paused_until:
            deadlines.append(self._paused_until)
        elif wanted > 0:
            self._make_room(wanted, now)
            slots = min(self.processes_max - pool.living, pool.workers_max - len(pool))
            for python in pythons[: max(0, slots)]:
                worker = pool.start(now, python)
                core.outbox.append(StartWorker(worker.worker_id, worker.slot, python))
        deadlines += [self._end_idle(now), self._end_stuck(now)]
        return min((deadline for deadline in deadlines if deadline is not None), default=None)

    def _missing(self, short: Mapping[str, int]) -> list[str]:
        """The interpreters of workers that are to be started."""
        core, pool = self._core, self._core.pool
        missing = dict(short)
        for worker in pool.in_state(STARTING):
            missing[worker.python] = missing.get(worker.python, 0) - 1
        missing[""] = max(missing.get("", 0), core.cpus + core.actors - pool.living)
        return [python for python, count in missing.items() for _ in range(count)]

    def _make_room(self, wanted: int, now: float) -> None:
        """End idle workers that the demands at hand cannot use (or they would have been given to them)."""
        pool = self._core.pool
        missing = wanted - (self.processes_max - pool.living)
        for worker in self._spare()[: max(0, missing)]:
            self._core.end_worker(worker, "it idled while other jobs need the room", now)

    def _end_idle(self, now: float) -> float | None:
        idle = self._spare()
        extra = idle[: max(0, len(idle) - self._core.cpus)]
        idle_s = self._core.config.idle_worker_ms / 1000
        for worker in extra:
            if worker.since + idle_s > now:
                return worker.since + idle_s
            self._core.end_worker(worker, "it was idle", now, politely=True)
        return None

    def _end_stuck(self, now: float) -> float | None:
        limit_s = self._core.config.worker_start_ms_max / 1000
        for worker in self._core.pool.in_state(STARTING):
            if worker.since + limit_s > now:
                return worker.since + limit_s
            self._core.end_worker(worker, f"it did not say hello within {limit_s:g} s", now)
            self.start_failed(f"a worker did not say hello within {limit_s:g} s", now)
        return None

"""Drivers for simulations: they submit what a workload draws, put values, and look at results."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tests.sim.casts import Casts
from tests.sim.gangs import Gangs
from tests.sim.workers import Process
from tests.sim.workload import ACTOR, GROUP, PUT, SMALL, Plan, Workload

from shoal.owner.objects import STORED, Entry
from shoal.wire import messages as m

if TYPE_CHECKING:
    from tests.sim.cluster import Cluster
    from tests.sim.daemons import Daemon
    from tests.sim.storage import Reading

_LOOKS_S = (0.0, 0.1, 1.0, 5.0)  # how long values are looked at
_TOGETHER_MAX = 3


class Driver(Process):
    """Submits the plans of a workload, ``window`` at a time, and forgets results that nobody reads."""

    def __init__(self, cluster: Cluster, daemon: Daemon, workload: Workload, tasks: int, window: int) -> None:
        super().__init__(cluster, daemon, cluster.new_pid())
        self.job_id = f"job{self.pid}"
        self.workload = workload
        self.left = tasks
        self.window = window
        self.pending = 0
        self._putting = False
        self._looks = 0
        self._entries: dict[Plan, Entry] = {}
        self.gangs = Gangs(self)
        self.casts = Casts(self)
        daemon.job_began(self, self.job_id)

    def go_on(self) -> None:
        """Submit as much as may be under way; a put is waited for."""
        while self.alive and self.left and self.pending < self.window and not self._putting:
            self.left -= 1
            plan = self.workload.draw()
            self.pending += 1
            if plan.function == PUT:
                self._put(plan)
                continue
            if plan.function == GROUP:
                self.gangs.make(plan)
                continue
            if plan.function == ACTOR:
                self.casts.make(plan)
                continue
            self.cluster.planned(plan)
            arguments = tuple(self._entries.pop(each) for each in plan.arguments)
            entry = self.submit(plan, arguments, _Result(self, plan))
            if arguments:
                self.table.drop_uses(arguments)
            if plan.size > SMALL:
                self._entries[plan] = entry
        self.flush()

    def ready(self, plan: Plan, entry: Entry) -> None:
        """A task has ended."""
        assert not plan.outcome, f"{plan} ended twice"
        self.pending -= 1
        self.cluster.ended(plan, entry)
        if plan.size <= SMALL:
            self.cluster.clock.at(0.0, lambda: self.forget(entry))
        if self.workload.mix.gets and self.cluster.random.random() < self.workload.mix.gets:
            self.cluster.clock.at(0.0, self._look)
        if self.left and self.pending <= self.window * 3 // 4:
            self.cluster.clock.at(0.0, self.go_on)

    def plan_over(self, plan: Plan, outcome: str) -> None:
        """What is no task has ended."""
        self.pending -= 1
        plan.outcome = outcome
        self.cluster.counted(outcome)
        self.cluster.clock.at(0.0, self.go_on)

    def hears(self, message: list[Any]) -> None:
        if not self.gangs.hears(message) and not self.casts.hears(message):
            super().hears(message)

    def forget(self, entry: Entry) -> None:
        """User code does not refer to this any more."""
        if self.alive:
            self.table.drop_uses((entry,))
            self.flush()

    def forget_all(self) -> None:
        """User code refers to nothing any more."""
        entries, self._entries = self._entries, {}
        self.table.drop_uses(entries.values())
        self.gangs.forget()
        self.casts.forget()
        self.flush()

    @property
    def done(self) -> bool:
        return (
            not self.left
            and not self.pending
            and not (self._looks or self.gangs.running or self.casts.running)
        )

    # --- values ---

    def _put(self, plan: Plan) -> None:
        self._putting = True
        object_id = self.new_put_id()
        self.storage.write(
            object_id,
            plan.size,
            m.SEAL_PRIMARY,
            self.proc,
            lambda error: self._has_put(plan, object_id, error),
        )
        self.flush()

    def _has_put(self, plan: Plan, object_id: bytes, error: str) -> None:
        self._putting = False
        if error:
            self.workload.forget(plan)
        else:
            self._entries[plan] = self.table.add_stored(object_id, plan.size)
        self.plan_over(plan, error.split(":", maxsplit=1)[0] or "put")

    def _look(self) -> None:
        """User code gets some of its results, and looks at them for a while."""
        source = self.cluster.random
        there = [entry for entry in self._entries.values() if entry.state == STORED]
        if not self.alive or not there:
            return
        entries = source.sample(there, min(len(there), source.randint(1, _TOGETHER_MAX)))
        for entry in entries:
            entry.count += 1
        self._looks += 1
        looks_s = source.choice(_LOOKS_S)
        wanted = [(entry.id, self.table.stamp_of(entry)) for entry in entries]
        self.storage.read(wanted, m.PRIORITY_GET, lambda reading: self._sees(reading, entries, looks_s))
        self.flush()

    def _sees(self, reading: Reading, entries: list[Entry], looks_s: float) -> None:
        self.cluster.counted(f"get {reading.error.split(':')[0] or 'done'}")
        self.cluster.clock.at(looks_s, lambda: self._saw(reading, entries))

    def _saw(self, reading: Reading, entries: list[Entry]) -> None:
        self._looks -= 1
        if self.alive:
            self.storage.close(reading)
            self.table.drop_uses(entries)
            self.flush()


class _Result:
    """Waits for the result of a driver's task."""

    __slots__ = ("_driver", "_plan")

    def __init__(self, driver: Driver, plan: Plan) -> None:
        self._driver = driver
        self._plan = plan

    def entry_ready(self, entry: Entry) -> None:
        self._driver.ready(self._plan, entry)

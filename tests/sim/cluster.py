"""A whole cluster from a seed: head, daemons, drivers and workers with the production cores, over a network with faults.

`Cluster.run` lets drivers submit what a `Workload` draws, each with a bound on the tasks that are not finished, and ends when all
have. Whatever is to happen besides is scheduled on the clock before (`faults`).
"""

from __future__ import annotations

import random
from functools import partial

from tests.sim import acting, checks
from tests.sim.daemons import Daemon
from tests.sim.drivers import Driver
from tests.sim.headlink import ClusterHead
from tests.sim.network import JITTER, LATENCIES_S, Clock, Network
from tests.sim.workers import Connection, Process, Run, Worker, place_of
from tests.sim.workload import Mix, Plan, Workload, bytes_to_move

from shoal.config import Config
from shoal.ids import node_tag, tag_of
from shoal.owner.objects import FAILED, Entry
from shoal.owner.rows import rows_of
from shoald.head import events as ev

STEADY_S = (0.0002,)
STORE_BYTES = 8 << 30
UNITS = 10_000
VALIDATED_EVERY = 20  # checks
_LOOK_S = 0.05  # a node that drains looks for actors that can go so often
_NOTICED_S = 0.05  # it takes so long to notice that a connection fails


class Cluster:
    """The simulated cluster.

    Args:
        steady: every message takes the same short time; otherwise the network is as bad as the seed wants.
        store_bytes: what a node's store has.
        directories: that a node spills to; 0: spilling is off.
        watches_bytes: it is known what lies where in every region, and each read sees whether that is what was wanted.

    Attributes:
        plans: what tasks do, by number.
        runs: how often a task was started.
        sealed: objects that a store has taken in; the reply of a task may be faster.
        fenced: nodes that the head has declared dead, though they may not know it yet.
        faulty: something goes wrong, or did.
        lost: objects of which only dead nodes had copies.
        damaged: objects whose copy on a disk was damaged, or could not be read.
        checked_every: events between two checks.
        least_bytes: that had to move for what has run, at the least.
    """

    def __init__(
        self,
        seed: int,
        nodes: int,
        cpus: int = 4,
        *,
        config: Config | None = None,
        steady: bool = True,
        store_bytes: int = STORE_BYTES,
        directories: int = 0,
        watches_bytes: bool = False,
    ) -> None:
        self.seed = seed
        self.steady = steady
        self.config = config or Config()
        self.random = random.Random(seed)
        self.clock = Clock()
        self.network = Network(
            self.clock, self.random, STEADY_S if steady else LATENCIES_S, (1,) if steady else JITTER
        )
        self.network.on_reach = self._reach
        self.head = ClusterHead(self.network, self.config)
        self.fenced: set[str] = set()
        self.head.on_dead = self.fenced.add
        self.draining: set[str] = set()
        self.daemons: dict[str, Daemon] = {}
        self.drivers: list[Driver] = []
        self.plans: dict[int, Plan] = {}
        self.outcomes: dict[str, int] = {}
        self.runs = 0
        self.least_bytes = 0
        self.history: list[str] = []
        self.lost: set[bytes] = set()
        self.damaged: set[bytes] = set()
        self.faulty = False
        self.stage = acting.Stage(self)
        self.becomes = acting.hears
        self.sealed: set[bytes] = set()
        self.watches_bytes = watches_bytes
        self.checked_every = 5
        self._events = 0
        self._pids = 0
        self._tokens = 0
        resources = {"CPU": cpus * UNITS}
        for number in range(nodes):
            # The first byte of a node's id is the first of its processes' ids.
            daemon = Daemon(self, (number % 255 + 1) * 65536 + number, resources, store_bytes, directories)
            self.daemons[daemon.node_id] = daemon

    def _reach(self, one: str, other: str) -> None:
        """Two nodes notice, after a moment, that connections between them fail, or are made again."""
        for near, far in ((one, other), (other, one)):
            if near in self.daemons and far in self.daemons:
                self.clock.at(_NOTICED_S, partial(self.daemons[near].traffic.reach, far))

    def join(self, limit_s: float = 60.0) -> None:
        """Let time pass until all nodes know each other."""
        wanted = len(self.daemons) - 1
        until = self.clock.now + limit_s
        while any(len(daemon.view.live) < wanted for daemon in self.daemons.values()):
            assert self.clock.now < until, "the nodes do not find each other"
            self.clock.run(0.05)

    def new_pid(self) -> int:
        """A number that nothing else has."""
        self._pids += 1
        return self._pids

    def new_token(self) -> bytes:
        self._tokens += 1
        return self._tokens.to_bytes(16, "big")

    def new_worker(self, daemon: Daemon, worker_id: bytes) -> Worker:
        return Worker(self, daemon, worker_id, self.new_pid())

    def connect(self, submitter: Process, worker: Process) -> Connection:
        assert isinstance(worker, Worker)
        return Connection(self, submitter, worker)

    def note(self, text: str) -> None:
        """For the report of a failure."""
        self.history.append(f"{self.clock.now:.4f} {text}")

    # --- what tasks tell ---

    def planned(self, plan: Plan) -> None:
        self.plans[plan.number] = plan
        for child in plan.children:
            self.planned(child)

    def started(self, worker: Worker, run: Run) -> None:
        self.runs += 1

    def ran(self, worker: Worker, run: Run) -> None:
        """A run has ended at its worker."""

    def ended(self, plan: Plan, entry: Entry) -> None:
        """A task has ended, as its submitter sees it; those of a task that runs once more end again."""
        plan.outcome = (
            "finished" if entry.state != FAILED else entry.value.split(b":")[0].decode(errors="replace")
        )
        assert plan.outcome, f"{plan} failed without a reason"
        self.counted(plan.outcome)
        plan.made_on = place_of(entry)
        if plan.outcome == "finished":
            self.least_bytes += bytes_to_move(plan)
        plan.arguments = ()
        if self.steady:
            del self.plans[plan.number]  # otherwise it may run once more

    def counted(self, outcome: str) -> None:
        """Something has ended that way."""
        self.outcomes[outcome] = self.outcomes.get(outcome, 0) + 1

    def cannot_be_read(self, object_id: bytes, kind: str, text: str) -> None:
        """A reader was refused: what is lost must have been lost by something, and every refusal says what happened."""
        assert text, f"{object_id.hex()} cannot be read, and nobody says why"
        if kind == "freed" and self.stage.is_let_go(object_id):
            return
        if kind in ("lost", "unrecoverable", "freed"):
            known = object_id in self.damaged or object_id in self.lost or bool(self.fenced)
            assert known, f"{object_id.hex()} cannot be read ({kind}: {text})"
            told = any(words in text for words in ("lost", "no node has it", "its only copy was on disk"))
            assert (kind != "freed" and told) or self.fenced, (kind, text)

    # --- ends ---

    def kill(self, process: Process) -> None:
        """A process dies; what it had sent arrives."""
        if not process.alive:
            return
        process.alive = False
        process.exit_code = 1
        process.up.send(None)
        process.down.close()
        if isinstance(process, Worker):
            for connection in list(process.connections):
                connection.back.send(None)
            process.connections.clear()
        for lease in list(process.dispatch.leases.values()):
            lease.connection.close_soon()

    def kill_node(self, daemon: Daemon) -> None:
        """A machine is gone, with all its processes."""
        if not daemon.alive:
            return
        self.note(f"{daemon} dies")
        daemon.alive = False
        self.network.kill(daemon.node_id)
        for other in self.daemons:
            self._reach(other, daemon.node_id)
        for process in [*daemon.clients.values(), *(each for each in daemon.forks.values() if each)]:
            process.alive = False
        alive = [each for each in self.daemons.values() if each.alive]
        there = set().union(*(each.store._ledger.objects for each in alive))
        self.lost |= self.sealed - there

    def drain(self, daemon: Daemon) -> None:
        """A node is to be left by all that can go elsewhere (`shoald.node.draining`)."""
        if daemon.node_id not in self.draining:
            self.note(f"{daemon} drains")
            self.draining.add(daemon.node_id)
            self.head.take(ev.DrainAsked(daemon.node_id, "it drains"))
            daemon.scheduler.placement.draining = True
            daemon.scheduler.view_changed(self.clock.now)
            self._drain_on(daemon)

    def _drain_on(self, daemon: Daemon) -> None:
        if daemon.alive:
            daemon.actors.drain(self.clock.now)
            daemon.turn()
            self.clock.at(_LOOK_S, lambda: self._drain_on(daemon))

    def seals(self, object_id: bytes) -> None:
        """A store takes an object in."""
        self.sealed.add(object_id)
        self.lost.discard(object_id)

    # --- running ---

    def add_driver(self, daemon: Daemon, tasks: int, mix: Mix, window: int) -> Driver:
        driver = Driver(self, daemon, Workload(self.random, mix, self.new_pid), tasks, window)
        self.drivers.append(driver)
        return driver

    def run(self, limit_s: float, step_s: float = 1.0) -> float:
        """Run until all drivers are done; the virtual seconds that took. AssertionError after ``limit_s``."""
        begun = self.clock.now
        for driver in self.drivers:
            driver.go_on()
        while not all(driver.done for driver in self.drivers if driver.alive):
            assert self.clock.now < begun + limit_s, self.describe_hang()
            self.clock.run(step_s)
        return self.clock.now - begun

    def describe_hang(self) -> str:
        """What is not finished, for people."""
        lines = [f"nothing ends any more (seed {self.seed}):"]
        for driver in self.drivers:
            if driver.alive and not driver.done:
                lines += [
                    f"  {driver}: {row}"
                    for row in rows_of(driver.dispatch)[:20]
                    if row["state"] != "FINISHED"
                ]
                lines += [f"  {driver}: {line}" for line in driver.casts.describe()]
        for daemon in self.daemons.values():
            if daemon.alive:
                lines += [f"  {daemon}: {row}" for row in daemon.scheduler.pending(self.clock.now)[:5]]
        return "\n".join(lines)

    def validate(self) -> None:
        """Every core of the cluster is sound."""
        self.head.core.validate()
        for daemon in self.daemons.values():
            if daemon.alive:
                daemon.validate()
                for process in daemon.clients.values():
                    process.dispatch.validate()
                    process.table.validate()
        for driver in self.drivers:
            driver.casts.validate()

    def processed(self, proc: bytes) -> int:
        """How far the stream of a process has been processed by its daemon; -1 if that is dead."""
        daemons = [each for each in self.daemons.values() if node_tag(each.node_id) == tag_of(proc)]
        return daemons[0].numbers.get(proc, -1) if daemons[0].alive else -1

    def processes(self) -> list[Process]:
        """All that live."""
        return [
            process
            for daemon in self.daemons.values()
            if daemon.alive
            for process in daemon.clients.values()
            if process.alive
        ]

    def checked(self) -> None:
        """After an event: safety every so often, and more rarely every core."""
        self._events += 1
        if self._events % self.checked_every == 0:
            checks.check(self)
        if self._events % (self.checked_every * VALIDATED_EVERY) == 0:
            self.validate()

    def moved_bytes(self) -> int:
        return sum(daemon.traffic.moved_bytes for daemon in self.daemons.values())

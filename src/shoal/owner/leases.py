"""Tasks of one shape that wait for workers, and the workers leased for them.

Policy only: how many tasks may wait at a worker (the window), which worker gets the next one, and how many
leases the daemon should be asked for. Tasks of unknown length go one at a time; short ones go many
ahead, bounded by `window_tasks_max` and by `window_ms` of work.

A task goes to the worker with the fewest, of several to the first. A few workers are looked through for it; many are ranked
(`ranking`): with a thousand machines, to look at every worker for every task would be most of its cost.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

from shoal.owner.ranking import Ranking
from shoal.owner.tasks import QUEUED, TaskRecord

if TYPE_CHECKING:
    from collections.abc import Callable

    from shoal.config import Config

DEMAND_MAX = 10_000  # leases asked for at once, per shape
RANKED_MIN = 16  # leases from which on looking at all of them takes longer than a ranking


class Lease:
    """A worker granted to this submitter.

    Attributes:
        proc: the worker's process id in the protocol; `pid` in the operating system of its `node` (an id).
        inflight: tasks sent and not answered, in order of sending.
        outbox: messages for it that were not written to its socket yet; about `outbox_bytes` of them.
        held_back: nothing more goes into the outbox, since too much waits at the socket.
        functions: ids of functions its connection has seen.
        stalled: its current task runs long; nothing more is sent until it answers.
        recalled: the daemon wants it back.
        idle_since: when it was first seen without work; None while it has some.
        number, ranked: its place in its queue's ranking, and the load that is entered there; 0 where there is none.
    """

    __slots__ = (
        "broken", "connection", "functions", "held_back", "idle_since", "inflight", "lease_id", "node", "number",
        "outbox", "outbox_bytes", "pid", "proc", "queue", "ranked", "recalled", "stalled", "used_up",
    )  # fmt: skip

    def __init__(
        self, lease_id: int, proc: bytes, pid: int, queue: ShapeQueue, connection: Any, node: str = ""
    ) -> None:
        self.lease_id = lease_id
        self.proc = proc
        self.pid = pid
        self.node = node
        self.queue = queue
        self.connection = connection
        self.inflight: dict[bytes, TaskRecord] = {}
        self.outbox: list[Any] = []
        self.outbox_bytes = 0
        self.held_back = False
        self.functions: set[bytes] = set()
        self.stalled = False
        self.recalled = False
        self.broken = False
        self.used_up = False
        self.idle_since: float | None = None
        self.number = 0
        self.ranked = 0

    def usable(self) -> bool:
        """Whether it may get tasks, if its window has room."""
        if self.recalled or self.broken or self.used_up or self.held_back:
            return False
        return not self.stalled or not self.inflight

    def take(self, task_id: bytes) -> TaskRecord | None:
        """A sent task is with the worker no longer; None if it was not."""
        task = self.inflight.pop(task_id, None)
        if len(self.inflight) < self.ranked:
            self.queue.eased(self)
        return task

    def __repr__(self) -> str:
        return f"<lease {self.lease_id} pid={self.pid} inflight={len(self.inflight)}>"


class ShapeQueue:
    """The ready tasks of one shape (resources, environment, strategy, preferred node), and their workers.

    Attributes:
        environment: what its workers are told before they run any of its tasks (client.environments); None for the node's own.
        nearer: the queue for a task with arguments that may be on other nodes; None while there is no such thing.
        near: node tag → the queue of such tasks that are drawn to that node; `plain`: of one of these, the queue it is near to.
        ranking: of the leases, while there are many.
    """

    __slots__ = (
        "backlog_told", "config", "environment", "infeasible", "key", "leases", "near", "nearer", "on_ready", "options",
        "plain",
        "ranking", "ready", "resources", "shape_id",
    )  # fmt: skip

    def __init__(
        self,
        shape_id: int,
        key: Any,
        resources: dict[str, int],
        config: Config,
        on_ready: Callable[[ShapeQueue], None],
    ) -> None:
        self.shape_id = shape_id
        self.key = key
        self.resources = resources
        self.config = config
        self.ready: deque[TaskRecord] = deque()
        self.leases: list[Lease] = []
        self.ranking: Ranking | None = None
        self.backlog_told = 0
        self.on_ready = on_ready
        self.nearer: Callable[[TaskRecord], ShapeQueue] | None = None
        self.near: dict[bytes, ShapeQueue] = {}
        self.plain: ShapeQueue | None = None
        self.infeasible: str | None = None
        self.options: dict[str, Any] = {}
        self.environment: dict[str, Any] | None = None

    def arguments_ready(self, task: TaskRecord) -> None:
        """All top-level arguments of ``task`` are there: it may run. Or one has failed, and needs no worker to fail it."""
        task.state = QUEUED
        if task.doomed:
            self.ready.appendleft(task)
        elif self.nearer is not None and task.lifted:
            queue = task.queue = self.nearer(task)
            queue.ready.append(task)
            self.on_ready(queue)
            return
        else:
            self.ready.append(task)
        self.on_ready(self)

    def go_on(self) -> None:
        """A lease is held back no longer."""
        if self.ranking is not None:
            self.ranking.renew()
        self.on_ready(self)

    def joined(self, lease: Lease) -> None:
        """Another worker is leased for these tasks."""
        self.leases.append(lease)
        if self.ranking is not None:
            self.ranking.join(lease)
        elif len(self.leases) >= RANKED_MIN:
            self.ranking = Ranking(self.leases)

    def left(self, lease: Lease) -> None:
        """A lease has ended."""
        self.leases.remove(lease)
        if self.ranking is not None:
            self.ranking.leave(lease)
            if len(self.leases) < RANKED_MIN // 2:
                self.ranking.end()
                self.ranking = None

    def eased(self, lease: Lease) -> None:
        """A worker has fewer tasks than the ranking, which there is, has entered."""
        assert self.ranking is not None
        self.ranking.eased(lease)

    def window(self, task: TaskRecord) -> int:
        """How many tasks like ``task`` may be at one worker."""
        mean_us = task.function.mean_us
        if mean_us is None or task.stream is not None or task.options.max_calls:
            return 1
        if mean_us < 1.0:
            return self.config.window_tasks_max
        return max(1, min(self.config.window_tasks_max, int(self.config.window_ms * 1000 / mean_us)))

    def choose(self, task: TaskRecord) -> Lease | None:
        """The worker for ``task``: the one with the fewest tasks, if its window has room."""
        if self.ranking is not None:
            return self.ranking.least(self.window(task))
        best = None
        fewest = self.window(task)
        for lease in self.leases:
            load = len(lease.inflight)
            if load < fewest and not (
                lease.recalled or lease.broken or lease.used_up or lease.held_back or (lease.stalled and load)
            ):  # as `usable`, inline
                best, fewest = lease, load
                if load == 0:
                    break
        return best

    def forget_near(self, queue: ShapeQueue) -> None:
        """A queue that was near to this one is forgotten."""
        self.near = {tag: each for tag, each in self.near.items() if each is not queue}

    def validate(self) -> None:
        """Raise AssertionError if an invariant is broken."""
        if self.ranking is not None:
            self.ranking.validate(self.leases)

    def wanted(self) -> int:
        """How many more leases would help now."""
        backlog = len(self.ready)
        if not backlog:
            return 0
        mean_us = self.ready[0].function.mean_us
        if mean_us is None:
            return min(backlog, DEMAND_MAX)
        # Enough workers that each has a window's worth of work; short tasks do not need one each.
        work_ms = backlog * mean_us / 1000
        return min(backlog, DEMAND_MAX, 1 + int(work_ms / self.config.window_ms))

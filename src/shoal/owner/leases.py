"""Tasks of one shape that wait for workers, and the workers leased for them.

Policy only: how many tasks may wait at a worker (the window), which worker gets the next one, and how many
leases the daemon should be asked for. Tasks of unknown length go one at a time; short ones go many
ahead, bounded by `window_tasks_max` and by `window_ms` of work.

The worker with the fewest tasks is looked for among all of a shape; among `SCAN_MAX` of them when there are more, after those
that are known to have nothing. With a thousand machines, to look at every worker for every task would be most of its cost.
"""

from __future__ import annotations

from collections import deque
from itertools import islice
from typing import TYPE_CHECKING, Any

from shoal.owner.tasks import QUEUED, TaskRecord

if TYPE_CHECKING:
    from collections.abc import Callable

    from shoal.config import Config

DEMAND_MAX = 10_000  # leases asked for at once, per shape
SCAN_MAX = 64  # leases looked at for one task, besides idle ones


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
    """

    __slots__ = (
        "broken", "connection", "functions", "held_back", "idle_since", "inflight", "lease_id", "node", "outbox",
        "outbox_bytes", "pid", "proc", "queue", "recalled", "stalled", "used_up",
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

    def __repr__(self) -> str:
        return f"<lease {self.lease_id} pid={self.pid} inflight={len(self.inflight)}>"


class ShapeQueue:
    """The ready tasks of one shape (resources, environment, strategy, preferred node), and their workers.

    Attributes:
        nearer: the queue for a task with arguments that may be on other nodes; None while there is no such thing.
        near: node tag → the queue of such tasks that are drawn to that node; `plain`: of one of these, the queue it is near to.
        many: there have been more than SCAN_MAX leases; then `idle` has all without tasks, and perhaps some that got one
            since, and `roomy` is the one that answered last.
    """

    __slots__ = (
        "_turn", "backlog_told", "config", "idle", "infeasible", "key", "leases", "many", "near", "nearer", "on_ready",
        "options", "plain", "ready", "resources", "roomy", "shape_id",
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
        self.many = False
        self.idle: dict[Lease, None] = {}
        self.roomy: Lease | None = None
        self._turn = 0
        self.backlog_told = 0
        self.on_ready = on_ready
        self.nearer: Callable[[TaskRecord], ShapeQueue] | None = None
        self.near: dict[bytes, ShapeQueue] = {}
        self.plain: ShapeQueue | None = None
        self.infeasible: str | None = None
        self.options: dict[str, Any] = {}

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
        self.on_ready(self)

    def joined(self, lease: Lease) -> None:
        """Another worker is leased for these tasks."""
        self.leases.append(lease)
        if self.many:
            self.idle[lease] = None
        elif len(self.leases) > SCAN_MAX:
            self.many = True
            self.idle = {each: None for each in self.leases if not each.inflight}

    def left(self, lease: Lease) -> None:
        """A lease has ended."""
        self.leases.remove(lease)
        self.idle.pop(lease, None)
        if self.roomy is lease:
            self.roomy = None

    def answered(self, lease: Lease) -> None:
        """One of many workers has less to do than before."""
        self.roomy = lease
        if not lease.inflight:
            self.idle[lease] = None

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
        best = None
        fewest = self.window(task)
        for lease in self._some(fewest) if self.many else self.leases:
            if lease.recalled or lease.broken or lease.used_up or (lease.stalled and lease.inflight):
                continue
            if lease.held_back:
                continue
            load = len(lease.inflight)
            if load < fewest:
                best, fewest = lease, load
                if load == 0:
                    break
        return best

    def _some(self, window: int) -> list[Lease]:
        """Workers of many: one without tasks, if there is one; else some, each time others, and the one that answered last.

        All may be full though another has room: that one answers some time, and is looked at then.
        """
        gone = []
        found = []
        for lease in reversed(self.idle):
            if lease.inflight:
                gone.append(lease)
            elif not (lease.recalled or lease.broken or lease.used_up or lease.held_back):
                found = [lease]
                break
        for lease in gone:
            del self.idle[lease]
        if found or window <= 1 or not self.leases:
            return found
        start = self._turn % len(self.leases)
        self._turn = start + SCAN_MAX
        some = self.leases[start : start + SCAN_MAX]
        some += islice(self.leases, min(start, SCAN_MAX - len(some)))
        return [*some, self.roomy] if self.roomy is not None else some

    def validate(self) -> None:
        """Raise AssertionError if an invariant is broken."""
        for lease in self.leases:
            assert not self.many or lease.inflight or lease in self.idle, lease

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

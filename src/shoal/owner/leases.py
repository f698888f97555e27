"""Tasks of one shape that wait for workers, and the workers leased for them.

Policy only: how many tasks may wait at a worker (the window), which worker gets the next one, and how many
leases the daemon should be asked for. Tasks of unknown length go one at a time; short ones go many
ahead, bounded by `window_tasks_max` and by `window_ms` of work.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

from shoal.owner.tasks import QUEUED, TaskRecord

if TYPE_CHECKING:
    from collections.abc import Callable

    from shoal.config import Config

DEMAND_MAX = 10_000  # leases asked for at once, per shape


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
    """

    __slots__ = (
        "backlog_told", "config", "infeasible", "key", "leases", "nearer", "on_ready", "options", "ready", "resources",
        "shape_id",
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
        self.backlog_told = 0
        self.on_ready = on_ready
        self.nearer: Callable[[TaskRecord], ShapeQueue] | None = None
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
        for lease in self.leases:
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

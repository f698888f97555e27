"""What people are told of the tasks of a process, for `list tasks` and the like."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from shoal.owner.leases import Lease, ShapeQueue
from shoal.owner.tasks import SENT, STATE_NAMES

if TYPE_CHECKING:
    from collections.abc import Iterable

    from shoal.owner.dispatch import Dispatcher
    from shoal.owner.tasks import TaskRecord


def rows_of(dispatch: Dispatcher) -> list[dict[str, Any]]:
    """Unfinished tasks, then the last finished ones."""
    rows = [
        {
            "id": task.id.hex(),
            "name": task.name,
            "state": "AT_WORKER" if queued_behind(task) else STATE_NAMES[task.state],
            "worker_pid": task.lease.pid if task.lease is not None else None,
            "worker_node": task.lease.node if task.lease is not None else "",
            "retries_left": task.retries,
        }
        for task in dispatch.tasks.values()
    ]
    rows += [
        {
            "id": task_id.hex(),
            "name": name,
            "state": outcome,
            "worker_pid": None,
            "worker_node": "",
            "retries_left": None,
        }
        for task_id, name, outcome in dispatch.finished
    ]
    return rows


def counts_of(dispatch: Dispatcher, actors: Iterable[Lease]) -> dict[str, int]:
    """How many unfinished tasks there are in each state of `rows_of`, in a time that follows shapes and workers, not tasks.

    A task that was cancelled or begun in place while it was queued counts as queued until its queue comes to it.

    Args:
        actors: connections to actors, whose calls are among the tasks.
    """
    leases = dispatch.leases.values()
    calls = sum(len(lease.inflight) for lease in actors)
    sent = sum(len(lease.inflight) for lease in leases)
    busy = sum(1 for lease in leases if lease.inflight)
    rest = max(0, len(dispatch.tasks) - calls - sent)
    queued = min(rest, sum(len(queue.ready) for queue in dispatch.queues.values()))
    return {
        "PENDING_ARGS": rest - queued,
        "PENDING_NODE": queued,
        "AT_WORKER": sent - busy,
        "RUNNING": busy + calls,
    }


def queued_behind(task: TaskRecord) -> int:
    """How many tasks are ahead of a sent one at its worker; 0 for one that runs (calls of actors may run side by side)."""
    lease = task.lease
    if task.state != SENT or lease is None or not isinstance(task.queue, ShapeQueue):
        return 0
    return next((place for place, task_id in enumerate(lease.inflight) if task_id == task.id), 0)

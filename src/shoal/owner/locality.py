"""Which node a task is drawn to: the one that has most bytes of its stored arguments.

Such a task waits in a queue of its own, of the same shape and with a preferred node (`prefer`), for which the daemon weighs
moving the arguments against waiting there (shoald.node.placement). Where an object was sealed, its stamp says; that copies
were made since is not known here.

That makes several queues of one shape, each with leases of its own. A worker that has nothing to do takes from all of them: what
is drawn to its node first, then what its lease is for, then what may run anywhere (`whose`). Without that a node whose workers
are busy with tasks for anywhere would have none for those that have their arguments there, and these would go elsewhere.

Nothing of this happens before this process has seen the first stored object of another node (`begin`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from shoal.ids import node_tag, tag_of
from shoal.owner.objects import STORED

if TYPE_CHECKING:
    from collections.abc import Callable

    from shoal.config import Config
    from shoal.owner.leases import Lease, ShapeQueue
    from shoal.owner.table import ObjectTable
    from shoal.owner.tasks import TaskRecord


class Locality:
    """The preferences of one process's tasks.

    Args:
        queue_for: makes or finds a queue (see Dispatcher.queue_for).
    """

    def __init__(self, table: ObjectTable, config: Config, queue_for: Callable[..., ShapeQueue]) -> None:
        self._own = tag_of(table.proc)
        self._bytes_min = config.locality_bytes_min
        self._queue_for = queue_for

    def home_of(self, task: TaskRecord) -> tuple[bytes, int] | None:
        """(tag of a node, how many more bytes of the arguments are there than here), if that is worth a preference."""
        by_tag: dict[bytes, int] = {}
        for entry in task.lifted:
            if entry.state == STORED:
                tag = tag_of(entry.stamp[0] if entry.stamp else entry.id)
                by_tag[tag] = by_tag.get(tag, 0) + entry.size
        here = by_tag.pop(self._own, 0)
        if not by_tag:
            return None
        tag = max(by_tag, key=lambda each: (by_tag[each], each))
        more = by_tag[tag] - here
        return (tag, more) if more >= self._bytes_min else None

    def choose(self, task: TaskRecord) -> ShapeQueue:
        """The queue for a task whose arguments are there: its own, or the one that prefers their node."""
        queue = task.queue
        home = self.home_of(task)
        if home is None:
            return queue
        tag, size = home
        options = {**queue.options, "prefer": tag, "prefer_bytes": size}
        found = self._queue_for((queue.key, tag), queue.resources, options)
        found.options["prefer_bytes"] = size
        if found.plain is not queue:  # a new one, or its plain one was forgotten meanwhile
            found.plain = queue
            found.environment = queue.environment
            queue.near[tag] = found
        return found

    @staticmethod
    def whose(lease: Lease) -> ShapeQueue | None:
        """The queue, not its own, that a worker without tasks is to take from; None if it is best to have it do its own."""
        own = lease.queue
        plain = own.plain or own
        near = plain.near.get(node_tag(lease.node)) if plain.near else None
        if near is not None and near.ready:
            return near if near is not own else None
        return plain if not own.ready and plain.ready and plain is not own else None

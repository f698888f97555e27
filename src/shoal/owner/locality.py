"""Which node a task is drawn to: the one that has most bytes of its stored arguments.

Such a task waits in a queue of its own, of the same shape and with a preferred node (`prefer`), for which the daemon weighs
moving the arguments against waiting there (shoald.node.placement). Where an object was sealed, its stamp says; that copies
were made since is not known here.

Nothing of this happens before this process has seen the first stored object of another node (`begin`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from shoal.ids import tag_of
from shoal.owner.objects import STORED

if TYPE_CHECKING:
    from collections.abc import Callable

    from shoal.config import Config
    from shoal.owner.leases import ShapeQueue
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
        return found

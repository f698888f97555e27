"""The queues of one process's shapes, by what they are for and by their number. Pure.

A process that lives for long may submit with ever new shapes (amounts, environments, placement groups). So idle queues are
forgotten, all together, when there are more than `shapes_idle_max`, and not before there are twice as many as were in use then:
that costs each new shape the same, however many there are.

Invariant: a queue with tasks, leases or a demand is here. One that was forgotten may still be somebody's: of a task that waits
for its arguments, or of a lineage. It is entered again before the daemon is asked for its workers (`enter`), and so there may be
two of one shape for a while. A lease that comes for a forgotten one goes back.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from shoal.owner.leases import ShapeQueue

if TYPE_CHECKING:
    from collections.abc import Callable

    from shoal.config import Config


class Shapes:
    """Those of one process.

    Attributes:
        queues: by key; by_id: by the number that the daemon knows them by.
    """

    def __init__(self, config: Config, on_ready: Callable[[ShapeQueue], None]) -> None:
        self._config = config
        self._on_ready = on_ready
        self._next_id = 1
        self._most = config.shapes_idle_max
        self.queues: dict[Any, ShapeQueue] = {}
        self.by_id: dict[int, ShapeQueue] = {}

    def make(self, key: Any, resources: dict[str, int], options: dict[str, Any]) -> ShapeQueue:
        """A queue for a shape that has none."""
        if len(self.by_id) >= self._most:
            self._forget_idle()
        queue = ShapeQueue(self._next_id, key, resources, self._config, self._on_ready)
        queue.options = options
        self._next_id += 1
        self.enter(queue)
        return queue

    def enter(self, queue: ShapeQueue) -> None:
        """The daemon is about to be asked for its workers, or will be."""
        self.by_id[queue.shape_id] = queue
        self.queues.setdefault(queue.key, queue)

    def _forget_idle(self) -> None:
        for queue in list(self.by_id.values()):
            if queue.ready or queue.leases or queue.backlog_told:
                continue
            del self.by_id[queue.shape_id]
            if self.queues.get(queue.key) is queue:
                del self.queues[queue.key]
            if queue.plain is not None:
                queue.plain.forget_near(queue)
        self._most = max(self._config.shapes_idle_max, 2 * len(self.by_id))

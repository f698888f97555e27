"""Arguments of tasks that wait at this worker: those on other nodes are fetched meanwhile.

A WATCH with the priority of arguments has the node fetch an object, and pins nothing: so tasks that wait take no room from the
one that runs, beyond what the node's budget for objects on their way allows. When the task starts, it pins them like all others.

Bound: the last `prefetched_ids_max` ids are remembered, so that many tasks with the same argument ask once; a worker that has
that many tasks with arguments elsewhere before it asks no further ahead than these.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from shoal.ids import tag_of
from shoal.wire import messages as m

if TYPE_CHECKING:
    from shoal.client.runtime import Runtime

_STORED_FIELDS = 2  # of a lifted argument: id and stamp


class Prefetch:
    """Asks ahead for one worker; called with the runtime's lock held."""

    def __init__(self, runtime: Runtime) -> None:
        self._table = runtime.table
        self._tag = tag_of(runtime.table.proc)
        self._limit = runtime.config.prefetched_ids_max
        self._asked: dict[bytes, None] = {}

    def task_waits(self, values: list[Any]) -> None:
        """A task with these lifted arguments (see `owner.spec`) waits here."""
        for value in values:
            if type(value) is tuple and len(value) == _STORED_FIELDS:
                object_id, (proc, number) = value
                if tag_of(proc) != self._tag and object_id not in self._asked:
                    self._ask(object_id, proc, number)

    def _ask(self, object_id: bytes, proc: bytes, number: int) -> None:
        self._asked[object_id] = None
        if len(self._asked) > self._limit:
            del self._asked[next(iter(self._asked))]
        self._table.to_node([m.WATCH, object_id, proc, number, m.PRIORITY_ARGUMENT])

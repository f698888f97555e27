"""The producing side of a streaming generator: items go out as they come, bounded by what the reader has taken."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from shoal.ids import return_id
from shoal.serialization import serialize
from shoal.wire import messages as m

if TYPE_CHECKING:
    from collections.abc import Callable

    from shoal.context import TaskContext
    from shoald.worker.executor import Executor

_END = object()


class Producer:
    """One running generator (an `Awaited` of the reactor while it waits for its reader)."""

    def __init__(self, executor: Executor, context: TaskContext, submitter: bytes, backlog: int) -> None:
        self._executor = executor
        self._context = context
        self._submitter = submitter
        self._backlog = backlog
        self._taken = 0
        self._sent = 0
        self.ready = True
        self.wake: object = None

    def consumed(self, count: int) -> None:
        """The reader has taken ``count`` items so far (lock held)."""
        self._taken = max(self._taken, count)
        if self._sent - self._taken < self._backlog:
            self.ready = True

    def run(self, iterator: Any, call: Callable[..., Any]) -> list[Any]:
        """Send every item; the results field of DONE. Each step of the generator runs as user code."""
        executor, context = self._executor, self._context
        step = iter(iterator).__next__
        while True:
            value = call(context, _next_or_end, (step,), {})
            if value is _END:
                break
            object_id = return_id(context.task_id, self._sent + 1)
            result = executor.results.one(object_id, value, self._submitter, context.name)
            del value
            self._sent += 1
            with executor.runtime.lock:
                self.ready = self._sent - self._taken < self._backlog
            executor.reply_now(
                self._submitter, (m.ITEM, context.task_id, self._sent - 1, result), not self.ready
            )
            if not self.ready:
                executor.runtime.wait_for_objects(self, [], None)
        total = serialize(self._sent).to_bytes()
        return [(m.RESULT_INLINE, total, (), None, self._sent)]


def _next_or_end(step: Callable[[], Any]) -> Any:
    try:
        return step()
    except StopIteration:
        return _END

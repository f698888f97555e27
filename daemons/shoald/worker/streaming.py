"""The producing side of a streaming generator: items go out as they come, bounded by what the reader has taken."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from shoal.ids import return_id
from shoal.serialization import serialize
from shoal.wire import messages as m

if TYPE_CHECKING:
    from collections.abc import Callable

    from shoal.context import TaskContext
    from shoald.worker.calls import Calls
    from shoald.worker.executor import Executor

_END = object()


class Producer:
    """One running generator (an `Awaited` of the reactor while it waits for its reader).

    Args:
        backlog: how many items may be unread.
        taken: items that the reader has taken from an earlier attempt; they are made again, and not waited for.
        received: items that an earlier attempt has sent; they are made again, and not sent.
        only: send these alone (counted from 1), and end after the last of them.
    """

    def __init__(
        self,
        executor: Executor | Calls,
        context: TaskContext,
        submitter: bytes,
        backlog: int,
        taken: int,
        received: int,
        only: tuple[int, ...] | None,
    ) -> None:
        self._executor = executor
        self._context = context
        self._submitter = submitter
        self._backlog = backlog
        self._taken = taken
        self._received = received
        self._only = frozenset(only) if only is not None else None
        self._last = max(only) if only else None
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
        if hasattr(iterator, "__anext__"):
            iterator = _Drained(iterator)
        try:
            step = iter(iterator).__next__
        except TypeError:
            kind = type(iterator).__name__
            raise TypeError(
                f"a streaming task must be a generator or return an iterable, not {kind}"
            ) from None
        try:
            while self._produce(step, call):
                if not self.ready:
                    self._executor.runtime.wait_for_objects(self, [], None)
        except BaseException:
            self._close(iterator, call)
            raise
        if self._last is not None:
            self._close(iterator, call)
        total = serialize(self._sent).to_bytes()
        return [(m.RESULT_INLINE, total, (), None, self._sent)]

    def _close(self, iterator: Any, call: Callable[..., Any]) -> None:
        """End a generator where it is."""
        close = getattr(iterator, "close", None)
        if close is not None:
            call(self._context, close, (), {}, stopping=True)

    def _produce(self, step: Callable[[], Any], call: Callable[..., Any]) -> bool:
        """One item; False at the end."""
        executor, context = self._executor, self._context
        if self._last is not None and self._sent >= self._last:
            return False
        value = call(context, next_or_end, (step,), {})
        if value is _END:
            return False
        if self._sent < self._received or (self._only is not None and self._sent + 1 not in self._only):
            self._sent += 1
            return True
        object_id = return_id(context.task_id, self._sent + 1)
        result = executor.results.one(object_id, value, self._submitter, context.name)
        del value
        self._sent += 1
        with executor.runtime.lock:
            self.ready = self._sent - self._taken < self._backlog
        executor.reply_now(self._submitter, (m.ITEM, context.task_id, self._sent - 1, result), not self.ready)
        return True


def next_or_end(step: Callable[[], Any]) -> Any:
    """One step of a generator; `_END` when there is none."""
    try:
        return step()
    except StopIteration:
        return _END


class _Drained:
    """An async generator as an iterator, on a loop of its own that runs while a step does."""

    def __init__(self, generator: Any) -> None:
        import asyncio  # 30 ms that only workers of such tasks pay

        self._generator = generator
        self._runner = asyncio.Runner()

    def __iter__(self) -> _Drained:
        return self

    def __next__(self) -> Any:
        value = self._runner.run(self._step())
        if value is _END:
            self._runner.close()
            raise StopIteration
        return value

    async def _step(self) -> Any:
        try:
            return await anext(self._generator)
        except StopAsyncIteration:
            return _END

    def close(self) -> None:
        """End the generator where it is, as its reader wants no more."""
        self._runner.run(self._generator.aclose())
        self._runner.close()

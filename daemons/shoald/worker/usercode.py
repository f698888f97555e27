"""User code on a thread of its own: a function or a method called for a task, and the steps of a generator.

Only what runs inside of `UserCode.call` may be interrupted by a cancel; around it the runtime is at work.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from shoal.context import TaskContext, current_task
from shoald.worker.streaming import Producer

if TYPE_CHECKING:
    from collections.abc import Callable

    from shoald.worker.calls import Calls
    from shoald.worker.cancels import Cancels
    from shoald.worker.executor import Executor


class UserCode:
    """Calls user code for one executor.

    Args:
        runner: whose tasks or calls these are.

    Attributes:
        producers: generators under way, by task; each has `consumed`.
    """

    __slots__ = ("_cancels", "_runner", "producers")

    def __init__(self, runner: Executor | Calls, cancels: Cancels) -> None:
        self._runner = runner
        self._cancels = cancels
        self.producers: dict[bytes, Any] = {}

    def call(
        self,
        context: TaskContext,
        function: Callable[..., Any],
        args: Any,
        kwargs: Any,
        stopping: bool = False,
    ) -> Any:
        """``function(*args, **kwargs)`` as the task of ``context``; ``stopping``: whether it is cancelled does not matter."""
        token = current_task.set(context)
        cancels = self._cancels
        outer = cancels.in_user_code
        try:
            if not stopping:
                cancels.check(context.task_id)
                cancels.in_user_code = True
            return function(*args, **kwargs)
        finally:
            cancels.in_user_code = outer
            current_task.reset(token)

    def stream(
        self, context: TaskContext, iterator: Any, submitter: bytes, details: dict[str, Any]
    ) -> list[Any]:
        """Send every item of a generator; the results field of its DONE."""
        runner, producers = self._runner, self.producers
        backlog = details["backlog"] or runner.runtime.config.generator_backlog_max
        producer = Producer(
            runner, context, submitter, backlog, details["taken"], details["received"], details["only"]
        )
        producers[context.task_id] = producer
        cancels = self._cancels
        outer, cancels.in_user_code = cancels.in_user_code, True  # also while it waits for its reader
        try:
            return producer.run(iterator, self.call)
        finally:
            cancels.in_user_code = outer
            del producers[context.task_id]

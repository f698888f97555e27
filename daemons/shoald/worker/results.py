"""What a task made, on its way to the submitter: small values in the reply, large ones sealed in the store.

Refs inside a result escape. A value (or an error) with refs is sealed in the store, however small it is: the stored copy holds
the refs, and the submitter holds the copy. So nothing is lost or left over when this process dies at any moment.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from shoal.exceptions import ShoalError, TaskCancelledError, TaskError, format_remote_traceback
from shoal.ids import return_id
from shoal.serialization import Serialized, dumps_small, serialize
from shoal.wire import messages as m

if TYPE_CHECKING:
    from shoal.client.runtime import Runtime
    from shoal.owner.objects import Stamp


class Results:
    """Encodes results and failures in one worker."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._limit = runtime.config.inline_bytes_max
        self._budget = runtime.config.inline_args_bytes_max

    def encode(
        self,
        task_id: bytes,
        value: Any,
        count: int,
        submitter: bytes,
        name: str,
        only: tuple[int, ...] | None = None,
    ) -> list[Any]:
        """The results field of DONE for ``count`` returns; of these ``only`` some, if the others are there already.

        Raises ValueError if ``value`` is not a sequence of that length.
        """
        if count == 1:
            content = dumps_small(value)
            if content is not None and len(content) <= self._limit:
                return [content]
            return [self._other(task_id, value, submitter, name, self._limit)]
        if count == 0:
            return []
        try:
            values = list(value)
        except TypeError:
            raise ValueError(f"num_returns={count}, but the task returned {type(value).__name__}") from None
        if len(values) != count:
            raise ValueError(f"num_returns={count}, but the task returned {len(values)} value(s)")
        budget = self._budget
        results: list[Any] = []
        for index in range(count) if only is None else only:
            each = values[index]
            result = dumps_small(each)
            limit = min(self._limit, budget)
            if result is None or len(result) > limit:
                result = self._other(return_id(task_id, index), each, submitter, name, limit)
            if type(result) is bytes:
                budget -= len(result)
            results.append(result)
        return results

    def one(self, object_id: bytes, value: Any, submitter: bytes, name: str) -> Any:
        """One result (see wire.messages)."""
        content = dumps_small(value)
        if content is not None and len(content) <= self._limit:
            return content
        return self._other(object_id, value, submitter, name, self._limit)

    def _other(self, object_id: bytes, value: Any, submitter: bytes, name: str, limit: int) -> Any:
        """A result that is not plain and small; inline up to ``limit`` bytes."""
        packed = serialize(value)
        if packed.size <= limit:
            if not packed.refs:
                return packed.to_bytes()
            return (
                m.RESULT_INLINE,
                packed.to_bytes(),
                self._seal(object_id, packed, m.SEAL_PRIMARY, submitter, name),
            )
        return (m.RESULT_STORED, packed.size, self._seal(object_id, packed, m.SEAL_PRIMARY, submitter, name))

    def _seal(self, object_id: bytes, packed: Serialized, flags: int, submitter: bytes, name: str) -> Stamp:
        runtime = self._runtime
        runtime.values.escape_all(packed.refs)
        runtime.store.seal(object_id, packed, flags, submitter, f"result of {name}")
        if runtime.table.promotions:
            runtime.write_promotions()  # small values that it refers to must not go with this process
        with runtime.lock:
            return runtime.table.stamp_now()

    def failure(
        self,
        task_id: bytes,
        error: BaseException,
        name: str,
        submitter: bytes,
        started: bool,
        attempt: int = 0,
    ) -> tuple[Any, ...]:
        """(FAILED, id, error bytes, container, cancelled). Not ``started``: an argument could not be had."""
        if isinstance(error, TaskCancelledError):
            return (*self.cancelled(task_id, name), True)
        wrapped: BaseException
        if isinstance(error, ShoalError) and not started:
            wrapped = error.with_dependent(name)
        else:
            node = self._runtime.identity.node_id
            wrapped = TaskError.from_exception(error, name, os.getpid(), node, format_remote_traceback(error))
        with self._runtime.lock:
            container: tuple[Any, ...] = (b"", self._runtime.table.stamp_now())
        try:
            packed = serialize(wrapped)
            if packed.size > self._budget:
                raise ValueError(f"it has {packed.size} bytes, and an error may have {self._budget}")
            if packed.refs:
                error_id = return_id(task_id, m.ERROR_INDEX - attempt)
                container = (
                    error_id,
                    self._seal(error_id, packed, m.SEAL_PRIMARY | m.SEAL_ERROR, submitter, name),
                )
        except Exception as problem:  # noqa: BLE001  the exception holds something that cannot travel
            node = self._runtime.identity.node_id
            text = format_remote_traceback(error)
            told = TaskError.from_exception(error, name, os.getpid(), node, text, unsent=str(problem))
            packed = serialize(told)
        return (m.FAILED, task_id, packed.to_bytes(), container, False)

    def cancelled(self, task_id: bytes, name: str = "") -> tuple[Any, ...]:
        """(FAILED, id, error bytes, no container) of a cancelled task."""
        return (m.FAILED, task_id, serialize(TaskCancelledError(task_name=name)).to_bytes(), ())

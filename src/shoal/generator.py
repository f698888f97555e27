"""ObjectRefGenerator: the refs that a streaming generator task yields, as they come.

The producer runs ahead of the reader by a bounded number of items (backpressure); dropping the generator cancels
it. A failure of the task is the last item: its `get` raises.

One of num_returns="dynamic" keeps the refs that it has given: `get`, and every task that it is passed to, has all of them as a
DynamicObjectRefGenerator. To pass it on waits for its end, since what a value refers to is fixed when it is sent.
"""

from __future__ import annotations

import contextlib
import time
from collections import deque
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from shoal.exceptions import GetTimeoutError
from shoal.refs import ObjectRef
from shoal.wakeup import bells, ring
from shoal.wire import messages as m

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop, Future
    from collections.abc import AsyncIterator, Iterable, Iterator

    from shoal.client.runtime import Runtime
    from shoal.owner.tasks import TaskRecord

T = TypeVar("T")


class _Next:
    """Waits for the next item or the end (an `Awaited` of the reactor)."""

    __slots__ = ("ready", "wake")

    def __init__(self) -> None:
        self.ready = False
        self.wake: object = None


class _NextAwaited:
    """An asyncio program that waits for the next item or the end."""

    __slots__ = ("_loop", "future")

    def __init__(self, loop: AbstractEventLoop) -> None:
        self._loop = loop
        self.future: Future[None] = loop.create_future()

    @property
    def ready(self) -> bool:
        return self.future.done()

    @ready.setter
    def ready(self, _: bool) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed, and nobody waits any more
            self._loop.call_soon_threadsafe(self._wake)

    def _wake(self) -> None:
        if not self.future.done():
            self.future.set_result(None)


class DynamicObjectRefGenerator(Generic[T]):
    """The refs to all items of a task with num_returns="dynamic"; each is given once, and `len` tells how many are left."""

    def __init__(self, refs: Iterable[ObjectRef[T]]) -> None:
        self._refs = deque(refs)

    def __iter__(self) -> Iterator[ObjectRef[T]]:
        while self._refs:
            yield self._refs.popleft()

    def __len__(self) -> int:
        return len(self._refs)

    def __reduce__(self) -> Any:
        return DynamicObjectRefGenerator, (list(self._refs),)

    def __repr__(self) -> str:
        return f"DynamicObjectRefGenerator({list(self._refs)})"


class ObjectRefGenerator(Generic[T]):
    """Iterate (or `async for`) to get one `ObjectRef` per yielded item."""

    def __init__(self, runtime: Runtime, task: TaskRecord, completion: ObjectRef[Any]) -> None:
        self._runtime = runtime
        self._task = task
        self._stream: Any = task.stream
        self._completion = completion
        # Of a dynamic one: what has come, and how much of it was given to who iterates.
        self._kept: list[ObjectRef[T]] | None = [] if self.is_dynamic else None
        self._given = 0

    def __iter__(self) -> Iterator[ObjectRef[T]]:
        return self

    def __next__(self) -> ObjectRef[T]:
        ref = self._next(None)
        if ref is None:
            raise StopIteration
        return ref

    @property
    def is_dynamic(self) -> bool:
        """Made with num_returns="dynamic": `get` waits for its end and returns it, and nothing holds its producer up."""
        return self._task.options.num_returns == "dynamic"

    def completed(self) -> ObjectRef[Any]:
        """A ref that is ready when the generator has ended; its value is the number of items."""
        return self._completion

    def gathered(self, timeout_s: float | None = None) -> DynamicObjectRefGenerator[T]:
        """The refs to all items of a dynamic one, once it has ended; whoever iterates over this one still gets them.

        Raises GetTimeoutError; the task's error if it has given no item, else the last ref does.
        """
        assert self._kept is not None
        failure: Exception | None = None
        try:
            self._runtime.values.get(self._completion, timeout_s)
        except GetTimeoutError:
            raise
        except Exception as error:  # noqa: BLE001  (whatever the task raised)
            failure = error
        given = self._given
        self._given = len(self._kept)
        while self._next(None) is not None:
            pass
        self._given = given
        if failure is not None and len(self._kept) <= 1:
            raise failure
        return DynamicObjectRefGenerator(self._kept)

    def _next(self, timeout_s: float | None) -> ObjectRef[T] | None:
        """The next ref; None at the end. Raises TimeoutError when time is up."""
        runtime, stream = self._runtime, self._stream
        while True:
            waiter = _Next()
            with runtime.lock:
                ref = self._take()
                if ref is not None or self._ended():
                    return ref
                stream.waiters.append(waiter)
            deadline = None if timeout_s is None else time.monotonic() + timeout_s
            if not runtime.wait_for_objects(waiter, [], deadline):
                raise TimeoutError("the generator has not yielded its next item in time")

    def _take(self) -> ObjectRef[T] | None:
        """The next ref if its item is there (lock held)."""
        stream, kept = self._stream, self._kept
        if kept is not None and self._given < len(kept):
            self._given += 1
            return kept[self._given - 1]
        entry = stream.items.pop(stream.taken, None)
        if entry is None:
            return None
        stream.taken += 1
        self._tell_consumed()
        ref: ObjectRef[T] = ObjectRef(entry.id, entry)
        if kept is not None:
            kept.append(ref)
            self._given += 1
        return ref

    def await_next(self, waiter: object) -> bool:
        """Have ``waiter`` made ready when something has come; False, and nothing, if `next` does not wait (lock held).

        One of num_returns="dynamic" is waited for to its end. Raises NodeDiedError if the session has ended.
        """
        runtime, stream = self._runtime, self._stream
        if runtime.closed:
            raise runtime.connection_lost()
        if self._ended() or (stream.total is not None if self.is_dynamic else stream.taken in stream.items):
            return False
        stream.waiters.append(waiter)
        return True

    def await_no_more(self, waiter: object) -> None:
        """End what `await_next` began (lock held)."""
        if waiter in self._stream.waiters:
            self._stream.waiters.remove(waiter)

    def _ended(self) -> bool:
        """Whether all items were taken (lock held)."""
        stream, kept = self._stream, self._kept
        if kept is not None and self._given < len(kept):
            return False
        return stream.total is not None and stream.taken >= stream.total

    def _tell_consumed(self) -> None:
        lease = self._task.lease
        if lease is not None and not lease.broken:
            lease.outbox.append((m.CONSUMED, self._task.id, self._stream.taken))
            self._runtime.dispatch.dirty.add(lease)
            self._runtime.reactor.nudge()

    def __aiter__(self) -> AsyncIterator[ObjectRef[T]]:
        return self

    async def __anext__(self) -> ObjectRef[T]:
        import asyncio  # costs 30 ms: only programs that use it pay

        runtime, stream = self._runtime, self._stream
        loop = asyncio.get_running_loop()
        while True:
            arrival = _NextAwaited(loop)
            with runtime.lock:
                ref = self._take()
                if ref is not None:
                    return ref
                if self._ended():
                    raise StopAsyncIteration
                stream.waiters.append(arrival)
                runtime.futures.await_begins(arrival)
            runtime.reactor.nudge()
            try:
                await arrival.future
            finally:  # also when the await was cancelled: an item that comes later is for the next one
                with runtime.lock:
                    if arrival in stream.waiters:
                        stream.waiters.remove(arrival)
                    runtime.futures.await_ends(arrival)

    def close(self) -> None:
        """Stop the producer; items that were not taken are released."""
        runtime, stream = self._runtime, self._stream
        if runtime.closed:
            return
        with runtime.lock:
            untaken = stream.close()
            if stream.total is None:
                runtime.dispatch.cancel(self._task, force=False, recursive=True)
            runtime.table.drop_uses(untaken)
            runtime.flush()

    def __del__(self) -> None:
        # Runs anywhere, perhaps under the lock: the work is left to the completion ref's owner at the next tick.
        stream = getattr(self, "_stream", None)
        if stream is not None and not stream.closed:
            abandoned.append(self._task)
            if bells:
                ring()

    def __reduce__(self) -> Any:
        if self._kept is not None:
            return self.gathered().__reduce__()
        raise TypeError(
            "an ObjectRefGenerator stays in its process; pass on the refs that it gives, or list(it)"
        )

    def __repr__(self) -> str:
        return f"ObjectRefGenerator({self._task.name}, {self._stream.taken} taken)"


# Tasks whose generator was dropped; the runtime's tick cancels them and releases their items.
abandoned: list[TaskRecord] = []


def drop_abandoned(runtime: Runtime) -> None:
    """Cancel the producers of dropped generators (lock held)."""
    while abandoned:
        task = abandoned.pop()
        stream = task.stream
        if stream is None or stream.closed:
            continue
        items = [entry for entry in stream.close() if runtime.table.entries.get(entry.id) is entry]
        if stream.total is None and runtime.dispatch.tasks.get(task.id) is task:
            runtime.dispatch.cancel(task, force=False, recursive=True)
        runtime.table.drop_uses(items)

"""Executor: the `concurrent.futures` interface over tasks.

A call waits here while `max_workers` others are under way, then it is a task. Its future knows the task's ref; what the task
came to arrives on the thread that resolves futures, where callbacks run and the next calls are submitted.

As with the standard library's executors, the interpreter waits at its exit for what was submitted, and a call that cannot
be pickled fails its future. Other than there, a call that runs can be cancelled.
"""

from __future__ import annotations

import concurrent.futures
import os
import threading
import weakref
from collections import deque
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from shoal import option_checks as checks
from shoal import session

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from shoal.client.runtime import Runtime
    from shoal.refs import ObjectRef

P = ParamSpec("P")
T = TypeVar("T")

_living: weakref.WeakSet[Executor] = weakref.WeakSet()
_exiting = False  # the interpreter has begun to end
_prepared: set[bytes] = set()  # in a worker: the executors whose initializer has run


class Executor(concurrent.futures.Executor):
    """Runs each call as a task. Starts a local cluster at the first call if there is none.

    A call that is queued or runs can be cancelled by `Future.cancel()`, unlike in the standard library's executors.

    Args:
        max_workers: calls at once, at most; None: what the cluster's CPUs allow.
        initializer, initargs: called once in each worker process before its first call. If it raises, the executor is
            broken, as the standard library's: calls fail with BrokenExecutor.
        options: of the tasks, e.g. num_cpus=2, max_retries=0.
    """

    def __init__(
        self,
        max_workers: int | None = None,
        *,
        initializer: Callable[..., object] | None = None,
        initargs: tuple[Any, ...] = (),
        **options: Any,
    ) -> None:
        from shoal.api import remote

        if "num_returns" in options:
            raise TypeError(
                "an Executor's calls have one result each: num_returns is for tasks with refs (shoal.remote)"
            )
        if max_workers is not None:
            max_workers = checks.whole(1)("max_workers", max_workers)
        if initializer is not None and not callable(initializer):
            raise TypeError("initializer must be a callable")
        self._call = remote(_call).options(**options)
        self._setup = None if initializer is None else (os.urandom(16), initializer, initargs)
        self._limit = max_workers
        self._lock = threading.Lock()
        self._open: dict[_TaskFuture, None] = {}
        self._waiting: deque[_TaskFuture] = deque()
        self._under_way = 0
        self._pumping = self._pump_again = False
        self._shut = False
        self._broken = ""
        _living.add(self)

    def submit(
        self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs
    ) -> concurrent.futures.Future[T]:
        """A future for ``fn(*args, **kwargs)``.

        Raises RuntimeError after `shutdown`, BrokenExecutor if the initializer has failed.
        """
        runtime = session.runtime()
        with self._lock:
            if self._broken:
                raise concurrent.futures.BrokenExecutor(self._broken)
            if self._shut or _exiting:
                when = "interpreter shutdown" if _exiting else "shutdown"
                raise RuntimeError(f"cannot schedule new futures after {when}")
            future = _TaskFuture(runtime, (fn, args, kwargs))
            self._open[future] = None
            self._waiting.append(future)
        future.add_done_callback(self._done)
        self._pump()
        return future

    def _pump(self) -> None:
        """Submit waiting calls while there is room. What fails at once makes room: that is a loop here, not a recursion."""
        with self._lock:
            self._pump_again = True
            if self._pumping:
                return
            self._pumping = True
        while True:
            with self._lock:
                self._pump_again = False
                future = self._next()
                if future is None and not self._pump_again:
                    self._pumping = False
                    return
            if future is not None:
                self._begin(future)

    def _next(self) -> _TaskFuture | None:
        """The next call to submit (lock held)."""
        while self._waiting and (self._limit is None or self._under_way < self._limit):
            future = self._waiting.popleft()
            if not future.cancelled():
                self._under_way += 1
                future.begun = True
                return future
        return None

    def _begin(self, future: _TaskFuture) -> None:
        call, future.call = future.call, None
        try:
            if future.runtime.closed:  # a call does not begin a new session long after it was made
                raise future.runtime.connection_lost()
            ref = self._call.remote(self._setup, call)
        except Exception as error:  # noqa: BLE001  a call that cannot be sent has failed, as in the standard library's executors
            future.fail(error)
        else:
            future.follow(ref)

    def _done(self, future: Any) -> None:
        broken = future.broken
        with self._lock:
            self._open.pop(future, None)
            self._under_way -= future.begun
            lost = []
            if broken and not self._broken:
                self._broken = broken
                lost = list(self._waiting)
                self._waiting.clear()
        for each in lost:
            each.fail(concurrent.futures.BrokenExecutor(broken))
        self._pump()

    def map(
        self,
        fn: Callable[..., T],
        *iterables: Iterable[Any],
        timeout: float | None = None,
        chunksize: int = 1,
    ) -> Iterator[T]:
        """``fn`` of the items of the iterables, in order; all are submitted at once.

        Args:
            timeout: seconds from this call until the last result; then TimeoutError.
            chunksize: items per task.
        """
        chunksize = checks.whole(1)("chunksize", chunksize)
        if chunksize == 1:
            return super().map(fn, *iterables, timeout=timeout)
        items = list(zip(*iterables, strict=False))
        chunks = [items[start : start + chunksize] for start in range(0, len(items), chunksize)]
        return _each(super().map(_map_chunk, [fn] * len(chunks), chunks, timeout=timeout))

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more calls. ``cancel_futures``: cancel those that do not run yet. ``wait``: until all have ended."""
        with self._lock:
            self._shut = True
            still = list(self._open)
            waiting = list(self._waiting) if cancel_futures else []
        if cancel_futures:
            for future in waiting:  # before those that make room for them
                future.cancel()
            for future in reversed(still):
                if not future.running():
                    future.cancel()
        if wait:
            concurrent.futures.wait(still)


class _TaskFuture(concurrent.futures.Future[Any]):
    """The future of one call.

    Attributes:
        runtime: of the session that it was made in.
        call: what to call, until it is submitted.
        begun: it was submitted, and counts as under way until it is done.
        broken: why its executor is broken, if this call has shown that.
    """

    def __init__(self, runtime: Runtime, call: tuple[Any, ...]) -> None:
        super().__init__()
        self.runtime = runtime
        self.call: tuple[Any, ...] | None = call
        self.begun = False
        self.broken = ""
        self._ref: ObjectRef[Any] | None = None
        self._ending = threading.RLock()  # callbacks run in it, and may ask again

    def follow(self, ref: ObjectRef[Any]) -> None:
        """It is the task of ``ref`` now."""
        from shoal.api import cancel

        with self._ending:
            late = self.cancelled()
            if not late:
                self._ref = ref
        if late:
            cancel(ref)
        else:
            ref.future().add_done_callback(self._arrived)

    def fail(self, error: BaseException) -> None:
        """It has failed with ``error``, unless it was cancelled."""
        if self._end():
            self.set_exception(error)

    def _end(self) -> bool:
        """No cancel comes any more; False if one has come before."""
        with self._ending:
            self._ref = self.call = None
            if self.cancelled():
                return False
            self.set_running_or_notify_cancel()
            return True

    def _arrived(self, inner: concurrent.futures.Future[Any]) -> None:
        from shoal.exceptions import TaskError

        if not self._end():
            return
        error = inner.exception()
        if error is None:
            self.set_result(inner.result())
            return
        # As the standard library's: the function's own exception, which says where it was raised.
        cause = error.cause if isinstance(error, TaskError) else None
        if isinstance(cause, _InitializerFailed):
            self.broken = str(cause)
            cause = concurrent.futures.BrokenExecutor(self.broken)
        if cause is None:
            self.set_exception(error)
        else:
            cause.__cause__ = error
            self.set_exception(cause)

    def result(self, timeout: float | None = None) -> Any:
        """What the call returned; raises what it raised, even if that is false in a condition (the base class swallows it)."""
        error = self.exception(timeout)
        if error is None:
            return super().result(0)
        try:
            raise error
        finally:
            del error, self  # the traceback refers to this frame

    def running(self) -> bool:
        """Whether the call has begun to run, as far as this process knows."""
        from shoal.owner.rows import queued_behind
        from shoal.owner.tasks import SENT

        ref = self._ref
        entry = ref._entry if ref is not None and not self.done() else None
        task = entry.task if entry is not None else None
        return task is not None and task.state == SENT and not queued_behind(task)

    def cancel(self) -> bool:
        """Cancel the task, also when it runs; False if it has ended."""
        from shoal.api import cancel

        with self._ending:
            ref, self._ref, self.call = self._ref, None, None
            if self.cancelled():
                return True
            if not super().cancel():
                return False
            self.set_running_or_notify_cancel()  # whoever waits for it need not wait for the task
        if ref is not None:
            cancel(ref)
        return True


class _InitializerFailed(Exception):
    """The initializer of an executor raised in a worker."""


def _call(setup: tuple[Any, ...] | None, call: tuple[Any, ...]) -> Any:
    if setup is not None and setup[0] not in _prepared:
        token, initializer, initargs = setup
        try:
            initializer(*initargs)
        except BaseException as error:
            text = f"the initializer of the executor raised {type(error).__name__}: {error}"
            raise _InitializerFailed(text) from error
        _prepared.add(token)
    fn, args, kwargs = call
    return fn(*args, **kwargs)


def _map_chunk(fn: Callable[..., Any], chunk: list[tuple[Any, ...]]) -> list[Any]:
    return [fn(*items) for items in chunk]


def _each(parts: Iterator[list[Any]]) -> Iterator[Any]:
    """The items of all parts; none is kept alive here once it was given out."""
    for part in parts:
        part.reverse()
        while part:
            yield part.pop()


def _finish_all() -> None:
    """The interpreter ends: wait for what was submitted."""
    global _exiting
    _exiting = True
    for executor in list(_living):
        executor.shutdown()


# Before the session is shut down at exit, as the standard library's executors are finished; there is no public way to do this.
threading._register_atexit(_finish_all)  # type: ignore[attr-defined]
os.register_at_fork(
    after_in_child=_living.clear
)  # a forked child has none of the threads that would finish them

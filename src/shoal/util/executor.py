"""Executor: the `concurrent.futures` interface over tasks."""

from __future__ import annotations

import concurrent.futures
import threading
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from shoal.refs import ObjectRef

P = ParamSpec("P")
T = TypeVar("T")


class Executor(concurrent.futures.Executor):
    """Runs each call as a task. Starts a local cluster at the first call if there is none.

    A call that is queued or runs can be cancelled by `Future.cancel()`, unlike in the standard library's executors.

    Args:
        max_workers: calls at once, at most; None: what the cluster's CPUs allow.
        options: of the tasks, e.g. num_cpus=2, max_retries=0.
    """

    def __init__(self, max_workers: int | None = None, **options: Any) -> None:
        from shoal.api import remote

        if max_workers is not None and max_workers <= 0:
            raise ValueError("max_workers must be greater than 0")
        self._call = remote(_call).options(**options)
        self._room = threading.Semaphore(max_workers) if max_workers is not None else None
        self._lock = threading.Lock()
        self._open: set[_TaskFuture] = set()
        self._shut = False

    def submit(
        self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs
    ) -> concurrent.futures.Future[T]:
        """A future for ``fn(*args, **kwargs)``. With ``max_workers``, waits for room. Raises RuntimeError after `shutdown`."""
        if self._room is not None:
            self._room.acquire()
        with self._lock:
            if self._shut:
                if self._room is not None:
                    self._room.release()
                raise RuntimeError("cannot schedule new futures after shutdown")
            future = _TaskFuture(self._call.remote(fn, args, kwargs))
            self._open.add(future)
        future.add_done_callback(self._done)
        future.start()
        return future

    def _done(self, future: concurrent.futures.Future[Any]) -> None:
        with self._lock:
            self._open.discard(future)
        if self._room is not None:
            self._room.release()

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
        if chunksize < 1:
            raise ValueError("chunksize must be >= 1.")
        if chunksize == 1:
            return super().map(fn, *iterables, timeout=timeout)
        items = list(zip(*iterables, strict=False))
        chunks = [items[start : start + chunksize] for start in range(0, len(items), chunksize)]
        parts = super().map(_map_chunk, [fn] * len(chunks), chunks, timeout=timeout)
        return (each for part in parts for each in part)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more calls. ``cancel_futures``: cancel those that have no result. ``wait``: until all have ended."""
        with self._lock:
            self._shut = True
            still = list(self._open)
        if cancel_futures:
            for future in still:
                future.cancel()
        if wait:
            concurrent.futures.wait(still)


class _TaskFuture(concurrent.futures.Future[Any]):
    """The future of one task."""

    def __init__(self, ref: ObjectRef[Any]) -> None:
        super().__init__()
        self._ref: ObjectRef[Any] | None = ref
        self._ending = threading.RLock()  # callbacks run in it, and may ask again

    def start(self) -> None:
        ref = self._ref
        if ref is not None:
            ref.future().add_done_callback(self._arrived)

    def _arrived(self, inner: concurrent.futures.Future[Any]) -> None:
        from shoal.exceptions import TaskError

        with self._ending:
            self._ref = None
            if self.cancelled():
                return
            self.set_running_or_notify_cancel()
        error = inner.exception()
        if error is None:
            self.set_result(inner.result())
        else:
            # As the standard library's: the function's own exception, which says where it was raised.
            cause = error.cause if isinstance(error, TaskError) else None
            if cause is not None:
                cause.__cause__ = error
            self.set_exception(cause or error)

    def cancel(self) -> bool:
        """Cancel the task, also when it runs; False if it has ended."""
        from shoal.api import cancel

        with self._ending:
            ref = self._ref
            if self.cancelled():
                return True
            if not super().cancel():
                return False
            self.set_running_or_notify_cancel()  # whoever waits for it need not wait for the task
        if ref is not None:
            cancel(ref)
        return True


def _call(fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    return fn(*args, **kwargs)


def _map_chunk(fn: Callable[..., Any], chunk: list[tuple[Any, ...]]) -> list[Any]:
    return [fn(*items) for items in chunk]

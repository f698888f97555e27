"""Pool: the interface of `multiprocessing.Pool`, with actors as its processes.

Work is cut into chunks, which wait in one queue; an actor gets the next one when it has fewer than two. Results arrive
on the thread that resolves futures; callbacks run there. An actor that dies takes the calls it was sent with it: they
raise ActorDiedError, and another one takes its place.

Results are told without the pool's lock: who is told may want more work given out, with a lock of its own (`imap`), which another
thread has that waits for the pool's. So what was sent is watched only then: it may have ended already.
"""

from __future__ import annotations

import itertools
import threading
from collections import deque
from functools import partial
from typing import TYPE_CHECKING, Any, Self

from shoal.exceptions import ActorDiedError
from shoal.util.multiprocessing.results import AsyncResult, IMapIterator

if TYPE_CHECKING:
    import concurrent.futures
    from collections.abc import Callable, Iterable, Iterator

_AHEAD = 2  # chunks at one actor: one runs, one waits
_IMAP_AHEAD = 4  # chunks of an imap under way, for each process


class _Worker:
    """The actor's class."""

    def __init__(self, initializer: Callable[..., Any] | None, initargs: tuple[Any, ...]) -> None:
        if initializer is not None:
            initializer(*initargs)

    def run(
        self, function: Callable[..., Any], calls: list[tuple[tuple[Any, ...], dict[str, Any]]]
    ) -> list[Any]:
        return [function(*args, **kwargs) for args, kwargs in calls]


class _Chunk:
    """Some calls of one function, and where their results go."""

    __slots__ = ("calls", "function", "index", "result")

    def __init__(
        self,
        function: Any,
        calls: list[tuple[tuple[Any, ...], dict[str, Any]]],
        index: int,
        result: AsyncResult | IMapIterator,
    ) -> None:
        self.function = function
        self.calls = calls
        self.index = index
        self.result = result


class _Process:
    """One actor of the pool."""

    __slots__ = ("busy", "done", "handle")

    def __init__(self, handle: Any) -> None:
        self.handle = handle
        self.busy = 0
        self.done = 0


class Pool:
    """A pool of processes; the arguments are those of `multiprocessing.Pool`.

    Args:
        processes: how many; None: as many as the cluster has CPUs.
        initializer, initargs: called once in each process.
        maxtasksperchild: chunks after which a process is replaced.
        context: accepted, without an effect.
        actor_options: of the actors, e.g. {"num_cpus": 1}.
    """

    def __init__(
        self,
        processes: int | None = None,
        initializer: Callable[..., Any] | None = None,
        initargs: Iterable[Any] = (),
        maxtasksperchild: int | None = None,
        context: object = None,
        actor_options: dict[str, Any] | None = None,
    ) -> None:
        from shoal.api import cluster_resources, remote

        if processes is None:
            processes = max(1, int(cluster_resources().get("CPU", 1)))
        if processes < 1:
            raise ValueError("Number of processes must be at least 1")
        if initializer is not None and not callable(initializer):
            raise TypeError("initializer must be a callable")
        if maxtasksperchild is not None and maxtasksperchild <= 0:
            raise ValueError("maxtasksperchild must be a positive int or None")
        del context
        self._class = remote(_Worker).options(**(actor_options or {}))
        self._init = (initializer, tuple(initargs))
        self._limit = maxtasksperchild
        self._size = processes
        self._lock = threading.RLock()
        self._idle = threading.Condition(self._lock)
        self._queue: deque[_Chunk] = deque()
        self._sent: deque[tuple[_Process, int, concurrent.futures.Future[Any]]] = (
            deque()
        )  # and not watched yet
        self._refused: deque[tuple[_Chunk, Exception]] = deque()
        self._under_way: dict[int, _Chunk] = {}
        self._numbers = itertools.count()
        self._state = "RUN"
        self._processes = [self._start() for _ in range(processes)]

    def _start(self) -> _Process:
        return _Process(self._class.remote(*self._init))

    # --- giving out chunks ---

    def _check_running(self) -> None:
        if self._state != "RUN":
            raise ValueError("Pool not running")

    def _pump(self) -> None:
        """Give waiting chunks to the least busy processes (lock held; `_watch_sent` follows)."""
        while self._queue and self._processes:
            process = min(self._processes, key=lambda each: each.busy)
            if process.busy >= _AHEAD:
                return
            self._send(process, self._queue.popleft())

    def _send(self, process: _Process, chunk: _Chunk) -> None:
        try:
            ref = process.handle.run.remote(chunk.function, chunk.calls)
        except Exception as error:  # noqa: BLE001  calls that cannot be sent have failed, as in the standard library's pool
            self._refused.append((chunk, error))
            return
        process.busy += 1
        process.done += 1
        number = next(self._numbers)
        self._under_way[number] = chunk
        future = ref.future()
        if self._limit is not None and process.done >= self._limit:
            # The calls that it was sent keep it alive to their end.
            self._processes[self._processes.index(process)] = self._start()
        self._sent.append((process, number, future))

    def _arrived(self, process: _Process, number: int, future: concurrent.futures.Future[Any]) -> None:
        error = future.exception()
        with self._lock:
            process.busy -= 1
            chunk = self._under_way.pop(number, None)
            if isinstance(error, ActorDiedError) and process in self._processes and self._state == "RUN":
                self._processes[self._processes.index(process)] = self._start()
            self._pump()
        self._watch_sent()
        try:
            if chunk is not None:
                chunk.result.arrived(chunk.index, None if error is not None else future.result(), error)
            self._tell_refused()
        finally:  # a callback of the user may raise
            with self._lock:
                self._idle.notify_all()

    def _watch_sent(self) -> None:
        """Have the ends of calls that were sent noticed (lock not held)."""
        while True:
            with self._lock:
                if not self._sent:
                    return
                process, number, future = self._sent.popleft()
            future.add_done_callback(partial(self._arrived, process, number))

    def _tell_refused(self) -> None:
        """Fail the calls that could not be sent (lock not held)."""
        while True:
            with self._lock:
                if not self._refused:
                    return
                chunk, error = self._refused.popleft()
            chunk.result.arrived(chunk.index, None, error)

    def _submit(self, chunks: list[_Chunk]) -> None:
        with self._lock:
            self._queue.extend(chunks)
            self._pump()
        self._watch_sent()
        self._tell_refused()

    def _cut(self, calls: list[tuple[tuple[Any, ...], dict[str, Any]]], chunksize: int | None) -> list[Any]:
        if chunksize is None:
            chunksize, extra = divmod(len(calls), self._size * 4)
            chunksize += bool(extra)
        chunksize = max(1, chunksize)
        return [calls[start : start + chunksize] for start in range(0, len(calls), chunksize)]

    # --- calls ---

    def apply(
        self, func: Callable[..., Any], args: Iterable[Any] = (), kwds: dict[str, Any] | None = None
    ) -> Any:
        """``func(*args, **kwds)``; waits for the result."""
        return self.apply_async(func, args, kwds).get()

    def apply_async(
        self,
        func: Callable[..., Any],
        args: Iterable[Any] = (),
        kwds: dict[str, Any] | None = None,
        callback: Callable[[Any], Any] | None = None,
        error_callback: Callable[[BaseException], Any] | None = None,
    ) -> AsyncResult:
        """The same, without waiting."""
        self._check_running()
        result = AsyncResult(1, True, callback, error_callback)
        self._submit([_Chunk(func, [(tuple(args), dict(kwds or {}))], 0, result)])
        return result

    def map(
        self, func: Callable[[Any], Any], iterable: Iterable[Any], chunksize: int | None = None
    ) -> list[Any]:
        """``func`` of each item, in order; waits for all."""
        found: list[Any] = self.map_async(func, iterable, chunksize).get()
        return found

    def map_async(
        self,
        func: Callable[[Any], Any],
        iterable: Iterable[Any],
        chunksize: int | None = None,
        callback: Callable[[Any], Any] | None = None,
        error_callback: Callable[[BaseException], Any] | None = None,
    ) -> AsyncResult:
        """The same, without waiting."""
        return self._map(func, [((item,), {}) for item in iterable], chunksize, callback, error_callback)

    def starmap(
        self, func: Callable[..., Any], iterable: Iterable[Iterable[Any]], chunksize: int | None = None
    ) -> list[Any]:
        """``func(*item)`` for each item, in order; waits for all."""
        found: list[Any] = self.starmap_async(func, iterable, chunksize).get()
        return found

    def starmap_async(
        self,
        func: Callable[..., Any],
        iterable: Iterable[Iterable[Any]],
        chunksize: int | None = None,
        callback: Callable[[Any], Any] | None = None,
        error_callback: Callable[[BaseException], Any] | None = None,
    ) -> AsyncResult:
        """The same, without waiting."""
        return self._map(func, [(tuple(item), {}) for item in iterable], chunksize, callback, error_callback)

    def _map(
        self, func: Any, calls: list[Any], chunksize: int | None, callback: Any, error_callback: Any
    ) -> AsyncResult:
        self._check_running()
        parts = self._cut(calls, chunksize)
        result = AsyncResult(len(parts), False, callback, error_callback)
        self._submit([_Chunk(func, part, index, result) for index, part in enumerate(parts)])
        return result

    def imap(self, func: Callable[[Any], Any], iterable: Iterable[Any], chunksize: int = 1) -> IMapIterator:
        """An iterator over ``func`` of each item, in order; the input is read as results are ready."""
        return self._imap(func, iterable, chunksize, True)

    def imap_unordered(
        self, func: Callable[[Any], Any], iterable: Iterable[Any], chunksize: int = 1
    ) -> IMapIterator:
        """The same, in the order in which results come."""
        return self._imap(func, iterable, chunksize, False)

    def _imap(self, func: Any, iterable: Iterable[Any], chunksize: int, ordered: bool) -> IMapIterator:
        self._check_running()
        if chunksize < 1:
            raise ValueError(f"Chunksize must be 1+, not {chunksize}")
        parts = _parts(iter(iterable), chunksize)
        feeding = threading.RLock()
        fed = 0

        def feed() -> None:
            """One more part, if there is one. What the input raises is the last result."""
            nonlocal fed
            with feeding:
                if result.total is not None:
                    return
                if self._state == "TERMINATE":
                    result.ended(fed)
                    return
                try:
                    index, part = next(parts, (-1, None))
                except Exception as error:  # noqa: BLE001  whatever it is, it belongs to the reader
                    fed += 1
                    result.ended(fed)
                    result.arrived(fed - 1, None, error)
                    return
                if part is None:
                    result.ended(fed)
                    return
                fed += 1
                self._submit([_Chunk(func, part, index, result)])

        result = IMapIterator(ordered, feed)
        for _ in range(self._size * _IMAP_AHEAD):
            feed()
        return result

    # --- ends ---

    def close(self) -> None:
        """Take no more calls; those that were given run to their end."""
        if self._state == "RUN":
            self._state = "CLOSE"

    def terminate(self) -> None:
        """End the processes at once; calls under way raise ActorDiedError."""
        from shoal.actors.api import kill

        with self._lock:
            self._state = "TERMINATE"
            lost = [*self._under_way.values(), *self._queue]
            self._under_way.clear()
            self._queue.clear()
            processes, self._processes = self._processes, []
            self._idle.notify_all()
        for process in processes:
            kill(process.handle)
        for chunk in lost:
            chunk.result.arrived(chunk.index, None, ActorDiedError("the pool was terminated"))

    def join(self) -> None:
        """Wait until the last call has ended and let the processes go; after `close` or `terminate`, else ValueError."""
        if self._state == "RUN":
            raise ValueError("Pool is still running")
        with self._lock:
            self._idle.wait_for(lambda: not self._queue and not self._under_way)
            self._processes = []

    def __enter__(self) -> Self:
        self._check_running()
        return self

    def __exit__(self, *_: object) -> None:
        self.terminate()


def _parts(
    items: Iterator[Any], chunksize: int
) -> Iterator[tuple[int, list[tuple[tuple[Any, ...], dict[str, Any]]]]]:
    """(index, calls) of each chunk."""
    for index in itertools.count():
        part: list[tuple[tuple[Any, ...], dict[str, Any]]] = [
            ((item,), {}) for item in itertools.islice(items, chunksize)
        ]
        if not part:
            return
        yield index, part

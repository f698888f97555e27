"""concurrent.futures and await for refs: resolved by whichever thread reads the socket, loaded on a pool of one thread."""

from __future__ import annotations

import concurrent.futures
from typing import TYPE_CHECKING, Any

from shoal.owner.objects import INLINE, Entry

if TYPE_CHECKING:
    from shoal.client.runtime import Runtime
    from shoal.refs import ObjectRef

_loaders: dict[int, concurrent.futures.ThreadPoolExecutor] = {}


class _Arrival:
    """Resolves a future when its object arrives (EntryWaiter)."""

    __slots__ = ("_future", "_ref", "_runtime")

    def __init__(self, runtime: Runtime, ref: ObjectRef[Any], future: concurrent.futures.Future[Any]) -> None:
        self._runtime = runtime
        self._ref = ref
        self._future = future

    def entry_ready(self, entry: Entry) -> None:
        """Called with the lock held: values are loaded, and callbacks run, elsewhere."""
        if self._runtime.unblocked_hook is not None:
            self._runtime.unblocked_hook(self)
        _loader(self._runtime).submit(_resolve, self._runtime, self._ref, self._future)


def _loader(runtime: Runtime) -> concurrent.futures.ThreadPoolExecutor:
    loader = _loaders.get(id(runtime))
    if loader is None:
        _loaders.clear()  # of a session that ended
        loader = _loaders[id(runtime)] = concurrent.futures.ThreadPoolExecutor(1, "shoal-futures")
    return loader


def close_loaders() -> None:
    """End the threads that resolve futures (shutdown)."""
    for loader in _loaders.values():
        loader.shutdown(wait=False)  # what waits has failed by now, and is told so
    _loaders.clear()


def _resolve(runtime: Runtime, ref: ObjectRef[Any], future: concurrent.futures.Future[Any]) -> None:
    if not future.set_running_or_notify_cancel():
        return
    try:
        future.set_result(runtime.values.get(ref, None))
    except BaseException as error:  # noqa: BLE001  whatever the task raised belongs to whoever waits for the future
        future.set_exception(error)


def future_of(runtime: Runtime, ref: ObjectRef[Any]) -> concurrent.futures.Future[Any]:
    """A future for the value of ``ref``; it keeps the ref alive until it is resolved."""
    future: concurrent.futures.Future[Any] = concurrent.futures.Future()
    with runtime.lock:
        entry = runtime.table.entry_of(ref)
        arrival = _Arrival(runtime, ref, future)
        waits = runtime.table.wait_for(entry, arrival)
        if waits and runtime.blocking_hook is not None:
            runtime.blocking_hook(arrival)  # a task that awaits gives its CPU back
        runtime.flush()
    if not waits:
        if entry.state == INLINE:
            _resolve(runtime, ref, future)
        else:
            _loader(runtime).submit(_resolve, runtime, ref, future)
    else:
        runtime.reactor.nudge()
    return future

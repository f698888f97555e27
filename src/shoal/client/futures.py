"""concurrent.futures and await for refs: noticed by whichever thread reads the socket, loaded on a thread of their own.

That thread is the session's, and starts with the first future that has to wait. It runs the futures' callbacks too, so a
callback that blocks delays the others. At the end of the session every future is resolved: what has not come has failed.
"""

from __future__ import annotations

import contextlib
import threading
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

from shoal.owner.objects import INLINE, Entry

if TYPE_CHECKING:
    import concurrent.futures

    from shoal.client.runtime import Runtime
    from shoal.refs import ObjectRef

_CLOSE_S = 5.0  # a callback that blocks does not keep a session from ending for longer


class _Arrival:
    """Has a future resolved when its object arrives (EntryWaiter)."""

    __slots__ = ("entry", "future", "ref", "resolver")

    def __init__(
        self, resolver: Resolver, ref: ObjectRef[Any], entry: Entry, future: concurrent.futures.Future[Any]
    ) -> None:
        self.resolver = resolver
        self.ref = ref
        self.entry = entry
        self.future: concurrent.futures.Future[Any] | None = future

    def entry_ready(self, entry: Entry) -> None:
        """Called with the lock held: values are loaded, and callbacks run, elsewhere."""
        self.resolver.arrived(self)

    def done(self, future: concurrent.futures.Future[Any]) -> None:
        """The future is done; if it was cancelled, nobody waits any more."""
        if future.cancelled():
            self.resolver.cancelled(self)


class Resolver:
    """The futures of one session."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._queue: SimpleQueue[tuple[ObjectRef[Any], concurrent.futures.Future[Any]] | None] = SimpleQueue()
        self._thread: threading.Thread | None = None
        self._ended = False  # nothing is put into the queue any more

    def future_of(self, ref: ObjectRef[Any]) -> concurrent.futures.Future[Any]:
        """A future for the value of ``ref``; it keeps the ref alive until it is resolved."""
        from concurrent.futures import Future  # which loads logging: most sessions have no futures

        runtime = self._runtime
        future: concurrent.futures.Future[Any] = Future()
        with runtime.lock:
            entry = runtime.table.entry_of(ref)
            arrival = _Arrival(self, ref, entry, future)
            waits = not runtime.closed and runtime.table.wait_for(entry, arrival)
            later = not waits and entry.state != INLINE and not self._ended
            if waits:
                self.await_begins(arrival)
            elif later:
                self._resolve_later(ref, future)
        if waits:
            future.add_done_callback(arrival.done)
            runtime.reactor.nudge()
        elif not later:
            _resolve(runtime, ref, future)
        return future

    def arrived(self, arrival: _Arrival) -> None:
        """The object is there, or has failed (lock held)."""
        self.await_ends(arrival)
        future, arrival.future = (
            arrival.future,
            None,
        )  # its callback has the arrival: a cycle would keep its result alive
        if future is not None:
            self._resolve_later(arrival.ref, future)

    def cancelled(self, arrival: _Arrival) -> None:
        """Nobody waits for the future any more."""
        with self._runtime.lock:
            waiters = arrival.entry.waiters
            if waiters and arrival in waiters:
                waiters.remove(arrival)
                self.await_ends(arrival)

    def await_begins(self, token: object) -> None:
        """Something is awaited without a thread that waits (lock held): messages are read at once, a task lends its CPU."""
        runtime = self._runtime
        runtime.reactor.await_begins()
        if runtime.blocking_hook is not None:
            runtime.blocking_hook(token)
        runtime.flush()

    def await_ends(self, token: object) -> None:
        """It has come, or nobody awaits it any more (lock held)."""
        runtime = self._runtime
        runtime.reactor.await_ends()
        if runtime.unblocked_hook is not None:
            runtime.unblocked_hook(token)

    def _resolve_later(self, ref: ObjectRef[Any], future: concurrent.futures.Future[Any]) -> None:
        self._queue.put((ref, future))
        if self._thread is None:
            thread = threading.Thread(target=self._run, name="shoal-futures", daemon=True)
            with contextlib.suppress(RuntimeError):  # the interpreter is about to end: `close` resolves it
                thread.start()
                self._thread = thread

    def _run(self) -> None:
        while self._resolve_next():
            continue

    def _resolve_next(self) -> bool:
        """Resolve one future; False when there will be none any more. Nothing of it stays alive here."""
        item = self._queue.get()
        if item is not None:
            _resolve(self._runtime, *item)
        return item is not None

    def close(self) -> None:
        """The session has ended: whoever waits has been told, and the thread ends (lock not held)."""
        with self._runtime.lock:
            self._ended = True
        self._queue.put(None)
        if self._thread is None:
            self._run()
        elif self._thread is not threading.current_thread():
            self._thread.join(_CLOSE_S)


def _resolve(runtime: Runtime, ref: ObjectRef[Any], future: concurrent.futures.Future[Any]) -> None:
    if not future.set_running_or_notify_cancel():
        return
    try:
        future.set_result(runtime.values.get(ref, None))
    except BaseException as error:  # noqa: BLE001  whatever the task raised belongs to whoever waits for the future
        future.set_exception(error)
        # The error's traceback has this frame: without this the future would keep itself, and what it is for, alive.
        del future, ref

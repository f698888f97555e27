"""Waiting of a user's thread: interruptible, said aloud when it takes long, and never with the runtime's lock in hand.

While a task waits, its CPU is lent out (`blocking_hook`). A session that ends while somebody waits in it raises.

A finalizer or a signal handler may use shoal at any point, even where it has interrupted the runtime while that held its
lock: the lock can be taken again by the thread that has it. It may put, submit and cancel there; it cannot wait, since the
messages that it would wait for cannot be handled before it returns.
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

from shoal.client.awaits import Interrupted, Never
from shoal.client.interrupts import Cancellable, Interruptible

if TYPE_CHECKING:
    from shoal.client.reactor import Awaited
    from shoal.client.runtime import Runtime
    from shoal.client.waiting import WaitState
    from shoal.owner.objects import Entry


_MAIN = threading.main_thread()


class Waits:
    """Waits of one process.

    Attributes:
        cancellable: waits of threads that run calls of an actor, by thread; None where no such threads are.
    """

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self.cancellable: dict[int, Cancellable] | None = None

    def interrupt(self, thread: int) -> bool:
        """Have the wait of a thread raise KeyboardInterrupt; False if it does not wait (lock held)."""
        wait = self.cancellable.get(thread) if self.cancellable is not None else None
        if wait is None:
            return False
        wait.interrupt()
        self._runtime.reactor.wake_ready()
        return True

    def wait(self, awaited: Awaited, timeout_s: float | None) -> bool:
        """Wait for something that messages will make ready; whether it is.

        Raises RuntimeError in a finalizer or handler that has interrupted the runtime's own work.
        """
        if awaited.ready:
            return True
        self._check_may_wait()
        with Interruptible(self._runtime.reactor.ring) as interruptible:
            return self._wait(awaited, timeout_s, None, interruptible)

    def wait_for_objects(
        self,
        awaited: Awaited,
        entries: list[Entry],
        deadline: float | None,
        lend_after_s: float = 0.0,
        told: WaitState | None = None,
    ) -> bool:
        """Wait for objects: says after a while what it waits for; Ctrl-C cancels their tasks (main thread).

        The CPU of a task is lent out after ``lend_after_s``. ``told``: what `shoal why` is told instead of ``entries``.
        Raises NodeDiedError if the session ends meanwhile, RuntimeError as `wait` does.
        """
        runtime = self._runtime
        self._check_may_wait()
        warn_s = runtime.config.get_warning_s if entries else None
        cancellable = self.cancellable
        interrupts: Interruptible | Cancellable = (
            Interruptible(runtime.reactor.ring)
            if cancellable is None or threading.current_thread() is _MAIN
            else Cancellable(cancellable, runtime.lock)
        )
        with interrupts as interruptible:
            try:
                left = None if deadline is None else max(deadline - time.monotonic(), 0.0)
                ready = self._wait(awaited, left, entries, interruptible, warn_s, lend_after_s, told)
            except KeyboardInterrupt:
                if runtime.kind == "driver":  # in a worker it is the waiting task that was cancelled
                    self._cancel(entries)
                raise
        if not ready and runtime.closed:
            raise runtime.connection_lost()
        return ready

    def wait_for_some(self, state: WaitState, deadline: float | None) -> None:
        """Wait for as many refs as ``state`` expects; the same, but nothing is said, and Ctrl-C cancels nothing."""
        self.wait_for_objects(state, [], deadline, told=state)

    def poll(self) -> None:
        """Look at the sockets once, without waiting."""
        self.wait(Never(), 0.0)

    def _check_may_wait(self) -> None:
        if self._runtime.lock._is_owned():  # type: ignore[attr-defined]  # not in the type, but what Condition uses
            raise RuntimeError(
                "shoal cannot wait here: a finalizer (__del__) or a signal handler has interrupted shoal's own work; "
                "put, remote and cancel are possible there, get and wait of what is not here yet are not"
            )

    def _wait(
        self,
        awaited: Awaited,
        timeout_s: float | None,
        entries: list[Entry] | None,
        interruptible: Interruptible | Cancellable,
        warn_s: float | None = None,
        lend_after_s: float = 0.0,
        told: WaitState | None = None,
    ) -> bool:
        """Wait for ``awaited``; after ``warn_s``, say once what of ``entries`` is missing."""
        runtime = self._runtime
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        warn_at = None if warn_s is None else time.monotonic() + warn_s
        lend_at = time.monotonic() + lend_after_s if lend_after_s else None
        blocked = noted = False
        says = entries is not None and runtime.kind != "driver"
        token = object()

        def on_block() -> bool:
            nonlocal blocked, noted
            hook = runtime.blocking_hook if lend_at is None and not blocked else None
            if hook is not None or not noted:
                with runtime.lock:
                    if not noted:
                        runtime.explain.wait_begins(token, told or entries or [])
                    noted = True
                    blocked = blocked or (hook is not None and hook(token))
            return False

        proxy: Awaited = Interrupted(awaited, interruptible) if interruptible.active else awaited
        try:
            while True:
                until = deadline
                if warn_at is not None and (until is None or warn_at < until):
                    until = warn_at
                if lend_at is not None and (until is None or lend_at < until):
                    until = lend_at
                left = None if until is None else max(until - time.monotonic(), 0.0)
                done = runtime.reactor.wait(proxy, left, on_block if says else None)
                if interruptible.hits:
                    interruptible.deliver()
                    continue
                if done or until == deadline or runtime.closed:
                    return done and awaited.ready
                if until == lend_at:
                    lend_at = None
                else:
                    warn_at = None
                    runtime.report(runtime.explain.waiting(entries or []))
        finally:
            if noted:
                with runtime.lock:
                    runtime.explain.wait_ends(token)
                    if blocked and runtime.unblocked_hook is not None:
                        runtime.unblocked_hook(token)
                        runtime.flush()

    def _cancel(self, entries: list[Entry]) -> None:
        """Cancel the tasks of pending entries (Ctrl-C)."""
        runtime = self._runtime
        with runtime.lock:
            for entry in entries:
                if entry.task is not None:
                    runtime.dispatch.cancel(entry.task, force=False, recursive=True)
            runtime.flush()

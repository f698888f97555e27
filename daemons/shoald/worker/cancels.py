"""Cancelling what runs: which tasks are to stop, and the signal that reaches the one on the main thread.

A cancel arrives on whichever thread reads the sockets. It is noted, and the main thread gets SIGINT, which interrupts
sleeps and waits as well as loops; its handler raises KeyboardInterrupt in user code (which `except Exception` does not
catch, and event loops let through). Never in the runtime's own code or while its lock is held, since tables would stay half
changed: then the watchdog tries again a tick later. Compiled code that does not return to Python is out of reach; for
that there is `force`, which ends the process.

Invariant: the exception is raised only in the innermost running task, and only if that one was cancelled: a task that
waits while a child runs in its place is told when the child has ended.
"""

from __future__ import annotations

import signal
import threading
from typing import TYPE_CHECKING

from shoal.client import interrupts

if TYPE_CHECKING:
    from types import FrameType

_MAIN = threading.main_thread()
_OWN_PACKAGES = ("shoal", "shoald")


class Cancels:
    """The cancelled tasks of one worker.

    Args:
        running: ids of the current task and of those that run in its place, outermost first; the executor changes it.
        lock: the runtime's.

    Attributes:
        in_user_code: a task's own code is on the stack of the main thread, inside of the executor's `try`.
    """

    def __init__(self, running: list[bytes], lock: threading.RLock) -> None:
        self._running = running
        self._lock = lock
        self._wanted: set[bytes] = set()
        self._pending = False
        self.in_user_code = False

    def install(self) -> None:
        """Take over SIGINT; on the main thread."""
        signal.signal(signal.SIGINT, self._on_signal)

    def request(self, task_id: bytes) -> None:
        """Stop the task as soon as it can be, or before it starts."""
        self._wanted.add(task_id)
        if task_id in self._running:
            self._pending = True
            self._interrupt()

    def _interrupt(self) -> None:
        if _MAIN.ident is not None:
            signal.pthread_kill(_MAIN.ident, signal.SIGINT)

    def remind(self) -> bool:
        """Interrupt again if a cancelled task still runs (watchdog); whether to come back."""
        if not self._pending:
            return False
        if self._running and self._running[-1] in self._wanted:
            self._interrupt()
            return True
        return not self._wanted.isdisjoint(self._running)

    def covers(self, task_id: bytes) -> bool:
        """Whether the task is to stop, or was stopped: what it raises then is its being cancelled."""
        return task_id in self._wanted

    def check(self, task_id: bytes) -> None:
        """Raise KeyboardInterrupt if the task is to stop."""
        if self._wanted and task_id in self._wanted:
            raise KeyboardInterrupt

    def ended(self, task_id: bytes) -> None:
        """The task is over, in whichever way."""
        self._wanted.discard(task_id)
        self._pending = not self._wanted.isdisjoint(self._running)

    def idle(self) -> None:
        """Nothing runs and nothing waits here (lock held): what was asked for came too late."""
        self._wanted.clear()

    @property
    def any(self) -> bool:
        """Whether there is anything to forget when idle."""
        return bool(self._wanted)

    def _on_signal(self, number: int, stack: FrameType | None) -> None:
        running = self._running
        if not self.in_user_code or not running or running[-1] not in self._wanted:
            return
        if interrupts.delivering or self._may_interrupt(stack):
            self._pending = False  # raised once: code that catches it has decided to go on
            raise KeyboardInterrupt

    def _may_interrupt(self, stack: FrameType | None) -> bool:
        if self._lock._is_owned():  # type: ignore[attr-defined]  # not in the type, but what Condition uses
            return False
        name = str(stack.f_globals.get("__name__", "")) if stack is not None else ""
        return name.partition(".")[0] not in _OWN_PACKAGES

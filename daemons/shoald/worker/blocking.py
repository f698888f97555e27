"""Whether what a worker runs waits for others: then its CPU is lent out.

A task waits in `get` or `wait` on any of its threads, or by an `await` or a future of a ref that is not there yet. Each of
these is a token; the daemon is told when the first one comes and when the last one goes. An actor that runs several calls
at once lends its CPU while every one of them waits (`CallWaits`). Everything here is called with the runtime's lock held.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from shoal.context import current_task
from shoal.wire import messages as m

if TYPE_CHECKING:
    from collections.abc import Callable

    from shoal.client.runtime import Runtime


class Blocking:
    """The waits of the task that one worker runs.

    Args:
        is_running: whether there is a task at all: a process between tasks has no CPU to lend.
        on_block: called when the first wait begins, before the daemon's message is flushed.
    """

    def __init__(
        self, runtime: Runtime, is_running: Callable[[], bool], on_block: Callable[[], None]
    ) -> None:
        self._table = runtime.table
        self._is_running = is_running
        self._on_block = on_block
        self._waits: set[object] = set()

    @property
    def blocked(self) -> bool:
        """Whether the task waits."""
        return bool(self._waits)

    def begin(self, token: object) -> bool:
        """A wait begins; False if it is nobody's (no task runs)."""
        if not self._is_running():
            return False
        self._waits.add(token)
        if len(self._waits) == 1:
            self._table.to_node([m.BLOCKED, True])
            self._on_block()
        return True

    def end(self, token: object) -> None:
        """A wait is over, or its task is."""
        if token in self._waits:
            self._waits.discard(token)
            if not self._waits:
                self._table.to_node([m.BLOCKED, False])

    def task_ended(self) -> None:
        """Nothing waits any more: futures that nobody looked at do not count for the next task."""
        if self._waits:
            self._waits.clear()
            self._table.to_node([m.BLOCKED, False])


class CallWaits:
    """The waits of an actor that runs calls in threads or on a loop: do all calls that have begun wait?

    Calls may be many and short, so the daemon hears of a change only when it has lasted for a tick. A wait on a thread
    that runs no call (one that a method has started) counts for any one call that has none of its own.

    Invariant: the tokens of a call are known as long as it runs; those that nobody has ended go with it.
    """

    def __init__(self, runtime: Runtime) -> None:
        self._table = runtime.table
        self._ring = runtime.reactor.ring
        self._tick_s = runtime.config.tick_ms / 1000
        self._running: set[bytes] = set()
        self._call_of: dict[object, bytes] = {}
        self._tokens: dict[bytes, set[object]] = {}
        self._told = False
        self._changed_at: float | None = None

    @property
    def all_wait(self) -> bool:
        """Whether there are calls, and each waits."""
        waiting = len(self._tokens) + (len(self._tokens[b""]) - 1 if b"" in self._tokens else 0)
        return bool(self._running) and waiting >= len(self._running)

    def call_begins(self, task_id: bytes) -> None:
        """A call has started."""
        self._running.add(task_id)
        self._look()

    def call_ends(self, task_id: bytes) -> None:
        """A call is over, and so are its waits."""
        self._running.discard(task_id)
        for token in self._tokens.pop(task_id, ()):
            del self._call_of[token]
        self._look()

    def begin(self, token: object) -> bool:
        """A wait begins; False if it is nobody's (no call runs)."""
        if not self._running:
            return False
        context = current_task.get()
        call = context.task_id if context is not None and context.task_id in self._running else b""
        self._call_of[token] = call
        self._tokens.setdefault(call, set()).add(token)
        self._look()
        return True

    def end(self, token: object) -> None:
        """A wait is over; nothing if its call is."""
        call = self._call_of.pop(token, None)
        if call is None:
            return
        tokens = self._tokens[call]
        tokens.discard(token)
        if not tokens:
            del self._tokens[call]
        self._look()

    def _look(self) -> None:
        if self._changed_at is None and self.all_wait != self._told:
            self._changed_at = 0.0  # the tick that this brings about puts the time there
            self._ring()

    def tick(self, now: float) -> float | None:
        """Tell the daemon what has changed for long enough; after how many s to come back."""
        if self._changed_at is None:
            return None
        if self.all_wait == self._told:
            self._changed_at = None
            return None
        if not self._changed_at:
            self._changed_at = now
        elif now - self._changed_at >= self._tick_s:
            self._changed_at = None
            self._told = not self._told
            self._table.to_node([m.BLOCKED, self._told])
            return None
        return self._tick_s

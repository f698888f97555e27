"""Whether the running task waits for others: then its CPU is lent out, and its worker's unstarted tasks go back.

A task waits in `get` or `wait` on any of its threads, or by an `await` or a future of a ref that is not there yet. Each of
these is a token; the daemon is told when the first one comes and when the last one goes. Everything here is
called with the runtime's lock held.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

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

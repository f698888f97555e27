"""Garbage in cycles: collected when a worker is idle and it may matter to others.

A ref or a view in a cycle (a value that contains itself, an exception with its frames) goes when the collector of cycles
comes by, which in an idle process is never; and until then it keeps an object in the store. So an idle worker collects when a
task has ended that left refs in use, or when the daemon has asked for a pin back that views keep.
"""

from __future__ import annotations

import gc
from time import monotonic
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from shoal.client.reactor import Awaited
    from shoal.client.runtime import Runtime

_IDLE_S = 0.05  # how long a worker has had no task before it collects
_PAUSE_SHARE = 20  # collecting takes at most this part of the time


class Garbage:
    """The collections of one worker."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._next = 0.0

    def collect_when_idle(self, inbox: Awaited) -> None:
        """Collect, unless something comes into ``inbox`` before it is time for that."""
        started = monotonic()
        if self._runtime.wait(inbox, max(_IDLE_S, self._next - started)):
            return
        self._runtime.garbage_suspected = False
        started = monotonic()
        gc.collect()
        now = monotonic()
        self._next = now + (now - started) * _PAUSE_SHARE

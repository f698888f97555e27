"""A thread that waits for room to write a value: `shoal why` of its task tells of it, and after a while the thread itself.

Who gets none looks for cycles, which may hold refs and views: always before that is an error, but if a file can be had instead
only for a share of the time, or of that which files took (`CycleSearch`). It takes a second in a process of a million containers.
"""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from shoal.client.node import Answer
    from shoal.client.runtime import Runtime

_ASK_S = 1.0
_ALL = 2  # generation


class CycleSearch:
    """When cycles were looked for; ``now`` tells the time in seconds."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        # When the last search of a generation ended, and how long it took.
        self._last: dict[int, tuple[float, float]] = {}
        self._within_s = 0.0  # what searches within a budget have taken

    def run(self, rests: int = 0, generation: int = _ALL) -> None:
        """Collect garbage, unless the last time was less than ``rests`` times ago what it took.

        ``generation``: what is older is not looked at (`gc.collect`).
        """
        began = self._now()
        ended, took = self._last.get(generation, (-math.inf, 0.0))
        if began >= ended + rests * took:
            gc.collect(generation)
            ended = self._now()
            self._last[generation] = (ended, ended - began)

    def run_within(self, budget_s: float) -> None:
        """Collect all garbage, unless all calls of this would have taken more than ``budget_s`` then, for all that is known.

        It lies in many pages, each of which takes long in a virtual machine that has not touched it for seconds: 10 ms, or 90.
        """
        if self._within_s + self._last.get(_ALL, (0.0, 0.0))[1] <= budget_s:
            self.run()
            self._within_s += self._last[_ALL][1]


@contextmanager
def waiting_for_room(runtime: Runtime, what: str) -> Iterator[Callable[[Answer], None]]:
    """While the block runs, this thread is known to wait for ``what``; yields how to wait for an answer of the daemon.

    That returns when the answer is there or the daemon is gone, and says once, after config.get_warning_s, what the
    daemon knows of the reason.
    """
    token = object()
    began = time.monotonic()
    with runtime.lock:
        runtime.explain.room_wait_begins(token, what)

    def wait(answer: Answer) -> None:
        left = max(0.0, began + runtime.config.get_warning_s - time.monotonic())
        if not runtime.wait(answer, left) and not runtime.closed:
            runtime.report(
                f"put has waited {time.monotonic() - began:.0f} s for {what}: {_reasons(runtime)} "
                "(`shoal memory` shows who keeps what)"
            )
            runtime.wait(answer, None)

    try:
        yield wait
    finally:
        with runtime.lock:
            runtime.explain.room_wait_ends(token)


def _reasons(runtime: Runtime) -> str:
    try:
        found = runtime.request("shortage", {}, _ASK_S)["lines"]
    except (TimeoutError, RuntimeError) as error:
        return str(error)
    return "; ".join(found) or "it has just come free"

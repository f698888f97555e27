"""Work on a large piece of memory by several threads, a part each, where that is faster.

Whether it is depends on the machine, and on what else it does: where one core does not fill the memory's bandwidth two copy
nearly twice as fast (an Intel Xeon: 100 MB in 7.8 ms instead of 13.6); where it does, or where the other cores are busy, they
only take from others (a Zen 5: 3.7 instead of 4.4). So it is measured, with the work itself: each way some times, then the faster
one, and now and then the other: soon at first, since the first pieces are seldom like those that follow (their memory is cold),
and ever more seldom while that only confirms the choice. Threads are made for one piece and end with it, which takes 0.1 ms. They
move off the processor of who started them, where they would wait for it (`processors`): it gives them the time to begin.
"""

from __future__ import annotations

import os
import time
from _thread import start_new_thread
from collections import defaultdict, deque
from itertools import repeat
from threading import Event
from typing import TYPE_CHECKING

from shoal.processors import current, leave

if TYPE_CHECKING:
    from collections.abc import Callable

BYTES_MIN = 8 * 1024**2
_THREADS_MAX = 4
_SAMPLES = 3  # of each way, the best of which counts: what disturbs one only makes it slower
_GAIN = 1.2  # less is not worth other cores
_PROBE_AFTER, _PROBE_AFTER_MAX = 2, 32  # pieces: twice as many each time
_ALIGNMENT = 4096
_LOOKS, _LOOK_S = 10, 20e-6  # for helpers that have not begun; each takes three times as long


class Faster:
    """Which of two ways to do the same work is faster, measured with the work itself.

    What was measured is kept by the piece's size, in powers of two: small ones lie in caches.

    Args:
        gain: so many times as fast is the second way to be.
    """

    def __init__(self, gain: float) -> None:
        self._gain = gain
        self._sizes: defaultdict[int, _Measured] = defaultdict(_Measured)

    def choose(self, size: int) -> bool:
        """Whether the next piece is to be done the second way."""
        measured = self._sizes[size.bit_length()]
        if not measured.is_enough():
            return len(measured.first) > len(measured.second)
        measured.until_probe -= 1
        return measured.is_second_faster(self._gain) is (measured.until_probe > 0)

    def took(self, size: int, second: bool, began: float) -> None:
        """A piece has been done, ``second``: that way; since ``began`` (`time.perf_counter`)."""
        measured = self._sizes[size.bit_length()]
        had_enough, before = measured.is_enough(), measured.is_second_faster(self._gain)
        (measured.second if second else measured.first).append(size / max(time.perf_counter() - began, 1e-9))
        if not had_enough or measured.is_second_faster(self._gain) is not before:
            measured.probe_after(_PROBE_AFTER)
        elif second is not before:  # a probe, which has confirmed the choice
            measured.probe_after(min(2 * measured.probes_after, _PROBE_AFTER_MAX))


class _Measured:
    """The last rates of either way, in bytes per second, and when the slower one is tried again."""

    __slots__ = ("first", "probes_after", "second", "until_probe")

    def __init__(self) -> None:
        self.first: deque[float] = deque(maxlen=_SAMPLES)
        self.second: deque[float] = deque(maxlen=_SAMPLES)
        self.probe_after(_PROBE_AFTER)

    def probe_after(self, pieces: int) -> None:
        self.probes_after = self.until_probe = pieces

    def is_enough(self) -> bool:
        return len(self.first) == len(self.second) == _SAMPLES

    def is_second_faster(self, gain: float) -> bool:
        return self.is_enough() and max(self.second) > gain * max(self.first)


class Parallel:
    """One kind of work, that may be done to parts of a piece at the same time."""

    def __init__(self) -> None:
        self._several = Faster(_GAIN)

    def run(
        self, size: int, work: Callable[[int, int], None], parts: list[tuple[int, int]] | None = None
    ) -> None:
        """Have ``work(start, end)`` done for all of ``[0, size)``, in this thread or in several; returns when all of it is done.

        Args:
            size: bytes; work: releases the GIL.
            parts: what it is to be done for, each for itself, also by one thread; None: that does not matter.

        Raises what the work raised, in one of them, after all have ended.
        """
        count = min(_THREADS_MAX, processors()) if size >= BYTES_MIN else 1
        shared = count > 1 and self._several.choose(size)
        begin = time.perf_counter()
        if shared:
            step = -(-size // (count * _ALIGNMENT)) * _ALIGNMENT
            bounds = parts or [(start, min(size, start + step)) for start in range(0, size, step)]
            in_threads([lambda start=start, end=end: work(start, end) for start, end in bounds])  # type: ignore[misc]
        else:
            for start, end in parts or [(0, size)]:
                work(start, end)
        if count > 1:
            self._several.took(size, shared, begin)


def processors() -> int:
    """How many this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not on this platform
        return os.cpu_count() or 1


def in_threads(jobs: list[Callable[[], None]]) -> None:
    """Run the jobs at the same time, the last one here, and those that no thread is to be had for.

    Returns when all ended, raises the first failure.
    """
    failures: list[BaseException] = []
    begun: list[object] = []
    place = current()

    def run(job: Callable[[], None]) -> None:
        try:
            job()
        except BaseException as error:  # noqa: BLE001 - handed to the caller below
            failures.append(error)

    def help_with(job: Callable[[], None], ended: Event) -> None:
        leave(place)
        begun.append(job)
        run(job)
        ended.set()

    helped = [(job, Event()) for job in jobs[:-1]]
    starting = iter(helped)
    try:
        # All in one call: no handler of a signal can raise between the start of a thread and its being known.
        deque(map(start_new_thread, repeat(help_with), starting), maxlen=0)
        for _ in range(_LOOKS):
            if len(begun) == len(helped):
                break
            time.sleep(_LOOK_S)  # a lock's release would wake this thread where the other one runs
        run(jobs[-1])
    except RuntimeError:  # no more threads
        count = len(list(starting)) + 1
        del helped[len(helped) - count :]
        for job in jobs[-1 - count :]:
            run(job)
    finally:
        for _, ended in helped:
            while not ended.is_set():
                run(ended.wait)  # type: ignore[arg-type] # a handler may raise here, while the helper still writes
    if failures:
        raise failures[0]

"""Work on a large piece of memory by several threads, a part each, where that is faster.

Whether it is depends on the machine, and on what else it does: where one core does not fill the memory's bandwidth two copy
nearly twice as fast (an Intel Xeon: 100 MB in 7.8 ms instead of 13.6); where it does, or where the other cores are busy, they
only take from others (a Zen 5: 3.7 instead of 4.4). So it is measured, with the work itself: each way some times, then the faster
one, and now and then the other. Threads are made for one piece and end with it, which takes 0.1 ms.
"""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

THREAD = "shoal-part"  # the name of such threads, which run no code of users
BYTES_MIN = 8 * 1024**2
_THREADS_MAX = 4
_SAMPLES = 3  # of each way, the best of which counts: what disturbs one only makes it slower
_GAIN = 1.2  # less is not worth other cores
_PROBE_EVERY = 32
_ALIGNMENT = 4096


class Parallel:
    """One kind of work, that may be done to parts of a piece at the same time.

    What was measured is kept by the piece's size, in powers of two: small ones lie in caches.
    """

    def __init__(self) -> None:
        self._rates: dict[tuple[int, bool], deque[float]] = {}
        self._count = 0

    def run(self, size: int, work: Callable[[int, int], None], parts: int = 0) -> None:
        """Have ``work(start, end)`` done for all of ``[0, size)``, in this thread or in several; returns when all of it is done.

        Args:
            size: bytes; work: releases the GIL.
            parts: how many there are if it is more than one; 0: as many as there are processors to use.

        Raises what the work raised, in one of them, after all have ended.
        """
        count = parts or min(_THREADS_MAX, _processors())
        if size < BYTES_MIN or count < 2 or _processors() < 2:
            work(0, size)
            return
        shared = self._is_faster(size)
        begin = time.perf_counter()
        if shared:
            step = -(-size // (count * _ALIGNMENT)) * _ALIGNMENT
            _in_threads(work, [(start, min(size, start + step)) for start in range(0, size, step)])
        else:
            work(0, size)
        rates = self._rates.setdefault((size.bit_length(), shared), deque(maxlen=_SAMPLES))
        rates.append(size / max(time.perf_counter() - begin, 1e-9))

    def _is_faster(self, size: int) -> bool:
        """Whether the next piece is to be shared."""
        one, several = (self._rates.get((size.bit_length(), shared), ()) for shared in (False, True))
        if len(one) < _SAMPLES or len(several) < _SAMPLES:
            return len(one) > len(several)
        self._count += 1
        faster = max(several) > _GAIN * max(one)
        return faster if self._count % _PROBE_EVERY else not faster


def _processors() -> int:
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not on this platform
        return os.cpu_count() or 1


def _in_threads(work: Callable[[int, int], None], parts: list[tuple[int, int]]) -> None:
    errors: list[BaseException] = []

    def do(start: int, end: int) -> None:
        try:
            work(start, end)
        except BaseException as error:  # noqa: BLE001 - it is raised by the thread that waits
            errors.append(error)

    threads: list[threading.Thread] = []
    left = parts[1:]
    try:
        while left:
            thread = threading.Thread(target=do, args=left[0], name=THREAD, daemon=True)
            thread.start()
            threads.append(thread)
            del left[0]
    except RuntimeError:
        pass  # there is no thread to be had: the rest is done here
    for start, end in [parts[0], *left]:
        do(start, end)
    for thread in threads:
        while thread.is_alive():
            try:
                thread.join()
            except BaseException as error:  # noqa: BLE001 - a signal's: raised when nobody writes there any more
                errors.append(error)
    if errors:
        raise errors[0]

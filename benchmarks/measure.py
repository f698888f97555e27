"""How scenarios measure: warm up first, repeat within a budget of time, take the median.

A scenario is a module in scenarios/ with

    METRICS   what it measures: name → Metric
    run(api)  measures on `api`, the module `ray` or `shoal`, initialized with 2 CPUs → name → figure

or, where the start itself is measured, `run_cold(start)`: `start()` imports and initializes, and returns the
module; or, on several nodes, `run_nodes(nodes)`, which starts clusters by itself (see nodes.py). `run_pool(executor)`
and `run_dask(client)` measure the same on concurrent.futures and on Dask. Tasks are nested functions, so that they
travel by value on every system.
"""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

BUDGET_S = 10.0
REPEATS = 5
T = TypeVar("T")


@dataclass(frozen=True)
class Metric:
    """One figure of a scenario and what it should be.

    Attributes:
        label: what the figure is, for the table.
        unit: "/s", "s", "GB/s", ...
        better: whether "higher" or "lower" figures are better.
        ratio: how many times better than Ray's shoal's is to be, or None when only the bounds count.
        at_least, at_most: bounds of shoal's own figure, in the unit.
        of_pool: how many times ProcessPoolExecutor's figure it is to be at least.
    """

    label: str
    unit: str
    better: str = "higher"
    ratio: float | None = None
    at_least: float | None = None
    at_most: float | None = None
    of_pool: float | None = None


def seconds(work: Callable[[], object], repeats: int = REPEATS, warmups: int = 1) -> float:
    """The median time of `work`, in seconds, over up to `repeats` runs within BUDGET_S (one at least)."""
    for _ in range(warmups):
        work()
    times: list[float] = []
    end = time.perf_counter() + BUDGET_S
    while len(times) < repeats and (not times or time.perf_counter() < end):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def after_setup(
    setup: Callable[[int], T], work: Callable[[T], object], repeats: int = REPEATS, warmups: int = 1
) -> float:
    """As `seconds`, of `work` on what `setup` made for it; `setup` gets the round's number and is not timed."""
    times: list[float] = []
    end = time.perf_counter() + 2 * BUDGET_S
    for number in range(-warmups, repeats):
        made = setup(number)
        start = time.perf_counter()
        work(made)
        if number >= 0:
            times.append(time.perf_counter() - start)
            if time.perf_counter() > end:
                break
        del made
    return statistics.median(times)


def rate(work: Callable[[], object], count: int, repeats: int = REPEATS, warmups: int = 1) -> float:
    """How many things a second `work` gets done, if it does `count` of them; the median of `seconds`."""
    return count / seconds(work, repeats, warmups)


def steady_rate(
    step: Callable[[], object], per_step: int = 1, round_s: float = 0.5, rounds: int = REPEATS
) -> float:
    """How many things a second a loop of `step` does, each doing `per_step`; the median over rounds of time.

    For steps that are much shorter than a round: the first round warms up and does not count.
    """
    rates = []
    for _ in range(rounds + 1):
        steps = 0
        start = now = time.perf_counter()
        while now - start < round_s:
            step()
            steps += 1
            now = time.perf_counter()
        rates.append(steps * per_step / (now - start))
    return statistics.median(rates[1:])

"""shoal microbenchmark: how fast the basic operations are here, in figures that can be compared from machine to machine.

A figure is a function that does a known number of operations. It runs once unmeasured, then again and again for some rounds of
equal time; shown are the median and the slowest and fastest round.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import click

from shoal.cli.common import print_json
from shoal.cli.format import Table
from shoal.cli.output import show
from shoal.exceptions import ShoalError

ROUNDS = 3
_LARGE_BYTES = 10 * 1000**2
_BATCH = 1000


@dataclass(frozen=True)
class Figure:
    """One measurement: ``run`` does ``amount`` of ``unit``."""

    name: str
    unit: str
    amount: float
    run: Callable[[], object]


def nothing() -> bytes:
    return b"ok"


def length(value: bytes) -> int:
    return len(value)


class Answering:
    """An actor that answers."""

    def nothing(self) -> bytes:
        return b"ok"


def figures() -> list[Figure]:
    """What is measured, in the session of this process."""
    import shoal

    task: Any = shoal.remote(nothing)
    reader: Any = shoal.remote(length)
    actor: Any = shoal.remote(Answering).options(num_cpus=0).remote()
    small = shoal.put(0)
    large = bytes(_LARGE_BYTES)
    stored = shoal.put(large)
    batch = range(_BATCH)

    def wait_each() -> None:
        refs = [task.remote() for _ in batch]
        while refs:
            refs = shoal.wait(refs, num_returns=min(10, len(refs)))[1]

    gigabytes = _LARGE_BYTES / 1000**3
    return [
        Figure("get, small", "/s", _BATCH, lambda: [shoal.get(small) for _ in batch]),
        Figure("put, small", "/s", _BATCH, lambda: [shoal.put(0) for _ in batch]),
        Figure("put, 10 MB", "GB/s", gigabytes, lambda: shoal.put(large)),
        Figure("tasks, one at a time", "/s", 100, lambda: [shoal.get(task.remote()) for _ in range(100)]),
        Figure("tasks, batches of 1,000", "/s", _BATCH, lambda: shoal.get([task.remote() for _ in batch])),
        Figure(
            "tasks that read 10 MB", "/s", 100, lambda: shoal.get([reader.remote(stored) for _ in range(100)])
        ),
        Figure("wait, 10 of up to 1,000 tasks", "/s", _BATCH, wait_each),
        Figure(
            "actor calls, one at a time",
            "/s",
            100,
            lambda: [shoal.get(actor.nothing.remote()) for _ in range(100)],
        ),
        Figure(
            "actor calls, batches of 1,000",
            "/s",
            _BATCH,
            lambda: shoal.get([actor.nothing.remote() for _ in batch]),
        ),
    ]


def measure(figure: Figure, seconds: float, clock: Callable[[], float] = time.perf_counter) -> list[float]:
    """The rates of ROUNDS rounds of ``seconds`` each, slowest first."""
    figure.run()
    rates = []
    for _ in range(ROUNDS):
        began, runs = clock(), 0
        while (passed := clock() - began) < seconds or not runs:
            figure.run()
            runs += 1
        rates.append(runs * figure.amount / passed)
    return sorted(rates)


def rate_text(rate: float) -> str:
    """With three digits that count."""
    return f"{rate:,.0f}" if rate >= 100 else f"{rate:.3g}"


@click.command("microbenchmark")
@click.argument("words", nargs=-1)
@click.option(
    "--seconds",
    type=click.FloatRange(min=0, min_open=True),
    default=0.5,
    show_default=True,
    help=f"How long each of the {ROUNDS} rounds of a figure takes.",
)
@click.option("--num-cpus", type=click.IntRange(min=1), help="Of the cluster that is started.")
@click.option(
    "--address",
    metavar="HOST:PORT",
    envvar="SHOAL_ADDRESS",
    help='The cluster to measure, or "auto" (default: one that is started, and stopped at the end).',
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of tables.")
def microbenchmark_command(
    words: tuple[str, ...], seconds: float, num_cpus: int | None, address: str | None, as_json: bool
) -> None:
    """Measure how fast puts, gets, tasks and actor calls are here; with WORDS only figures that have one in their names."""
    with _session(address, num_cpus):
        chosen = [
            figure for figure in figures() if not words or any(word.lower() in figure.name for word in words)
        ]
        if not chosen:
            raise click.ClickException(
                f"no figure is called like {' or '.join(words)}; without words there are all"
            )
        rows = []
        for figure in chosen:
            rates = measure(figure, seconds)
            rows.append(
                {"name": figure.name, "unit": figure.unit, "rate": statistics.median(rates), "rates": rates}
            )
    if as_json:
        print_json({"rows": rows})
    else:
        show(figures_table(rows))


def figures_table(rows: list[dict[str, Any]]) -> Table:
    """What was measured, as a table."""
    lines = [
        (
            row["name"],
            f"{rate_text(row['rate'])}{'' if row['unit'].startswith('/') else ' '}{row['unit']}",
            f"{rate_text(row['rates'][0])} to {rate_text(row['rates'][-1])}",
        )
        for row in rows
    ]
    return Table(("FIGURE", ">RATE", ">ROUNDS"), lines, f"{os.cpu_count()} CPUs", [])


@contextmanager
def _session(address: str | None, num_cpus: int | None) -> Iterator[None]:
    import shoal

    try:
        shoal.init(address, num_cpus=num_cpus, log_to_driver=False)
        yield
    except ShoalError as error:
        raise click.ClickException(f"{error.message}; {error.next_step}") from error
    except (ConnectionError, ValueError) as error:
        raise click.ClickException(str(error)) from error
    finally:
        shoal.shutdown()

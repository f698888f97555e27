"""Clusters of several nodes on this machine, made the same way on Ray and on shoal.

The driver is on a node without CPUs; the others are told apart by a resource each: a task runs on node 2 with
`.options(**on(2))`.
"""

import importlib
from types import ModuleType
from typing import Any, Self

GIB = 2**30


def on(number: int) -> dict[str, Any]:
    """Options of a task that is to run on node `number`, from 1."""
    return {"resources": {f"node{number}": 0.001}}


class Nodes:
    """The clusters of one scenario, at most one at a time; everything ends with the `with` block."""

    def __init__(self, system: str) -> None:
        self._system = system
        self._cluster: Any = None
        self._api: ModuleType | None = None

    def start(self, count: int, cpus: int = 1, store_bytes: int = 2 * GIB) -> ModuleType:
        """A cluster of the driver's node and `count` others, and the driver connected to it; returns the module."""
        self._api = importlib.import_module(self._system)
        head = {"num_cpus": 0, "object_store_memory": store_bytes}
        if self._system == "ray":
            from ray.cluster_utils import Cluster

            self._cluster = Cluster(initialize_head=True, head_node_args=head)
        else:
            from shoal.testing import Cluster

            self._cluster = Cluster(**head)
        for number in range(1, count + 1):
            self._cluster.add_node(
                num_cpus=cpus, resources={f"node{number}": 1}, object_store_memory=store_bytes
            )
        self._api.init(address=self._cluster.address)
        return self._api

    def stop(self) -> None:
        """End the cluster, so that another one can be started."""
        if self._api is not None:
            self._api.shutdown()
        if self._cluster is not None:
            self._cluster.shutdown()
        self._api = self._cluster = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

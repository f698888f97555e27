"""What tests of actors on several nodes share: the nodes, an actor, and how to name a node."""

import os
from contextlib import contextmanager

import shoal
from shoal.testing import Cluster


@contextmanager
def three_nodes(config):
    """Three nodes of 1 CPU: the head's, "one" and "two"; the driver is on the head's."""
    with Cluster(num_cpus=1, system_config=config) as cluster:
        for name in ("one", "two"):
            cluster.add_node(num_cpus=1, resources={name: 1}, name=name, system_config=config)
        shoal.init(cluster.address)
        try:
            yield cluster
        finally:
            shoal.shutdown()


@shoal.remote
class Counter:
    def __init__(self, start=0):
        self.value = start

    def add(self, number=1):
        self.value += number
        return self.value

    def where(self):
        return shoal.get_runtime_context().get_node_id(), os.getpid()


def at(name, **more):
    return {"resources": {name: 0.1}, **more}


def node_named(cluster, name):
    ids = {row["NodeID"] for row in shoal.nodes() if row["NodeName"] == name}
    return next(node for node in cluster.nodes if node.node_id in ids)

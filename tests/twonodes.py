"""A cluster of two nodes with a driver on the one that runs no tasks, so that all tasks run on the other."""

from contextlib import contextmanager

import shoal
from shoal.testing import Cluster


@contextmanager
def two_nodes(**other):
    """(the driver's node, another with two CPUs and what ``other`` says); the session is this process's."""
    with Cluster(num_cpus=0) as cluster:
        second = cluster.add_node(num_cpus=2, **other)
        shoal.init(cluster.address)
        try:
            yield cluster.head, second
        finally:
            shoal.shutdown()

"""Daemons of one cluster reach each other: messages over their links, in both directions."""

import os
import signal

from nodeclient import until
from shoal.control import request
from shoal.testing import Cluster


def ping(node):
    return request(node.socket, node.secret, "ping", {})


def test_nodes_exchange_messages():
    with Cluster() as cluster:
        nodes = [cluster.head, cluster.add_node(), cluster.add_node()]
        for node in nodes:
            others = {other.node_id for other in nodes} - {node.node_id}
            answer = until(lambda node=node, others=others: _heard(node, others), "an answer of the others")
            assert answer["silent"] == []


def _heard(node, others):
    answer = ping(node)
    return {row["node_id"] for row in answer["rows"]} == others and answer


def test_a_node_that_is_paused_loses_nothing():
    with Cluster() as cluster:
        other = cluster.add_node()
        until(lambda: _heard(cluster.head, {other.node_id}))
        os.kill(other.pid, signal.SIGSTOP)
        try:
            silent = ping(cluster.head)
        finally:
            os.kill(other.pid, signal.SIGCONT)
        assert silent == {"rows": [], "silent": [other.node_id]}
        until(lambda: _heard(cluster.head, {other.node_id}))

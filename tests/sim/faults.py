"""What goes wrong in a simulated cluster, and when: drawn from its seed, for some time; then the network is whole again."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.sim.machines import HEAD
from tests.sim.workers import Worker

if TYPE_CHECKING:
    from tests.sim.cluster import Cluster

_KINDS = {"worker": 4, "connection": 4, "parted": 2, "cut off": 2, "heal": 4, "head": 1, "node": 1}


class Faults:
    """Faults of one cluster.

    Args:
        survivors: how many machines do not die, the first ones.
    """

    def __init__(self, cluster: Cluster, survivors: int) -> None:
        self._cluster = cluster
        self._random = cluster.random
        self._survivors = survivors
        self.over = False

    def plan(self, count: int, within_s: float) -> None:
        """Schedule faults; when the last one is over, the network is healed."""
        clock, source = self._cluster.clock, self._random
        kinds, weights = zip(*_KINDS.items(), strict=True)
        for _ in range(count):
            kind = source.choices(kinds, weights)[0]
            clock.at(source.uniform(0.0, within_s), lambda kind=kind: self._strike(kind))
        clock.at(within_s, self._heal)

    def _strike(self, kind: str) -> None:
        cluster, source = self._cluster, self._random
        alive = [daemon for daemon in cluster.daemons.values() if daemon.alive]
        if kind == "worker":
            workers = [each for each in cluster.processes() if isinstance(each, Worker)]
            if workers:
                victim = source.choice(workers)
                cluster.note(f"{victim} dies")
                cluster.kill(victim)
        elif kind == "connection":
            connections = [
                connection
                for each in cluster.processes()
                if isinstance(each, Worker)
                for connection in each.connections
            ]
            if connections:
                victim = source.choice(connections)
                cluster.note(f"{victim.submitter} and {victim.worker} lose their connection")
                victim.broken()
        elif kind == "parted" and len(alive) > 1:
            one, other = source.sample(alive, 2)
            cluster.note(f"{one} and {other} are parted")
            cluster.network.part(one.node_id, other.node_id)
        elif kind == "cut off":
            one = source.choice(alive)
            cluster.note(f"{one} is cut off from the head")
            cluster.network.part(one.node_id, HEAD)
        elif kind == "heal":
            cluster.network.heal()
        elif kind == "head" and cluster.head.up:
            cluster.note("the head crashes")
            cluster.head.crash()
            cluster.clock.at(source.choice((0.0, 0.5, 3.0)), cluster.head.restart)
        elif kind == "node":
            mortal = [each for each in alive if each not in list(cluster.daemons.values())[: self._survivors]]
            if mortal:
                cluster.kill_node(source.choice(mortal))

    def _heal(self) -> None:
        self._cluster.note("the network is whole")
        self._cluster.network.heal()
        self.over = True

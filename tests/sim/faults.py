"""What goes wrong in a simulated cluster, and when: drawn from its seed, for some time; then the network is whole again."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.sim.machines import HEAD
from tests.sim.workers import Worker

if TYPE_CHECKING:
    from tests.sim.cluster import Cluster
    from tests.sim.disks import Disk

KINDS = {"worker": 4, "connection": 4, "parted": 2, "cut off": 2, "heal": 4, "head": 1, "node": 1}
DRAINING_KINDS = KINDS | {"drain": 1}
DISK_KINDS = {
    "slow": 3, "full": 3, "failing": 2, "unreadable": 0.5, "hanging": 3, "damage": 3, "disks healed": 4, "worker": 2,
    "connection": 1,
}  # fmt: skip
_HANGS_S = (0.2, 2.0, 8.0)


class Faults:
    """Faults of one cluster.

    Args:
        survivors: how many machines do not die, the first ones.
        kinds: how often each happens.
    """

    def __init__(self, cluster: Cluster, survivors: int, kinds: dict[str, float] = KINDS) -> None:
        self._cluster = cluster
        self._random = cluster.random
        self._survivors = survivors
        self._kinds = kinds
        self.over = False

    def plan(self, count: int, within_s: float) -> None:
        """Schedule faults; when the last one is over, the network is healed."""
        clock, source = self._cluster.clock, self._random
        self._cluster.faulty = bool(count)
        kinds, weights = zip(*self._kinds.items(), strict=True)
        for _ in range(count):
            kind = source.choices(kinds, weights)[0]
            clock.at(source.uniform(0.0, within_s), lambda kind=kind: self._strike(kind))
        clock.at(within_s, self._heal)

    def _strike(self, kind: str) -> None:
        cluster, source = self._cluster, self._random
        alive = [daemon for daemon in cluster.daemons.values() if daemon.alive]
        if not alive:  # who was cut off from the head for too long has stopped
            return
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
        elif kind in ("node", "drain"):
            mortal = [each for each in alive if each not in list(cluster.daemons.values())[: self._survivors]]
            if mortal:
                (cluster.kill_node if kind == "node" else cluster.drain)(source.choice(mortal))
        elif kind in DISK_KINDS:
            self._strike_disk(kind, source.choice(alive).disk)

    def _strike_disk(self, kind: str, disk: Disk) -> None:
        source = self._random
        self._cluster.note(f"{disk}: {kind}")
        disk.troubled = True
        if kind == "slow":
            disk.slowness = source.choice((10.0, 100.0))
        elif kind == "full":
            disk.room_bytes = sum(disk.sizes.values())
        elif kind == "failing":
            disk.fails_writes = True
        elif kind == "unreadable":
            disk.fails_reads = True
        elif kind == "hanging":
            disk.hangs_until = self._cluster.clock.now + source.choice(_HANGS_S)
        elif kind == "damage":
            if disk.files:
                disk.damage(source.choice(sorted(disk.files)))
        else:
            disk.heal()

    def _heal(self) -> None:
        self._cluster.note("the network is whole")
        self._cluster.network.heal()
        for daemon in self._cluster.daemons.values():
            daemon.disk.heal()
        self.over = True

"""Placement groups in a simulated daemon, as `shoald.node.groupside` handles them, and what must hold of them.

What nodes and head say to each other passes through the production codec.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from shoal.wire import messages as m
from shoald.head import codec
from shoald.head import events as ev
from shoald.head import groupwords as gw
from shoald.node.bundles import COMMITTED
from shoald.node.groups import GroupCore

if TYPE_CHECKING:
    from tests.sim.cluster import Cluster
    from tests.sim.daemons import Daemon
    from tests.sim.workers import Process


class GroupSide:
    """The placement groups of one simulated node."""

    def __init__(self, daemon: Daemon) -> None:
        self._daemon = daemon
        self.core = GroupCore(daemon.scheduler, daemon.config, daemon.node_id, True)

    def from_client(self, process: Process, message: list[Any], now: float) -> None:
        """A message of a process about groups."""
        if message[0] == m.CREATE_GROUP:
            _, req, group_id, info = message
            self.core.create(process.proc, process.job_id, group_id, dict(info), req, now)
        elif message[0] == m.REMOVE_GROUP:
            self.core.remove(message[1], now)
        else:
            self.core.watch(process.proc, message[1], now)

    def told(self, message: ev.GroupsTold) -> None:
        """Orders and states of the head."""
        groups = codec.plain_dict(codec.head_message(message, "", "").groups)
        self.core.ordered(groups["orders"], self._daemon.now)
        self.core.states(groups["states"], self._daemon.now)

    def flush(self) -> None:
        """Carry out what the core has decided."""
        outbox = self.core.outbox[:]
        self.core.outbox.clear()
        for effect in outbox:
            if effect[0] == "send":
                self._daemon.tell(effect[1], effect[2])
            elif effect[0] == "news":
                self._daemon.link.tell_groups(codec.groups_message(effect[1]).groups)
            elif effect[0] == "end":
                self._daemon.actors.end_for_good(effect[1], effect[2])


def check_node(daemon: Daemon) -> None:
    """Bundles never take more than the node has, nor members more than their bundles, but for those that waited and went on."""
    core, scheduler = daemon.groups.core, daemon.scheduler
    bundles = core.bundles
    if not bundles.states:
        return
    reserved = sum(bundles.amounts(*key).get("CPU", 0) for key in bundles.states)
    assert reserved <= scheduler.ledger.total["CPU"], f"{daemon} has promised {reserved}: {bundles.states}"
    for group in {group for group, _ in bundles.states}:
        has = sum(bundles.amounts(group, index).get("CPU", 0) for index in bundles.here(group))
        used = sum(
            lease.demand.resources.get("CPU", 0)
            for lease in scheduler.leases.values()
            if group_of(lease) == group and not lease.blocked and lease.lease_id not in daemon.resumed
        )
        assert used <= has, f"{daemon}: members of {group.hex()} have {used} of {has}"


def group_of(lease: Any) -> bytes:
    """The group that a lease is in; b"" if it is in none."""
    constraints = lease.demand.constraints
    return constraints.group if constraints is not None else b""


def check_apart(cluster: Cluster) -> None:
    """No bundle is used on two nodes; and no two of one group are on one, if they are to be apart.

    A node that the head cannot reach may hold what the head has given to another one meanwhile: it was never told that the group
    is created, so nobody is sent there, and gives it back when it hears of that.
    """
    where: dict[tuple[bytes, int], Daemon] = {}
    for daemon in cluster.daemons.values():
        if not daemon.alive or daemon.node_id in cluster.fenced:
            continue
        for key, state in daemon.groups.core.bundles.states.items():
            record = daemon.groups.core.records.get(key[0])
            if state != COMMITTED or record is None or record.nodes[key[1] :][:1] != [daemon.node_id]:
                continue
            assert where.setdefault(key, daemon) is daemon, f"{key} is on {daemon} and {where[key]}"
            if record.info is not None and record.info["strategy"] == "STRICT_SPREAD":
                here = daemon.groups.core.bundles.here(key[0])
                mine = [index for index, each in here.items() if each == COMMITTED]
                assert len(mine) == 1, f"{daemon} has bundles {mine} of {record}"


def check_settled(cluster: Cluster) -> None:
    """The network is whole and quiet: what the head believes is what the nodes have, and nothing else is reserved."""
    wanted: dict[str, set[tuple[bytes, int]]] = {node_id: set() for node_id in cluster.daemons}
    for view in cluster.head.core.groups.views():
        if view.state in (gw.CREATED, gw.RESCHEDULING):
            for index, node_id in enumerate(view.nodes):
                if node_id:
                    wanted[node_id].add((view.group.group_id, index))
    for daemon in cluster.daemons.values():
        if daemon.alive:
            states = daemon.groups.core.bundles.states
            assert states == dict.fromkeys(wanted[daemon.node_id], COMMITTED), f"{daemon} has {states}"


def check_gone(cluster: Cluster) -> None:
    """Nobody has a group any more, and everything is free."""
    for view in cluster.head.core.groups.views():
        assert view.state in gw.OVER, f"the head keeps {view}"
    for daemon in cluster.daemons.values():
        if daemon.alive:
            core, ledger = daemon.groups.core, daemon.scheduler.ledger
            assert not core.records, f"{daemon} keeps {core.records}"
            assert not core.bundles.states, f"{daemon} keeps {core.bundles.states}"
            assert {name: amount for name, amount in ledger.free.items() if amount} == ledger.total, daemon

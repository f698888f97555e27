"""What must hold of a simulated cluster, besides what its cores say of themselves (`validate`).

Safety, at every moment: no node has more in use than it has, but for parents that went on; an object is on its way to a node
once at a time; what a live process has stored and refers to has a copy on a live node, unless all that had one are dead.
Liveness, when the network is whole: every task ends, and of what nobody refers to nothing is left anywhere.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.sim import actorside, groupside

from shoal.owner.objects import STORED
from shoald.store.objects import LOST

if TYPE_CHECKING:
    from tests.sim.cluster import Cluster
    from tests.sim.daemons import Daemon
    from tests.sim.faults import Faults
    from tests.sim.workload import Mix

SETTLE_S = 120.0


def check(cluster: Cluster) -> None:
    """Safety."""
    for daemon in cluster.daemons.values():
        if daemon.alive:
            check_resources(daemon)
            check_pulls(daemon)
            check_bytes(daemon)
            groupside.check_node(daemon)
    groupside.check_apart(cluster)
    check_objects(cluster)


def check_resources(daemon: Daemon) -> None:
    """Leases of a node, by what they are known to take: never more than there is, but for tasks that waited and went on."""
    scheduler = daemon.scheduler
    total = scheduler.ledger.total["CPU"]
    used = sum(
        lease.demand.resources.get("CPU", 0)
        for lease in scheduler.leases.values()
        if not lease.blocked and not groupside.group_of(lease)
    )
    used += scheduler.ledger.reserved.get("CPU", 0)
    resumed = daemon.resumed & scheduler.leases.keys()
    extra = sum(scheduler.leases[lease_id].demand.resources.get("CPU", 0) for lease_id in resumed)
    assert used - extra <= total, f"{daemon} has {used} of {total} in use, {extra} by tasks that went on"


def check_pulls(daemon: Daemon) -> None:
    """What lands now was asked for once."""
    flights = daemon.objects.pulls._lanes.flights if daemon.objects is not None else {}
    chunks = [(pull.id, chunk) for flight in flights.values() for pull, _, chunk in flight.pieces]
    assert len(chunks) == len(set(chunks)), f"{daemon} pulls something twice at a time"
    for pull, _, _ in (piece for flight in flights.values() for piece in flight.pieces):
        obj = daemon.store._ledger.objects.get(pull.id)
        assert obj is None or obj.pins or not pull.sources, f"{daemon} pulls {pull.id.hex()}, which it has"


def check_bytes(daemon: Daemon) -> None:
    """Every byte of the region and of the files has one user; nothing is read from disk more often than somebody wants it."""
    store, disk = daemon.store, daemon.disk
    if not store.spills.enabled and daemon.region is None:
        return
    store._ledger.check_accounts(store.spills.extents())
    assert disk.files.keys() >= {file.number for file in store.spills.files.values() if file.ready}
    for object_id, count in disk.restored.items():
        assert count <= daemon.asked[object_id], f"{daemon} restored {object_id.hex()} {count} times"
    for obj in store._ledger.objects.values():
        lost = obj.disk is not None and obj.disk.state == LOST
        assert not lost or obj.id in daemon.cluster.damaged, f"{daemon} has lost {obj}"


def check_objects(cluster: Cluster) -> None:
    """Nothing that is referred to is gone, nor what a copy that is kept refers to."""
    alive = [daemon for daemon in cluster.daemons.values() if daemon.alive]
    for daemon in alive:
        if daemon.region is None or cluster.fenced:
            break
        for obj in daemon.store._ledger.objects.values():
            for inner in obj.contained if obj.holders and not obj.recalled else ():
                there = any(inner in each.store._ledger.objects for each in alive)
                known = inner in cluster.lost or inner in cluster.damaged
                assert there or known, f"{inner.hex()} in {obj} of {daemon} was freed"
    for process in cluster.processes():
        if process.daemon.node_id in cluster.fenced:
            continue
        for entry in process.table.entries.values():
            if entry.state != STORED or not entry.holds or entry.stamp is None:
                continue
            if entry.id in cluster.lost or entry.id in cluster.damaged:
                continue
            # The reply may be faster than the seal; and a hold that a dead machine was to register may never have come.
            proc, number = entry.stamp
            if cluster.processed(proc) >= number:
                there = any(entry.id in daemon.store._ledger.objects for daemon in alive)
                assert there, f"{entry} of {process} was freed"


def see_through(cluster: Cluster, trouble: Faults, limit_s: float) -> None:
    """Run a cluster to its end, through its faults; what goes wrong is told with its last events."""
    try:
        cluster.run(limit_s)
        while not trouble.over:
            cluster.clock.run(1.0)
        cluster.clock.run(SETTLE_S)
        settle(cluster)
    except Exception as error:
        story = [f"seed {cluster.seed}, {len(cluster.daemons)} nodes:", *cluster.history[-60:]]
        error.add_note("\n".join(story))
        raise


def play(
    cluster: Cluster, mix: Mix, tasks: int, *, drivers: int, window: int,
    trouble: Faults, faults: int, within_s: float, limit_s: float,
) -> Cluster:  # fmt: skip
    """Have the first ``drivers`` nodes submit ``tasks`` each of a mix, through so many faults, to the end; all is checked."""
    cluster.join()
    for daemon in list(cluster.daemons.values())[:drivers]:
        cluster.add_driver(daemon, tasks, mix, window=window)
    cluster.clock.after_each = cluster.checked
    trouble.plan(faults, within_s=within_s)
    see_through(cluster, trouble, limit_s)
    return cluster


def settle(cluster: Cluster) -> None:
    """Liveness: all drivers forget everything, and nothing is left of it; then they end, and nothing is left of them."""
    groupside.check_settled(cluster)
    alive = [driver for driver in cluster.drivers if driver.alive]
    there = [daemon for daemon in cluster.daemons.values() if daemon.alive]
    if there and not alive:  # somebody has to end what outlives its driver
        alive = [cluster.add_driver(there[0], 0, cluster.drivers[0].workload.mix, 1)]
    for driver in cluster.drivers:
        if alive and not driver.alive:
            alive[0].casts.inherit(driver.casts)
    for driver in alive:
        driver.forget_all()
    cluster.clock.run(SETTLE_S)
    cluster.validate()
    for process in cluster.processes():
        assert not process.table.entries, f"{process} remembers {list(process.table.entries.values())[:3]}"
        assert not process.dispatch.leases, f"{process} keeps {process.dispatch.leases}"
    actorside.check_gone(cluster)
    check_empty(cluster)
    for driver in cluster.drivers:
        cluster.kill(driver)
    cluster.clock.run(SETTLE_S)
    cluster.validate()
    check_empty(cluster)
    groupside.check_gone(cluster)
    actorside.check_gone(cluster)


def check_empty(cluster: Cluster) -> None:
    """No daemon has anything of anybody, and the head remembers no object."""
    for daemon in cluster.daemons.values():
        if daemon.alive:
            ledger = daemon.store._ledger
            rest = (ledger.objects, ledger.early, ledger.shared, ledger.expected, ledger.changes)
            assert not any(rest), f"{daemon} keeps {rest}"
            assert not daemon.scheduler.leases, f"{daemon} leases {daemon.scheduler.leases}"
            assert not daemon.scheduler.waiting, f"{daemon}: {daemon.scheduler.waiting}"
            assert not daemon.away.leases, f"{daemon} has {daemon.away.leases}"
            assert daemon.objects is None or not len(daemon.objects.pulls), f"{daemon} pulls something"
            assert not daemon.traffic.requests
            assert not daemon.disk.files, f"{daemon} keeps files: {daemon.disk.files}"
            stats = daemon.store.stats()
            assert stats["used"] == stats["leased"], f"{daemon}: {stats}"
    assert not len(cluster.head.core.directory), "the head remembers objects"

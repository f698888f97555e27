"""Who gets the next worker, and who has to give one back. Pure functions over the scheduler's tables.

Shares are compared between jobs first, then between the clients of a job, then between the shapes of a
client: whoever has less goes first, and among equals whoever was served longest ago. Within a job a client
whose task is blocked goes before others: its parent task waits for what it asks.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable

    from shoal.config import Config
    from shoald.node.leases import Amounts, Demand, Lease


def order_key(demand: Demand, reserved: Demand | None) -> tuple[Any, ...]:
    """Demands with smaller keys are served first. A grant to anyone only makes keys grow."""
    client = demand.client
    job = client.job
    assert job is not None, demand
    return (
        demand is not reserved,
        job.usage,
        job.last_grant,
        not client.blocked,
        client.usage,
        client.last_grant,
        demand.usage,
        demand.last_grant,
        client.proc,
        demand.shape_id,
    )


def may_recall(demand: Demand, lease: Lease, is_reserved: bool, now: float, config: Config) -> bool:
    """Whether ``lease`` has to give way to ``demand`` now."""
    holder = lease.demand
    if holder is demand:
        return False
    if is_reserved:
        return True
    held_s = now - lease.granted_at
    if not holder.backlog and held_s * 1000 >= config.lease_hold_ms:
        return True  # it may be idle; if not, it only comes back as soon as its tasks are done
    mine, theirs = _usages(demand, holder)
    if theirs - lease.weight() >= mine + demand.weight:
        return True
    return theirs > mine and held_s * 1000 >= config.lease_slice_ms


def _usages(demand: Demand, holder: Demand) -> tuple[int, int]:
    mine, theirs = demand.client, holder.client
    if mine.job is not theirs.job:
        return (mine.job.usage if mine.job else 0), (theirs.job.usage if theirs.job else 0)
    if mine is not theirs:
        return mine.usage, theirs.usage
    return demand.usage, holder.usage


def victims_for(
    demand: Demand, missing: Amounts, leases: Iterable[Lease], is_reserved: bool, now: float, config: Config
) -> list[Lease]:
    """The leases to recall so that ``missing`` comes in: idle-looking ones first, then of those who have
    most.

    Empty if not all of it can be had; then nobody is bothered.
    """
    missing = dict(missing)
    candidates = [
        lease
        for lease in leases
        if any(lease.demand.amounts.get(name) for name in missing)
        and may_recall(demand, lease, is_reserved, now, config)
    ]
    candidates.sort(
        key=lambda lease: (lease.demand.backlog > 0, -_usages(demand, lease.demand)[1], lease.granted_at)
    )
    chosen = []
    for lease in candidates:
        resources = lease.demand.amounts
        if not any(resources.get(name) for name in missing):
            continue
        chosen.append(lease)
        missing = {
            name: rest for name, amount in missing.items() if (rest := amount - resources.get(name, 0)) > 0
        }
        if not missing:
            return chosen
    return []


def first_recallable_at(leases: Iterable[Lease], now: float, config: Config) -> float | None:
    """When the next of ``leases`` has been held long enough to be looked at again, after ``now``."""
    times = [
        when
        for lease in leases
        for when in (
            lease.granted_at + config.lease_hold_ms / 1000,
            lease.granted_at + config.lease_slice_ms / 1000,
        )
        if when > now
    ]
    return min(times, default=None)

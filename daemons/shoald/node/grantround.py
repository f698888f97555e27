"""Which demands get workers now: one round over all that wait, in order of fairness. Pure.

Where a demand may be met was decided before (`placement`): here at most `Demand.here` times. A demand that fits but finds no
idle worker keeps its place in this round (what it needs is set aside), and a worker is started for it. A demand that does
not fit is passed over; whether others have to make room for it is decided in `pressure`.
"""

from __future__ import annotations

import heapq
from typing import TYPE_CHECKING

from shoald.node.fairness import order_key
from shoald.node.gpus import GPU
from shoald.node.leases import Amounts, Demand
from shoald.node.pool import STARTING

if TYPE_CHECKING:
    from shoald.node.scheduler import SchedulerCore


class GrantRound:
    """Grants for one scheduler."""

    def __init__(self, core: SchedulerCore) -> None:
        self._core = core

    def grant_round(self, now: float, reserved: Demand | None) -> tuple[list[Demand], dict[str, int]]:
        """Grant what can be granted. Returns the feasible demands that lack resources, in order, and for
        how many leases a worker is missing, by its interpreter (Pool.python_of).
        """
        core = self._core
        queue = [
            (order_key(d, reserved), n, d)
            for n, d in enumerate(core.waiting)
            if d.here and core.ledger.feasible(d.amounts) and not (d.short_of_memory and core.leases)
        ]
        heapq.heapify(queue)
        set_aside: list[Amounts] = []
        planned: dict[Demand, int] = {}
        missing: dict[str, int] = {}
        zero_cpu = core.zero_cpu_running
        room = core.staffing.room() + core.pool.count(STARTING)
        unmet: list[Demand] = []
        while queue:
            if core.held_back and core.leases:
                break
            key, number, demand = queue[0]
            fresh = order_key(demand, reserved)
            if fresh != key:  # others of its client or job were served meanwhile
                heapq.heapreplace(queue, (fresh, number, demand))
                continue
            keep = reserved.amounts if reserved is not None and reserved is not demand else None
            if not (core.ledger.fits(demand.amounts, keep) and core.gpus.fits(demand.resources.get(GPU, 0))):
                unmet.append(demand)
                heapq.heappop(queue)
                continue
            without_cpu = demand.without_cpu
            if without_cpu and zero_cpu >= core.config.zero_cpu_leases_max:
                heapq.heappop(queue)
                continue
            assert demand.client.job is not None, demand
            worker = core.pool.idle_for(demand.client.job.job_id, demand.env)
            if worker is not None:
                core.grant(demand, worker, now)
            elif len(set_aside) < room:
                core.ledger.take(demand.amounts)
                set_aside.append(demand.amounts)
                planned[demand] = planned.get(demand, 0) + 1
                python = core.pool.python_of(demand.env)
                missing[python] = missing.get(python, 0) + 1
            else:
                heapq.heappop(queue)
                continue
            zero_cpu += without_cpu
            if min(demand.backlog, demand.here) <= planned.get(demand, 0):
                heapq.heappop(queue)
        for amounts in set_aside:
            core.ledger.give(amounts)
        return unmet, missing

"""What happens for demands that wait: leases are recalled, room is reserved, and people are told. Pure.

A recalled lease counts as about to come back for `recall_again_ms`, so that each waiting demand has one
recall under way and not more; then another holder is asked too. Reservations are for the demand that waits
longest, after `reservation_after_ms`, in turns of `reservation_hold_ms` with equal pauses: what it waits
for may never come.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from shoal.sizes import bytes_text
from shoal.wire import messages as m
from shoald.node.effects import Send
from shoald.node.fairness import first_recallable_at, victims_for
from shoald.node.gpus import GPU
from shoald.node.leases import UNITS, Amounts, Demand
from shoald.node.pool import BLOCKED, DYING, IDLE, LEASED, STARTING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from shoald.node.leases import Lease
    from shoald.node.scheduler import SchedulerCore

DEMANDS_PER_ROUND = 16  # that recalls are considered for; the others' turn comes when these were served
_BYTES = ("memory", "object_store_memory")


class Pressure:
    """Recalls, reservations and reasons for one scheduler."""

    def __init__(self, core: SchedulerCore) -> None:
        self._core = core
        self._config = core.config

    # --- reservations ---

    def reservation(self, now: float) -> Demand | None:
        """The demand that room is kept for now, if any."""
        core = self._core
        oldest: Demand | None = None
        for demand in core.waiting:
            if self._holds(demand, now) and (oldest is None or demand.since < oldest.since):
                oldest = demand
        return oldest

    def _holds(self, demand: Demand, now: float) -> bool:
        aged_ms = (now - demand.since) * 1000 - self._config.reservation_after_ms
        if (
            aged_ms < 0
            or not demand.here
            or demand.short_of_memory
            or not self._core.ledger.feasible(demand.amounts)
        ):
            return False
        return int(aged_ms / self._config.reservation_hold_ms) % 2 == 0

    # --- recalls ---

    def recall_for(self, unmet: list[Demand], reserved: Demand | None, now: float) -> float | None:
        """Recall leases for demands that lack resources. Returns when to look again."""
        core = self._core
        coming = dict(core.ledger.free)
        takeable = []
        for lease in core.leases.values():
            if self._is_coming(lease, now):
                self._add(coming, lease)
            elif lease.recalled_at is None and not lease.blocked and not lease.demand.options.get("actor"):
                takeable.append(lease)
        for demand in unmet[:DEMANDS_PER_ROUND]:
            missing = self._missing(demand, coming) or self._missing_gpus(demand)
            if missing:
                victims = victims_for(demand, missing, takeable, demand is reserved, now, self._config)
                if not victims:
                    continue
                for lease in victims:
                    core.recall(lease, now)
                    takeable.remove(lease)
                    self._add(coming, lease)
            for name, amount in demand.amounts.items():
                coming[name] = coming.get(name, 0) - amount
        if not unmet:
            return None
        tick = now + self._config.scheduler_tick_ms / 1000
        return min(tick, first_recallable_at(takeable, now, self._config) or tick)

    def recall_idle(self, needed: Amounts, now: float) -> None:
        """Recall leases that nobody may be using, so that ``needed`` comes free."""
        core = self._core
        coming = dict(core.ledger.free)
        idle = []
        for lease in core.leases.values():
            if self._is_coming(lease, now):
                self._add(coming, lease)
            elif (
                lease.recalled_at is None
                and not lease.blocked
                and not lease.demand.backlog
                and not lease.demand.options.get("actor")
                and (now - lease.granted_at) * 1000 >= self._config.lease_hold_ms
            ):
                idle.append(lease)
        for lease in idle:
            missing = [n for n, amount in needed.items() if amount > max(0, coming.get(n, 0))]
            if any(lease.demand.amounts.get(name) for name in missing):
                core.recall(lease, now)
                self._add(coming, lease)

    def _is_coming(self, lease: Lease, now: float) -> bool:
        if self._core.pool.workers[lease.worker_id].state == DYING:
            return True
        return (
            lease.recalled_at is not None and (now - lease.recalled_at) * 1000 < self._config.recall_again_ms
        )

    @staticmethod
    def _add(coming: Amounts, lease: Lease) -> None:
        for name, amount in lease.demand.amounts.items():
            if not (lease.blocked and name in lease.demand.lendable):
                coming[name] = coming.get(name, 0) + amount

    @staticmethod
    def _missing(demand: Demand, coming: Amounts) -> Amounts:
        return {
            name: lacking
            for name, amount in demand.amounts.items()
            if (lacking := amount - max(0, coming.get(name, 0))) > 0
        }

    def _missing_gpus(self, demand: Demand) -> Amounts:
        """What of GPUs has to come free though there is enough in all: it lies on several of them."""
        lacking = self._core.gpus.lacking(demand.resources.get(GPU, 0))
        return {name: lacking for name in demand.amounts if name.partition("_")[0] == GPU} if lacking else {}

    # --- telling ---

    def tell(self, now: float) -> float | None:
        """DEMAND_STATUS for demands that cannot be met as things are. Returns when the next one is due."""
        core = self._core
        due: list[float] = []
        patience_s = 0.0 if core.staffing.failing else self._config.infeasible_ms / 1000
        for demand in core.waiting:
            kind, text = self._obstacle(demand)
            if kind == demand.told:
                continue
            if kind != "ok" and demand.since + patience_s > now:
                due.append(demand.since + patience_s)
                continue
            demand.told = kind
            core.outbox.append(Send(demand.client.proc, [m.DEMAND_STATUS, demand.shape_id, kind, text]))
        return min(due, default=None)

    def _obstacle(self, demand: Demand) -> tuple[str, str]:
        """("ok", "") or why this demand is not going to be met unless something changes."""
        core, pool = self._core, self._core.pool
        needs = format_amounts(demand.resources)
        if demand.obstacle is not None:
            return demand.obstacle
        if not demand.here:
            return "ok", ""
        if not core.ledger.feasible(demand.amounts):
            text = lacks(demand.resources, core.ledger.total)
            return "infeasible", f"{text}; ask for less, or add a node that has it"
        if core.staffing.failing and not self._has_worker(pool.python_of(demand.env)):
            return "limit", f"needs {needs}, and no worker can be started: {core.staffing.last_failure}"
        if core.staffing.room() or pool.count(LEASED) or pool.count(STARTING) or pool.count(DYING):
            return "ok", ""
        return "limit", (
            f"needs a worker, and all {pool.count(BLOCKED)} that this node may have (blocked_workers_max="
            f"{self._config.blocked_workers_max} above {core.cpus} CPUs) wait for tasks of their own: "
            f"{self._chain()}; nest less deeply, or raise blocked_workers_max"
        )

    def _has_worker(self, python: str) -> bool:
        """Whether some worker that is this interpreter works."""
        pool = self._core.pool
        return any(worker.python == python for state in (IDLE, LEASED) for worker in pool.in_state(state))

    def _chain(self) -> str:
        """The names of what waits, outermost first, as the tasks' workers and demands tell."""
        names = []
        for worker in self._core.pool.in_state(BLOCKED)[:5]:
            name = self._core.leases[worker.lease_id].demand.options.get("name", "a task")
            names.append(f"{name} (pid {worker.pid})")
        return " → ".join([*names, "…"])

    def pending(self, now: float) -> list[dict[str, Any]]:
        """A row per demand that waits."""
        return [
            {
                "proc": demand.client.proc,
                "job": demand.client.job.job_id if demand.client.job else "",
                "shape_id": demand.shape_id,
                "name": str(demand.options.get("name", "")),
                "resources": demand.resources,
                "backlog": demand.backlog,
                "waiting_s": now - demand.since,
                "reason": self._installing(demand, now) or self._reason(demand),
            }
            for demand in self._core.waiting
        ]

    def _installing(self, demand: Demand, now: float) -> str:
        """What workers of the demand's environment wait for; "" if that is there, or nobody makes it yet."""
        if not demand.env:
            return ""
        for worker in self._core.pool.in_state(LEASED):
            if worker.env == demand.env and worker.note.get("installing"):
                return f"{worker.installing(now)} (worker {worker.pid})"
        return ""

    def _reason(self, demand: Demand) -> str:
        kind, text = self._obstacle(demand)
        if kind != "ok":
            return text
        core = self._core
        if not demand.here:
            return demand.away
        if demand.short_of_memory and core.leases:
            return demand.short_of_memory
        if core.held_back and core.leases:
            return "waits for memory, which is short on this node: nothing is started beside what runs"
        missing = self._missing(demand, core.ledger.free)
        if missing:
            holders = sorted(
                core.pool.workers[lease.worker_id].pid
                for lease in core.leases.values()
                if not lease.blocked and any(lease.demand.amounts.get(name) for name in missing)
            )
            held = f"held by workers {_some(holders)}" if holders else "lent back to tasks that went on"
            if (
                demand.amounts is not demand.resources
            ):  # a part of a placement group, whose names nobody knows
                return f"waits for the tasks of its placement group that run before it ({held})"
            return f"waits for {format_amounts(missing)} more ({held})"
        if self._missing_gpus(demand):
            return "waits for GPUs that others have a share of: enough is free, but not together"
        if demand.without_cpu and core.zero_cpu_running >= self._config.zero_cpu_leases_max:
            running = core.zero_cpu_running
            return f"waits for one of {running} running tasks without CPU (zero_cpu_leases_max) to end"
        if not core.staffing.room():
            return f"waits for one of {core.staffing.processes_max} worker processes"
        return "waits for a worker to start, or for room that a larger demand has reserved"


def _some(pids: Iterable[int]) -> str:
    listed = list(pids)
    return ", ".join(str(pid) for pid in listed[:8]) + (
        f" and {len(listed) - 8} others" if len(listed) > 8 else ""
    )


def lacks(needed: Amounts, total: Amounts) -> str:
    """That this node will never have what a demand needs."""
    return (
        f"needs {format_amounts(needed, [total])}, and this node has {format_amounts(total, [needed])} in all"
    )


def format_amounts(amounts: Amounts, beside: Sequence[Amounts] = ()) -> str:
    """Resources for people: "CPU 2, memory 1.50 GB, licence 0.25"; "nothing" if there are none.

    ``beside``: what they are compared with; amounts that differ look different.
    """
    parts = []
    for name, amount in sorted(amounts.items()):
        others = [other[name] for other in beside if name in other]
        if name in _BYTES:
            text = bytes_text(amount / UNITS, beside=[other / UNITS for other in others])
        else:
            text = f"{amount / UNITS:g}"
            if any(other != amount and f"{other / UNITS:g}" == text for other in others):
                text = f"{amount / UNITS:.4f}"
        parts.append(f"{name} {text}")
    return ", ".join(parts) or "nothing"

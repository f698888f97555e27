"""What the scheduler keeps: the node's resources, its clients, their demands and leases. Pure bookkeeping,
no policy.

Amounts are integers of 1/10,000 (a CPU is 10,000). `free` may be negative only because tasks that had lent
their CPU went on: that is counted as oversubscription, and nothing is granted from it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from shoald.node.constraints import Constraints

BACKLOG_MAX = 1_000_000
UNITS = 10_000
CPU = "CPU"
WEIGHT_WHOLE = 1_000_000  # the weight of a lease on all of the node's most contended resource
Amounts = dict[str, int]


def floats(amounts: Amounts) -> dict[str, float]:
    """Resources as people write them."""
    return {name: amount / UNITS for name, amount in amounts.items()}


class ResourceLedger:
    """The node's resources: in all, and what is not taken.

    Attributes:
        derived: totals of what only the members of a placement group can take (`bundles`); in `free` too, not in `total`.
        reserved: what such groups have taken out of `free`.
    """

    __slots__ = ("derived", "free", "reserved", "total")

    def __init__(self, total: Amounts) -> None:
        self.total = dict(total)
        self.free = dict(total)
        self.derived: Amounts = {}
        self.reserved: Amounts = {}

    def feasible(self, amounts: Amounts) -> bool:
        """Whether an empty node could meet this."""
        total, derived = self.total, self.derived
        if derived:
            return all(
                amount <= total.get(n, 0) or amount <= derived.get(n, 0) for n, amount in amounts.items()
            )
        return all(amount <= total.get(name, 0) for name, amount in amounts.items())

    def fits(self, amounts: Amounts, reserved: Amounts | None = None) -> bool:
        """Whether this can be taken now, leaving ``reserved`` alone."""
        free = self.free
        if reserved is None:
            return all(amount <= free.get(name, 0) for name, amount in amounts.items() if amount)
        return all(
            amount <= free.get(name, 0) - reserved.get(name, 0) for name, amount in amounts.items() if amount
        )

    def take(self, amounts: Amounts) -> None:
        """Take, whether it fits or not; the caller knows."""
        for name, amount in amounts.items():
            self.free[name] = self.free.get(name, 0) - amount

    def give(self, amounts: Amounts) -> None:
        """Give back what was taken."""
        for name, amount in amounts.items():
            self.free[name] += amount

    def oversubscribed(self) -> Amounts:
        """By how much more is in use than there is, of what is."""
        return {name: -self.free[name] for name in self.total if self.free[name] < 0}

    def weight(self, amounts: Amounts) -> int:
        """The dominant share of ``amounts`` in the node, in 1/WEIGHT_WHOLE; at least 1, so that leases
        count.
        """
        shares = [
            amount * WEIGHT_WHOLE // self.total[name]
            for name, amount in amounts.items()
            if amount and self.total.get(name)
        ]
        return max(shares, default=0) + 1


class Demand:
    """How many more leases a client could use for one shape.

    Attributes:
        amounts: what one of its leases takes here: its resources, or those of a placement group that stand for them.
        lendable: the CPUs among them, which a task lends out while it waits.
        constraints: where it may be met; None for anywhere.
        env: the environment that its workers are bound to; "" for the node's own.
        here, obstacle, why, away: the placement's: how many leases this node may grant for it now; (kind, text) if no node can
            ever meet it; why leases of it are granted here, and why other nodes were asked, for people.
        since: when it began to wait for its next lease; meaningless while backlog is 0.
        weight: of one of its leases.
        usage: sum of the weights of its leases that are not lent out.
        told: the kind of the last DEMAND_STATUS ("ok" if none was sent).
        short_of_memory: why none is granted here beside others, since one was ended for lack of memory; "" if not so.
    """

    __slots__ = (
        "amounts", "away", "backlog", "client", "constraints", "env", "here", "last_grant", "leases", "lendable",
        "obstacle", "options", "resources", "shape_id", "short_of_memory", "since", "told", "turn", "usage", "weight", "why",
    )  # fmt: skip

    def __init__(self, client: Client, shape_id: int, resources: Amounts, weight: int, now: float) -> None:
        self.client = client
        self.shape_id = shape_id
        self.resources = resources
        self.amounts = resources
        self.lendable: Amounts = {CPU: resources[CPU]} if resources.get(CPU) else {}
        self.constraints: Constraints | None = None
        self.here = BACKLOG_MAX
        self.obstacle: tuple[str, str] | None = None
        self.why = self.away = ""
        self.turn = 0
        self.weight = weight
        self.options: dict[str, Any] = {}
        self.env = ""
        self.backlog = 0
        self.since = now
        self.leases: set[int] = set()
        self.usage = 0
        self.last_grant = 0
        self.told = "ok"
        self.short_of_memory = ""

    @property
    def without_cpu(self) -> bool:
        """Whether its leases count against `zero_cpu_leases_max`: tasks that ask for no CPU, but not actors."""
        return not self.resources.get(CPU) and not self.options.get("actor")

    @property
    def member_of(self) -> list[Any] | None:
        """(placement group, bundle or -1, whether what its tasks submit belongs there too) that it is for."""
        wishes = self.constraints
        return [wishes.group, wishes.bundle, wishes.capture] if wishes is not None and wishes.group else None

    def __repr__(self) -> str:
        return f"<demand {self.client.proc.hex()}/{self.shape_id} {self.resources} backlog={self.backlog}>"


class Job:
    """The clients of one driver: itself and the workers bound to it."""

    __slots__ = ("job_id", "last_grant", "usage")

    def __init__(self, job_id: str) -> None:
        self.job_id = job_id
        self.usage = 0
        self.last_grant = 0


class Client:
    """A process that submits: a driver or a worker.

    Attributes:
        kind: "driver", "worker", "actor" (an actor that wants its process), or one of another node: "remote driver", …
        demands: by shape; when there are `demands_most` of them, idle ones are forgotten before there is one more.
    """

    __slots__ = (
        "blocked",
        "demands",
        "demands_most",
        "job",
        "kind",
        "last_grant",
        "leases",
        "placed_elsewhere",
        "proc",
        "usage",
    )

    def __init__(self, proc: bytes, kind: str) -> None:
        self.proc = proc
        self.kind = kind
        self.placed_elsewhere = kind.startswith("remote")
        self.job: Job | None = None
        self.demands: dict[int, Demand] = {}
        self.demands_most = 0
        self.leases: dict[int, Lease] = {}
        self.blocked = False
        self.usage = 0
        self.last_grant = 0


class Lease:
    """A worker in the hands of a submitter.

    Attributes:
        recalled_at: when it was recalled; None if it was not.
        blocked: its task waits, and its CPU is lent out.
        why: why it was granted here, for people.
        gpus: which GPUs it has, and how much of each (see `gpus`).
    """

    __slots__ = ("blocked", "demand", "gpus", "granted_at", "lease_id", "recalled_at", "why", "worker_id")

    def __init__(self, lease_id: int, demand: Demand, worker_id: bytes, now: float) -> None:
        self.lease_id = lease_id
        self.demand = demand
        self.worker_id = worker_id
        self.granted_at = now
        self.recalled_at: float | None = None
        self.blocked = False
        self.why = demand.why
        self.gpus: tuple[tuple[int, int], ...] = ()

    @property
    def gpu_numbers(self) -> list[int]:
        """The GPUs that it has, or has a share of."""
        return [number for number, _ in self.gpus]

    def weight(self) -> int:
        """What it counts for in shares: a blocked one next to nothing."""
        return 1 if self.blocked else self.demand.weight

    def __repr__(self) -> str:
        return f"<lease {self.lease_id} of {self.demand}>"

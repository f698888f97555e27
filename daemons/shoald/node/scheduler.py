"""The scheduler of one node: demands of clients in, leases of workers out. Pure (R6): time comes in with
each event.

Events are the methods; effects are appended to `outbox`; `schedule` decides over everything that came in
since the last time, and returns when it wants to be called again. Demands are declarative, so events are
idempotent in effect.

A blocked worker's CPU is lent out and taken back at once when its task goes on: that may oversubscribe the
node for a while, by at most the number of blocked workers, and nothing is granted meanwhile. A demand that
waits long reserves what it needs, for a bounded time and with pauses, so that neither small demands starve
a large one nor a large one, whose room never comes, starves the rest. A lease lives until its return or the
confirmed death of its worker.

A client may go through ever new shapes. So demands for which nothing waits and no worker is leased are forgotten, all
together, when there are more than `demands_idle_max`, and not before there are twice as many as were in use then. Nobody
may rely on one that is idle: whoever may have to wait for it again keeps it (`missed_elsewhere`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from shoal.wire import messages as m
from shoald.node import constraints
from shoald.node.bundles import derived_amounts
from shoald.node.effects import Effect, EndWorker, Grant, Send
from shoald.node.gpus import GPU, Gpus
from shoald.node.grantround import GrantRound
from shoald.node.leases import BACKLOG_MAX, CPU, UNITS, Amounts, Client, Demand, Job, Lease, ResourceLedger
from shoald.node.placement import Alone, Placement, Shares, View
from shoald.node.pool import BLOCKED, DYING, IDLE, LEASED, STARTING, Pool, Worker
from shoald.node.pressure import Pressure
from shoald.node.staffing import Staffing
from shoald.store.errors import ProtocolError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from shoal.config import Config

_NO_TASK = bytes(16)


class SchedulerCore:
    """All leases of one node.

    Args:
        resources: the node's, in units of 1/10,000.
        pool: its workers; the scheduler alone changes them.
        placement: decides where demands are met; by default that is here.

    Attributes:
        outbox: effects to carry out, in order; the shell empties it.
        view: the cluster's nodes, for placement; whoever changes it says so (`view_changed`).
        shares: what other nodes are asked for (see Placement.shares), new after each `schedule`.
    """

    def __init__(
        self, resources: Amounts, pool: Pool, config: Config, placement: Placement | None = None
    ) -> None:
        self.ledger = ResourceLedger(resources)
        self.gpus = Gpus(resources.get(GPU, 0))
        self.pool = pool
        self.config = config
        self.placement = placement or Placement("", {}, config)
        self.view: View = Alone()
        self.shares: Shares = {}
        self.groups_left: set[bytes] = set()  # placement groups of which a lease has ended
        self.now = 0.0
        self.rounds = 0  # of decisions: nothing is free or taken without one
        self._alone = True
        self._turns = 0
        self._lease_numbers = 0
        self.cpus = max(1, -(-resources.get(CPU, 0) // UNITS))
        self.outbox: list[Effect] = []
        self.clients: dict[bytes, Client] = {}
        self.jobs: dict[str, Job] = {}
        self.leases: dict[int, Lease] = {}
        self.waiting: dict[Demand, None] = {}
        self.zero_cpu_running = 0
        self.actors = 0  # clients that are actors: each keeps a worker for life
        self.held_back = False  # nothing is granted while anything runs
        self._short_of_memory: dict[Demand, str] = {}
        self.counters = {"granted": 0, "returned": 0, "recalled": 0, "oversubscribed": 0, "workers_died": 0}
        self.staffing = Staffing(self)
        self._grants = GrantRound(self)
        self._pressure = Pressure(self)
        self._deadline: float | None = None

    # --- clients ---

    def client_joined(self, proc: bytes, kind: str, job_id: str) -> None:
        """A driver (of job ``job_id``) or a worker (bound to ``job_id`` already, or "") can submit from now
        on.
        """
        if proc in self.clients:
            raise ProtocolError(f"process {proc.hex()} is connected already")
        client = self.clients[proc] = Client(proc, kind)
        self.actors += kind == "actor"
        if job_id:
            client.job = self.jobs.setdefault(job_id, Job(job_id))

    def client_left(self, proc: bytes, now: float) -> None:
        """A client is gone: its demands are void, and the workers it leased run tasks that nobody waits
        for.
        """
        client = self.clients.pop(proc, None)
        if client is None:
            return
        self.actors -= client.kind == "actor"
        for demand in client.demands.values():
            demand.backlog = 0
            self.waiting.pop(demand, None)
        for lease in list(client.leases.values()):
            self.end_worker(
                self.pool.workers[lease.worker_id], "the process that submitted its tasks is gone", now
            )
        self._deadline = now

    def job_ended(self, job_id: str, now: float) -> None:
        """A driver is gone: the workers bound to its job end."""
        for worker in self.pool.of_job(job_id):
            self.end_worker(worker, "its driver is gone", now)
        self.jobs.pop(job_id, None)
        self._deadline = now

    # --- messages of clients ---

    def handle(self, proc: bytes, message: list[Any], now: float) -> None:
        """A message with a tag from DEMAND to WORKER_NOTE; raises ProtocolError, and changes nothing, if it
        makes no sense.
        """
        client = self.clients[proc]
        try:
            if message[0] == m.DEMAND:
                _, shape_id, resources, backlog, options = message
                self._demand(client, shape_id, resources, backlog, options, now)
            elif message[0] == m.RETURN:
                _, lease_id, state = message
                self._returned(client, lease_id, state, now)
            elif message[0] == m.BLOCKED:
                self._blocked(client, bool(message[1]), now)
            elif message[0] == m.KILL_WORKER:
                _, lease_id, reason = message[:3]
                self._kill(client, lease_id, str(reason), now)
            elif message[0] == m.WORKER_NOTE:
                self._note(client, message[1], now)
            else:
                raise ProtocolError(f"message {message[0]} is not one for the scheduler")
        except (ValueError, IndexError) as error:
            raise ProtocolError(f"message {message[0]} has wrong fields: {error}") from None

    def _demand(
        self, client: Client, shape_id: Any, resources: Any, backlog: Any, options: Any, now: float
    ) -> None:
        if client.job is None:
            raise ProtocolError("a demand of a worker that has never had a lease")
        if type(shape_id) is not int or type(backlog) is not int or not 0 <= backlog <= BACKLOG_MAX:
            raise ProtocolError("a demand needs a shape number and a backlog")
        if type(resources) is not dict or type(options) is not dict:
            raise ProtocolError("a demand needs resources and options")
        if not all(type(k) is str and type(v) is int and 0 <= v < 2**63 for k, v in resources.items()):
            raise ProtocolError("resources are whole numbers of 1/10,000, not negative")
        resources = {name: amount for name, amount in resources.items() if amount}
        demand = client.demands.get(shape_id)
        if demand is None:
            if not backlog:
                return
            if len(client.demands) >= client.demands_most:
                self._forget_idle_demands(client)
            demand = self._new_demand(client, shape_id, resources, options, now)
        elif backlog and demand.resources != resources:
            raise ProtocolError(f"shape {shape_id} has other resources than before")
        if backlog:
            demand.options = options
            if demand.constraints is not None and demand.constraints.prefer:
                demand.constraints.prefer_bytes = constraints.preferred(options)[1]
            if not demand.backlog:
                demand.since = now
                self.waiting[demand] = None
        else:  # only its number counts
            self.waiting.pop(demand, None)
            demand.told = "ok"
        demand.backlog = backlog
        self._deadline = now

    def _new_demand(
        self, client: Client, shape_id: int, resources: Amounts, options: dict[str, Any], now: float
    ) -> Demand:
        wishes = constraints.read(options)
        env = options.get("env", "")
        if type(env) is not str:
            raise ProtocolError("an environment is named by a text")
        demand = Demand(client, shape_id, resources, self.ledger.weight(resources), now)
        demand.env = env
        if wishes is not None:
            demand.constraints = wishes
            if wishes.group:
                demand.amounts = derived_amounts(resources, wishes.group, wishes.bundle)
                demand.lendable = derived_amounts(demand.lendable, wishes.group, wishes.bundle, bare=True)
            elif wishes.spread:
                self._turns += 1
                demand.turn = self._turns
        client.demands[shape_id] = demand
        return demand

    def _forget_idle_demands(self, client: Client) -> None:
        client.demands = {k: d for k, d in client.demands.items() if d.backlog or d.leases}
        used, most = len(client.demands), self.config.shapes_max
        if used >= most:
            raise ProtocolError(f"more than {most} shapes of tasks are in use (shapes_max)")
        client.demands_most = min(most, max(self.config.demands_idle_max, 2 * used))

    def _lease_of(self, client: Client, lease_id: Any) -> Lease | None:
        """The lease, None if it has ended (its end crossed this message); ProtocolError if it is somebody
        else's.
        """
        if type(lease_id) is not int:
            raise ProtocolError("a lease has a number")
        lease = self.leases.get(lease_id)
        if lease is not None and lease.demand.client is not client:
            raise ProtocolError(f"lease {lease_id} belongs to another client")
        return lease

    def _returned(self, client: Client, lease_id: Any, state: Any, now: float) -> None:
        if state not in (m.RETURN_OK, m.RETURN_RECYCLE, m.RETURN_BROKEN):
            raise ProtocolError(f"a lease cannot be returned as {state!r}")
        lease = self._lease_of(client, lease_id)
        if lease is None:
            return
        worker = self.pool.workers[lease.worker_id]
        if state == m.RETURN_BROKEN:
            # The lease ends with the confirmed death, whose message says which task had been started.
            self.end_worker(worker, "", now, politely=True)
            return
        self.counters["returned"] += 1
        if not worker.hands_on:  # else those that it hands on to may fail again and again
            self.staffing.worked()
        self._end_lease(lease)
        if worker.state != DYING:
            self.pool.move(worker, IDLE, now)
            if state == m.RETURN_RECYCLE:
                self.end_worker(worker, "it has run as many tasks as it may", now, politely=True)
            elif lease.gpus:
                self.end_worker(worker, "it may keep memory of the GPUs that it had", now, politely=True)
        self._deadline = now

    def _blocked(self, client: Client, blocked: bool, now: float) -> None:
        client.blocked = blocked
        worker = self.pool.by_proc.get(client.proc)
        if worker is None or not worker.lease_id or worker.state == DYING:
            return
        lease = self.leases[worker.lease_id]
        if blocked and worker.state == LEASED:
            self.pool.move(worker, BLOCKED, now)
            self._lend(lease)
            self._deadline = now
        elif not blocked and worker.state == BLOCKED:
            self.pool.move(worker, LEASED, now)
            self._take_back(lease)

    def _kill(self, client: Client, lease_id: Any, reason: str, now: float) -> None:
        lease = self._lease_of(client, lease_id)
        if lease is not None:
            self.end_worker(self.pool.workers[lease.worker_id], reason, now)

    def _note(self, client: Client, note: Any, now: float) -> None:
        worker = self.pool.by_proc.get(client.proc)
        if worker is None or type(note) is not dict:
            raise ProtocolError("notes are dictionaries, and only workers send them")
        worker.noted(note, now)
        python = note.get("python")
        if type(python) is str and python and worker.env:
            self.pool.needs_python(worker.env, python)
            worker.hands_on = True
        self._deadline = now

    # --- workers ---

    def worker_forked(self, worker_id: bytes, pid: int) -> None:
        """The process exists."""
        worker = self.pool.workers.get(worker_id)
        if worker is not None:
            worker.pid = pid

    def worker_ready(self, worker_id: bytes, proc: bytes, pid: int, now: float) -> Worker:
        """A worker said hello as ``proc``; raises ProtocolError unless it is one that was started and not
        heard of yet.
        """
        worker = self.pool.workers.get(worker_id)
        if worker is None or worker.state != STARTING:
            raise ProtocolError("hello of a worker that this daemon does not expect")
        worker.pid = worker.pid or pid  # its hello may be faster than the fork server's answer
        self.pool.said_hello(worker, proc, now)
        self._deadline = now
        return worker

    def worker_lost(self, worker_id: bytes, now: float) -> None:
        """Its connection is closed: it is ending, or has to."""
        worker = self.pool.workers.get(worker_id)
        if worker is not None:
            self.end_worker(worker, worker.reason, now, politely=True)

    def end_worker(
        self,
        worker: Worker,
        reason: str,
        now: float,
        politely: bool = False,
        facts: dict[str, Any] | None = None,
        patience_ms: float | None = None,
    ) -> None:
        """Have ``worker`` end; what it holds comes back when its death is confirmed. Again and less
        politely is possible. ``facts``: for WORKER_DIED, if there is more to say than ``reason``.
        ``patience_ms``: see `EndWorker`.
        """
        if worker.state != DYING:
            self.pool.move(worker, DYING, now)
            worker.reason = reason
            worker.end_facts = facts or {}
        elif politely:
            return
        self.outbox.append(EndWorker(worker.worker_id, reason, politely, patience_ms))

    def worker_failed(self, worker_id: bytes, reason: str, now: float) -> None:
        """A worker that was to be started never was a process."""
        worker = self.pool.workers.get(worker_id)
        if worker is not None:
            worker.reason = reason
            self.staffing.start_failed(reason, now)
            self.worker_exited(worker_id, 1, 0, b"", now)

    def worker_exited(
        self, worker_id: bytes, exit_code: int, signal: int, current: bytes, now: float
    ) -> None:
        """The confirmed death of a worker. ``current``: the task it had started last."""
        worker = self.pool.workers.get(worker_id)
        if worker is None:
            return
        began = bool(current.strip(b"\0"))
        if began and not worker.hands_on:
            self.staffing.worked()
        elif not began and not worker.reason:
            text = f"worker {worker.pid} {describe_end(exit_code, signal)} before its first task"
            self.staffing.start_failed(f"{text}; its log has the reason", now)
            if worker.python:
                self.pool.forget_python(worker.python)
        if worker.lease_id:
            lease = self.leases[worker.lease_id]
            text = f"worker {worker.pid} {describe_end(exit_code, signal)}"
            text = f"{text}: {worker.reason}" if worker.reason else text
            died = [
                *(m.WORKER_DIED, lease.lease_id, exit_code, signal),
                *(current or _NO_TASK, text, worker.end_facts),
            ]
            self.outbox.append(Send(lease.demand.client.proc, died))
            self._end_lease(lease)
            self.counters["workers_died"] += 1
        self.pool.gone(worker)
        self._deadline = now

    # --- leases ---

    def grant(self, demand: Demand, worker: Worker, now: float) -> None:
        """Lease ``worker`` to the client of ``demand``; the caller has checked that it fits."""
        client, job = demand.client, demand.client.job
        assert job is not None, demand
        assert self.ledger.fits(demand.amounts), (demand, self.ledger.free)
        assert not worker.job or (worker.job, worker.env) == (job.job_id, demand.env), (demand, worker)
        self.counters["granted"] += 1
        lease = Lease(self.next_lease_id(), demand, worker.worker_id, now)
        self.ledger.take(demand.amounts)
        lease.gpus = self.gpus.take(demand.resources.get(GPU, 0))
        self.leases[lease.lease_id] = client.leases[lease.lease_id] = lease
        demand.leases.add(lease.lease_id)
        demand.last_grant = client.last_grant = job.last_grant = lease.lease_id
        if demand.here < BACKLOG_MAX:
            demand.here -= 1
        self._met(demand, now)
        self.zero_cpu_running += demand.without_cpu
        self._count(lease, 1)
        worker.lease_id = lease.lease_id
        self.pool.move(worker, LEASED, now)
        if not worker.job:
            worker.job = job.job_id
            worker.env = demand.env
            self.clients[worker.proc].job = job
        self.clients[worker.proc].blocked = False
        self.outbox.append(
            Grant(client.proc, demand.shape_id, lease.lease_id, worker.worker_id, demand.resources)
        )

    def _met(self, demand: Demand, now: float) -> None:
        demand.backlog -= 1
        demand.since = now
        demand.told = "ok"
        if not demand.backlog:
            self.waiting.pop(demand, None)

    def next_lease_id(self) -> int:
        """A number that no other lease of this node's clients has."""
        self._lease_numbers += 1
        return self._lease_numbers

    def granted_elsewhere(self, proc: bytes, shape_id: int, now: float) -> Demand | None:
        """Another node leases a worker to a client of this one: for this demand; None if that does not want it any more."""
        client = self.clients.get(proc)
        demand = client.demands.get(shape_id) if client is not None else None
        if demand is None or not demand.backlog:
            return None
        self._met(demand, now)
        self._deadline = now
        return demand

    def missed_elsewhere(self, demand: Demand, now: float) -> None:
        """Nothing came of what was granted elsewhere for ``demand``: the client, if it is still here, goes on waiting."""
        client = demand.client
        if self.clients.get(client.proc) is not client:
            return
        demand = client.demands.setdefault(demand.shape_id, demand)  # it may have been forgotten meanwhile
        demand.backlog += 1
        demand.since = now
        self.waiting[demand] = None
        self._deadline = now

    def recall(self, lease: Lease, now: float) -> None:
        """Ask for a lease back."""
        lease.recalled_at = now
        self.counters["recalled"] += 1
        self.outbox.append(Send(lease.demand.client.proc, [m.RECALL_LEASE, lease.lease_id]))

    def _end_lease(self, lease: Lease) -> None:
        if lease.blocked:
            self._take_back(lease, ending=True)
        self._count(lease, -1)
        demand = lease.demand
        self.ledger.give(demand.amounts)
        self.gpus.give(lease.gpus)
        if demand.constraints is not None and demand.constraints.group:
            self.groups_left.add(demand.constraints.group)
        self.zero_cpu_running -= demand.without_cpu
        demand.leases.discard(lease.lease_id)
        demand.client.leases.pop(lease.lease_id, None)
        del self.leases[lease.lease_id]
        self.pool.workers[lease.worker_id].lease_id = 0

    def _count(self, lease: Lease, sign: int) -> None:
        weight = sign * lease.weight()
        demand = lease.demand
        demand.usage += weight
        demand.client.usage += weight
        if demand.client.job is not None:
            demand.client.job.usage += weight

    def _lend(self, lease: Lease) -> None:
        self._count(lease, -1)
        lease.blocked = True
        self._count(lease, 1)
        self.ledger.give(lease.demand.lendable)
        self.zero_cpu_running -= lease.demand.without_cpu

    def _take_back(self, lease: Lease, ending: bool = False) -> None:
        lendable = lease.demand.lendable
        self._count(lease, -1)
        lease.blocked = False
        self._count(lease, 1)
        self.ledger.take(lendable)
        self.zero_cpu_running += lease.demand.without_cpu
        if not ending and any(self.ledger.free.get(name, 0) < 0 for name in lendable):
            self.counters["oversubscribed"] += 1

    # --- deciding ---

    def schedule(self, now: float) -> float | None:
        """Grant, recall, start and end what should be, if anything changed or is due. Returns the next
        deadline.
        """
        if self._deadline is None or now < self._deadline:
            return self._deadline
        deadlines: list[float | None] = []
        short: dict[str, int] = {}
        self.now = now
        self.rounds += 1
        deadlines.append(self._place(now))
        if self.waiting:
            reserved = self._pressure.reservation(now)
            unmet, short = self._grants.grant_round(now, reserved)
            deadlines.append(self._pressure.recall_for(unmet, reserved, now))
            deadlines.append(self._pressure.tell(now))
        deadlines.append(self.staffing.resize(short, now))
        self._deadline = min((deadline for deadline in deadlines if deadline is not None), default=None)
        return self._deadline

    def hold_back(self, yes: bool, now: float) -> None:
        """Whether nothing is to be granted while anything runs (memory is short)."""
        if self.held_back and not yes:
            self._deadline = now
        self.held_back = yes

    def wait_for_memory(self, demands: Mapping[Demand, str], now: float) -> None:
        """These demands, and no others, are not granted while anything runs, for the reason given with each."""
        for demand in self._short_of_memory.keys() - demands.keys():
            demand.short_of_memory = ""
            self.room_changed(now)
        for demand in demands.keys() - self._short_of_memory.keys():
            demand.short_of_memory = demands[demand]
            self.room_changed(now)
        self._short_of_memory = dict(demands)

    def _place(self, now: float) -> float | None:
        """Decide where the waiting demands are met, unless that can only be here. Returns when time alone may change that."""
        if self.waiting and (not self._alone or any(each.constraints is not None for each in self.waiting)):
            self.shares = self.placement.shares(self.waiting, self.ledger, self.view, now)
            return self.placement.due
        self.shares = {}  # earlier decisions, and how long they stand, were about what is gone, or can only be met here now
        return None

    def view_changed(self, now: float) -> None:
        """What `view` knows of other nodes has changed: waiting demands may have other places now."""
        self.placement.view_changed()
        self._alone = not self.view.alive()
        if self._alone:
            for client in self.clients.values():
                for demand in client.demands.values():  # also those that will wait again
                    demand.here, demand.obstacle, demand.away = BACKLOG_MAX, None, ""
            self.shares = {}
        self._deadline = now

    def room_changed(self, now: float) -> None:
        """The ledger, or what is placed where, was changed from outside."""
        self.placement.view_changed()
        self._deadline = now

    def make_room(self, bundles: Iterable[Amounts], now: float) -> None:
        """Recall idle leases so that these bundles may fit."""
        needed: Amounts = {}
        for amounts in bundles:
            for name, amount in amounts.items():
                needed[name] = needed.get(name, 0) + amount
        self._pressure.recall_idle(needed, now)

    def start(self, now: float) -> None:
        """Start the workers that are kept warm."""
        self._deadline = now

    # --- for people ---

    def pending(self, now: float) -> list[dict[str, Any]]:
        """A row per demand that waits, with the reason."""
        return self._pressure.pending(now)

    def available(self) -> Amounts:
        """What is free now; never negative."""
        free = self.ledger.free
        return {name: max(0, free.get(name, 0)) for name in self.ledger.total}

    def validate(self) -> None:
        """Raise AssertionError if an invariant is broken."""
        self.pool.validate()
        self.gpus.validate(lease.gpus for lease in self.leases.values())
        ledger = self.ledger
        used = {name: ledger.reserved.get(name, 0) for name in ledger.free}
        usage: dict[Job | None, int] = {}
        for lease in self.leases.values():
            worker = self.pool.workers[lease.worker_id]
            assert worker.lease_id == lease.lease_id, (worker, lease)
            assert lease.blocked <= (worker.state in (BLOCKED, DYING)), (worker, lease)
            assert (worker.state == BLOCKED) <= lease.blocked, (worker, lease)
            for name, amount in lease.demand.amounts.items():
                used[name] += 0 if lease.blocked and name in lease.demand.lendable else amount
            job = lease.demand.client.job
            usage[job] = usage.get(job, 0) + lease.weight()
        for name in ledger.free:
            total = ledger.total.get(name, 0) or ledger.derived.get(name, 0)
            assert ledger.free[name] + used[name] == total, (name, ledger.free, used)
            # What is lent out may be used twice for a while, and what has no total any more is on its way out.
            assert name.startswith(CPU) or not total or used[name] <= total, (name, used)
        for job_id, job in self.jobs.items():
            assert job.usage == usage.get(job, 0), (job_id, job.usage, usage)
        for client in self.clients.values():
            for demand in client.demands.values():
                assert (demand.backlog > 0) == (demand in self.waiting), demand
                assert all(lease_id in self.leases for lease_id in demand.leases), demand
        running = [lease for lease in self.leases.values() if lease.demand.without_cpu]
        assert self.zero_cpu_running == sum(not lease.blocked for lease in running), self.zero_cpu_running


def describe_end(exit_code: int, signal: int) -> str:
    """How a process ended, in words."""
    return f"was killed by signal {signal}" if signal else f"ended with exit code {exit_code}"

"""The node's worker processes as the scheduler sees them. Pure: the fork server's client carries out what
is decided.

    starting → idle ⇄ leased ⇄ blocked        any of them → dying → gone

A worker is *starting* from the decision to fork it until its hello, *idle* without a lease, *blocked* while
the task of its lease waits and its CPU is lent out, *dying* from the decision to end it (or the loss of its
connection) until its death is confirmed. It is bound to a job by its first lease and serves no other job:
what user code left in it stays there.

Invariants: the tables below partition the workers; a slot (its place in the shared status board) belongs to
one worker until its death is confirmed; a lease names a worker that is leased, blocked or dying.
"""

from __future__ import annotations

import heapq
import struct

STARTING, IDLE, LEASED, BLOCKED, DYING = "starting", "idle", "leased", "blocked", "dying"
_TRANSITIONS = {
    STARTING: (IDLE, DYING),
    IDLE: (LEASED, DYING),
    LEASED: (IDLE, BLOCKED, DYING),
    BLOCKED: (LEASED, IDLE, DYING),
    DYING: (),
}
WORKER_ID_PREFIX_SIZE = 8
_pack_number = struct.Struct(">Q").pack
PYTHONS_MAX = 1000  # environments with an interpreter of their own


class Worker:
    """One worker process.

    Attributes:
        worker_id: 16 bytes, known before the process exists; `proc` is its id as a client, known from its
            hello.
        pid: 0 until it was forked.
        slot: its index in the status board.
        python: the interpreter that it is, if that is not the fork server's. `hands_on`: it has found that it is none for its
            environment, and gives back what it was to run.
        env: with its job it is bound to an environment (the key of a runtime_env); "" for the node's own.
        since: when it entered its state.
        reason: why it is ended, for people; "" if nobody decided that. `end_facts`: the same for programs, if there is more.
        note: what it says of itself; "unfinished": it waits for tasks of its own, and must not be ended for idling;
            "installing": what has to be there before its task can begin, being made since `installing_since`.
    """

    __slots__ = (
        *(
            "end_facts",
            "env",
            "hands_on",
            "installing_since",
            "job",
            "lease_id",
            "note",
            "pid",
            "proc",
            "reason",
            "since",
        ),
        *("python", "slot", "state", "worker_id"),
    )

    def __init__(self, worker_id: bytes, slot: int, now: float, python: str = "") -> None:
        self.worker_id = worker_id
        self.slot = slot
        self.python = python
        self.hands_on = False
        self.state = STARTING
        self.since = now
        self.pid = 0
        self.proc = b""
        self.job = ""
        self.env = ""
        self.lease_id = 0
        self.reason = ""
        self.end_facts: dict[str, object] = {}
        self.note: dict[str, object] = {}
        self.installing_since = 0.0

    def noted(self, note: dict[str, object], now: float) -> None:
        """It says ``note`` of itself; what that does not mention stays."""
        if note.get("installing") and not self.note.get("installing"):
            self.installing_since = now
        self.note = {**self.note, **note}

    def installing(self, now: float) -> str:
        """What its task waits for, for people; "" if for nothing that is being installed."""
        what = self.note.get("installing")
        return f"{what} is being installed for {now - self.installing_since:.0f} s" if what else ""

    def __repr__(self) -> str:
        state = f"{self.state} job={self.job or '-'} lease={self.lease_id}"
        return f"<worker {self.worker_id.hex()} pid={self.pid} {state}>"


class Pool:
    """All workers of the node.

    Args:
        prefix: 8 bytes that make this node's worker ids unique.
        workers_max: how many there may be at once (the size of the status board).
    """

    def __init__(self, prefix: bytes, workers_max: int) -> None:
        if len(prefix) != WORKER_ID_PREFIX_SIZE:
            raise ValueError(f"a worker id prefix has {WORKER_ID_PREFIX_SIZE} bytes, not {len(prefix)}")
        self._prefix = prefix
        self.workers_max = workers_max
        self.workers: dict[bytes, Worker] = {}
        self.by_proc: dict[bytes, Worker] = {}
        self._by_state: dict[str, dict[bytes, Worker]] = {state: {} for state in _TRANSITIONS}
        self._free_slots: list[int] = []
        self._slots_used = 0
        self._started = 0
        self._pythons: dict[str, str] = {}  # by environment

    def __len__(self) -> int:
        return len(self.workers)

    def count(self, state: str) -> int:
        """How many workers are in ``state``."""
        return len(self._by_state[state])

    def counts(self) -> dict[str, int]:
        """How many workers are in each state."""
        return {state: len(workers) for state, workers in self._by_state.items()}

    def in_state(self, state: str) -> list[Worker]:
        """The workers in ``state``, in the order in which they entered it."""
        return list(self._by_state[state].values())

    @property
    def living(self) -> int:
        """Workers that are not about to end."""
        return len(self.workers) - self.count(DYING)

    # --- transitions ---

    def start(self, now: float, python: str = "") -> Worker:
        """A new worker, to be forked. The caller has checked `workers_max`."""
        if len(self.workers) >= self.workers_max:
            raise AssertionError(f"{len(self.workers)} workers; the bound is {self.workers_max}")
        if self._free_slots:
            slot = heapq.heappop(self._free_slots)
        else:
            slot = self._slots_used
            self._slots_used += 1
        self._started += 1
        worker = Worker(self._prefix + _pack_number(self._started), slot, now, python)
        self.workers[worker.worker_id] = worker
        self._by_state[STARTING][worker.worker_id] = worker
        return worker

    def move(self, worker: Worker, state: str, now: float) -> None:
        """``worker`` enters ``state``; an impossible transition is an AssertionError with its history."""
        if state not in _TRANSITIONS[worker.state]:
            raise AssertionError(f"{worker} cannot become {state}; it is {worker.state} since {worker.since}")
        del self._by_state[worker.state][worker.worker_id]
        worker.state = state
        worker.since = now
        self._by_state[state][worker.worker_id] = worker

    def said_hello(self, worker: Worker, proc: bytes, now: float) -> None:
        """The worker's process is a client now, named ``proc``."""
        worker.proc = proc
        self.by_proc[proc] = worker
        self.move(worker, IDLE, now)

    def gone(self, worker: Worker) -> None:
        """Its death is confirmed: forget it; its slot is free."""
        del self.workers[worker.worker_id]
        del self._by_state[worker.state][worker.worker_id]
        if worker.proc:
            del self.by_proc[worker.proc]
        heapq.heappush(self._free_slots, worker.slot)

    # --- choosing ---

    def idle_for(self, job: str, env: str = "") -> Worker | None:
        """An idle worker for a lease of ``job`` in ``env``: the one of these used last, or an unbound one."""
        unbound, python = None, self.python_of(env)
        for worker in reversed(self._by_state[IDLE].values()):
            if worker.python != python:
                continue
            if worker.job == job and worker.env == env:
                return worker
            if unbound is None and not worker.job:
                unbound = worker
        return unbound

    # --- interpreters ---

    def python_of(self, env: str) -> str:
        """The interpreter that workers of an environment need; "" for the fork server's."""
        return self._pythons.get(env, "")

    def needs_python(self, env: str, python: str) -> None:
        """A worker has found that it is none for its environment. Of too many the oldest is forgotten, and found again."""
        self._pythons.pop(env, None)
        self._pythons[env] = python
        if len(self._pythons) > PYTHONS_MAX:
            del self._pythons[next(iter(self._pythons))]

    def forget_python(self, python: str) -> None:
        """A worker could not become that: it may have been removed, and is made again by who needs it."""
        self._pythons = {env: known for env, known in self._pythons.items() if known != python}

    def idle_of_others(self, job: str) -> list[Worker]:
        """Idle workers bound to other jobs than ``job``, idle for longest first."""
        return [worker for worker in self._by_state[IDLE].values() if worker.job and worker.job != job]

    def of_job(self, job: str) -> list[Worker]:
        """All workers bound to ``job`` that are not dying already."""
        return [worker for worker in self.workers.values() if worker.job == job and worker.state != DYING]

    def validate(self) -> None:
        """Raise AssertionError if an invariant is broken."""
        assert sum(len(table) for table in self._by_state.values()) == len(self.workers)
        assert len(self.workers) <= self.workers_max, self.workers
        slots = [worker.slot for worker in self.workers.values()]
        assert len(set(slots)) == len(slots), slots
        assert len(slots) + len(self._free_slots) == self._slots_used, (slots, self._free_slots)
        for worker in self.workers.values():
            assert self._by_state[worker.state].get(worker.worker_id) is worker, worker
            assert (worker.lease_id != 0) <= (worker.state in (LEASED, BLOCKED, DYING)), worker
            assert (worker.lease_id != 0) >= (worker.state in (LEASED, BLOCKED)), worker
            assert not worker.proc or self.by_proc[worker.proc] is worker, worker
            assert worker.state in (STARTING, DYING) or worker.proc, worker

"""Clients of other nodes (guests) that lease workers of this one: a pure core (R6).

To the scheduler a guest is a client like any other, that joins with its first demand; what it says and is told goes through
its own node. A lease comes with a token; who connects with that is connected to the worker, and a token that nobody uses
within `lease_connect_ms` ends the lease.

A job has its home where its driver is: worker output goes there, and when the home says that the job has ended, or dies,
everything of the job here ends. A job that has ended begins no more: demands may come late by way of other nodes.

Effects (`outbox`, in order): ("send", node id, message), ("timer", token): call `token_due` after `lease_connect_ms`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from shoal.ids import PROCESS_ID_SIZE
from shoal.wire import messages as m
from shoald.node.fields import checked
from shoald.store.errors import ProtocolError

if TYPE_CHECKING:
    from collections.abc import Callable

    from shoal.config import Config
    from shoald.node.effects import Grant
    from shoald.node.pool import Worker
    from shoald.node.scheduler import SchedulerCore

_KINDS = {"driver": "remote driver", "worker": "remote worker"}
_NO_TASK = bytes(16)


class Guest:
    """A submitter on another node. `kind`: as it is called there; `name`: for people, "" if its node has not said."""

    __slots__ = ("job_id", "kind", "name", "node_id", "proc")

    def __init__(self, proc: bytes, kind: str, node_id: str, job_id: str, name: str) -> None:
        self.proc = proc
        self.kind = kind
        self.node_id = node_id
        self.job_id = job_id
        self.name = name


class Token:
    """What a connection to a leased worker is opened with, once."""

    __slots__ = ("guest", "lease_id", "resources", "worker_id")

    def __init__(self, guest: Guest, grant: Grant) -> None:
        self.guest = guest
        self.lease_id = grant.lease_id
        self.worker_id = grant.worker_id
        self.resources = grant.resources


class Guests:
    """All guests of one node.

    Args:
        new_token: makes 16 bytes that nobody can guess.
        current: the task that a worker (by its id) has started last.

    Attributes:
        guests: by process.
        jobs: the job of another node's driver → what P_DEMAND says of it.
        leaving: jobs that have ended, and whom to tell when no worker of theirs is left.
    """

    def __init__(
        self,
        node_id: str,
        scheduler: SchedulerCore,
        config: Config,
        new_token: Callable[[], bytes],
        current: Callable[[bytes], bytes],
    ) -> None:
        self._node_id = node_id
        self._scheduler = scheduler
        self._config = config
        self._new_token = new_token
        self._current = current
        self.outbox: list[tuple[Any, ...]] = []
        self.guests: dict[bytes, Guest] = {}
        self.jobs: dict[str, dict[str, Any]] = {}
        self.leaving: dict[str, str] = {}
        self._tokens: dict[bytes, Token] = {}
        self._ended: dict[str, None] = {}  # jobs, in the order of their ends

    # --- demands ---

    def demanded(self, node_id: str, fields: list[Any], now: float) -> None:
        """P_DEMAND without its tag; raises ProtocolError or ValueError, and changes nothing, if it makes no sense."""
        proc, kind, job, *demand = checked(fields, bytes, str, dict, object, object, object, object)
        if len(proc) != PROCESS_ID_SIZE or kind not in _KINDS:
            raise ProtocolError("a demand of another node needs a process, its kind and its job")
        job_id, home = job.get("id"), job.get("node")
        if type(job_id) is not str or type(home) is not str or not job_id:
            raise ProtocolError("a job needs an id and a node")
        if job_id in self._ended:
            return
        guest = self.guests.get(proc)
        if guest is None:
            if not demand[2]:
                return
            self._scheduler.client_joined(proc, _KINDS[kind], job_id)
            facts = dict(job)
            name = str(facts.pop("submitter", ""))  # the job's other submitters have others
            guest = self.guests[proc] = Guest(proc, kind, node_id, job_id, name)
            if home != self._node_id:
                self.jobs.setdefault(job_id, facts)
        elif guest.node_id != node_id:
            raise ProtocolError(f"process {proc.hex()} is of another node")
        self._scheduler.handle(proc, [m.DEMAND, *demand], now)

    def adopt(self, job: dict[str, Any]) -> bool:
        """Something of a job of another node comes here that is no lease; False if the job has ended."""
        if job["id"] in self._ended:
            return False
        if job["node"] != self._node_id:
            self.jobs.setdefault(job["id"], job)
        return True

    def from_client(self, node_id: str, fields: list[Any], now: float) -> None:
        """P_FROM_CLIENT without its tag: a guest's RETURN or KILL_WORKER."""
        proc, message = checked(fields, bytes, list)
        guest = self.guests.get(proc)
        if guest is None or guest.node_id != node_id:
            return  # it has left
        checked(message, *((int, int, int) if message[:1] == [m.RETURN] else (int, int, str, bytes)))
        if message[0] not in (m.RETURN, m.KILL_WORKER):
            raise ProtocolError(f"message {message[0]} is not one that is passed on")
        if message[0] == m.KILL_WORKER and self._spares(message):
            return
        self._scheduler.handle(proc, message, now)

    def _spares(self, message: list[Any]) -> bool:
        """Whether a KILL_WORKER comes for a task that its worker does not run (yet, or any more)."""
        _, lease_id, _, task_id = message
        lease = self._scheduler.leases.get(lease_id)
        return lease is not None and self._current(lease.worker_id) != task_id

    # --- leases ---

    def granted(self, grant: Grant, worker: Worker) -> bool:
        """A worker was leased; whether that was to a guest, who is told."""
        guest = self.guests.get(grant.proc)
        if guest is None:
            return False
        token = self._new_token()
        self._tokens[token] = Token(guest, grant)
        lease = [grant.proc, grant.shape_id, grant.lease_id, worker.proc, worker.pid, grant.resources, token]
        self.outbox += [("send", guest.node_id, [m.P_LEASE, *lease]), ("timer", token)]
        return True

    def connected(self, token: bytes) -> Token | None:
        """Somebody connects with ``token``; None if that is not, or no longer, good."""
        found = self._tokens.pop(token, None)
        return found if found is not None and found.lease_id in self._scheduler.leases else None

    def token_due(self, token: bytes, now: float) -> None:
        """The time to connect is over: an unused lease ends, and the guest is told."""
        found = self._tokens.pop(token, None)
        if found is None or found.lease_id not in self._scheduler.leases:
            return
        text = f"nobody connected to it within {self._config.lease_connect_ms / 1000:g} s"
        self.tell(found.guest.proc, [m.WORKER_DIED, found.lease_id, 0, 0, _NO_TASK, text, {}])
        self._scheduler.handle(found.guest.proc, [m.RETURN, found.lease_id, m.RETURN_OK], now)

    def tell(self, proc: bytes, message: list[Any]) -> bool:
        """The scheduler's word to a client; whether that is a guest, who is told."""
        guest = self.guests.get(proc)
        if guest is None:
            return False
        self.outbox.append(("send", guest.node_id, [m.P_FOR_CLIENT, proc, message]))
        return True

    # --- ends ---

    def left(self, node_id: str, fields: list[Any], now: float) -> None:
        """P_CLIENT_LEFT without its tag: a guest is gone."""
        (proc,) = checked(fields, bytes)
        guest = self.guests.get(proc)
        if guest is not None and guest.node_id == node_id:
            self._leave(guest, now)

    def _leave(self, guest: Guest, now: float) -> None:
        del self.guests[guest.proc]
        self._scheduler.client_left(guest.proc, now)
        self._tokens = {token: each for token, each in self._tokens.items() if each.guest is not guest}

    def job_ended(self, job_id: str, home: str, now: float) -> None:
        """A driver is gone: guests of its job leave and its workers end. ``home`` ("": this node) hears when they are gone.

        Idempotent.
        """
        self._ended.setdefault(job_id)
        while len(self._ended) > self._config.jobs_max:
            del self._ended[next(iter(self._ended))]
        for guest in [guest for guest in self.guests.values() if guest.job_id == job_id]:
            self._leave(guest, now)
        if home:
            self.leaving[job_id] = home
        self._scheduler.job_ended(job_id, now)

    def workers_gone(self, busy: set[str]) -> None:
        """``busy``: the jobs that still have workers here. Tells the homes of those that have none any more."""
        for job_id, home in list(self.leaving.items()):
            if job_id not in busy:
                del self.leaving[job_id]
                self.jobs.pop(job_id, None)
                self.outbox.append(("send", home, [m.P_JOB_GONE, job_id]))

    def node_died(self, node_id: str, now: float) -> list[str]:
        """Its processes leave. Returns the jobs that had their home there, for which `job_ended` follows."""
        for guest in [guest for guest in self.guests.values() if guest.node_id == node_id]:
            self._leave(guest, now)
        return [job_id for job_id, job in self.jobs.items() if job["node"] == node_id]

    def validate(self) -> None:
        """Raise AssertionError if an invariant is broken."""
        for proc, guest in self.guests.items():
            assert guest.proc == proc
            assert proc in self._scheduler.clients, guest
            assert guest.job_id not in self._ended, guest
        for token in self._tokens.values():
            assert self.guests.get(token.guest.proc) is token.guest

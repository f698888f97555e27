"""Leases across nodes as the daemon's shell handles them: messages to the cores, their effects to links, sockets and clients.

`AwayLeases` are those of clients here on workers elsewhere, `Guests` those of clients elsewhere on workers here. Output of
workers here goes to drivers elsewhere under a window: what a driver has not taken holds its workers back, as on one node.
"""

from __future__ import annotations

import os
from functools import partial
from typing import TYPE_CHECKING, Any

from shoal.ids import OBJECT_ID_SIZE, PROCESS_ID_SIZE, tag_of
from shoal.wire import auth
from shoal.wire import messages as m
from shoald.node.awayleases import AwayLease, AwayLeases
from shoald.node.cluster import ALIVE
from shoald.node.fields import checked
from shoald.node.guests import Guests
from shoald.shell.carrying import carry_out
from shoald.shell.tcp import Dial
from shoald.store.errors import ProtocolError

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    from shoald.node.clients import Client
    from shoald.node.daemon import NodeDaemon
    from shoald.node.effects import Grant
    from shoald.node.leases import Client as Submitter
    from shoald.node.pool import Worker

    Handler = Callable[[str, list[Any], float], None]

_WINDOW_BYTES = 4 * 1024**2  # of worker output on its way to a driver on another node
_PAUSE_S = 0.02


class LeaseSide:
    """Leases to and from other nodes, for one daemon."""

    def __init__(self, daemon: NodeDaemon) -> None:
        self._daemon = daemon
        scheduler, config = daemon.scheduler, daemon.config
        self.away = AwayLeases(scheduler, daemon.cluster, config, self._job_of)
        self.guests = Guests(
            daemon.node_id, scheduler, config, lambda: os.urandom(auth.TARGET_SIZE), self._current
        )
        self._dials: dict[AwayLease, Dial] = {}
        self._unsaid: dict[
            str, int
        ] = {}  # jobs of other nodes: bytes of output that their drivers have not taken
        self._awaited: dict[
            str, set[str]
        ] = {}  # own jobs that ended: nodes that have not said that nothing is left
        handlers: dict[int, Handler] = {
            m.P_DEMAND: self.guests.demanded,
            m.P_LEASE: self.away.leased,
            m.P_FROM_CLIENT: self.guests.from_client,
            m.P_FOR_CLIENT: self.away.for_client,
            m.P_CLIENT_LEFT: self.guests.left,
            m.P_JOB_ENDED: self._job_of_other_ended,
            m.P_JOB_GONE: self._job_gone,
            m.P_LOG: self._log,
            m.P_LOG_TAKEN: self._log_taken,
        }
        for tag, handler in handlers.items():
            daemon.peers.on(tag, partial(self._handle, handler))
        daemon.peers.on(m.P_CANCEL, lambda _node_id, message: self.cancel_at_owner(message))
        daemon.side.takers[auth.KIND_TASKS] = self._take_connection
        daemon.on_node_dead.append(self._node_died)

    def _current(self, worker_id: bytes) -> bytes:
        worker = self._daemon.scheduler.pool.workers[worker_id]
        return self._daemon.board.current(worker.slot)

    def _handle(self, handler: Handler, node_id: str, message: list[Any]) -> None:
        handler(node_id, message[1:], self._daemon.loop.now())
        self.flush()

    def _job_of(self, submitter: Submitter) -> dict[str, Any] | None:
        """What P_DEMAND says of a client's job, and of itself: there nobody knows what to call it."""
        if submitter.job is None:
            return None
        return {**self.job_facts(submitter.job.job_id), "submitter": self._daemon.name_of(submitter.proc)}

    def name_of(self, proc: bytes) -> str:
        """What to call a process of another node that leases workers here; "" if there is none."""
        guest = self.guests.guests.get(proc)
        return f"{guest.name} on node {guest.node_id[:8]}" if guest is not None and guest.name else ""

    def job_facts(self, job_id: str) -> dict[str, Any]:
        """What nodes tell each other of a job."""
        known = self.guests.jobs.get(job_id)
        if known is not None:
            return known
        own = {"id": job_id, "node": self._daemon.node_id, "namespace": job_id, "log_to_driver": False}
        job = self._daemon.jobs.get(job_id)
        if job is not None:
            own["namespace"] = job.namespace
            own["log_to_driver"] = bool(job.info.get("log_to_driver", True))
        return own

    def namespace_of(self, job_id: str) -> str:
        """The namespace of another node's job; "" if it is not known here."""
        return str(self.guests.jobs.get(job_id, {}).get("namespace", ""))

    # --- events of the daemon ---

    def turn(self, now: float) -> float | None:
        """After the scheduler's decisions. Returns when to look again."""
        due = self.away.turn(now)
        self.flush()
        return due

    def granted(self, grant: Grant, worker: Worker) -> bool:
        """A worker was leased; whether that was to a client of another node."""
        return self.guests.granted(grant, worker)

    def told(self, proc: bytes, message: list[Any]) -> bool:
        """The scheduler's word to a client; whether that is one of another node."""
        if message[0] == m.WORKER_DIED:
            daemon = self._daemon
            facts = {"node": daemon.node_id, "logs_dir": daemon.session.logs_dir, **message[6]}
            message = [*message[:6], facts]
        return self.guests.tell(proc, message)

    def client_left(self, proc: bytes) -> None:
        """A client of this node is gone."""
        self.away.client_left(proc)

    def job_ended(self, job_id: str, leaving: bool) -> None:
        """A driver of this node is gone. ``leaving``: it waits until its job has left nothing on other nodes."""
        live = self._daemon.cluster.live
        self.guests.job_ended(job_id, "", self._daemon.loop.now())
        answering = {node_id for node_id, node in live.items() if node.state == ALIVE}
        if leaving and answering:
            self._awaited[job_id] = answering
        for node_id in live:
            self._daemon.peers.send(node_id, [m.P_JOB_ENDED, job_id])

    def awaits(self, job_id: str) -> bool:
        """Whether something of a job may be left on other nodes."""
        return job_id in self._awaited

    def forget_job(self, job_id: str) -> None:
        """Its driver was answered, or waits no longer."""
        self._awaited.pop(job_id, None)

    def workers_gone(self, busy: set[str]) -> None:
        """``busy``: the jobs that have workers here."""
        self.guests.workers_gone(busy)

    def _job_of_other_ended(self, node_id: str, fields: list[Any], now: float) -> None:
        daemon = self._daemon
        (job_id,) = checked(fields, str)
        daemon.workers.read_all([worker.worker_id for worker in daemon.scheduler.pool.of_job(job_id)])
        daemon.actors.job_ended(job_id, now)
        daemon.groups.core.job_ended(job_id, now)
        self.guests.job_ended(job_id, node_id, now)
        self._unsaid.pop(job_id, None)
        daemon.goodbyes_done()

    def _job_gone(self, node_id: str, fields: list[Any], _now: float) -> None:
        (job_id,) = checked(fields, str)
        nodes = self._awaited.get(job_id)
        if nodes is not None:
            nodes.discard(node_id)
            if not nodes:
                del self._awaited[job_id]
                self._daemon.goodbyes_done()

    def _node_died(self, node_id: str, _reason: str) -> None:
        daemon, now = self._daemon, self._daemon.loop.now()
        self.away.node_died(daemon.cluster.nodes[node_id], now)
        for job_id in self.guests.node_died(node_id, now):
            self._job_of_other_ended(node_id, [job_id], now)
        for job_id in list(self._awaited):
            self._job_gone(node_id, [job_id], now)
        self.flush()

    def cancel_at_owner(self, message: list[Any]) -> None:
        """Pass a CANCEL_TASK on to the task's owner; nothing if that is gone, and the task with it."""
        if len(message) != 4 or type(message[1]) is not bytes or len(message[1]) != OBJECT_ID_SIZE:
            raise ProtocolError("a cancel needs an object id")
        daemon = self._daemon
        owner = daemon.clients.get(message[1][:PROCESS_ID_SIZE])
        if owner is None:
            if message[0] == m.CANCEL_TASK:
                for node in daemon.cluster.by_tag(tag_of(message[1])):
                    daemon.peers.send(node.node_id, [m.P_CANCEL, *message[1:]])
        else:
            owner.sock.send([m.CANCEL_ASKED, message[1], bool(message[2]), bool(message[3])])

    # --- effects ---

    def flush(self) -> None:
        """Carry out what the cores have decided."""
        while self.away.outbox or self.guests.outbox:
            effects = self.away.outbox + self.guests.outbox
            self.away.outbox, self.guests.outbox = [], []
            try:
                carry_out(effects, lambda effect: self._carry_out(*effect))
            finally:
                self.away.outbox[:0] = effects

    def _carry_out(self, kind: str, subject: Any, message: Any = None) -> None:
        daemon = self._daemon
        if kind == "send":
            daemon.peers.send(subject, message)
        elif kind == "client":
            client = daemon.clients.get(subject)
            if client is not None:
                client.sock.send(message)
        elif kind == "dial":
            self._dial(subject)
        elif kind == "undial":
            dial = self._dials.pop(subject, None)
            if dial is not None:
                dial.cancel()
        elif kind == "move":
            daemon.actors.cluster.move(subject, message)
        elif kind == "timer":
            daemon.loop.call_later(daemon.config.lease_connect_ms / 1000, lambda: self._token_due(subject))

    def _token_due(self, token: bytes) -> None:
        self.guests.token_due(token, self._daemon.loop.now())
        self.flush()

    def _dial(self, lease: AwayLease) -> None:
        daemon = self._daemon
        self._dials[lease] = Dial(
            daemon.loop,
            daemon.cluster.live[lease.node_id].address,
            daemon.peers.identity,
            auth.KIND_TASKS,
            lease.token,
            daemon.config,
            lambda sock: self._dialed(lease, sock),
            lambda reason: self._dial_failed(lease, reason),
        )

    def _dialed(self, lease: AwayLease, sock: socket.socket) -> None:
        dial = self._dials.pop(lease)
        client = self._daemon.clients.get(lease.proc)
        if client is None:
            sock.close()
            return
        lease.open = True
        grant = [
            m.GRANT,
            lease.shape_id,
            lease.lease_id,
            lease.worker,
            lease.pid,
            lease.resources,
            lease.node_id,
            dial.tls,
        ]
        client.sock.send(grant, sock.detach())

    def _dial_failed(self, lease: AwayLease, reason: str) -> None:
        del self._dials[lease]
        self._daemon.log.line(f"no connection to worker {lease.pid} of node {lease.node_id[:8]}: {reason}")
        self.away.dial_failed(lease, self._daemon.loop.now())
        self.flush()

    def _take_connection(self, target: bytes, sock: socket.socket) -> None:
        """A client of another node connects to the worker that it has leased, or to an actor."""
        daemon = self._daemon
        if daemon.actors.cluster.take_connection(target, sock):
            return
        token = self.guests.connected(target)
        worker = daemon.scheduler.pool.workers.get(token.worker_id) if token is not None else None
        client: Client | None = daemon.clients.get(worker.proc) if worker is not None else None
        if token is None or worker is None or client is None:
            sock.close()  # that lease has ended, and its client is told so another way
            return
        client.job_id = worker.job
        lease = daemon.scheduler.leases[token.lease_id]
        peer = [
            m.PEER,
            token.lease_id,
            token.guest.proc,
            worker.job,
            token.resources,
            token.guest.kind,
            lease.demand.member_of,
            daemon.side.encrypts,
            lease.gpu_numbers,
        ]
        client.sock.send(peer, sock.detach())

    # --- output of workers ---

    def output(self, job_id: str, entries: list[Any]) -> None:
        """What a worker of another node's job has written goes to its driver."""
        job = self.guests.jobs.get(job_id)
        if job is None or not job.get("log_to_driver"):
            return
        for entry in entries:
            entry[2] = self._daemon.node_id
        size = sum(len(line) for entry in entries for line in entry[4])
        self._unsaid[job_id] = self._unsaid.get(job_id, 0) + size
        self._daemon.peers.send(job["node"], [m.P_LOG, job_id, entries, size])

    def keeps_up(self, job_id: str) -> bool:
        """Whether the driver of a job takes what its workers here write."""
        return self._unsaid.get(job_id, 0) < _WINDOW_BYTES

    def _log(self, node_id: str, fields: list[Any], _now: float) -> None:
        job_id, entries, size = checked(fields, str, list, int)
        driver = self._daemon.driver_of(job_id)
        if driver is not None:
            driver.sock.send([m.LOG, entries])
        self._log_taken_here(node_id, job_id, size)

    def _log_taken_here(self, node_id: str, job_id: str, size: int) -> None:
        """Let the other node send more, as soon as the driver has room."""
        daemon = self._daemon
        driver = daemon.driver_of(job_id)
        if driver is not None and driver.sock.out_bytes >= _WINDOW_BYTES:
            daemon.loop.call_later(_PAUSE_S, lambda: self._log_taken_here(node_id, job_id, size))
        else:
            daemon.peers.send(node_id, [m.P_LOG_TAKEN, job_id, size])

    def _log_taken(self, _node_id: str, fields: list[Any], _now: float) -> None:
        job_id, size = checked(fields, str, int)
        rest = self._unsaid.get(job_id, 0) - size
        if rest > 0:
            self._unsaid[job_id] = rest
        else:
            self._unsaid.pop(job_id, None)

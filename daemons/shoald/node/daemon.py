"""The node daemon: wires sockets, store, scheduler, workers and head together. Decides nothing that a core
decides.

Invariants: a client's messages are handled in order and counted; what its connection's end means is told to
    the scheduler at once, and to the store when the process is confirmed dead (a worker's by the fork
    server, a driver's by its GOODBYE or the kernel): pins and extents come back no earlier. Every turn ends
    with one round of decisions and one frame to each client that something was said to.
"""

from __future__ import annotations

import os
import socket
import time
from typing import TYPE_CHECKING, Any

from shoal.ids import node_tag, tag_of
from shoal.wire import auth
from shoal.wire import messages as m
from shoald.node.actorside import ActorSide
from shoald.node.clients import Client, Job, read_hello
from shoald.node.clusterside import ClusterSide
from shoald.node.draining import Draining
from shoald.node.effects import Effect, EndWorker, Grant, Send, StartWorker
from shoald.node.groupside import GroupSide
from shoald.node.leaseside import LeaseSide
from shoald.node.memoryside import MemorySide
from shoald.node.moving import Moving
from shoald.node.placement import Placement
from shoald.node.pool import WORKER_ID_PREFIX_SIZE, Pool
from shoald.node.processends import when_ended
from shoald.node.requests import Requests
from shoald.node.scheduler import SchedulerCore
from shoald.node.statusboard import StatusBoard
from shoald.node.turn import Turn
from shoald.node.workers import WorkerProcesses
from shoald.shell.descriptors import copies_of
from shoald.shell.faults import Faults
from shoald.shell.framesocket import FrameSocket
from shoald.shell.socketpairs import task_pair
from shoald.store.core import StoreCore
from shoald.store.errors import ProtocolError
from shoald.store.spiller import Spiller, spill_directories

if TYPE_CHECKING:
    from collections.abc import Callable

    from shoald.node.dashboardside import DashboardSide
    from shoald.node.headside import HeadSide
    from shoald.node.options import NodeOptions
    from shoald.node.refside import RefSide
    from shoald.node.session import Session
    from shoald.objects.manager import ObjectManager
    from shoald.shell.daemonlog import DaemonLog
    from shoald.shell.loop import Loop
    from shoald.store.region import RegionFile

_OUTPUT_BACKLOG_BYTES = 4 * 1024**2  # a driver with more unread messages is given no more worker output


class NodeDaemon:
    """One node.

    Args:
        region: the store's memory; its descriptors are sent to every client.
        log: for people.

    Attributes:
        address: of the head, once the node has registered there; "" before, and without a head.
        on_stop: called with a reason when the daemon should end; again changes nothing.
        on_job: called with a job and its state, RUNNING at first.
        cluster, peers: the other nodes, and the messages to them (see clusterside).
        objects: what is fetched from other nodes and served to them; None while there are none.
        on_node_dead: each is called with (node id, reason), once for a node that has died, when its links are closed.
    """

    def __init__(
        self,
        loop: Loop,
        node_id: str,
        options: NodeOptions,
        session: Session,
        region: RegionFile,
        log: DaemonLog,
    ) -> None:
        self.loop = loop
        self.options = options
        self.config = options.config
        self.session = session
        self.region = region
        self.log = log
        self.node_id = node_id
        self._tag = node_tag(node_id)
        self.started = loop.now()
        self.address = ""
        self.head_trouble = ""
        self.dashboard: DashboardSide | None = None
        self.head: HeadSide  # set by the lifecycle, before the first turn
        directories = spill_directories(options, node_id, session.path)
        self.store = StoreCore(region.capacity, self.config, bytes.fromhex(node_id), len(directories))
        self.spiller = Spiller(loop, self.store.spills, region, directories, self.config, log.fault, log.line)
        self.objects: ObjectManager | None = None  # made, like `refs`, when there is another node
        self.refs: RefSide | None = None
        pool = Pool(os.urandom(WORKER_ID_PREFIX_SIZE), self.config.workers_max)
        placement = Placement(node_id, options.labels, self.config)
        self.scheduler = SchedulerCore(options.resources, pool, self.config, placement)
        self.board = StatusBoard(self.config.workers_max)
        self.workers = WorkerProcesses(
            loop, self.board, session.logs_dir, self.config, self._on_output, self._keeps_up
        )
        self.clients: dict[bytes, Client] = {}
        self.jobs: dict[str, Job] = {}
        self.actors = ActorSide(self)
        self.groups = GroupSide(self)
        self.memory = MemorySide(self)
        self.connections = 0
        self.to_flush: set[FrameSocket] = set()
        self.incarnation = os.urandom(8).hex()
        self.on_node_dead: list[Callable[[str, str], None]] = []
        self.side = ClusterSide(self)
        self.cluster, self.peers = self.side.view, self.side.peers
        self.scheduler.view = self.side.view
        self.lease_side = LeaseSide(self)
        self.draining = Draining(self)
        self.moving = Moving(self)
        self.requests = Requests(self)
        self.actors.cluster.join()
        self._turn = Turn(self, Faults(log, self.config.fault_kinds_max))
        self._forks = 0
        self.first_driver: Client | None = None
        self.on_stop: Any = lambda _reason: None
        self.on_first_grant: Any = lambda: None
        self.on_job: Any = lambda _job, _state: None

    # --- connections ---

    def on_connection(self, kind: int, _target: bytes, sock: socket.socket, pid: int) -> None:
        """A peer that knows the secret."""
        if kind not in (auth.KIND_CLIENT, auth.KIND_CONTROL):
            self.log.line(f"connection of process {pid} closed: kind {kind} does not belong on this socket")
            sock.close()
            return
        if self.connections >= self.config.connections_max:
            self.log.line(
                f"connection of process {pid} closed: {self.connections} are open (connections_max)"
            )
            sock.close()
            return
        self.connections += 1
        client = Client(pid, "cli" if kind == auth.KIND_CONTROL else "")
        client.sock = FrameSocket(
            self.loop,
            sock,
            self.config,
            lambda batch: self._on_batch(client, batch),
            lambda reason: self._on_closed(client, reason),
            self.to_flush,
        )

    def _on_batch(self, client: Client, batch: list[list[Any]]) -> None:
        now = self.loop.now()
        for message in batch:
            client.number += 1
            self._handle(client, message, now)
        if client.proc:
            self.store.advanced(client.proc, client.number, now)

    def _handle(self, client: Client, message: list[Any], now: float) -> None:
        tag = message[0]
        if tag == m.REQUEST and client.kind:
            self.requests.handle(client, message)
        elif not client.proc:
            self._hello(client, message, now)
        elif client.kind == "cli":
            raise ProtocolError(f"a command line sends requests, not message {tag}")
        elif m.ALLOC <= tag < m.FORK or m.UNRECOVERABLE <= tag <= m.FILE_STALLED:
            self.store.handle(client.proc, message, now)
        elif m.DEMAND <= tag <= m.WORKER_NOTE:
            # After its goodbye its leases have ended, whatever it says of them.
            if not client.leaving and not (tag == m.KILL_WORKER and self._spares(client, message)):
                self._lease_message(client, message, now)
        elif m.CREATE_ACTOR <= tag <= m.ACTOR_EXITS:
            self.actors.handle(client, message, now)
        elif m.CREATE_GROUP <= tag <= m.WATCH_GROUP:
            if not client.leaving:
                self.groups.handle(client, message, now)
        elif tag == m.FORK:
            self._forked(client, message, now)
        elif tag == m.CANCEL_TASK:
            self.lease_side.cancel_at_owner(message)
        elif tag == m.ANSWER:
            self.requests.answered(client, message)
        elif tag == m.TIMELINE:
            self.requests.timelines.handed_over(self.name_of(client.proc), client.proc, message)
        elif tag == m.COUNTED:
            self.requests.figures.tallies.said(client.proc, message[1] if len(message) == 2 else None)
        elif tag == m.GOODBYE and client.kind == "driver":
            self._goodbye(client, now)
        else:
            raise ProtocolError(f"message {tag} is not one that a {client.kind} sends")

    def _lease_message(self, client: Client, message: list[Any], now: float) -> None:
        away = self.lease_side.away
        if not away.leases or not away.from_client(client.proc, message):
            self.scheduler.handle(client.proc, message, now)
        if message[0] == m.WORKER_NOTE and message[1].get("python"):
            self.actors.core.begins_elsewhere(client.worker_id, now)

    def _spares(self, client: Client, message: list[Any]) -> bool:
        """Whether a KILL_WORKER comes for a task that its worker does not run (yet, or any more)."""
        if len(message) != 4 or type(message[1]) is not int:
            raise ProtocolError("a kill needs the number of a lease, a reason and a task")
        lease = self.scheduler.leases.get(message[1])
        if lease is None or lease.demand.client.proc != client.proc:
            return False
        worker = self.scheduler.pool.workers[lease.worker_id]
        return bool(self.board.current(worker.slot) != message[3])

    # --- joining ---

    def _hello(self, client: Client, message: list[Any], now: float) -> None:
        proc, kind, pid, info = read_hello(message)
        if proc in self.clients:
            raise ProtocolError(f"process {proc.hex()} is connected already")
        if kind != "cli" and tag_of(proc) != self._tag:
            raise ProtocolError(f"process id {proc.hex()} does not carry this node's tag {self._tag.hex()}")
        if client.kind and kind != client.kind:
            raise ProtocolError(f"a {kind} on a connection for command lines")
        client.pid = client.pid or pid
        client.info = info
        if kind == "worker":
            self._worker_joins(client, proc, info, now)
        elif kind == "driver":
            client.job_id = os.urandom(4).hex()
            self.jobs[client.job_id] = Job(client.job_id, client, info, time.time())
            self.first_driver = self.first_driver or client
            self.on_job(self.jobs[client.job_id], "RUNNING")
        client.proc, client.kind = proc, kind
        self.clients[proc] = client
        fds: list[int] = []
        if kind != "cli":
            self.scheduler.client_joined(proc, kind, client.job_id)
            self.store.register(proc, {"pid": client.pid, "kind": kind, "job_id": client.job_id})
            fds = copies_of([self.region.read_fd, self.region.write_fd])
        client.sock.send([m.WELCOME, self._welcome(client)], *fds)

    def _worker_joins(self, client: Client, proc: bytes, info: dict[str, Any], now: float) -> None:
        worker_id = info.get("worker_id")
        if type(worker_id) is not bytes:
            raise ProtocolError("hello of a worker without its id")
        worker = self.scheduler.worker_ready(worker_id, proc, client.pid, now)
        client.worker_id = worker_id
        self.workers.forked(worker_id, worker.pid)

    def _welcome(self, client: Client) -> dict[str, Any]:
        job = self.jobs.get(client.job_id)
        return {
            "node_id": self.node_id,
            "session_dir": self.session.path,
            "session": os.path.basename(self.session.path),
            "capacity": self.region.capacity,
            "job_id": client.job_id,
            "address": self.address,
            "head": self.address,
            "resources": self.scheduler.ledger.total,
            "namespace": job.namespace if job is not None else "",
        }

    def _forked(self, client: Client, message: list[Any], now: float) -> None:
        """A client forks: its pins stay until the read end that came with this closes at its other end."""
        fd = client.sock.take_fd()
        try:
            self.store.handle(client.proc, message, now)
            self._forks += 1
            token = self._forks
            self.store.forked(client.proc, token)
        except ProtocolError:
            os.close(fd)
            raise
        os.set_blocking(fd, False)
        self.loop.add_reader(fd, lambda: self._fork_pipe(fd, token))

    def _fork_pipe(self, fd: int, token: int) -> None:
        try:
            if os.read(fd, 4096):
                return  # nothing is meant to be written; only its end counts
        except BlockingIOError:
            return
        self.loop.remove_reader(fd)
        os.close(fd)
        self.store.fork_ended(token)

    # --- leaving ---

    def _goodbye(self, client: Client, now: float) -> None:
        """A driver leaves in order: its workers end, their last output is forwarded, then it is told."""
        if client.leaving:
            return
        client.leaving = True
        self.workers.read_all([worker.worker_id for worker in self.scheduler.pool.of_job(client.job_id)])
        self._end_job(client, now)
        self.loop.call_later(self.config.goodbye_ms_max / 1000, lambda: self._goodbye_ok(client))
        self.goodbyes_done()

    def goodbyes_done(self) -> None:
        """Answer the drivers whose workers are gone."""
        busy = {worker.job for worker in self.scheduler.pool.workers.values()}
        self.lease_side.workers_gone(busy)
        for client in list(self.clients.values()):
            job_id = client.job_id if client.leaving else ""
            if job_id and job_id not in busy and not self.lease_side.awaits(job_id):
                self._goodbye_ok(client)

    def _goodbye_ok(self, client: Client) -> None:
        if client.job_id:
            client.sock.send([m.GOODBYE_OK])
            self.lease_side.forget_job(client.job_id)
            client.job_id = ""

    def _end_job(self, client: Client, now: float) -> None:
        """The job of a driver ends; nothing happens the second time."""
        job = self.jobs.pop(client.job_id, None)
        if job is not None:
            self.on_job(job, "FINISHED" if client.leaving else "FAILED")
            self.actors.job_ended(job.job_id, now)
            self.groups.core.job_ended(job.job_id, now)
            self.scheduler.client_left(client.proc, now)
            self.scheduler.job_ended(job.job_id, now)
            self.lease_side.client_left(client.proc)
            self.lease_side.job_ended(job.job_id, client.leaving)

    def _on_closed(self, client: Client, reason: str) -> None:
        now = self.loop.now()
        self.connections -= 1
        if reason:
            self.log.line(f"connection of {client} closed: {reason}")
        if self.clients.get(client.proc) is not client:
            return
        del self.clients[client.proc]
        self.requests.client_left(client.proc)
        self.actors.client_left(client.proc)
        self.groups.core.client_left(client.proc)
        if client.kind == "worker":
            self.scheduler.client_left(client.proc, now)
            self.scheduler.worker_lost(client.worker_id, now)
            self.lease_side.client_left(client.proc)
        elif client.kind == "driver":
            if client.leaving:
                self.store.drop(client.proc, now)
            else:
                self.log.line(f"{client} is gone without a goodbye: its job {client.job_id} ends")
                self._end_job(client, now)
                # A connection can end before its process, whose views are still read.
                proc = client.proc
                when_ended(self.loop, client.pid, lambda: self.store.drop(proc, self.loop.now()))
            if client is self.first_driver and self.options.owner_pid:
                self.on_stop("its driver is gone")

    # --- workers (called by the fork client) ---

    def forked(self, worker_id: bytes, pid: int) -> None:
        """A worker's process exists."""
        self.workers.forked(worker_id, pid)
        self.scheduler.worker_forked(worker_id, pid)

    def fork_failed(self, worker_id: bytes, reason: str) -> None:
        """A worker could not be started."""
        self.log.line(f"a worker could not be started: {reason}")
        self.workers.ended(worker_id)
        self.scheduler.worker_failed(worker_id, reason, self.loop.now())
        self.goodbyes_done()

    def exited(self, worker_id: bytes, exit_code: int, signal_number: int) -> None:
        """The confirmed death of a worker: what it had sent before counts; then all that it held comes
        back.
        """
        worker = self.scheduler.pool.workers.get(worker_id)
        if worker is None:
            return
        client = self.clients.get(worker.proc)
        if client is not None:
            client.sock.drain()
        current = self.workers.ended(worker_id)
        now = self.loop.now()
        if worker.lease_id and not worker.reason:
            self.memory.say_why(worker, signal_number)
            self.log.line(f"worker {worker.pid} died: exit code {exit_code}, signal {signal_number}")
        self.scheduler.worker_exited(worker_id, exit_code, signal_number, current, now)
        if worker.proc:
            self.store.drop(worker.proc, now)
        self.goodbyes_done()

    def server_lost(self, reason: str, final: bool) -> None:
        """The fork server is gone; if no other can be started, this node is of no use."""
        self.log.line(f"{reason}; {'giving up' if final else 'starting another'}")
        if final:
            self.on_stop(reason)

    def driver_of(self, job_id: str) -> Client | None:
        """The driver of a job, while it is connected here and its goodbye is not answered."""
        for client in self.clients.values():
            if client.kind == "driver" and client.job_id == job_id:
                return client
        return None

    def _job_of(self, worker_id: bytes) -> str:
        worker = self.scheduler.pool.workers.get(worker_id)
        return worker.job if worker is not None else ""

    def _on_output(self, worker_id: bytes, entries: list[Any]) -> None:
        job_id = self._job_of(worker_id)
        driver = self.driver_of(job_id) if job_id else None
        if driver is None:
            self.lease_side.output(job_id, entries)
        elif driver.info.get("log_to_driver", True):
            driver.sock.send([m.LOG, entries])

    def _keeps_up(self, worker_id: bytes) -> bool:
        job_id = self._job_of(worker_id)
        driver = self.driver_of(job_id) if job_id else None
        if driver is None:
            return self.lease_side.keeps_up(job_id)
        return driver.sock.out_bytes < _OUTPUT_BACKLOG_BYTES

    # --- the turn ---

    def turn_end(self, now: float) -> float | None:
        """Decide, carry out, send. Returns when the next turn is due at the latest."""
        return self._turn.end(now)

    def carry_out(self, effect: Effect) -> None:
        """What the scheduler wants done."""
        if isinstance(effect, Grant):
            self._grant(effect)
        elif isinstance(effect, Send):
            client = self.clients.get(effect.proc)
            if client is not None:
                client.sock.send(effect.message)
            elif not self.lease_side.told(effect.proc, effect.message):
                self.actors.told(effect.proc, effect.message, self.loop.now())
        elif isinstance(effect, StartWorker):
            failure = self.workers.start(effect.worker_id, effect.slot, effect.python)
            if failure:
                self.scheduler.worker_failed(effect.worker_id, failure, self.loop.now())
        else:
            self._end_worker(effect)

    def _end_worker(self, effect: EndWorker) -> None:
        worker = self.scheduler.pool.workers.get(effect.worker_id)
        client = self.clients.get(worker.proc) if worker is not None else None
        if not effect.politely:
            self.workers.end(effect.worker_id, 0)
            return
        if client is not None:
            client.sock.send([m.EXIT] if effect.patience_ms is None else [m.EXIT, True])
        patience_ms = effect.patience_ms
        self.workers.end(
            effect.worker_id, (self.config.worker_exit_ms_max if patience_ms is None else patience_ms) / 1000
        )

    def _grant(self, grant: Grant) -> None:
        submitter = self.clients.get(grant.proc)
        worker = self.scheduler.pool.workers[grant.worker_id]
        client = self.clients.get(worker.proc)
        if self.actors.granted(grant, worker.pid, self.loop.now()):
            self.memory.watch()
            self.on_first_grant()
            return
        if submitter is None and self.lease_side.granted(grant, worker):
            self.on_first_grant()
            return
        if submitter is None or client is None:
            return  # the end of that connection is on its way to the scheduler, and ends the lease
        try:
            ours, theirs = task_pair(self.config.task_socket_bytes)
        except OSError as error:
            self.log.line(f"no socket for a lease: {error}")
            self.scheduler.end_worker(worker, "its lease got no socket", self.loop.now())
            return
        message = [m.GRANT, grant.shape_id, grant.lease_id, worker.proc, worker.pid, grant.resources]
        message += [self.node_id, False]
        submitter.sock.send(message, ours.detach())
        lease = self.scheduler.leases[grant.lease_id]
        peer = [m.PEER, grant.lease_id, grant.proc, worker.job, grant.resources, submitter.kind]
        peer += [lease.demand.member_of, False, lease.gpu_numbers]
        client.sock.send(peer, theirs.detach())
        client.job_id = worker.job
        self.memory.watch()
        self.on_first_grant()

    # --- for people and the head ---

    def name_of(self, proc: bytes) -> str:
        """What to call a process: "driver 4711 train.py", "worker 4712"."""
        client = self.clients.get(proc)
        if client is not None:
            return (
                f"{client} {client.info.get('argv0') or ''}".strip()
                if client.kind == "driver"
                else self.actors.name_of(client.worker_id) or str(client)
            )
        actor = self.actors.name_of_process(proc)
        if actor:
            return actor
        worker = self.scheduler.pool.by_proc.get(proc)
        if worker is not None:
            return f"worker {worker.pid}"
        return self.lease_side.name_of(proc) or (f"process {proc.hex()}" if proc else "")

    def name_holders(self, row: dict[str, Any]) -> None:
        """Give each holder of an object, as the store lists them, a name for people; objects have none."""
        for holder in row["holders"]:
            known = {"object": "", "node": "node " + holder.get("node_id", "")[:8]}.get(holder["role"])
            holder["name"] = self.name_of(bytes.fromhex(holder["proc"])) if known is None else known

    def facts(self) -> dict[str, Any]:
        """How to find this daemon: node.json, and the head of `status`."""
        return {
            "node_id": self.node_id,
            "name": self.options.name,
            "pid": os.getpid(),
            "socket": self.session.socket_path,
            "session_dir": self.session.path,
            "address": self.address,
            "owner_pid": self.options.owner_pid,
            "hosts_head": self.options.head,
            "dashboard": {"url": self.dashboard.url, "trouble": self.dashboard.trouble}
            if self.dashboard
            else None,
        }

    def registration(self) -> dict[str, Any]:
        """What the head is told about this node once."""
        return {
            "address": self.side.address,
            "hostname": socket.gethostname(),
            "pid": os.getpid(),
            "name": self.options.name,
            "resources": dict(self.scheduler.ledger.total),
            "labels": dict(self.options.labels),
            "store_capacity_bytes": self.region.capacity,
        }

    def gauges(self) -> dict[str, Any]:
        """What the head is told about this node from time to time."""
        stats = self.store.stats()
        pending = self.scheduler.pending(self.loop.now())[:100]
        return {
            "available": self.scheduler.available(),
            "store_used_bytes": stats["used"],
            "store_objects": stats["objects"],
            "workers": len(self.scheduler.pool),
            "pending": [
                {"resources": row["resources"], "count": row["backlog"], "reason": row["reason"]}
                for row in pending
            ],
        }

    def stop(self) -> None:
        """End this daemon."""
        self.on_stop("it was asked to")

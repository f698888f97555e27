"""Actors as the daemon's shell handles them: messages to the core, the core's effects to sockets and the store. Decides nothing.

A connection between a caller and an actor is a socket pair, one end for each, as between a submitter and a leased worker.
"""

from __future__ import annotations

import socket
from functools import partial
from typing import TYPE_CHECKING, Any

from shoal.wire import messages as m
from shoald.node.actorcluster import ActorCluster
from shoald.node.actorinfo import check, name_taken
from shoald.node.actors import ActorCore, ActorRecord
from shoald.shell.carrying import carry_out
from shoald.store.errors import ProtocolError

if TYPE_CHECKING:
    from collections.abc import Callable

    from shoald.node.clients import Client
    from shoald.node.daemon import NodeDaemon
    from shoald.node.effects import Grant
    from shoald.node.requests import Reply

HOLDER = b"\0detach\0"  # the process, for the store, that holds what detached actors are made from


class ActorSide:
    """The actors of one daemon."""

    def __init__(self, daemon: NodeDaemon) -> None:
        self._daemon = daemon
        self.core = ActorCore(daemon.scheduler, daemon.config, daemon.node_id)
        self.cluster = ActorCluster(daemon, self)
        daemon.store.register(HOLDER, {"pid": 0, "kind": "detached actors", "job_id": ""})

    # --- messages ---

    def handle(self, client: Client, message: list[Any], now: float) -> None:
        """A message about actors; raises ProtocolError, and changes nothing, if it makes no sense."""
        core = self.core
        tag, fields = message[0], message[1:]
        try:
            if tag == m.CREATE_ACTOR:
                req, actor_id, info = fields
                self._create(client, req, actor_id, info, now)
            elif tag == m.CONNECT_ACTOR:
                actor_id, broken = fields
                if not self.cluster.connect(client, actor_id, broken):
                    core.connect(client.proc, actor_id, broken, now)
            elif tag == m.DISCONNECT_ACTOR:
                (actor_id,) = fields
                core.disconnect(client.proc, actor_id)
                self.cluster.away.disconnect(client.proc, actor_id)
            elif tag == m.KILL_ACTOR:
                req, actor_id, no_restart = fields
                self.cluster.kills.asked(client, req, actor_id, bool(no_restart))
            elif client.kind != "worker":
                raise ProtocolError(f"message {tag} is not one that a {client.kind} sends")
            elif tag == m.ACTOR_READY:
                (actor_id,) = fields
                core.ready(client.worker_id, actor_id, now)
                self._daemon.store.call(client.proc, self.name_of(client.worker_id))
                if not self._daemon.store.watch(
                    actor_id
                ):  # made elsewhere, and the last handle went meanwhile
                    core.unheld(actor_id, now)
            elif tag == m.ACTOR_FAILED:
                actor_id, blob = fields
                core.failed(client.worker_id, actor_id, blob, now)
            elif tag == m.ACTOR_EXITS:
                actor_id, reason = fields
                core.exits(client.worker_id, actor_id, reason, now)
            else:
                raise ProtocolError(f"message {tag} is not one about actors")
        except (TypeError, ValueError) as error:
            raise ProtocolError(f"message {tag} has wrong fields: {error}") from None
        self.flush()

    def _create(self, client: Client, req: Any, actor_id: Any, info: Any, now: float) -> None:
        if type(req) is not int or type(info) is not dict:
            raise ProtocolError("an actor is described by a dictionary")
        info["namespace"] = info.get("namespace") or self.namespace_of(client)
        if not self._daemon.store.watch(actor_id):
            raise ProtocolError("an actor without what it is to be made from")
        check(actor_id, info)
        if info["name"] and self._daemon.head.settled:
            self._claim(client, req, actor_id, info, self.cluster.patience())
        else:
            self._make(client, req, actor_id, info, now)

    def _claim(self, client: Client, req: int, actor_id: bytes, info: dict[str, Any], until: float) -> None:
        """Ask the head for the name, for the first time or again."""
        self.cluster.claim(
            actor_id,
            info,
            client.job_id,
            lambda *found: self._claimed(client, req, actor_id, info, until, *found),
        )

    def _claimed(
        self,
        client: Client,
        req: int,
        actor_id: bytes,
        info: dict[str, Any],
        until: float,
        owner: dict[str, Any] | None,
        trouble: str,
    ) -> None:
        """The head has said who has the name."""
        daemon = self._daemon
        ask = partial(self._claim, client, req, actor_id, info, until)
        if daemon.clients.get(client.proc) is not client:
            if owner is not None and owner["actor_id"] == actor_id:
                self.cluster.unclaim(actor_id, info)
        elif owner is None:
            text = f"whether the name {info['name']!r} is free is for the head to say, and it does not answer: {trouble}"
            client.sock.send([m.RESPONSE, req, False, text])
        elif owner["actor_id"] != actor_id and self.core.is_ending(owner["actor_id"]):
            self._ask_again(client, req, until, ask)  # the name is free when the head has heard of that
        elif owner["actor_id"] == actor_id or self._lives_here(owner["actor_id"]):
            make = partial(self._make, client, req, actor_id, info)
            namesake = self.core.named(info["namespace"], info["name"])
            if namesake is None or namesake.actor_id == owner["actor_id"]:
                make(daemon.loop.now())
                return

            def looked() -> None:
                still = self.core.named(info["namespace"], info["name"])
                if still is None or still.actor_id != namesake.actor_id:
                    make(daemon.loop.now())
                else:  # it has lost its name, and the head did not say why: it is not the one to be given
                    self._ask_again(client, req, until, ask)

            self.cluster.kills.end_if_killed(namesake.actor_id, looked)
        elif info["get_if_exists"]:
            there = owner["actor_id"]
            got = partial(self._got, client, req, there, until, ask)
            if owner["node_id"]:
                self.cluster.get(owner["node_id"], there, client.proc, got)
            else:  # no node has what it needs, for now
                got(b"")
        else:
            client.sock.send([m.RESPONSE, req, False, name_taken(info)])

    def _lives_here(self, actor_id: bytes) -> bool:
        """Whether an actor is hosted here and not about to end: then this node knows who gets it, and who does not."""
        record = self.core.actors.get(actor_id)
        return record is not None and not record.final

    def _got(
        self,
        client: Client,
        req: int,
        actor_id: bytes,
        until: float,
        ask: Callable[[], None],
        table: bytes | None,
    ) -> None:
        """Its host has given the client a hold on the actor of a name, or the name may be free when the head hears of its end."""
        if table:
            client.sock.send([m.RESPONSE, req, True, {"actor": actor_id, "table": table}])
        else:
            self._ask_again(client, req, until, ask)

    def _ask_again(self, client: Client, req: int, until: float, ask: Callable[[], None]) -> None:
        if not self.cluster.again(until, ask):
            text = "the actor of that name is about to end, or its node does not answer; try again"
            client.sock.send([m.RESPONSE, req, False, text])

    def _make(self, client: Client, req: int, actor_id: bytes, info: dict[str, Any], now: float) -> None:
        self.end_unheld(now)
        try:
            record = self.core.create(client.proc, client.job_id, actor_id, info, now)
        except ValueError as error:
            client.sock.send([m.RESPONSE, req, False, str(error)])
            return
        if record.actor_id != actor_id:  # the one that has the name: the asker gets a hold on that
            self.hold(client.proc, record.actor_id)
        if req:
            client.sock.send(
                [m.RESPONSE, req, True, {"actor": record.actor_id, "table": record.info["table"]}]
            )

    def hold(self, proc: bytes, actor_id: bytes) -> None:
        """Give a process a hold on an actor."""
        self._daemon.store.handle(HOLDER, [m.HOLD, proc, actor_id], self._daemon.loop.now())

    def let_go(self, actor_id: bytes) -> None:
        """End this node's own hold on a detached actor."""
        self._daemon.store.handle(HOLDER, [m.RELEASE, actor_id], self._daemon.loop.now())

    def namespace_of(self, client: Client) -> str:
        """The namespace that names without one belong to."""
        job = self._daemon.jobs.get(client.job_id)
        if job is not None:
            return job.namespace
        record = self.core.by_worker.get(client.worker_id)
        if record is not None:
            return str(record.info["namespace"])
        return self._daemon.lease_side.namespace_of(client.job_id) or client.job_id

    # --- events of the daemon ---

    def granted(self, grant: Grant, pid: int, now: float) -> bool:
        """A worker was leased; whether that was to an actor."""
        if grant.proc not in self.core.by_proc:
            return False
        self.core.granted(grant.proc, grant.worker_id, pid, now)
        self.flush()
        return True

    def told(self, proc: bytes, message: list[Any], now: float) -> None:
        """The scheduler's word to a client that may be an actor."""
        self.core.told(proc, message, now)
        self.flush()

    def client_left(self, proc: bytes) -> None:
        """A process is gone."""
        self.core.client_left(proc)
        self.cluster.client_left(proc)

    def job_ended(self, job_id: str, now: float) -> None:
        """A driver is gone."""
        self.core.job_ended(job_id, now)
        self.flush()

    def drain(self, now: float) -> bool:
        """The node drains: whether actors are about to move away."""
        leaving = self.core.drain(now)
        self.flush()
        return leaving

    def end_for_good(self, proc: bytes, reason: str) -> None:
        """A process has lost its place; nothing if that is no actor."""
        self.core.end_for_good(proc, reason, self._daemon.loop.now())
        self.flush()

    def turn(self, now: float) -> float | None:
        """See to actors whose last handle went in this turn. Returns when to look again."""
        self.end_unheld(now)
        due = self.core.tick(now)
        self.flush()
        away_due = self.cluster.turn(now)
        return min((time for time in (due, away_due) if time is not None), default=None)

    def end_unheld(self, now: float) -> None:
        """End actors whose last handle is gone. Before a name is looked up too: who has let go does not find it any more."""
        for actor_id in self._daemon.store.take_unheld():
            self.core.unheld(actor_id, now)

    # --- effects ---

    def flush(self) -> None:
        """Carry out what the core has decided."""
        while self.core.outbox:
            effects, self.core.outbox = self.core.outbox, []
            try:
                carry_out(effects, self._carry_out)
            finally:
                self.core.outbox[:0] = effects
        self.cluster.flush()

    def _carry_out(self, effect: tuple[Any, ...]) -> None:
        daemon = self._daemon
        kind = effect[0]
        if kind == "send":
            client = daemon.clients.get(effect[1])
            if client is not None:
                client.sock.send(effect[2])
            else:
                self.cluster.tell(effect[1], effect[2])
        elif kind == "changed":
            self.cluster.changed(effect[1])
        elif kind == "connect":
            self._connect(effect[1], effect[2])
        elif kind == "become":
            self._become(effect[1])
        elif kind == "left":
            actor = self.worker_of(effect[2])
            if actor is not None:
                actor.sock.send([m.CALLER_LEFT, effect[1]])
        elif kind == "superseded":
            self.cluster.follow(effect[1])
        elif kind == "hold":
            self.hold(HOLDER, effect[1])
        elif kind == "let_go":
            self.let_go(effect[1])
            if effect[1] in self.core.dead:  # it was a job of its own
                job_id = f"detached {effect[1].hex()}"
                self._daemon.groups.core.job_ended(job_id, self._daemon.loop.now())

    def worker_of(self, record: ActorRecord) -> Client | None:
        """The connection of the process that is the actor."""
        worker = self._daemon.scheduler.pool.workers.get(record.worker_id)
        return self._daemon.clients.get(worker.proc) if worker is not None else None

    def _become(self, record: ActorRecord) -> None:
        client = self.worker_of(record)
        if client is None:
            return  # it has just closed its connection: its death is on the way
        client.job_id = record.job
        worker = self._daemon.scheduler.pool.workers[record.worker_id]
        info = {
            "name": record.info["name"],
            "namespace": record.info["namespace"],
            "class": record.info["class"],
            "restarts": record.restarts,
            "job_id": record.owner_job,
            "resources": record.info["resources"],
            "group": record.group,
            "gpus": self._daemon.scheduler.leases[worker.lease_id].gpu_numbers,
        }
        client.sock.send([m.BECOME_ACTOR, record.actor_id, info])

    def _connect(self, proc: bytes, record: ActorRecord) -> None:
        caller, client = self._daemon.clients.get(proc), self.worker_of(record)
        if (
            client is None
            or (caller is None and not self.cluster.offer(proc, record, client))
            or caller is None
        ):
            return  # what ended that connection is on its way to the core; or the caller's node makes it
        try:
            ours, theirs = socket.socketpair()
        except OSError as error:
            self._daemon.log.line(f"no socket between {caller} and {record}: {error}")
            details = {"reason": f"no socket for the connection: {error.strerror}"}
            caller.sock.send([m.ACTOR_STATE, record.actor_id, "dead", details])
            return
        peer = [m.ACTOR_PEER, record.actor_id, record.incarnation, client.proc, client.pid, False]
        caller.sock.send(peer, ours.detach())
        resources = record.info["resources"]
        peer = [m.PEER, 0, proc, record.owner_job, resources, caller.kind, None, False]
        client.sock.send(peer, theirs.detach())

    # --- for people ---

    def named(self, client: Client, params: dict[str, Any], reply: Reply) -> None:
        """The actor of a name."""
        name, namespace = str(params.get("name")), str(params.get("namespace") or self.namespace_of(client))
        self.end_unheld(self._daemon.loop.now())
        record = self.core.named(namespace, name)

        def given(actor_id: bytes | None, table: bytes, problem: str) -> None:
            if problem:
                reply(
                    True,
                    {"unavailable": f"actor {name!r} of namespace {namespace!r} is not found: {problem}"},
                )
            elif actor_id is None:
                reply(False, f"there is no actor named {name!r} in namespace {namespace!r}")
            else:
                reply(True, {"actor": actor_id, "table": table})

        def look() -> None:
            record = self.core.named(namespace, name)
            if record is not None:
                self.hold(client.proc, record.actor_id)
                given(record.actor_id, record.info["table"], "")
            elif self.cluster.alone:
                given(None, b"", "")
            else:
                self.cluster.named(namespace, name, client.proc, given)

        if record is not None:
            self.cluster.kills.when_kills_are_known(record.actor_id, look)
        else:
            look()

    def list_named(self, client: Client, params: dict[str, Any], reply: Reply) -> None:
        """The names in the asker's namespace, or in all."""
        self.end_unheld(self._daemon.loop.now())
        own = self.namespace_of(client)
        rows = [
            {"name": name, "namespace": namespace}
            for namespace, name in sorted(self.core.names)
            if params.get("all_namespaces") or namespace == own
        ]
        reply(True, {"rows": rows})

    def is_actor(self, client: Client) -> bool:
        """Whether the process is an actor."""
        return client.worker_id in self.core.by_worker

    def why(self, wanted: str) -> list[dict[str, Any]]:
        """What `why` says of actors whose id begins like this."""
        rows = []
        for row in self.core.rows(self._daemon.loop.now()):
            if row["actor_id"].startswith(wanted):
                name = f" {row['name']!r}" if row["name"] else ""
                line = f"actor {row['actor_id']} ({row['class']}{name}) is {row['state']}"
                where = "; it was in" if row["state"] == "DEAD" else " in"
                line += f"{where} process {row['pid']}" if row["pid"] else ""
                line += f": {row['reason']}" if row["reason"] else ""
                lines = [line, *(f"  {reason}" for reason in self.placing(row["actor_id"]))]
                rows.append({"process": "actors", "node_id": row["node_id"], "lines": lines})
        return rows

    def placing(self, actor_id: str) -> list[str]:
        """What the actor with this (hexadecimal) id, which has no process yet, waits for here: a line, or none."""
        daemon = self._daemon
        procs = {
            record.proc
            for record in self.core.actors.values()
            if record.proc and not record.obstacle and record.actor_id.hex() == actor_id
        }
        return [
            f"node {daemon.node_id[:8]}: {demand['reason']}"
            for demand in daemon.scheduler.pending(daemon.loop.now())
            if demand["proc"] in procs
        ]

    def name_of_process(self, proc: bytes) -> str:
        """What to call a process that is none: an actor as the scheduler knows it, and what holds detached ones."""
        if proc == HOLDER:
            return "detached actors"
        record = self.core.by_proc.get(proc)
        return _name(record) if record is not None else ""

    def is_itself(self, worker_id: bytes, current: bytes) -> bool:
        """Whether ``current``, what a worker has begun last, is no call: an actor that runs several names itself."""
        record = self.core.by_worker.get(worker_id)
        return record is not None and record.actor_id == current

    def may_restart(self, worker_id: bytes) -> bool:
        """Whether the actor in this worker is started again after a death; False if there is none."""
        record = self.core.by_worker.get(worker_id)
        return record is not None and not record.final and bool(record.restarts_left)

    def name_of(self, worker_id: bytes) -> str:
        """What to call a worker that is an actor; "" if it is none."""
        record = self.core.by_worker.get(worker_id)
        return _name(record) if record is not None else ""


def _name(record: ActorRecord) -> str:
    """Its class, its name if it has one, and its process if it has one."""
    name, pid = record.info["name"], f" {record.pid}" if record.worker_id else ""
    return f"actor {record.info['class']}" + (f" {name!r}" if name else "") + pid

"""Actors across nodes, as the daemon's shell handles them: hosted for others or by others, known to the head. Decides nothing.

`ActorCore` has the actors that this node hosts, `AwayActors` those that it only calls, and the head's table says which is where.
A caller of another node is to a host what one of its own is: it is connected by a token, as to a leased worker, and what is
said to it goes through its node.

As long as there never was another node, only named and detached actors are told to the head; the others when one joins.
"""

from __future__ import annotations

import os
from functools import partial
from typing import TYPE_CHECKING, Any

import msgpack

from shoal.wire import auth
from shoal.wire import messages as m
from shoald.node.actors import ALIVE, DEAD, PENDING, RESTARTING, ActorRecord, Moved
from shoald.node.awayactors import AwayActors
from shoald.node.kills import Kills
from shoald.shell.tcp import Dial
from shoald.store.errors import ProtocolError

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    from shoald.node.actorside import ActorSide
    from shoald.node.clients import Client
    from shoald.node.daemon import NodeDaemon

    Handler = Callable[..., None]

_STATES = {
    PENDING: PENDING,
    ALIVE: ALIVE,
    RESTARTING: RESTARTING,
    DEAD: DEAD,
}  # others are one of these to the head


class Caller:
    """A caller on another node."""

    __slots__ = ("kind", "node_id")

    def __init__(self, node_id: str, kind: str) -> None:
        self.node_id = node_id
        self.kind = kind


class ActorCluster:
    """The actors of one daemon, as far as other nodes have to do with them."""

    def __init__(self, daemon: NodeDaemon, side: ActorSide) -> None:
        self._daemon = daemon
        self._side = side
        self._core = side.core
        self.away = AwayActors(daemon.config)
        self.kills = Kills(daemon, side, self)
        self._callers: dict[bytes, Caller] = {}
        self._tokens: dict[bytes, tuple[ActorRecord, int, bytes]] = {}  # record, incarnation, caller
        self._gives: dict[int, tuple[str, Callable[[bytes | None], None]]] = {}  # who was asked, and what for
        self._numbers = 0
        self._kept: set[bytes] = set()  # detached actors that went elsewhere, held here until they are dead
        self._handed: dict[bytes, dict[str, Any]] = {}  # actors that went on, as the head was told
        self._tells_all = False  # the head, also of actors without a name
        self._claiming: set[bytes] = set()  # actors whose names the head was asked for

    def join(self) -> None:
        """Take part in what nodes say to each other; called when the daemon has its links."""
        daemon = self._daemon
        handlers: dict[int, Handler] = {
            m.P_ACTOR_HOST: self._host,
            m.P_ACTOR_CONNECT: self._connect_guest,
            m.P_ACTOR_DISCONNECT: self._disconnect_guest,
            m.P_ACTOR_PEER: self._dial,
            m.P_ACTOR_TOLD: self._told,
            m.P_ACTOR_UNKNOWN: lambda node_id, actor_id: self.away.not_there(
                node_id, actor_id, daemon.loop.now()
            ),
            m.P_ACTOR_KILL: self.kills.from_node,
            m.P_ACTOR_GIVE: self._give,
            m.P_ACTOR_GIVEN: self._given,
        }
        for tag, handler in handlers.items():
            daemon.peers.on(tag, partial(self._handle, handler))
        daemon.on_node_dead.append(self._node_died)

    def _handle(self, handler: Handler, node_id: str, message: list[Any]) -> None:
        try:
            handler(node_id, *message[1:])
        except (TypeError, ValueError) as error:
            raise ProtocolError(f"message {message[0]} has wrong fields: {error}") from None
        self._side.flush()

    @property
    def alone(self) -> bool:
        """Whether there is no other node."""
        return not self._daemon.cluster.live

    # --- callers here ---

    def connect(self, client: Client, actor_id: bytes, broken: int) -> bool:
        """CONNECT_ACTOR; whether it is for an actor that this node does not host."""
        core = self._core
        if self.alone or actor_id in core.actors or actor_id in core.dead:
            return False
        self.away.connect(client.proc, client.kind, actor_id, broken)
        return True

    def client_left(self, proc: bytes) -> None:
        """A process of this node is gone, as a caller."""
        self.away.client_left(proc)

    def _told(self, node_id: str, proc: bytes, message: list[Any]) -> None:
        client = self._daemon.clients.get(proc)
        if client is not None and message[0] == m.ACTOR_STATE:
            client.sock.send(message)

    def _dial(
        self,
        node_id: str,
        proc: bytes,
        actor_id: bytes,
        incarnation: int,
        worker: bytes,
        pid: int,
        token: bytes,
    ) -> None:
        daemon = self._daemon
        node = daemon.cluster.live.get(node_id)
        if node is None or proc not in daemon.clients:
            return

        def opened(sock: socket.socket) -> None:
            client = daemon.clients.get(proc)
            if client is None:
                sock.close()
            else:
                client.sock.send([m.ACTOR_PEER, actor_id, incarnation, worker, pid, dial.tls], sock.detach())

        def failed(reason: str) -> None:
            daemon.log.line(f"no connection to actor {actor_id.hex()} at node {node_id[:8]}: {reason}")
            self.away.not_there(node_id, actor_id, daemon.loop.now())

        identity, config = daemon.peers.identity, daemon.config
        dial = Dial(daemon.loop, node.address, identity, auth.KIND_TASKS, token, config, opened, failed)

    # --- callers elsewhere ---

    def _connect_guest(self, node_id: str, actor_id: bytes, proc: bytes, kind: str, broken: int) -> None:
        core = self._core
        if actor_id not in core.actors and actor_id not in core.dead:
            self._daemon.peers.send(node_id, [m.P_ACTOR_UNKNOWN, actor_id])
            return
        self._callers[proc] = Caller(node_id, str(kind))
        core.connect(proc, actor_id, broken, self._daemon.loop.now())

    def _disconnect_guest(self, _node_id: str, actor_id: bytes, proc: bytes) -> None:
        self._core.disconnect(proc, actor_id)
        if not any(proc in record.callers for record in self._core.actors.values()):
            self._callers.pop(proc, None)

    def tell(self, proc: bytes, message: list[Any]) -> None:
        """The core's word to a caller that is not a process of this node."""
        caller = self._callers.get(proc)
        if caller is not None:
            self._daemon.peers.send(caller.node_id, [m.P_ACTOR_TOLD, proc, message])

    def offer(self, proc: bytes, record: ActorRecord, client: Client) -> bool:
        """Have a caller of another node connect to the actor's process; False if there is no such caller."""
        caller = self._callers.get(proc)
        if caller is None:
            return False
        token = os.urandom(auth.TARGET_SIZE)
        self._tokens[token] = (record, record.incarnation, proc)
        daemon = self._daemon
        daemon.loop.call_later(daemon.config.lease_connect_ms / 1000, partial(self._token_due, token))
        peer = [proc, record.actor_id, record.incarnation, client.proc, client.pid, token]
        daemon.peers.send(caller.node_id, [m.P_ACTOR_PEER, *peer])
        return True

    def _token_due(self, token: bytes) -> None:
        self._tokens.pop(token, None)

    def take_connection(self, target: bytes, sock: socket.socket) -> bool:
        """A connection of another node with a token; False if the token is not one of an actor."""
        record, incarnation, proc = self._tokens.pop(target, (None, 0, b""))
        if record is None:
            return False
        client = self._side.worker_of(record)
        caller = self._callers.get(proc)
        if client is None or caller is None or incarnation != record.incarnation:
            sock.close()  # the process has ended meanwhile, and its callers are told
            return True
        resources = record.info["resources"]
        kind, tls = f"remote {caller.kind}", self._daemon.side.encrypts
        client.sock.send([m.PEER, 0, proc, record.owner_job, resources, kind, None, tls], sock.detach())
        return True

    # --- who hosts it ---

    def move(self, proc: bytes, node_id: str) -> None:
        """Placement has found another node for the actor that waits for a worker as ``proc``."""
        daemon = self._daemon
        record = self._core.leave(proc, daemon.loop.now())
        if record is None:
            return
        facts = self._facts(record)
        daemon.peers.send(node_id, [m.P_ACTOR_HOST, record.actor_id, record.info, facts])
        handed = {**self._row(record), "node_id": node_id, "info": _packed(record, facts)}
        daemon.head.report_actors([handed])
        self._handed[record.actor_id] = handed
        if len(self._handed) > daemon.config.dead_actors_max:
            del self._handed[next(iter(self._handed))]
        self.follow(record)
        self.away.heard(record.actor_id, handed, daemon.loop.now())

    def follow(self, record: ActorRecord) -> None:
        """Another node has an actor that was here: its callers call it there. What a detached one is made from is kept for it."""
        if record.info["detached"]:
            self._kept.add(record.actor_id)
            self._look_after(record.actor_id, self.patience())
        for caller in record.callers:
            client = self._daemon.clients.get(caller)
            if client is not None:
                self.away.connect(caller, client.kind, record.actor_id, 0)

    def _facts(self, record: ActorRecord) -> dict[str, Any]:
        job = self._daemon.lease_side.job_facts(record.owner_job)
        moved = {
            "incarnation": record.incarnation,
            "restarts": record.restarts,
            "restarts_left": record.restarts_left,
        }
        return {"job": job, "owner_job": record.owner_job, **moved}

    def _host(self, _node_id: str, actor_id: bytes, info: dict[str, Any], facts: dict[str, Any]) -> None:
        """Another node, or the head, has placed an actor here."""
        daemon, now = self._daemon, self._daemon.loop.now()
        moved = Moved(actor_id, facts["incarnation"], facts["restarts"], facts["restarts_left"])
        job = facts["job"]
        if not info["detached"] and not daemon.lease_side.guests.adopt(job):
            self._report_dead(actor_id, info, "its driver is gone")
            return
        self._handed.pop(actor_id, None)
        namesake = self._core.named(info["namespace"], info["name"]) if info["name"] else None
        if namesake is not None and namesake.actor_id != actor_id:
            self.kills.end_if_killed(namesake.actor_id)
            self.kills.end_if_killed(actor_id)
        if self._core.host(moved, info, facts["owner_job"], now) is None:
            record = self._core.actors.get(actor_id)
            if record is not None:  # the head asks because it has not heard of it
                daemon.head.report_actors([self._row(record)])
            else:  # its whole life was faster than the word that it had been handed over
                self._report_dead(actor_id, info, self._core.dead[actor_id]["reason"])

    def _node_died(self, node_id: str, reason: str) -> None:
        self.away.node_died(node_id, reason)
        for number in [number for number, (asked, _) in self._gives.items() if asked == node_id]:
            self._given(node_id, number, b"")
        for proc in [proc for proc, caller in self._callers.items() if caller.node_id == node_id]:
            del self._callers[proc]
            self._core.client_left(proc)
        self.flush()

    # --- the head ---

    def joined(self) -> None:
        """Another node has joined: it may be given handles to any actor of this one."""
        self._tells_all = True
        self._daemon.head.report_actors([self._row(record) for record in self._core.actors.values()])

    def registered(self) -> None:
        """A new connection to the head."""
        rows = [self._row(record) for record in self._core.actors.values()]
        # The head may not have heard of a hand-over, and takes for ended what its host does not speak of.
        self._daemon.head.report_actors([*self._handed.values(), *rows], snapshot=True)
        self.away.head_is_back()
        self.kills.head_is_silent = False
        for actor_id in self._kept:
            self._look_after(actor_id, self.patience())
        self.flush()

    def _look_after(self, actor_id: bytes, until: float) -> None:
        """Have the head tell when a detached actor that went elsewhere is dead, as it may be already."""

        def found(actor: dict[str, Any] | None, problem: str) -> None:
            ended = actor is None or actor["state"] == DEAD
            if problem or actor_id not in self._kept or not ended:
                return  # without an answer, it is asked again at the next registration
            if actor is not None or not self.again(until, partial(self._look_after, actor_id, until)):
                self._kept.discard(actor_id)
                self._side.let_go(actor_id)

        self.find({"actor_id": actor_id}, found)

    def changed(self, record: ActorRecord) -> None:
        """An actor of this node is new, or in another state."""
        if record.actor_id in self.away.actors:
            self.adopt(record.actor_id)
        if self.tells_of(record):
            self._daemon.head.report_actors([self._row(record)])

    def tells_of(self, record: ActorRecord) -> bool:
        """Whether the head is told of an actor of this node."""
        return self._tells_all or bool(record.info["name"]) or bool(record.info["detached"])

    def heard(self, message: dict[str, Any]) -> None:
        """The head's word on an actor ("actor"), that this node is to host one ("host_actor"), or to end it ("end_actor")."""
        actor = message["actor"]
        if message["kind"] == "end_actor":
            if actor["state"] == DEAD:
                self.kills.from_head(actor)
            else:
                self._core.supersede(actor["actor_id"], actor["incarnation"], self._daemon.loop.now())
            self._side.flush()
            return
        handed = self._handed.get(actor["actor_id"])
        if message["kind"] == "host_actor" and handed and actor["incarnation"] < handed["incarnation"]:
            # It lives elsewhere. A head that was not reached then, or has started again, does not know; no snapshot says so.
            self._daemon.head.report_actors([handed])
            return
        if message["kind"] == "host_actor" and not actor["info"]:
            self._was_claimed(actor)
            return
        if message["kind"] == "host_actor":
            packed = msgpack.unpackb(actor["info"])
            facts = {
                **packed["facts"],
                **{key: actor[key] for key in ("incarnation", "restarts", "restarts_left")},
            }
            self._host("", actor["actor_id"], packed["info"], facts)
            self._side.flush()
            return
        if actor["state"] == DEAD and actor["actor_id"] in self._kept:
            self._kept.discard(actor["actor_id"])
            self._side.let_go(actor["actor_id"])
        self._found(actor["actor_id"], actor)
        self.flush()

    def _found(self, actor_id: bytes, actor: dict[str, Any] | None) -> None:
        """The head says where an actor is that is called from here; None: it does not know it."""
        now = self._daemon.loop.now()
        if actor is None or actor["state"] == DEAD or actor["node_id"] != self._daemon.node_id:
            self.away.heard(actor_id, actor, now)
        elif actor_id in self._core.actors:
            self.adopt(actor_id)
        else:  # this node is about to be told to host it; or a head that comes after this one knows nothing of it
            self.away.not_heard(actor_id, now)

    def _was_claimed(self, actor: dict[str, Any]) -> None:
        """The head knows nothing of an actor but that its name was claimed here."""
        actor_id = actor["actor_id"]
        record = self._core.actors.get(actor_id)
        if record is not None:
            self._daemon.head.report_actors([self._row(record)])
        elif actor_id not in self._claiming:  # else it is about to be made, or not
            self._report_dead(actor_id, actor, "it has ended")

    def _row(self, record: ActorRecord) -> dict[str, Any]:
        info, daemon = record.info, self._daemon
        facts = self._facts(record)
        again = record.state != DEAD and (info["max_restarts"] or info["name"])
        return {
            "actor_id": record.actor_id,
            "namespace": info["namespace"],
            "name": info["name"],
            "class_name": info["class"],
            "node_id": daemon.node_id,
            "state": _STATES.get(record.state, RESTARTING if record.restarts else PENDING),
            "incarnation": record.incarnation,
            "restarts_left": record.restarts_left,
            "restarts": record.restarts,
            "detached": info["detached"],
            "job_id": record.owner_job,
            "driver_node": facts["job"]["node"],
            "placement": info["placement"] if record.group is None else {},
            "strategy": msgpack.packb(info["constraints"]) if info["constraints"] else b"",
            "info": _packed(record, facts) if again else b"",
            "reason": record.final or record.obstacle,
            "details": msgpack.packb(record.details) if record.state == DEAD else b"",
        }

    def find(self, what: dict[str, Any], then: Callable[[dict[str, Any] | None, str], None]) -> None:
        """Ask the head for an actor, by id or by name; ``then`` gets None if there is none, or with why the head did not say.

        This node is told of changes from then on, unless ``what`` says that another one is ("node_id", "": none).
        """

        def answered(ok: bool, answer: Any) -> None:
            then(answer["actor"] if ok and answer["known"] else None, "" if ok else str(answer))
            self._side.flush()

        self._daemon.head.call("FindActor", {"node_id": self._daemon.node_id, **what}, answered)

    # --- names ---

    def claim(
        self, actor_id: bytes, info: dict[str, Any], job_id: str, then: Callable[[Any, str], None]
    ) -> None:
        """Have the head give a name to an actor that is to be made here.

        ``then`` gets the actor that has the name (this one, if it was free) and "", or None and why the head did not say.
        """
        daemon = self._daemon
        row = {
            "actor_id": actor_id,
            "namespace": info["namespace"],
            "name": info["name"],
            "class_name": info["class"],
            "node_id": daemon.node_id,
            "detached": info["detached"],
            "job_id": job_id,
            "driver_node": daemon.lease_side.job_facts(job_id)["node"],
        }

        def answered(ok: bool, answer: Any) -> None:
            self._claiming.discard(actor_id)
            then(answer["actor"] if ok else None, "" if ok else str(answer))
            self._side.flush()

        self._claiming.add(actor_id)
        daemon.head.call("ClaimActor", {"actor": row}, answered)

    def unclaim(self, actor_id: bytes, info: dict[str, Any]) -> None:
        """The actor that got a name is not made after all."""
        self._report_dead(actor_id, info, "it was not made")

    def _report_dead(self, actor_id: bytes, info: dict[str, Any], reason: str) -> None:
        row = {"actor_id": actor_id, "namespace": info["namespace"], "name": info["name"], "state": DEAD}
        self._daemon.head.report_actors([{**row, "node_id": self._daemon.node_id, "reason": reason}])

    def named(
        self, namespace: str, name: str, proc: bytes, then: Callable[[bytes | None, bytes, str], None]
    ) -> None:
        """Have ``proc`` given a hold on the actor of a name that another node hosts.

        ``then`` gets its id, or None if there is none, its table, and why it is not known if there is one, or how it is reached.
        """
        until = self.patience()

        def find() -> None:
            self.find({"namespace": namespace, "name": name}, found)

        def found(actor: dict[str, Any] | None, problem: str) -> None:
            if actor is None:
                then(None, b"", f"the head does not say: {problem}" if problem else "")
                return
            actor_id, node_id = actor["actor_id"], actor["node_id"]

            def given(table: bytes | None) -> None:
                if table is None:
                    then(None, b"", "")
                elif table or not self.again(until, find):
                    then(actor_id, table, "" if table else "it is on a node that does not answer")

            if node_id:
                self.get(node_id, actor_id, proc, given)
            else:  # no node has what it needs, for now
                given(b"")

        find()

    def patience(self) -> float:
        """Until when an actor that the head knows, and its host does not, is looked for."""
        return self._daemon.loop.now() + self._daemon.config.actor_unknown_ms / 1000

    def again(self, until: float, ask: Callable[[], None]) -> bool:
        """Have the head asked again in a while; False, and nothing, if ``until`` is over."""
        loop = self._daemon.loop
        if loop.now() >= until:
            return False
        loop.call_later(self._daemon.config.actor_ask_again_ms / 1000, ask)
        return True

    def get(self, node_id: str, actor_id: bytes, proc: bytes, then: Callable[[bytes | None], None]) -> None:
        """Have the host of an actor give ``proc`` a hold on it.

        ``then`` gets its table; None if the actor has ended there; b"" if that node does not know it (the head can hear of
        a host before the host does), has died, or does not answer. A node that is slow is not one that does not host it.
        """
        if node_id == self._daemon.node_id:
            then(self._give_here(actor_id, proc))
            return
        self._numbers += 1
        self._gives[self._numbers] = (node_id, then)
        self._daemon.peers.send(node_id, [m.P_ACTOR_GIVE, self._numbers, actor_id, proc])
        timeout_s = self._daemon.config.actor_give_ms_max / 1000
        self._daemon.loop.call_later(timeout_s, partial(self._given, node_id, self._numbers, b""))

    def _give_here(self, actor_id: bytes, proc: bytes) -> bytes | None:
        self._side.end_unheld(self._daemon.loop.now())
        record = self._core.actors.get(actor_id)
        if actor_id in self._core.dead or (record is not None and record.final):
            return None
        if record is None:
            return b""
        self._side.hold(proc, actor_id)
        return bytes(record.info["table"])

    def _give(self, node_id: str, number: int, actor_id: bytes, proc: bytes) -> None:
        self._daemon.peers.send(node_id, [m.P_ACTOR_GIVEN, number, self._give_here(actor_id, proc)])

    def _given(self, node_id: str, number: int, table: bytes | None) -> None:
        asked, then = self._gives.get(number, ("", None))
        if then is not None and asked == node_id:
            del self._gives[number]
            then(table)

    # --- the turn ---

    def turn(self, now: float) -> float | None:
        """Returns when to look again."""
        due = self.away.tick(now) if self.away.actors else None
        self.flush()
        return due

    def flush(self) -> None:
        """Carry out what the core has decided."""
        daemon = self._daemon
        while self.away.outbox:
            effects, self.away.outbox = self.away.outbox, []
            for kind, subject, *rest in effects:
                if kind == "ask":
                    self._ask(subject)
                elif kind == "peer":
                    daemon.peers.send(subject, rest[0])
                else:
                    client = daemon.clients.get(subject)
                    if client is not None:
                        client.sock.send(rest[0])

    def _ask(self, actor_id: bytes) -> None:
        daemon = self._daemon

        def answered(ok: bool, answer: Any) -> None:
            if not ok:
                self.away.not_heard(actor_id, daemon.loop.now())
            else:
                self._found(actor_id, answer["actor"] if answer["known"] else None)
            self._side.flush()

        daemon.head.call("FindActor", {"actor_id": actor_id, "node_id": daemon.node_id}, answered)

    def adopt(self, actor_id: bytes) -> None:
        """An actor that was looked for elsewhere is here: whoever waits for it here is its caller."""
        for proc, (_, broken) in self.away.take_callers(actor_id).items():
            self._core.connect(proc, actor_id, broken, self._daemon.loop.now())


def _packed(record: ActorRecord, facts: dict[str, Any]) -> bytes:
    """What another host makes the actor from."""
    return bytes(msgpack.packb({"info": record.info, "facts": facts}))

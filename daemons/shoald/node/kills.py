"""Kills of actors, as the daemon's shell carries them: to the host at once, and to the head for good. Decides nothing.

A kill takes two ways. The fast one goes straight to the host, if this node knows it, or to where the head says it is. The sure
one is a report to the head (`shoald.head.actors`): the link sends it until it is acknowledged, whatever becomes of the host, the
connections and the head meanwhile; then the actor is dead to everyone, and the head sees to it that whoever has it ends it.

The killer is answered when its kill cannot get lost any more: at once for an actor that ends on this node and that the head
never heard of; else when the head has made it durable, but after `actor_kill_ms_max` also without: the killer's node then goes
on telling the head, and only its own death before that can undo a kill that did not reach the host either. A head that did
not answer one killer in time is waited for by no other until it does.

A kill that is a restart (`no_restart` False) takes the fast way only: if the host dies the process is replaced anyway.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from shoal.ids import OBJECT_ID_SIZE
from shoal.wire import messages as m
from shoald.node.actorinfo import kill_reason
from shoald.node.actors import DEAD
from shoald.store.errors import ProtocolError

if TYPE_CHECKING:
    from collections.abc import Callable

    from shoald.node.actorcluster import ActorCluster
    from shoald.node.actorside import ActorSide
    from shoald.node.clients import Client
    from shoald.node.daemon import NodeDaemon


class Kills:
    """The kills that pass through one daemon.

    Attributes:
        head_is_silent: the head did not answer the last one that waited for it in time.
    """

    def __init__(self, daemon: NodeDaemon, side: ActorSide, cluster: ActorCluster) -> None:
        self._daemon = daemon
        self._side = side
        self._core = side.core
        self._cluster = cluster
        self.head_is_silent = False
        self._unanswered: set[tuple[bytes, int]] = set()  # (process, its request) that wait for the head

    def asked(self, client: Client, req: Any, actor_id: Any, no_restart: bool) -> None:
        """KILL_ACTOR."""
        if type(req) is not int or type(actor_id) is not bytes or len(actor_id) != OBJECT_ID_SIZE:
            raise ProtocolError("a kill needs a number and an actor")
        daemon = self._daemon
        what = self._side.name_of(client.worker_id) or f"{client.kind} {client.pid}"
        reason = kill_reason(no_restart, f"{what} on node {daemon.node_id[:8]}")
        tells = no_restart and self._head_may_know(actor_id)
        self._at_once(actor_id, no_restart, reason)
        if not tells:
            self._answer(client, req, confirmed=True)
            return
        key = client.proc, req
        self._unanswered.add(key)
        daemon.head.report_kill(actor_id, reason, partial(self._confirmed, client, key))
        if self.head_is_silent:
            self._too_late(client, key)
        else:
            daemon.loop.call_later(
                daemon.config.actor_kill_ms_max / 1000, partial(self._too_late, client, key)
            )

    def _head_may_know(self, actor_id: bytes) -> bool:
        """Whether the head knows an actor, or will: else it can neither be elsewhere, nor start again there."""
        if not self._daemon.head.settled or actor_id in self._core.dead:
            return False
        record = self._core.actors.get(actor_id)
        return record is None or self._cluster.tells_of(record)

    def _confirmed(self, client: Client, key: tuple[bytes, int]) -> None:
        self.head_is_silent = False
        if key in self._unanswered:
            self._unanswered.discard(key)
            self._answer(client, key[1], confirmed=True)

    def _too_late(self, client: Client, key: tuple[bytes, int]) -> None:
        if key in self._unanswered:
            self._unanswered.discard(key)
            self.head_is_silent = True
            self._answer(client, key[1], confirmed=False)

    def _answer(self, client: Client, req: int, confirmed: bool) -> None:
        if self._daemon.clients.get(client.proc) is client:
            client.sock.send([m.RESPONSE, req, True, confirmed])

    # --- the fast way ---

    def _at_once(self, actor_id: bytes, no_restart: bool, reason: str) -> None:
        core, cluster = self._core, self._cluster
        here = actor_id in core.actors or actor_id in core.dead
        core.kill(actor_id, no_restart, self._daemon.loop.now(), reason)
        if here or cluster.alone:
            return
        away = cluster.away.actors.get(actor_id)
        if away is not None and away.node_id:
            self._daemon.peers.send(away.node_id, [m.P_ACTOR_KILL, actor_id, no_restart, reason])
        else:
            self._search(actor_id, no_restart, reason, cluster.patience())

    def _search(self, actor_id: bytes, no_restart: bool, reason: str, until: float) -> None:
        """Kill an actor where the head says it is. It may not have heard of that yet: a restart is tried again for a while."""
        daemon, core, cluster = self._daemon, self._core, self._cluster

        def found(actor: dict[str, Any] | None, _problem: str) -> None:
            if actor_id in core.actors:  # it has come here meanwhile
                core.kill(actor_id, no_restart, daemon.loop.now(), reason)
            elif actor is not None and actor["node_id"] not in ("", daemon.node_id):
                if actor["state"] != DEAD:
                    daemon.peers.send(actor["node_id"], [m.P_ACTOR_KILL, actor_id, no_restart, reason])
            elif not no_restart and (actor is None or actor["state"] != DEAD):
                cluster.again(until, partial(self._search, actor_id, no_restart, reason, until))

        cluster.find({"actor_id": actor_id}, found)

    def from_node(self, _node_id: str, actor_id: bytes, no_restart: bool, reason: str) -> None:
        """P_ACTOR_KILL: another node takes this one for the host. If it has left, or is on its way here, the head knows where."""
        core = self._core
        here = actor_id in core.actors or actor_id in core.dead
        core.kill(actor_id, bool(no_restart), self._daemon.loop.now(), str(reason))
        if not here:
            self._search(actor_id, bool(no_restart), str(reason), self._cluster.patience())

    # --- the sure way ---

    def from_head(self, actor: dict[str, Any]) -> None:
        """The head says that an actor was killed which this node hosts, or is about to be given."""
        self._core.kill(actor["actor_id"], True, self._daemon.loop.now(), actor["reason"])

    def end_if_killed(self, actor_id: bytes, then: Callable[[], None] = lambda: None) -> None:
        """The head has given the name of an actor to another one: it was killed, if the head says so. ``then`` in any case."""

        def found(actor: dict[str, Any] | None, _problem: str) -> None:
            if actor is not None and actor["state"] == DEAD:
                self.from_head(actor)
            then()

        self._cluster.find({"actor_id": actor_id, "node_id": ""}, found)

    def when_kills_are_known(self, actor_id: bytes, then: Callable[[], None]) -> None:
        """Have `then` called when this node, its host, knows whether an actor was killed before now.

        Whoever saw that, as the killer or told by the head, may be faster than the word to the host. A head that does not
        answer, or did not before, is not waited for longer than one that is told of a kill.

        A link to the head that is in order is no reason not to ask: a killer is answered when the head has made its kill
        durable, and the words to the host, of the killer's node and of the head, go over streams of their own, which may be
        behind or just be made anew. A kill that waited for the host's word instead would wait for the slowest node.
        """
        if self._cluster.alone or self.head_is_silent:
            then()
            return
        waiting = [then]

        def goes_on(silent: bool) -> None:
            if waiting:
                self.head_is_silent = silent
                waiting.pop()()
                self._side.flush()

        self.end_if_killed(actor_id, partial(goes_on, False))
        self._daemon.loop.call_later(self._daemon.config.actor_kill_ms_max / 1000, partial(goes_on, True))

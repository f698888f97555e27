"""Actors that other nodes host, as the callers on this node see them. Pure (R6).

    (asked for) → HOSTED at a node ⇄ between hosts → dead    (→ between hosts: called dead before its next host was heard)

The head knows who hosts an actor, and tells this node of changes once it has asked. Its host connects callers and tells
them of deaths, as it does for those of its own node; here it is only found, and missed when its node dies.

Events: a caller wants a connection or lets go, the head answers or tells, a host does not know an actor, a node dies.
Effects (`outbox`): ("ask", actor id), ("peer", node id, message), ("client", proc, message).

Invariants: an actor is remembered while callers here have handles to it; callers of an actor that is not hosted anywhere now
wait for the head's word, and are told why. Who was told that one is dead is remembered, within `dead_actors_max`: the head may
hear later that it lives. Who asks for what was never made is told so after `actor_unknown_ms`.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Any

import msgpack

from shoal.wire import messages as m

if TYPE_CHECKING:
    from shoal.config import Config

DEAD = "DEAD"


class AwayActor:
    """One actor that is hosted elsewhere, or that this node has not heard of.

    Attributes:
        node_id: its host; "" while that is not known.
        callers: processes here that have handles: proc → (kind, incarnation that it lost its connection to, 0: none).
        unknown_since: since when the head does not know it; None if it does, or was not asked.
        ask_at: when to ask the head again; None: it will tell.
    """

    __slots__ = ("actor_id", "ask_at", "callers", "node_id", "unknown_since")

    def __init__(self, actor_id: bytes) -> None:
        self.actor_id = actor_id
        self.node_id = ""
        self.callers: dict[bytes, tuple[str, int]] = {}
        self.unknown_since: float | None = None
        self.ask_at: float | None = None


class AwayActors:
    """All of them, for one node."""

    def __init__(self, config: Config) -> None:
        self._unknown_s = config.actor_unknown_ms / 1000
        self._again_s = config.actor_ask_again_ms / 1000
        self.actors: dict[bytes, AwayActor] = {}
        self._dead_max = config.dead_actors_max
        self._mourners: OrderedDict[bytes, dict[bytes, str]] = (
            OrderedDict()
        )  # actor → who was told: proc → kind
        self.outbox: list[tuple[Any, ...]] = []

    # --- callers ---

    def connect(self, proc: bytes, kind: str, actor_id: bytes, broken: int) -> None:
        """A process here wants to call an actor that this node does not host."""
        actor = self.actors.get(actor_id)
        if actor is None:
            actor = self.actors[actor_id] = AwayActor(actor_id)
            self.outbox.append(("ask", actor_id))
        actor.callers[proc] = (kind, broken)
        self._mourners.get(actor_id, {}).pop(proc, None)
        if actor.node_id:
            self._connect(actor, proc)

    def disconnect(self, proc: bytes, actor_id: bytes) -> None:
        """A process here has no handle any more."""
        self._mourners.get(actor_id, {}).pop(proc, None)
        actor = self.actors.get(actor_id)
        if actor is None or actor.callers.pop(proc, None) is None:
            return
        if actor.node_id:
            self.outbox.append(("peer", actor.node_id, [m.P_ACTOR_DISCONNECT, actor_id, proc]))
        if not actor.callers:
            del self.actors[actor_id]

    def client_left(self, proc: bytes) -> None:
        """A process here is gone."""
        for mourners in self._mourners.values():
            mourners.pop(proc, None)
        for actor_id in [each.actor_id for each in self.actors.values() if proc in each.callers]:
            self.disconnect(proc, actor_id)

    def take_callers(self, actor_id: bytes) -> dict[bytes, tuple[str, int]]:
        """This node hosts the actor from now on: its callers here are connected another way."""
        self._revive(actor_id)
        actor = self.actors.pop(actor_id, None)
        return actor.callers if actor is not None else {}

    def _revive(self, actor_id: bytes) -> None:
        """An actor is not dead: those who were told so are its callers again."""
        mourners = self._mourners.pop(actor_id, None)
        if mourners:
            actor = AwayActor(actor_id)
            actor.callers = {proc: (kind, 0) for proc, kind in mourners.items()}
            self._tell(actor, "restarting", {"reason": "it was called dead before its next host was heard"})
            known = self.actors.setdefault(actor_id, actor)
            known.callers = {**actor.callers, **known.callers}

    def _connect(self, actor: AwayActor, proc: bytes) -> None:
        kind, broken = actor.callers[proc]
        message = [m.P_ACTOR_CONNECT, actor.actor_id, proc, kind, broken]
        self.outbox.append(("peer", actor.node_id, message))

    # --- the head ---

    def heard(self, actor_id: bytes, found: dict[str, Any] | None, now: float) -> None:
        """The head's answer, or its word that an actor has changed; ``found``: see shoald.head.actors.Actor, None: unknown."""
        if found is not None and found["state"] != DEAD:
            self._revive(actor_id)
        actor = self.actors.get(actor_id)
        if actor is None:
            return
        actor.ask_at = None
        if found is None:
            self._not_known(actor, now)
            return
        actor.unknown_since = None
        if found["state"] == DEAD:
            details = msgpack.unpackb(found["details"]) if found["details"] else {"reason": found["reason"]}
            facts = {"name": found["name"], "class": found["class_name"], "node": found["node_id"]}
            self._dead(actor, {**facts, **details})
        elif not found["node_id"]:
            self._left(actor)
            reason = f"{found['reason']}; no node that is left has what it needs"
            self._tell(actor, "pending", {"name": found["name"], "reason": reason})
        elif found["node_id"] != actor.node_id:
            actor.node_id = found["node_id"]
            for proc in actor.callers:
                self._connect(actor, proc)

    def not_heard(self, actor_id: bytes, now: float) -> None:
        """The head did not answer: it is asked again."""
        actor = self.actors.get(actor_id)
        if actor is not None:
            actor.ask_at = now + self._again_s

    def head_is_back(self) -> None:
        """A new connection to the head: it does not know what this node wants to be told of."""
        for actor_id in self.actors:
            self.outbox.append(("ask", actor_id))

    def _not_known(self, actor: AwayActor, now: float) -> None:
        """Its creation may be on the way, by another way than the handle."""
        if actor.node_id:  # its host, which this node knows of otherwise, has not told the head yet
            actor.ask_at = now + self._again_s
            return
        if actor.unknown_since is None:
            actor.unknown_since = now
        if now >= actor.unknown_since + self._unknown_s:
            self._dead(actor, {"reason": "no node knows it: it was never made, or ended long ago"})
        else:
            actor.ask_at = now + self._again_s

    # --- hosts ---

    def not_there(self, node_id: str, actor_id: bytes, now: float) -> None:
        """A node says that it does not host this actor: not any more, or not yet."""
        actor = self.actors.get(actor_id)
        if actor is not None and actor.node_id == node_id:
            actor.node_id = ""
            actor.ask_at = now + self._again_s

    def node_died(self, node_id: str, reason: str) -> None:
        """A host is dead; the head will say where its actors go."""
        for actor in [each for each in self.actors.values() if each.node_id == node_id]:
            self._left(actor)
            self._tell(
                actor,
                "restarting",
                {"reason": f"its node died: {reason}", "node": node_id, "node_died": True},
            )
            self.outbox.append(("ask", actor.actor_id))

    def _left(self, actor: AwayActor) -> None:
        actor.node_id = ""
        actor.callers = {proc: (kind, 0) for proc, (kind, _) in actor.callers.items()}

    def _dead(self, actor: AwayActor, details: dict[str, Any]) -> None:
        self._tell(actor, "dead", details)
        del self.actors[actor.actor_id]
        mourners = self._mourners.setdefault(actor.actor_id, {})
        mourners.update({proc: kind for proc, (kind, _) in actor.callers.items()})
        if len(self._mourners) > self._dead_max:
            self._mourners.popitem(last=False)

    def _tell(self, actor: AwayActor, state: str, details: dict[str, Any]) -> None:
        for proc in actor.callers:
            self.outbox.append(("client", proc, [m.ACTOR_STATE, actor.actor_id, state, details]))

    # --- time ---

    def tick(self, now: float) -> float | None:
        """Ask again where it is due. Returns when to look again."""
        due: float | None = None
        for actor in self.actors.values():
            if actor.ask_at is None:
                continue
            if actor.ask_at <= now:
                actor.ask_at = None
                self.outbox.append(("ask", actor.actor_id))
            elif due is None or actor.ask_at < due:
                due = actor.ask_at
        return due

    def validate(self) -> None:
        """Raise AssertionError if an invariant is broken."""
        for actor_id, actor in self.actors.items():
            assert actor.actor_id == actor_id
            assert actor.callers, actor_id.hex()
            assert not (actor.node_id and actor_id in self._mourners), actor_id.hex()
        assert len(self._mourners) <= self._dead_max

"""The actor table: which node hosts an actor, who has a name, and where an actor goes whose node has died. Pure.

    PENDING → ALIVE ⇄ RESTARTING → DEAD        as its host reports it, or as its host's death makes it

A node hosts an actor: it finds the worker, restarts the process, and ends it (shoald.node.actors). The head decides what one
node cannot: a name is given once in the cluster, and an actor whose node died is given to another one while `restarts_left`
allows. Nodes that ask for an actor are told of every change until it is dead.

A kill is a fact about an actor, whoever says it, and whether the actor is known here yet: from then on it is dead, its name is
free, and it is started nowhere. Its host may not have heard: it is told, and told again whenever it speaks of the actor as
living (after a broken stream, a hand-over, a restart of either). Kills are durable, and forgotten when a host has confirmed
the end, or at their bound, the oldest first.

Nodes give actors to each other without asking the head, and the word of that may be lost: with a stream, with the head, or with
the node that gave it away. Each life of an actor has a higher `incarnation` than the one before. So a node that says that it has
an actor in a later life than is known here does, whoever was its host; a node reminds the head, in its snapshot, of whom it gave
its actors to; and who was called dead only because its former host died is not: then the nodes hear that were told of the death.
A node that speaks of an actor in an earlier life than is known here, on another node, is told so, and ends it: none lives twice.

Invariants: a name belongs to at most one actor that is not dead; an actor that is not dead has a host or is homeless
(no node has what it needs); what a node says of an actor that it does not host (any more) counts for nothing, unless it is of a
later life.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace

PENDING, ALIVE, RESTARTING, DEAD = "PENDING_CREATION", "ALIVE", "RESTARTING", "DEAD"
INCARNATIONS_PER_HOST = 2**20  # each host numbers the processes that it starts from a base of its own


@dataclass(frozen=True, slots=True)
class Actor:
    """An actor as nodes and head tell each other of it.

    Attributes:
        node_id: its host; "" while it is homeless.
        driver_node: the node of the driver whose job it belongs to.
        placement: what its host must have in all, in units of 1/10,000.
        strategy: opaque to this table; whoever chooses hosts reads it.
        info: opaque: what a host makes it from.
        details: opaque: why and how it ended, for callers.
    """

    actor_id: bytes
    namespace: str = ""
    name: str = ""
    class_name: str = ""
    node_id: str = ""
    state: str = PENDING
    incarnation: int = 0
    restarts_left: int = 0
    restarts: int = 0
    detached: bool = False
    job_id: str = ""
    driver_node: str = ""
    placement: Mapping[str, int] = field(default_factory=dict)
    strategy: bytes = b""
    info: bytes = b""
    reason: str = ""
    details: bytes = b""


@dataclass(frozen=True, slots=True)
class TellNode:
    """``node_id`` asked for this actor, and it has changed."""

    node_id: str
    actor: Actor


@dataclass(frozen=True, slots=True)
class HostActor:
    """``actor.node_id`` is to host this actor from now on."""

    actor: Actor


@dataclass(frozen=True, slots=True)
class SaveActor:
    """A named or detached actor, to be remembered across a restart of the head."""

    actor: Actor


@dataclass(frozen=True, slots=True)
class ForgetActor:
    actor_id: bytes


@dataclass(frozen=True, slots=True)
class EndActor:
    """``node_id`` may have this actor, which was killed; `reason` says by whom. If it is not dead, an earlier life of it."""

    node_id: str
    actor: Actor


@dataclass(frozen=True, slots=True)
class SaveKill:
    """An actor that was killed, to be remembered across a restart of the head."""

    actor: Actor


@dataclass(frozen=True, slots=True)
class ForgetKill:
    actor_id: bytes


ActorEffect = TellNode | HostActor | EndActor | SaveActor | ForgetActor | SaveKill | ForgetKill


class _Record:
    """An actor in the table.

    Attributes:
        confirmed: its host has said that it hosts it.
        hosts: how many it has had.
        subscribers: nodes that are told of changes.
    """

    __slots__ = ("actor", "confirmed", "hosts", "subscribers")

    def __init__(self, actor: Actor) -> None:
        self.actor = actor
        self.confirmed = False
        self.hosts = 1
        self.subscribers: set[str] = set()


class ActorTable:
    """All actors of the cluster.

    Args:
        choose_host: for an actor, the node that is to host it, or "" if none can now.
        is_live: whether a node may host actors.
        dead_max: dead actors that are remembered; beyond, the longest dead is forgotten.
        kills_max: the same for killed actors whose end no host has confirmed.
        durable, killed: what an earlier run saved.
    """

    def __init__(
        self,
        choose_host: Callable[[Actor], str],
        is_live: Callable[[str], bool],
        dead_max: int,
        durable: Iterable[Actor] = (),
        kills_max: int = 1,
        killed: Iterable[Actor] = (),
    ) -> None:
        self._choose_host = choose_host
        self._is_live = is_live
        self._dead_max = dead_max
        self._records: dict[bytes, _Record] = {}
        self._names: dict[tuple[str, str], bytes] = {}
        self._dead: OrderedDict[bytes, Actor] = OrderedDict()
        self._mourners: dict[bytes, set[str]] = {}  # dead actor → nodes that were told that it is
        self._kills_max = kills_max
        self._kills: OrderedDict[bytes, Actor] = OrderedDict((actor.actor_id, actor) for actor in killed)
        self.effects: list[ActorEffect] = []
        for actor in durable:
            self._add(actor)

    def __len__(self) -> int:
        return len(self._records)

    def take(self) -> list[ActorEffect]:
        """The effects of what happened since the last call."""
        effects, self.effects = self.effects, []
        return effects

    # --- names and questions ---

    def claim(self, actor: Actor) -> Actor:
        """An actor with a name is to be made: the actor that has the name now, which is ``actor`` itself if it was free.

        Asked again for the same actor (the answer was lost), the answer is the same.
        """
        owner = self.named(actor.namespace, actor.name)
        if owner is not None:
            return owner
        if actor.actor_id in self._kills:  # whoever makes it hears of that when it is reported
            return actor
        self._add(actor)
        self._save(actor)
        return actor

    def named(self, namespace: str, name: str) -> Actor | None:
        """The actor of that name that is not dead."""
        actor_id = self._names.get((namespace, name))
        return None if actor_id is None else self._records[actor_id].actor

    def find(self, actor_id: bytes, asker: str) -> Actor | None:
        """An actor, dead ones that are remembered included; ``asker`` is told of changes from now on ("": nobody is)."""
        record = self._records.get(actor_id)
        if record is None:
            if asker and actor_id in self._dead:
                self._mourners[actor_id].add(asker)
            return self._dead.get(actor_id) or self._kills.get(actor_id)
        if asker:
            record.subscribers.add(asker)
        return record.actor

    def all(self) -> list[Actor]:
        """Every actor, the living first, then the dead that are remembered, latest first."""
        return [record.actor for record in self._records.values()] + list(reversed(self._dead.values()))

    # --- what nodes say ---

    def reported(self, node_id: str, actors: Iterable[Actor]) -> None:
        """Changes of actors that ``node_id`` hosts; one with another node's id was handed over to that.

        A node whose actors are not known to be its own counts if what it says is the later word.
        """
        for actor in actors:
            if actor.actor_id in self._kills:
                self._killed_reported(node_id, actor)
                continue
            record = self._records.get(actor.actor_id) or self._appears(node_id, actor)
            if record is None:
                continue
            if not _counts(record.actor, node_id, actor):
                if _is_former(record.actor, node_id, actor):
                    self.effects.append(EndActor(node_id, record.actor))
                continue
            record.hosts = max(record.hosts, actor.incarnation // INCARNATIONS_PER_HOST)
            if _is_handed(node_id, actor):
                self._hand_over(record, actor)
            else:
                record.confirmed = True
                self._change(record, replace(actor, node_id=node_id))

    def _appears(self, node_id: str, actor: Actor) -> _Record | None:
        """One that is not among the living: new, or called dead before its next host was heard; None if it is dead."""
        dead = self._dead.get(actor.actor_id)
        if actor.state == DEAD:
            return None
        if dead is not None:
            if _is_handed(node_id, actor) or actor.incarnation <= dead.incarnation:
                return None
            if actor.name and (actor.namespace, actor.name) in self._names:  # given away meanwhile
                self.effects.append(EndActor(node_id, replace(dead, node_id=node_id)))
                return None
            del self._dead[actor.actor_id]
        record = self._add(replace(actor, node_id=node_id))
        record.subscribers = self._mourners.pop(actor.actor_id, set())
        self._save(record.actor)
        return record

    def _hand_over(self, record: _Record, actor: Actor) -> None:
        """Its host has given it to another node, which is told once more: what it has said so far counted for nothing."""
        if not self._is_live(actor.node_id):  # it may have run there before that died
            self._host_died(record, actor, f"its node {actor.node_id[:8]} died")
            return
        record.confirmed = False
        self._change(record, actor)
        self.effects.append(HostActor(actor))

    # --- kills ---

    def kill(self, actor_id: bytes, reason: str) -> None:
        """An actor is to end for good. Again changes nothing: who was first is remembered."""
        if actor_id in self._kills:
            return
        record = self._records.get(actor_id)
        if record is not None:
            host = record.actor.node_id
            self._end(record, reason)
            if host:
                self.effects.append(EndActor(host, record.actor))
        actor = record.actor if record is not None else Actor(actor_id, state=DEAD, reason=reason)
        self._kills[actor_id] = actor
        self.effects.append(SaveKill(actor))
        if len(self._kills) > self._kills_max:
            self.effects.append(ForgetKill(self._kills.popitem(last=False)[0]))

    def _killed_reported(self, node_id: str, actor: Actor) -> None:
        """A node speaks of an actor that was killed: it has ended it, or does not know, or whom it gave it to does not."""
        killed = self._kills[actor.actor_id]
        if actor.state != DEAD:
            self.effects.append(EndActor(actor.node_id or node_id, replace(killed, node_id=node_id)))
            return
        del self._kills[actor.actor_id]
        self.effects.append(ForgetKill(actor.actor_id))
        self._remember_dead(replace(actor, node_id=node_id, info=b""))

    def snapshot(self, node_id: str, actors: Iterable[Actor]) -> None:
        """All that ``node_id`` hosts: what it hosted and does not any more has ended; what it was not told of is sent again.

        With it come those that it gave away, however long ago: of these, only who is known is not dead.
        """
        told = list(actors)
        handed = {actor.actor_id for actor in told if _is_handed(node_id, actor)}
        known = self._records.keys() | self._kills.keys()
        self.reported(
            node_id, [each for each in told if each.actor_id not in handed or each.actor_id in known]
        )
        here = {actor.actor_id for actor in told} - handed
        for record in [r for r in self._records.values() if r.actor.node_id == node_id]:
            if record.actor.actor_id in here:
                continue
            if record.confirmed:
                self._end(record, "its node does not know it any more")
            else:
                self.effects.append(HostActor(record.actor))

    def node_died(self, node_id: str, reason: str, drained: bool = False) -> None:
        """A node is dead: its actors go to other nodes, or are dead. If it ``drained``, that counts against no actor."""
        for mourners in self._mourners.values():
            mourners.discard(node_id)
        for record in list(self._records.values()):
            record.subscribers.discard(node_id)
            actor = record.actor
            if actor.node_id and actor.node_id != node_id:
                continue
            why = f"its node {node_id[:8]} died: {reason}"
            driver_died = actor.driver_node == node_id or not self._is_live(actor.driver_node)
            if actor.driver_node and driver_died and not actor.detached:
                self._end(record, f"the node of its driver died: {reason}")
            elif actor.node_id:
                self._host_died(record, actor, why, drained)

    def _host_died(self, record: _Record, actor: Actor, why: str, drained: bool = False) -> None:
        """An actor goes to another node if it may start again, and ends if not.

        One that has used its restarts up may once more if the node ``drained``: it would have moved, had there been the time.
        """
        if not actor.restarts_left and not (drained and actor.restarts and actor.info):
            self._end(record, why)
            return
        left = actor.restarts_left - (actor.restarts_left > 0 and not drained)
        restarts = actor.restarts + 1
        gone = replace(actor, node_id="", state=RESTARTING, restarts=restarts, restarts_left=left, reason=why)
        self._rehost(record, gone)

    def job_ended(self, job_id: str) -> None:
        """A driver is gone: actors of its job that have no host end here; hosts end the others themselves."""
        for record in list(self._records.values()):
            actor = record.actor
            if actor.job_id == job_id and not actor.detached and not actor.node_id:
                self._end(record, "its driver is gone")

    def nodes_changed(self) -> None:
        """There may be a host now for actors that have none."""
        for record in [record for record in self._records.values() if not record.actor.node_id]:
            self._rehost(record, record.actor)

    def _rehost(self, record: _Record, actor: Actor) -> None:
        host = self._choose_host(actor)
        record.confirmed = False
        if host:
            record.hosts += 1
            base = record.hosts * INCARNATIONS_PER_HOST
            actor = replace(actor, node_id=host, incarnation=base)
        if actor != record.actor:
            self._change(record, actor)
        if host:
            self.effects.append(HostActor(actor))

    # --- the table ---

    def _add(self, actor: Actor) -> _Record:
        record = self._records[actor.actor_id] = _Record(actor)
        record.hosts = max(1, actor.incarnation // INCARNATIONS_PER_HOST)
        if actor.name:
            self._names[actor.namespace, actor.name] = actor.actor_id
        return record

    def _change(self, record: _Record, actor: Actor) -> None:
        if actor.state == DEAD:
            self._bury(record, actor)
            return
        record.actor = actor
        self._save(actor)
        self._tell(record)

    def _end(self, record: _Record, reason: str) -> None:
        self._bury(record, replace(record.actor, state=DEAD, reason=reason))

    def _bury(self, record: _Record, actor: Actor) -> None:
        last = max(actor.incarnation, record.actor.incarnation)
        record.actor = replace(actor, info=b"", incarnation=last)
        self._tell(record)
        del self._records[actor.actor_id]
        if self._names.get((actor.namespace, actor.name)) == actor.actor_id:
            del self._names[actor.namespace, actor.name]
        if actor.name or actor.detached:
            self.effects.append(ForgetActor(actor.actor_id))
        self._remember_dead(record.actor, record.subscribers)

    def _remember_dead(self, actor: Actor, mourners: Iterable[str] = ()) -> None:
        self._dead[actor.actor_id] = actor
        self._mourners.setdefault(actor.actor_id, set()).update(mourners)
        if len(self._dead) > self._dead_max:
            del self._mourners[self._dead.popitem(last=False)[0]]

    def _save(self, actor: Actor) -> None:
        if actor.name or actor.detached:
            self.effects.append(SaveActor(actor))

    def _tell(self, record: _Record) -> None:
        for node_id in sorted(record.subscribers):
            self.effects.append(TellNode(node_id, record.actor))

    def validate(self, live_nodes: set[str]) -> None:
        """Check every invariant; raises AssertionError."""
        for actor_id, record in self._records.items():
            actor = record.actor
            assert actor.actor_id == actor_id
            assert actor.state != DEAD, actor
            assert not actor.node_id or actor.node_id in live_nodes, actor
            assert record.subscribers <= live_nodes, (actor, record.subscribers)
        for key, actor_id in self._names.items():
            actor = self._records[actor_id].actor
            # Not the other way round: a host gives a name on as soon as its actor is to end, which is told when it has.
            assert (actor.namespace, actor.name) == key, actor
        assert len(self._kills) <= self._kills_max
        assert not self._kills.keys() & self._records.keys()
        assert len(self._dead) <= self._dead_max
        assert not self._dead.keys() & self._records.keys()
        assert self._mourners.keys() == self._dead.keys()
        assert set().union(*self._mourners.values()) <= live_nodes


def _is_handed(node_id: str, actor: Actor) -> bool:
    """Whether a node says that it gave an actor to another one."""
    return actor.state != DEAD and actor.node_id not in ("", node_id)


def _counts(known: Actor, node_id: str, actor: Actor) -> bool:
    """Whether what a node says of an actor is the later word on it."""
    if known.node_id != node_id:
        return actor.incarnation > known.incarnation
    return not _is_handed(node_id, actor) or actor.incarnation >= known.incarnation


def _is_former(known: Actor, node_id: str, actor: Actor) -> bool:
    """Whether a node says that it has an actor of which another node has a later life."""
    here = actor.state != DEAD and not _is_handed(node_id, actor)
    return here and known.node_id != node_id and actor.incarnation < known.incarnation

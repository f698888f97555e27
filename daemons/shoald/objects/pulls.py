"""The pulls of one node: an object that is elsewhere is brought here once, however many ask for it. Pure.

    want → seeking ─ P_FETCHED ─→ queued → room → running → sealed        (states: objects.pull)
              │ ↑ a source is lost         │ nobody wants it
              ↓ │                          ↓
          next node, the head,          ending → gone, when no connection writes into its room
          a pause, or lost

**Who is asked.** The nodes that its stamp, its id and other nodes point to; then those that the head knows; one at a time,
until one says that it is there (a node parks the question while the object is pending). Each node's no is final, and
one that could not be reached is asked again in the next round, after a pause. Whoever is a source of the copy that was
begun helps at once: holders, and readers that have a part of it. With its last source gone, a pull seeks again, and
goes on with what it has if the next source has the same copy; another copy is begun anew.

Small objects that are wanted at once are asked for, and come, together (`parcels`).

**When.** Room comes by priority within a budget (`admission`), chunks by priority and by who is free (`lanes`).

Invariants: one pull per object; a transfer never mixes copies; a pull that has room can finish without any other; room
goes back only when no lane has a chunk of it in its hands.
"""

from __future__ import annotations

from heapq import heappop, heappush
from typing import TYPE_CHECKING, Any

from shoal.wire import messages as m
from shoald.objects.admission import Admission
from shoald.objects.checks import are_nodes, check_fetched
from shoald.objects.copies import Copy, spread, unpack_bits
from shoald.objects.effects import Broken, Effect, Failed, Grown, Locate, Note, Seal, SealParcel, Tell, Told
from shoald.objects.lanes import Lanes
from shoald.objects.parcels import Parcel, Parcels
from shoald.objects.pull import ENDING, QUEUED, ROOM, RUNNING, SEEKING, TROUBLE, WITHOUT, Facts, Pull, Source
from shoald.store.errors import ProtocolError

if TYPE_CHECKING:
    from shoal.config import Config
    from shoald.objects.surroundings import Cluster

# What became of a piece, when it is not its checksum.
GONE = -1  # the source does not have it (any more)
CORRUPT = -2  # the checksum does not fit
UNREACHED = -3  # the connection broke, or stood still


class PullCore:
    """Pulls objects to this node.

    Args:
        proc: under which the store knows the pulls.
        budget: bytes of the store that objects on their way may take.
        counters: of the store; those of fetches are counted here.
        outbox: gets the effects, in order.
        cluster: what the cluster looks like from here.
    """

    def __init__(
        self,
        proc: bytes,
        budget: int,
        config: Config,
        counters: dict[str, int],
        outbox: list[Effect],
        cluster: Cluster,
    ) -> None:
        self._config = config
        self._counters = counters
        self._cluster = cluster
        self.outbox = outbox
        self._admission = Admission(proc, budget, config, self.outbox)
        self._lanes = Lanes(config, self.outbox)
        self._parcels = Parcels(self.outbox, cluster, self._number)
        self._pulls: dict[bytes, Pull] = {}
        self._asked: dict[int, tuple[Pull, Source]] = {}
        self._timers: list[tuple[float, int, Pull]] = []
        self._done: dict[
            tuple[str, bool, bool], list[int]
        ] = {}  # (node, complete, known) → reqs to be let go of
        self._order = 0
        self._req = 0

    def __len__(self) -> int:
        parcels = sum(1 for pull in self._pulls.values() if isinstance(pull, Parcel))
        return len(self._pulls) - parcels + len(self._parcels.members)

    @property
    def receiving(self) -> bool:
        """Whether connections have chunks in their hands."""
        return bool(self._lanes.flights)

    # --- what readers want ---

    def want_all(self, wants: list[tuple[bytes, bytes, int, int | None]], now: float) -> None:
        """What readers here want that is not here, in order: (id, stamp proc, number, priority); priority None: not any more."""
        parcels, pulls = self._parcels, self._pulls
        for object_id, proc, number, priority in wants:
            alone = priority is None or priority == m.PRIORITY_ASK or object_id in pulls
            if alone or object_id in parcels.members or object_id in parcels.gathered:
                self._ask_together(now)  # in order
            elif parcels.gather(object_id, proc, number, priority):  # type: ignore[arg-type]
                continue
            if priority is None:
                self.unwant(object_id)
            else:
                self.want(object_id, proc, number, priority, now)
        self._ask_together(now)

    def _ask_together(self, now: float) -> None:
        for want in self._parcels.ask():
            self.want(*want, now)

    def want(self, object_id: bytes, proc: bytes, number: int, priority: int, now: float) -> None:
        """Somebody here wants an object that is not here; again when that is more urgent than what was said before."""
        if object_id in self._parcels.members:
            parcel = self._parcels.want(object_id, priority)
            if parcel is not None:
                self._hurry(parcel)
            return
        pull = self._pulls.get(object_id)
        if pull is None:
            self._begin(Pull(object_id, proc, number, priority, 0), now)
            return
        before, pull.priority = pull.priority, min(priority, pull.priority)
        if pull.state == ENDING:
            pull.priority = priority
            pull.state = RUNNING if pull.allocated else ROOM
            self._seek_anew(pull, now)
        elif before == m.PRIORITY_ASK != pull.priority:
            for source in list(pull.sources.values()):
                self._let_go(pull, source)
            self._seek_anew(pull, now)
        elif before != pull.priority:
            self._hurry(pull)
        if priority == m.PRIORITY_ASK and pull.copy is not None and pull.facts is not None:
            self.outbox.append(Told([pull.id], [pull.copy.size], pull.facts.flags))

    def _begin(self, pull: Pull, now: float) -> None:
        """A new pull; asks somebody, unless that was done."""
        self._order += 1
        pull.order = self._order
        self._pulls[pull.id] = pull
        for source in pull.sources.values():
            self._asked[source.req] = (pull, source)
        if not pull.sources:
            self._seek(pull, now)

    def _hurry(self, pull: Pull) -> None:
        """Its priority is higher now."""
        if pull.state == QUEUED:
            self._admission.enter(pull)
        for source in pull.sources.values():
            source.queued = False  # where it is in the queue is too late
        self._offer(pull)

    def unwant(self, object_id: bytes) -> None:
        """Nobody waits for it any more."""
        pull = self._pulls.get(object_id)
        if object_id in self._parcels.members:
            pull = self._parcels.unwant(object_id)
        if pull is not None:
            self._end(pull)

    def _end(self, pull: Pull) -> None:
        """Give the pull up, now or when its last chunk has landed."""
        for source in list(pull.sources.values()):
            self._let_go(pull, source)
        if isinstance(pull, Parcel):
            self._parcels.ended(pull)
        pull.state = ENDING
        if pull.flying or pull.rooming or self._pulls.get(pull.id) is not pull:
            return
        del self._pulls[pull.id]
        if pull.copy is not None:
            self.outbox.append(Broken(pull.copy))
            self._admission.leave(pull)

    def _fail(self, pull: Pull, kind: str, text: str) -> None:
        self.outbox.append(Failed(pull.id, kind, text))
        self._end(pull)

    def settle(self) -> None:
        """The end of a turn: ask for room and for chunks, and let go, for all that came in together."""
        self._admission.admit()
        self._lanes.pump()
        if self._done:
            for (node, complete, known), reqs in self._done.items():
                self.outbox.append(Tell(node, [m.P_FETCH_DONE, reqs, complete], known))
            self._done = {}

    # --- who has it ---

    def _seek(self, pull: Pull, now: float) -> None:
        """Nobody who has all of it is left: ask the next node, or the head, or wait, or give up."""
        cluster = self._cluster
        unknown = False
        for node in (*cluster.who(pull.id, pull.proc), *pull.referred):
            if node not in pull.verdicts and node not in pull.sources:
                lives = cluster.lives(node)
                if lives:
                    self._ask(pull, node, b"")
                    return
                unknown = unknown or lives is None
        death = cluster.death(pull.id, pull.proc)
        hopeless = not any(pull.id[8:12])  # a barrier (owner.table.hold_until): there is no such object
        if pull.located is False and not hopeless:
            pull.located = None
            self.outbox.append(Locate(pull.id))
        elif pull.located is True or hopeless:
            # Where no node is known at all, too, this node's view of the cluster is older than the question.
            unknown = unknown or not (pull.verdicts or death)
            troubled = pull.head_silent or unknown or TROUBLE in pull.verdicts.values()
            # Those who have parts may get the rest from each other.
            config = self._config
            here = cluster.is_here(pull.id, pull.proc)
            rounds = config.locate_rounds_max if here else config.pull_rounds_max
            if (troubled or pull.sources) and pull.round < rounds:
                self._pause(pull, now)
            elif not self._ask_owner(pull):
                self._fail(pull, *self._why_lost(pull, death))

    def _ask_owner(self, pull: Pull) -> bool:
        """Nobody has it; its owner may have it made again: its node is asked, without the stamp of where it was.

        And again, if the node dies on which it was made again.
        """
        if pull.final or pull.pleas >= self._config.pull_rounds_max:
            return False
        pull.pleas += 1
        pull.proc, pull.number = b"", m.NOWHERE
        for node in self._cluster.who(pull.id, b""):
            if node not in pull.sources and self._cluster.lives(node):
                pull.verdicts.pop(node, None)
                self._ask(pull, node, b"")
                return True
        return False

    def _why_lost(self, pull: Pull, death: tuple[str, str] | None) -> tuple[str, str]:
        what = f"object {pull.id.hex()} cannot be read: "
        if death is not None:
            return death[0], f"{what}{death[1]}, and no other node has a copy"
        if pull.problem is not None:
            return pull.problem
        troubled = [node[:8] for node, verdict in pull.verdicts.items() if verdict == TROUBLE]
        why = f"node {', '.join(troubled)} cannot be reached" if troubled else "no node has it"
        return "lost", f"{what}{why}"

    def _pause(self, pull: Pull, now: float) -> None:
        config = self._config
        pause_ms = min(config.reconnect_ms_min * 2**pull.round, config.reconnect_ms_max)
        pull.round += 1
        self._order += 1
        heappush(self._timers, (now + pause_ms / 1000, self._order, pull))

    def next_deadline(self) -> float | None:
        """When `tick` has something to do."""
        return self._timers[0][0] if self._timers else None

    def tick(self, now: float) -> None:
        """Pauses are over: nodes that could not be reached are tried again."""
        while self._timers and self._timers[0][0] <= now:
            pull = heappop(self._timers)[2]
            if self._pulls.get(pull.id) is pull and pull.located and not self._settled(pull):
                self._seek_anew(pull, now)

    @staticmethod
    def _settled(pull: Pull) -> bool:
        """Whether nobody has to be sought: somebody who has it all was found, or asked, or nobody wants it."""
        return pull.state == ENDING or any(source.origin for source in pull.sources.values())

    def _seek_anew(self, pull: Pull, now: float) -> None:
        """Ask again: nodes that were in trouble, and the head."""
        pull.verdicts = {node: what for node, what in pull.verdicts.items() if what == WITHOUT}
        pull.located = None if pull.located is None else False
        self._seek(pull, now)

    def located(self, object_id: bytes, nodes: list[str] | None, now: float) -> None:
        """The head's answer: who has copies, as far as it knows; None if it could not be asked."""
        pull = self._pulls.get(object_id)
        if pull is None or pull.located is not None:
            return
        pull.located = True
        pull.head_silent = nodes is None  # nobody can say that it is lost while the head cannot be asked
        pull.referred = [*dict.fromkeys([*pull.referred, *(nodes or ())])]
        if not self._settled(pull):
            self._seek(pull, now)

    def _number(self, count: int) -> int:
        first = self._req + 1
        self._req += count
        return first

    def _ask(self, pull: Pull, node: str, copy: bytes) -> None:
        req = self._number(1)
        source = pull.sources[node] = Source(node, req, pull.priority == m.PRIORITY_ASK, bool(copy))
        self._asked[req] = (pull, source)
        message = [m.P_FETCH, req, pull.id, [pull.proc], [pull.number], pull.priority, copy]
        self.outbox.append(Tell(node, message))

    def _ask_holders(self, pull: Pull, nodes: list[str]) -> None:
        """Others who have the copy, or part of it, help."""
        assert pull.copy is not None
        if pull.copy.size < self._config.relay_bytes_min:
            return
        for node in nodes:
            if len(pull.sources) >= self._config.pull_sources_max:
                return
            if node not in pull.sources and node not in pull.verdicts and self._cluster.lives(node):
                self._ask(pull, node, pull.copy.stamp)

    def _let_go(self, pull: Pull, source: Source, complete: bool = False) -> None:
        """This source is needed no longer."""
        del pull.sources[source.node]
        del self._asked[source.req]
        if pull.next is not None and pull.next[0] is source:
            pull.next = None
        if not source.ask:
            # A copy holds what it contains. Until that is known, the source's copy does, and may not be dropped.
            known = complete and pull.facts is not None and bool(pull.facts.contained)
            self._done.setdefault((source.node, complete, known), []).append(source.req)

    def _lose(self, pull: Pull, source: Source, verdict: str, now: float) -> None:
        """This source is no good; the others go on, or the next one is sought."""
        self._let_go(pull, source)
        pull.verdicts[source.node] = verdict
        if source.ready:
            self._counters["fetch_retries"] += 1
        self._find_others(pull, now)

    def _find_others(self, pull: Pull, now: float) -> None:
        """Go on without a source that was lost."""
        if isinstance(pull, Parcel):
            self._scatter(pull, now)
            return
        self._offer(pull)
        if not self._settled(pull) and (pull.copy is None or pull.copy.have != pull.copy.all):
            pull.located = None if pull.located is None else False
            self._seek(pull, now)

    def _scatter(self, parcel: Parcel, now: float) -> None:
        """It does not come: each of its objects is pulled by itself."""
        pulls = self._parcels.scatter(parcel)
        self._end(parcel)
        for pull in pulls:
            self._begin(pull, now)

    # --- what nodes say ---

    def parcelled(self, node: str, message: list[Any], now: float) -> None:
        """P_PARCEL: several are there, and come together. Raises ProtocolError."""
        parcel, rest = self._parcels.answered(node, message, self._order + 1)
        if parcel is not None:
            self._begin(parcel, now)
            if parcel.left:
                self._admission.enter(parcel)
            else:
                self._end(parcel)
        for pull in rest:
            self._begin(pull, now)

    def _question(self, node: str, req: int) -> tuple[Pull, Source] | tuple[None, None]:
        """What a node answers; nothing if it was let go of, and the node has been told. Raises ProtocolError."""
        pull, source = self._asked.get(req, (None, None))
        if pull is None or source is None or source.node != node:
            return None, None
        if isinstance(pull, Parcel):
            raise ProtocolError(f"question {req} was answered by a P_PARCEL")
        return pull, source

    def fetched(self, node: str, message: list[Any], now: float) -> None:
        """P_FETCHED: it is there. Raises ProtocolError."""
        check_fetched(message)
        _, req, size, flags, contained, stamp, callsite, content_hash, chunk, have, order, holders = message
        pull, source = self._question(node, req)
        if pull is None or source is None:
            return
        if source.ask:
            self.outbox.append(Told([pull.id], [size], flags))
            if pull.priority == m.PRIORITY_ASK:
                self._end(pull)
            return
        if pull.copy is None:
            pull.copy = Copy(pull.id, stamp, size, chunk)
            pull.facts = Facts(flags, contained, callsite, content_hash)
            pull.missing = pull.copy.all
            pull.start = spread(order, pull.copy.chunks)
            self.outbox.append(Told([pull.id], [size], flags))
        elif stamp != pull.copy.stamp or (size, chunk) != (pull.copy.size, pull.copy.chunk):
            self._another_copy(pull, source, message, now)
            return
        source.ready = True
        source.have = unpack_bits(have, pull.copy.chunks) if have else pull.copy.all
        source.origin = source.origin or source.have == pull.copy.all
        self._ask_holders(pull, holders)
        if pull.state == SEEKING:
            self._admission.enter(pull)
        elif pull.state == RUNNING:
            self._offer(pull)

    def _another_copy(self, pull: Pull, source: Source, message: list[Any], now: float) -> None:
        """Two runs may have made different bytes: what has come of the old copy is of use only with the old copy."""
        if any(other is not source for other in pull.sources.values()):
            self._let_go(pull, source)
            pull.verdicts[source.node] = TROUBLE  # it is of use when nobody else is left
        elif pull.flying or pull.state == ROOM:
            pull.next = (source, message)
        else:
            assert pull.copy is not None
            self.outbox.append(Broken(pull.copy))
            self._admission.leave(pull)
            pull.copy = pull.facts = None
            pull.told = 0
            pull.state = SEEKING
            self.fetched(source.node, message, now)

    def failed(self, node: str, message: list[Any], now: float) -> None:
        """P_FETCH_FAILED: it is not there, or not any more. Raises ProtocolError."""
        _, req, kind, text, nodes = message
        if type(kind) is not str or type(text) is not str or not are_nodes(nodes):
            raise ProtocolError("malformed P_FETCH_FAILED")
        pull, source = self._question(node, req)
        if pull is None or source is None:
            return
        pull.referred = [*dict.fromkeys([*pull.referred, *nodes])]
        pull.final = pull.final or (kind != "elsewhere" and pull.pleas > 0)
        if kind != "elsewhere" and pull.problem is None and not source.relay:
            pull.problem = (kind, text)
        self._lose(pull, source, WITHOUT, now)

    def chunks(self, node: str, message: list[Any]) -> None:
        """P_CHUNKS: a source that has a part has more of it. Raises ProtocolError."""
        _, req, have = message
        if type(have) is not bytes:
            raise ProtocolError("malformed P_CHUNKS")
        pull, source = self._question(node, req)
        if pull is not None and source is not None and pull.copy is not None:
            source.have |= unpack_bits(have, pull.copy.chunks)
            source.origin = source.origin or source.have == pull.copy.all
            if pull.state == RUNNING:
                self._lanes.offer(pull, source)

    def holders(self, node: str, message: list[Any]) -> None:
        """P_HOLDERS: others read the same copy. Raises ProtocolError."""
        _, req, nodes = message
        if not are_nodes(nodes):
            raise ProtocolError("malformed P_HOLDERS")
        pull, source = self._question(node, req)
        if pull is not None and source is not None and pull.copy is not None:
            self._ask_holders(pull, nodes)

    def node_dead(self, node: str, now: float) -> None:
        """A node is dead. What its connections have in their hands lands by itself."""
        for pull in list(self._pulls.values()):
            pull.verdicts.pop(node, None)  # `who` does not name it any more
            source = pull.sources.get(node)
            if source is not None:
                self._let_go(pull, source)
                self._counters["fetch_retries"] += source.ready
                self._find_others(pull, now)
        for pull in self._parcels.node_dead(node):
            self._begin(pull, now)
        self._lanes.forget(node)

    # --- room and chunks ---

    def room(self, number: int, offset: int, length: int, now: float) -> None:
        """EXTENT: the store has leased room."""
        for pull in self._admission.granted(number, offset, length):
            if pull.state == ENDING:
                self._end(pull)
                continue
            pull.state = RUNNING
            self._go_on(pull, now)

    def no_room(self, number: int, kind: str, text: str, now: float) -> None:
        """ALLOC_FAILED: ``kind`` "full" may be better later, "never" is not."""
        for pull in self._admission.refused(number):
            if pull.state == ENDING:
                self._end(pull)
            elif isinstance(pull, Parcel):  # there may be room for each of it
                self._scatter(pull, now)
            elif kind == "never" or pull.tries >= self._config.pull_room_tries_max:
                pull.state = QUEUED
                self._fail(pull, "full", text)
            else:
                self._admission.enter(pull)

    def landed(self, number: int, outcomes: list[int], reason: str, now: float) -> None:
        """A lane is done with a request: a checksum for each piece, or GONE, CORRUPT, UNREACHED, with the reason for people."""
        flight = self._lanes.landed(number)
        lost: dict[int, tuple[Pull, Source, int]] = {}
        touched: dict[Pull, None] = {}
        for (pull, source, chunk), outcome in zip(flight.pieces, outcomes, strict=True):
            touched[pull] = None
            assert pull.copy is not None
            if outcome >= 0:
                self._arrived(pull, source, chunk, outcome)
            else:
                pull.missing |= 1 << chunk
                lost[source.req] = (pull, source, outcome)
        for pull, source, outcome in lost.values():
            if pull.sources.get(source.node) is source:
                self.outbox.append(
                    Note(f"{source.node[:8]} is no source of {pull.id.hex()} any more: {reason}")
                )
                self._lose(pull, source, TROUBLE if outcome == UNREACHED else WITHOUT, now)
        for pull in touched:
            self._go_on(pull, now)

    def _arrived(self, pull: Pull, source: Source, chunk: int, checksum: int) -> None:
        copy = pull.copy
        assert copy is not None
        copy.sums[chunk] = checksum
        copy.have |= 1 << chunk
        size = sum(pull.sizes) if isinstance(pull, Parcel) else copy.place(chunk)[1]
        self._counters["fetched_bytes"] += size
        self._counters["fetched_from_relays"] += source.relay

    def _go_on(self, pull: Pull, now: float) -> None:
        """Something has changed for a pull that has room."""
        copy = pull.copy
        if pull.state == ENDING:
            if not pull.flying:
                self._end(pull)
        elif pull.state != RUNNING or copy is None:
            return
        elif copy.have == copy.all:
            self._finish(pull, now)
        elif pull.next is not None:
            if not pull.flying:
                (source, message), pull.next = pull.next, None
                self._another_copy(pull, source, message, now)
        else:
            self._offer(pull)
            if copy.have.bit_count() - pull.told >= max(1, copy.chunks // self._config.relay_parts):
                pull.told = copy.have.bit_count()
                self.outbox.append(Grown(copy))

    def _finish(self, pull: Pull, now: float) -> None:
        """All of it is here."""
        assert pull.copy is not None
        assert not pull.flying, pull
        if isinstance(pull, Parcel):
            self.outbox.append(SealParcel(pull))
            self._parcels.ended(pull)
            self._counters["fetches"] += len(pull.ids)
        else:
            facts = pull.facts
            assert facts is not None
            seal = Seal(pull.copy, facts.flags, facts.contained, facts.callsite, facts.content_hash)
            self.outbox.append(seal)
            self._counters["fetches"] += 1
        del self._pulls[pull.id]
        for source in list(pull.sources.values()):
            self._let_go(pull, source, complete=True)
        pull.state = ENDING
        self._admission.used(pull)

    def _offer(self, pull: Pull) -> None:
        if pull.state == RUNNING and pull.next is None:
            for source in list(pull.sources.values()):
                self._lanes.offer(pull, source)

    # --- for the other side, and for people ---

    def part(self, object_id: bytes, stamp: bytes) -> tuple[Copy, Facts] | None:
        """What is here of a copy that is on its way."""
        pull = self._pulls.get(object_id)
        if pull is None or pull.state != RUNNING or pull.copy is None or pull.facts is None:
            return None
        return (pull.copy, pull.facts) if pull.copy.stamp == stamp and pull.next is None else None

    def story(self, wanted: str) -> list[str]:
        """For people: how far the objects have come whose ids (hex) begin with ``wanted``."""
        pulls = [pull.story() for pull in self._pulls.values() if pull.id.hex().startswith(wanted)]
        return pulls + self._parcels.story(wanted)

    def validate(self) -> None:
        """Check every invariant; raises AssertionError."""
        self._lanes.validate()
        self._parcels.validate(self._pulls)
        self._admission.validate(sum(pull.allocated for pull in self._pulls.values()))
        waiting = {pull for _, _, pull in self._timers}
        for object_id, pull in self._pulls.items():
            assert pull.id == object_id
            if pull.copy is not None:
                assert not pull.missing & pull.copy.have, pull
                known = pull.missing.bit_count() + pull.copy.have.bit_count() + pull.flying
                assert known == pull.copy.chunks, f"{pull} has lost a chunk"
                assert (pull.copy.offset >= 0) == bool(pull.allocated), pull
            assert pull.state != RUNNING or pull.allocated, pull
            assert not pull.allocated or pull.state in (RUNNING, ENDING), pull
            if not self._settled(pull):
                lands = pull.flying and not pull.missing
                assert pull.located is None or pull in waiting or lands, f"{pull} waits for nothing"
        assert self._asked == {
            source.req: (pull, source) for pull in self._pulls.values() for source in pull.sources.values()
        }

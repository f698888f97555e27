"""The pulls of one node: an object that is elsewhere is brought here once, however many ask for it. Pure.

    want → seeking ─ P_FETCHED ─→ queued → room → running → sealed        (states: objects.pull)
              │ ↑ a source is lost         │ nobody wants it
              ↓ │                          ↓
          next node, the head,          ending → gone, when no connection writes into its room
          a pause, or lost

**Who is asked.** One node at a time (`seeking`), until one says that it is there (a node parks the question while the object is
pending). Whoever is a source of the copy that was begun helps at once: holders, and readers that have a part of it. With its
last source gone, a pull seeks again, and goes on with what it has if the next source has the same copy; another copy is begun
anew. When nobody has it, and its owner is to have it made again, a pull keeps no room: what the object is made of may need it.

Small objects that are wanted at once are asked for, and come, together (`parcels`).

**When.** Room comes by priority within a budget (`admission`), chunks by priority and by who is free (`lanes`). What no
room was made for, after all that relief does, or soon when all is in use, is received into a file that the store lends (`lent`).

Invariants: one pull per object; a transfer never mixes copies; a pull that has room can finish without any other; room
goes back only when no lane has a chunk of it in its hands.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from shoal.wire import messages as m
from shoald.objects.admission import Admission
from shoald.objects.checks import are_nodes, check_fetched
from shoald.objects.copies import Copy, spread, unpack_bits
from shoald.objects.effects import Broken, Effect, Failed, Grown, Note, Seal, SealParcel, Sum, Tell, Told
from shoald.objects.lanes import Lanes
from shoald.objects.lent import LentFiles
from shoald.objects.parcels import Parcel, Parcels
from shoald.objects.pull import ENDING, QUEUED, ROOM, RUNNING, SEEKING, TROUBLE, WITHOUT, Facts, Pull, Source
from shoald.objects.seeking import Seeking
from shoald.store.errors import ProtocolError

if TYPE_CHECKING:
    from shoal.config import Config
    from shoald.objects.surroundings import Cluster

# What became of a piece, when it is not its checksum.
GONE = -1  # the source does not have it (any more)
CORRUPT = -2  # the checksum does not fit
UNREACHED = -3  # the connection broke, or stood still
UNWRITTEN = -4  # the file that it was to lie in took it not
STALLED = -5  # nor said so: the write hangs, and `PullCore.write_ended` follows when it ends


class PullCore(Seeking):
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
        super().__init__(config, outbox, cluster)
        self._counters = counters
        self._admission = Admission(proc, budget, config, self.outbox)
        self._files = LentFiles(proc, config, self.outbox, self._admission.number)
        self._lanes = Lanes(config, self.outbox)
        self._parcels = Parcels(self.outbox, cluster, self._number, self._out_of_reach)

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
            pull.state = RUNNING if pull.placed and not pull.trouble else ROOM
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
            self._files.leave(pull)
            self._admission.leave(pull)

    def _fail(self, pull: Pull, kind: str, text: str) -> None:
        self.outbox.append(Failed(pull.id, kind, text))
        self._end(pull)

    def settle(self) -> None:
        """The end of a turn: ask for room and for chunks, and let go, for all that came in together."""
        self._admission.admit()
        self._files.ask()
        self._lanes.pump()
        self._look_up()
        if self._done:
            for (node, complete, known), reqs in self._done.items():
                self.outbox.append(Tell(node, [m.P_FETCH_DONE, reqs, complete], known))
            self._done = {}

    # --- who has it ---

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
        if not pull.settled and (pull.copy is None or pull.copy.have != pull.copy.all):
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
        source.out_of_reach = False
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
        pull.disowned = False
        source.have = unpack_bits(have, pull.copy.chunks) if have else pull.copy.all
        source.origin = source.origin or source.have == pull.copy.all
        self._ask_holders(pull, holders)
        if pull.state == SEEKING:
            self._admission.enter(pull)
        elif pull.state == RUNNING:
            self._offer(pull)

    def _another_copy(self, pull: Pull, source: Source, message: list[Any], now: float) -> None:
        """Two runs may have made different bytes: what has come of the old copy is of use only with the old copy."""
        if any(other is not source and not other.out_of_reach for other in pull.sources.values()):
            self._let_go(pull, source)
            pull.verdicts[source.node] = TROUBLE  # it is of use when nobody else is left
        elif pull.flying or pull.state == ROOM:
            pull.next = (source, message)
        else:
            self._forget_copy(pull)
            self.fetched(source.node, message, now)

    def _forget_copy(self, pull: Pull) -> None:
        """What has come of the copy that was begun is of no use. No connection writes for it, and no room was asked for."""
        assert pull.copy is not None
        self.outbox.append(Broken(pull.copy))
        self._files.leave(pull)
        self._admission.leave(pull)
        pull.copy = pull.facts = None
        pull.told = 0
        pull.disowned = False
        pull.state = SEEKING

    def _disown(self, pull: Pull) -> None:
        """Its room goes back as soon as that is possible: what the object is made of may need it."""
        if pull.copy is None or pull.copy.have == pull.copy.all:
            return
        for source in [each for each in pull.sources.values() if each.relay]:
            self._let_go(pull, source)  # all of them have only parts
        if pull.flying or pull.state == ROOM:
            pull.disowned = True
        else:
            self._forget_copy(pull)

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

    def waits_for(self, node: str) -> bool:
        """Whether a node has been asked for something, and has not answered."""
        alone = any(source.node == node and not source.ready for _, source in self._asked.values())
        return alone or self._parcels.waits_for(node)

    def unreachable(self, node: str, now: float) -> None:
        """No connection to a living node can be made: what it was asked for is sought elsewhere too. Idempotent."""
        self._out_of_reach.add(node)
        for pull in list(self._pulls.values()):
            source = pull.sources.get(node)
            if source is not None and not source.ready and not source.out_of_reach:
                source.out_of_reach = True
                self._find_others(pull, now)
        for pull in self._parcels.unreachable(node):
            self._begin(pull, now)

    def reached(self, node: str) -> None:
        """There is a connection to it again, over which it answers what it was asked."""
        self._out_of_reach.discard(node)
        for pull in self._pulls.values():
            if node in pull.sources:
                pull.sources[node].out_of_reach = False

    def node_dead(self, node: str, now: float) -> None:
        """A node is dead. What its connections have in their hands lands by itself."""
        self._out_of_reach.discard(node)
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
        """ALLOC_FAILED: ``kind`` "full" may be better later, "never" is not; "file": a file can be had at once."""
        fileless = self._files.refused(number)
        if fileless is not None:
            self._without_file(fileless, kind, text)
            return
        group = self._admission.refused(number, waited=kind != "file")
        for pull in group:
            if pull.state == ENDING:
                self._end(pull)
            elif isinstance(pull, Parcel):  # there may be room for each of it
                self._scatter(pull, now)
            elif len(group) > 1:  # or for each of these
                self._admission.enter(pull)
            else:
                pull.room_problem = kind, text
                self._files.enter(pull)

    def _without_file(self, pull: Pull, kind: str, text: str, spoiled: bool = False) -> None:
        """There is no room, and no file, or a ``spoiled`` one: both may be better later, but room never if it is too large."""
        why, full = pull.room_problem
        if pull.state == ENDING:
            self._end(pull)
        elif (why == "never" and not spoiled) or pull.tries >= self._config.pull_room_tries_max:
            pull.state = QUEUED
            if kind == "disk":
                self._fail(pull, "disk", f"{full} {text}")
            else:
                self._fail(pull, "full", full)
        elif why == "never":
            pull.state = ROOM
            self._files.enter(pull)
        else:
            pull.is_patient = True
            self._admission.enter(pull)

    def lent(self, number: int, file: int, path: str, now: float) -> None:
        """FILE_LENT: what there was no room for is received into this file."""
        pull = self._files.lent(number, file, path)
        if pull.state == ENDING:
            self._end(pull)
            return
        pull.state = RUNNING
        self._go_on(pull, now)

    def summed(self, object_id: bytes, file: int, outcome: int, reason: str, now: float) -> None:
        """The file that has all of an object was read through: its checksum, or STALLED or UNWRITTEN with the reason."""
        pull = self._pulls.get(object_id)
        if pull is None or pull.file != file:
            return  # it was given up meanwhile
        if outcome >= 0:
            self._finish(pull, now, outcome)
        else:
            self._spoil(pull, outcome, reason)
            self._go_on(pull, now)

    def write_ended(self, file: int) -> None:
        """What hung at a file (outcome STALLED) has ended."""
        self._files.ended(file)

    def _spoil(self, pull: Pull, outcome: int, reason: str) -> None:
        """The pull's file takes nothing more."""
        if outcome == STALLED:
            self._files.stalled(pull, int(self._config.pull_stall_ms))
        pull.trouble = reason
        if pull.state == RUNNING:
            pull.state = ROOM

    def _begin_anew(self, pull: Pull) -> None:
        """What has come lies in a file that is no good: from the first chunk on again, wherever there is room then."""
        copy, reason = pull.copy, pull.trouble
        assert copy is not None
        self._files.leave(pull)
        copy.offset = -1
        copy.have = 0
        pull.missing = copy.all
        pull.trouble = ""
        pull.tries += 1
        self.outbox.append(Note(f"{pull.id.hex()} could not be received into a file: {reason}"))
        self._without_file(pull, "disk", reason, spoiled=True)

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
                if outcome in (STALLED, UNWRITTEN):
                    self._spoil(pull, outcome, reason)
                else:
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
        elif pull.trouble:
            if not pull.flying:
                self._begin_anew(pull)
        elif pull.state != RUNNING or copy is None:
            return
        elif copy.have == copy.all:
            if pull.file:
                self.outbox.append(Sum(pull.id, pull.file, pull.path, copy.size))
            else:
                self._finish(pull, now)
        elif pull.next is not None:
            if not pull.flying:
                (source, message), pull.next = pull.next, None
                self._another_copy(pull, source, message, now)
        elif pull.disowned:
            if not pull.flying:
                self._forget_copy(pull)
        else:
            self._offer(pull)
            if not pull.file and copy.have.bit_count() - pull.told >= max(
                1, copy.chunks // self._config.relay_parts
            ):
                pull.told = copy.have.bit_count()
                self.outbox.append(Grown(copy))

    def _finish(self, pull: Pull, now: float, checksum: int = 0) -> None:
        """All of it is here; ``checksum``: of all, if it is in a file."""
        assert pull.copy is not None
        assert not pull.flying, pull
        if isinstance(pull, Parcel):
            self.outbox.append(SealParcel(pull))
            self._parcels.ended(pull)
            self._counters["fetches"] += len(pull.ids)
        else:
            facts = pull.facts
            assert facts is not None
            in_file = (pull.file, checksum) if pull.file else None
            self.outbox.append(
                Seal(pull.copy, facts.flags, facts.contained, facts.callsite, facts.content_hash, in_file)
            )
            self._counters["fetches"] += 1
            if pull.file:
                self._counters["fetched_into_files"] += 1
                self._files.sealed(pull)
        del self._pulls[pull.id]
        for source in list(pull.sources.values()):
            self._let_go(pull, source, complete=source.ready or source.relay)
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
        if pull is None or pull.state != RUNNING or pull.file or pull.copy is None or pull.facts is None:
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
        self._files.validate(list(self._pulls.values()))
        waiting = {pull for _, _, pull in self._timers}
        for object_id, pull in self._pulls.items():
            assert pull.id == object_id
            pull.check(pull in waiting)
        assert self._asked == {
            source.req: (pull, source) for pull in self._pulls.values() for source in pull.sources.values()
        }

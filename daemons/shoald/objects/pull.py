"""The records of a pull: what is wanted, who may have it, and how far it has come. Plain slots without behaviour."""

from __future__ import annotations

from typing import TYPE_CHECKING

from shoal.sizes import bytes_text

if TYPE_CHECKING:
    from shoald.objects.copies import Copy

# States of a pull.
SEEKING = "seeking"  # nobody has said yet that it is there
QUEUED = "queued"  # waits for its turn
ROOM = "room"  # room in the store was asked for
RUNNING = "running"  # chunks are on their way
ENDING = "ending"  # nobody wants it any more; a connection may still write into its room

# What a node turned out to be, for one pull.
WITHOUT = "without"  # it does not have the object, or what it sends is not what it should be
TROUBLE = "trouble"  # it could not be reached

WAITS_FOR_ROOM = "wait for room in this node's store"  # said of a pull's bytes, to people


class Source:
    """A node that was asked for the object.

    Attributes:
        req: this node's number for the question.
        ask: only whether it is there was asked.
        ready: it has answered: `have` are the chunks that may be asked of it.
        origin: it has all of the object, or will not say that it is there before it has.
        relay: it has been asked for its part of a copy.
        queued: it is in its station's queue for this pull.
        out_of_reach: it has not answered, and no connection to it can be made now. The question stays with it.
    """

    __slots__ = ("ask", "have", "node", "origin", "out_of_reach", "queued", "ready", "relay", "req")

    def __init__(self, node: str, req: int, ask: bool, relay: bool) -> None:
        self.node = node
        self.req = req
        self.ask = ask
        self.relay = relay
        self.origin = not relay
        self.ready = False
        self.have = 0
        self.queued = self.out_of_reach = False


class Facts:
    """What a source says of an object besides its bytes."""

    __slots__ = ("callsite", "contained", "content_hash", "flags")

    def __init__(self, flags: int, contained: bytes, callsite: str, content_hash: bytes) -> None:
        self.flags = flags
        self.contained = contained
        self.callsite = callsite
        self.content_hash = content_hash


class Pull:
    """One object on its way here.

    Attributes:
        proc, number: the stamp that readers quote.
        priority: the most urgent of its readers'.
        order: among pulls of one priority.
        sources: nodes asked, by id.
        verdicts: nodes that are not asked again, or not at once.
        referred: nodes that others said have it.
        located: the head has been asked in this round; None while it is being asked.
        head_silent: it could not be asked.
        round: how often all nodes have been tried; see `pull_rounds_max`.
        problem: (kind, text) of the first node that said no.
        pleas: how often the owner was asked to have it made again; final: its node's last word was no.
        copy: what is pulled, once a source has answered.
        missing: chunks that nobody has been asked for; flying: how many are in the hands of a connection.
        start: the chunk that is asked for first.
        allocated: bytes of room; 0 without.
        file, path: of the file that it is received into instead, for lack of room; 0 without.
        trouble: why that file is no good; it is given up when no connection writes to it any more.
        room_problem: (kind, text) of why there was no room.
        rooming: the store has been asked for room, and has not answered.
        alone: it shares no lease with others, since there was no room for all of them.
        tries: how often it has waited for room in vain.
        is_patient: it waits as long as anybody, since there was no file either.
        told: chunks that readers of this part know of.
        disowned: nobody has this copy; it is given up as soon as no connection writes for it any more, and its room is there.
        next: another copy that is pulled as soon as no connection writes for the old one any more: (source, message).
    """

    __slots__ = (
        "allocated",
        "alone",
        "copy",
        "disowned",
        "facts",
        "file",
        "final",
        "flying",
        "head_silent",
        "id",
        "is_patient",
        "located",
        "missing",
        "next",
        "number",
        "order",
        "path",
        "pleas",
        "priority",
        "problem",
        "proc",
        "referred",
        "room_problem",
        "rooming",
        "round",
        "sources",
        "start",
        "state",
        "told",
        "tries",
        "trouble",
        "verdicts",
    )

    def __init__(self, object_id: bytes, proc: bytes, number: int, priority: int, order: int) -> None:
        self.id = object_id
        self.proc = proc
        self.number = number
        self.priority = priority
        self.order = order
        self.state = SEEKING
        self.sources: dict[str, Source] = {}
        self.verdicts: dict[str, str] = {}
        self.referred: list[str] = []
        self.located: bool | None = False
        self.head_silent = False
        self.round = 0
        self.problem: tuple[str, str] | None = None
        self.pleas = 0
        self.final = False
        self.copy: Copy | None = None
        self.facts: Facts | None = None
        self.missing = 0
        self.flying = 0
        self.start = 0
        self.allocated = self.file = 0
        self.path = self.trouble = ""
        self.room_problem = ("full", "")
        self.rooming = self.alone = self.is_patient = self.disowned = False
        self.tries = 0
        self.told = 0
        self.next: tuple[Source, list[object]] | None = None

    @property
    def settled(self) -> bool:
        """Whether nobody has to be sought: somebody who has it all was found, or asked, or nobody wants it."""
        sources = self.sources.values()
        return self.state == ENDING or any(source.origin and not source.out_of_reach for source in sources)

    @property
    def waits(self) -> bool:
        """Whether somebody may have it who is out of reach: then it is not lost before that node is dead, or answers."""
        return any(source.out_of_reach for source in self.sources.values())

    @property
    def placed(self) -> bool:
        """Whether it has what its chunks are written to."""
        return bool(self.allocated or self.file)

    def why_lost(self, death: tuple[str, str] | None) -> tuple[str, str]:
        """(kind, text) for its readers; ``death``: of those that had it."""
        what = f"object {self.id.hex()} cannot be read: "
        if death is not None:
            return death[0], f"{what}{death[1]}, and no other node has a copy"
        if self.problem is not None:
            return self.problem
        troubled = [node[:8] for node, verdict in self.verdicts.items() if verdict == TROUBLE]
        why = f"node {', '.join(troubled)} cannot be reached" if troubled else "no node has it"
        return "lost", f"{what}{why}"

    def check(self, pauses: bool) -> None:
        """Raises AssertionError unless it can go on; ``pauses``: it will be looked at again after a pause."""
        copy = self.copy
        if copy is not None:
            assert not self.missing & copy.have, self
            known = self.missing.bit_count() + copy.have.bit_count() + self.flying
            assert known == copy.chunks, f"{self} has lost a chunk"
            assert (copy.offset >= 0) == self.placed, self
        assert not (self.allocated and self.file), self
        assert self.state != RUNNING or self.placed, self
        assert not self.allocated or self.state in (RUNNING, ENDING), self
        assert not self.file or self.state in (RUNNING, ENDING) or (self.trouble and self.flying), self
        if not self.settled:
            lands = (self.flying and not self.missing) or (self.file and not self.missing)
            assert self.located is None or pauses or lands or self.waits, f"{self} waits for nothing"

    def story(self) -> str:
        """For people: how far it has come."""
        nodes = ", ".join(sorted(node[:8] for node in self.sources))
        without = ", ".join(sorted(node[:8] for node in self.verdicts))
        if self.state == SEEKING:
            asks = f"asks node {nodes} for it" if nodes else "looks for a node that has it"
            far = ", ".join(sorted(node[:8] for node, source in self.sources.items() if source.out_of_reach))
            asks += f"; node {far} cannot be reached now" if far else ""
            return f"this node {asks}" + (f"; not at node {without}" if without else "")
        copy = self.copy
        assert copy is not None
        if self.state != RUNNING:
            return f"its {bytes_text(copy.size)} are at node {nodes}, and {WAITS_FOR_ROOM}"
        where = f"in {self.path}, since there was no room for it" if self.file else "here"
        arrived = f"{copy.have.bit_count()} of its {copy.chunks} parts are {where}"
        return f"it is being fetched from node {nodes or 'nobody'}: {arrived}"

    def __repr__(self) -> str:
        return f"<pull {self.id.hex()} {self.state}, {self.flying} flying, of {sorted(self.sources)}, {self.copy}>"

"""The records of a pull: what is wanted, who may have it, and how far it has come. Plain slots without behaviour."""

from __future__ import annotations

from typing import TYPE_CHECKING

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


class Source:
    """A node that was asked for the object.

    Attributes:
        req: this node's number for the question.
        ask: only whether it is there was asked.
        ready: it has answered: `have` are the chunks that may be asked of it.
        origin: it has all of the object, or will not say that it is there before it has.
        relay: it has been asked for its part of a copy.
        queued: it is in its station's queue for this pull.
    """

    __slots__ = ("ask", "have", "node", "origin", "queued", "ready", "relay", "req")

    def __init__(self, node: str, req: int, ask: bool, relay: bool) -> None:
        self.node = node
        self.req = req
        self.ask = ask
        self.relay = relay
        self.origin = not relay
        self.ready = False
        self.have = 0
        self.queued = False


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
        rooming: the store has been asked for room, and has not answered.
        tries: how often there was no room.
        told: chunks that readers of this part know of.
        next: another copy that is pulled as soon as no connection writes for the old one any more: (source, message).
    """

    __slots__ = (
        "allocated",
        "copy",
        "facts",
        "final",
        "flying",
        "head_silent",
        "id",
        "located",
        "missing",
        "next",
        "number",
        "order",
        "pleas",
        "priority",
        "problem",
        "proc",
        "referred",
        "rooming",
        "round",
        "sources",
        "start",
        "state",
        "told",
        "tries",
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
        self.allocated = 0
        self.rooming = False
        self.tries = 0
        self.told = 0
        self.next: tuple[Source, list[object]] | None = None

    def story(self) -> str:
        """For people: how far it has come."""
        nodes = ", ".join(sorted(node[:8] for node in self.sources))
        without = ", ".join(sorted(node[:8] for node in self.verdicts))
        if self.state == SEEKING:
            asks = f"asks node {nodes} for it" if nodes else "looks for a node that has it"
            return f"this node {asks}" + (f"; not at node {without}" if without else "")
        copy = self.copy
        assert copy is not None
        if self.state != RUNNING:
            return f"its {copy.size} bytes are at node {nodes}, and wait for room in this node's store"
        arrived = f"{copy.have.bit_count()} of its {copy.chunks} parts are here"
        return f"it is being fetched from node {nodes or 'nobody'}: {arrived}"

    def __repr__(self) -> str:
        return f"<pull {self.id.hex()} {self.state}, {self.flying} flying, of {sorted(self.sources)}, {self.copy}>"

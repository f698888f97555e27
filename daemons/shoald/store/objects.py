"""The records of the store: a stored object and its copy on disk, and a client (or forked child) that holds and pins objects.

Plain slots without behaviour: who may change what is written in the modules that do it. Each fact is
kept once where the hot path needs it. A hold lives in its holder's `holds`, and the object only counts its
holders; a pin lives with its object, and the client only remembers which objects.
"""

from __future__ import annotations

from typing import Any

from shoald.store.leases import Leased

ORIGIN_SIZE = 8  # bytes of a copy's name that say whose it is
WRITING, ON_DISK, READING, LOST = "writing", "on disk", "reading", "lost"


class StoredObject:
    """A sealed object.

    Attributes:
        id: its 16 bytes.
        offset, size: where it lies and how long it is, bytes; an offset of -1: not in the region.
        allocated: what it takes from the region when it is there, bytes: ``size`` rounded up to 64.
        flags: SEAL_* bits.
        holders: how many clients hold it at least once, plus how many containers do.
        pins: how often each client (or forked child) pins it; None when nobody does.
        recalled: nobody holds it, only pins keep it, and they have been asked for.
        asked: somebody holds it, and its pins have been asked for all the same, to make room.
        disk: its copy on disk, or what became of that; None for an object that was never spilled.
        contained: the distinct ids it holds in turn.
        content_hash: 16 bytes, or b"" when it cannot be found by content.
        callsite: where the user's code made it, for people.
        sealed_at: when, in the clock of the shell, seconds.
        copy: names these bytes among the copies on all nodes, 16 bytes, which begin with the node that sealed them; b""
            before another node asked.
        used_at: when it was sealed, or pinned last.
    """

    __slots__ = (
        "allocated",
        "asked",
        "callsite",
        "contained",
        "content_hash",
        "copy",
        "disk",
        "flags",
        "holders",
        "id",
        "offset",
        "pins",
        "recalled",
        "sealed_at",
        "size",
        "used_at",
    )

    def __init__(
        self,
        object_id: bytes,
        offset: int,
        size: int,
        allocated: int,
        contained: tuple[bytes, ...],
        flags: int,
        callsite: str,
        content_hash: bytes,
        sealed_at: float,
    ) -> None:
        self.id = object_id
        self.offset = offset
        self.size = size
        self.allocated = allocated
        self.contained = contained
        self.flags = flags
        self.callsite = callsite
        self.content_hash = content_hash
        self.copy = b""
        self.sealed_at = self.used_at = sealed_at
        self.holders = 0
        self.pins: dict[Client, int] | None = None
        self.recalled = self.asked = False
        self.disk: DiskCopy | None = None

    def __repr__(self) -> str:
        where = f"{self.size} B at {self.offset}" if self.offset >= 0 else f"{self.size} B"
        disk = f", {self.disk}" if self.disk is not None else ""
        return f"<object {self.id.hex()}, {where}, {self.holders} holders, pins {self.pins}{disk}>"


class DiskCopy:
    """What is known of an object's copy on disk.

    Attributes:
        state: WRITING (the object is in the region too), ON_DISK, READING (back into the region), LOST (and
            with it the object).
        file: where it lies; None when LOST.
        offset: where in the file, bytes.
        proof: of the object's bytes, once written (see `shoal.store.proofs`).
        reason: why it is LOST, for people.
        has_come_back: it was read back at least once.
        was_read_in_place: a client was told to read it in its file instead.
    """

    __slots__ = ("file", "has_come_back", "offset", "proof", "reason", "state", "was_read_in_place")

    def __init__(self, file: SpillFile, offset: int) -> None:
        self.state = WRITING
        self.file: SpillFile | None = file
        self.offset = offset
        self.proof = 0
        self.reason = ""
        self.has_come_back = self.was_read_in_place = False

    def __repr__(self) -> str:
        return f"disk: {self.state}" + (f" in file {self.file.number}" if self.file is not None else "")


class SpillFile:
    """A file of spilled objects.

    Attributes:
        number: names it.
        directory: the number of the directory it lies in.
        size: bytes, written or about to be.
        live: the objects in it that have not been freed, by id, each with its offset in the file.
        live_bytes: what they take of it.
        ready: it was written, and is not being rewritten.
        reads: transfers out of it under way, or a sum of it.
        shunned: rewriting it failed.
        over: the number of the spare file that it is written over; 0: of none.
        is_cached: it was written through this machine's page cache.
        is_told: somebody may look at it, or write to it, of whom `filereaders` does not know for how long.
        moves: directories that hung when they were to write what is in it.
    """

    __slots__ = (
        "directory",
        "is_cached",
        "is_told",
        "live",
        "live_bytes",
        "moves",
        "number",
        "over",
        "reads",
        "ready",
        "shunned",
        "size",
    )

    def __init__(self, number: int, directory: int) -> None:
        self.number = number
        self.directory = directory
        self.size = 0
        self.live: dict[bytes, tuple[StoredObject, int]] = {}
        self.live_bytes = 0
        self.ready = False
        self.reads = self.over = self.moves = 0
        self.shunned = self.is_cached = self.is_told = False


class Client:
    """A process that is connected, or (kind "fork") a child that only keeps its parent's pins.

    Attributes:
        proc: its 8-byte id; for a forked child b"".
        connected: whether it can be sent messages; a forked child cannot.
        info: what it said of itself: pid, kind, job_id.
        holds: id → count of its holds; negative while a release has overtaken its hold, never 0.
        debts: upper bound of how many counts are negative.
        pins: ids of the objects it pins.
        duplicates: id → extents it sealed and pinned for an object that existed already.
        leased: the parts of its leased extents that no object took yet.
        expects: ids that it announced it will seal.
        files: numbers of files that it was lent to write an object into.
        reads: its parked PIN and WATCH requests.
        processed: number of the last message of its stream that was processed.
        stamped: heap of (number, sequence, read) of whoever waits for its stream.
    """

    __slots__ = (
        "connected",
        "debts",
        "duplicates",
        "expects",
        "files",
        "holds",
        "info",
        "leased",
        "pins",
        "proc",
        "processed",
        "reads",
        "stamped",
    )

    def __init__(self, proc: bytes, info: dict[str, Any]) -> None:
        self.proc = proc
        self.connected = bool(proc)
        self.info = info
        self.holds: dict[bytes, int] = {}
        self.debts = 0
        self.pins: set[bytes] = set()
        self.duplicates: dict[bytes, list[StoredObject]] = {}
        self.leased = Leased()
        self.expects: set[bytes] = set()
        self.files: set[int] = set()
        self.reads: dict[Read, None] = {}
        self.processed = 0
        self.stamped: list[tuple[int, int, Read]] = []

    @property
    def is_process(self) -> bool:
        """Whether it is a process of this machine, not another node or part of the daemon: it says when it has closed a file."""
        return self.connected and bool(self.info.get("pid"))

    @property
    def name(self) -> str:
        """For messages to people: "worker 4711", or what it was called by `StoreCore.call`."""
        return self.info.get("name") or f"{self.info.get('kind', 'process')} {self.info.get('pid', '?')}"

    def __repr__(self) -> str:
        return f"<{self.name} {self.proc.hex()}>"


class Read:
    """A parked PIN (``req`` is its number) or WATCH (``req`` is None).

    Attributes:
        priority: how urgent it is to fetch the object if it is elsewhere (PRIORITY_*).
        stamped: it waits for a stream to be processed up to its stamp.
    """

    __slots__ = ("client", "id", "priority", "req", "stamped")

    def __init__(self, client: Client, req: int | None, object_id: bytes, priority: int) -> None:
        self.client = client
        self.req = req
        self.id = object_id
        self.priority = priority
        self.stamped = False


class Tombstones:
    """The ids of what is gone since recently, for better error messages: two generations, each bounded."""

    __slots__ = ("_limit", "_newer", "_older")

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._newer: set[bytes] = set()
        self._older: set[bytes] = set()

    def add(self, gone: bytes) -> None:
        self._newer.add(gone)
        if len(self._newer) > self._limit:
            self._older, self._newer = self._newer, set()

    def __contains__(self, gone: bytes) -> bool:
        return gone in self._newer or gone in self._older

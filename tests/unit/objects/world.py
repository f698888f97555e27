"""Nodes that fetch objects from each other: production cores, regions of bytes, and a network that a test has in its hands.

Messages between two nodes stay in order; everything else comes when the test says so. A chunk is copied when its request
*lands*; until then the reader's room and the source's bytes may change like in life.
"""

from __future__ import annotations

from collections import deque
from typing import Any
from zlib import crc32

import numpy as np

from shoal.config import Config
from shoal.ids import split_ids, tag_of
from shoal.wire import messages as m
from shoald.objects.copies import Copy
from shoald.objects.core import INTERNAL, ObjectCore
from shoald.objects.effects import Locate, Note, Receive, Sum, Tell
from shoald.objects.pulls import CORRUPT, GONE, STALLED, UNREACHED, UNWRITTEN
from shoald.store.core import StoreCore
from shoald.store.spilleffects import Lend, Read, Remove, Rewrite, Write

CHUNK = 1024
CAPACITY = 256 * 1024
FATES = {
    UNREACHED: "the connection broke",
    GONE: "it is gone",
    CORRUPT: "a wrong checksum",
    UNWRITTEN: "the disk is broken",
    STALLED: "the disk hangs",
}


class Node:
    """One node with one process of its own, `proc`, and others as they are named.

    Attributes:
        files: what its spill files have, by path; a disk does at once what the store wants of it.
        disk_full: whether it writes nothing, and lends no file.
        hanging: lent files with a write that has not ended.
    """

    def __init__(self, world: World, number: int, capacity: int = CAPACITY) -> None:
        self.world = world
        self.id = bytes([number + 1]).hex() * 16
        self.tag = tag_of(bytes.fromhex(self.id))
        self.region = bytearray(capacity)
        self.store = StoreCore(capacity, world.config, bytes.fromhex(self.id), world.directories)
        self.store.spills.locate = lambda directory, file: f"/{directory}/{file}"
        self.files: dict[str, bytearray] = {}
        self.disk_full = False
        self.hanging: list[int] = []
        self.core = ObjectCore(self.id, self.store, capacity, world.config, self)
        self.alive = True
        self.proc = self.process(1)
        self.sent: list[
            tuple[bytes, list[Any]]
        ] = []  # what the store said to processes, kept until a test looks
        self.notes: list[str] = []
        self.recovers = False  # whether processes here can have lost objects made again
        self.recovering: list[bytes] = []
        self.req = 0

    def process(self, number: int) -> bytes:
        proc = self.tag + number.to_bytes(5, "big")
        self.store.register(proc, {"pid": number, "kind": "worker", "job_id": "j"})
        return proc

    def who(self, object_id: bytes, proc: bytes) -> list[str]:
        nodes = [self._tagged(each) for each in (proc, object_id) if each]
        names = [*(node.id for node in nodes if node), *self.store.hinted(object_id)]
        return [name for name in dict.fromkeys(names) if name not in self.world.dead | {self.id}]

    def nearest(self, object_id: bytes, proc: bytes) -> str | None:
        nodes = [self._tagged(each) for each in (proc, object_id) if each]
        return next((node.id for node in nodes if node and node.id not in self.world.dead), None)

    def death(self, object_id: bytes, _proc: bytes) -> tuple[str, str] | None:
        owner = self._tagged(object_id)
        return ("owner_died", "its owner's node died") if owner and owner.id in self.world.dead else None

    def _tagged(self, named: bytes) -> Node | None:
        return next(
            (node for node in self.world.nodes if node.tag == tag_of(named) and node is not self), None
        )

    def is_here(self, object_id: bytes, proc: bytes) -> bool:
        return tag_of(object_id) == self.tag and (not proc or tag_of(proc) == self.tag)

    def origin_lives(self, copy: bytes) -> bool:
        return any(bytes.fromhex(node.id).startswith(copy[:8]) and node.alive for node in self.world.nodes)

    def lives(self, node_id: str) -> bool:
        return node_id != self.id and node_id not in self.world.dead

    # --- what processes do ---

    def send(self, *message: Any, proc: bytes | None = None) -> list[list[Any]]:
        """A message of a process to the store; what that was told since the last look."""
        self.store.handle(proc or self.proc, list(message), self.world.now)
        self.turn()
        return self.told(proc)

    def told(self, proc: bytes | None = None) -> list[list[Any]]:
        mine = [each for to, message in self.sent if to == (proc or self.proc) for each in singly(message)]
        self.sent = [entry for entry in self.sent if entry[0] != (proc or self.proc)]
        return mine

    def seal(
        self, object_id: bytes, data: bytes, contained: bytes = b"", flags: int = m.SEAL_PRIMARY
    ) -> None:
        """An object of the node's process, which holds it."""
        self.req += 1
        answers = self.send(m.ALLOC, self.req, len(data), len(data))
        (offset,) = [answer[2] for answer in answers if answer[0] == m.EXTENT]
        self.region[offset : offset + len(data)] = data
        self.send(m.SEAL, object_id, offset, len(data), contained, flags, self.proc, "here.py:1", b"")

    def pin(
        self,
        object_id: bytes,
        stamp: bytes = b"",
        number: int = 0,
        priority: int = 0,
        proc: bytes | None = None,
    ) -> list[list[Any]]:
        self.req += 1
        return self.send(m.PIN, self.req, object_id, stamp or self.proc, number, priority, proc=proc)

    def pin_together(
        self, ids: list[bytes], stamp: bytes = b"", priority: int = 0, proc: bytes | None = None
    ) -> None:
        wanted = [field for object_id in ids for field in (object_id, stamp or self.proc, 0)]
        self.send(m.PIN_TOGETHER, wanted, priority, proc=proc)

    def read(self, pinned: list[Any]) -> bytes:
        """The bytes that a PINNED names."""
        assert pinned[0] == m.PINNED, pinned
        return bytes(self.region[pinned[3] : pinned[3] + pinned[4]])

    # --- the turn ---

    def turn(self) -> None:
        self.core.turn(self.world.now)
        outbox, self.core.outbox[:] = self.core.outbox[:], []
        for effect in outbox:
            if isinstance(effect, Tell):
                self.world.post(self.id, effect.node, effect.message)
            elif isinstance(effect, Receive):
                self.world.flights.append((self, effect))
            elif isinstance(effect, Locate):
                self.world.questions += [(self, object_id) for object_id in effect.object_ids]
                self.world.lookups.append(len(effect.object_ids))
            elif isinstance(effect, Note):
                self.notes.append(effect.text)
            elif isinstance(effect, Sum):
                self.world.sums.append((self, effect))
            else:
                raise TypeError(effect)
        if self._disk():
            self.store.relieve(self.world.now)
            self.turn()
            return
        said, self.store.outbox[:] = self.store.outbox[:], []
        asked = [(proc, message[1]) for proc, message in said if message[0] == m.RECOVER]
        for proc, message in said:
            assert not proc.startswith(INTERNAL), message
            if message[0] != m.RECOVER:
                self.sent.append((proc, message))
        for proc, object_id in asked:
            if self.recovers:
                self.store.handle(proc, [m.EXPECT, object_id], self.world.now)
                self.recovering.append(object_id)
            else:
                self.store.handle(proc, [m.UNRECOVERABLE, object_id, "lost", "no lineage"], self.world.now)
        if asked:
            self.turn()

    def _disk(self) -> bool:
        """Do what the store wants of the disk; whether it wanted anything."""
        spills = self.store.spills
        effects, spills.outbox = spills.outbox, []
        for effect in effects:
            path = f"/{effect.directory}/{0 if isinstance(effect, Read) else effect.file}"
            if isinstance(effect, Remove):
                self.files.pop(path, None)
            elif isinstance(effect, Read):
                content = self.files[f"/{effect.directory}/{effect.file}"]
                found = content[effect.offset : effect.offset + effect.size]
                self.region[effect.target : effect.target + effect.size] = found
                assert crc32(found) == effect.proof
                spills.read_done(effect.transfer, 1.0)
            elif self.disk_full:
                spills.write_failed(effect.file, True, "the disk is full", self.world.now)
            elif isinstance(effect, Lend):
                self.files.pop(f"/{effect.directory}/{effect.over}", None)
                self.files[path] = bytearray(effect.size)
                spills.made(effect.file, effect.directory)
            elif isinstance(effect, Write):
                self.files.pop(f"/{effect.directory}/{effect.over}", None)
                parts = [bytes(self.region[at : at + size]) for at, size in effect.parts]
                self.files[path] = bytearray(b"".join(part + bytes(-len(part) % 64) for part in parts))
                spills.wrote(effect.file, [crc32(part) for part in parts], 1.0)
            else:
                assert isinstance(effect, Rewrite)
                source = self.files[f"/{effect.directory}/{effect.source}"]
                kept = [bytes(source[at : at + size]) for at, size, _ in effect.parts]
                self.files[path] = bytearray(b"".join(part + bytes(-len(part) % 64) for part in kept))
                spills.rewrote(effect.file, [True] * len(kept))
        return bool(effects)

    def read_file(self, told: list[Any]) -> bytes:
        """The bytes that a PINNED_IN_FILE names."""
        assert told[0] == m.PINNED_IN_FILE, told
        _, _, _, path, offset, size, _, checksum, _ = told
        found = bytes(self.files[path][offset : offset + size])
        assert crc32(found) == checksum
        return found

    def hang_ends(self) -> None:
        """The oldest write that hangs ends."""
        self.core.pulls.write_ended(self.hanging.pop(0))
        self.turn()

    def validate(self) -> None:
        self.store.validate()
        self.core.validate()

    @property
    def counters(self) -> dict[str, int]:
        return self.store.counters


class World:
    """Nodes and what is between them.

    Attributes:
        mail: messages on their way, by (from, to).
        flights: requests for chunks that have not landed.
        questions: what the head has been asked and has not answered.
        lookups: of how many objects each question to it was.
        silent: pairs (source, reader) whose connections bring nothing.
        liars: nodes that send wrong bytes.
        sums: files that are to be read through.
    """

    def __init__(self, nodes: int = 2, directories: int = 0, **settings: Any) -> None:
        self.directories = directories
        self.sums: list[tuple[Node, Sum]] = []
        settings = {
            "pull_chunk_bytes": CHUNK,
            "pull_chunk_bytes_max": CHUNK,
            "relay_bytes_min": 4 * CHUNK,
            "parcel_object_bytes_max": CHUNK // 2,
            "store_full_wait_ms": 1000.0,
        } | settings
        self.config = Config(**settings)
        self.now = 0.0
        self.dead: set[str] = set()
        self.mail: dict[tuple[str, str], deque[list[Any]]] = {}
        self.flights: list[tuple[Node, Receive]] = []
        self.questions: list[tuple[Node, bytes]] = []
        self.lookups: list[int] = []
        self.silent: set[tuple[str, str]] = set()
        self.liars: set[str] = set()
        self.served: list[tuple[str, str, int]] = []  # (source, reader, chunk) of all that came
        self.head_answers = True
        self.nodes: list[Node] = []
        self.nodes += [Node(self, number) for number in range(nodes)]

    def post(self, sender: str, to: str, message: list[Any]) -> None:
        if to not in self.dead and sender not in self.dead:
            self.mail.setdefault((sender, to), deque()).append(message)

    def node(self, node_id: str) -> Node:
        return next(node for node in self.nodes if node.id == node_id)

    # --- steps ---

    def deliver(self, pair: tuple[str, str]) -> None:
        """The next message from one node to another."""
        self._hand_over(pair, 1)

    def deliver_all(self, pair: tuple[str, str]) -> None:
        """All messages from one node to another, in one turn of that."""
        self._hand_over(pair, len(self.mail[pair]))

    def _hand_over(self, pair: tuple[str, str], count: int) -> None:
        node, mail = self.node(pair[1]), self.mail[pair]
        for _ in range(count):
            node.core.from_node(pair[0], mail.popleft(), self.now)
        if not mail:
            del self.mail[pair]
        node.turn()

    def land(self, index: int = 0, fate: int = 0) -> None:
        """A request for chunks is done: as the world is, or with one ``fate`` for all of it."""
        reader, request = self.flights.pop(index)
        if not reader.alive:
            return
        if fate in (UNWRITTEN, STALLED) and not request.file:
            fate = 0
        outcomes = [fate or self._copy(reader, request, piece) for piece in request.pieces]
        worst = min(outcomes)
        reader.core.pulls.landed(request.number, outcomes, FATES.get(worst, ""), self.now)
        if fate == STALLED:
            reader.hanging.append(request.file)
        reader.turn()

    def sum(self, fate: int = 0) -> None:
        """A file has been read through, or could not be."""
        reader, effect = self.sums.pop(0)
        if not reader.alive:
            return
        content = reader.files.get(effect.path)
        outcome = fate or (UNWRITTEN if content is None else crc32(content[: effect.size]))
        reader.core.pulls.summed(effect.object_id, effect.file, outcome, FATES.get(outcome, ""), self.now)
        if fate == STALLED:
            reader.hanging.append(effect.file)
        reader.turn()

    def _copy(self, reader: Node, request: Receive, piece: tuple[int, int, int, int]) -> int:
        source_id = request.node
        req, chunk, offset, size = piece
        source = self.node(source_id)
        if not source.alive or (source_id, reader.id) in self.silent:
            return UNREACHED
        ticket = source.core.serving.tickets.get((reader.id, req))
        copy: Copy | None = ticket.copy if ticket is not None else None
        if copy is None or not copy.have >> chunk & 1:
            return GONE
        bytes_there = source.region
        if copy.file is not None:
            lies = source.files.get(copy.file[0])
            if lies is None:
                return GONE
            bytes_there = lies[copy.file[1] :]
        data = b"".join([bytes_there[start : start + length] for start, length in copy.places(chunk)])
        assert len(data) == size
        checksum = copy.sums.setdefault(chunk, crc32(data))
        if source_id in self.liars:
            data = bytes(byte ^ 1 for byte in data)
        if not request.file:
            reader.region[offset : offset + size] = data
        if crc32(data) != checksum:
            return CORRUPT
        if request.file:
            reader.files[request.path][offset : offset + size] = data
        self.served.append((source_id, reader.id, chunk))
        return checksum

    def answer(self, index: int = 0) -> None:
        """The head answers a question."""
        node, object_id = self.questions.pop(index)
        if node.alive:
            holders = [each.id for each in self.nodes if each.alive and each.store.described(object_id)]
            node.core.pulls.located(object_id, holders if self.head_answers else None, self.now)
            node.turn()

    def kill(self, node: Node) -> None:
        """A node is gone; nobody knows it yet."""
        node.alive = False
        for pair in [pair for pair in self.mail if node.id in pair]:
            del self.mail[pair]

    def declare_dead(self, node: Node) -> None:
        """The head has said so."""
        self.dead.add(node.id)
        for other in self.nodes:
            if other.alive:
                other.core.node_dead(node.id, self.now)
                other.turn()

    def wait(self, seconds: float) -> None:
        self.now += seconds
        for node in self.nodes:
            if node.alive:
                node.store.relieve(self.now)
                node.turn()

    def run(self, steps: int = 100_000) -> None:
        """Everything that can happen happens, in a fixed order, until nothing is under way."""
        for _ in range(steps):
            if self.mail:
                pair = next(iter(self.mail))
                if self.node(pair[1]).alive:
                    self.deliver(pair)
                else:
                    del self.mail[pair]
            elif self.flights:
                self.land()
            elif self.sums:
                self.sum()
            elif self.questions:
                self.answer()
            else:
                self.validate()
                return
        raise AssertionError("it does not come to an end")

    def validate(self) -> None:
        for node in self.nodes:
            if node.alive:
                node.validate()


def singly(message: list[Any]) -> list[list[Any]]:
    """A message of the store; a PINNED_MANY as so many PINNED."""
    if message[0] != m.PINNED_MANY:
        return [message]
    columns = zip(split_ids(message[1]), *message[2:], strict=True)
    return [[m.PINNED, 0, object_id, *where] for object_id, *where in columns]


def body(size: int, seed: int = 1) -> bytes:
    """Bytes that differ everywhere."""
    position = np.arange(size)
    return ((position * 31 + position // 251 + seed) % 251).astype(np.uint8).tobytes()


def pinned(answers: list[list[Any]]) -> list[Any]:
    """The PINNED among the answers."""
    (found,) = [answer for answer in answers if answer[0] == m.PINNED]
    return found


def refused(answers: list[list[Any]]) -> tuple[str, str]:
    """(kind, text) of the PIN_FAILED among the answers."""
    (found,) = [answer for answer in answers if answer[0] == m.PIN_FAILED]
    return found[3], found[4]

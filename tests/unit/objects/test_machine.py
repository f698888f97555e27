"""The object managers of some nodes under faults: what is read is what was sealed, and whoever reads is answered."""

from __future__ import annotations

from typing import Any, ClassVar

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from shoal.wire import messages as m
from shoald.objects.pulls import CORRUPT, GONE, STALLED, UNREACHED, UNWRITTEN
from unit.objects.world import CAPACITY, CHUNK, Node, World, body, singly

NODES = 4
SIZES = [0, 10, 300, CHUNK, 5 * CHUNK, 11 * CHUNK + 3]


class Fetches(RuleBasedStateMachine):
    """Objects are owned by the processes of nodes 0 and 1; any node may seal one, perhaps twice with other bytes."""

    directories = 0
    settings_of_world: ClassVar[dict[str, Any]] = {}

    def __init__(self) -> None:
        super().__init__()
        self.world = World(
            NODES,
            self.directories,
            pull_rounds_max=3,
            pull_memory_percent=10,
            pull_room_tries_max=3,
            pull_files_max=2,
            **self.settings_of_world,
        )
        self.ids = [
            node.proc + bytes([0, 0, 0, k, 0, 0, 0, 0]) for node in self.world.nodes[:2] for k in (1, 2)
        ]
        self.versions: dict[bytes, list[bytes]] = {object_id: [] for object_id in self.ids}
        self.waiting: dict[tuple[str, bytes], set[int]] = {}
        self.readers = 100

    def teardown(self) -> None:
        self.world.validate()
        self.heal()

    def book(self) -> None:
        """Look at every answer at once: what is pinned must be what some run sealed."""
        for node in self.world.nodes:
            for proc, message in [(proc, one) for proc, said in node.sent for one in singly(said)]:
                reads = self.waiting.get((node.id, proc), set())
                if message[0] == m.PINNED:
                    reads.discard(message[1])
                    assert node.read(message) in self.versions[message[2]]
                elif message[0] == m.PINNED_IN_FILE:
                    reads.discard(message[1])
                    if message[3] in node.files:  # else it has been read back, or freed, since
                        assert node.read_file(message) in self.versions[message[2]]
                elif message[0] == m.PIN_FAILED:
                    reads.discard(message[1])
            node.sent.clear()

    def living(self) -> list[Node]:
        return [node for node in self.world.nodes if node.alive]

    @rule(data=st.data(), size=st.sampled_from(SIZES), seed=st.integers(1, 3))
    def seal(self, data: st.DataObject, size: int, seed: int) -> None:
        node = data.draw(st.sampled_from(self.living()))
        object_id = data.draw(st.sampled_from(self.ids))
        content = body(size, seed)
        self.versions[object_id].append(content)
        node.req += 1
        node.store.handle(node.proc, [m.ALLOC, node.req, size, size], self.world.now)
        granted = [message for _, message in node.store.outbox if message[0] == m.EXTENT]
        if not granted:
            self.world.wait(5.0)
            return
        offset = granted[0][2]
        node.region[offset : offset + size] = content
        contained = b"".join(each for each in self.ids if each > object_id and seed == 3)
        message: list[Any] = [m.SEAL, object_id, offset, size, contained, m.SEAL_PRIMARY, node.proc, "", b""]
        node.store.handle(node.proc, message, self.world.now)
        node.turn()

    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        node = data.draw(st.sampled_from(self.living()))
        held = node.store._ledger.clients[node.proc].holds
        if held:
            node.store.handle(
                node.proc, [m.RELEASE, data.draw(st.sampled_from(sorted(held)))], self.world.now
            )
            node.turn()

    @rule(data=st.data(), priority=st.integers(0, 2), stamped=st.integers(0, NODES))
    def pin(self, data: st.DataObject, priority: int, stamped: int) -> None:
        node = data.draw(st.sampled_from(self.living()))
        object_id = data.draw(st.sampled_from(self.ids))
        self.readers += 1
        proc = node.process(self.readers)
        stamp = self.world.nodes[stamped].proc if stamped < NODES else b""
        node.req += 1
        self.waiting.setdefault((node.id, proc), set()).add(node.req)
        node.store.handle(proc, [m.PIN, node.req, object_id, stamp, 0, priority], self.world.now)
        node.turn()

    @rule(data=st.data(), priority=st.integers(0, 2), stamped=st.integers(0, NODES))
    def pin_together(self, data: st.DataObject, priority: int, stamped: int) -> None:
        node = data.draw(st.sampled_from(self.living()))
        ids = data.draw(st.lists(st.sampled_from(self.ids), min_size=2, max_size=4, unique=True))
        self.readers += 1
        proc = node.process(self.readers)
        stamp = self.world.nodes[stamped].proc if stamped < NODES else b""
        self.waiting.setdefault((node.id, proc), set()).add(0)
        wanted = [field for object_id in ids for field in (object_id, stamp, 0)]
        node.store.handle(proc, [m.PIN_TOGETHER, wanted, priority], self.world.now)
        node.turn()

    @rule(data=st.data())
    def watch(self, data: st.DataObject) -> None:
        node = data.draw(st.sampled_from(self.living()))
        node.store.handle(node.proc, [m.WATCH, data.draw(st.sampled_from(self.ids)), b"", 0], self.world.now)
        node.turn()

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def reader_ends(self, data: st.DataObject) -> None:
        key = data.draw(st.sampled_from(sorted(self.waiting)))
        del self.waiting[key]
        node = self.world.node(key[0])
        if node.alive:
            node.store.drop(key[1], self.world.now)
            node.turn()

    @precondition(lambda self: self.world.mail)
    @rule(data=st.data(), everything=st.booleans())
    def deliver(self, data: st.DataObject, everything: bool) -> None:
        pair = data.draw(st.sampled_from(sorted(self.world.mail)))
        if not self.world.node(pair[1]).alive:
            del self.world.mail[pair]
        elif everything:
            self.world.deliver_all(pair)
        else:
            self.world.deliver(pair)

    @precondition(lambda self: self.world.flights)
    @rule(data=st.data(), fate=st.sampled_from([0, 0, 0, 0, UNREACHED, GONE, CORRUPT, UNWRITTEN, STALLED]))
    def land(self, data: st.DataObject, fate: int) -> None:
        self.world.land(data.draw(st.integers(0, len(self.world.flights) - 1)), fate)

    @precondition(lambda self: self.world.sums)
    @rule(fate=st.sampled_from([0, 0, UNWRITTEN, STALLED]))
    def sum(self, fate: int) -> None:
        self.world.sum(fate)

    @precondition(lambda self: any(node.hanging for node in self.living()))
    @rule(data=st.data())
    def hang_ends(self, data: st.DataObject) -> None:
        data.draw(st.sampled_from([node for node in self.living() if node.hanging])).hang_ends()

    @precondition(lambda self: self.world.questions)
    @rule()
    def answer(self) -> None:
        self.world.answer()

    @rule(data=st.data())
    def hint(self, data: st.DataObject) -> None:
        node, other = data.draw(st.permutations(self.living()))[:2]
        node.store.hint(data.draw(st.sampled_from(self.ids)), other.id)
        node.turn()

    @precondition(lambda self: len(self.living()) > 2)
    @rule(data=st.data())
    def kill(self, data: st.DataObject) -> None:
        node = data.draw(st.sampled_from(self.living()))
        self.world.kill(node)
        self.waiting = {key: reads for key, reads in self.waiting.items() if key[0] != node.id}

    @precondition(lambda self: len(self.living()) + len(self.world.dead) < NODES)
    @rule()
    def declare_dead(self) -> None:
        gone = [node for node in self.world.nodes if not node.alive and node.id not in self.world.dead]
        self.world.declare_dead(gone[0])

    @rule(data=st.data(), head=st.booleans(), liar=st.booleans())
    def trouble(self, data: st.DataObject, head: bool, liar: bool) -> None:
        one, other = data.draw(st.permutations(self.world.nodes))[:2]
        self.world.head_answers = head
        if liar:
            self.world.liars ^= {one.id}
        else:
            self.world.silent ^= {(one.id, other.id)}

    @rule(data=st.data(), reached=st.booleans())
    def reach(self, data: st.DataObject, reached: bool) -> None:
        node = data.draw(st.sampled_from(self.living()))
        others = [each.id for each in self.world.nodes if each is not node and each.id not in self.world.dead]
        other = data.draw(st.sampled_from(others))
        if reached:
            node.core.pulls.reached(other)
        else:
            node.core.pulls.unreachable(other, self.world.now)
        node.turn()

    @rule(seconds=st.sampled_from([0.1, 3.0]))
    def wait(self, seconds: float) -> None:
        self.world.wait(seconds)

    @invariant()
    def holds(self) -> None:
        self.book()
        for node in self.living():
            node.core.validate()
            node.store._readers.validate()

    def heal(self) -> None:
        """Everything heals; then whoever reads is answered, and nothing of a transfer is left."""
        world = self.world
        for node in [node for node in world.nodes if not node.alive and node.id not in world.dead]:
            world.declare_dead(node)
        world.silent.clear()
        world.liars.clear()
        world.head_answers = True
        for node in self.living():
            for other in list(node.core.pulls._out_of_reach):
                node.core.pulls.reached(other)
            node.disk_full = False
            while node.hanging:
                node.hang_ends()
        for _ in range(12):
            world.run()
            self.book()
            world.wait(5.0)
        world.run()
        self.book()
        # A seal may be on its way where the owner lives and somebody holds what is not there: reads wait for that.
        coming = {i for node in self.living() for i in node.store._ledger.early if i[:3] == node.tag}
        for node in self.living():
            for proc in [proc for name, proc in self.waiting if name == node.id]:
                left = self.waiting[node.id, proc]
                unread = {read.id for read in node.store._ledger.clients[proc].reads}
                assert unread <= coming, (node.id, unread)
                assert not left or unread
            assert node.core.pulls._pulls.keys() <= coming
            assert {ticket.id for ticket in node.core.serving.tickets.values()} <= coming
            assert not node.core.pulls._lanes.flights
            leased = node.store._ledger.clients[node.core.proc].leased
            assert leased.size == 0
            assert not node.store._ledger.clients[node.core.proc].files


TestFetches = Fetches.TestCase
TestFetches.settings = settings(max_examples=60, stateful_step_count=50)


class FetchesIntoFiles(Fetches):
    """The stores of nodes 2 and 3 are full of what somebody looks at; there are disks, which may be full, or hang."""

    directories = 2
    settings_of_world: ClassVar[dict[str, Any]] = {"spill_threshold": 1.0}

    def __init__(self) -> None:
        super().__init__()
        for node in self.world.nodes[2:]:
            reader = node.process(99)
            filler = reader + bytes([0, 0, 0, 99, 0, 0, 0, 0])
            node.seal(filler, body(CAPACITY - 2 * CHUNK))
            node.pin(filler, proc=reader)
            node.sent.clear()

    @rule(data=st.data())
    def disk(self, data: st.DataObject) -> None:
        node = data.draw(st.sampled_from(self.living()))
        node.disk_full = not node.disk_full

    @rule(data=st.data(), steps=st.integers(0, 12))
    def fetch_without_room(self, data: st.DataObject, steps: int) -> None:
        """A large object is fetched to a node without room, and goes so far."""
        object_id, seed = data.draw(st.sampled_from(self.ids)), data.draw(st.integers(1, 2))
        sources = [node for node in self.world.nodes[:2] if node.alive]
        readers = [node for node in self.world.nodes[2:] if node.alive]
        if not sources or not readers:
            return
        content = body(11 * CHUNK + 3, seed)
        source, reader = data.draw(st.sampled_from(sources)), data.draw(st.sampled_from(readers))
        source.seal(object_id, content)
        self.versions[object_id].append(content)
        self.readers += 1
        proc = reader.process(self.readers)
        reader.req += 1
        self.waiting.setdefault((reader.id, proc), set()).add(reader.req)
        reader.store.handle(proc, [m.PIN, reader.req, object_id, source.proc, 0, 0], self.world.now)
        reader.turn()
        for _ in range(2):
            while self.world.mail:
                pair = next(iter(self.world.mail))
                if self.world.node(pair[1]).alive:
                    self.world.deliver_all(pair)
                else:
                    del self.world.mail[pair]
            self.world.wait(1.5)
        for _ in range(steps):
            if self.world.flights:
                self.world.land()


TestFetchesIntoFiles = FetchesIntoFiles.TestCase
TestFetchesIntoFiles.settings = settings(max_examples=60, stateful_step_count=40)

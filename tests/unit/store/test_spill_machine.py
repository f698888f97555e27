"""A store that is too small, with a disk that fails now and then: no byte is mixed up, nothing that is held is lost
but by a damaged file, everybody gets an answer, and nothing is left in the end."""

from __future__ import annotations

from collections import Counter
from typing import Any

from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from shoal.config import Config
from shoal.wire import messages as m
from shoald.store.core import StoreCore
from shoald.store.objects import LOST
from shoald.store.spilleffects import Lend, Write
from unit.store.fakedisk import FakeDisk, FakeRegion, checksum_of, fits, time_proof

CAPACITY = 16 * 1024
PROCS = [bytes([65 + index]) * 8 for index in range(3)]
PRIORITIES = st.sampled_from([m.PRIORITY_GET, m.PRIORITY_ARGUMENT])
SIZES = st.one_of(st.integers(1, 300), st.integers(1000, 6000), st.just(CAPACITY // 2))


class SpillMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        config = Config(
            store_full_wait_ms=1000,
            store_relief_wait_ms=5000,
            spill_batch_bytes_min=1024,
            spill_file_bytes_max=4096,
            spill_retry_ms=500,
            spill_lend_ms_max=700,
            spill_stall_ms=900,
            spill_spare_ms=300,
            spill_in_place_bytes_min=3000,
            spill_sum_after_ms=400,
        )
        self.core = StoreCore(CAPACITY, config, directories=2)
        self.core.spills.locate = lambda _directory, file: str(file)
        self.region = FakeRegion()
        self.disk = FakeDisk(self.core.spills, self.region)
        self.now = 0.0
        self.made = self.requests = 0
        self.alive = list(PROCS)
        self.objects: dict[bytes, bool] = {}  # held ones; whether a copy may be dropped at any time
        self.sizes: dict[bytes, int] = {}
        self.holds: dict[bytes, Counter[bytes]] = {proc: Counter() for proc in PROCS}
        self.pins: dict[bytes, Counter[bytes]] = {proc: Counter() for proc in PROCS}
        self.places: dict[bytes, int] = {}
        self.allocs: dict[int, tuple[bytes, int, bool]] = {}
        self.reads: dict[bytes, Counter[bytes]] = {proc: Counter() for proc in PROCS}
        self.recalled: dict[bytes, set[bytes]] = {proc: set() for proc in PROCS}
        self.lost: set[bytes] = set()
        self.mapped: dict[bytes, Counter[int]] = {
            proc: Counter() for proc in PROCS
        }  # files, as often as they were told of
        for proc in PROCS:
            self.core.register(proc, {"pid": proc[0], "kind": "worker", "job_id": "j"})

    # --- the world ---

    def send(self, proc: bytes, *message: Any) -> None:
        self.core.handle(proc, list(message), self.now)
        self.turn()

    def turn(self) -> None:
        """What the daemon does at the end of a turn, and what clients do with what they are sent."""
        while True:
            self.core.relieve(self.now)
            over = {each.over for each in self.core.spills.outbox if isinstance(each, Write | Lend)}
            assert not any(mapped.keys() & over for mapped in self.mapped.values()), (
                "written over under a view"
            )
            self.disk.take()
            messages, self.core.outbox[:] = list(self.core.outbox), []
            known = self.core._ledger.objects.values()
            self.lost.update(obj.id for obj in known if obj.disk is not None and obj.disk.state == LOST)
            for object_id in self.held():
                if object_id not in self.core._ledger.objects and object_id not in self.lost:
                    assert self.objects[object_id], "a primary copy was dropped"
                    self.lost.add(object_id)
            if not messages:
                return
            for proc, message in messages:
                self.receive(proc, message)

    def receive(self, proc: bytes, message: list[Any]) -> None:
        assert proc in self.alive
        if message[0] == m.EXTENT:
            _, req, offset, size = message
            self.region.scribble(offset, size)
            self.granted(proc, req, offset, size)
        elif message[0] == m.FILE_LENT:
            self.lent(proc, message[1], message[2])
        elif message[0] == m.ALLOC_FAILED:
            del self.allocs[message[1]]
        elif message[0] == m.PINNED:
            _, _, object_id, offset, size, _ = message
            assert size == self.sizes[object_id]
            assert self.region.get(offset) == object_id, "another object's bytes"
            self.answered(proc, object_id)
            self.pins[proc][object_id] += 1
            assert self.places.setdefault(object_id, offset) == offset, "moved under a pin"
        elif message[0] == m.PINNED_IN_FILE:
            _, _, object_id, path, offset, size, _, proof, number = message
            assert size == self.sizes[object_id]
            self.answered(proc, object_id)
            self.mapped[proc][number] += 1
            # A file that has just been rewritten is asked for again; a damaged one shows by its proof.
            if int(path) in self.disk.files:
                token = self.disk.files[int(path)][offset]
                changes = self.disk.changes[int(path)]
                assert token == object_id or not fits(proof, token, changes)
        elif message[0] == m.PIN_FAILED:
            self.answered(proc, message[2])
            if message[3] == "lost":
                assert message[2] in self.lost
        elif message[0] == m.UNPIN_RECALL:
            ids = message[1]
            self.recalled[proc].update(ids[i : i + 16] for i in range(0, len(ids), 16))

    def answered(self, proc: bytes, object_id: bytes) -> None:
        assert self.reads[proc][object_id] > 0
        self.reads[proc][object_id] -= 1

    def granted(self, proc: bytes, req: int, offset: int, size: int) -> None:
        """The client writes its object at once, and gives the rest back."""
        _, wanted, primary = self.allocs.pop(req)
        self.made += 1
        object_id = self.made.to_bytes(16, "big")
        allocated = -(-wanted // 64) * 64
        assert allocated <= size
        self.region.put(offset, wanted, object_id)
        self.objects[object_id] = not primary
        self.sizes[object_id] = wanted
        self.holds[proc][object_id] += 1
        flags = m.SEAL_PRIMARY if primary else 0
        self.core.handle(proc, [m.SEAL, object_id, offset, wanted, b"", flags, proc, "here", b""], self.now)
        if allocated < size:
            self.core.handle(proc, [m.EXTENT_RETURN, offset + allocated, size - allocated], self.now)

    def lent(self, proc: bytes, req: int, number: int) -> None:
        """The client writes its object into the file, unless it has changed its mind."""
        _, size, used = self.allocs.pop(req)
        if not used:
            self.core.handle(proc, [m.FILE_RETURN, number], self.now)
            return
        self.made += 1
        object_id = self.made.to_bytes(16, "big")
        self.disk.files[number] = {0: object_id}
        self.objects[object_id] = False
        self.sizes[object_id] = size
        self.holds[proc][object_id] += 1
        # One that is not summed yet, every other time.
        proof = checksum_of(object_id) if self.made % 2 else time_proof(self.disk.changes[number])
        message = [number, proof, object_id, size, b"", m.SEAL_PRIMARY, proc, "here", b""]
        self.core.handle(proc, [m.SEAL_IN_FILE, *message], self.now)

    def some(self, data: st.DataObject) -> bytes:
        return data.draw(st.sampled_from(self.alive))

    def held(self) -> list[bytes]:
        return sorted({i for proc in self.alive for i, n in self.holds[proc].items() if n})

    def away(self) -> list[bytes]:
        rows = self.core.rows(self.now)
        return [bytes.fromhex(row["id"]) for row in rows if row["state"] in {"spilled", "restoring"}]

    # --- what happens ---

    @precondition(lambda self: self.alive)
    @rule(
        data=st.data(),
        size=SIZES,
        more=st.integers(0, 2000),
        primary=st.sampled_from([True, True, True, True, False]),
    )
    def create(self, data: st.DataObject, size: int, more: int, primary: bool) -> None:
        self.create_one(self.some(data), size, more, primary)

    def create_one(self, proc: bytes, size: int, more: int, primary: bool) -> None:
        self.requests += 1
        self.allocs[self.requests] = proc, size, primary
        self.send(proc, m.ALLOC, self.requests, size, size + more)

    @precondition(lambda self: self.alive)
    @rule(
        data=st.data(),
        size=st.one_of(SIZES, st.just(2 * CAPACITY)),
        used=st.sampled_from([True, True, False]),
    )
    def create_in_file(self, data: st.DataObject, size: int, used: bool) -> None:
        proc = self.some(data)
        self.requests += 1
        self.allocs[self.requests] = proc, size, used
        self.send(proc, m.ALLOC_FILE, self.requests, size)

    @precondition(lambda self: self.alive)
    @rule(data=st.data(), sizes=st.lists(st.integers(1500, 5000), min_size=3, max_size=6))
    def create_more_than_fits(self, data: st.DataObject, sizes: list[int]) -> None:
        for size in sizes:
            self.create_one(self.some(data), size, 0, True)
            self.disk_works()

    @precondition(lambda self: self.alive and self.held())
    @rule(data=st.data())
    def hold(self, data: st.DataObject) -> None:
        object_id = data.draw(st.sampled_from(self.held()))
        proc, other = self.some(data), self.some(data)
        self.holds[other][object_id] += 1
        self.send(proc, m.HOLD, other, object_id)

    @precondition(lambda self: self.alive and self.held())
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        proc = self.some(data)
        ids = sorted(i for i, n in self.holds[proc].items() if n)
        if ids:
            object_id = data.draw(st.sampled_from(ids))
            self.holds[proc][object_id] -= 1
            self.send(proc, m.RELEASE, object_id)

    @precondition(lambda self: self.alive and self.held())
    @rule(data=st.data(), priority=PRIORITIES)
    def pin(self, data: st.DataObject, priority: int) -> None:
        proc, object_id = self.some(data), data.draw(st.sampled_from(self.held()))
        self.reads[proc][object_id] += 1
        self.send(proc, m.PIN, 0, object_id, bytes(8), 0, priority)

    @precondition(lambda self: self.alive and self.away())
    @rule(data=st.data(), priority=PRIORITIES, more=st.integers(0, 3))
    def pin_together(self, data: st.DataObject, priority: int, more: int) -> None:
        proc = self.some(data)
        ids = [data.draw(st.sampled_from(self.away()))]
        ids += data.draw(st.lists(st.sampled_from(self.held()), min_size=more, max_size=more))
        self.reads[proc].update(ids)
        wanted: list[Any] = []
        for object_id in ids:
            wanted += [object_id, bytes(8), 0]
        self.send(proc, m.PIN_TOGETHER, wanted, priority)

    @precondition(lambda self: self.alive)
    @rule(data=st.data())
    def unpin(self, data: st.DataObject) -> None:
        proc = self.some(data)
        ids = sorted(i for i, n in self.pins[proc].items() if n)
        if ids:
            self.unpin_one(proc, data.draw(st.sampled_from(ids)))

    @precondition(lambda self: self.alive)
    @rule(data=st.data())
    def give_back_what_was_recalled(self, data: st.DataObject) -> None:
        proc = self.some(data)
        recalled, self.recalled[proc] = self.recalled[proc], set()
        for object_id in sorted(recalled):
            if self.pins[proc][object_id]:
                self.unpin_one(proc, object_id)

    @precondition(lambda self: any(self.mapped.values()))
    @rule(data=st.data())
    def close_file(self, data: st.DataObject) -> None:
        proc = data.draw(st.sampled_from([proc for proc in self.alive if self.mapped[proc]]))
        number = data.draw(st.sampled_from(sorted(self.mapped[proc])))
        times = data.draw(st.integers(1, self.mapped[proc][number]))
        self.mapped[proc][number] -= times
        self.mapped[proc] += Counter()  # without zeros
        self.send(proc, m.FILE_RETURN, number, times)

    def unpin_one(self, proc: bytes, object_id: bytes) -> None:
        count = self.pins[proc].pop(object_id)
        if not any(pins[object_id] for pins in self.pins.values()):
            self.places.pop(object_id, None)
        self.send(proc, m.UNPIN, object_id * count)

    @precondition(lambda self: self.disk.pending)
    @rule()
    def disk_works(self) -> None:
        while self.disk.pending:
            self.disk.step(0, "", self.now)
            self.turn()

    @precondition(lambda self: self.disk.pending)
    @rule(data=st.data(), fault=st.sampled_from(["", "", "", "", "full", "error"]))
    def disk_step(self, data: st.DataObject, fault: str) -> None:
        index = data.draw(st.integers(0, len(self.disk.pending) - 1))
        self.disk.step(index, fault, self.now)
        self.turn()

    @precondition(lambda self: len(self.disk.files) > 3)
    @rule(data=st.data())
    def damage(self, data: st.DataObject) -> None:
        self.disk.damage(data.draw(st.sampled_from(sorted(self.disk.files))))

    @precondition(lambda self: len(self.alive) > 1)
    @rule(data=st.data())
    def drop(self, data: st.DataObject) -> None:
        self.drop_one(self.some(data))

    def drop_one(self, proc: bytes) -> None:
        self.alive.remove(proc)
        self.allocs = {req: entry for req, entry in self.allocs.items() if entry[0] != proc}
        self.holds[proc] = Counter()
        self.reads[proc] = Counter()
        self.pins[proc] = Counter()
        self.mapped[proc] = Counter()
        self.places = {i: at for i, at in self.places.items() if any(p[i] for p in self.pins.values())}
        self.core.drop(proc, self.now)
        self.turn()

    @rule(ms=st.integers(1, 700))
    def time_passes(self, ms: int) -> None:
        self.now += ms / 1000
        self.turn()

    # --- what must hold ---

    @invariant()
    def core_is_sound(self) -> None:
        self.core.validate()
        deadline = self.core.next_deadline()
        assert deadline is None or deadline > self.now, "it would be woken without end"

    @invariant()
    def nothing_held_is_gone(self) -> None:
        rows = {bytes.fromhex(row["id"]): row for row in self.core.rows(self.now)}
        stats = self.core.stats()
        for object_id in self.held():
            assert object_id in rows or object_id in self.lost
            if object_id in rows and rows[object_id]["state"] == "lost":
                assert object_id in self.lost
        in_rows = sum(row["allocated_bytes"] for row in rows.values())
        assert stats["used"] == stats["leased"] + stats["restoring"] + in_rows
        assert stats["disk_live"] == sum(row["disk_bytes"] for row in rows.values())

    def teardown(self) -> None:
        """Healed: everybody who still waits is answered, and then everything goes."""
        for _ in range(200):
            while self.disk.pending:
                self.disk.step(0, "", self.now)
                self.turn()
            for proc in list(self.alive):
                for object_id in sorted(i for i, n in self.pins[proc].items() if n):
                    self.unpin_one(proc, object_id)
            self.now += 0.05
            self.turn()
            if not self.allocs and not any(n for reads in self.reads.values() for n in reads.values()):
                break
        assert not self.allocs, "a creator got no answer"
        assert not any(n for reads in self.reads.values() for n in reads.values()), "a reader got no answer"
        for proc in list(self.alive):
            self.drop_one(proc)
        while self.disk.pending:
            self.disk.step(0, "", self.now)
            self.turn()
        self.now += 1.0
        self.turn()
        self.core.validate()
        stats = self.core.stats()
        assert stats["disk_spare"] == 0
        assert stats["used"] == stats["objects"] == stats["disk"] == stats["disk_files"] == 0
        assert stats["largest_free"] == CAPACITY
        assert not self.disk.files


TestSpillMachine = SpillMachine.TestCase
# Not shrunk: that takes minutes, and the steps of a failure are few enough to read.
TestSpillMachine.settings = settings(
    max_examples=60, stateful_step_count=50, deadline=None, phases=(Phase.explicit, Phase.generate)
)

"""The store core against a naive model: what is referenced stays, the rest goes, a byte has one user."""

from __future__ import annotations

from collections import Counter
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from shoal.config import Config
from shoal.wire import messages as m
from shoald.store.core import StoreCore

CAPACITY = 64 * 1024
PROCS = [bytes([65 + index]) * 8 for index in range(3)]
# The first two are owned by a process that may live: readers wait while somebody holds them.
IDS = [PROCS[0] + bytes(8), PROCS[1] + bytes(8), *(bytes([index]) * 16 for index in range(2))]


class Model:
    """Holds and pins as plain counters; no idea of memory."""

    def __init__(self) -> None:
        self.alive: set[bytes] = set(PROCS)
        self.objects: dict[bytes, tuple[bytes, ...]] = {}
        self.holds: dict[bytes, Counter[bytes]] = {proc: Counter() for proc in PROCS}
        self.pins: dict[object, Counter[bytes]] = {proc: Counter() for proc in PROCS}
        self.duplicates: dict[object, Counter[bytes]] = {proc: Counter() for proc in PROCS}

    def held(self, object_id: bytes) -> bool:
        by_process = any(self.holds[proc][object_id] > 0 for proc in self.alive)
        return by_process or any(object_id in inner for inner in self.objects.values())

    def pinned(self, object_id: bytes) -> bool:
        return any(pins[object_id] > 0 for pins in self.pins.values())

    def collect(self) -> None:
        while True:
            dead = [i for i in self.objects if not self.held(i) and not self.pinned(i)]
            if not dead:
                return
            for object_id in dead:
                del self.objects[object_id]


class StoreMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        config = Config(store_full_wait_ms=100, store_freed_ids_max=2)
        self.core = StoreCore(CAPACITY, config)
        self.model = Model()
        self.now = 0.0
        self.leased: dict[bytes, list[tuple[int, int]]] = {proc: [] for proc in PROCS}
        self.reads: dict[tuple[bytes, int], bytes] = {}
        self.numbers = dict.fromkeys(PROCS, 1)
        self.tokens: list[int] = []
        self.req = 0
        for proc in PROCS:
            self.core.register(proc, {"pid": proc[0], "kind": "worker", "job_id": "j"})

    def send(self, proc: bytes, *message: Any) -> list[list[Any]]:
        """Hand a message to the core; return its answers to the sender, with everybody's booked."""
        self.core.handle(proc, list(message), self.now)
        self.core.relieve(self.now)
        return self.book(proc)

    def book(self, sender: bytes | None = None) -> list[list[Any]]:
        answers = []
        for proc, message in self.core.outbox:
            assert proc in self.model.alive
            if message[0] == m.EXTENT:
                self.leased[proc].append((message[2], message[3]))
            elif message[0] == m.PINNED:
                assert self.reads.pop((proc, message[1])) == message[2]
                self.model.pins[proc][message[2]] += 1
            elif message[0] == m.PIN_FAILED:
                assert self.reads.pop((proc, message[1])) == message[2]
            if proc == sender:
                answers.append(message)
        self.core.outbox.clear()
        self.model.collect()
        return answers

    def _some(self, data: st.DataObject) -> bytes:
        return data.draw(st.sampled_from(sorted(self.model.alive)))

    @precondition(lambda self: self.model.alive)
    @rule(data=st.data(), least=st.integers(0, 9000), more=st.integers(0, 9000))
    def alloc(self, data: st.DataObject, least: int, more: int) -> None:
        self.req += 1
        for answer in self.send(self._some(data), m.ALLOC, self.req, least, least + more):
            if answer[0] == m.EXTENT:
                assert least <= answer[3] <= least + more + 64

    @precondition(lambda self: self.model.alive)
    @rule(
        data=st.data(),
        object_id=st.sampled_from(IDS),
        inner=st.lists(st.sampled_from(IDS), max_size=3),
        flags=st.sampled_from([0, m.SEAL_PINNED, m.SEAL_PRIMARY | m.SEAL_PINNED, m.SEAL_ERROR]),
        holder=st.sampled_from(PROCS),
        content=st.sampled_from([b"", b"h" * 16]),
        size=st.integers(0, 5000),
    )
    def seal(
        self,
        data: st.DataObject,
        object_id: bytes,
        inner: list[bytes],
        flags: int,
        holder: bytes,
        content: bytes,
        size: int,
    ) -> None:
        proc = self._some(data)
        allocated = -(-size // 64) * 64 or 64
        fitting = [extent for extent in self.leased[proc] if extent[1] >= allocated]
        if not fitting:
            return
        start, length = data.draw(st.sampled_from(fitting))
        skip = 64 * data.draw(st.integers(0, (length - allocated) // 64))
        self.leased[proc].remove((start, length))
        for rest in ((start, skip), (start + skip + allocated, length - skip - allocated)):
            if rest[1]:
                self.leased[proc].append(rest)
        # A circle of containers is never freed, by design: only ids that come later are contained.
        contained = [i for i in inner if i > object_id]
        model = self.model
        if object_id in model.objects:
            if flags & m.SEAL_PINNED:
                model.duplicates[proc][object_id] += 1
            if holder in model.alive and model.holds[holder][object_id] <= 0:
                model.holds[holder][object_id] += 1  # it has given back the hold of the first copy
        else:
            model.objects[object_id] = tuple(contained)
            if holder in model.alive:
                model.holds[holder][object_id] += 1
            if flags & m.SEAL_PINNED:
                model.pins[proc][object_id] += 1
        message = [object_id, start + skip, size, b"".join(contained), flags, holder, "here", content]
        self.send(proc, m.SEAL, *message)

    @precondition(lambda self: self.model.alive)
    @rule(
        data=st.data(),
        wanted=st.lists(st.tuples(st.sampled_from(IDS), st.integers(0, 2000)), min_size=1, max_size=4),
        flags=st.sampled_from([0, m.SEAL_PRIMARY, m.SEAL_ERROR]),
        holder=st.sampled_from(PROCS),
    )
    def seal_run(
        self, data: st.DataObject, wanted: list[tuple[bytes, int]], flags: int, holder: bytes
    ) -> None:
        proc = self._some(data)
        allocated = sum(-(-size // 64) * 64 or 64 for _, size in wanted)
        fitting = [extent for extent in self.leased[proc] if extent[1] >= allocated]
        if not fitting:
            return
        start, length = data.draw(st.sampled_from(fitting))
        self.leased[proc].remove((start, length))
        if length > allocated:
            self.leased[proc].append((start + allocated, length - allocated))
        model = self.model
        for object_id, _ in wanted:
            first = object_id not in model.objects
            if first:
                model.objects[object_id] = ()
            if holder in model.alive and (first or model.holds[holder][object_id] <= 0):
                model.holds[holder][object_id] += 1
        ids, sizes = zip(*wanted, strict=True)
        self.send(proc, m.SEAL_RUN, b"".join(ids), start, list(sizes), flags, holder, ["here"] * len(wanted))

    @precondition(lambda self: self.model.alive)
    @rule(data=st.data(), holder=st.sampled_from([*PROCS, b"?" * 8]), ids=st.lists(st.sampled_from(IDS)))
    def hold(self, data: st.DataObject, holder: bytes, ids: list[bytes]) -> None:
        if holder in self.model.alive:
            for object_id in ids:
                self.model.holds[holder][object_id] += 1
        self.send(self._some(data), m.HOLD, holder, b"".join(ids))

    @precondition(lambda self: self.model.alive)
    @rule(data=st.data(), ids=st.lists(st.sampled_from(IDS), max_size=4))
    def release(self, data: st.DataObject, ids: list[bytes]) -> None:
        # One id a message: whether a release of a freed id counts depends on what is still known of it.
        proc = self._some(data)
        for object_id in ids:
            forgotten = object_id not in self.model.objects and object_id in self.core._ledger.freed
            if self.model.holds[proc][object_id] or not forgotten:
                self.model.holds[proc][object_id] -= 1
            self.send(proc, m.RELEASE, object_id)

    @precondition(lambda self: self.model.alive)
    @rule(
        data=st.data(), object_id=st.sampled_from(IDS), stamp=st.sampled_from(PROCS), ahead=st.integers(0, 3)
    )
    def pin(self, data: st.DataObject, object_id: bytes, stamp: bytes, ahead: int) -> None:
        proc = self._some(data)
        self.req += 1
        self.reads[proc, self.req] = object_id
        here = object_id in self.model.objects
        answers = self.send(proc, m.PIN, self.req, object_id, stamp, self.numbers[stamp] + ahead, 0)
        if here:
            assert answers[0][0] == m.PINNED

    @precondition(lambda self: self.model.alive)
    @rule(
        data=st.data(), object_id=st.sampled_from(IDS), stamp=st.sampled_from(PROCS), ahead=st.integers(0, 3)
    )
    def watch(self, data: st.DataObject, object_id: bytes, stamp: bytes, ahead: int) -> None:
        self.send(self._some(data), m.WATCH, object_id, stamp, self.numbers[stamp] + ahead)

    @precondition(lambda self: self.model.alive)
    @rule(data=st.data(), object_id=st.sampled_from(IDS))
    def unpin(self, data: st.DataObject, object_id: bytes) -> None:
        proc = self._some(data)
        if self.model.duplicates[proc][object_id]:
            self.model.duplicates[proc][object_id] -= 1
        elif self.model.pins[proc][object_id]:
            self.model.pins[proc][object_id] -= 1
        self.send(proc, m.UNPIN, object_id)

    @precondition(lambda self: self.model.alive)
    @rule(data=st.data(), ids=st.lists(st.sampled_from(IDS), max_size=3))
    def expect(self, data: st.DataObject, ids: list[bytes]) -> None:
        self.send(self._some(data), m.EXPECT, b"".join(ids))

    @precondition(lambda self: self.model.alive)
    @rule(data=st.data(), size=st.integers(0, 5000))
    def dedup(self, data: st.DataObject, size: int) -> None:
        proc = self._some(data)
        self.req += 1
        (answer,) = [a for a in self.send(proc, m.DEDUP, self.req, b"h" * 16, size) if a[0] == m.DEDUP_FOUND]
        if answer[2]:
            self.model.holds[proc][answer[2]] += 1
            self.model.pins[proc][answer[2]] += 1

    @precondition(lambda self: self.model.alive)
    @rule(data=st.data(), more=st.integers(1, 3))
    def advanced(self, data: st.DataObject, more: int) -> None:
        proc = self._some(data)
        self.numbers[proc] += more
        self.core.advanced(proc, self.numbers[proc], self.now)
        self.book()

    @precondition(lambda self: self.model.alive)
    @rule(data=st.data(), part=st.integers(1, 100))
    def give_back(self, data: st.DataObject, part: int) -> None:
        proc = self._some(data)
        if self.leased[proc]:
            offset, size = self.leased[proc].pop()
            size_back = min(size, part * 64)
            if size_back < size:
                self.leased[proc].append((offset, size - size_back))
            self.send(proc, m.EXTENT_RETURN, offset + size - size_back, size_back)

    @precondition(lambda self: self.model.alive)
    @rule(data=st.data())
    def fork(self, data: st.DataObject) -> None:
        proc = self._some(data)
        token = len(self.tokens)
        self.tokens.append(token)
        self.model.pins[token] = Counter({i: 1 for i, n in self.model.pins[proc].items() if n})
        self.core.handle(proc, [m.FORK], self.now)
        self.core.forked(proc, token)
        self.book()

    @precondition(lambda self: self.tokens)
    @rule(data=st.data())
    def fork_ended(self, data: st.DataObject) -> None:
        token = data.draw(st.sampled_from(self.tokens))
        self.model.pins.pop(token, None)
        self.core.fork_ended(token)
        self.book()

    @precondition(lambda self: len(self.model.alive) > 1)
    @rule(data=st.data())
    def drop(self, data: st.DataObject) -> None:
        proc = self._some(data)
        self.model.alive.discard(proc)
        del self.model.pins[proc], self.model.duplicates[proc]
        self.leased[proc] = []
        self.reads = {key: value for key, value in self.reads.items() if key[0] != proc}
        self.core.drop(proc, self.now)
        self.book()

    @rule(ms=st.integers(0, 200))
    def time_passes(self, ms: int) -> None:
        self.now += ms / 1000
        self.core.relieve(self.now)
        self.book()
        deadline = self.core.next_deadline()
        assert deadline is None or deadline > self.now

    @invariant()
    def core_is_sound(self) -> None:
        self.core.validate()

    @invariant()
    def as_the_model_says(self) -> None:
        rows = self.core.rows(self.now)
        stored = {bytes.fromhex(row["id"]): row for row in rows if row["state"] != "duplicate"}
        assert stored.keys() == self.model.objects.keys()
        for object_id, row in stored.items():
            pinning = [h for h in row["holders"] if h["kind"] == "pin"]
            assert len(pinning) == sum(1 for pins in self.model.pins.values() if pins[object_id])
            assert bool([h for h in row["holders"] if h["kind"] != "pin"]) == self.model.held(object_id)
            assert (row["state"] == "unreferenced") == (not self.model.held(object_id))

    @invariant()
    def accounts_add_up(self) -> None:
        stats = self.core.stats()
        leased = sum(size for extents in self.leased.values() for _, size in extents)
        assert stats["leased"] == leased
        assert sum(row["allocated_bytes"] for row in self.core.rows(self.now)) + leased == stats["used"]
        assert stats["used"] + stats["free"] == CAPACITY

    def teardown(self) -> None:
        for proc in PROCS:
            self.core.drop(proc, self.now)
        for token in self.tokens:
            self.core.fork_ended(token)
        self.core.validate()
        stats = self.core.stats()
        assert stats["used"] == stats["objects"] == stats["pinned"] == stats["cached"] == 0
        assert stats["largest_free"] == CAPACITY


TestStoreMachine = StoreMachine.TestCase
TestStoreMachine.settings = settings(max_examples=100, stateful_step_count=50, deadline=None)

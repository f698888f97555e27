"""What runs of a task left behind: the submitter's core against the real store core, over streams that lag as they like."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shoal.config import Config
from shoal.ids import return_id
from shoal.owner.objects import FAILED, INLINE, STORED
from shoal.refs import ObjectRef
from shoal.wire import messages as m
from shoald.store.core import StoreCore
from submitter import Owner

MIB = 1024 * 1024


class Worker:
    """A worker whose seals wait in its stream until `World.deliver`."""

    def __init__(self, world, lease):
        self.world = world
        self.lease = lease
        self.proc = lease.proc
        self.stream = []
        self.number = 1
        world.store.register(self.proc, {"pid": 1, "kind": "worker"})
        world.store.advanced(self.proc, 1, 0.0)
        world.store.handle(self.proc, [m.ALLOC, 0, 64, MIB], 0.0)
        self.offset = next(msg[2] for proc, msg in world.store.outbox if msg[0] == m.EXTENT)
        self.processed = 1
        world.store.outbox.clear()

    def seal(self, object_id, flags=m.SEAL_PRIMARY):
        holder = self.world.owner.table.proc
        self.stream.append([m.SEAL, object_id, self.offset, 64, b"", flags, holder, "", b""])
        self.offset += 64
        self.number += 1
        return (self.proc, self.number)

    def result(self, object_id, kind):
        if kind == "inline":
            return b"v"
        stamp = self.seal(object_id)
        return (m.RESULT_STORED, 64, stamp) if kind == "stored" else (m.RESULT_INLINE, b"v", stamp)


class World:
    """A submitter, a store and workers. Nothing arrives by itself."""

    def __init__(self):
        self.owner = Owner()
        self.store = StoreCore(64 * MIB, Config())
        self.workers = []
        self.sent = 0
        self.store.register(self.owner.table.proc, {"pid": 2, "kind": "driver"})

    def grant(self):
        worker = Worker(self, self.owner.grant())
        self.workers.append(worker)
        return worker

    def deliver(self, worker, count=None):
        """The daemon processes messages of a worker's stream."""
        batch, worker.stream = worker.stream[:count], worker.stream[len(worker.stream[:count]) :]
        for message in batch:
            self.store.handle(worker.proc, message, 0.0)
            worker.processed += 1
            self.store.advanced(worker.proc, worker.processed, 0.0)
        self.answer()

    def flush(self):
        """The daemon processes the submitter's stream."""
        table = self.owner.table
        for message in table.take_node_messages():
            if m.ALLOC <= message[0] <= m.UNRECOVERABLE:
                self.store.handle(table.proc, message, 0.0)
            self.sent += 1
            self.store.advanced(table.proc, self.sent, 0.0)
        self.answer()

    def answer(self):
        table = self.owner.table
        messages, self.store.outbox[:] = list(self.store.outbox), []
        for proc, message in messages:
            if proc == table.proc and message[0] == m.AVAILABLE:
                table.available(message[1], message[2], message[4].encode() if message[4] else None)
            elif proc == table.proc and message[0] == m.RECOVER:
                refused = self.owner.dispatch.lineage.recover(message[1])
                if refused is not None:
                    table.to_node([m.UNRECOVERABLE, message[1], *refused])

    def kill(self, worker, current):
        """Its death is confirmed when the daemon has processed its stream."""
        self.deliver(worker)
        self.store.drop(worker.proc, 0.0)
        self.answer()
        self.workers.remove(worker)
        self.owner.dispatch.worker_died(worker.lease.lease_id, current, {})

    def settle(self):
        for _ in range(4):
            for worker in self.workers:
                self.deliver(worker)
            self.flush()

    def held(self):
        """Ids of stored objects."""
        return {row["id"] for row in self.store.rows(0.0)}

    def check(self):
        self.owner.table.validate()
        self.owner.dispatch.validate()
        self.store.validate()


@pytest.fixture
def world():
    world = World()
    yield world
    world.check()


def refs_of(task):
    return [ObjectRef(entry.id, entry) for entry in task.returns]


KINDS = st.sampled_from(["inline", "stored", "refs"])
RUN = st.tuples(
    st.lists(KINDS, min_size=2, max_size=2),
    st.integers(0, 2),  # of which so many are made
    st.sampled_from(["dies", "fails", "done"]),
)


@settings(max_examples=400, deadline=None)
@given(
    count=st.integers(1, 2),
    runs=st.lists(RUN, min_size=1, max_size=4),
    drop_at=st.integers(0, 9),
    lags=st.lists(st.integers(0, 2), min_size=12, max_size=12),
)
def test_nothing_stays_and_nothing_is_lost(count, runs, drop_at, lags):
    world = World()
    owner = world.owner
    owner.dispatch.is_retriable = lambda task, error: True
    entry = owner.submit(max_retries=-1, num_returns=count)
    task = entry.task
    refs = refs_of(task)
    lag = iter(lags)
    for step, (kinds, made, end) in enumerate([*runs, (["inline"] * 2, 2, "done")]):
        if step == drop_at:
            refs = None
        worker = world.workers[0] if world.workers else world.grant()
        if task.id not in worker.lease.inflight:
            break
        results = [
            worker.result(return_id(task.id, index), kinds[index]) for index in range(min(made, count))
        ]
        if end == "dies":
            world.kill(worker, task.id)
        elif end == "fails" and made < count:
            stamp = (worker.proc, worker.number)
            owner.dispatch.failed(worker.lease, (m.FAILED, task.id, b"e", (b"", stamp), b"", False))
        else:
            results += [
                worker.result(return_id(task.id, index), kinds[index]) for index in range(made, count)
            ]
            owner.dispatch.done(worker.lease, (m.DONE, task.id, results, b"", 10.0))
        owner.table.drain_released()
        for each in world.workers:
            world.deliver(each, next(lag, 0))
        if next(lag, 0):
            world.flush()
    assert task.id not in owner.dispatch.tasks
    world.settle()
    if refs is not None:
        for ref in refs:
            assert ref._entry.state in (INLINE, STORED)
            assert ref._entry.state != STORED or ref.id.hex() in world.held()
    world.check()
    refs = ref = None
    owner.table.drain_released()
    world.settle()
    assert not world.held()
    assert not owner.table.entries


def test_a_late_seal_does_not_outlive_the_ref(world):
    """The ref goes before the seal of the run that counted has been processed, and after that of a run that died."""
    entry = world.owner.submit(max_retries=1)
    ref = ObjectRef(entry.id, entry)
    first = world.grant()
    first.seal(entry.id)
    world.kill(first, entry.id)
    second = world.grant()
    result = second.result(entry.id, "stored")
    world.owner.dispatch.done(second.lease, (m.DONE, entry.id, [result], b"", 10.0))
    del ref
    world.owner.table.drain_released()
    world.flush()
    world.settle()
    assert not world.held()


def test_what_a_failed_run_had_sealed_of_several_returns_goes(world):
    world.owner.dispatch.is_retriable = lambda task, error: True
    entry = world.owner.submit(max_retries=1, num_returns=2)
    task = entry.task
    refs = refs_of(task)
    first = world.grant()
    stamp = first.seal(entry.id)
    world.owner.dispatch.failed(first.lease, (m.FAILED, task.id, b"e", (b"", stamp), b"", False))
    world.owner.dispatch.done(first.lease, (m.DONE, task.id, [b"v", b"v"], b"", 10.0))
    world.settle()
    assert [ref._entry.state for ref in refs] == [INLINE, INLINE]
    assert not world.held()
    del refs


def generator(world):
    entry = world.owner.submit(max_retries=1, num_returns="streaming")
    return entry.task, ObjectRef(entry.id, entry)


def take(task):
    """The reader takes the next item."""
    stream = task.stream
    entry = stream.items.pop(stream.taken)
    stream.taken += 1
    return ObjectRef(entry.id, entry)


def test_an_item_that_was_passed_on_is_not_released_twice(world):
    """The item arrived, was read and let go, while another process keeps it; then the generator's worker dies."""
    task, ref = generator(world)
    first = world.grant()
    item_id = return_id(task.id, 1)
    world.owner.dispatch.item(first.lease, task.id, 0, first.result(item_id, "stored"))
    item = take(task)
    keeper = world.grant()
    world.owner.table.hand_over(keeper.proc, item_id)
    del item
    world.owner.table.drain_released()
    world.deliver(first)
    world.flush()
    world.kill(first, task.id)
    total = (m.RESULT_INLINE, b"1", (), None, 1)
    world.owner.dispatch.done(keeper.lease, (m.DONE, task.id, [total], b"", 10.0))
    world.settle()
    # It comes back from the keeper, who then lets go: it is still there for whoever holds it now.
    world.store.handle(keeper.proc, [m.HOLD, world.owner.table.proc, item_id], 0.0)
    world.store.handle(keeper.proc, [m.RELEASE, item_id], 0.0)
    assert world.held() == {item_id.hex()}
    world.store.handle(world.owner.table.proc, [m.RELEASE, item_id], 0.0)
    assert not world.held()
    del ref


def test_items_that_a_dead_run_had_sealed_and_not_told_go(world):
    task, ref = generator(world)
    first = world.grant()
    world.owner.dispatch.item(first.lease, task.id, 0, b"v")
    for index in (1, 2, 3):  # its worker dies before it tells of them
        first.seal(return_id(task.id, index + 1))
    world.kill(first, task.id)
    second = world.grant()
    world.owner.dispatch.item(second.lease, task.id, 1, b"v")
    world.owner.dispatch.item(second.lease, task.id, 2, second.result(return_id(task.id, 3), "stored"))
    total = (m.RESULT_INLINE, b"3", (), None, 3)
    world.owner.dispatch.done(second.lease, (m.DONE, task.id, [total], b"", 10.0))
    items = [take(task) for _ in range(3)]
    world.settle()
    assert world.held() == {items[2].id.hex()}
    del items
    world.owner.table.drain_released()
    world.settle()
    assert not world.held()
    del ref


def test_an_error_with_refs_that_a_dead_run_had_sealed_goes(world):
    entry = world.owner.submit(max_retries=0)
    ref = ObjectRef(entry.id, entry)
    worker = world.grant()
    worker.seal(return_id(entry.id, m.ERROR_INDEX), m.SEAL_PRIMARY | m.SEAL_ERROR)
    world.kill(worker, entry.id)
    assert entry.state == FAILED
    world.settle()
    assert not world.held()
    del ref


def test_a_hold_whose_copy_died_with_a_node_goes_with_the_retry(world):
    """The first run sealed its result on another node, which told this one of the hold; then it died, and the node as well."""
    entry = world.owner.submit(max_retries=1)
    ref = ObjectRef(entry.id, entry)
    first = world.grant()
    world.store.handle(first.proc, [m.HOLD, world.owner.table.proc, entry.id], 0.0)
    world.kill(first, entry.id)
    second = world.grant()
    world.owner.dispatch.done(second.lease, (m.DONE, entry.id, [b"v"], b"", 10.0))
    world.flush()
    world.store.lost([entry.id])
    world.settle()
    assert ref._entry.state == INLINE
    assert not world.store._ledger.early, "nothing of it is in the store"
    assert not world.store._ledger.clients[world.owner.table.proc].holds
    del ref
    world.owner.table.drain_released()
    world.settle()
    assert not world.store._ledger.clients[world.owner.table.proc].holds

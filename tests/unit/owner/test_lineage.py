"""Lost results are made again: chains, trees, some of many, within max_retries; against a store that forgets on demand."""

import gc

import pytest

from shoal.config import load
from shoal.ids import return_id
from shoal.owner.objects import (
    BORROWED,
    BY_ACTOR,
    ESCAPED,
    FAILED,
    GENERATED,
    GIVEN,
    INLINE,
    PENDING,
    PROMOTED,
    REFUSED,
    STORED,
    WATCHED,
    WITHOUT_REFS,
)
from shoal.wire import messages as m
from submitter import Owner


class Node(Owner):
    """An owner with a store that holds sizes only, a worker that does what it is sent, and a log of what ran."""

    def __init__(self, **settings):
        super().__init__(load(settings))
        self.stored = set()
        self.ran = []
        self.unrecoverable = {}
        self.sent = 0
        self.small = set()

    def worker(self):
        """The one worker, leased at first use."""
        return next(iter(self.dispatch.leases.values()), None) or self.grant()

    def store_says(self):
        """Handle what the owner told the store: WATCH is answered, or the owner is asked to recover first."""
        for message in self.table.take_node_messages():
            if message[0] == m.WATCH:
                self.look_for(message[1])

    def look_for(self, object_id):
        """A reader wants this object."""
        if object_id in self.stored:
            self.table.available(object_id, 10, None)
            return
        reason = self.dispatch.lineage.recover(object_id)
        if reason:
            self.unrecoverable[object_id] = reason
            self.table.available(object_id, 0, reason[1].encode())

    def run_all(self):
        """Let everything run that can."""
        lease = self.worker()
        for _ in range(1000):
            self.store_says()
            tasks = list(lease.inflight.values())
            for task in tasks:
                self.run(lease, task)
            self.dispatch.settle(lease)
            if not tasks and not lease.inflight and not self.table.has_node_messages():
                return
        raise AssertionError("it never ends")

    def run(self, lease, task):
        missing = [entry for entry in task.lifted if entry.state != INLINE and entry.id not in self.stored]
        assert not missing, f"{task} was sent before its arguments are there: {missing}"
        self.ran.append(task.id)
        results = []
        for entry in task.returns:
            if task.id in self.small:
                results.append(b"small")
                continue
            self.stored.add(entry.id)
            results.append((m.RESULT_STORED, 10, (b"worker01", 1)))
        self.dispatch.done(lease, (m.DONE, task.id, results, b"", 10.0))

    def lose(self, *entries):
        for entry in entries:
            self.stored.discard(getattr(entry, "id", entry))

    def drop(self, *entries):
        """The program lets go of refs: the memory is freed."""
        for entry in entries:
            self.table.drop_uses((entry,))
            if self.table.entries.get(entry.id) is not entry:
                self.stored.discard(entry.id)


@pytest.fixture
def node():
    return Node()


def test_a_lost_result_is_made_again(node):
    entry = node.submit()
    node.run_all()
    assert entry.state == STORED
    node.lose(entry)
    assert node.dispatch.lineage.recover(entry.id) is None
    assert entry.state == PENDING
    assert [m.EXPECT, entry.id] in node.table.node_out, "readers elsewhere wait for it"
    node.run_all()
    assert entry.state == STORED
    assert node.ran == [entry.id] * 2
    assert node.dispatch.lineage.recovered == 1


def test_what_is_made_again_is_held_until_the_store_has_seen_its_seal(node):
    """Its seal gives no second hold as long as the first one is there."""
    entry = node.submit()
    node.run_all()
    node.lose(entry)
    assert node.dispatch.lineage.recover(entry.id) is None
    lease = node.worker()
    (task,) = lease.inflight.values()
    node.run(lease, task)
    node.drop(entry)
    assert node.table.entries.get(entry.id) is entry
    node.store_says()
    assert entry.id not in node.table.entries
    assert entry.count == 0


def test_a_chain_of_50_whose_links_were_freed_is_run_again_from_its_beginning(node):
    entry = first = node.submit()
    for _ in range(49):
        following = node.submit(entry)
        node.run_all()
        node.drop(entry)
        entry = following
    ids = list(node.ran)
    assert len(ids) == 50
    assert node.stored == {entry.id}
    node.lose(entry)
    node.look_for(entry.id)
    node.run_all()
    assert node.ran == ids * 2
    assert entry.state == STORED
    assert node.stored >= {entry.id}
    assert len(node.table.entries) == 1, "what was in between is gone again"
    assert first.id not in node.table.entries


def test_a_chain_of_50_that_is_still_referenced_and_lost_entirely(node):
    entries = [node.submit()]
    for _ in range(49):
        entries.append(node.submit(entries[-1]))
        node.run_all()
    node.lose(*entries)
    node.look_for(entries[-1].id)
    node.run_all()
    assert all(entry.state == STORED for entry in entries)
    assert sorted(node.ran) == sorted([entry.id for entry in entries] * 2)


def test_a_tree_of_20_other_branches_stay_untouched(node):
    leaves = [node.submit() for _ in range(20)]
    others = [node.submit() for _ in range(5)]
    node.run_all()
    root = node.submit(*leaves)
    node.run_all()
    node.ran.clear()
    node.lose(root, *leaves[:7])
    node.look_for(root.id)
    node.run_all()
    assert sorted(node.ran) == sorted([root.id, *(leaf.id for leaf in leaves[:7])])
    assert all(entry.state == STORED for entry in (root, *leaves, *others))


def test_of_many_results_only_the_lost_ones_are_made(node):
    first = node.submit(num_returns=4)
    returns = [node.table.entries[return_id(first.id, index)] for index in range(4)]
    node.run_all()
    node.worker().outbox.clear()
    node.lose(returns[1], returns[3])
    node.look_for(returns[1].id)
    node.look_for(returns[3].id)
    lease = node.worker()
    (task,) = lease.inflight.values()
    assert [entry.id for entry in task.returns] == [returns[1].id]
    assert node.sent_details(lease, first)["only"] == (1,)
    node.run(lease, task)
    (again,) = lease.inflight.values()
    assert [entry.id for entry in again.returns] == [returns[3].id], "what was lost meanwhile comes next"
    node.run(lease, again)
    assert all(entry.state == STORED for entry in returns)
    assert [entry.holds for entry in returns] == [1] * 4, (
        "the hold of a seal comes once, however often it is sealed"
    )


def test_runs_count_against_max_retries(node):
    entry = node.submit(max_retries=2)
    node.run_all()
    for _ in range(2):
        node.lose(entry)
        node.look_for(entry.id)
        node.run_all()
        assert entry.state == STORED
    node.lose(entry)
    kind, why = node.dispatch.lineage.recover(entry.id)
    assert kind == "unrecoverable"
    assert "max_retries" in why


def test_what_may_not_run_again_and_what_was_put_says_so(node):
    once = node.submit(max_retries=0)
    node.run_all()
    put = node.table.add_stored(node.ids.next_id(), 10)
    for entry in (once, put):
        kind, why = node.dispatch.lineage.recover(entry.id)
        assert kind == "lost"
        assert "no lineage" in why


def test_of_the_reasons_the_one_that_applies_is_given(node):
    once = node.submit(max_retries=0)
    node.run_all()
    _, why = node.dispatch.lineage.recover(once.id)
    assert f"its task {once.callsite.removeprefix('result of ')} has max_retries=0" in why
    put = node.table.add_stored(node.ids.next_id(), 10)
    put.callsite = "train.py:12"
    _, why = node.dispatch.lineage.recover(put.id)
    assert "it was put (train.py:12)" in why
    assert "max_retries" not in why
    once.flags |= BY_ACTOR
    _, why = node.dispatch.lineage.recover(once.id)
    assert "it is a result of actor method" in why


def test_a_put_argument_that_was_freed_is_named(node):
    put = node.table.add_stored(node.ids.next_id(), 10)
    node.stored.add(put.id)
    entry = node.submit(put)
    node.run_all()
    node.drop(put)
    node.lose(entry)
    kind, why = node.dispatch.lineage.recover(entry.id)
    assert kind == "unrecoverable"
    assert put.id.hex() in why
    assert "nothing here refers to it any more" in why
    assert entry.state == STORED, "nothing was begun"


def test_small_arguments_are_kept_with_the_lineage(node):
    small = node.submit()
    node.small.add(small.id)
    node.run_all()
    assert small.state == INLINE
    entry = node.submit(small)
    node.run_all()
    node.drop(small)
    assert small.id not in node.table.entries, "its value is kept, and not the object"
    node.lose(entry)
    node.look_for(entry.id)
    node.run_all()
    assert node.ran == [small.id, entry.id, entry.id]
    node.drop(entry)
    gc.collect()
    node.table.drain_released()
    assert not node.table.entries
    assert not node.table.lineages
    assert list(node.table.orphans) == [entry.id], "its id was announced: others may have it"


def test_an_inline_value_whose_stored_copy_is_lost_is_written_again(node):
    entry = node.table.add_inline(node.ids.next_id(), b"value")
    node.table.escape(entry)
    assert node.table.promotions.pop() is entry
    assert node.dispatch.lineage.recover(entry.id) is None
    assert node.table.promotions == [entry]


def test_what_was_seen_in_the_lost_result_does_not_count_for_the_next(node):
    """And no flag has two meanings: the error of such a run was taken for one that there was no room for."""
    assert not WITHOUT_REFS & (ESCAPED | PROMOTED | WATCHED | GENERATED | REFUSED | GIVEN)
    entry = node.submit()
    node.run_all()
    entry.flags |= WITHOUT_REFS
    node.lose(entry)
    node.look_for(entry.id)
    lease = node.worker()
    (task,) = lease.inflight.values()
    node.dispatch.failed(lease, (m.FAILED, task.id, b"error", (), b"", False))
    assert not entry.flags & WITHOUT_REFS
    assert node.table.promotions == [entry]


def test_a_failed_run_fails_the_object_and_its_readers(node):
    entry = node.submit()
    node.run_all()
    node.lose(entry)
    node.look_for(entry.id)
    lease = node.worker()
    (task,) = lease.inflight.values()
    node.dispatch.failed(lease, (m.FAILED, task.id, b"error", (), b"", False))
    assert entry.state == FAILED
    assert node.dispatch.lineage.recover(return_id(entry.id, 1))[0] == "lost"


def test_lineage_is_bounded_and_says_what_was_dropped():
    node = Node(lineage_bytes_max=3000)
    entries = [node.submit(payload=b"x" * 1000) for _ in range(4)]
    node.run_all()
    assert node.dispatch.lineage.describe()["bytes"] <= 3000
    assert "lineage_bytes_max" in node.dispatch.lineage.recover(entries[0].id)[1]
    assert node.dispatch.lineage.recover(entries[3].id) is None


def test_a_second_reader_joins_the_run(node):
    entry = node.submit()
    node.run_all()
    node.lose(entry)
    node.look_for(entry.id)
    assert node.dispatch.lineage.recover(entry.id) is None
    node.run_all()
    assert node.ran == [entry.id] * 2


def test_an_argument_that_is_lost_too_is_looked_for_before_the_task_is_sent(node):
    argument = node.submit()
    node.run_all()
    entry = node.submit(argument)
    node.run_all()
    node.lose(argument, entry)
    node.look_for(entry.id)
    assert argument.state == BORROWED
    node.run_all()
    assert node.ran == [argument.id, entry.id] * 2


def test_what_only_others_refer_to_is_made_again_too(node):
    """Its ref went into a container of somebody else, and the last one here has gone."""
    small = node.submit()
    node.small.add(small.id)
    node.run_all()
    entry = node.submit(small)
    node.run_all()
    node.table.escape(entry)
    node.drop(small)
    node.table.drop_uses((entry,))
    assert not node.table.entries
    node.lose(entry)
    node.look_for(entry.id)
    assert entry.id in node.table.entries
    node.run_all()
    assert node.ran == [small.id, entry.id, entry.id]
    assert entry.id in node.stored
    assert not node.table.entries, "nobody here refers to it"
    node.lose(entry)
    node.look_for(entry.id)
    node.run_all()
    assert node.ran[-1] == entry.id
    assert len(node.ran) == 4


def test_orphans_are_bounded():
    node = Node(lineage_orphans_max=3)
    entries = [node.submit() for _ in range(8)]
    node.run_all()
    for entry in entries:
        node.table.escape(entry)
        node.table.drop_uses((entry,))
    node.submit()
    node.run_all()
    assert list(node.table.orphans) == [entry.id for entry in entries[-3:]]
    gc.collect()
    assert node.dispatch.lineage.recover(entries[0].id)[0] == "lost"
    assert node.dispatch.lineage.recover(entries[-1].id) is None


STORED_ITEM = (m.RESULT_STORED, 10, (b"worker01", 1))


def produce(node, task, indexes):
    """The worker sends items of a generator."""
    for index in indexes:
        node.stored.add(return_id(task.id, index + 1))
        node.dispatch.item(task.lease, task.id, index, STORED_ITEM)


def end(node, task, total):
    results = [(m.RESULT_INLINE, b"total", (), None, total)]
    node.dispatch.done(task.lease, (m.DONE, task.id, results, b"", 10.0))


def start_generator(node):
    node.submit(num_returns="streaming")
    (task,) = node.worker().inflight.values()
    return task


def running(node):
    (task,) = node.worker().inflight.values()
    return task


def test_lost_items_of_a_generator_are_made_again_alone(node):
    task = start_generator(node)
    produce(node, task, range(4))
    end(node, task, 4)
    second, fourth = (node.table.entries[return_id(task.id, index)] for index in (2, 4))
    node.lose(second, fourth)
    node.look_for(second.id)
    again = running(node)
    details = node.dispatch.encode(again)[5]
    assert (details["stream"], details["only"], details["received"]) == (True, (2,), 0)
    node.look_for(fourth.id)
    assert (second.state, fourth.state) == (PENDING, PENDING)
    produce(node, again, [1])
    end(node, again, 2)
    assert second.state == STORED
    last = running(node)
    assert last.only == (0, (4,)), "what was lost meanwhile is next"
    produce(node, last, [3])
    end(node, last, 4)
    assert fourth.state == STORED
    assert node.dispatch.lineage.describe()["recovered"] == 2
    node.table.validate()


def test_an_item_that_is_lost_while_its_generator_runs_waits_for_its_end(node):
    task = start_generator(node)
    produce(node, task, [0])
    first = node.table.entries[return_id(task.id, 1)]
    node.lose(first)
    node.look_for(first.id)
    assert first.state == PENDING
    assert running(node) is task
    produce(node, task, [1])
    end(node, task, 2)
    again = running(node)
    assert again.only == (0, (1,))
    produce(node, again, [0])
    end(node, again, 1)
    assert first.state == STORED


def test_items_that_a_generator_does_not_make_again_are_lost(node):
    task = start_generator(node)
    produce(node, task, range(2))
    end(node, task, 2)
    second = node.table.entries[return_id(task.id, 2)]
    node.lose(second)
    node.look_for(second.id)
    end(node, running(node), 1)
    assert second.state == FAILED
    first = node.table.entries[return_id(task.id, 1)]
    node.lose(first)
    node.look_for(first.id)
    again = running(node)
    node.dispatch.failed(again.lease, (m.FAILED, again.id, b"error", (), b"", False))
    assert first.state == FAILED
    node.table.validate()


def test_an_error_of_a_run_for_a_lost_result_is_promoted_with_the_hold_that_there_is(node):
    entry = node.submit()
    node.run_all()
    assert entry.holds == 1
    node.lose(entry)
    node.look_for(entry.id)
    lease = node.worker()
    (task,) = lease.inflight.values()
    node.dispatch.failed(lease, (m.FAILED, task.id, b"it raised", (), b"", False))
    assert entry.state == FAILED
    assert node.table.promotions == [entry], "readers elsewhere wait for it"
    assert entry.holds == 1


def test_an_orphan_keeps_no_object(node):
    """An argument with refs inside is counted by the lineage, and goes with the last ref to what was made of it."""
    inner = node.submit()
    node.run_all()
    outer = node.table.add_inline(node.ids.next_id(), b"refs", [inner])
    first = node.submit(outer)
    second = node.submit(first)
    node.run_all()
    for entry in (first, second):
        node.table.escape(entry)
    node.drop(inner, outer)
    assert inner.id in node.table.entries, "the lineages need it"
    node.drop(first, second)
    gc.collect()
    node.table.drain_released()
    assert not node.table.entries
    assert not node.table.orphans

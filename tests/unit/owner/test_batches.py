"""How many bytes go to a worker at once: what is beyond waits in its queue; too many inline values go by way of the store."""

from __future__ import annotations

import pytest

from shoal.config import Config
from shoal.ids import split_ids
from shoal.owner.objects import ESCAPED, INLINE
from shoal.wire import messages as m
from submitter import Owner

KIB = 1024


@pytest.fixture
def owner():
    owner = Owner(Config(inline_bytes_max=10 * KIB, inline_args_bytes_max=50 * KIB))
    yield owner
    owner.table.validate()
    owner.dispatch.validate()


def sent(lease):
    return [message for message in lease.outbox if message[0] == m.TASK]


def values(owner, *sizes):
    return [owner.table.add_inline(owner.ids.next_id(), bytes(size)) for size in sizes]


class Sender:
    """Flushes outboxes to sockets that take nothing."""

    def __init__(self, owner, limit):
        self.owner = owner
        self.limit = limit
        self.waiting = {}
        owner.dispatch.flush_now = self.flush

    def flush(self):
        while self.owner.dispatch.dirty:
            lease = self.owner.dispatch.dirty.pop()
            self.waiting[lease] = self.waiting.get(lease, 0) + lease.outbox_bytes
            lease.outbox, lease.outbox_bytes = [], 0
            lease.held_back = self.waiting[lease] > self.limit


def test_tasks_wait_in_line_while_too_much_waits_at_a_socket(owner):
    sender = Sender(owner, 300 * KIB)
    entries = [owner.submit(payload=bytes(30 * KIB)) for _ in range(30)]
    lease = owner.grant()
    sender.flush()
    assert lease.held_back
    assert 300 * KIB < sender.waiting[lease] <= 300 * KIB + 160 * KIB
    assert len(lease.inflight) < 30
    while lease.held_back:
        sender.waiting[lease] = 0
        lease.held_back = False
        lease.queue.go_on()
        sender.flush()
    assert set(lease.inflight) == {entry.id for entry in entries}


def test_a_task_goes_elsewhere_while_a_lease_is_held_back(owner):
    sender = Sender(owner, 100 * KIB)
    for _ in range(20):
        owner.submit(payload=bytes(30 * KIB))
    first, second = owner.grant(), owner.grant()
    sender.flush()
    assert first.held_back
    assert len(first.inflight) == len(second.inflight)


def test_the_largest_of_too_many_inline_values_go_by_way_of_the_store(owner):
    entries = values(owner, *[4 * KIB, 9 * KIB, 1 * KIB] * 6)
    owner.submit(*entries)
    (message,) = sent(owner.grant())
    given = message[4][1]
    stored = {at: value for at, value in enumerate(given) if type(value) is tuple}
    assert sum(len(value) for value in given if type(value) is bytes) <= 50 * KIB
    assert {len(entries[at].value) for at in stored} == {9 * KIB}
    assert all(entries[at].id == value[0] and entries[at].flags & ESCAPED for at, value in stored.items())
    assert [entry.state for entry in entries] == [INLINE] * 18
    assert set(owner.table.promotions) == {entries[at] for at in stored}
    # They are announced before the place that their readers quote.
    messages = enumerate(owner.table.take_node_messages(), 1)
    announced = {
        object_id: at for at, msg in messages if msg[0] == m.EXPECT for object_id in split_ids(msg[1])
    }
    assert set(announced) == {value[0] for value in stored.values()}
    assert all(value[1][1] >= announced[value[0]] for value in stored.values())

"""Which node tasks prefer: where most bytes of their stored arguments are, and nothing at all on one node."""

import dataclasses

import pytest

from shoal.config import Config
from shoal.ids import IdSource
from shoal.options import TaskOptions
from shoal.owner.dispatch import Dispatcher
from shoal.owner.objects import PENDING
from shoal.owner.table import ObjectTable
from shoal.owner.tasks import FunctionExport, TaskRecord
from shoal.wire import messages as m

OWN, B, C = b"aaa", b"bbb", b"ccc"
MIB = 1024**2


class Owner:
    def __init__(self):
        self.table = ObjectTable(OWN + b"proc0")
        self.ids = IdSource(self.table.proc)
        self.dispatch = Dispatcher(self.table, dataclasses.replace(Config(), locality_bytes_min=MIB), bytes)
        self.function = FunctionExport(b"f" * 16, b"code", "f", [])

    def stored(self, tag, size):
        """An argument that a worker of that node has sealed."""
        entry = self.table.add(self.ids.next_id(), PENDING)
        self.table.fulfil_stored(entry, size, (tag + b"work0", 7))
        return entry

    def submit(self, *arguments, **options):
        made = TaskOptions(**options)
        queue = self.dispatch.queue_for(made.shape_key(), made.resource_units(), made.constraints())
        task = TaskRecord(self.ids.next_id(), self.function, made, b"payload", queue)
        for entry in arguments:
            entry.count += 1
        task.lifted = arguments
        task.places = tuple(range(len(arguments)))
        entry = self.table.add(task.id, PENDING)
        entry.task = task
        task.returns = (entry,)
        self.dispatch.submit(task)
        self.dispatch.validate()
        return task

    def grant(self, task, number, tag):
        """A worker on that node for tasks like this one."""
        node = tag.hex() + "00" * 13
        return self.dispatch.granted(task.queue.shape_id, number, tag + b"w%04d" % number, number, None, node)

    def finish(self, lease, run_us=1e6):
        """The task at that worker ends; what the worker got after that."""
        (task_id,) = lease.inflight
        self.dispatch.done(lease, (m.DONE, task_id, [b"value"], b"", run_us))
        lease.outbox.clear()
        self.dispatch.settle(lease)
        self.dispatch.validate()
        return [message[1] for message in lease.outbox if message[0] == m.TASK]

    def demands(self):
        return [message for message in self.table.take_node_messages() if message[0] == m.DEMAND]


@pytest.fixture
def owner():
    return Owner()


def prefers(task):
    return task.queue.options.get("prefer"), task.queue.options.get("prefer_bytes")


def test_on_one_node_nothing_is_looked_at(owner):
    task = owner.submit(owner.stored(OWN, 100 * MIB))
    assert prefers(task) == (None, None)
    assert all(queue.nearer is None for queue in owner.dispatch.queues.values())


def test_a_task_prefers_the_node_of_its_arguments(owner):
    task = owner.submit(owner.stored(B, 3 * MIB))
    assert prefers(task) == (B, 3 * MIB)
    ((_, _, resources, backlog, options),) = owner.demands()
    assert (resources, backlog) == ({"CPU": 10_000}, 1)
    assert (options["prefer"], options["prefer_bytes"]) == (B, 3 * MIB)


def test_most_bytes_win_and_those_that_are_here_count(owner):
    assert prefers(
        owner.submit(owner.stored(B, 3 * MIB), owner.stored(C, 4 * MIB), owner.stored(B, 2 * MIB))
    ) == (
        B,
        5 * MIB,
    )
    assert prefers(owner.submit(owner.stored(B, 3 * MIB), owner.stored(OWN, 2 * MIB)))[0] == B
    assert prefers(owner.submit(owner.stored(B, 3 * MIB), owner.stored(OWN, 3 * MIB))) == (None, None)


def test_little_is_not_worth_it(owner):
    owner.stored(B, 1)
    assert prefers(owner.submit(owner.stored(B, MIB - 1))) == (None, None)


def test_it_is_decided_when_the_arguments_are_there(owner):
    first = owner.submit()
    second = owner.submit(first.returns[0])
    lease = owner.dispatch.granted(first.queue.shape_id, 1, B + b"work0", 1, None)
    owner.dispatch.done(lease, (m.DONE, first.id, [(m.RESULT_STORED, 2 * MIB, (B + b"work0", 3))], b"", 10.0))
    assert prefers(first) == (None, None)
    assert prefers(second) == (B, 2 * MIB)


def test_tasks_that_say_where_they_run_have_no_preference(owner):
    argument = owner.stored(B, 3 * MIB)
    assert "prefer" not in owner.submit(argument, scheduling_strategy="SPREAD").queue.options
    assert owner.submit(argument, label_selector={"a": "b"}).queue.options["labels"]


def test_one_queue_for_each_preferred_node(owner):
    one, two = (owner.submit(owner.stored(B, 3 * MIB)) for _ in range(2))
    other, none = owner.submit(owner.stored(C, 3 * MIB)), owner.submit()
    assert one.queue is two.queue
    assert len({one.queue, other.queue, none.queue}) == 3


def test_a_worker_takes_what_is_drawn_to_its_node_first(owner):
    first, second = owner.submit(), owner.submit()
    lease = owner.grant(first, 1, B)
    near, elsewhere = owner.submit(owner.stored(B, 3 * MIB)), owner.submit(owner.stored(C, 3 * MIB))
    assert owner.finish(lease) == [near.id], (
        "there is no worker for it alone, and it does not have to wait for one"
    )
    assert owner.finish(lease) == [second.id]
    assert owner.finish(lease) == []
    assert elsewhere.lease is None


def test_a_worker_of_tasks_that_are_drawn_somewhere_takes_others_when_there_are_no_more(owner):
    near = owner.submit(owner.stored(B, 3 * MIB))
    lease = owner.grant(near, 1, B)
    anywhere, elsewhere = owner.submit(), owner.submit(owner.stored(C, 3 * MIB))
    assert owner.finish(lease) == [anywhere.id]
    assert owner.finish(lease) == []
    assert elsewhere.lease is None


def test_a_worker_that_is_wanted_back_takes_nothing(owner):
    first = owner.submit()
    lease = owner.grant(first, 1, B)
    near = owner.submit(owner.stored(B, 3 * MIB))
    owner.dispatch.recall(1)
    assert owner.finish(lease) == []
    assert near.lease is None
    assert lease.lease_id not in owner.dispatch.leases


@pytest.mark.parametrize("end", ["given back", "died"])
def test_what_a_worker_took_from_another_queue_returns_there_and_goes_on(owner, end):
    first = owner.submit()
    lease = owner.grant(first, 1, B)
    near = owner.submit(owner.stored(B, 3 * MIB))
    owner.finish(lease)
    other = owner.grant(near, 2, C)
    assert not other.inflight
    if end == "given back":
        owner.dispatch.given_back(lease, [near.id])
    else:
        owner.dispatch.worker_died(1, bytes(16), {"message": ""})
    assert list(other.inflight.values()) == [near]
    owner.dispatch.validate()


def test_the_daemon_hears_that_nothing_waits_after_a_refusal(owner):
    first, second = owner.submit(), owner.submit()
    queue = first.queue
    assert [message[3] for message in owner.demands()] == [1]
    owner.grant(first, 1, OWN)
    owner.grant(first, 2, OWN)  # this one crossed the last demand, which the daemon counts from anew
    assert second.lease is not None
    owner.demands()
    owner.dispatch.refused(queue, "its placement group is gone")
    assert [message[3] for message in owner.demands()] == [0]


def test_short_tasks_go_many_at_a_time(owner):
    first = owner.submit()
    lease = owner.grant(first, 1, B)
    many = [owner.submit(owner.stored(B, 3 * MIB)) for _ in range(20)]
    assert owner.finish(lease, run_us=10.0) == [task.id for task in many]


def test_queues_of_nodes_that_nothing_is_drawn_to_any_more_are_forgotten(owner):
    plain = owner.submit().queue
    for number in range(2 * Config().shapes_idle_max):
        tag = number.to_bytes(3, "big")
        task = owner.submit(owner.stored(tag, 3 * MIB))
        owner.finish(owner.grant(task, number, tag))
        owner.dispatch.return_idle(0.0, 0.0)
    assert len(plain.near) <= Config().shapes_idle_max
    assert len(owner.dispatch.by_shape_id) <= Config().shapes_idle_max

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

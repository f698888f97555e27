"""A process that calls one actor, by hand: the core without sockets, for tests."""

import dataclasses

from shoal.actors.calls import ActorCalls
from shoal.actors.method import ClassTable
from shoal.config import Config
from shoal.ids import IdSource
from shoal.options import TaskOptions
from shoal.owner.dispatch import Dispatcher
from shoal.owner.leases import Lease
from shoal.owner.objects import FAILED, PENDING, STORED
from shoal.owner.table import ObjectTable
from shoal.owner.tasks import FunctionExport, TaskRecord
from shoal.serialization import deserialize
from shoal.wire import messages as m


def make_error(kind, task, details=None):
    return kind.encode()


class Caller:
    """A process with one actor, by hand."""

    def __init__(self, ordered=True, sent_max=10_000):
        self.ids = IdSource()
        self.table = ObjectTable(self.ids.process_id)
        config = dataclasses.replace(Config(), actor_calls_sent_max=sent_max)
        self.dispatch = Dispatcher(self.table, config, make_error)
        self.lifetime = self.table.add(self.ids.next_id(), STORED)
        self.calls = ActorCalls(self.lifetime.id, ClassTable("A", {}, ordered), self.dispatch, self.lifetime)
        self.function = FunctionExport(b"f", b"", "A.f", [])
        self.incarnation = 0

    def argument(self):
        return self.table.add(self.ids.next_id(), PENDING)

    def submit(self, *arguments, retries=0):
        options = dataclasses.replace(TaskOptions(), max_retries=retries)
        task = TaskRecord(self.ids.next_id(), self.function, options, b"payload", self.calls)
        for entry in arguments:
            entry.count += 1
        task.lifted = arguments
        entry = self.table.add(task.id, PENDING)
        entry.task = task
        task.returns = (entry,)
        self.calls.submit(task)
        return entry

    def connect(self):
        """A connection to a new process."""
        self.incarnation += 1
        return self.connect_again()

    def connect_again(self):
        """A new connection to the same process."""
        number = self.incarnation
        lease = Lease(0, b"w%07d" % number, 100 + number, self.calls, None)
        self.calls.connected(lease, number, {})
        return lease

    def answer(self, lease, task_id):
        self.dispatch.done(lease, (m.DONE, task_id, [b"v"], b"", 1.0))
        self.calls.settle()

    def validate(self):
        self.calls.validate()
        self.table.validate()


def error_of(entry):
    assert entry.state == FAILED, entry
    return deserialize(entry.value)


def sent(lease):
    """Ids of the calls in the lease's outbox."""
    return [message[1] for message in lease.outbox if message[0] == m.TASK]

"""A submitter's core without sockets: grants and replies are given by hand."""

from __future__ import annotations

from shoal.config import Config
from shoal.ids import IdSource
from shoal.options import TaskOptions
from shoal.owner.dispatch import Dispatcher
from shoal.owner.objects import PENDING
from shoal.owner.table import ObjectTable
from shoal.owner.tasks import FunctionExport, TaskRecord
from shoal.wire import messages as m


class Owner:
    """A submitter; grants and replies are given by hand."""

    def __init__(self, config=None):
        self.ids = IdSource()
        self.table = ObjectTable(self.ids.process_id)
        self.dispatch = Dispatcher(
            self.table, config or Config(), lambda kind, task, details=None: kind.encode()
        )
        self.function = FunctionExport(b"f" * 16, b"code", "f", [])
        self.function.mean_us = 10.0  # short: many are sent ahead
        self.leases = 0

    def submit(self, *arguments, payload=b"payload", **options):
        options = TaskOptions().merged(**options)
        queue = self.dispatch.queue_for(options.shape_key(), options.resource_units(), {})
        task = TaskRecord(self.ids.next_id(), self.function, options, payload, queue)
        for entry in arguments:
            entry.count += 1
        task.lifted = arguments
        entry = self.table.add(task.id, PENDING)
        entry.task = task
        if options.num_returns == 1:
            task.returns = (entry,)
        else:
            task.set_returns(self.table, entry, options.num_returns)
        self.dispatch.submit(task)
        return entry

    def grant(self):
        self.leases += 1
        return self.dispatch.granted(1, self.leases, b"w%07d" % self.leases, self.leases, None)

    def done(self, lease, entry):
        self.dispatch.done(lease, (m.DONE, entry.id, [b"v"], b"", 10.0))
        self.dispatch.settle(lease)

    def sent_details(self, lease, entry):
        return next(message[5] for message in lease.outbox if message[0] == m.TASK and message[1] == entry.id)

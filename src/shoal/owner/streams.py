"""Items of streaming generators, as their owner receives them.

Events: an item arrived, the generator ended, its task failed. Effects: entries for the items, readers that become ready.

Invariants: an item that was not taken is counted once for its stream; a second attempt repeats items, and what is here
already stands. The number of items is known once, and then nothing is added.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from shoal.ids import return_id
from shoal.owner.objects import GENERATED, PENDING, RUN_ENDED, STORED

if TYPE_CHECKING:
    from shoal.owner.objects import Entry
    from shoal.owner.table import ObjectTable
    from shoal.owner.tasks import Stream, TaskRecord

NO_BACKPRESSURE = 2**62


def backlog_of(task: TaskRecord) -> int | None:
    """How many items of a generator may be unread; None: as configured where it runs."""
    if task.options.num_returns == "dynamic" or task.only is not None:
        return NO_BACKPRESSURE  # its reader comes when it has ended; or its items are waited for by others
    return task.options.generator_backpressure_num_objects


def item_arrived(
    table: ObjectTable, task: TaskRecord, stream: Stream, index: int, result: Any
) -> Entry | None:
    """The generator yielded; repeated items of a second attempt are dropped. Returns the item's entry if it is stored."""
    object_id = return_id(task.id, index + 1)
    entry = table.entries.get(object_id)
    if entry is None:
        wanted = index >= stream.taken and not stream.closed
        entry = table.add(object_id, PENDING, 1 if wanted else 0)
        entry.flags |= GENERATED
        if wanted:
            stream.items[index] = entry
    if index < stream.unsure_until:
        table.fulfil_again(entry, result)
        table.reclaim((object_id,), RUN_ENDED)
    else:
        table.fulfil(entry, result)
    _wake(stream)
    return entry if entry.state == STORED and table.entries.get(object_id) is entry else None


def fail_missing(table: ObjectTable, task: TaskRecord, error: bytes, container: Entry | None) -> None:
    """A generator that ran again for items that were lost has failed, and so have they."""
    for index in task.only[1] if task.only is not None else ():
        entry = table.entries.get(return_id(task.id, index))
        if entry is not None and entry.state == PENDING:
            table.fail(entry, error, container)


def ended(stream: Stream, total: int) -> None:
    """The generator has returned after ``total`` items."""
    stream.total = total
    _wake(stream)


def ended_early(task: TaskRecord) -> None:
    """A generator's task failed: its completion, which has failed too, is its last item."""
    stream, error = task.stream, task.returns[0]
    if stream is None or stream.total is not None:
        return
    stream.total = stream.taken + len(stream.items)
    if not stream.closed:
        error.count += 1
        stream.items[stream.total] = error
        stream.total += 1
    _wake(stream)


def _wake(stream: Stream) -> None:
    waiters, stream.waiters = stream.waiters, []
    for waiter in waiters:
        waiter.ready = True

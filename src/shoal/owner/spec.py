"""A task as its worker gets it: the TASK message, made when it is sent."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from shoal.owner import streams
from shoal.owner.objects import INLINE
from shoal.wire import messages as m

if TYPE_CHECKING:
    from shoal.owner.table import ObjectTable
    from shoal.owner.tasks import TaskRecord

_all_bytes = frozenset({bytes}).issuperset


def encode_task(table: ObjectTable, task: TaskRecord) -> tuple[Any, ...]:
    """(TASK, id, function id, payload, lifted arguments, options or None).

    Lifted arguments are () or (places, values), as in `TaskRecord`; a value is bytes if inline, (id, stamp) if stored,
    (bytes, stamp, stamps) if refs are inside. Options are None for a plain task with one return: most are.
    """
    lifted: tuple[Any, ...] = ()
    if task.lifted:
        values = [
            (entry.id, table.stamp_of(entry))
            if entry.state != INLINE
            else entry.value
            if entry.contained is None
            else (entry.value, *table.stamps_inside(entry))
            for entry in task.lifted
        ]
        lifted = (task.places, values)
    options = task.options
    details: dict[str, Any] | None = None
    if (
        task.nested
        or len(task.returns) != 1
        or task.depth
        or task.attempt
        or task.careful
        or task.stream
        or options.max_calls
        or options.name
    ):
        details = {
            "returns": task.only[0] if task.only else len(task.returns),
            "only": task.only[1] if task.only else None,
            "stream": task.stream is not None,
            "depth": task.depth,
            "max_calls": options.max_calls,
            "name": options.name,
            "stamp": table.stamp_now() if task.nested else None,
            "stamps": {e.id: e.stamp for e in task.nested if e.stamp} if task.nested else None,
            "attempt": task.attempt,
            "careful": task.careful,
            "backlog": streams.backlog_of(task) if task.stream else None,
            "taken": task.stream.taken if task.stream else 0,
            "received": task.stream.taken + len(task.stream.items) if task.stream else 0,
        }
    return (m.TASK, task.id, task.function.function_id, task.payload, lifted, details)


def message_bytes(message: tuple[Any, ...]) -> int:
    """About how long a message of `encode_task` is, so far as its arguments make it long."""
    payload, lifted = message[3], message[4]
    if not lifted:
        return len(payload)
    values = lifted[1]
    if not _all_bytes(map(type, values)):
        values = [value if type(value) is bytes else value[0] for value in values]
    return len(payload) + sum(map(len, values))


def store_largest(table: ObjectTable, task: TaskRecord, message: tuple[Any, ...], excess: int) -> None:
    """Have the largest inline values of a message go by way of the store, until it is ``excess`` bytes shorter."""
    if not task.lifted:
        return
    values = message[4][1]
    inline = [(len(entry.value), at) for at, entry in enumerate(task.lifted) if entry.state == INLINE]
    for size, at in sorted(inline, reverse=True):
        entry = task.lifted[at]
        table.escape(entry)
        values[at] = (entry.id, table.stamp_of(entry))
        excess -= size
        if excess <= 0:
            break

"""What `.remote()` does for a task as for a call of an actor: its record gets what came with it, and its caller the refs."""

from __future__ import annotations

from operator import attrgetter
from typing import TYPE_CHECKING, Any

from shoal.client.packing import NOTHING_PACKED, Packed
from shoal.generator import ObjectRefGenerator
from shoal.owner.objects import PENDING, Entry
from shoal.refs import ObjectRef

if TYPE_CHECKING:
    from shoal.client.runtime import Runtime
    from shoal.context import TaskContext
    from shoal.options import TaskOptions
    from shoal.owner.leases import ShapeQueue
    from shoal.owner.table import ObjectTable
    from shoal.owner.tasks import TaskRecord

_entry_id = attrgetter("id")


def enter(
    table: ObjectTable, task: TaskRecord, packed: Packed, context: TaskContext | None, count: int | str
) -> Entry:
    """Give a new task its arguments, the task that submits it, and ``count`` results in ``table`` (lock held).

    Returns the entry of the first result, or of a generator's completion.
    """
    if packed is not NOTHING_PACKED:
        _, task.lifted, task.places, task.nested = packed
    if context is not None:
        task.parent = context.task_id
        task.depth = context.depth + 1
    entry = table.entries[task.id] = Entry(task.id, PENDING, 1, task)
    if count == 1:
        task.returns = (entry,)
    else:
        task.set_returns(table, entry, count)
    return entry


def new_queue(runtime: Runtime, options: TaskOptions, name: str) -> ShapeQueue:
    """The queue of a shape's first task (lock not held: its environment may have to be packed)."""
    environment = runtime.environments.of(options.runtime_env)
    wishes = {"name": name, **options.constraints()}
    if environment is not None:
        wishes["env"] = environment["key"]
    with runtime.lock:
        queue = runtime.dispatch.queue_for(options.shape_key(), options.resource_units(), wishes)
        queue.environment = environment
    return queue


def refs_of(runtime: Runtime, task: TaskRecord, first: Entry, returns: tuple[Entry, ...]) -> Any:
    """What the caller gets who asked for other than one result: a list of refs, None for no results, or a generator of refs."""
    if task.stream is not None:
        return ObjectRefGenerator(runtime, task, ObjectRef(first.id, first))
    return [*map(ObjectRef, map(_entry_id, returns), returns)] or None

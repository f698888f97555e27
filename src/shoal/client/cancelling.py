"""Cancelling by ref: of own tasks at once, of others' through their owner."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from shoal.actors.calls import ActorCalls
from shoal.owner.objects import BORROWED
from shoal.wire import messages as m

if TYPE_CHECKING:
    from shoal.client.runtime import Runtime
    from shoal.owner.objects import Entry
    from shoal.owner.tasks import TaskRecord
    from shoal.refs import ObjectRef


def cancel_ref(runtime: Runtime, ref: ObjectRef[Any], force: bool, recursive: bool) -> None:
    """Cancel the task that makes ``ref``, wherever it was submitted; nothing if it has finished.

    Raises ValueError for a call of an actor with ``force``.
    """
    with runtime.lock:
        entry = runtime.table.entry_of(ref)
        if entry.task is not None:
            if force and _is_call(entry):
                raise ValueError(
                    "a call of an actor cannot be cancelled with force; shoal.kill(handle) ends the actor"
                )
            cancel_own(runtime, entry.task, force, recursive)
        elif entry.state == BORROWED:
            runtime.table.to_node([m.CANCEL_TASK, entry.id, force, recursive])
        runtime.flush()


def cancel_asked(runtime: Runtime, message: list[Any]) -> None:
    """CANCEL_ASKED: somebody who has a ref wants its task, submitted here, to stop (lock held)."""
    _, object_id, force, recursive = message
    entry = runtime.table.entries.get(object_id)
    if entry is not None and entry.task is not None:
        cancel_own(runtime, entry.task, force and not _is_call(entry), recursive)


def _is_call(entry: Entry) -> bool:
    queue: object = entry.task.queue if entry.task is not None else None
    return isinstance(queue, ActorCalls)


def cancel_own(runtime: Runtime, task: TaskRecord, force: bool, recursive: bool) -> None:
    """Cancel a task, or a call of an actor, that this process has submitted (lock held)."""
    calls: object = task.queue
    runtime.dispatch.cancel(task, force, recursive)
    if isinstance(calls, ActorCalls):
        calls.settle()

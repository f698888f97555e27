"""A `.remote()` that a signal handler has ended by an exception (Ctrl-C): nobody has its refs, so nothing of the task stays.

The handler may have raised anywhere: before the task was known, while it was sent, or when its ref was just made. A ref that
was made has died with the exception and is among the released ones, so the task's results have no use that is not this call's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from shoal.client.cancelling import cancel_own
from shoal.client.interrupts import Interruptible, nothing
from shoal.owner.tasks import DONE

if TYPE_CHECKING:
    from shoal.client.packing import Packed
    from shoal.client.runtime import Runtime
    from shoal.owner.tasks import TaskRecord


def withdraw(runtime: Runtime, task_id: bytes, task: TaskRecord | None, packed: Packed) -> None:
    """Cancel ``task`` if it was submitted; give up what was counted for it. None: its record was not made yet.

    An exception between a count and what follows from it, a few instructions, can leave a use too many; that object stays.
    """
    table, dispatch = runtime.table, runtime.dispatch
    with Interruptible(nothing), runtime.lock:
        table.drain_released()
        if task is not None and (task.state == DONE or task_id in dispatch.tasks):
            cancel_own(runtime, task, force=False, recursive=True)
            if task.stream is not None:
                table.drop_uses(task.stream.close())  # some may have come by now
            table.drop_uses([entry for entry in task.returns if entry.count > 0])
        else:
            for entry in task.returns if task is not None else ():
                table.entries.pop(entry.id, None)
            table.entries.pop(task_id, None)
            _, lifted, _, nested = packed
            table.drop_uses([*lifted, *(nested or ())])
        table.drop_unused()
        runtime.flush()

"""Running children in place: a task that would block in `get` on tasks of its own runs them itself, while it waits anyway.

So nesting needs neither another process nor a round trip. Only on the main thread (tasks run there), and only in waits for
all of the objects: a child in place cannot be left when another one is faster.

Nor can it be left when a timeout is over. So a wait with a timeout leaves its children to other processes, but in tasks that
are nested config.inline_timed_depth_min deep: else recursion would take a process for every level. There the time is looked at
between children; one that runs for longer makes its parent's wait end late, with its value. The outer levels end in time
all the same.

Whether a given child may is the executor's to say (`may_run_here`); that nobody else takes it, the dispatcher's.
"""

from __future__ import annotations

import threading
from time import monotonic
from typing import TYPE_CHECKING

from shoal.context import current_task
from shoal.owner.objects import PENDING

if TYPE_CHECKING:
    from shoal.client.runtime import Runtime
    from shoal.owner.objects import Entry
    from shoal.owner.tasks import TaskRecord

_DEPENDENCIES_DEEP_MAX = 64  # of a task's arguments: beyond, it waits like anywhere else


def run_in_place(runtime: Runtime, missing: list[Entry], deadline: float | None) -> None:
    """Run unstarted tasks of this process that make ``missing``, and those that they wait for; others are left alone.

    After ``deadline`` (monotonic, seconds) none is begun.
    """
    run = runtime.run_here
    context = current_task.get()
    if run is None or context is None:
        return
    if deadline is not None and context.depth < runtime.config.inline_timed_depth_min:
        return
    if threading.current_thread() is not threading.main_thread():
        return
    dispatch = runtime.dispatch
    for entry in missing:
        while entry.state == PENDING and (deadline is None or monotonic() < deadline):
            with runtime.lock:
                task = _claimable(entry, _DEPENDENCIES_DEEP_MAX)
                if task is None or not runtime.may_run_here(task) or not dispatch.take_for_here(task):
                    break
            run(task)


def _claimable(entry: Entry, depth: int) -> TaskRecord | None:
    """The task of ``entry``, or one that it waits for, if it is here and nowhere else."""
    task = entry.task
    if task is None or task.lease is not None:
        return None
    waits = False
    for needed in task.lifted if depth else ():
        if needed.state == PENDING:
            waits = True
            found = _claimable(needed, depth - 1)
            if found is not None:
                return found
    return None if waits else task

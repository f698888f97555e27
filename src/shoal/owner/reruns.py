"""Holds that runs of a task left behind, when a run died before it could tell what it had sealed.

A seal of a result registers the submitter's hold; a second seal of the same id registers none, as long as the first copy is
there. So after a run that was not heard of it is not clear how many holds there are. `TaskRecord.unheard` is then the place in
a stream after which no ended run has sealed anything. At the end of the task:
- What the last run sealed is held until the daemon has processed that seal (`ObjectTable.fulfil_again`, by a *barrier*): released
  before, the hold of the dead run's copy would pay for it, and the late seal would register another one.
- What the last run did not seal may have been sealed by an earlier one: the submitter looks (`ObjectTable.reclaim`).
  If that copy died with its node, a hold that was registered for it here may be left: all but the known ones are given up.

A generator tells of its items as they come: what a dead run had sealed and not told are the next ones after those that arrived
(`Stream.unsure_until`). Items that arrived before are known, and may be gone again: they are never looked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from shoal.ids import return_id
from shoal.owner.objects import RUN_ENDED
from shoal.owner.streams import NO_BACKPRESSURE, backlog_of
from shoal.wire import messages as m

if TYPE_CHECKING:
    from shoal.owner.table import ObjectTable
    from shoal.owner.tasks import TaskRecord

# Attempts whose errors are looked for; what older ones left stays until this process ends.
_ATTEMPTS_SEARCHED_MAX = 1000


def run_died(task: TaskRecord, backlog_max: int) -> None:
    """A run of ``task`` ended with its worker. ``backlog_max`` bounds the items that a generator made and nobody heard of."""
    if task.unheard is None:
        task.unheard = RUN_ENDED
    stream = task.stream
    if stream is not None:
        arrived = stream.taken + len(stream.items)
        backlog = min(backlog_of(task) or NO_BACKPRESSURE, backlog_max)
        stream.unsure_until = max(stream.unsure_until, arrived + backlog)


def run_failed(task: TaskRecord, container: tuple[Any, ...]) -> None:
    """A run of ``task`` has failed; ``container`` as in FAILED. Of several returns some may be sealed already."""
    if len(task.returns) > 1:
        task.unheard = container[1] if container else task.unheard or RUN_ENDED


def reclaim(table: ObjectTable, task: TaskRecord) -> None:
    """The last run of ``task`` has ended: look for what runs sealed besides what is known."""
    assert task.unheard is not None
    ids = [entry.id for entry in task.returns]
    stream = task.stream
    if stream is not None:
        arrived = stream.taken + len(stream.items)
        ids += [return_id(task.id, index + 1) for index in range(arrived, stream.unsure_until)]
    first = max(0, task.attempt - _ATTEMPTS_SEARCHED_MAX)
    ids += [return_id(task.id, m.ERROR_INDEX - attempt) for attempt in range(first, task.attempt + 1)]
    table.reclaim(ids, task.unheard)

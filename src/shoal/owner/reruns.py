"""Holds that runs of a task left behind, when a run died before it could tell what it had sealed.

A seal of a result registers the submitter's hold; a second seal of the same id registers none, as long as the first copy is
there. So after a run that was not heard of (`TaskRecord.unheard`) it is not clear how many holds there are:
- What the last run sealed is held until the daemon has processed that seal (`ObjectTable.fulfil_again`, by a *barrier*): released
  before, the hold of the dead run's copy would pay for it, and the late seal would register another one.
- What the last run did not seal may have been sealed by a dead one: the submitter looks (`ObjectTable.reclaim`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from shoal.ids import return_id
from shoal.owner.streams import NO_BACKPRESSURE, backlog_of
from shoal.wire import messages as m

if TYPE_CHECKING:
    from shoal.owner.objects import Stamp
    from shoal.owner.table import ObjectTable
    from shoal.owner.tasks import TaskRecord

_ATTEMPTS_SEARCHED_MAX = (
    1000  # attempts whose errors are looked for; what older ones left stays until this process ends
)


def reclaim(table: ObjectTable, task: TaskRecord, backlog_max: int, stamp: Stamp) -> None:
    """Look for what was sealed of ``task`` besides what is known: results, items, containers of errors.

    Nothing of it is sealed after ``stamp``. ``backlog_max`` bounds the items that a generator made and nobody heard of.
    """
    count = len(task.returns)
    if task.stream is not None:
        known = task.stream.taken + len(task.stream.items)
        count = 1 + known + min(backlog_of(task) or NO_BACKPRESSURE, backlog_max)
    ids = [return_id(task.id, index) for index in range(count)]
    first = max(0, task.attempt - _ATTEMPTS_SEARCHED_MAX)
    ids += [return_id(task.id, m.ERROR_INDEX - attempt) for attempt in range(first, task.attempt + 1)]
    table.reclaim(ids, stamp)

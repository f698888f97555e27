"""Lineage: what it takes to make a stored result again whose last copy is lost. Pure.

When a task that may run again has stored results, what it was called with is kept for as long as one of them is referenced, here
or by the lineage of a task that used it. Memory is not kept: of an argument that is stored, only its own lineage. So a chain of
tasks can be run again from its beginning, though everything in between was freed long ago.

An object that this process refers to no more may still be referenced elsewhere, in a container of somebody else. If its id ever
left this process, its lineage stays as that of an *orphan*: the last `lineage_orphans_max` of them, of those that keep no object.

Events: a task is done (`keep`), an object is lost (`recover`), an entry is forgotten (`ObjectTable.lineages`).
Effects: tasks submitted anew, under their old ids and for the results that are missing alone; EXPECT for these.

Invariants: an object that is being made again is PENDING, and no two runs of one task are under way. Runs count against
`max_retries` of the task. The bytes of all lineage are bounded (`lineage_bytes_max`): beyond, the oldest is dropped, and
who needs it is told so. Values that were put and results of actors have no lineage.

Items of a generator have one from the first of them on. It runs again up to the last one that is missing, and sends those alone;
while it still runs for its reader, they wait for that run's end.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from typing import TYPE_CHECKING, Any
from weakref import ref as weak

from shoal.ids import return_id
from shoal.owner.objects import (
    BORROWED,
    BY_ACTOR,
    ESCAPED,
    FAILED,
    INLINE,
    PENDING,
    PROMOTED,
    RESULT_OF,
    STORED,
    WATCHED,
    WITHOUT_REFS,
    Entry,
)  # fmt: skip
from shoal.owner.tasks import Stream, TaskRecord
from shoal.refs import released
from shoal.wire import messages as m

if TYPE_CHECKING:
    from collections.abc import Iterable
    from weakref import ReferenceType

    from shoal.owner.dispatch import Dispatcher
    from shoal.owner.table import ObjectTable

_IS_DROPPED = -2  # instead of the number of runs that are left
_RECORD_BYTES = 400  # of a Lineage without its payload and inline arguments, about

_ELSE = "have a task make it that may run again, or keep a copy elsewhere"
UNKNOWN = (
    "it cannot be made again: values that were put, results of actors and of tasks with max_retries=0 have "
    f"no lineage; {_ELSE}"
)
USED_UP = "its task has run as often as it may (max_retries)"
DROPPED = (
    "what it would take to make it again was dropped, since there was too much of that (lineage_bytes_max; "
    "init(_system_config={'lineage_bytes_max': ...}) sets another bound)"
)


def no_lineage(entry: Entry | None) -> str:
    """Why an object cannot be made again of which no lineage was kept, and what would have helped."""
    made_by = entry.callsite if entry is not None else None
    if entry is None or not made_by:
        return UNKNOWN
    if not made_by.startswith(RESULT_OF):
        return f"it cannot be made again: it was put ({made_by}), and such values have no lineage; {_ELSE}"
    name = made_by.removeprefix(RESULT_OF)
    if entry.flags & BY_ACTOR:
        return f"it cannot be made again: it is a result of actor method {name}, and such have no lineage; {_ELSE}"
    return f"it cannot be made again: its task {name} has max_retries=0, and so its results have no lineage"


class Lineage:
    """How the results of one task can be made again.

    Attributes:
        inputs: entries of its top-level and nested ref arguments, each with its own lineage if it has one. Only the records
            are kept, not the objects.
        values: small plain arguments, by id. counted: those with refs inside, which are counted here.
        keeps: it, or one that it needs, counts entries, and so keeps objects.
        left: how often it may still run; -1: any number.
        missing: return indexes that were lost while it ran for others; it runs for these next.
        streams: it is a generator's; index 0 is its completion, and items follow.
    """

    __slots__ = (
        "__weakref__", "counted", "count", "depth", "function", "inputs", "keeper", "keeps", "left", "missing", "nested_at",
        "options", "payload", "places", "queue", "size", "streams", "task_id", "values",
    )  # fmt: skip

    def __init__(self, task: TaskRecord, keeper: LineageKeeper) -> None:
        self.task_id = task.id
        self.function = task.function
        self.options = task.options
        self.payload = task.payload
        self.queue = task.queue
        self.places = task.places
        self.count = len(task.returns)
        self.streams = task.stream is not None
        self.depth = task.depth
        self.left = task.retries
        self.missing: set[int] = set()
        entries = [*task.lifted, *(task.nested or ())]
        self.nested_at = len(task.lifted)
        self.inputs: list[tuple[Entry, Lineage | None]] = [
            (entry, keeper.find(entry.id)) for entry in entries
        ]
        inline = [entry for entry in entries if entry.state == INLINE]
        self.values = {entry.id: entry.value for entry in inline if entry.contained is None}
        self.counted = [entry for entry in inline if entry.contained is not None]
        for entry in self.counted:
            entry.count += 1
        self.keeps: bool = bool(self.counted) or any(own.keeps for _, own in self.inputs if own is not None)
        self.size = len(self.payload) + sum(len(entry.value) for entry in inline) + _RECORD_BYTES
        self.keeper = keeper

    def __del__(self) -> None:
        # `__del__` may run anywhere: it only appends.
        if hasattr(self, "keeper"):
            self.keeper.gone.append(self.size)
            released.extend(self.counted)


class LineageKeeper:
    """The lineage of one process's objects.

    Attributes:
        lineages: by object id; the table's, which forgets one with its entry. orphans: of ids without an entry, the oldest first.
        gone: sizes of what was forgotten and not accounted for yet.
        size: bytes kept, about.
        recovered: how many objects were made again.
    """

    def __init__(self, table: ObjectTable, dispatch: Dispatcher, bytes_max: int, orphans_max: int) -> None:
        self._table = table
        self._dispatch = dispatch
        self._bytes_max = bytes_max
        self._orphans_max = orphans_max
        self.lineages = table.lineages
        self.orphans = table.orphans
        self.gone: deque[int] = deque()
        self.size = 0
        self.recovered = 0
        self._order: OrderedDict[bytes, ReferenceType[Lineage]] = OrderedDict()
        self._running: dict[bytes, Lineage] = {}
        self._deferred: dict[bytes, Lineage] = {}
        self._producing: dict[bytes, Lineage] = {}  # generators that run for their reader

    def find(self, object_id: bytes) -> Lineage | None:
        """The lineage of an object, if it has one."""
        return self.lineages.get(object_id) or self.orphans.get(object_id)

    def keep(self, task: TaskRecord, by_actor: bool) -> None:
        """Remember how the stored results of ``task``, which is done, were made; its arguments are still counted for it."""
        for entry in task.returns:
            if entry.state == STORED:
                entry.is_made_by(task, by_actor)
        if by_actor or not task.options.max_retries:
            return
        stored = [
            entry.id for entry in task.returns if entry.state == STORED and entry.id in self._table.entries
        ]
        lineage = self._running.pop(task.id, None)
        if lineage is not None and lineage.streams and task.only is not None:
            stored = self._made(task, task.only[1])
        if lineage is None:
            if task.stream is not None:
                if (own := self._producing.pop(task.id, None)) is not None:
                    own.left = task.retries
                return
            if not stored:
                return
            lineage = Lineage(task, self)
            self._account(lineage)
        else:
            lineage.left = task.retries
            self.recovered += len(stored)
        for object_id in stored:
            self.lineages[object_id] = lineage

    def _made(self, task: TaskRecord, wanted: Iterable[int]) -> list[bytes]:
        """What of the missing items a generator has made again; the others it will not make, and their readers are told so."""
        made = []
        for index in wanted:
            entry = self._table.entries.get(return_id(task.id, index))
            if entry is not None and entry.state == STORED:
                made.append(entry.id)
            elif entry is not None and entry.state == PENDING:
                self._table.fail(
                    entry, self._dispatch.make_error("unmade", task, f"it made fewer than {index} items")
                )
        return made

    def keep_item(self, task: TaskRecord, entry: Entry, by_actor: bool) -> None:
        """A generator has made an item, which may be made again if it is lost."""
        entry.is_made_by(task, by_actor)
        if by_actor or not task.options.max_retries:
            return
        lineage = self._running.get(task.id) or self._producing.get(task.id)
        if lineage is None:
            lineage = self._producing[task.id] = Lineage(task, self)
            self._account(lineage)
        self.lineages[entry.id] = lineage

    def failed(self, task: TaskRecord) -> None:
        """``task`` has failed: if it was run again, nothing more will come of it."""
        self._producing.pop(task.id, None)
        lineage = self._running.pop(task.id, None)
        if lineage is not None:
            for index in task.only[1] if lineage.streams and task.only else range(lineage.count):
                self.lineages.pop(return_id(task.id, index), None)
                self.orphans.pop(return_id(task.id, index), None)

    def _account(self, lineage: Lineage) -> None:
        self.size += lineage.size
        self._order[lineage.task_id] = weak(lineage)
        while len(self.orphans) > self._orphans_max:
            del self.orphans[next(iter(self.orphans))]
        while self.gone:
            self.size -= self.gone.popleft()
        if len(self._order) > 2 * (len(self.lineages) + len(self.orphans)) + 64:
            self._order = OrderedDict((key, each) for key, each in self._order.items() if each() is not None)
        while self.size > self._bytes_max and self._order:
            oldest = self._order.popitem(last=False)[1]()
            if oldest is not None:
                self._drop(oldest)

    def _drop(self, lineage: Lineage) -> None:
        self.size -= lineage.size
        released.extend(lineage.counted)
        lineage.size, lineage.counted, lineage.inputs, lineage.values = 0, [], [], {}
        lineage.payload = b""
        lineage.left = _IS_DROPPED

    # --- recovering ---

    def recover(self, object_id: bytes) -> tuple[str, str] | None:
        """Have a lost object made again, and whatever that takes; None if it will be, else (kind, why it cannot be).

        kind: "lost" if it has no lineage, "unrecoverable" if that does not help any more.
        """
        if self._table.is_reclaiming(object_id):
            return "lost", "no run of its task has made it"  # that is what this process has just asked
        own = self._table.entries.get(object_id)
        if own is not None and own.state in (INLINE, FAILED):
            own.flags &= ~PROMOTED
            self._table.promote(own)  # it is here, and only its copy in the store is lost
            return None
        if own is not None and own.state == PENDING:
            own.flags |= ESCAPED
            self._table.to_node([m.EXPECT, object_id])  # it is on its way, which the asker does not know
            return None
        plan: dict[Lineage, set[int]] = {}
        todo = [(object_id, own, self.find(object_id))]
        while todo:
            wanted, known, lineage = todo.pop()
            entry = self._table.entries.get(wanted)
            if entry is not None and entry.state == PENDING:
                continue  # it is under way
            problem = self._problem(lineage)
            if problem or lineage is None:
                problem = problem or no_lineage(known)
                if wanted == object_id:
                    return ("lost" if lineage is None else "unrecoverable"), problem
                return "unrecoverable", (
                    f"its argument {wanted.hex()} would be needed again, and is gone, since nothing here refers to it any more "
                    f"(a ref to it would have kept it); {problem}"
                )
            index = int.from_bytes(wanted[12:], "big")
            if lineage not in plan:
                plan[lineage] = {index}
                values = lineage.values
                todo += [
                    (each.id, each, its)
                    for each, its in lineage.inputs
                    if each.id not in values and not self._is_known(each)
                ]
            else:
                plan[lineage].add(index)
        for lineage, indexes in plan.items():
            self._expect(lineage, indexes)
        for lineage, indexes in plan.items():
            self._run(lineage, indexes)
        return None

    def _problem(self, lineage: Lineage | None) -> str:
        if lineage is None:
            return ""
        if lineage.left == _IS_DROPPED:
            return DROPPED
        return "" if lineage.left else USED_UP

    def _is_known(self, entry: Entry) -> bool:
        """Whether an argument is referenced still; if its object is lost too, whoever looks for it will find out."""
        return self._table.entries.get(entry.id) is not None

    def _expect(self, lineage: Lineage, indexes: Iterable[int]) -> None:
        """The results with these indexes are pending from now on; readers everywhere wait for them."""
        table = self._table
        for index in indexes:
            object_id = return_id(lineage.task_id, index)
            entry = table.entries.get(object_id)
            if entry is None:
                entry = table.add(object_id, PENDING, 0)
            self.orphans.pop(object_id, None)
            self.lineages[object_id] = lineage
            entry.state = PENDING
            entry.stamp = None
            entry.flags = entry.flags & ~(WATCHED | WITHOUT_REFS) | ESCAPED
            table.to_node([m.EXPECT, object_id])

    def _run(self, lineage: Lineage, indexes: set[int]) -> None:
        """Submit the task once more, for these results."""
        if lineage.task_id in self._running or lineage.task_id in self._dispatch.tasks:
            lineage.missing |= indexes
            self._deferred[lineage.task_id] = lineage
            return
        table = self._table
        task = TaskRecord(lineage.task_id, lineage.function, lineage.options, lineage.payload, lineage.queue)
        task.retries = lineage.left - (lineage.left > 0)
        task.attempt = 1
        task.careful = True
        task.depth = lineage.depth
        task.places = lineage.places
        inputs = [self._input(entry.id, lineage) for entry, _ in lineage.inputs]
        for entry in inputs[lineage.nested_at :]:
            table.escape(entry)  # one that was made anew is not known to anybody
        for entry in inputs:
            if entry.state == STORED and entry.id[:8] == table.proc:
                entry.state = BORROWED  # looked for before the task is sent: a worker should not wait for it
                entry.flags &= ~WATCHED
        task.lifted = tuple(inputs[: lineage.nested_at])
        task.nested = inputs[lineage.nested_at :] or None
        wanted = sorted(indexes)
        if lineage.streams:
            task.stream = Stream()
            task.stream.closed = True  # no reader takes items from it: they are in the table
            completion = table.entries.get(task.id) or table.add(task.id, PENDING, 0)
            task.returns = (completion,)
            task.only = (0, tuple(wanted))
            self._running[task.id] = lineage
            self._dispatch.submit(task)
            return
        task.returns = tuple(table.entries[return_id(lineage.task_id, index)] for index in wanted)
        for entry in task.returns:
            entry.task = task
        if lineage.count > 1:
            task.only = (lineage.count, tuple(wanted))
        self._running[task.id] = lineage
        self._dispatch.submit(task)

    def _input(self, object_id: bytes, lineage: Lineage) -> Entry:
        """An argument of a task that runs again, with one use more."""
        table = self._table
        value = lineage.values.get(object_id)
        if value is not None and object_id not in table.entries:
            return table.add_inline(object_id, value)
        entry = table.borrow(object_id)
        entry.count += 1
        return entry

    def finished(self, task_id: bytes) -> None:
        """No run of the task is under way any more: if more of its results were lost meanwhile, it runs for these."""
        lineage = self._deferred.pop(task_id, None)
        if lineage is not None:
            missing, lineage.missing = lineage.missing, set()
            self._run(lineage, missing)

    # --- asked by people ---

    def describe(self) -> dict[str, Any]:
        """Figures for `status` and tests."""
        while self.gone:
            self.size -= self.gone.popleft()
        return {
            "objects": len(self.lineages),
            "orphans": len(self.orphans),
            "bytes": self.size,
            "recovered": self.recovered,
        }

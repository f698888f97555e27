"""A submitted task, from `.remote()` to its reply, as its submitter sees it.

WAITING (arguments) → QUEUED (in its shape's queue) → SENT (to a leased worker) → DONE
SENT → QUEUED when it was given back unstarted, or is tried again
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

from shoal.owner.objects import FAILED
from shoal.refs import released
from shoal.wakeup import bells, ring

if TYPE_CHECKING:
    from shoal.options import TaskOptions
    from shoal.owner.leases import Lease, ShapeQueue
    from shoal.owner.objects import Entry, Stamp
    from shoal.owner.table import ObjectTable

WAITING, QUEUED, SENT, DONE = range(4)
STATE_NAMES = ("PENDING_ARGS", "PENDING_NODE", "RUNNING", "FINISHED")


# Functions with captured refs whose export died; drained by the dispatcher, which tells the workers. `__del__` may run
# anywhere, so it only appends.
forgotten: deque[bytes] = deque()


class FunctionExport:
    """A function as workers get it: content hash and pickled code, and what its runs showed.

    Attributes:
        mean_us: moving average of its run time in µs; None until it was measured.
        held: entries of refs that the function captured, counted once each as long as this lives.
    """

    __slots__ = ("__weakref__", "blob", "function_id", "held", "local", "mean_us", "name")

    def __init__(self, function_id: bytes, blob: bytes, name: str, held: list[Entry]) -> None:
        self.function_id = function_id
        self.blob = blob
        self.name = name
        self.held = held
        self.mean_us: float | None = None
        self.local: Any = None

    def __del__(self) -> None:
        held = getattr(self, "held", None)
        if held:
            released.extend(held)
            forgotten.append(self.function_id)
            if bells:
                ring()


class TaskRecord:
    """One task.

    Attributes:
        payload: serialized (args, kwargs) with top-level refs lifted out.
        lifted: the entries of top-level ref arguments.
        places: where these belong, position or keyword; None: they are all the arguments there are, in order.
        nested: entries of refs inside the payload.
        returns: the entries of its results (a streaming generator: its completion first, then items as they come).
        unresolved: top-level arguments that are not ready yet.
        doomed: a top-level argument failed, and so will this.
        retries: how many more attempts are allowed; -1: any number.
        parent: id of the task that submitted it, or None.
        attempt: which run of it this is, from 0.
        unheard: set when a run of it may have sealed things that this process does not know of (see `shoal.owner.reruns`).
        only: (how many results the task has, which of them are wanted) if it runs again for these alone; `returns` has just them.
        careful: its worker sends its result at once and runs no child in its place: it may not run twice, or crashed before.
    """

    __slots__ = (
        "attempt", "cancelled", "careful", "depth", "doomed", "function", "id", "lease", "lifted", "nested", "only",
        "options", "parent", "payload", "places", "queue", "retries", "returns", "state", "stream", "unheard",
        "unresolved",
    )  # fmt: skip

    def __init__(
        self,
        task_id: bytes,
        function: FunctionExport,
        options: TaskOptions,
        payload: bytes,
        queue: ShapeQueue,
    ) -> None:
        self.id = task_id
        self.function = function
        self.options = options
        self.payload = payload
        self.queue = queue
        self.lifted: tuple[Entry, ...] = ()
        self.places: tuple[int | str, ...] | None = None
        self.nested: list[Entry] | None = None
        self.returns: tuple[Entry, ...] = ()
        self.state = WAITING
        self.unresolved = 0
        self.doomed = False
        self.retries = options.max_retries
        self.lease: Lease | None = None
        self.cancelled = False
        self.attempt = 0
        self.unheard: Stamp | None = None
        self.careful = not options.max_retries
        self.parent: bytes | None = None
        self.depth = 0
        self.stream: Stream | None = None
        self.only: tuple[int, tuple[int, ...]] | None = None

    @property
    def name(self) -> str:
        """The name people see: the option, or the function's."""
        return self.options.name or self.function.name

    def set_returns(self, table: ObjectTable, first: Entry, count: int | str) -> None:
        """Make the entries of other than one return; ``first`` is in ``table`` already (and leaves it if there is none)."""
        if isinstance(count, str):
            self.stream = Stream()
            self.returns = (first,)
        elif count == 0:
            table.entries.pop(first.id)
        else:
            self.returns = table.add_returns(self, first, count)

    def entry_ready(self, entry: Entry) -> None:
        """A top-level argument became ready (EntryWaiter)."""
        self.unresolved -= 1
        if entry.state == FAILED:
            self.doomed = True
        elif self.unresolved:
            return
        if self.state == WAITING:
            self.queue.arguments_ready(self)

    def __repr__(self) -> str:
        return f"<task {self.name} {self.id.hex()} {STATE_NAMES[self.state]}>"


class Stream:
    """Items of a streaming generator that its owner has received.

    Attributes:
        items: entries in order of arrival, by index.
        taken: how many the reader has taken.
        total: how many there are, once the generator has ended.
        unsure_until: items before this index may have been sealed by a run that died before it could tell.
        waiter: what waits for the next item or the end.
    """

    __slots__ = ("closed", "items", "taken", "total", "unsure_until", "waiters")

    def __init__(self) -> None:
        self.items: dict[int, Entry] = {}
        self.taken = 0
        self.total: int | None = None
        self.unsure_until = 0
        self.closed = False
        self.waiters: list[Any] = []

    def close(self) -> list[Entry]:
        """Nobody takes items any more; returns those that were not taken, of which a use each is to be dropped."""
        self.closed = True
        untaken = list(self.items.values())
        self.items.clear()
        return untaken

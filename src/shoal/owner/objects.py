"""The state of one object, as its owner or a borrower sees it.

    PENDING → INLINE | STORED | FAILED        owned, result of a task
    INLINE                                    owned, small put; may be promoted to the store, and keeps its value here
    STORED                                    in the node's store; `holds` counts what the daemon holds for us
    BORROWED → STORED                         read out of some value; the daemon knows whether it is there

`count` is the number of local uses: ObjectRefs, arguments of unfinished tasks, containers. At 0 the entry goes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from shoal.owner.tasks import TaskRecord
    from shoal.refs import ObjectRef

PENDING, INLINE, STORED, FAILED, BORROWED = range(5)
STATE_NAMES = ("PENDING", "INLINE", "STORED", "FAILED", "BORROWED")

ESCAPED = 1  # its id was sent to others: it must be findable through the node
PROMOTED = 2  # the node has a sealed copy of the inline value, or will get it
WATCHED = 4  # the daemon was asked to tell when it is there
GENERATED = 8  # made by a streaming generator
REFUSED = 16  # there was no room to promote it: readers elsewhere get an error
WITHOUT_REFS = 64  # stored, and was seen to contain none
BY_ACTOR = 128  # a result of an actor's method
GIVEN = 32  # sealed for this process: the hold that comes with that is counted, and comes once

RESULT_OF = "result of "  # how the call site begins of what was not put

Stamp = tuple[bytes, int]
RUN_ENDED: Stamp = (
    b"",
    0,
)  # of a process whose death is confirmed: the daemon has processed its stream to the end


class EntryWaiter(Protocol):
    """Something that waits for entries to leave PENDING or BORROWED."""

    def entry_ready(self, entry: Entry) -> None:
        """``entry`` is INLINE, STORED or FAILED now; called once for each time it was registered."""


class Entry:
    """One object known to this process.

    Attributes:
        value: INLINE: its bytes; FAILED: the bytes of its error.
        size: bytes of the stored layout, for STORED (0: unknown).
        holds: holds the daemon counts for this process.
        contained: entries that an inline value or an error needs; each counted once for it. [] for an inline value whose
            refs ride on its stored copy.
        stamp: the seal's place in its maker's stream: readers pass it on (see wire.messages).
        riders: refs of a stored container, made at the first read and shared by all reads.
        callsite: of what lies in the store: where it was put, or RESULT_OF and the task; None if it was never asked for.
    """

    __slots__ = (
        "callsite", "contained", "count", "flags", "holds", "id", "riders", "size", "stamp", "state", "task", "value",
        "waiters",
    )  # fmt: skip

    def __init__(self, object_id: bytes, state: int, count: int, task: TaskRecord | None = None) -> None:
        self.id = object_id
        self.state = state
        self.count = count
        self.value: bytes = b""
        self.size = 0
        self.holds = 0
        self.flags = 0
        self.waiters: list[EntryWaiter] | None = None
        self.task = task
        self.contained: list[Entry] | None = None
        self.stamp: Stamp | None = None
        self.riders: list[ObjectRef[object]] | None = None
        self.callsite: str | None = None

    def is_made_by(self, task: TaskRecord, by_actor: bool) -> None:
        """It lies in the store, as a result of ``task``."""
        self.callsite = RESULT_OF + task.name
        if by_actor:
            self.flags |= BY_ACTOR

    def is_given(self) -> None:
        """Count the hold that came with a seal; if the task runs again and seals it again, no other one comes."""
        if not self.flags & GIVEN:
            self.flags |= GIVEN
            self.holds += 1

    def __repr__(self) -> str:
        return f"<{STATE_NAMES[self.state]} {self.id.hex()} count={self.count} holds={self.holds} flags={self.flags}>"


class Waiter:
    """Waits for a number of entries; `ready` when all are there, or one failed and `fail_fast`."""

    __slots__ = ("fail_fast", "missing", "on_ready", "ready", "wake")

    def __init__(self, missing: int, fail_fast: bool = True) -> None:
        self.missing = missing
        self.fail_fast = fail_fast
        self.ready = missing <= 0
        self.wake: object = None  # the lock its thread sleeps on, while it follows another reader

    def entry_ready(self, entry: Entry) -> None:
        """Count one arrival."""
        self.missing -= 1
        if self.missing <= 0 or (self.fail_fast and entry.state == FAILED):
            self.ready = True

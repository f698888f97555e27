"""The object table: every object that this process owns or borrows, and the counting of references.

Events: a value was put or arrived, an id was sent away or received, a ref died, the daemon told of an object.
Effects: messages to the daemon (`to_node`), inline values that must be written to the store (`promotions`),
waiters that became ready (they are told directly).

Invariants: an entry is in the table while it is counted, pending, or escaped and not yet promoted. A contained entry is
counted by its container. Whoever hands a ref over registers the receiver's hold before it gives up its own (wire.messages).
"""

from __future__ import annotations

from itertools import repeat
from typing import TYPE_CHECKING, Any

from shoal.ids import OBJECT_ID_SIZE, return_ids, tag_of
from shoal.owner.nodestream import MESSAGE_IDS_MAX, NodeStream
from shoal.owner.objects import (
    BORROWED,
    ESCAPED,
    FAILED,
    GIVEN,
    INLINE,
    PENDING,
    PROMOTED,
    STATE_NAMES,
    STORED,
    WATCHED,
    Entry,
    EntryWaiter,
    Stamp,
)
from shoal.refcounts import LISTED, count_each
from shoal.refs import ObjectRef, released
from shoal.wire import messages as m

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from shoal.owner.lineage import Lineage
    from shoal.owner.tasks import TaskRecord


class ObjectTable(NodeStream):
    """The objects of one process.

    Attributes:
        promotions: INLINE or FAILED entries to be written to the store by the shell.
        freed: ids whose cached pins may go.
        on_far: called once, when the first stored object of another node is seen.
        lineages: how stored results can be made again, by id (see `shoal.owner.lineage`); when an entry goes whose id others
            were sent, they become `orphans`.
    """

    def __init__(self, proc: bytes) -> None:
        super().__init__(proc)
        self.entries: dict[bytes, Entry] = {}
        self.promotions: list[Entry] = []
        self.freed: list[bytes] = []
        self.on_far: Callable[[], None] | None = None
        self._reclaiming: set[bytes] = set()
        self._barriers: dict[bytes, Entry] = {}
        self._barriers_made = 0
        self._fetching: dict[bytes, list[EntryWaiter]] = {}
        self.lineages: dict[bytes, Lineage] = {}
        self.orphans: dict[bytes, Lineage] = {}

    # --- messages to the daemon ---

    def has_output(self) -> bool:
        """Whether the shell has anything to do: messages, promotions, or pins of freed objects."""
        return bool(self.has_node_messages() or self.promotions or self.freed)

    def stamp_of(self, entry: Entry) -> Stamp:
        """What a reader elsewhere must quote so that it does not overtake the seal of ``entry``."""
        return entry.stamp or self.stamp_now()

    def stamps_inside(self, entry: Entry) -> tuple[Stamp, dict[bytes, Stamp]]:
        """What readers of the refs inside an inline value must quote: for all, and for some of them."""
        if not entry.contained:
            return entry.stamp or self.stamp_now(), {}
        return self.stamp_now(), {inner.id: inner.stamp for inner in entry.contained if inner.stamp}

    # --- making entries ---

    def add(self, object_id: bytes, state: int, count: int = 1) -> Entry:
        """A new entry for an object that this process owns."""
        entry = self.entries[object_id] = Entry(object_id, state, count)
        return entry

    def add_returns(self, task: TaskRecord, first: Entry, count: int) -> tuple[Entry, ...]:
        """The entries of ``count`` results of ``task``, of which ``first`` is in the table already; each has one use."""
        ids = return_ids(task.id, count)
        returns = (first, *map(Entry, ids[1:], repeat(PENDING), repeat(1), repeat(task)))
        self.entries.update(zip(ids, returns, strict=True))
        return returns

    def add_inline(self, object_id: bytes, value: bytes, contained: Iterable[Entry] = ()) -> Entry:
        """A small value that was put; the entry has one use."""
        entry = self.entries[object_id] = Entry(object_id, INLINE, 1)
        entry.value = value
        if contained:
            entry.contained = list(contained)
            for inner in entry.contained:
                inner.count += 1
        return entry

    def add_stored(self, object_id: bytes, size: int) -> Entry:
        """A value that this process has just sealed for itself; the entry has one use and one hold."""
        entry = self.entries[object_id] = Entry(object_id, STORED, 1)
        entry.size = size
        entry.holds = 1
        return entry

    def entry_of(self, ref: ObjectRef[Any]) -> Entry:
        """The entry of ``ref``; a ref that rode on a container gets one now."""
        entry = ref._entry
        if entry is None:
            entry = self.borrow(ref.id)
            entry.count += 1
            ref._entry = entry
        return entry

    def borrow(self, object_id: bytes) -> Entry:
        """The entry of an id that came from elsewhere; not counted by this call."""
        entry = self.entries.get(object_id)
        if entry is None:
            entry = self.entries[object_id] = Entry(object_id, BORROWED, 0)
        return entry

    def received_held(self, object_ids: Iterable[bytes], stamp: Stamp | None) -> list[Entry]:
        """Entries for refs that somebody handed over, each with one hold registered for this process; counted once."""
        found = []
        for object_id in object_ids:
            entry = self.borrow(object_id)
            if entry.state == BORROWED and entry.stamp is None:
                entry.stamp = stamp
            entry.holds += 1
            entry.count += 1
            found.append(entry)
        return found

    def riding_on(self, tag: bytes) -> list[Entry]:
        """Small results whose refs ride on copies that were sealed on the node with this tag."""
        return [
            entry
            for entry in self.entries.values()
            if entry.state == INLINE
            and entry.contained == []
            and entry.stamp
            and tag_of(entry.stamp[0]) == tag
        ]

    def unexpect(self, tag: bytes) -> None:
        """Take back that these would be sealed: it was done on the node with this tag, which died before it said so."""
        gone = [
            entry.id
            for entry in self.entries.values()
            if entry.state == STORED
            and entry.flags & ESCAPED
            and entry.stamp
            and tag_of(entry.stamp[0]) == tag
        ]
        for start in range(0, len(gone), MESSAGE_IDS_MAX):
            self.to_node([m.UNEXPECT, b"".join(gone[start : start + MESSAGE_IDS_MAX])])

    def hold_contents(self, entry: Entry, object_ids: Iterable[bytes]) -> None:
        """The stored copy that the refs inside a small result rode on is lost: this process holds them itself."""
        missing = []
        entry.contained = contained = []
        for object_id in object_ids:
            inner = self.borrow(object_id)
            inner.count += 1
            contained.append(inner)
            if not inner.holds:
                inner.holds = 1
                missing.append(object_id)
        if missing:
            self.hand_over(self.proc, b"".join(missing))

    # --- values arrive ---

    def fulfil(self, entry: Entry, result: Any) -> None:
        """A result as it came from a worker: bytes, or a tuple RESULT_INLINE or RESULT_STORED."""
        if type(result) is bytes:
            self.fulfil_plain(entry, result)
        elif result[0] == m.RESULT_INLINE:
            self.fulfil_inline(entry, result[1], result[2])
        else:
            self.fulfil_stored(entry, result[1], result[2])

    def fulfil_each(self, entries: Iterable[Entry], results: Iterable[Any]) -> bool:
        """The results of one task; those that are plain and wanted take the shortest way (the hot path).

        Returns whether any was not plain.
        """
        others = False
        for entry, result in zip(entries, results, strict=True):
            if type(result) is not bytes:
                others = True
                self.fulfil(entry, result)
            elif entry.state != PENDING or entry.flags or entry.count <= 0:
                self.fulfil_plain(entry, result)
            else:
                entry.value = result
                entry.state = INLINE
                entry.task = None
                waiters = entry.waiters
                if waiters is not None:
                    entry.waiters = None
                    for waiter in waiters:
                        waiter.entry_ready(entry)
        return others

    def fulfil_again(self, entry: Entry, result: Any) -> None:
        """A result that an earlier run may have sealed too: the first copy is the one that counts, with the refs inside of it."""
        stamp = result[2] if type(result) is tuple else ()
        if not stamp:
            self.fulfil(entry, result)
            return
        entry.count += 1
        size = result[1] if type(result[1]) is int else len(result[1])
        self.fulfil_stored(entry, size, stamp)
        self._hold_until(stamp, entry)

    def fulfil_plain(self, entry: Entry, value: bytes) -> None:
        """An inline result without refs."""
        if entry.state == PENDING:  # otherwise it is of a second run of the task, and the first result stands
            entry.value = value
            self._settled(entry, INLINE)

    def fulfil_inline(self, entry: Entry, value: bytes, stamp: Stamp | tuple[()]) -> None:
        """A small result arrived. With a ``stamp`` it has refs, which ride on the copy that was sealed under its id."""
        if entry.state != PENDING:
            return
        entry.value = value
        if stamp:
            self._is_given(entry, stamp)
            entry.stamp = stamp
            entry.flags |= ESCAPED | PROMOTED
            entry.contained = []
            self._reclaiming.discard(entry.id)
        self._settled(entry, INLINE)

    def fulfil_stored(self, entry: Entry, size: int, stamp: Stamp | None) -> None:
        """A result was sealed in the store, with a hold for this process."""
        if entry.state == PENDING:
            self._is_given(entry, stamp)
            entry.size = size
            entry.stamp = stamp
            if self.on_far is not None and self.is_away(entry):
                self._sees_far()
            self._settled(entry, STORED)

    def fail(self, entry: Entry, error: bytes, container: Entry | None = None) -> None:
        """The object will never have a value; ``error`` says why. ``container`` holds the refs inside of it."""
        if entry.state not in (PENDING, BORROWED):
            return
        if container is not None:
            entry.contained = [container]
            container.count += 1
        entry.value = error
        self._settled(entry, FAILED)

    def _is_given(self, entry: Entry, stamp: Stamp | None) -> None:
        """A seal came with a hold, or without one, if it made again what was lost: then the first hold stays until the seal was
        seen. If it were let go of before, the seal would give another, which nobody would know of.
        """
        if entry.flags & GIVEN and stamp is not None:
            entry.count += 1
            self._hold_until(stamp, entry)
        entry.is_given()

    def _hold_until(self, stamp: Stamp, entry: Entry) -> None:
        """End one use of ``entry`` when the daemon has processed the stream of ``stamp`` so far.

        It is asked for an id that there never is (task counter 0); the answer comes when the stamp is reached.
        """
        self._barriers_made += 1
        barrier = self.proc + self._barriers_made.to_bytes(8, "big")
        self._barriers[barrier] = entry
        self.to_node([m.WATCH, barrier, *stamp])

    def reclaim(self, object_ids: Iterable[bytes], stamp: Stamp) -> None:
        """Give up holds that may have been registered by a worker that died before it could tell.

        No run of their task is under way any more. What is known to be sealed is left alone; nothing is sealed after ``stamp``.
        """
        for object_id in object_ids:
            entry = self.entries.get(object_id)
            if entry is None or not (entry.holds or entry.flags & ESCAPED):
                self._reclaiming.add(object_id)
                self.to_node([m.WATCH, object_id, *stamp])

    def is_reclaiming(self, object_id: bytes) -> bool:
        """Whether `reclaim` waits for the daemon's word on this id."""
        return object_id in self._reclaiming

    def available(self, object_id: bytes, size: int, error: bytes | None) -> None:
        """The daemon has ``object_id`` (AVAILABLE), or knows that nobody will."""
        if object_id in self._barriers:
            self.drop_uses((self._barriers.pop(object_id),))
            return
        if object_id in self._reclaiming:
            self._reclaiming.discard(object_id)
            if error is None:
                self._release_ids.append(object_id)
            else:  # the hold may have outlived the copy, whose node died
                entry = self.entries.get(object_id)
                self.to_node([m.RELEASE, object_id, entry.holds if entry is not None else 0])
        if self._fetching and object_id in self._fetching:
            self._fetched(object_id)
        entry = self.entries.get(object_id)
        if entry is None or entry.state != BORROWED:
            return
        entry.flags &= ~WATCHED
        if error is not None:
            entry.value = error
            entry.flags |= ESCAPED  # it is not this process that would write it to the store
            self._settled(entry, FAILED)
        else:
            entry.size = size
            if self.on_far is not None and self.is_away(entry):
                self._sees_far()
            self._settled(entry, STORED)

    def _sees_far(self) -> None:
        on_far, self.on_far = self.on_far, None
        if on_far is not None:
            on_far()

    def _settled(self, entry: Entry, state: int) -> None:
        owned = entry.state == PENDING
        entry.state = state
        entry.task = None
        if owned and entry.flags & ESCAPED and state != STORED and not entry.flags & PROMOTED:
            self.promote(entry)
        waiters = entry.waiters
        if waiters is not None:
            entry.waiters = None
            for waiter in waiters:
                waiter.entry_ready(entry)
        if entry.count <= 0:
            self.drop(entry)

    # --- waiting ---

    def wait_for(self, entry: Entry, waiter: EntryWaiter) -> bool:
        """Register ``waiter`` unless the value is there; whether it was registered."""
        if entry.state in (INLINE, STORED, FAILED):
            return False
        if entry.state == BORROWED and not entry.flags & WATCHED:
            entry.flags |= WATCHED
            proc, number = self.stamp_of(entry)
            self.to_node([m.WATCH, entry.id, proc, number])
        if entry.waiters is None:
            entry.waiters = [waiter]
        else:
            entry.waiters.append(waiter)
        return True

    def wait_for_each(self, entries: Iterable[Entry], waiter: EntryWaiter) -> tuple[int, bool]:
        """Register ``waiter`` with all entries that are not there: how many, and whether any other has failed."""
        missing = 0
        failed = False
        for entry in entries:
            state = entry.state
            if state == PENDING:
                missing += 1
                if entry.waiters is None:
                    entry.waiters = [waiter]
                else:
                    entry.waiters.append(waiter)
            elif state == BORROWED:
                missing += self.wait_for(entry, waiter)
            elif state == FAILED:
                failed = True
        return missing, failed

    def is_away(self, entry: Entry) -> bool:
        """Whether a stored object was sealed on another node, as far as this process knows."""
        return self.home_of(entry) != tag_of(self.proc)

    def home_of(self, entry: Entry) -> bytes:
        """The tag of the node where it was sealed, as far as this process knows: else of its owner's."""
        return tag_of(entry.stamp[0] if entry.stamp else entry.id)

    def fetch(self, entry: Entry, waiter: EntryWaiter) -> None:
        """Have a stored object brought to this node; ``waiter`` is told when it is here, or cannot be had."""
        waiters = self._fetching.get(entry.id)
        if waiters is not None:
            waiters.append(waiter)
            return
        self._fetching[entry.id] = [waiter]
        entry.count += 1
        self.to_node([m.WATCH, entry.id, *self.stamp_of(entry), m.PRIORITY_WAIT])

    def _fetched(self, object_id: bytes) -> None:
        entry = self.entries[object_id]
        for waiter in self._fetching.pop(object_id):
            waiter.entry_ready(entry)
        self.drop_uses((entry,))

    def stop_fetching(self, object_id: bytes, waiter: EntryWaiter) -> None:
        """``waiter`` is not to be told any more; the object may still come."""
        waiters = self._fetching.get(object_id, [])
        if waiter in waiters:
            waiters.remove(waiter)

    # --- refs leave this process ---

    def escape(self, entry: Entry) -> None:
        """The id of ``entry`` is about to be sent inside a value: it must be findable through the node."""
        if entry.flags & ESCAPED:
            return
        entry.flags |= ESCAPED
        if entry.state in (INLINE, FAILED):
            self.promote(entry)
        elif entry.state == PENDING:
            self.announce(entry.id)

    def promote(self, entry: Entry) -> None:
        """Have the shell write an inline value (or an error) to the store, with a hold for this process."""
        entry.flags |= PROMOTED | ESCAPED
        entry.is_given()
        self._reclaiming.discard(entry.id)
        for inner in entry.contained or ():
            self.escape(inner)
        self.announce(entry.id)
        entry.count += 1  # until it is written
        self.promotions.append(entry)

    def promoted(self, entry: Entry) -> None:
        """The shell has queued the seal of ``entry``."""
        self.drop_uses((entry,))

    def hand_over(self, proc: bytes, object_ids: bytes) -> None:
        """Register holds of process ``proc``, which has received refs from this one."""
        step = MESSAGE_IDS_MAX * OBJECT_ID_SIZE
        for start in range(0, len(object_ids), step):
            self.to_node([m.HOLD, proc, object_ids[start : start + step]])

    # --- refs die ---

    def drain_released(self) -> None:
        """Count down the entries whose refs died since the last call."""
        pop = released.popleft
        entries = self.entries
        for _ in range(len(released)):
            try:
                entry = pop()
            except IndexError:  # a finalizer that ran in between has drained the rest
                return
            entry.count -= 1
            if entry.count <= 0 and entries.get(entry.id) is entry:
                if entry.state == INLINE and not entry.holds and entry.contained is None:
                    del entries[entry.id]  # as `drop` would; most are like this
                else:
                    self.drop(entry)

    def drop_uses(self, entries: Iterable[Entry]) -> None:
        """One use less of each."""
        for entry in entries:
            entry.count -= 1
            if entry.count <= 0:
                self.drop(entry)

    def drop_unused(self) -> None:
        """Forget what is not used any more: a signal handler may have raised between the last use and that."""
        for entry in list(self.entries.values()):
            if entry.count <= 0:
                self.drop(entry)

    def drop(self, entry: Entry) -> None:
        """The last use is gone: forget the entry, and give back what it held (containers of containers in a loop)."""
        if entry.state == INLINE and not entry.holds and entry.contained is None:
            if entry.count <= 0 and self.entries.get(entry.id) is entry:
                del self.entries[entry.id]
            return
        going = [entry]
        while going:
            contained = self._forget(going.pop())
            for inner in contained or ():
                inner.count -= 1
                if inner.count <= 0:
                    going.append(inner)

    def _forget(self, entry: Entry) -> list[Entry] | None:
        """Take ``entry`` out of the table unless it is still needed; the entries that it contained."""
        if entry.state == PENDING or entry.count > 0 or self.entries.get(entry.id) is not entry:
            return None  # a pending one goes when its result comes
        if entry.waiters and entry.state == BORROWED:
            return None
        if entry.riders is not None:
            self._keep_riders(entry)
        del self.entries[entry.id]
        if self.lineages:
            lineage = self.lineages.pop(entry.id, None)
            if lineage is not None and entry.flags & ESCAPED and not lineage.keeps:
                self.orphans[entry.id] = lineage
        if entry.holds > 0:
            self._release_ids.extend([entry.id] * entry.holds)
            entry.holds = 0
            if entry.state in (STORED, BORROWED) or entry.flags & PROMOTED:
                self.freed.append(
                    entry.id
                )  # a mere borrower's pin stays cached: the daemon recalls it when it matters
        contained, entry.contained = entry.contained, None
        return contained

    def _keep_riders(self, entry: Entry) -> None:
        """The container goes: register holds for those of its refs that are still in use, first."""
        survivors = self.riders_in_use(entry.riders or [])
        entry.riders = None
        missing = []
        for ref in survivors:
            inner = self.entry_of(ref)
            if not inner.holds:
                inner.holds = 1
                missing.append(inner.id)
        if missing:
            self.hand_over(self.proc, b"".join(missing))

    def riders_in_use(self, riders: list[ObjectRef[Any]]) -> list[ObjectRef[Any]]:
        """Those of ``riders`` that somebody besides the list refers to, whose entry is in use, or that were sent on."""
        kept = []
        for ref, references in zip(riders, count_each(riders), strict=True):
            entry = ref._entry
            if references > LISTED or (entry is not None and (entry.count > 1 or entry.flags & ESCAPED)):
                kept.append(ref)
        return kept

    @staticmethod
    def riders_of_idle(riders: list[ObjectRef[Any]]) -> list[list[ObjectRef[Any]]]:
        """The riders of containers that go with the list ``riders``: read while it lived, and not in use themselves."""
        lists = []
        for ref in riders:
            entry = ref._entry
            if entry is not None and entry.riders and entry.count <= 1 and not entry.holds:
                lists.append(entry.riders)
        return lists

    # --- asked by people ---

    def describe(self, entry: Entry) -> dict[str, Any]:
        """What `list objects` and `why` show of an object."""
        return {
            "id": entry.id.hex(),
            "state": STATE_NAMES[entry.state],
            "size_bytes": len(entry.value) or entry.size,
            "references": entry.count,
            "holds": entry.holds,
            "task": entry.task.id.hex() if entry.task is not None else "",
            "function": entry.task.name if entry.task is not None else "",
            "callsite": entry.callsite or "",
        }

    def validate(self) -> None:
        """Raise AssertionError if an invariant is broken."""
        for object_id, entry in self.entries.items():
            assert entry.id == object_id, entry
            assert entry.holds >= 0, entry
            assert entry.count > 0 or entry.state == PENDING or entry.waiters or entry.state == BORROWED, (
                entry
            )
            assert entry.state not in (INLINE, FAILED) or entry.value, entry
            assert entry.waiters is None or entry.state in (PENDING, BORROWED), entry
            for inner in entry.contained or ():
                assert self.entries.get(inner.id) is inner, (entry, inner)
                assert inner.count > 0, (entry, inner)

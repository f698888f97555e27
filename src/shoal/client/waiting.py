"""The ready queue of `wait`: O(1) per completion and per call, whatever the number of refs.

The usual loop is `ready, refs = wait(refs)`. The state of one call is kept with the list it returned: when the next call
comes with that very list, unchanged, nothing is registered or checked again.

A generator of refs is ready when its next ref can be taken without waiting, or when it has ended. That changes with every ref
that is taken, so the state of a call with generators is not kept.
"""

from __future__ import annotations

import threading
from bisect import bisect_left
from heapq import heappop, heappush
from threading import get_ident
from typing import TYPE_CHECKING, Any

from shoal.generator import ObjectRefGenerator
from shoal.owner.objects import BORROWED, PENDING, STORED
from shoal.refcounts import LISTED, count_each
from shoal.refs import ObjectRef

if TYPE_CHECKING:
    from shoal.owner.objects import Entry
    from shoal.owner.table import ObjectTable

Waitable = ObjectRef[Any] | ObjectRefGenerator[Any]
# By thread. A state goes when nobody has the list that it left any more (`drop_abandoned`): it keeps refs alive.
_states: dict[int, WaitState] = {}


def local_wait_state() -> WaitState | None:
    """The state that this thread's last `wait` left."""
    return _states.get(get_ident())


def take_next(
    refs: list[Waitable], count: int, table: ObjectTable, lock: threading.RLock, fetches: bool
) -> tuple[list[Waitable], list[Waitable]] | None:
    """What `wait` returns if ``refs`` is what this thread's last one left, unchanged, and ``count`` of them are ready; else None.

    Nothing has to be checked or waited for then: this is a call of its own, since most calls of a loop are such ones.
    """
    state = _states.get(get_ident())
    if state is None or not 0 < count <= len(state.arrived) or not state.matches(refs, table, fetches):
        return None
    with lock:
        both = state.cut(count)
        if not both[1]:
            state.stay(False)
        return both


def drop_abandoned_waits() -> bool:
    """Forget the states whose list is gone (lock held); whether there are others."""
    for thread, state in list(_states.items()):
        if state.is_abandoned():
            del _states[thread]
            state.close()
    return bool(_states)


class _Arrival:
    """Tells a WaitState that the ref at ``position`` is ready (EntryWaiter); of another node, when it has been fetched."""

    __slots__ = ("fetched", "position", "state")

    def __init__(self, state: WaitState, position: int) -> None:
        self.state = state
        self.position = position
        self.fetched = False

    def entry_ready(self, entry: Entry) -> None:
        state = self.state
        if entry.state == STORED and state.fetches and not self.fetched and state.fetch(entry, self):
            return
        state.has_arrived(self.position)


class _NextArrival:
    """Tells a WaitState that the generator at ``position`` has something, or has ended (a stream's waiter)."""

    __slots__ = ("_generator", "_position", "_state")

    def __init__(self, state: WaitState, position: int, generator: ObjectRefGenerator[Any]) -> None:
        self._state = state
        self._position = position
        self._generator = generator

    @property
    def ready(self) -> bool:
        return False  # it waits for as long as it is registered

    @ready.setter
    def ready(self, _: bool) -> None:
        if not self._generator.await_next(self):  # else it was an item that is here already
            self._state.has_arrived(self._position)

    def close(self) -> None:
        """Nobody waits any more (lock held)."""
        self._generator.await_no_more(self)


class WaitState:
    """Refs that are waited for, by position in the first call's list (an `Awaited` of the reactor).

    Attributes:
        arrived: a heap of the positions of refs that are ready and were not taken yet.
        borrowed: there are refs of which only the daemon knows whether they are ready.
        fetches: objects of other nodes are ready when they are on this one.
    """

    __slots__ = (
        "_fetching", "_generators", "_list", "_positions", "_snapshot", "_table", "arrived", "borrowed", "fetches", "ready",
        "target", "wake",
    )  # fmt: skip

    def __init__(
        self, refs: list[Waitable], table: ObjectTable, lock: threading.RLock, *, fetches: bool
    ) -> None:
        self._table = table
        self.fetches = fetches
        self._fetching: dict[bytes, _Arrival] = {}
        self._list: list[Waitable] = refs  # what the last call returned, the user's to keep and to change
        self._snapshot = list(refs)  # what was in it; `_positions` has the same order
        self._positions = list(range(len(refs)))
        self.arrived: list[int] = []
        self.borrowed = False
        self.target = 1
        self.ready = False
        self.wake: object = None
        self._generators: list[_NextArrival] = []
        with lock:
            for position, ref in enumerate(refs):
                if isinstance(ref, ObjectRefGenerator):
                    self._await_next(ref, position)
                    continue
                entry = ref._entry or table.entry_of(ref)
                arrival = _Arrival(self, position)
                if not table.wait_for(entry, arrival):
                    if entry.state != STORED or not fetches or not self.fetch(entry, arrival):
                        self.arrived.append(position)
                elif entry.state == BORROWED:
                    self.borrowed = True

    def _await_next(self, generator: ObjectRefGenerator[Any], position: int) -> None:
        arrival = _NextArrival(self, position, generator)
        self._generators.append(arrival)
        if not generator.await_next(arrival):
            self.arrived.append(position)

    def has_arrived(self, position: int) -> None:
        """What is at ``position`` is ready (lock held)."""
        heappush(self.arrived, position)
        if len(self.arrived) >= self.target:
            self.ready = True

    @property
    def is_choice(self) -> bool:
        """Whether it ends before all are ready."""
        return self.target < len(self._snapshot)

    def missing(self) -> tuple[list[Entry], bool]:
        """Those of its refs that are not made yet, as far as this process knows, and whether it waits for others (lock held).

        For people, in O(n). The others are generators, and what is on its way to this node.
        """
        entries = [ref._entry for ref in self._snapshot if isinstance(ref, ObjectRef)]
        found = [each for each in entries if each is not None and each.state in (PENDING, BORROWED)]
        return found, len(self._positions) - len(self.arrived) > len(found)

    def fetch(self, entry: Entry, arrival: _Arrival) -> bool:
        """Have it brought to this node if it is on another one (lock held); whether it is on its way now."""
        if not self._table.is_away(entry):
            return False
        arrival.fetched = True
        self.borrowed = True
        self._fetching[entry.id] = arrival
        self._table.fetch(entry, arrival)
        return True

    def matches(self, refs: list[Waitable], table: ObjectTable, fetches: bool) -> bool:
        """Whether ``refs`` is the list that the last call returned, unchanged, and was to be ready in the same sense."""
        return (
            refs is self._list and table is self._table and fetches == self.fetches and refs == self._snapshot
        )

    def expect(self, count: int) -> None:
        """`ready` (as the reactor reads it) when ``count`` are there."""
        self.target = count
        self.ready = len(self.arrived) >= count

    def take(self, count: int) -> tuple[list[Waitable], list[Waitable]]:
        """As `cut`; the state is this thread's for the next call, if there is anything left."""
        both = self.cut(count)
        self.stay(bool(both[1]) and not self._generators)
        if self._generators:
            self.close()
        return both

    def cut(self, count: int) -> tuple[list[Waitable], list[Waitable]]:
        """Up to ``count`` ready refs, and all others, both in the order of the list (lock held)."""
        arrived, positions, snapshot = self.arrived, self._positions, self._snapshot
        if count == 1 and arrived:
            index = bisect_left(positions, heappop(arrived))
            del positions[index]
            ready = [snapshot.pop(index)]
        else:
            taken = [heappop(arrived) for _ in range(min(count, len(arrived)))]
            indices = [bisect_left(positions, position) for position in taken]
            ready = [snapshot[index] for index in indices]
            for index in reversed(indices):
                del positions[index], snapshot[index]
        self._list = rest = snapshot.copy()
        return ready, rest

    def stay(self, wanted: bool) -> None:
        """Be this thread's state for the next call, or not; the one before it is over."""
        thread = get_ident()
        before = _states.get(thread)
        if before is not None and before is not self:
            before.close()
        if wanted:
            _states[thread] = self
        elif before is not None:
            del _states[thread]

    def give_up(self) -> None:
        """The wait has raised: nothing is told to it any more, and it keeps no refs (lock held)."""
        if _states.get(get_ident()) is self:
            del _states[get_ident()]
        self.close()

    def is_abandoned(self) -> bool:
        """Whether nobody can come back with the list that the last call returned."""
        return count_each([self._list])[0] <= LISTED + 1  # the state's own

    def close(self) -> None:
        """Wait for nothing any more, and let go of the refs (lock held)."""
        for arrival in self._generators:
            arrival.close()
        for ref in self._snapshot:
            entry = ref._entry if isinstance(ref, ObjectRef) else None
            if entry is not None and entry.waiters:
                entry.waiters = [w for w in entry.waiters if type(w) is not _Arrival or w.state is not self]
        for object_id, fetching in self._fetching.items():
            self._table.stop_fetching(object_id, fetching)
        self._fetching = {}
        self._list = []
        self._snapshot = []
        self._positions = []
        self.arrived = []

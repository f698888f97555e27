"""The ready queue of `wait`: O(1) per completion and per call, whatever the number of refs.

The usual loop is `ready, refs = wait(refs)`. The state of one call is kept with the list it returned: when the next call
comes with that very list, unchanged, nothing is registered or checked again.
"""

from __future__ import annotations

import bisect
import heapq
import threading
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from shoal.owner.objects import Entry
    from shoal.owner.table import ObjectTable
    from shoal.refs import ObjectRef

_local = threading.local()


def local_wait_state() -> WaitState | None:
    """The state that this thread's last `wait` left."""
    return getattr(_local, "state", None)


class _Arrival:
    """Tells a WaitState that the ref at ``position`` is ready (EntryWaiter)."""

    __slots__ = ("position", "state")

    def __init__(self, state: WaitState, position: int) -> None:
        self.state = state
        self.position = position

    def entry_ready(self, entry: Entry) -> None:
        state = self.state
        heapq.heappush(state.arrived, self.position)
        if len(state.arrived) >= state.target:
            state.ready = True


class WaitState:
    """Refs that are waited for, by position in the first call's list (an `Awaited` of the reactor)."""

    __slots__ = ("_list", "_positions", "_refs", "_snapshot", "_table", "arrived", "ready", "target", "wake")

    def __init__(self, refs: list[ObjectRef[Any]], table: ObjectTable, lock: threading.Lock) -> None:
        self._table = table
        self._refs = list(refs)
        self._list: list[ObjectRef[Any]] = refs
        self._snapshot = self._refs
        self._positions = list(range(len(refs)))
        self.arrived: list[int] = []
        self.target = 1
        self.ready = False
        self.wake: object = None
        with lock:
            for position, ref in enumerate(refs):
                if not table.wait_for(table.entry_of(ref), _Arrival(self, position)):
                    self.arrived.append(position)

    def matches(self, refs: list[ObjectRef[Any]], table: ObjectTable) -> bool:
        """Whether ``refs`` is the list that the last call returned, unchanged."""
        return refs is self._list and table is self._table and refs == self._snapshot

    def expect(self, count: int) -> None:
        """`ready` (as the reactor reads it) when ``count`` are there."""
        self.target = count
        self.ready = len(self.arrived) >= count

    def take(self, positions: list[int]) -> tuple[list[ObjectRef[Any]], list[ObjectRef[Any]]]:
        """The refs at ``positions`` (ascending), and all others."""
        refs = self._refs
        ready = [refs[position] for position in positions]
        rest = self._snapshot.copy()
        for position in reversed(positions):
            index = bisect.bisect_left(self._positions, position)
            del self._positions[index]
            del rest[index]
        self._list = rest
        self._snapshot = rest.copy()
        _local.state = self if rest else None
        return ready, rest

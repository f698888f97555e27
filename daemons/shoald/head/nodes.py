"""The node table: who is in the cluster, in which state, and who may never come back.

    (new) → ALIVE ⇄ SUSPECTED → DEAD        ALIVE → DEAD when it leaves or is replaced

A node is one incarnation of one daemon. It is suspected after a short silence, or when its stream breaks,
and declared dead after a long one, by nobody but this table. A dead incarnation is fenced: it is refused
for as long as it is remembered. Not responsible for objects, and sends nothing.

The node in the head's own process lives as long as that does: while it has a stream its silence says nothing.

Invariants: at most one live incarnation per node id; a stream belongs to at most one node; a dead node has
no stream; a node with a stream is not dead.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Iterator
from heapq import heapify, heappop, heappush, heapreplace

from shoald.head.events import ALIVE, DEAD, SUSPECTED, Gauges, NodeInfo, NodeReports, NodeView

_TRANSITIONS = {(ALIVE, SUSPECTED), (SUSPECTED, ALIVE), (SUSPECTED, DEAD), (ALIVE, DEAD)}
_HISTORY_LENGTH = 8


class ImpossibleTransition(Exception):
    """A node was to change to a state that cannot follow; the message carries its history."""


class NodeRecord:
    """One incarnation of one node.

    Attributes:
        stream: the connection it speaks on, or None while it has none.
        last_seen: monotonic seconds of the last sign of life.
        history: the last states as (monotonic seconds, state, reason), oldest first.
        parts: reports of a batch whose last part has not come.
        due: when its silence is looked at next; its entry among the deadlines has the same.
        here: it is in the head's own process.
    """

    __slots__ = (
        "draining",
        "due",
        "gauges",
        "here",
        "history",
        "incarnation",
        "info",
        "last_seen",
        "node_id",
        "parts",
        "reason",
        "state",
        "stream",
    )

    def __init__(self, node_id: str, incarnation: str, info: NodeInfo, now: float) -> None:
        self.node_id = node_id
        self.incarnation = incarnation
        self.info = info
        self.stream: int | None = None
        self.state = ALIVE
        self.reason = "registered"
        self.draining = False
        self.here = False
        self.last_seen = self.due = now
        self.gauges = Gauges(available=info.resources)
        self.parts: list[NodeReports] = []
        self.history: deque[tuple[float, str, str]] = deque([(now, ALIVE, self.reason)], _HISTORY_LENGTH)

    def become(self, state: str, reason: str, now: float) -> None:
        """Change the state; raises ImpossibleTransition, and changes nothing, if it cannot follow."""
        if (self.state, state) not in _TRANSITIONS:
            story = "; ".join(f"{at:.3f} {was}: {why}" for at, was, why in self.history)
            raise ImpossibleTransition(f"node {self.node_id} to {state} ({reason}); history: {story}")
        self.state, self.reason = state, reason
        self.history.append((now, state, reason))

    def view(self, now: float) -> NodeView:
        """The node as others see it at ``now``."""
        silent_s = 0.0 if self.is_near else max(0.0, now - self.last_seen)
        return NodeView(
            self.node_id,
            self.incarnation,
            self.info,
            self.state,
            self.reason,
            self.draining,
            int(silent_s * 1000),
            self.gauges,
        )

    @property
    def is_near(self) -> bool:
        """Whether it is connected from within this process: it need not say that it lives."""
        return self.here and self.stream is not None


class NodeTable:
    """All nodes, live and remembered dead; the one place that decides who is dead.

    Args:
        here: the id of the node in the head's own process, if there is one.
    """

    def __init__(self, suspect_s: float, dead_s: float, here: str = "") -> None:
        self._here = here
        self._suspect_s = suspect_s
        self._dead_s = dead_s
        self._live: dict[str, NodeRecord] = {}
        self._dead: dict[tuple[str, str], NodeRecord] = {}  # in the order of their deaths
        self._by_stream: dict[int, NodeRecord] = {}
        # (due, a number that orders them, record): when a live node's silence would say something, or sooner: a sign of life
        # changes no entry. Of entries for one record, only that with its `due` counts.
        self._deadlines: list[tuple[float, int, NodeRecord]] = []
        self._watches = 0

    def __iter__(self) -> Iterator[NodeRecord]:
        yield from self._live.values()
        yield from self._dead.values()

    @property
    def live(self) -> Iterable[NodeRecord]:
        return self._live.values()

    @property
    def live_count(self) -> int:
        return len(self._live)

    @property
    def dead_count(self) -> int:
        return len(self._dead)

    def is_live(self, node_id: str) -> bool:
        """Whether there is a live node of this id."""
        return node_id in self._live

    def get(self, node_id: str) -> NodeRecord | None:
        """The live node of this id."""
        return self._live.get(node_id)

    def of_stream(self, stream: int) -> NodeRecord | None:
        """The node that speaks on this stream; None for a stream that was replaced or never registered."""
        return self._by_stream.get(stream)

    def is_dead(self, node_id: str, incarnation: str) -> bool:
        return (node_id, incarnation) in self._dead

    def add(self, record: NodeRecord) -> None:
        assert record.node_id not in self._live
        record.here = record.node_id == self._here
        self._live[record.node_id] = record
        self._watch(record)

    def add_dead(self, record: NodeRecord) -> None:
        """Remember a node that was dead before this head started."""
        self._dead[record.node_id, record.incarnation] = record

    def attach(self, record: NodeRecord, stream: int) -> None:
        """The node speaks on ``stream`` from now on, and on no other."""
        self.detach(record)
        assert stream not in self._by_stream
        record.stream = stream
        self._by_stream[stream] = record

    def detach(self, record: NodeRecord) -> None:
        if record.stream is not None:
            del self._by_stream[record.stream]
            was_near = record.is_near
            record.stream = None
            if was_near:
                self._watch(record)

    def bury(self, record: NodeRecord, reason: str, now: float) -> None:
        """Declare a node dead and fence its incarnation."""
        record.become(DEAD, reason, now)
        self.detach(record)
        del self._live[record.node_id]
        self._dead[record.node_id, record.incarnation] = record

    def forget_oldest_dead(self) -> NodeRecord:
        """Drop the fence of the node that is dead for the longest time, and return it."""
        return self._dead.pop(next(iter(self._dead)))

    def silent(self, now: float) -> tuple[list[NodeRecord], list[NodeRecord]]:
        """(nodes to suspect, nodes to declare dead) because of their silence."""
        suspects: list[NodeRecord] = []
        deaths: list[NodeRecord] = []
        for record in self._live.values():
            # The sums of `next_deadline`: rounding would make a difference fall short of what it said.
            if now >= self._deadline(record):
                (suspects if record.state == ALIVE else deaths).append(record)
        return suspects, deaths

    def revived(self, record: NodeRecord) -> None:
        """A suspected node was heard of again: its silence says something sooner than it would have."""
        self._watch(record)

    def _deadline(self, record: NodeRecord) -> float:
        """When its silence says something new. Nobody is dead who was not suspected for as long as that takes: a head that stood
        still itself (its machine was suspended, or too busy) has not read yet what came meanwhile.
        """
        if record.is_near:
            return math.inf
        if record.state == ALIVE:
            return record.last_seen + self._suspect_s
        suspected_at = record.history[-1][0]
        return max(record.last_seen + self._dead_s, suspected_at + self._dead_s - self._suspect_s)

    def _watch(self, record: NodeRecord) -> None:
        record.due = self._deadline(record)
        self._watches += 1
        heappush(self._deadlines, (record.due, self._watches, record))
        if len(self._deadlines) > 2 * len(self._live) + _HISTORY_LENGTH:
            self._deadlines = [(each.due, place, each) for place, each in enumerate(self._live.values())]
            self._watches = len(self._live)
            heapify(self._deadlines)

    def next_deadline(self) -> float | None:
        """When `silent` has something new to say at the earliest; None if that is never. O(log n), since it is asked often."""
        deadlines = self._deadlines
        while deadlines:
            due, number, record = deadlines[0]
            if record.due != due or self._live.get(record.node_id) is not record:
                heappop(deadlines)
                continue
            now_due = self._deadline(record)
            if now_due <= due:
                return now_due if now_due < math.inf else None
            record.due = now_due
            heapreplace(deadlines, (now_due, number, record))
        return None

    def validate(self) -> None:
        """Check every invariant; raises AssertionError."""
        watched = {(due, record.node_id) for due, _, record in self._deadlines}
        for node_id, record in self._live.items():
            assert record.node_id == node_id
            assert (record.due, node_id) in watched, f"nobody looks after {node_id}"
            assert record.due <= self._deadline(record), f"{node_id} is looked after too late"
            assert record.state in {ALIVE, SUSPECTED}, record.state
            assert (node_id, record.incarnation) not in self._dead, f"{node_id} is live and dead"
            assert record.stream is None or self._by_stream.get(record.stream) is record
        for (node_id, incarnation), record in self._dead.items():
            assert (record.node_id, record.incarnation) == (node_id, incarnation)
            assert record.state == DEAD
            assert record.stream is None
        for stream, record in self._by_stream.items():
            assert record.stream == stream
            assert self._live.get(record.node_id) is record

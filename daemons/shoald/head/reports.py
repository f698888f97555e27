"""ReportBuffer: what a node has to tell the head, merged until it is sent. Pure; the link is its shell.

Gauges: the newest counts. Objects: the last word per object counts, and what came and went between two
reports is never mentioned. After every registration the head wants a snapshot: until the node has given
one, changes are dropped, since the snapshot contains them.

`Confirmations` knows what the head has acknowledged: whoever reports something can ask to be told when the head knows.

Invariant: an object is in each table at most once, with what the head believes if it was not told yet.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from shoald.head.events import ObjectBatch

GAUGE_KEYS = frozenset({"available", "store_used_bytes", "store_objects", "workers", "pending"})
DELTA_KEYS = frozenset({"born", "hold", "release", "freed", "changes"})
_GONE = -1  # instead of a size: no copy; instead of 1: no hold


@dataclass(frozen=True, slots=True)
class Part:
    """One report: `gauges` None if nothing changed, `more` if the batch goes on in the next part."""

    gauges: Mapping[str, Any] | None
    objects: ObjectBatch
    snapshot: bool
    more: bool


class ActorBuffer:
    """Merges what a node has to tell of the actors that it hosts: the last word on each counts.

    As for objects, changes are dropped until the snapshot that the head wants after a registration.
    """

    def __init__(self) -> None:
        self._wants_snapshot = True
        self._snapshot = False
        self._actors: dict[bytes, Mapping[str, Any]] = {}

    def add(self, actors: Iterable[Mapping[str, Any]], snapshot: bool) -> None:
        """Take changes in, or with ``snapshot`` all actors of this node; each a dict with an "actor_id"."""
        if snapshot:
            self._actors.clear()
            self._snapshot, self._wants_snapshot = True, False
        if not self._wants_snapshot:
            for actor in actors:
                self._actors[actor["actor_id"]] = actor

    def start_over(self) -> None:
        """A new registration."""
        self._wants_snapshot, self._snapshot = True, False
        self._actors.clear()

    def take(self) -> tuple[list[Mapping[str, Any]], bool] | None:
        """(actors, whether they are a snapshot), forgotten here; None if there is nothing to tell."""
        if not self._actors and not self._snapshot:
            return None
        taken = list(self._actors.values()), self._snapshot
        self._actors = {}
        self._snapshot = False
        return taken


class KillBuffer:
    """Kills of actors that the head is to hear of: kept until it has acknowledged them, over as many streams as that takes.

    They are no part of any snapshot: whoever killed an actor need not host it.

    Args:
        kills_max: that are kept; beyond, the oldest is given up, as if nobody had killed it.
    """

    def __init__(self, kills_max: int) -> None:
        self._kills_max = kills_max
        self._unsent: dict[bytes, str] = {}
        self._sent: deque[tuple[int, dict[bytes, str]]] = deque()  # with the number of their report
        self._then: dict[bytes, list[Callable[[], None]]] = {}

    @property
    def empty(self) -> bool:
        """Whether there is nothing to send."""
        return not self._unsent

    def add(self, actor_id: bytes, reason: str, then: Callable[[], None]) -> None:
        """An actor is killed; ``then`` is to be called when the head knows."""
        if actor_id not in self._then:
            self._unsent[actor_id] = reason
        self._then.setdefault(actor_id, []).append(then)
        if len(self._then) > self._kills_max:
            self._give_up(next(iter(self._then)))

    def take(self, number: int) -> dict[bytes, str]:
        """All that is to be sent now, as the report of this number: reasons by actor."""
        taken, self._unsent = self._unsent, {}
        if taken:
            self._sent.append((number, dict(taken)))
        return taken

    def _give_up(self, actor_id: bytes) -> None:
        del self._then[actor_id]
        self._unsent.pop(actor_id, None)
        for _, kills in self._sent:
            if kills.pop(actor_id, None) is not None:
                break
        while self._sent and not self._sent[0][1]:
            self._sent.popleft()

    def acknowledged(self, number: int) -> list[Callable[[], None]]:
        """The head knows of the reports up to this number; returns whom to call, in order."""
        confirmed: list[Callable[[], None]] = []
        while self._sent and self._sent[0][0] <= number:
            for actor_id in self._sent.popleft()[1]:
                confirmed += self._then.pop(actor_id)
        return confirmed

    def start_over(self) -> None:
        """A new stream: what was not acknowledged is sent again, in the same order."""
        sent = {actor_id: reason for _, kills in self._sent for actor_id, reason in kills.items()}
        self._unsent = {**sent, **self._unsent}
        self._sent.clear()


class ReportBuffer:
    """Merges reports.

    Attributes:
        wants_snapshot: changes are dropped until a report with `snapshot` comes.
    """

    def __init__(self) -> None:
        self.wants_snapshot = True
        self._gauges: dict[str, Any] = {}
        self._gauges_new = False
        self._snapshot = False
        # Per object: (what was the first change since the last report, what is the last one).
        self._copies: dict[bytes, tuple[int, int]] = {}
        self._holds: dict[bytes, tuple[int, int]] = {}

    def add(self, report: Mapping[str, Any]) -> None:
        """Take a report in.

        Args:
            report: any of the gauges "available" {name: units}, "store_used_bytes", "store_objects",
                "workers", "pending" [{"resources", "count", "reason"}]; of the changes "born" [(id, size)],
                "hold" [id], "release" [id], "freed" [id], or all of them in the order in which they happened:
                "changes" [(one of these words, id, size)]; and "snapshot": True if these are all there is.

        Raises:
            ValueError: an unknown key; nothing of the report is taken.
        """
        unknown = set(report) - GAUGE_KEYS - DELTA_KEYS - {"snapshot"}
        if unknown:
            known = ", ".join(sorted(GAUGE_KEYS | DELTA_KEYS | {"snapshot"}))
            raise ValueError(f"a report has no {sorted(unknown)}; known are {known}")
        for key in GAUGE_KEYS & set(report):
            self._gauges[key] = report[key]
            self._gauges_new = True
        if report.get("snapshot"):
            self._copies.clear()
            self._holds.clear()
            self._snapshot, self.wants_snapshot = True, False
        if self.wants_snapshot:
            return
        for object_id, size in report.get("born", ()):
            self._change(self._copies, object_id, size)
        for object_id in report.get("hold", ()):
            self._change(self._holds, object_id, 1)
        for object_id in report.get("release", ()):
            self._change(self._holds, object_id, _GONE)
        for object_id in report.get("freed", ()):
            self._change(self._copies, object_id, _GONE)
        copies, holds, merge = self._copies, self._holds, self._change
        for what, object_id, size in report.get("changes", ()):
            if what in ("born", "freed"):
                table, value = copies, size if what == "born" else _GONE
            else:
                table, value = holds, 1 if what == "hold" else _GONE
            if object_id in table or value == _GONE:
                merge(table, object_id, value)
            else:  # the common case: the first that is told of it
                table[object_id] = (value, value)

    def start_over(self) -> None:
        """A new registration: the head knows nothing of this node yet."""
        self.wants_snapshot = True
        self._snapshot = False
        self._copies.clear()
        self._holds.clear()
        self._gauges_new = bool(self._gauges)

    @property
    def empty(self) -> bool:
        return not (self._gauges_new or self._snapshot or self._copies or self._holds)

    def take(self, ids_max: int) -> list[Part]:
        """Everything there is to tell, in parts of at most ``ids_max`` ids per kind; it is forgotten here."""
        born = [(object_id, last) for object_id, (_, last) in self._copies.items() if last != _GONE]
        freed = [object_id for object_id, (_, last) in self._copies.items() if last == _GONE]
        hold = [object_id for object_id, (_, last) in self._holds.items() if last != _GONE]
        release = [object_id for object_id, (_, last) in self._holds.items() if last == _GONE]
        longest = max(len(born), len(freed), len(hold), len(release), 1)
        parts: list[Part] = []
        for start in range(0, longest, ids_max):
            cut = slice(start, start + ids_max)
            objects = ObjectBatch(tuple(born[cut]), tuple(hold[cut]), tuple(release[cut]), tuple(freed[cut]))
            gauges = dict(self._gauges) if self._gauges_new and not parts else None
            parts.append(Part(gauges, objects, self._snapshot, start + ids_max < longest))
        self._copies.clear()
        self._holds.clear()
        self._gauges_new = self._snapshot = False
        return parts

    def _change(self, table: dict[bytes, tuple[int, int]], object_id: bytes, value: int) -> None:
        known = table.get(object_id)
        if known is None and self._snapshot and value == _GONE:
            return  # in a snapshot, not to be mentioned is to be gone
        first = value if known is None else known[0]
        table[object_id] = (first, value)
        if table is self._copies and value == _GONE and first != _GONE:
            # It came and went between two reports. A hold alone is never passed over: it may have
            # answered a proposal to free the object, and its release is what brings the next one.
            del table[object_id]
            hold = self._holds.get(object_id)
            if hold is not None and hold[0] != _GONE and hold[1] == _GONE:
                del self._holds[object_id]


class Confirmations:
    """Who wants to know when the head has acknowledged which report."""

    def __init__(self) -> None:
        self._next: list[Callable[[], None]] = []  # for the next batch that is sent
        self._sent: deque[tuple[int, list[Callable[[], None]]]] = (
            deque()
        )  # with the number of their batch's last part

    def add(self, then: Callable[[], None]) -> None:
        """Call this when the head knows all that was added to the buffer until now."""
        self._next.append(then)

    @property
    def waiting(self) -> bool:
        """Whether somebody waits for a batch that has not been sent."""
        return bool(self._next)

    def sent(self, number: int) -> None:
        """All that was in the buffer goes out, in parts up to this number."""
        if self._next:
            self._sent.append((number, self._next))
            self._next = []

    def acknowledged(self, number: int) -> list[Callable[[], None]]:
        """The head has taken in parts up to this number; returns whom to call, in order."""
        confirmed: list[Callable[[], None]] = []
        while self._sent and self._sent[0][0] <= number:
            confirmed += self._sent.popleft()[1]
        return confirmed

    def start_over(self) -> None:
        """A new stream: what was not acknowledged will be a part of its snapshot."""
        waiting = [then for _, batch in self._sent for then in batch]
        self._sent.clear()
        self._next = waiting + self._next

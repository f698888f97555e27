"""The table of placement groups: who wants one, on which nodes its bundles are, and what becomes of it. Pure.

    PENDING → CREATED → REMOVED        PENDING → REFUSED (its name is taken)
    CREATED → RESCHEDULING → CREATED   when a node with bundles of it dies

A group that needs nodes is planned (`planning`) and reserved in two phases: every node of the plan is told to PREPARE its
bundles; if all have, all COMMIT, and if one refuses, all RETURN, and another plan is made when something has changed. On
a single node both phases are one (RESERVE). A node may also have made a group on itself alone: that is created already. A node
that answers late or comes back from a broken stream is set right by what it says it holds (`snapshot`).

A group ends with its job unless it is detached, and when it is removed. All groups are saved, so that a head that starts again
knows which of the bundles that the nodes hold are wanted.

Invariants: a bundle of a CREATED group has a node; a node is in at most one attempt of a group; a name belongs to at most one
group that is not over; what nodes are believed to have free never counts what was promised to a group since they said so.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from shoal.config import Config
from shoal.wire.labels import describe, parse
from shoald.head.groupwords import (
    COMMIT,
    CREATED,
    OVER,
    PENDING,
    PREPARE,
    REFUSED,
    REMOVED,
    RESCHEDULING,
    RESERVE,
    RETURN,
    Amounts,
    Answer,
    ForgetGroup,
    Group,
    GroupEffect,
    GroupState,
    News,
    NodeRoom,
    Order,
    SaveGroup,
    TellGroups,
)  # fmt: skip
from shoald.head.planning import plan, with_labels

_INFEASIBLE = "infeasible"  # so begins the reason of a group that waits for other nodes to come


@dataclass(slots=True)
class _Record:
    """A group in the table.

    Attributes:
        attempt: how many plans there were.
        planned: index → node, of the attempt under way; `open`: nodes that have not answered yet; `phases`: 1 on a single node.
        watchers: nodes that are told of changes.
    """

    group: Group
    state: str
    nodes: list[str]
    reason: str = ""
    attempt: int = 0
    planned: dict[int, str] = field(default_factory=dict)
    open: set[str] = field(default_factory=set)
    phases: int = 1
    watchers: set[str] = field(default_factory=set)

    @property
    def view(self) -> GroupState:
        return GroupState(self.group, self.state, self.reason, tuple(self.nodes))

    def on(self, node_id: str) -> tuple[int, ...]:
        """The bundles that are on this node."""
        return tuple(index for index, owner in enumerate(self.nodes) if owner == node_id)

    def planned_on(self, node_id: str) -> tuple[int, ...]:
        """The bundles that this node is to get in the attempt under way."""
        return tuple(sorted(index for index, owner in self.planned.items() if owner == node_id))


class GroupTable:
    """All placement groups of the cluster.

    Args:
        rooms: the nodes that bundles may be put on now.
    """

    def __init__(
        self,
        rooms: Callable[[], Mapping[str, NodeRoom]],
        config: Config,
        durable: Iterable[GroupState] = (),
    ) -> None:
        self._rooms = rooms
        self._config = config
        self._records: dict[bytes, _Record] = {}
        self._names: dict[tuple[str, str], bytes] = {}
        self._waiting: OrderedDict[bytes, None] = OrderedDict()  # groups that need a plan
        self._over: OrderedDict[bytes, None] = OrderedDict()
        # By node and group: what was promised, and until when that counts once the node has answered.
        self._promised: dict[str, dict[bytes, tuple[Amounts, float | None]]] = {}
        self._full: dict[str, float] = {}  # nodes that have refused, until then
        self._orders: dict[str, list[Order]] = {}
        self._told: dict[str, dict[bytes, GroupState]] = {}
        self._saved: list[GroupEffect] = []
        self._due: float | None = None
        for state in durable:
            self._restore(state)

    def __len__(self) -> int:
        return len(self._records)

    def _restore(self, state: GroupState) -> None:
        record = self._records[state.group.group_id] = _Record(
            state.group, state.state, list(state.nodes), state.reason
        )
        record.watchers.add(state.group.node_id)
        if state.state in OVER:
            self._over[state.group.group_id] = None
            return
        if state.group.name:
            self._names[state.group.namespace, state.group.name] = state.group.group_id
        if state.state != CREATED:
            self._waiting[state.group.group_id] = None

    def take(self) -> list[GroupEffect]:
        """The effects of what happened since the last call: durable ones first, then one message for each node."""
        effects, self._saved = self._saved, []
        for node_id in sorted(self._orders.keys() | self._told.keys()):
            orders, states = self._orders.get(node_id, []), self._told.get(node_id, {})
            effects.append(TellGroups(node_id, tuple(orders), tuple(states.values())))
        self._orders, self._told = {}, {}
        return effects

    @property
    def changed(self) -> bool:
        """Whether `take` has anything."""
        return bool(self._saved or self._orders or self._told)

    # --- what nodes say ---

    def heard(self, node_id: str, news: News, now: float) -> None:
        """A node's news."""
        if news.snapshot:
            self._compare(node_id, news)
        for group in news.made:
            self._made(node_id, group)
        for group in news.wanted:
            self._wanted(node_id, group)
        for answer in news.answers:
            self._answered(node_id, answer, now)
        for group_id in news.removed:
            self._removal(node_id, group_id)
        for group_id in news.watched:
            self._watch(node_id, group_id)
        self._try(now)

    def _add(self, node_id: str, group: Group) -> _Record:
        record = self._records[group.group_id] = _Record(group, PENDING, [""] * len(group.bundles))
        record.watchers.add(node_id)
        if group.name:
            self._names[group.namespace, group.name] = group.group_id
        return record

    def _made(self, node_id: str, group: Group) -> None:
        record = self._records.get(group.group_id)
        if record is not None and record.state in OVER:
            self._order(node_id, RETURN, record, tuple(range(len(group.bundles))))
            self._tell(node_id, record)
            return
        if record is not None and record.state != PENDING:
            return
        if record is None:
            record = self._add(node_id, group)
        self._end_attempt(record)
        record.nodes = [node_id] * len(group.bundles)
        self._enter(record, CREATED)

    def _wanted(self, node_id: str, group: Group) -> None:
        record = self._records.get(group.group_id)
        if record is not None:  # told again, after its stream broke
            record.watchers.add(node_id)
            self._tell(node_id, record)
            return
        taken = bool(group.name) and (group.namespace, group.name) in self._names
        if taken or len(self._records) - len(self._over) >= self._config.groups_max:
            record = _Record(group, REFUSED, [""] * len(group.bundles))
            record.reason = (
                f"there is a placement group named {group.name!r} in namespace {group.namespace!r} already; take another "
                "name, or remove that one first"
                if taken
                else f"there are {self._config.groups_max} placement groups already (groups_max)"
            )
            self._tell(node_id, record)
            return
        record = self._add(node_id, group)
        self._enter(record, PENDING)

    def _answered(self, node_id: str, answer: Answer, now: float) -> None:
        record = self._records.get(answer.group_id)
        if record is None or answer.attempt != record.attempt or node_id not in record.open:
            return  # of an attempt that is over: its bundles were told to return
        record.open.discard(node_id)
        amounts, _ = self._promised[node_id][answer.group_id]
        if not answer.ok:
            self._full[node_id] = now + self._config.group_retry_ms / 1000
            record.reason = f"node {node_id[:8]} had no room any more: {answer.reason}"
            self._end_attempt(record)
            self._waiting[answer.group_id] = None
            self._due = now + self._config.group_retry_ms / 1000
            return
        # Its next gauges contain this; if they are as before, it says nothing.
        self._promised[node_id][answer.group_id] = (amounts, now + self._config.view_lag_ms / 1000)
        if record.open:
            return
        planned, record.planned = record.planned, {}
        for index, owner in planned.items():
            record.nodes[index] = owner
        if record.phases > 1:
            for owner in sorted(set(planned.values())):
                indices = tuple(sorted(index for index, its in planned.items() if its == owner))
                self._order(owner, COMMIT, record, indices)
        self._enter(record, CREATED)

    def _removal(self, node_id: str, group_id: bytes) -> None:
        record = self._records.get(group_id)
        if record is None:
            # Unknown, or forgotten long ago: either way nothing is left of it.
            gone = GroupState(Group(group_id), REMOVED, "it was removed", ())
            self._told.setdefault(node_id, {})[group_id] = gone
            return
        record.watchers.add(node_id)
        self.remove(group_id, "it was removed")
        self._tell(node_id, record)

    def _watch(self, node_id: str, group_id: bytes) -> None:
        record = self._records.get(group_id)
        if record is not None:
            record.watchers.add(node_id)
            self._tell(node_id, record)
        else:
            unknown = GroupState(Group(group_id), REMOVED, "it was removed, or has never existed", ())
            self._told.setdefault(node_id, {})[group_id] = unknown

    def _compare(self, node_id: str, news: News) -> None:
        """A node (again) has a stream: its bundles are set right, whatever was lost on the way."""
        made = {group.group_id for group in news.made}
        held = {each.group_id: each for each in news.held}
        for group_id, each in held.items():
            record = self._records.get(group_id)
            if record is None:
                if group_id not in made:
                    everything = (*each.prepared, *each.committed)
                    self._orders.setdefault(node_id, []).append(Order(RETURN, group_id, 0, everything))
                continue
            over = (
                record.state in OVER
            )  # then `nodes` is where its bundles were, and this node has not heard of its end
            here = set() if over else set(record.on(node_id))
            planned = set(record.planned_on(node_id))
            wrong = tuple(i for i in (*each.prepared, *each.committed) if i not in here | planned)
            if wrong and group_id not in made:
                self._order(node_id, RETURN, record, wrong)
            late = tuple(index for index in each.prepared if index in here)
            if late:
                self._order(node_id, COMMIT, record, late)
        for record in self._records.values():
            if node_id in record.open:
                self._order_planned(record, node_id)
            if node_id in record.watchers or record.on(node_id):
                self._tell(node_id, record)

    # --- other events ---

    def gauges(self, node_id: str, now: float) -> None:
        """A node has said what it has free: what it had answered before is in that."""
        promised = self._promised.get(node_id)
        if promised:
            self._promised[node_id] = {k: each for k, each in promised.items() if each[1] is None}
        if self._waiting:
            self._due = now if self._due is None else min(self._due, now)

    def nodes_changed(self, now: float) -> None:
        """A node has come, or may be used again."""
        if self._waiting:
            self._due = now

    def node_died(self, node_id: str, reason: str, now: float) -> None:
        """What was on the node is lost: its bundles need other nodes."""
        self._promised.pop(node_id, None)
        self._full.pop(node_id, None)
        for group_id, record in self._records.items():
            record.watchers.discard(node_id)
            if record.state in OVER:
                continue
            if node_id in record.planned.values():
                self._end_attempt(record, but=node_id)
                self._waiting[group_id] = None
            if node_id in record.nodes:
                record.nodes = ["" if owner == node_id else owner for owner in record.nodes]
                self._end_attempt(record, but=node_id)
                record.reason = f"node {node_id[:8]} died: {reason}"
                self._enter(record, RESCHEDULING, record.reason)
        self._try(now)

    def job_ended(self, job_id: str) -> None:
        """Its groups end, except detached ones."""
        for group_id, record in list(self._records.items()):
            if record.group.job_id == job_id and not record.group.detached:
                self.remove(group_id, "its job has ended")

    def remove(self, group_id: bytes, reason: str) -> None:
        """A group is over: every node gives its bundles back. Again, or unknown: nothing."""
        record = self._records.get(group_id)
        if record is None or record.state in OVER:
            return
        self._end_attempt(record)
        for node_id in sorted(set(record.nodes) - {""}):
            self._promised.get(node_id, {}).pop(group_id, None)
            record.watchers.add(node_id)
            self._order(node_id, RETURN, record, record.on(node_id))
        key = record.group.namespace, record.group.name
        if self._names.get(key) == group_id:
            del self._names[key]
        self._enter(record, REMOVED, reason)

    def tick(self, now: float) -> None:
        """Time has passed."""
        if self._due is not None and now >= self._due:
            self._due = None
            self._try(now)

    def next_deadline(self) -> float | None:
        """When `tick` is due; None for never."""
        return self._due

    # --- planning ---

    def _try(self, now: float) -> None:
        """Plan groups that wait, the longest first, as many as one round may."""
        if not self._waiting:
            return
        rooms = self._rooms()
        soon = len(self._waiting) > self._config.groups_tried_max
        self._full = {node_id: until for node_id, until in self._full.items() if until > now}
        for group_id in list(self._waiting)[: self._config.groups_tried_max]:
            record = self._records[group_id]
            if self._plan(record, rooms, now):
                del self._waiting[group_id]
                continue
            soon |= not record.reason.startswith(_INFEASIBLE)
            if len(self._waiting) > self._config.groups_tried_max:
                self._waiting.move_to_end(group_id)
        if soon:
            again = now + self._config.group_retry_ms / 1000
            self._due = again if self._due is None else max(now, min(self._due, again))

    def _plan(self, record: _Record, rooms: Mapping[str, NodeRoom], now: float) -> bool:
        """Begin an attempt, if there is room; whether there was."""
        group = record.group
        missing = {i: group.bundles[i] for i, owner in enumerate(record.nodes) if not owner}
        fixed = {i: owner for i, owner in enumerate(record.nodes) if owner}
        usable = {node_id: self._free(node_id, room, now) for node_id, room in rooms.items()}
        usable = {node_id: free for node_id, free in usable.items() if node_id not in self._full}
        labels = {node_id: room.labels for node_id, room in rooms.items()}
        wanting, marked = with_labels(missing, group.selectors, usable, labels)
        found = plan(group.strategy, wanting, fixed, marked)
        if found is None:
            self._explain(record, missing, fixed, rooms)
            return False
        record.attempt += 1
        record.planned = found
        record.open = set(found.values())
        record.phases = 2 if len(record.open) > 1 else 1
        for node_id in sorted(record.open):
            amounts: dict[str, int] = {}
            for index in record.planned_on(node_id):
                for name, amount in group.bundles[index].items():
                    amounts[name] = amounts.get(name, 0) + amount
            self._promised.setdefault(node_id, {})[group.group_id] = (amounts, None)
            self._order_planned(record, node_id)
        return True

    def _free(self, node_id: str, room: NodeRoom, now: float) -> dict[str, int]:
        free = dict(room.free)
        for amounts, until in self._promised.get(node_id, {}).values():
            if until is not None and until <= now:
                continue
            for name, amount in amounts.items():
                free[name] = free.get(name, 0) - amount
        return free

    def _order_planned(self, record: _Record, node_id: str) -> None:
        indices = record.planned_on(node_id)
        bundles = tuple(record.group.bundles[index] for index in indices)
        kind = PREPARE if record.phases > 1 else RESERVE
        order = Order(kind, record.group.group_id, record.attempt, indices, bundles)
        self._orders.setdefault(node_id, []).append(order)
        record.watchers.add(node_id)
        self._tell(node_id, record)

    def _explain(
        self,
        record: _Record,
        missing: Mapping[int, Amounts],
        fixed: Mapping[int, str],
        rooms: Mapping[str, NodeRoom],
    ) -> None:
        """Why there is no plan now; its maker is told when that changes."""
        group = record.group
        empty = {node_id: room.total for node_id, room in rooms.items()}
        labels = {node_id: room.labels for node_id, room in rooms.items()}
        wanting, marked = with_labels(missing, group.selectors, empty, labels)
        if plan(group.strategy, wanting, fixed, marked) is None:
            listed = "; ".join(f"node {n[:8]} {_words(r.total)}" for n, r in sorted(rooms.items())[:5])
            needs = "; ".join(_needs(group, index) for index in sorted(missing)[:5])
            reason = (
                f"{_INFEASIBLE}: {record.group.strategy} of {len(missing)} bundle(s) ({needs}) is more than the nodes have in "
                f"all: {listed or 'there is no node'}; remove it, or add nodes"
            )
        else:
            reason = "waits for room: other tasks, actors or groups have what it needs"
        if record.state == RESCHEDULING and record.reason and not reason.startswith(_INFEASIBLE):
            return
        if reason != record.reason:
            record.reason = reason
            for node_id in record.watchers:
                self._tell(node_id, record)

    def _end_attempt(self, record: _Record, but: str = "") -> None:
        """The attempt under way is over, without success: whoever may have prepared gives back."""
        for node_id in sorted(set(record.planned.values())):
            self._promised.get(node_id, {}).pop(record.group.group_id, None)
            if node_id != but:
                self._order(node_id, RETURN, record, record.planned_on(node_id))
        record.planned = {}
        record.open = set()

    # --- telling ---

    def _enter(self, record: _Record, state: str, reason: str = "") -> None:
        group_id = record.group.group_id
        record.state, record.reason = state, reason
        self._waiting.pop(group_id, None)
        if state in (PENDING, RESCHEDULING):
            self._waiting[group_id] = None
        self._saved.append(SaveGroup(record.view))
        for node_id in record.watchers:
            self._tell(node_id, record)
        if state in OVER:
            self._over[group_id] = None
            while len(self._over) > self._config.groups_removed_max:
                oldest, _ = self._over.popitem(last=False)
                del self._records[oldest]
                self._saved.append(ForgetGroup(oldest))

    def _order(self, node_id: str, kind: str, record: _Record, indices: tuple[int, ...]) -> None:
        order = Order(kind, record.group.group_id, record.attempt, indices)
        self._orders.setdefault(node_id, []).append(order)

    def _tell(self, node_id: str, record: _Record) -> None:
        self._told.setdefault(node_id, {})[record.group.group_id] = record.view

    # --- for people ---

    def views(self) -> tuple[GroupState, ...]:
        """All groups, those that are over last."""
        records = sorted(self._records.values(), key=lambda record: record.state in OVER)
        return tuple(record.view for record in records)

    def nodes_of(self, group_id: bytes, bundle: int) -> set[str]:
        """The nodes with this bundle of a group, or any (-1)."""
        record = self._records.get(group_id)
        nodes = record.nodes if record is not None else []
        return {node_id for index, node_id in enumerate(nodes) if node_id and bundle in (-1, index)}

    def find(self, namespace: str, name: str) -> GroupState | None:
        """The group of that name that is not over."""
        group_id = self._names.get((namespace, name))
        return None if group_id is None else self._records[group_id].view

    def validate(self, live: set[str]) -> None:
        """Raise AssertionError if an invariant is broken; ``live``: nodes that are not dead."""
        for group_id, record in self._records.items():
            assert record.group.group_id == group_id
            assert len(record.nodes) == len(record.group.bundles), record
            assert record.state != CREATED or all(record.nodes), record
            assert record.open <= set(record.planned.values()), record
            assert (group_id in self._over) == (record.state in OVER), record
            assert group_id not in self._waiting or not record.planned, record
            assert record.state in (CREATED, *OVER) or record.planned or group_id in self._waiting, record
            if record.state not in OVER:
                assert set(record.planned.values()) | set(record.nodes) <= live | {""}, record
                everywhere = [*filter(None, record.nodes), *record.planned.values()]
                if record.group.strategy == "STRICT_SPREAD":
                    assert len(set(everywhere)) == len(everywhere), record
                if record.group.strategy == "STRICT_PACK":
                    assert len(set(everywhere)) <= 1, record
                if record.group.name:
                    assert self._names[record.group.namespace, record.group.name] == group_id
        for group_id in self._names.values():
            assert self._records[group_id].state not in OVER
        assert len(self._over) <= self._config.groups_removed_max


def _needs(group: Group, index: int) -> str:
    """For people: what a bundle needs."""
    words = _words(group.bundles[index])
    if not group.selectors or not group.selectors[index]:
        return words
    return f"{words} on a node with {describe(parse(group.selectors[index]).items())}"


def _words(amounts: Amounts) -> str:
    return ", ".join(f"{name} {amount / 10_000:g}" for name, amount in amounts.items()) or "nothing"

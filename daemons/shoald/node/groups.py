"""The placement groups that a node has to do with: a pure core (R6). Made by its processes, with bundles here, or asked about.

Who decides where the bundles are:
    HERE    this node, for a group that fits on it and may be on one node, unless it has a name: reserved in the same step, and
            told to the head later, or never if it is gone by then. A node that knows of no other keeps its groups.
    HEAD    the head, for all others: it orders bundles to be prepared, committed, returned (shoald.head.groups).

The head is told in *news*, which the shell sends while there is a session with it. Every session begins with a snapshot of
all that is here (`connected`), so what was lost with the last one is made good for; orders may come twice.

A group that is over gives back its bundles: nobody new can use them, the workers of its members end, and what they had is free
when the last of their leases has ended.

Invariants: the bundles of a group HERE are all on this node or nowhere; a group that is over is not in `records`, but
(for a while) in `gone`.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Any

from shoal.ids import OBJECT_ID_SIZE
from shoal.wire import messages as m
from shoal.wire.labels import describe, labels_of, matches, parse
from shoald.node.bundles import COMMITTED, PREPARED, Bundles
from shoald.node.pressure import format_amounts
from shoald.store.errors import ProtocolError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from shoal.config import Config
    from shoald.node.leases import Amounts
    from shoald.node.scheduler import SchedulerCore

PENDING, CREATED, RESCHEDULING, REMOVED, REFUSED = (
    "PENDING", "CREATED", "RESCHEDULING", "REMOVED", "REFUSED",
)  # fmt: skip
HERE, HEAD = "here", "head"
PREPARE, COMMIT, RESERVE, RETURN = "PREPARE", "COMMIT", "RESERVE", "RETURN"
STRATEGIES = ("PACK", "SPREAD", "STRICT_PACK", "STRICT_SPREAD")
_ON_ONE_NODE = ("PACK", "STRICT_PACK")
_INFEASIBLE = "infeasible"
_NO_GROUP = "its placement group was removed"
_TEXT_MAX = 1000


class GroupRecord:
    """A group that is not over.

    Attributes:
        info: what its maker wants, with the fields of Group in head.proto; None as long as only its id is known.
        decides: HERE or HEAD.
        told: the head knows of it.
        nodes: of each bundle; "" for one without.
        watchers: processes that wait for it.
        asker: (process, request) of a maker that waits for the head's word on the name.
        warned: its watchers were told that no node can have it.
    """

    __slots__ = (
        "asker", "decides", "group_id", "info", "nodes", "reason", "since", "state", "told", "warned", "watchers",
    )  # fmt: skip

    def __init__(self, group_id: bytes, info: dict[str, Any] | None, decides: str, now: float) -> None:
        self.group_id = group_id
        self.info = info
        self.decides = decides
        self.state = PENDING
        self.reason = ""
        self.nodes: list[str] = []
        self.told = False
        self.warned = False
        self.watchers: dict[bytes, None] = {}
        self.asker: tuple[bytes, int] | None = None
        self.since = now

    @property
    def bundles(self) -> dict[int, Amounts]:
        """Index → amounts."""
        given = self.info["bundles"] if self.info is not None else ()
        return {index: bundle["resources"] for index, bundle in enumerate(given)}

    def unmet(self, labels: Mapping[str, str]) -> list[Mapping[str, str]]:
        """The selectors of its bundles that a node with these labels does not meet."""
        given = self.info["bundles"] if self.info is not None else ()
        selectors = [bundle["selector"] for bundle in given if bundle.get("selector")]
        return [selector for selector in selectors if not matches(labels, parse(selector).items())]

    def __repr__(self) -> str:
        return f"<group {self.group_id.hex()} {self.state}, decided {self.decides}>"


class GroupCore:
    """The placement groups of one node.

    Args:
        has_head: whether there is, or will be, a head.

    Attributes:
        outbox: effects in order: ("send", process, message), ("news", fields of GroupNews in head.proto), ("end", process of an
            actor, reason), ("head",): there is something for the head to decide, and no session with it.
    """

    def __init__(self, scheduler: SchedulerCore, config: Config, node_id: str, has_head: bool) -> None:
        self._scheduler = scheduler
        self._config = config
        self._node_id = node_id
        self._has_head = has_head
        self.bundles = Bundles(scheduler.ledger)
        self.records: dict[bytes, GroupRecord] = {}
        self.gone: OrderedDict[bytes, str] = OrderedDict()
        self.outbox: list[tuple[Any, ...]] = []
        self._names: dict[tuple[str, str], bytes] = {}  # without a head
        self._waiting: dict[bytes, None] = {}  # groups HERE without room
        self._unmet: dict[bytes, None] = {}  # groups that no node can have
        self._lazy: dict[bytes, None] = {}  # groups HERE that the head is told of when `_lazy_at` has come
        self._lazy_at = 0.0
        self._removing: dict[bytes, None] = {}  # until the head has confirmed it
        self._session = False
        scheduler.placement.groups = self

    # --- processes ---

    def create(self, proc: bytes, job_id: str, group_id: Any, info: Any, req: int, now: float) -> GroupRecord:
        """A process wants a group; raises ProtocolError for what is none."""
        _check(group_id, info)
        if group_id in self.records or group_id in self.gone:
            raise ProtocolError(f"placement group {group_id.hex()} exists already")
        selectors: list[dict[str, str]] = info.get("selectors") or [{}] * len(info["bundles"])
        info = {
            "group_id": group_id,
            "name": info["name"],
            "namespace": info["namespace"],
            "strategy": info["strategy"],
            "bundles": [
                {"resources": amounts, "selector": selector}
                for amounts, selector in zip(info["bundles"], selectors, strict=True)
            ],
            "detached": info["detached"],
            "job_id": job_id,
            "node_id": self._node_id,
        }
        record = self.records[group_id] = GroupRecord(group_id, info, HERE, now)
        record.watchers[proc] = None
        record.nodes = [""] * len(info["bundles"])
        if info["name"]:
            record.asker = proc, req
            if self._has_head:
                self._hand_over(record)
                return record
            if not self._take_name(record, now):
                return record
        if not self._reserve_here(record, now):
            self._waits(record, now)
        return record

    def _take_name(self, record: GroupRecord, now: float) -> bool:
        assert record.info is not None
        key = record.info["namespace"], record.info["name"]
        if key in self._names:
            self._over(record, REFUSED, f"there is a placement group named {key[1]!r} already", now)
            return False
        self._names[key] = record.group_id
        self._answer_asker(record)
        return True

    def remove(self, group_id: Any, now: float) -> None:
        """A process wants it gone. Again, or unknown here: the head may know it."""
        if type(group_id) is not bytes or len(group_id) != OBJECT_ID_SIZE:
            raise ProtocolError("a placement group has an id of 16 bytes")
        record = self.records.get(group_id)
        if group_id in self.gone:
            return
        if record is None or record.decides == HEAD:
            self._tell_removed(group_id, urgent=True, now=now)
            if record is None:
                return
        elif record.told:
            self._tell_removed(group_id, urgent=False, now=now)
        self._over(record, REMOVED, "it was removed", now)

    def _tell_removed(self, group_id: bytes, urgent: bool, now: float) -> None:
        if self._has_head:
            self._removing[group_id] = None
            if urgent:
                self._news(removed=[group_id])
            else:
                self._tell_later(group_id, now)

    def watch(self, proc: bytes, group_id: Any, now: float) -> None:
        """A process waits for a group (GROUP_STATE)."""
        if type(group_id) is not bytes or len(group_id) != OBJECT_ID_SIZE:
            raise ProtocolError("a placement group has an id of 16 bytes")
        reason = self.gone.get(group_id)
        if reason is not None:
            self.outbox.append(("send", proc, [m.GROUP_STATE, group_id, REMOVED, reason, []]))
            return
        record = self._known(group_id, now)
        record.watchers[proc] = None
        if record.state == CREATED:
            self._tell_watchers(record)

    def _known(self, group_id: bytes, now: float) -> GroupRecord:
        """The group's record; of one that nobody has spoken of here before, the head is asked."""
        record = self.records.get(group_id)
        if record is None:
            record = self.records[group_id] = GroupRecord(group_id, None, HEAD, now)
            record.reason = "the head was asked about it"
            self._news(watched=[group_id])
        return record

    def client_left(self, proc: bytes) -> None:
        """A process is gone, and waits for nothing."""
        for record in self.records.values():
            record.watchers.pop(proc, None)

    def job_ended(self, job_id: str, now: float) -> None:
        """A driver, or a detached actor, is gone, and with it the groups that its processes here have made."""
        for record in list(self.records.values()):
            info = record.info
            if info is None or info["node_id"] != self._node_id or info["detached"]:
                continue
            if info["job_id"] == job_id:
                self.remove(record.group_id, now)

    # --- deciding here ---

    def _reserve_here(self, record: GroupRecord, now: float) -> bool:
        assert record.info is not None
        bundles = record.bundles
        one = len(bundles) == 1 or record.info["strategy"] in _ON_ONE_NODE
        spread = record.info["strategy"] == "SPREAD" and self._alone
        if self._scheduler.placement.draining or not (one or spread) or record.unmet(self._labels):
            return False
        if not self.bundles.reserve(record.group_id, bundles):
            return False
        self.bundles.commit(record.group_id, list(bundles))
        record.nodes = [self._node_id] * len(bundles)
        self._waiting.pop(record.group_id, None)
        self._enter(record, CREATED, "", now)
        if self._has_head:
            self._tell_later(record.group_id, now)
        return True

    @property
    def _labels(self) -> dict[str, str]:
        return {**labels_of(self._node_id), **self._scheduler.placement.labels}

    @property
    def _alone(self) -> bool:
        return not self._scheduler.view.alive()

    def _waits(self, record: GroupRecord, now: float) -> None:
        """There is no room for a group HERE: it waits, or the head gets it."""
        if not self._alone and self._has_head:
            self._hand_over(record)
            return
        self._waiting[record.group_id] = None
        self._explain(record)

    def _explain(self, record: GroupRecord) -> None:
        assert record.info is not None
        total: Amounts = {}
        for amounts in record.bundles.values():
            for name, amount in amounts.items():
                total[name] = total.get(name, 0) + amount
        has = self._scheduler.ledger.total
        apart = record.info["strategy"] == "STRICT_SPREAD" and len(record.bundles) > 1
        unmet = record.unmet(self._labels)
        if apart or unmet or not all(amount <= has.get(name, 0) for name, amount in total.items()):
            needs = f"{len(record.bundles)} nodes" if apart else f"{format_amounts(total, [has])} in all"
            needs += "".join(f" on a node with {describe(parse(each).items())}" for each in unmet[:1])
            record.reason = (
                f"{_INFEASIBLE}: it needs {needs}, and there is one node, with {format_amounts(has, [total])}; remove it, or add "
                "nodes that have it"
            )
            self._unmet[record.group_id] = None
        else:
            record.reason = "waits for room: tasks, actors or other groups have what it needs"

    def _hand_over(self, record: GroupRecord) -> None:
        """The head decides from now on."""
        record.decides = HEAD
        record.told = True
        record.reason = "the head was asked for it"
        self._waiting.pop(record.group_id, None)
        self._unmet.pop(record.group_id, None)
        self._news(wanted=[record.info])

    def nodes_changed(self, now: float) -> None:
        """Other nodes have come or gone: what waits HERE may have a place there."""
        if not self._alone:
            for group_id in list(self._waiting):
                self._waits(self.records[group_id], now)

    def turn(self, now: float) -> float | None:
        """Free what has come back, and give it to groups that wait. Returns when to look again."""
        scheduler = self._scheduler
        if not (scheduler.groups_left or self._lazy or self._waiting or self._unmet):
            return None
        while scheduler.groups_left:
            self._settle(scheduler.groups_left.pop(), now)
        due: list[float] = []
        if self._lazy:
            if now >= self._lazy_at:
                self._flush_lazy()
            else:
                due.append(self._lazy_at)
        first = True
        for group_id in list(self._waiting)[: self._config.groups_tried_max]:
            record = self.records[group_id]
            if not self._reserve_here(record, now) and first and group_id not in self._unmet:
                first = False
                scheduler.make_room(record.bundles.values(), now)
                due.append(now + self._config.scheduler_tick_ms / 1000)
        for group_id in list(self._unmet):
            record = self.records[group_id]
            at = record.since + self._config.infeasible_ms / 1000
            if record.warned or now < at:
                due += [] if record.warned else [at]
                continue
            record.warned = True
            self._tell_watchers(record)
        return min(due, default=None)

    # --- the head ---

    def connected(self, now: float) -> None:
        """A session with the head has begun: tell it everything."""
        self._session = True
        self._lazy.clear()
        news: dict[str, Any] = {"snapshot": True, "held": self._held()}
        made, wanted, watched = [], [], []
        for record in self.records.values():
            if record.decides == HERE:
                if record.state == CREATED:
                    record.told = True
                    made.append(record.info)
            elif record.info is not None and record.info["node_id"] == self._node_id:
                wanted.append(record.info)
            else:
                watched.append(record.group_id)
        news |= {"made": made, "wanted": wanted, "watched": watched, "removed": list(self._removing)}
        self.outbox.append(("news", news))

    def _held(self) -> list[dict[str, Any]]:
        held: dict[bytes, dict[str, Any]] = {}
        for (group_id, index), state in self.bundles.states.items():
            if state in (PREPARED, COMMITTED):
                row = held.setdefault(group_id, {"group_id": group_id, "prepared": [], "committed": []})
                row[state].append(index)
        return list(held.values())

    def disconnected(self) -> None:
        """The session is over; the next one begins with everything."""
        self._session = False

    def _news(self, **fields: list[Any]) -> None:
        self.outbox.append(("news", fields) if self._session else ("head",))

    def _tell_later(self, group_id: bytes, now: float) -> None:
        if self._session:
            if not self._lazy:
                self._lazy_at = now + self._config.report_ms_min / 1000
            self._lazy[group_id] = None

    def _flush_lazy(self) -> None:
        ids, self._lazy = list(self._lazy), {}
        made, removed = [], []
        for group_id in ids:
            record = self.records.get(group_id)
            if record is not None and not record.told:
                record.told = True
                made.append(record.info)
            elif group_id in self._removing:
                removed.append(group_id)
        if made or removed:
            self._news(made=made, removed=removed)

    def ordered(self, orders: Iterable[dict[str, Any]], now: float) -> None:
        """Orders of the head (GroupOrder in head.proto)."""
        for order in orders:
            group_id, indices = order["group_id"], list(order["indices"])
            if order["kind"] in (PREPARE, RESERVE):
                self._prepare(order, group_id, indices, now)
            elif order["kind"] == COMMIT:
                self.bundles.commit(group_id, indices)
                self._scheduler.room_changed(now)
            elif order["kind"] == RETURN:
                self._give_back(group_id, indices, now)

    def _prepare(self, order: dict[str, Any], group_id: bytes, indices: list[int], now: float) -> None:
        bundles = {i: dict(bundle["resources"]) for i, bundle in zip(indices, order["bundles"], strict=True)}
        answer = {"group_id": group_id, "attempt": order["attempt"], "ok": True, "reason": ""}
        draining = self._scheduler.placement.draining
        if draining or not self.bundles.reserve(group_id, bundles):
            free = format_amounts(self._scheduler.available())
            answer |= {"ok": False, "reason": "it is draining" if draining else f"it has {free} left"}
            self._scheduler.make_room(bundles.values(), now)
        elif order["kind"] == RESERVE:
            self.bundles.commit(group_id, indices)
        self._news(answers=[answer])
        self._scheduler.room_changed(now)

    def states(self, states: Iterable[dict[str, Any]], now: float) -> None:
        """How groups are, as the head says (GroupState in head.proto)."""
        for each in states:
            group_id = each["group"]["group_id"]
            over = each["state"] in (REMOVED, REFUSED)
            if over:
                self._removing.pop(group_id, None)
            record = self.records.get(group_id)
            if record is None or (record.decides == HERE and not over):
                if over or group_id in self.gone or record is not None:
                    continue
                record = self.records[group_id] = GroupRecord(group_id, None, HEAD, now)
            if over:
                self._over(record, each["state"], each["reason"], now)
                continue
            if record.info is None:
                record.info = each["group"]
            record.nodes = list(each["nodes"])
            self._answer_asker(record)
            if each["reason"].startswith(_INFEASIBLE):
                self._unmet[group_id] = None
            else:
                self._unmet.pop(group_id, None)
                record.warned = False
            self._enter(record, each["state"], each["reason"], now)

    # --- what becomes of a group ---

    def _enter(self, record: GroupRecord, state: str, reason: str, now: float) -> None:
        if record.state != state:
            record.since = now
        record.state, record.reason = state, reason
        if state == CREATED:
            self._unmet.pop(record.group_id, None)
            self._tell_watchers(record)
        self._scheduler.room_changed(now)

    def _tell_watchers(self, record: GroupRecord) -> None:
        message = [m.GROUP_STATE, record.group_id, record.state, record.reason, record.nodes]
        for proc in record.watchers:
            self.outbox.append(("send", proc, message))
        if record.state == CREATED:
            record.watchers.clear()

    def _answer_asker(self, record: GroupRecord, problem: str = "") -> None:
        if record.asker is not None:
            proc, req = record.asker
            record.asker = None
            self.outbox.append(("send", proc, [m.RESPONSE, req, not problem, problem or {}]))

    def _over(self, record: GroupRecord, state: str, reason: str, now: float) -> None:
        group_id = record.group_id
        record.state, record.reason = state, reason
        self._answer_asker(record, reason)
        for proc in record.watchers:
            self.outbox.append(("send", proc, [m.GROUP_STATE, group_id, REMOVED, reason, []]))
        del self.records[group_id]
        self._waiting.pop(group_id, None)
        self._unmet.pop(group_id, None)
        if record.info is not None:
            key = record.info["namespace"], record.info["name"]
            if self._names.get(key) == group_id:
                del self._names[key]
        self.gone[group_id] = reason
        if len(self.gone) > self._config.groups_removed_max:
            self.gone.popitem(last=False)
        self._give_back(group_id, list(self.bundles.here(group_id)), now)

    def _give_back(self, group_id: bytes, indices: list[int], now: float) -> None:
        here = self.bundles.here(group_id)
        indices = [index for index in indices if index in here]
        if any(here[index] == COMMITTED for index in indices):
            for lease in self._leases_of(group_id):
                worker = self._scheduler.pool.workers[lease.worker_id]
                if lease.demand.client.kind == "actor":
                    self.outbox.append(("end", lease.demand.client.proc, _NO_GROUP))
                self._scheduler.end_worker(worker, _NO_GROUP, now)
        self.bundles.give_back(group_id, indices)
        self._settle(group_id, now)
        self._scheduler.room_changed(now)

    def _leases_of(self, group_id: bytes) -> list[Any]:
        found = []
        for lease in self._scheduler.leases.values():
            constraints = lease.demand.constraints
            if constraints is not None and constraints.group == group_id:
                found.append(lease)
        return found

    def _settle(self, group_id: bytes, now: float) -> None:
        if self.bundles.settle(group_id, bool(self._leases_of(group_id))):
            self._scheduler.room_changed(now)

    # --- asked by placement, and by people ---

    def where(self, group: bytes, bundle: int, amounts: Amounts) -> dict[str, int] | tuple[str, str]:
        """How many leases of ``amounts`` each node's bundles can hold in all; or (kind, text) of what is in the way."""
        name = f"placement group {group.hex()}"
        if group in self.gone:
            return "never", f"belongs to {name}, and that is gone: {self.gone[group]}"
        record = self._known(group, self._scheduler.now)
        if record.state not in (CREATED, RESCHEDULING):
            return "ok", f"waits for {name}, which is {record.state}: {record.reason}"
        counts: dict[str, int] = {}
        possible = False
        for index, has in record.bundles.items():
            fits = min((has.get(n, 0) // amount for n, amount in amounts.items() if amount), default=1_000)
            if bundle not in (-1, index) or not fits:
                continue
            possible = True
            if record.nodes[index]:
                counts[record.nodes[index]] = counts.get(record.nodes[index], 0) + fits
        if not possible:
            needs = format_amounts(amounts)
            return "never", f"needs {needs}, and no bundle of {name} that it may use has as much"
        if not counts:
            return "ok", f"waits for {name}, which is {record.state}: {record.reason}"
        return counts

    def rows(self, now: float) -> list[dict[str, Any]]:
        """A row for each group that this node decides about, and that is not over."""
        return [
            {
                "group_id": record.group_id.hex(),
                **{key: record.info[key] for key in ("name", "namespace", "strategy", "detached", "job_id")},
                "bundles": list(record.bundles.values()),
                "nodes": list(record.nodes),
                "state": record.state,
                "reason": record.reason,
                "since_s": now - record.since,
            }
            for record in self.records.values()
            if record.info is not None and record.info["node_id"] == self._node_id
        ]

    def validate(self) -> None:
        """Raise AssertionError if an invariant is broken."""
        self.bundles.validate()
        for group_id, record in self.records.items():
            assert record.group_id == group_id
            assert group_id not in self.gone, record
            assert record.state in (PENDING, CREATED, RESCHEDULING), record
            if record.decides == HERE:
                here = self.bundles.here(group_id)
                whole = dict.fromkeys(record.bundles, COMMITTED)
                assert here == (whole if record.state == CREATED else {}), (record, here)
                assert (record.state == PENDING) == (group_id in self._waiting), record


def _check(group_id: Any, info: Any) -> None:
    """Raise ProtocolError unless these describe a group."""
    if type(group_id) is not bytes or len(group_id) != OBJECT_ID_SIZE or type(info) is not dict:
        raise ProtocolError("a placement group needs an id and a description")
    if any(
        type(info.get(key)) is not str or len(info[key]) > _TEXT_MAX
        for key in ("name", "namespace", "strategy")
    ):
        raise ProtocolError("a placement group's names are texts")
    if info["strategy"] not in STRATEGIES or type(info.get("detached")) is not bool:
        raise ProtocolError("a placement group has one of four strategies, and is detached or not")
    bundles = info.get("bundles")
    if type(bundles) is not list or not bundles:
        raise ProtocolError("a placement group has bundles")
    selectors = info.get("selectors") or []
    if type(selectors) is not list or len(selectors) not in (0, len(bundles)):
        raise ProtocolError("a placement group has a label selector for each bundle, or none")
    for selector in selectors:
        try:
            parse(selector)
        except (ValueError, TypeError, AttributeError) as error:
            raise ProtocolError(f"a bundle's label selector makes no sense: {error}") from None
    for amounts in bundles:
        if type(amounts) is not dict or not all(
            type(k) is str and type(v) is int and 0 < v < 2**63 for k, v in amounts.items()
        ):
            raise ProtocolError("a bundle has whole numbers of 1/10,000, more than nothing")

"""Which node's workers a demand is to get: asked by the scheduler of the submitter's node before each round of grants. Pure.

For every waiting demand of a process of this node it decides how much of the backlog other nodes are asked for (`shares`:
node → leases, declarative: the newest counts) and how much may be granted here (`Demand.here`), and says why (`why` for
grants here, `away` for shares, `obstacle` if no node can ever meet it). It decides anew each time, from what the nodes told
last, so a node that turned out to be full, draining, suspected or dead loses its share, and the demand goes elsewhere. A
demand that came from another node was placed there, and stays: nothing is passed on twice, so nothing goes back and forth.

The order of wishes:
    1. what the demand's constraints allow, on nodes that are alive, not draining, and large enough
    2. the node with most bytes of its arguments, until waiting for it has taken as long as moving them would
    3. labels wished for
    4. here, as much as fits now; then other nodes with room, evenly, the freest first
    5. nobody has room: it waits here; or, if it cannot be met here, at the nodes that can, evenly.
A "SPREAD" demand instead evens out the leases that its nodes have got for it.

What a node has free is what it told last, less what was leased from it since (`leased`, for `view_lag_ms`), less what earlier
demands of the same round were given: two demands never count on the same room. Not responsible for grants
(`grantround`), nor for sending shares.

Looking at every node for every waiting demand takes time: in a large cluster a decision stands for a moment (`place_us` for
each node and demand), unless the view changes.
"""

from __future__ import annotations

import heapq
from typing import TYPE_CHECKING, NamedTuple, Protocol

from shoal.sizes import bytes_text
from shoal.wire.labels import describe, labels_of, matches
from shoald.node.leases import BACKLOG_MAX
from shoald.node.pressure import format_amounts, lacks

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from shoal.config import Config
    from shoald.node.constraints import Condition, Constraints
    from shoald.node.leases import Amounts, Demand, ResourceLedger

_SHOWN_MAX = 5  # nodes in a text for people
_ID_SHOWN = 8
_GROUPS_MAX = 1000  # placement groups whose actors are counted; of older ones it is forgotten where they went

Key = tuple[bytes, int]  # (process, shape)
Shares = dict[Key, dict[str, int]]


class Node(Protocol):
    """Another node, as far as placement is concerned."""

    node_id: str
    resources: dict[str, int]
    available: dict[str, int]
    labels: dict[str, str]


class View(Protocol):
    """The other nodes of the cluster; `alive`: those that may be given something new."""

    def alive(self) -> Sequence[Node]: ...


class Alone:
    """The view of a node that knows of no other."""

    def alive(self) -> Sequence[Node]:
        return ()


class Groups(Protocol):
    """Where the bundles of placement groups are."""

    def where(self, group: bytes, bundle: int, amounts: Amounts) -> dict[str, int] | tuple[str, str]:
        """How many leases of ``amounts`` each node's bundles could hold in all; or the (kind, text) of an obstacle."""


class _Candidate(NamedTuple):
    """A node that may meet a demand some time.

    Attributes:
        free: what it has now, in this round.
        total: all it has.
    """

    node_id: str
    free: Amounts
    total: Mapping[str, int]
    labels: Mapping[str, str]


class Placement:
    """The placing of one node's demands.

    Args:
        node_id, labels: of this node.

    Attributes:
        draining: nothing new is to run here.
        due: when the passing of time alone may change the last decisions; None for never.
        groups: asked about demands for placement groups.
    """

    def __init__(self, node_id: str, labels: Mapping[str, str], config: Config) -> None:
        self.node_id = node_id
        self.labels = labels
        self.draining = False
        self.due: float | None = None
        self.groups: Groups | None = None
        self._config = config
        self._leased: list[tuple[float, str, Amounts]] = []
        self._held: dict[Key, dict[str, int]] = {}
        self._standing: dict[Key, tuple[float, dict[str, int]]] = {}  # decisions: until when, and the shares
        self._given: dict[bytes, dict[str, int]] = {}  # placement group → node → actors placed there

    # --- told by the shell ---

    def leased(self, key: Key, node_id: str, amounts: Amounts, now: float) -> None:
        """Another node has granted a lease: its next gauges will say so, and until then this counts."""
        self._leased.append((now + self._config.view_lag_ms / 1000, node_id, amounts))
        held = self._held.setdefault(key, {})
        held[node_id] = held.get(node_id, 0) + 1
        _, shares = self._standing.get(key, (0.0, {}))
        if shares.get(node_id):
            shares[node_id] -= 1

    def view_changed(self) -> None:
        """What is known of the other nodes has changed: no decision stands."""
        self._standing.clear()

    def released(self, key: Key, node_id: str) -> None:
        """A lease from another node has ended."""
        held = self._held.get(key, {})
        held[node_id] = held.get(node_id, 0) - 1
        if held[node_id] <= 0:
            del held[node_id]
        if not held:
            self._held.pop(key, None)

    # --- deciding ---

    def has_place_elsewhere(self, amounts: Amounts, constraints: Constraints | None, view: View) -> bool:
        """Whether another node is large enough for these amounts, and allowed. Bundles are nowhere else."""
        if constraints is not None and constraints.group:
            return False
        others = [
            _Candidate(node.node_id, {}, node.resources, node.labels)
            for node in view.alive()
            if _feasible(amounts, node.resources)
        ]
        return bool(others if constraints is None else _allowed(others, constraints))

    def shares(self, waiting: Iterable[Demand], ledger: ResourceLedger, view: View, now: float) -> Shares:
        """What other nodes are asked for now, per demand. Sets `here`, `why`, `away` and `obstacle` of each."""
        self.due = None
        own = _Candidate(self.node_id, dict(ledger.free), ledger.total, self.labels)
        before, self._standing = self._standing, {}
        if any(until <= now for until, _ in before.values()):
            before = {}  # all are decided together, or they would take turns for ever, each with a deadline of its own
        undecided: list[Demand] = []
        decided: list[tuple[Demand, dict[str, int]]] = []
        for demand in waiting:
            key = demand.client.proc, demand.shape_id
            until, shares = before.get(key, (0.0, {}))
            if now < until:  # whatever has happened meanwhile is looked at then
                self.due = until if self.due is None else min(self.due, until)
                self._standing[key] = until, shares
                decided.append((demand, shares))
            elif not self._fits_here(demand, own, ledger):
                undecided.append(demand)
        if undecided:
            others = self._others(view, now, decided)
            stands_s = len(others) * (len(undecided) + len(decided)) * self._config.place_us / 1e6
            for demand in undecided:
                shares = self._place(demand, own, others, ledger, now)
                decided.append((demand, shares))
                if stands_s:
                    self._standing[demand.client.proc, demand.shape_id] = now + stands_s, shares
        return {(each.client.proc, each.shape_id): dict(shares) for each, shares in decided if shares}

    def _fits_here(self, demand: Demand, own: _Candidate, ledger: ResourceLedger) -> bool:
        """Whether all of it fits here now, and nothing speaks against that: then there is nothing to decide."""
        demand.obstacle = None
        demand.here = BACKLOG_MAX
        if demand.client.placed_elsewhere:
            demand.why = "another node passed it on"
            return True
        demand.why, demand.away = "this node has room", ""
        if demand.constraints is not None or self.draining or not ledger.feasible(demand.amounts):
            return False
        if demand.short_of_memory or _count(own.free, demand.amounts) < demand.backlog:
            return False
        _take(own.free, demand.amounts, demand.backlog)
        return True

    def _others(
        self, view: View, now: float, decided: Iterable[tuple[Demand, dict[str, int]]]
    ) -> list[_Candidate]:
        """The other nodes, and what they have beside what was leased a moment ago and what they are asked for."""
        self._leased = [entry for entry in self._leased if entry[0] > now]
        found = [
            _Candidate(node.node_id, dict(node.available), node.resources, node.labels)
            for node in view.alive()
        ]
        taken = [(node_id, amounts, 1) for _, node_id, amounts in self._leased]
        for demand, shares in decided:
            taken += [(node_id, demand.amounts, count) for node_id, count in shares.items()]
        if taken:
            frees = {candidate.node_id: candidate.free for candidate in found}
            for node_id, amounts, count in taken:
                if node_id in frees:
                    _take(frees[node_id], amounts, count)
        return found

    def _place(
        self, demand: Demand, own: _Candidate, others: list[_Candidate], ledger: ResourceLedger, now: float
    ) -> dict[str, int]:
        constraints = demand.constraints
        if constraints is not None and constraints.group:
            return self._place_in_group(demand, constraints, own)
        candidates = [each for each in others if _feasible(demand.amounts, each.total)]
        if ledger.feasible(demand.amounts) and not (self.draining and candidates):
            candidates.insert(0, own)
        allowed = candidates if constraints is None else _allowed(candidates, constraints)
        if not allowed:
            demand.here = 0
            demand.obstacle = _obstacle(demand, [own, *others], candidates, alone=not others)
            demand.away = demand.obstacle[1]
            return {}
        if constraints is None:
            return self._default(demand, allowed, own)
        if constraints.prefer:
            shares = self._preferred(demand, constraints, allowed, own, now)
            if shares is not None:
                return shares
        if constraints.wished:
            wished = [each for each in allowed if _has_labels(each, constraints.wished)]
            allowed = wished or allowed
        if constraints.spread:
            return self._spread(demand, allowed, own)
        return self._default(demand, allowed, own)

    def _default(self, demand: Demand, allowed: list[_Candidate], own: _Candidate) -> dict[str, int]:
        """Here first, then who has room, evenly, the freest first; the rest waits here, or where it can be met."""
        rest, amounts = demand.backlog, demand.amounts
        shares: dict[str, int] = {}
        others = allowed
        if allowed[0] is own:
            if not demand.short_of_memory:
                rest -= _take_up_to(own.free, amounts, rest)
            others = allowed[1:]
        else:
            demand.here = 0
        if rest and others:
            rest = _share_out(rest, amounts, others, shares)
        if rest and allowed[0] is not own:
            for each in _evenly(rest, others):
                shares[each.node_id] = shares.get(each.node_id, 0) + 1
        self._explain(demand, allowed, own, shares)
        return shares

    @staticmethod
    def _explain(demand: Demand, allowed: list[_Candidate], own: _Candidate, shares: dict[str, int]) -> None:
        if not shares:
            return
        if len(allowed) == 1:
            demand.away = f"only node {allowed[0].node_id[:_ID_SHOWN]} can meet it"
            return
        names = _names(shares)
        reason = "this node has no room now" if allowed[0] is own else "this node cannot meet it"
        demand.away = (
            f"{reason}, so {names} was asked" if len(shares) == 1 else f"{reason}, so {names} were asked"
        )

    def _spread(self, demand: Demand, allowed: list[_Candidate], own: _Candidate) -> dict[str, int]:
        """Even out the leases of this demand over the nodes; those with room first."""
        held = dict(self._held.get((demand.client.proc, demand.shape_id), {}))
        held[own.node_id] = len(demand.leases)
        shares: dict[str, int] = {}
        # Everybody starts at another node, so that many submitters of one task each do not all take the same.
        turn = demand.turn % len(allowed)
        order = allowed[turn:] + allowed[:turn]
        queue = [
            (not _fits(demand.amounts, each.free), held.get(each.node_id, 0), n)
            for n, each in enumerate(order)
        ]
        heapq.heapify(queue)
        for _ in range(min(demand.backlog, self._config.spread_round_max)):
            _, count, n = queue[0]
            chosen = order[n]
            _take(chosen.free, demand.amounts, 1)
            shares[chosen.node_id] = shares.get(chosen.node_id, 0) + 1
            heapq.heapreplace(queue, (not _fits(demand.amounts, chosen.free), count + 1, n))
        demand.here = shares.pop(own.node_id, 0)
        if shares:
            demand.away = f"spread: {_names(shares)} {'was' if len(shares) == 1 else 'were'} asked too"
        return shares

    def _preferred(
        self,
        demand: Demand,
        constraints: Constraints,
        allowed: list[_Candidate],
        own: _Candidate,
        now: float,
    ) -> dict[str, int] | None:
        """Where most bytes of the arguments are, unless it has waited there for longer than moving them takes."""
        tag = constraints.prefer.hex()
        home = next((each for each in allowed if each.node_id.startswith(tag)), None)
        if home is None:
            return None
        moving_s = constraints.prefer_bytes / self._config.locality_bytes_per_s
        moving_s = max(moving_s, self._config.locality_wait_ms_min / 1000)
        size = f"{bytes_text(constraints.prefer_bytes)} of its arguments are"
        room = _fits(demand.amounts, home.free)
        if not room:
            enough = demand.since + moving_s
            if now >= enough:
                return None
            self.due = enough if self.due is None else min(self.due, enough)
        until = "" if room else f" (it waits for room there, {moving_s:.2g} s at most)"
        demand.why = demand.away = f"{size} on node {home.node_id[:_ID_SHOWN]}{until}"
        if home is own:
            return {}
        demand.here = 0
        _take_up_to(home.free, demand.amounts, demand.backlog)
        return {home.node_id: demand.backlog}

    def _place_in_group(self, demand: Demand, constraints: Constraints, own: _Candidate) -> dict[str, int]:
        """Where the bundles are, up to what they can hold."""
        demand.here = 0
        groups = self.groups
        assert groups is not None, demand
        where = groups.where(constraints.group, constraints.bundle, demand.resources)
        if isinstance(where, tuple):
            demand.obstacle = where
            demand.away = where[1]
            return {}
        demand.why = demand.away = "its placement group has the bundle there"
        shares: dict[str, int] = {}
        rest = demand.backlog
        held = self._held.get((demand.client.proc, demand.shape_id), {})
        if self.node_id in where:
            demand.here = BACKLOG_MAX
            rest -= _take_up_to(own.free, demand.amounts, rest)
        # What bundles elsewhere have left nobody tells: what this node has placed there is known, and the emptiest come first.
        given = self._given.setdefault(constraints.group, {})
        others = [node_id for node_id in where if node_id != self.node_id]
        others.sort(key=lambda node_id: (held.get(node_id, 0) + given.get(node_id, 0)) / where[node_id])
        for node_id in others:
            room = where[node_id] - held.get(node_id, 0) - given.get(node_id, 0)
            if rest > 0 and (room > 0 or not demand.here):
                shares[node_id] = min(rest, max(1, room))
                rest -= shares[node_id]
                if demand.client.kind == "actor":  # it moves there, and stays
                    given[node_id] = given.get(node_id, 0) + 1
        while len(self._given) > _GROUPS_MAX:
            del self._given[next(iter(self._given))]
        return shares


# --- amounts ---


# Both are asked for every node; a generator expression would take twice as long.


def _feasible(amounts: Amounts, total: Mapping[str, int]) -> bool:
    for name, amount in amounts.items():  # noqa: SIM110  see above
        if amount > total.get(name, 0):
            return False
    return True


def _fits(amounts: Amounts, free: Amounts) -> bool:
    for name, amount in amounts.items():  # noqa: SIM110  see above
        if amount and amount > free.get(name, 0):
            return False
    return True


def _take(free: Amounts, amounts: Amounts, count: int) -> None:
    for name, amount in amounts.items():
        free[name] = free.get(name, 0) - amount * count


def _count(free: Amounts, amounts: Amounts) -> int:
    """How many times ``amounts`` fit; a demand for nothing fits any number of times."""
    return min(
        (max(0, free.get(name, 0)) // amount for name, amount in amounts.items() if amount),
        default=BACKLOG_MAX,
    )


def _take_up_to(free: Amounts, amounts: Amounts, wanted: int) -> int:
    """Take ``amounts`` as often as they fit, ``wanted`` times at most; how often that was."""
    count = min(wanted, _count(free, amounts))
    if count:
        _take(free, amounts, count)
    return count


def _share_out(rest: int, amounts: Amounts, nodes: list[_Candidate], shares: dict[str, int]) -> int:
    """Give nodes with room a share each, evenly, the freest first; what is left without room."""
    roomy = [each for each in nodes if _fits(amounts, each.free)]
    roomy.sort(key=lambda each: -_free_share(each, amounts))
    while rest and roomy:
        quota = max(1, rest // len(roomy))
        for each in roomy:
            taken = _take_up_to(each.free, amounts, min(quota, rest))
            if taken:
                shares[each.node_id] = shares.get(each.node_id, 0) + taken
                rest -= taken
        roomy = [each for each in roomy if _fits(amounts, each.free)]
    return rest


def _free_share(node: _Candidate, amounts: Amounts) -> float:
    """The part of the node that is free, of what is asked for and scarcest there; of everything, if nothing is asked for."""
    names = [name for name in amounts if node.total.get(name)] or [n for n in node.total if node.total[n]]
    return min((node.free.get(name, 0) / node.total[name] for name in names), default=1.0)


def _evenly(rest: int, nodes: list[_Candidate]) -> Iterable[_Candidate]:
    """``nodes`` in turn, ``rest`` of them, always in the same order: a share that stays the same is not sent again."""
    ordered = sorted(nodes, key=lambda each: each.node_id)
    return (ordered[n % len(ordered)] for n in range(rest))


# --- constraints ---


def _allowed(candidates: list[_Candidate], constraints: Constraints) -> list[_Candidate]:
    if constraints.affinity:
        found = [each for each in candidates if each.node_id == constraints.affinity]
        if found or not constraints.soft:
            candidates = found
    if constraints.hard:
        candidates = [each for each in candidates if _has_labels(each, constraints.hard)]
    return candidates


def _has_labels(node: _Candidate, conditions: Iterable[Condition]) -> bool:
    """Whether the node's labels, its id among them, meet the conditions."""
    return matches({**labels_of(node.node_id), **node.labels}, conditions)


# --- for people ---


def _names(shares: Iterable[str]) -> str:
    ids = [node_id[:_ID_SHOWN] for node_id in shares]
    more = f" and {len(ids) - _SHOWN_MAX} more" if len(ids) > _SHOWN_MAX else ""
    return f"node{'s' if len(ids) > 1 else ''} {', '.join(ids[:_SHOWN_MAX])}{more}"


def _obstacle(
    demand: Demand, nodes: list[_Candidate], feasible: list[_Candidate], *, alone: bool
) -> tuple[str, str]:
    """(kind, text) of why no node can meet this demand, with what it needs and what there is."""
    constraints = demand.constraints
    needs = format_amounts(demand.resources)
    if constraints is not None and constraints.affinity and not constraints.soft:
        wanted = constraints.affinity
        node = next((each for each in nodes if each.node_id == wanted), None)
        if node is None:
            return (
                "never",
                f"is bound to node {wanted}, which is not in the cluster (any more), or is draining",
            )
        if node not in feasible:
            has = dict(node.total)
            needs = format_amounts(demand.resources, [has])
            limit = format_amounts(has, [demand.resources])
            return "never", f"needs {needs} on node {wanted[:_ID_SHOWN]}, which has {limit} in all"
    if constraints is not None and constraints.hard and feasible:
        return "infeasible", (
            f"needs {needs} on a node with {describe(constraints.hard)}, and {_with_labels(feasible)}; change the "
            "condition, or add a node that meets it"
        )
    if alone:
        text = lacks(demand.resources, dict(nodes[0].total))
        return "infeasible", f"{text}; ask for less, or add a node that has it"
    shown = nodes[:_SHOWN_MAX]
    needs = format_amounts(demand.resources, [dict(each.total) for each in shown])
    listed = "; ".join(
        f"node {each.node_id[:_ID_SHOWN]} {format_amounts(dict(each.total), [demand.resources])}"
        for each in shown
    )
    more = f"; and {len(nodes) - _SHOWN_MAX} more" if len(nodes) > _SHOWN_MAX else ""
    return (
        "infeasible",
        f"needs {needs}, and no node has that: {listed}{more}; ask for less, or add a node that has it",
    )


def _with_labels(nodes: list[_Candidate]) -> str:
    described = []
    for each in nodes[:_SHOWN_MAX]:
        own = ", ".join(f"{key}={value}" for key, value in each.labels.items())
        described.append(f"node {each.node_id[:_ID_SHOWN]} has {own or 'no labels'}")
    more = f", and {len(nodes) - _SHOWN_MAX} more" if len(nodes) > _SHOWN_MAX else ""
    return ", ".join(described) + more

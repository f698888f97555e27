"""Which node each bundle of a placement group is to be on. Pure, and without memory.

    STRICT_PACK     all on one node
    STRICT_SPREAD   each on another node
    PACK            on as few nodes as possible, found greedily
    SPREAD          evenly over as many nodes as there are, as far as they have room

The strict ones are never bent: there is no plan then. For all four a plan is found whenever there is one, but for
PACK and SPREAD of many bundles that nearly fill the nodes, where the search gives up after `_STEPS_MAX` steps.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from shoal.wire.labels import matches, parse

PACK, SPREAD, STRICT_PACK, STRICT_SPREAD = "PACK", "SPREAD", "STRICT_PACK", "STRICT_SPREAD"
STRATEGIES = (PACK, SPREAD, STRICT_PACK, STRICT_SPREAD)
_STEPS_MAX = 2000
_LABELS = "labels of bundle "  # no resource is called so

Amounts = Mapping[str, int]
Plan = dict[int, str]


def plan(
    strategy: str, bundles: Mapping[int, Amounts], fixed: Mapping[int, str], nodes: Mapping[str, Amounts]
) -> Plan | None:
    """A node for each of ``bundles``, or None if these nodes cannot have them.

    Args:
        bundles: index → amounts, of those that need a node.
        fixed: index → node, of those that have one already.
        nodes: what each usable node has free.
    """
    free = {node_id: dict(amounts) for node_id, amounts in nodes.items()}
    order = sorted(bundles, key=lambda index: (-_size(bundles[index], nodes), index))
    if strategy == STRICT_PACK:
        return _on_one(bundles, fixed, free)
    if strategy == STRICT_SPREAD:
        return _on_distinct(bundles, order, fixed, free)
    choose = _pack if strategy == PACK else _spread
    found = choose(bundles, order, fixed, free)
    if found is None:
        free = {node_id: dict(amounts) for node_id, amounts in nodes.items()}
        found = _search(bundles, order, free)
    return found


def with_labels(
    bundles: Mapping[int, Amounts],
    selectors: Sequence[Mapping[str, str]],
    nodes: Mapping[str, Amounts],
    labels: Mapping[str, Mapping[str, str]],
) -> tuple[Mapping[int, Amounts], Mapping[str, Amounts]]:
    """Conditions on labels, as amounts: a bundle with a selector takes one of what only nodes that meet it have.

    Args:
        selectors: of each bundle; empty if there are none.
        nodes, labels: what each node has free, and its labels.
    """
    asked = {index: parse(selectors[index]) for index in bundles if selectors and selectors[index]}
    if not asked:
        return bundles, nodes
    wanting = {
        i: {**amounts, f"{_LABELS}{i}": 1} if i in asked else amounts for i, amounts in bundles.items()
    }
    marked = {}
    for node_id, free in nodes.items():
        met = [index for index, conditions in asked.items() if matches(labels[node_id], conditions.items())]
        marked[node_id] = {**free, **{f"{_LABELS}{index}": 1 for index in met}}
    return wanting, marked


def _size(amounts: Amounts, nodes: Mapping[str, Amounts]) -> float:
    """How much of the largest node a bundle takes, of what is scarcest."""
    shares = [0.0]
    for name, amount in amounts.items():
        most = max((free.get(name, 0) for free in nodes.values()), default=0)
        if amount:
            shares.append(amount / most if most else float("inf"))
    return max(shares)


def _fits(amounts: Amounts, free: Amounts) -> bool:
    return all(amount <= free.get(name, 0) for name, amount in amounts.items() if amount)


def _take(free: dict[str, int], amounts: Amounts, sign: int = 1) -> None:
    for name, amount in amounts.items():
        free[name] = free.get(name, 0) - sign * amount


def _total(bundles: Mapping[int, Amounts]) -> dict[str, int]:
    total: dict[str, int] = {}
    for amounts in bundles.values():
        _take(total, amounts, -1)
    return total


def _left(free: Amounts, amounts: Amounts) -> int:
    """What is left of what is asked for, for the choice of the tightest fit."""
    return sum(free.get(name, 0) - amount for name, amount in amounts.items())


def _on_one(
    bundles: Mapping[int, Amounts], fixed: Mapping[int, str], free: dict[str, dict[str, int]]
) -> Plan | None:
    needed = _total(bundles)
    allowed = set(fixed.values()) or set(free)
    if len(set(fixed.values())) > 1:
        return None
    fit = [node_id for node_id in allowed if node_id in free and _fits(needed, free[node_id])]
    if not fit:
        return None
    best = min(fit, key=lambda node_id: (_left(free[node_id], needed), node_id))
    return dict.fromkeys(bundles, best)


def _on_distinct(
    bundles: Mapping[int, Amounts],
    order: Sequence[int],
    fixed: Mapping[int, str],
    free: dict[str, dict[str, int]],
) -> Plan | None:
    """A matching of bundles and nodes, by augmenting paths: found whenever there is one."""
    nodes = [node_id for node_id in sorted(free) if node_id not in set(fixed.values())]
    owner: dict[str, int] = {}

    def place(index: int, seen: set[str]) -> bool:
        fit = [n for n in nodes if n not in seen and _fits(bundles[index], free[n])]
        fit.sort(key=lambda node_id: _left(free[node_id], bundles[index]))
        for node_id in fit:
            if node_id in seen:
                continue
            seen.add(node_id)
            if node_id not in owner or place(owner[node_id], seen):
                owner[node_id] = index
                return True
        return False

    if len(order) > len(nodes) or not all(place(index, set()) for index in order):
        return None
    return {index: node_id for node_id, index in owner.items()}


def _pack(
    bundles: Mapping[int, Amounts],
    order: Sequence[int],
    fixed: Mapping[int, str],
    free: dict[str, dict[str, int]],
) -> Plan | None:
    """Nodes that have bundles of the group already first; then always the node that takes most of what is left."""
    found: Plan = {}
    rest = list(order)
    home = sorted({node_id for node_id in fixed.values() if node_id in free})
    candidates = [*home, *sorted(set(free) - set(home))]
    while rest:
        best: list[int] = []
        chosen = ""
        for node_id in candidates:
            taken = _fill(bundles, rest, free[node_id])
            better = len(taken) > len(best) or (
                len(taken) == len(best) and chosen not in home and _tighter(free, node_id, chosen, bundles)
            )
            if taken and better:
                best, chosen = taken, node_id
        if not best:
            return None
        for index in best:
            found[index] = chosen
            _take(free[chosen], bundles[index])
            rest.remove(index)
    return found


def _tighter(free: Mapping[str, Amounts], node_id: str, than: str, bundles: Mapping[int, Amounts]) -> bool:
    needed = _total(bundles)
    return than == "" or _left(free[node_id], needed) < _left(free[than], needed)


def _fill(bundles: Mapping[int, Amounts], rest: Sequence[int], free: Amounts) -> list[int]:
    """Those of ``rest`` that fit into one node, the largest first."""
    left = dict(free)
    taken = []
    for index in rest:
        if _fits(bundles[index], left):
            _take(left, bundles[index])
            taken.append(index)
    return taken


def _spread(
    bundles: Mapping[int, Amounts],
    order: Sequence[int],
    fixed: Mapping[int, str],
    free: dict[str, dict[str, int]],
) -> Plan | None:
    """Always the node with fewest bundles of the group, and of these the freest."""
    counts = dict.fromkeys(free, 0)
    for node_id in fixed.values():
        if node_id in counts:
            counts[node_id] += 1
    found: Plan = {}
    for index in order:
        fit = [node_id for node_id in free if _fits(bundles[index], free[node_id])]
        if not fit:
            return None
        best = min(fit, key=lambda n: (counts[n], -_left(free[n], bundles[index]), n))
        counts[best] += 1
        _take(free[best], bundles[index])
        found[index] = best
    return found


def _search(
    bundles: Mapping[int, Amounts], order: Sequence[int], free: dict[str, dict[str, int]]
) -> Plan | None:
    """Any plan, by trying: for where the greedy ways end in a corner."""
    found: Plan = {}
    steps = 0

    def place(position: int) -> bool:
        nonlocal steps
        if position == len(order):
            return True
        amounts = bundles[order[position]]
        tried: set[tuple[tuple[str, int], ...]] = set()
        for node_id in sorted(free, key=lambda node_id: _left(free[node_id], amounts)):
            steps += 1
            same = tuple(sorted(free[node_id].items()))
            if steps > _STEPS_MAX or same in tried or not _fits(amounts, free[node_id]):
                continue
            tried.add(same)
            _take(free[node_id], amounts)
            if place(position + 1):
                found[order[position]] = node_id
                return True
            _take(free[node_id], amounts, -1)
        return False

    return found if place(0) else None

"""Plans of placement groups: each strategy by example, and against all possible plans of small clusters."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoald.head.planning import STRATEGIES, plan, with_labels


def cpus(*counts):
    return [{"CPU": count} for count in counts]


def bundles(*counts):
    return dict(enumerate(cpus(*counts)))


def nodes(**free):
    return {name: {"CPU": count} for name, count in free.items()}


def test_pack_takes_one_node_if_one_is_enough_and_the_tightest():
    assert set(plan("PACK", bundles(1, 1, 1), {}, nodes(a=2, b=4, c=3)).values()) == {"c"}


def test_pack_takes_as_few_as_possible():
    found = plan("PACK", bundles(2, 2, 2), {}, nodes(a=2, b=4, c=2))
    assert sorted(found.values()) == ["a", "b", "b"]


def test_pack_goes_to_where_its_others_are():
    assert plan("PACK", {1: {"CPU": 1}}, {0: "b"}, nodes(a=1, b=4)) == {1: "b"}


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_bundle_with_a_selector_is_only_where_that_is_met(strategy):
    labels = {"a": {"zone": "x"}, "b": {"zone": "y"}, "c": {"zone": "y", "disk": "ssd"}}
    free = nodes(a=4, b=4, c=4)

    def planned(*selectors):
        wanted = bundles(*(1 for _ in selectors))
        return plan(strategy, *_with(wanted, selectors, free, labels))

    found = planned({"zone": "y", "disk": "in(ssd, nvme)"}, {"zone": "y"})
    assert found == {"STRICT_SPREAD": {0: "c", 1: "b"}, "SPREAD": {0: "c", 1: "b"}}.get(
        strategy, {0: "c", 1: "c"}
    )
    assert planned({"disk": "!ssd"}, {"disk": "!ssd", "zone": "x"})[1] == "a" or strategy == "STRICT_PACK"
    assert planned({"zone": "z"}, {}) is None
    assert planned({}, {}) == plan(strategy, bundles(1, 1), {}, free)
    if strategy == "STRICT_PACK":
        assert planned({"zone": "x"}, {"zone": "y"}) is None, "no node meets both"


def _with(wanted, selectors, free, labels):
    wanting, marked = with_labels(wanted, selectors, free, labels)
    return wanting, {}, marked


def test_spread_uses_every_node_before_any_twice():
    found = plan("SPREAD", bundles(1, 1, 1, 1), {}, nodes(a=8, b=2, c=2))
    assert sorted(found.values()).count("a") == 2
    assert set(found.values()) == {"a", "b", "c"}


def test_spread_doubles_up_where_it_has_to():
    assert plan("SPREAD", bundles(1, 1), {}, nodes(a=2, b=0)) == {0: "a", 1: "a"}


def test_strict_pack_is_on_one_node_or_nowhere():
    assert set(plan("STRICT_PACK", bundles(1, 2), {}, nodes(a=2, b=3)).values()) == {"b"}
    assert plan("STRICT_PACK", bundles(1, 2), {}, nodes(a=2, b=2)) is None


def test_strict_pack_stays_with_its_others():
    assert plan("STRICT_PACK", {1: {"CPU": 1}}, {0: "b"}, nodes(a=4, b=0)) is None


def test_strict_spread_needs_as_many_nodes_as_bundles():
    assert plan("STRICT_SPREAD", bundles(1, 1, 1), {}, nodes(a=8, b=8)) is None
    assert sorted(plan("STRICT_SPREAD", bundles(1, 1), {}, nodes(a=8, b=8)).values()) == ["a", "b"]


def test_strict_spread_avoids_the_nodes_of_its_others():
    assert plan("STRICT_SPREAD", {1: {"CPU": 1}}, {0: "a"}, nodes(a=8, b=1)) == {1: "b"}
    assert plan("STRICT_SPREAD", {1: {"CPU": 1}}, {0: "a"}, nodes(a=8)) is None


def test_strict_spread_finds_the_one_matching():
    needs = {0: {"CPU": 1, "disk": 1}, 1: {"CPU": 2}, 2: {"CPU": 1}}
    free = {"a": {"CPU": 2, "disk": 1}, "b": {"CPU": 2}, "c": {"CPU": 1}}
    assert plan("STRICT_SPREAD", needs, {}, free) == {0: "a", 1: "b", 2: "c"}


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_no_nodes_no_plan(strategy):
    assert plan(strategy, bundles(1), {}, {}) is None


def is_good(strategy, needs, fixed, free, found):
    used = {}
    for index, node in found.items():
        for name, amount in needs[index].items():
            used[node, name] = used.get((node, name), 0) + amount
    everywhere = [*found.values(), *fixed.values()]
    return (
        all(amount <= free[node].get(name, 0) for (node, name), amount in used.items())
        and (strategy != "STRICT_PACK" or len(set(everywhere)) <= 1)
        and (strategy != "STRICT_SPREAD" or len(set(everywhere)) == len(everywhere))
    )


amounts = st.fixed_dictionaries({"CPU": st.integers(0, 3)}, optional={"disk": st.integers(0, 2)})


@given(
    strategy=st.sampled_from(STRATEGIES),
    needs=st.lists(amounts, min_size=1, max_size=4),
    free=st.lists(amounts, max_size=4),
    others=st.lists(st.integers(0, 3), max_size=2),
)
def test_a_plan_is_right_and_is_found_whenever_there_is_one(strategy, needs, free, others):
    table = {f"n{number}": amounts for number, amounts in enumerate(free)}
    wanted = dict(enumerate(needs))
    fixed = {100 + n: f"n{node}" for n, node in enumerate(others)}
    if strategy == "STRICT_SPREAD" and len(set(others)) < len(others):
        return  # no group is like that
    found = plan(strategy, wanted, fixed, table)
    if found is not None:
        assert set(found) == set(wanted)
        assert is_good(strategy, wanted, fixed, table, found)
        return
    for choice in itertools.product(table, repeat=len(wanted)):
        assert not is_good(strategy, wanted, fixed, table, dict(zip(wanted, choice, strict=True)))

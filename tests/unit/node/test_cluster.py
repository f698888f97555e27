"""A node's view of the others, as the head tells it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoald.node.cluster import CHANGED, DEAD, DIED, JOINED, ClusterView

OWN, A, B, C = "00" * 16, "aa" * 16, "bb" * 16, "aaaaaa" + "cc" * 13


def row(node_id, state="ALIVE", incarnation="1", **more):
    return {"node_id": node_id, "state": state, "incarnation": incarnation, "reason": "", **more}


@pytest.fixture
def view():
    return ClusterView(OWN, 3)


def told(view, *rows):
    changes = [(node.node_id, change) for node, change in view.update(rows)]
    view.validate()
    return changes


def test_a_node_is_not_in_its_own_view(view):
    assert told(view, row(OWN)) == []
    assert not view.live


def test_joining_and_dying(view):
    assert told(view, row(A), row(B)) == [(A, JOINED), (B, JOINED)]
    assert told(view, row(A, DEAD)) == [(A, DIED)]
    assert told(view, row(A, DEAD)) == []
    assert told(view, row(A)) == [], "a dead node lives again"
    assert view.alive() == [view.nodes[B]]


def test_what_is_suspected_or_drained_is_given_nothing_new(view):
    told(view, row(A), row(B))
    assert told(view, row(A, "SUSPECTED"), row(B, draining=True)) == [(A, CHANGED), (B, CHANGED)]
    assert view.alive() == []
    assert set(view.live) == {A, B}


def test_who_may_be_asked_follows_every_change(view):
    told(view, row(A), row(B))
    assert view.alive() == [view.nodes[A], view.nodes[B]]
    view.avoid(view.nodes[A], True)
    assert view.alive() == [view.nodes[B]]
    view.avoid(view.nodes[A], False)
    view.bury(view.nodes[B], "it does not answer")
    assert view.alive() == [view.nodes[A]]
    view.validate()


def test_a_new_life_of_a_node(view):
    told(view, row(A))
    assert told(view, row(A, incarnation="2")) == [(A, DIED), (A, JOINED)]
    assert told(view, row(A, DEAD)) == [], "news of the older life"
    assert view.live[A].incarnation == "2"


def test_tags(view):
    told(view, row(A), row(B), row(C))
    tag = bytes.fromhex("aaaaaa")
    assert {node.node_id for node in view.by_tag(tag)} == {A, C}
    assert view.by_tag(b"\1\2\3") == []
    told(view, row(A, DEAD))
    assert view.died(tag) is None, "the other may be meant"
    told(view, row(C, DEAD))
    assert view.by_tag(tag) == []
    assert view.died(tag).node_id in (A, C)


def test_nodes_that_were_dead_before(view):
    assert told(view, row(A, DEAD)) == []
    assert view.nodes[A].state == DEAD


@given(
    st.lists(st.tuples(st.integers(0, 6), st.sampled_from(["ALIVE", "SUSPECTED", DEAD]), st.integers(1, 2)))
)
def test_any_news(news):
    view = ClusterView(OWN, 3)
    for number, state, incarnation in news:
        for node, change in view.update([row(f"{number:02x}" * 16, state, str(incarnation))]):
            assert (node.state == DEAD) == (change == DIED)
        view.validate()

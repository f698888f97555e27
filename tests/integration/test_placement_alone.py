"""Scheduling strategies on one node: they are accepted, checked, and say so when nothing can meet them."""

import pytest

import shoal
from marks import until
from shoal.exceptions import ActorDiedError, PlacementError
from shoal.util.scheduling_strategies import (
    DoesNotExist,
    Exists,
    In,
    NodeAffinitySchedulingStrategy,
    NodeLabelSchedulingStrategy,
    NotIn,
)


@pytest.fixture(scope="module")
def shoal_session(module_leaves_nothing):
    shoal.init(num_cpus=2, labels={"zone": "a"}, _system_config={"infeasible_ms": 100})
    yield shoal
    shoal.shutdown()


@shoal.remote
def where():
    return shoal.get_runtime_context().get_node_id()


def own_id():
    return shoal.get_runtime_context().get_node_id()


def test_the_strategies_that_this_node_meets(shoal_session):
    for options in (
        {"scheduling_strategy": "DEFAULT"},
        {"scheduling_strategy": "SPREAD"},
        {"scheduling_strategy": NodeAffinitySchedulingStrategy(own_id(), soft=False)},
        {"scheduling_strategy": NodeAffinitySchedulingStrategy("ab" * 16, soft=True)},
        {"scheduling_strategy": NodeLabelSchedulingStrategy({"zone": In("a", "b"), "disk": DoesNotExist()})},
        {"scheduling_strategy": NodeLabelSchedulingStrategy(soft={"zone": NotIn("a"), "disk": Exists()})},
        {"label_selector": {"zone": "!in(b, c)", "ray.io/node-id": own_id()}},
    ):
        assert shoal.get([where.options(**options).remote() for _ in range(3)], timeout=60) == [own_id()] * 3


def test_a_node_that_is_not_there_fails_the_task(shoal_session):
    strategy = NodeAffinitySchedulingStrategy("ab" * 16, soft=False)
    with pytest.raises(PlacementError, match="which is not in the cluster"):
        shoal.get(where.options(scheduling_strategy=strategy).remote(), timeout=60)
    assert shoal.get(where.remote(), timeout=60) == own_id()


def test_actors_are_placed_by_the_same_rules(shoal_session):
    @shoal.remote(num_cpus=0)
    class Actor:
        def node(self):
            return own_id()

    here = Actor.options(scheduling_strategy=NodeAffinitySchedulingStrategy(own_id(), soft=False)).remote()
    assert shoal.get(here.node.remote(), timeout=60) == own_id()
    gone = Actor.options(scheduling_strategy=NodeAffinitySchedulingStrategy("ab" * 16, soft=False)).remote()
    with pytest.raises(ActorDiedError, match="no node can ever have it: is bound to node"):
        shoal.get(gone.node.remote(), timeout=60)
    waits = Actor.options(label_selector={"zone": "b"}).remote()
    ref = waits.node.remote()
    with pytest.raises(shoal.exceptions.GetTimeoutError):
        shoal.get(ref, timeout=0.5)
    assert (
        shoal.get(Actor.options(label_selector={"zone": "a"}).remote().node.remote(), timeout=60) == own_id()
    )


def test_a_label_that_no_node_has_is_told_and_waits(shoal_session, capfd):
    ref = where.options(label_selector={"zone": "b"}).remote()
    said = ""

    def is_said():
        nonlocal said
        shoal.wait([ref], timeout=0.01)
        said += capfd.readouterr().err
        return "cannot run now: needs CPU 1 on a node with zone in (b)" in said

    until(is_said)
    with pytest.raises(shoal.exceptions.GetTimeoutError, match=r"zone in \(b\).*has zone=a"):
        shoal.get(ref, timeout=0.01)
    shoal.cancel(ref)


@pytest.mark.parametrize(
    ("make", "error"),
    [
        (lambda: NodeAffinitySchedulingStrategy("abc", soft=True), ValueError),
        (lambda: NodeAffinitySchedulingStrategy(3, soft=True), TypeError),
        (lambda: NodeAffinitySchedulingStrategy("ab" * 16, soft="yes"), TypeError),
        (lambda: NodeLabelSchedulingStrategy({}), ValueError),
        (lambda: NodeLabelSchedulingStrategy({"zone": "a"}), TypeError),
        (lambda: NodeLabelSchedulingStrategy({3: In("a")}), TypeError),
        (lambda: In(), ValueError),
        (lambda: In(3), TypeError),
        (lambda: where.options(label_selector={"zone": "in(a"}), ValueError),
        (lambda: where.options(scheduling_strategy="PACK"), ValueError),
    ],
)
def test_what_makes_no_sense_is_refused_at_once(make, error):
    with pytest.raises(error):
        make()

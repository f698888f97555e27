"""Demands of ever new shapes: idle ones are forgotten, and nothing that waits or is leased is."""

import pytest

from schedulerparts import CPU1, DRIVER, Node
from shoal.wire import messages as m
from shoald.store.errors import ProtocolError

MOST = 10


@pytest.fixture
def node():
    node = Node(demands_idle_max=MOST, shapes_max=4 * MOST)
    node.driver(DRIVER, "job1")
    return node


def known(node):
    return node.core.clients[DRIVER].demands


def pass_by(node, first, count):
    """Demands of so many shapes, each met once."""
    for shape in range(first, first + count):
        node.demand(DRIVER, shape, 1)
        node.run()
        assert node.grants[-1].shape_id == shape
        node.give_back(node.grants[-1])
        node.run()


def test_shapes_that_pass_by_are_forgotten(node):
    pass_by(node, 1, 20 * MOST)
    assert len(known(node)) <= MOST


def test_what_waits_and_what_is_leased_stays_however_many_pass_by(node):
    node.demand(DRIVER, 1, 1)
    node.run()
    (leased,) = node.grants
    waiting = range(2, 2 + 2 * MOST)
    for shape in waiting:
        node.demand(DRIVER, shape, 3, {"CPU": 20_000})
    pass_by(node, 100, 4 * MOST)
    assert {1, *waiting} <= known(node).keys()
    assert len(known(node)) <= 4 * MOST
    node.give_back(leased)
    node.run()
    assert node.grants[-1].shape_id in waiting


def test_a_forgotten_shape_may_come_again_as_another(node):
    pass_by(node, 1, MOST + 1)
    assert 1 not in known(node)
    node.demand(DRIVER, 1, 0)
    assert 1 not in known(node), "nothing is remembered to be withdrawn"
    node.demand(DRIVER, 1, 1, {"CPU": 5_000})
    node.run()
    assert node.grants[-1].resources == {"CPU": 5_000}


def test_more_shapes_in_use_than_may_be_are_refused(node):
    for shape in range(4 * MOST):
        node.demand(DRIVER, shape, 1, {"CPU": 20_000})
    with pytest.raises(ProtocolError, match="shapes_max"):
        node.demand(DRIVER, 4 * MOST, 1)
    node.demand(DRIVER, 7, 0)
    node.demand(DRIVER, 4 * MOST, 1)


def test_a_demand_is_withdrawn_by_its_number_and_otherwise_keeps_its_resources(node):
    node.demand(DRIVER, 1, 3, name="f")
    node.run()
    with pytest.raises(ProtocolError, match="other resources"):
        node.demand(DRIVER, 1, 3, {"CPU": 1})
    node.core.handle(DRIVER, [m.DEMAND, 1, {}, 0, {}], node.now)
    demand = known(node)[1]
    assert (demand.backlog, demand.resources, demand.options) == (0, CPU1, {"name": "f"})
    assert len(demand.leases) == 2
    node.core.validate()

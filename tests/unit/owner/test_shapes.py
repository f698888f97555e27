"""Queues of ever new shapes: idle ones are forgotten, and nothing that still waits in one is."""

import dataclasses

import pytest

from shoal.config import Config
from shoal.owner.objects import INLINE, PENDING
from shoal.wire import messages as m
from submitter import Owner

MOST = 10


@pytest.fixture
def owner():
    return Owner(dataclasses.replace(Config(), shapes_idle_max=MOST))


def asked(owner):
    """The numbers of the shapes for which workers were asked."""
    return [
        message[1] for message in owner.table.take_node_messages() if message[0] == m.DEMAND and message[3]
    ]


def run(owner, entry, shape_id):
    """A worker comes for a shape, runs the task of ``entry`` and goes back."""
    owner.leases += 1
    lease = owner.dispatch.granted(shape_id, owner.leases, b"w%07d" % owner.leases, owner.leases, None)
    assert entry.id in lease.inflight
    owner.done(lease, entry)
    owner.dispatch.give_back(lease, m.RETURN_OK)
    owner.dispatch.validate()


def pass_by(owner, count):
    """Tasks of so many shapes that are never seen again."""
    for number in range(count):
        entry = owner.submit(resources={f"own{number}": 1})
        run(owner, entry, asked(owner)[-1])
        assert entry.state == INLINE


def test_shapes_that_pass_by_are_forgotten(owner):
    pass_by(owner, 20 * MOST)
    assert len(owner.dispatch.queues) <= MOST
    assert len(owner.dispatch.by_shape_id) <= MOST


def test_shapes_in_use_stay_however_many(owner):
    entries = [owner.submit(resources={f"kept{number}": 1}) for number in range(3 * MOST)]
    shapes = asked(owner)
    pass_by(owner, 10 * MOST)
    for entry, shape_id in zip(entries, shapes, strict=True):
        run(owner, entry, shape_id)
    assert all(entry.state == INLINE for entry in entries)


def test_a_task_that_waits_for_an_argument_meanwhile_runs(owner):
    argument = owner.table.add(owner.ids.next_id(), PENDING)
    waits = owner.submit(argument, resources={"late": 1})
    number = waits.task.queue.shape_id
    pass_by(owner, 2 * MOST)
    assert number not in owner.dispatch.by_shape_id
    owner.table.fulfil(argument, b"value")
    assert asked(owner) == [number]
    run(owner, waits, number)
    assert waits.state == INLINE


def test_a_worker_for_a_forgotten_shape_goes_back(owner):
    pass_by(owner, 2 * MOST)
    assert owner.dispatch.granted(1, 1000, b"w0001000", 1000, None) is None
    assert [m.RETURN, 1000, m.RETURN_OK] in owner.table.take_node_messages()

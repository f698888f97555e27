"""What is to be made again, since no node has it any more, keeps nothing that making it may need."""

from __future__ import annotations

import pytest

from shoal.wire import messages as m
from unit.objects.test_pulls import own
from unit.objects.world import CAPACITY, CHUNK, Node, World, body, pinned

BIG = CAPACITY // 2 - CHUNK  # as much as pulls may have


def world_of_three(**settings):
    """Node 0 reads, node 1 has what node 2 owns."""
    world = World(3, **{"spill_threshold": 1.0, "pull_memory_percent": 50, **settings})
    reader, maker, owner = world.nodes
    x = own(owner)
    maker.seal(x, body(BIG))
    owner.send(m.HOLD, owner.proc, x)
    owner.recovers = True
    reader.pin(x, maker.proc)
    return world, x


def until(world, what):
    for _ in range(200):
        if what():
            return
        world.run()
        world.wait(0.5)
    raise AssertionError("it does not come")


def until_asked_for_chunks(world):
    while not world.flights:
        world.deliver(next(iter(world.mail)))


def dies(world, node: Node):
    world.kill(node)
    world.declare_dead(node)


@pytest.mark.parametrize("lands_first", [True, False])
def test_its_room_is_there_for_what_it_is_made_of(lands_first):
    world, x = world_of_three()
    reader, maker, owner = world.nodes
    until_asked_for_chunks(world)
    if lands_first:
        world.land()
    dies(world, maker)
    flights = []
    if not lands_first:
        flights, world.flights = world.flights, flights
    until(world, lambda: owner.recovering)
    y = own(owner, 2)
    owner.seal(y, body(BIG, 3))
    reader.told()
    reader.pin(y, owner.proc)
    world.flights += flights
    answers = []
    until(world, lambda: answers.extend(reader.told()) or answers)
    assert reader.read(pinned(answers)) == body(BIG, 3)
    reader.send(m.UNPIN, y)
    owner.seal(x, body(BIG, 5))
    answers.clear()
    until(world, lambda: answers.extend(reader.told()) or answers)
    assert reader.read(pinned(answers)) == body(BIG, 5)
    world.validate()


def test_nor_does_it_wait_for_room():
    world, x = world_of_three()
    reader, maker, owner = world.nodes
    fillers = [own(reader, number) for number in (90, 91)]
    for each in fillers:
        reader.seal(each, body(BIG + CHUNK // 2))
        reader.pin(each)
    reader.told()
    for _ in range(20):
        if world.mail:
            world.deliver(next(iter(world.mail)))
    dies(world, maker)
    until(world, lambda: owner.recovering)
    for each in fillers:
        reader.send(m.UNPIN, each)
        reader.send(m.RELEASE, each)
    world.run()
    assert reader.core.pulls._admission.taken == 0
    owner.seal(x, body(BIG, 5))
    answers = []
    until(world, lambda: answers.extend(reader.told()) or answers)
    assert reader.read(pinned(answers)) == body(BIG, 5)
    world.validate()


def test_two_that_had_parts_of_it_both_take_what_is_made():
    world = World(4, spill_threshold=1.0)
    maker, owner, *readers = world.nodes
    x = own(owner)
    size = 8 * CHUNK
    maker.seal(x, body(size))
    owner.send(m.HOLD, owner.proc, x)
    owner.recovers = True
    for reader in readers:
        reader.pin(x, maker.proc)
    until_asked_for_chunks(world)
    world.land()
    dies(world, maker)
    until(world, lambda: owner.recovering)
    owner.seal(x, body(size, 5))
    for reader in readers:
        answers = []
        until(world, lambda reader=reader, answers=answers: answers.extend(reader.told()) or answers)
        assert reader.read(pinned(answers)) == body(size, 5)
    world.validate()

"""Nodes that cannot be reached, and are not dead: what they were asked for comes from elsewhere, and nothing is lost yet."""

from __future__ import annotations

import pytest

from unit.objects.world import CHUNK, World, body, pinned, refused


def own(node, number=1):
    """An id that a process of this node owns."""
    return node.proc + number.to_bytes(4, "big") + bytes(4)


def two_copies(world, size):
    """Nodes a and c have it; b has asked a, which is gone, and nobody knows yet."""
    a, b, c = world.nodes
    a.seal(own(a), body(size))
    c.pin(own(a), a.proc)
    world.run()
    c.told()
    b.pin(own(a), a.proc)
    world.kill(a)
    return b


def three_small_copies(world):
    """Nodes a and c have three small objects; their ids."""
    a, _, c = world.nodes
    ids = [own(a, number) for number in range(1, 4)]
    for object_id in ids:
        a.seal(object_id, body(100, object_id[11]))
    c.pin_together(ids, a.proc)
    world.run()
    return ids


def cut_off(node, other, world):
    node.core.pulls.unreachable(other.id, world.now)
    node.turn()


@pytest.mark.parametrize("size", [100, 9 * CHUNK])
def test_another_copy_is_read_before_a_node_that_cannot_be_reached_counts_as_dead(size):
    world = World(3)
    a = world.nodes[0]
    b = two_copies(world, size)
    world.run()
    assert b.told() == []
    cut_off(b, a, world)
    world.run()
    assert b.read(pinned(b.told())) == body(size)
    assert not world.dead


def test_who_is_asked_later_does_not_wait_for_it_either():
    world = World(3)
    a, b, _ = world.nodes
    ids = three_small_copies(world)
    world.kill(a)
    cut_off(b, a, world)
    b.pin_together(ids, a.proc)
    world.run()
    assert sorted(b.read(answer) for answer in b.told()) == sorted(body(100, each[11]) for each in ids)


def test_several_that_were_asked_for_together_are_sought_elsewhere():
    world = World(3)
    a, b, _ = world.nodes
    ids = three_small_copies(world)
    b.pin_together(ids, a.proc)
    assert b.core.pulls.waits_for(a.id)
    world.kill(a)
    cut_off(b, a, world)
    world.run()
    assert sorted(b.read(answer) for answer in b.told()) == sorted(body(100, each[11]) for each in ids)
    assert not b.core.pulls.waits_for(a.id)


def test_nothing_is_lost_before_the_node_that_has_it_is_dead():
    world = World(2, pull_rounds_max=3, locate_rounds_max=2)
    a, b = world.nodes
    x = own(a)
    b.pin(x, a.proc, 7)
    cut_off(b, a, world)
    for _ in range(5):
        world.run()
        world.wait(5.0)
    assert b.told() == []
    assert not world.questions
    assert "cannot be reached now" in b.core.pulls.story(x.hex())[0]
    world.kill(a)
    world.declare_dead(a)
    world.run()
    assert refused(b.told())[0] == "owner_died"


def test_a_node_that_is_reached_again_answers_the_question_that_it_has():
    world = World(2, locate_rounds_max=2)
    a, b = world.nodes
    b.pin(own(a), a.proc)
    mail = world.mail.pop((b.id, a.id))
    cut_off(b, a, world)
    for _ in range(5):
        world.run()
        world.wait(5.0)
    a.seal(own(a), body(100))
    b.core.pulls.reached(a.id)
    world.mail[b.id, a.id] = mail
    world.run()
    assert b.read(pinned(b.told())) == body(100)


def test_a_barrier_waits_for_the_node_that_it_is_for():
    world = World(2)
    a, b = world.nodes
    barrier = a.proc + bytes(8)
    b.pin(barrier, a.proc, 3)
    cut_off(b, a, world)
    world.wait(60.0)
    world.run()
    assert b.told() == []
    world.kill(a)
    world.declare_dead(a)
    world.run()
    refused(b.told())


@pytest.mark.parametrize("most", [8, 1000])
def test_what_many_objects_need_to_know_of_the_head_is_asked_together(most):
    world = World(2, locate_rounds_max=2, locate_ids_max=most)
    a, b = world.nodes
    ids = [own(a, number) for number in range(1, 21)]
    for object_id in ids:
        b.pin(object_id, a.proc)
    cut_off(b, a, world)
    parts = [8, 8, 4] if most == 8 else [20]
    assert world.lookups == parts
    for _ in range(2):  # in each round
        world.lookups.clear()
        while world.questions:
            node, object_id = world.questions.pop(0)
            node.core.pulls.located(object_id, None, world.now)
        b.turn()
        world.wait(5.0)
        assert world.lookups == parts

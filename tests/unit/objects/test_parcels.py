"""Small objects that are wanted together come together, and each alone when that does not do."""

from __future__ import annotations

import pytest

from shoal.wire import messages as m
from shoald.objects.pulls import CORRUPT, GONE, UNREACHED
from unit.objects.world import CHUNK, World, body, pinned, refused

SIZE = 100


def made(node, count, size=SIZE):
    """So many small objects of a node's process."""
    ids = [node.proc + number.to_bytes(4, "big") + bytes(4) for number in range(1, count + 1)]
    for object_id in ids:
        node.seal(object_id, body(size, object_id[11]))
    return ids


def came(node, ids, size=SIZE, proc=None):
    """Whether every one was read, and as it was sealed."""
    answers = [answer for answer in node.told(proc) if answer[0] == m.PINNED]
    assert sorted(answer[2] for answer in answers) == sorted(ids)
    return all(node.read(answer) == body(size, answer[2][11]) for answer in answers)


def nothing_left(world):
    world.run()
    for node in world.nodes:
        if node.alive:
            assert node.core.next_deadline() is None
            assert len(node.core.pulls) == 0
            assert not node.core.serving.tickets
            assert node.store.stats()["leased"] == 0
    return True


def test_they_come_as_one_chunk():
    world = World()
    a, b = world.nodes
    ids = made(a, 8)
    b.pin_together(ids, a.proc)
    world.deliver((b.id, a.id))
    world.deliver((a.id, b.id))
    assert len(b.core.pulls) == 8
    [(_, request)] = world.flights
    assert len(request.pieces) == 1
    world.land()
    assert came(b, ids)
    assert nothing_left(world)
    assert b.counters["fetches"] == 8
    assert b.counters["fetched_bytes"] == 8 * SIZE
    assert b.store.stats()["secondary"] == 8 * 128
    assert a.store.stats()["pinned"] == 0
    assert {row["callsite"] for row in b.store.rows(0.0)} == {"here.py:1"}


def test_no_more_than_a_chunk_in_one():
    world = World()
    a, b = world.nodes
    ids = made(a, 20, 500)
    b.pin_together(ids, a.proc)
    world.deliver((b.id, a.id))
    assert [len(message[2]) for message in world.mail[a.id, b.id]] == [2] * 10
    world.run()
    assert came(b, ids, 500)
    assert nothing_left(world)


def test_what_is_large_or_holds_others_or_is_not_there_comes_by_itself():
    world = World()
    a, b = world.nodes
    small = made(a, 3)
    large, outer, pending, failed = (a.proc + bytes([0, 0, 0, 100 + k, 0, 0, 0, 0]) for k in range(4))
    a.seal(large, body(3 * CHUNK))
    a.seal(outer, body(SIZE), contained=small[0])
    a.seal(failed, body(SIZE), flags=m.SEAL_PRIMARY | m.SEAL_ERROR)
    a.send(m.EXPECT, pending)
    b.pin_together([large, *small, outer, pending, failed], a.proc)
    world.run()
    answers = {answer[2]: answer for answer in b.told()}
    assert answers.keys() == {large, *small, outer, failed}
    assert b.read(answers[large]) == body(3 * CHUNK)
    assert answers[failed][5] & m.SEAL_ERROR
    (row,) = [row for row in b.store.rows(0.0) if row["id"] == small[0].hex()]
    assert "container" in [holder["kind"] for holder in row["holders"]]
    a.seal(pending, body(SIZE))
    world.run()
    assert b.read(pinned(b.told())) == body(SIZE)
    assert nothing_left(world)


def test_readers_join_what_is_on_its_way():
    world = World()
    a, b = world.nodes
    ids = made(a, 4)
    b.pin_together(ids, a.proc, priority=m.PRIORITY_ARGUMENT)
    early, late = b.process(8), b.process(9)
    b.pin_together(ids, a.proc, proc=early)
    world.deliver((b.id, a.id))
    world.deliver((a.id, b.id))
    b.pin(ids[2], a.proc, proc=late)
    assert len(world.mail) == 0, "it was asked for again"
    world.run()
    assert came(b, ids)
    assert came(b, ids, proc=early)
    assert came(b, ids[2:3], proc=late)
    assert b.counters["fetches"] == 4
    assert b.counters["fetch_joins"] == 5
    assert nothing_left(world)


@pytest.mark.parametrize("fate", [UNREACHED, GONE, CORRUPT])
def test_another_holder_helps_when_the_source_is_lost(fate):
    world = World(3)
    a, b, c = world.nodes
    ids = made(a, 4)
    c.pin_together(ids, a.proc)
    world.run()
    b.pin_together(ids, a.proc)
    world.deliver((b.id, a.id))
    world.deliver((a.id, b.id))
    world.kill(a)
    world.land(fate=fate)
    world.declare_dead(a)
    world.run()
    assert came(b, ids)
    assert nothing_left(world)
    assert b.counters["fetch_retries"] >= 1
    assert b.store.stats()["secondary"] == 0, "with its origin dead a copy may be the last one"


def test_a_node_dies_before_it_answers():
    world = World(3)
    a, b, c = world.nodes
    ids = made(a, 4)
    c.pin_together(ids, a.proc)
    world.run()
    b.pin_together(ids, a.proc)
    world.kill(a)
    world.declare_dead(a)
    world.run()
    assert came(b, ids)
    assert nothing_left(world)


def test_what_nobody_has_is_said_of_each():
    world = World()
    a, b = world.nodes
    ids = [*made(a, 2), a.proc + bytes([0, 0, 0, 50, 0, 0, 0, 0])]
    b.pin_together(ids, a.proc)
    world.run()
    answers = b.told()
    assert refused(answers)[0] == "lost"
    assert {answer[2] for answer in answers if answer[0] == m.PINNED} == set(ids[:2])
    assert nothing_left(world)


@pytest.mark.parametrize("answered", [False, True])
def test_a_parcel_that_nobody_wants_any_more_leaves_nothing(answered):
    world = World()
    a, b = world.nodes
    ids = made(a, 4)
    reader = b.process(9)
    b.pin_together(ids, a.proc, proc=reader)
    if answered:
        world.deliver((b.id, a.id))
        world.deliver((a.id, b.id))
    b.store.drop(reader, 0.0)
    b.turn()
    assert nothing_left(world)
    assert a.store.stats()["pinned"] == 0
    assert b.counters["fetches"] == 0


@pytest.mark.parametrize("answered", [False, True])
def test_one_that_is_wanted_no_longer_does_not_stop_the_others(answered):
    world = World()
    a, b = world.nodes
    ids = made(a, 3)
    pending = [a.proc + bytes([0, 0, 0, number, 0, 0, 0, 0]) for number in (50, 51)]
    a.send(m.EXPECT, b"".join(pending))
    gone, stays = b.process(8), b.process(9)
    b.pin_together([*ids, *pending], a.proc, proc=gone)
    b.pin_together([ids[0], pending[0]], a.proc, proc=stays)
    if answered:
        world.deliver((b.id, a.id))
        world.deliver((a.id, b.id))
    b.store.drop(gone, 0.0)
    b.turn()
    world.run()
    assert len(a.core.serving.tickets) == 1, "only one of those to come is still asked for"
    for object_id in pending:
        a.seal(object_id, body(SIZE, object_id[11]))
    world.run()
    assert came(b, [ids[0], pending[0]], proc=stays)
    assert nothing_left(world)
    assert a.store.stats()["pinned"] == 0


def test_sealed_here_meanwhile():
    world = World()
    a, b = world.nodes
    ids = made(a, 3)
    reader = b.process(9)
    b.pin_together(ids, a.proc, proc=reader)
    world.deliver((b.id, a.id))
    world.deliver((a.id, b.id))
    b.seal(ids[1], body(SIZE, 77))
    world.run()
    answers = {answer[2]: b.read(answer) for answer in b.told(reader) if answer[0] == m.PINNED}
    assert answers == {ids[0]: body(SIZE, 1), ids[1]: body(SIZE, 77), ids[2]: body(SIZE, 3)}
    assert nothing_left(world)


def test_who_only_wants_to_know_is_told_before_it_comes():
    world = World()
    a, b = world.nodes
    ids = made(a, 3)
    b.pin_together(ids, a.proc)
    b.send(m.WATCH, ids[0], a.proc, 0)
    world.deliver((b.id, a.id))
    world.deliver((a.id, b.id))
    assert b.told() == [[m.AVAILABLE, ids[0], SIZE, 0, ""]]
    world.run()
    assert came(b, ids)


def test_without_room_for_all_each_waits_for_its_own():
    world = World(pull_chunk_bytes=4 * CHUNK, pull_memory_percent=100)
    a, b = world.nodes
    ids = made(a, 8, 400)
    full = b.process(9)
    room = b.send(m.ALLOC, 1, 255 * 1024, 255 * 1024, proc=full)
    assert room[0][0] == m.EXTENT
    b.pin_together(ids, a.proc)
    world.run()
    assert not b.told(), "there is room for two of them"
    world.wait(2.0)
    world.run()
    got = [answer[2] for answer in b.told() if answer[0] == m.PINNED]
    assert got == ids[:2]
    b.store.drop(full, world.now)
    b.turn()
    world.run()
    assert came(b, ids[2:], 400)
    assert nothing_left(world)


def test_a_question_is_answered_once():
    world = World()
    a, b = world.nodes
    ids = made(a, 3)
    b.pin_together(ids, a.proc)
    world.deliver((b.id, a.id))
    parcel = world.mail[a.id, b.id][0]
    world.mail[a.id, b.id].append(list(parcel))
    world.run()
    assert came(b, ids)
    assert nothing_left(world)


def test_people_see_each_of_it():
    world = World()
    a, b = world.nodes
    ids = made(a, 3)
    b.pin_together(ids, a.proc)
    assert a.id[:8] in b.core.pulls.story(ids[1].hex())[0]
    world.deliver((b.id, a.id))
    world.deliver((a.id, b.id))
    assert "being fetched" in b.core.pulls.story(ids[1].hex())[0]

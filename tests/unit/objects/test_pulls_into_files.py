"""What is fetched and finds no room, after all that relief does, is received into a file that the store lends."""

from __future__ import annotations

import pytest

from shoal.wire import messages as m
from shoald.objects.pulls import STALLED, UNWRITTEN
from unit.objects.test_pulls import own
from unit.objects.world import CAPACITY, CHUNK, Node, World, body, refused

DATA = body(5 * CHUNK + 17)
SETTINGS = {"spill_threshold": 1.0, "pull_memory_percent": 100}


def full_world(nodes=2, directories=1, **settings):
    """Node 1 has no byte to spare: somebody looks at all that is in its store."""
    world = World(nodes, directories, **{**SETTINGS, **settings})
    b = world.nodes[1]
    filler = own(b, 99)
    b.seal(filler, body(CAPACITY - 4 * CHUNK), flags=m.SEAL_PRIMARY)
    b.pin(filler)
    b.told()
    return world


def wait_until_refused(world, seconds=1.5):
    """Room was asked for, and there will be none."""
    world.run()
    world.wait(seconds)
    world.run()


def asks(world):
    """Node 1 asks node 0 for an object, and is refused room for it: its id. A file is lent to it next."""
    a, b = world.nodes[:2]
    x = own(a)
    a.seal(x, DATA)
    b.pin(x, a.proc)
    world.run()
    world.wait(1.5)
    return x


def in_file(answers):
    (found,) = [answer for answer in answers if answer[0] == m.PINNED_IN_FILE]
    return found


def test_what_finds_no_room_comes_into_a_file_and_is_read_there():
    world = full_world()
    a, b = world.nodes
    x, inner = own(a), own(a, 2)
    a.seal(inner, b"inner")
    a.seal(x, DATA, contained=inner)
    b.pin(x, a.proc)
    wait_until_refused(world)
    world.wait(0.2)  # and there will be none to read it back, so it is read where it is
    world.run()
    told = in_file(b.told())
    assert b.read_file(told) == DATA
    (row,) = [row for row in b.store.rows(0.0) if row["id"] == x.hex()]
    assert (row["state"], row["allocated_bytes"], row["callsite"]) == ("spilled", 0, "here.py:1")
    stats = b.store.stats()
    assert stats["disk_live"] == row["disk_bytes"] > 0
    assert (stats["fetched_into_files"], stats["fetches"], stats["secondary"]) == (1, 1, 0)
    assert not a.core.serving.tickets
    assert not b.core.pulls


def test_it_is_a_secondary_copy_that_takes_the_place_of_the_primary_one():
    """And it is served to a third node."""
    world = full_world(3)
    a, b, c = world.nodes
    x = asks(world)
    world.run()
    world.wait(0.2)
    obj = b.store.described(x)
    assert not obj.flags & m.SEAL_PRIMARY
    world.kill(a)
    world.declare_dead(a)
    assert obj.flags & m.SEAL_PRIMARY
    c.store.hint(x, b.id)
    c.pin(x, b.proc)
    world.run()
    world.wait(0.2)
    world.run()
    (answer,) = [answer for answer in c.told() if answer[0] == m.PINNED]
    assert c.read(answer) == DATA
    world.validate()


def test_what_can_never_fit_comes_into_a_file_at_once():
    world = World(1, 1, **SETTINGS)
    world.nodes.append(Node(world, 1, CAPACITY * 2))
    b, a = world.nodes
    data = body(CAPACITY + 100)
    x = own(a)
    a.seal(x, data)
    b.pin(x, a.proc)
    world.run()
    world.wait(0.2)
    world.run()
    assert b.read_file(in_file(b.told())) == data


def test_without_spilling_the_store_is_full():
    world = full_world(directories=0, pull_room_tries_max=2)
    a, b = world.nodes
    asks(world)
    world.run()
    assert b.told() == []  # it asks once more
    wait_until_refused(world)
    kind, text = refused(b.told())
    assert kind == "full"
    assert "no room for" in text
    assert a.store.stats()["pinned"] == 0


@pytest.mark.parametrize("lends", [True, False])
def test_a_full_disk_is_named(lends):
    """Whether that shows when the file is made or when it is written."""
    world = full_world(pull_room_tries_max=2)
    a, b = world.nodes
    x = own(a)
    a.seal(x, DATA)
    b.disk_full = not lends
    b.pin(x, a.proc)
    for _ in range(3):
        world.run() if not lends else run_with(world, UNWRITTEN)
        world.wait(1.5)
    run_with(world, UNWRITTEN)
    kind, text = refused(b.told())
    assert kind == "disk"
    assert "no room for" in text
    assert "disk" in text
    assert not b.store._ledger.clients[b.core.proc].files
    assert not a.core.serving.tickets
    world.validate()


def run_with(world, fate):
    """As World.run, but each chunk that is to be written meets this fate."""
    while world.mail or world.flights:
        if world.mail:
            world.deliver(next(iter(world.mail)))
        else:
            world.land(0, fate)
    world.run()


def test_a_write_that_hangs_is_left_behind_and_another_directory_is_taken():
    world = full_world(directories=2)
    b = world.nodes[1]
    asks(world)
    while not world.flights:
        world.deliver(next(iter(world.mail)))
    first = world.flights[0][1].path
    world.land(0, STALLED)
    world.run()
    world.wait(1.5)
    world.run()
    world.wait(0.2)
    told = in_file(b.told())
    assert b.read_file(told) == DATA
    assert told[3].split("/")[1] != first.split("/")[1]
    assert first in b.files, "a thread may still write there"
    b.hang_ends()
    assert first not in b.files
    world.validate()


def test_a_file_that_hangs_when_it_is_read_through_is_given_up():
    world = full_world(directories=2)
    b = world.nodes[1]
    asks(world)
    while not world.sums:
        world.land()
    world.sum(STALLED)
    wait_until_refused(world)
    world.wait(0.2)
    assert b.read_file(in_file(b.told())) == DATA
    b.hang_ends()
    world.validate()


def test_who_does_not_want_it_any_more_leaves_no_file():
    world = full_world()
    a, b = world.nodes
    x = own(a)
    a.seal(x, DATA)
    reader = b.process(7)
    b.pin(x, a.proc, proc=reader)
    world.run()
    world.wait(1.5)
    while not world.flights:
        world.deliver(next(iter(world.mail)))
    b.store.drop(reader, world.now)
    b.turn()
    world.run()
    assert not b.core.pulls
    assert not b.store._ledger.clients[b.core.proc].files
    assert b.store.stats()["disk"] == 0
    assert not a.core.serving.tickets


def test_only_so_many_files_at_a_time():
    world = full_world(pull_files_max=2)
    a, b = world.nodes
    ids = [own(a, number) for number in range(1, 7)]
    for object_id in ids:
        a.seal(object_id, body(5 * CHUNK, object_id[11]))
        b.pin(object_id, a.proc)
    world.run()
    world.wait(1.5)
    for _ in range(6):
        world.run()
        world.wait(1.5)
    world.run()
    world.wait(0.2)
    told = [answer for answer in b.told() if answer[0] == m.PINNED_IN_FILE]
    assert {answer[2]: b.read_file(answer) for answer in told} == {
        each: body(5 * CHUNK, each[11]) for each in ids
    }


def test_a_full_disk_loses_what_another_node_has_and_nothing_else():
    world = full_world()
    a, b = world.nodes
    x, y, z = own(a), own(a, 2), own(a, 3)
    a.seal(x, DATA)
    a.seal(z, b"inner")
    a.seal(y, DATA, contained=z)
    for object_id in (x, y):
        b.pin(object_id, a.proc)
        wait_until_refused(world)
        world.wait(0.2)
        in_file(b.told())
    assert len(b.files) == 2
    b.disk_full = True
    late = own(a, 4)
    a.seal(late, DATA)
    b.pin(late, a.proc)
    wait_until_refused(world)
    assert b.store.described(x) is None
    assert b.store.described(y) is not None, "it holds what it contains"
    assert len(b.files) == 1
    b.disk_full = False
    b.pin(x, a.proc)
    for _ in range(3):
        wait_until_refused(world)
    world.wait(0.2)
    told = {answer[2]: b.read_file(answer) for answer in b.told() if answer[0] == m.PINNED_IN_FILE}
    assert told == {x: DATA, late: DATA}


SOON_S = 0.3  # of store_full_wait_ms, 1 s here


def files_soon(world, node):
    """What node 1 says within a moment, in which the clock does not stand still."""
    told = []
    for _ in range(100):
        world.run()
        world.wait(SOON_S / 100)
        told += node.told()
    return {answer[2]: answer for answer in told if answer[0] in (m.PINNED_IN_FILE, m.PIN_FAILED)}


def test_nobody_waits_for_long_in_a_store_that_is_full_of_views():
    world = full_world()
    a, b = world.nodes
    x = own(a)
    a.seal(x, DATA)
    b.pin(x, a.proc)
    assert b.read_file(files_soon(world, b)[x]) == DATA
    world.validate()


@pytest.mark.parametrize("size", [CHUNK // 4, CHUNK - 1])
def test_nor_do_those_that_would_share_a_lease_or_come_together(size):
    world = full_world()
    a, b = world.nodes
    b.seal(own(b, 98), body(4 * CHUNK))
    b.pin(own(b, 98))
    ids = [own(a, number) for number in range(1, 5)]
    for object_id in ids:
        a.seal(object_id, body(size, object_id[11]))
    b.pin_together(ids, a.proc)
    told = files_soon(world, b)
    assert {each: b.read_file(told[each]) for each in ids} == {each: body(size, each[11]) for each in ids}
    world.validate()


def test_who_gets_no_file_then_waits_as_long_as_ever():
    world = full_world(pull_room_tries_max=1)
    a, b = world.nodes
    b.disk_full = True
    x = own(a)
    a.seal(x, DATA)
    b.pin(x, a.proc)
    assert files_soon(world, b) == {}
    world.wait(0.5)
    b.send(m.UNPIN, own(b, 99))
    b.send(m.RELEASE, own(b, 99))
    world.run()
    (answer,) = [answer for answer in b.told() if answer[0] == m.PINNED]
    assert b.read(answer) == DATA
    world.validate()

"""Many readers of one object: they help each other, and never wait for each other in a circle."""

from __future__ import annotations

from shoal.config import Config
from shoal.wire import messages as m
from shoald.objects.copies import chunk_bytes, first_from, spread
from unit.objects.world import CHUNK, World, body, pinned


def own(node, number=1):
    return node.proc + number.to_bytes(4, "big") + bytes(4)


def test_readers_start_at_different_places():
    assert [spread(order, 16) for order in range(6)] == [0, 8, 4, 12, 2, 10]
    assert {spread(order, 1) for order in range(20)} == {0}
    assert first_from(0b1001, 1) == 3
    assert first_from(0b0001, 1) == 0


def test_chunks_grow_with_the_object_within_bounds():
    config = Config()
    mib = 1024**2
    assert chunk_bytes(0, config) == chunk_bytes(100 * mib, config) == config.pull_chunk_bytes == 4 * mib
    assert chunk_bytes(256 * mib, config) == 8 * mib
    assert chunk_bytes(256 * mib + 1000, config) == 8 * mib
    assert chunk_bytes(100 * 1024 * mib, config) == config.pull_chunk_bytes_max == 16 * mib


def test_each_chunk_leaves_the_source_about_once():
    """Four readers that start together, on links of the same speed, take most of the object from each other."""
    world = World(5)
    source, *readers = world.nodes
    x = own(source)
    data = body(64 * CHUNK)
    source.seal(x, data)
    for reader in readers:
        reader.pin(x, source.proc)
    while world.mail or world.flights:
        while world.mail:
            world.deliver(next(iter(world.mail)))
        # What a source can send in one unit of time: one request of each of its readers' connections would be more.
        sent: set[str] = set()
        for flight in list(world.flights):
            if flight[1].node not in sent:
                sent.add(flight[1].node)
                world.land(world.flights.index(flight))
    for reader in readers:
        assert reader.read(pinned(reader.told())) == data
        assert reader.counters["fetches"] == 1
        assert reader.counters["fetched_bytes"] == 64 * CHUNK
    from_source = sum(1 for sender, _, _ in world.served if sender == source.id)
    assert from_source <= 64 * 1.5
    assert sum(reader.counters["fetched_from_relays"] for reader in readers) == 4 * 64 - from_source
    world.validate()


def test_checksums_are_those_of_the_origin():
    """A relay whose memory went bad does not pass for a source of what it has."""
    world = World(3)
    a, b, c = world.nodes
    x = own(a)
    data = body(16 * CHUNK)
    a.seal(x, data)
    b.pin(x, a.proc)
    world.run()
    offset = pinned(b.told())[3]
    b.region[offset : offset + len(data)] = bytes(len(data))
    c.pin(x, a.proc)
    world.run()
    assert c.read(pinned(c.told())) == data
    assert c.counters["fetched_from_relays"] == 0


def test_parts_without_an_origin_end_in_an_error_and_not_in_a_circle():
    world = World(3, pull_rounds_max=3)
    a, b, c = world.nodes
    x = own(a)
    a.seal(x, body(32 * CHUNK))
    b.pin(x, a.proc)
    c.pin(x, a.proc)
    for _ in range(10):
        while world.mail:
            world.deliver(next(iter(world.mail)))
        if world.flights:
            world.land()
    assert len({sender for sender, _, _ in world.served}) >= 1
    world.kill(a)
    world.declare_dead(a)
    for _ in range(8):
        world.run()
        world.wait(3.0)
    for reader in (b, c):
        (answer,) = reader.told()
        assert answer[0] == m.PIN_FAILED
        assert answer[3] == "owner_died"
        assert reader.store.stats()["used"] == 0


def test_parts_that_make_a_whole_need_no_origin():
    world = World(3)
    a, b, c = world.nodes
    x = own(a)
    data = body(32 * CHUNK)
    a.seal(x, data)
    b.pin(x, a.proc)
    c.pin(x, a.proc)
    while world.mail:
        world.deliver(next(iter(world.mail)))
    # Each takes from the origin alone until the two have everything between them.
    while {chunk for _, _, chunk in world.served} != set(range(32)):
        index = next(i for i, (_, request) in enumerate(world.flights) if request.node == a.id)
        world.land(index)
    assert len(world.served) < 64
    world.kill(a)
    world.declare_dead(a)
    for _ in range(4):
        world.run()
        world.wait(0.1)
    for reader in (b, c):
        assert reader.read(pinned(reader.told())) == data


def test_a_part_that_is_given_up_is_no_source_any_more():
    world = World(3)
    a, b, c = world.nodes
    x = own(a)
    data = body(32 * CHUNK)
    a.seal(x, data)
    reader = b.process(9)
    b.pin(x, a.proc, proc=reader)
    c.pin(x, a.proc)
    for _ in range(6):
        while world.mail:
            world.deliver(next(iter(world.mail)))
        world.land()
    assert b.core.serving.tickets
    b.store.drop(reader, 0.0)
    b.turn()
    world.run()
    assert c.read(pinned(c.told())) == data
    assert not b.core.serving.tickets
    assert b.store.stats()["used"] == 0


def test_a_part_that_became_an_object_stays_while_it_is_read():
    world = World(3)
    a, b, c = world.nodes
    x = own(a)
    data = body(32 * CHUNK)
    a.seal(x, data)
    b.pin(x, a.proc)
    c.pin(x, a.proc)
    while not b.told():
        while world.mail:
            world.deliver(next(iter(world.mail)))
        index = next(i for i, (reader, _) in enumerate(world.flights) if reader is b)
        world.land(index)
    assert b.core.serving.tickets
    b.send(m.UNPIN, x)
    assert b.store.stats()["pinned"] > 0
    world.run()
    assert c.read(pinned(c.told())) == data
    assert b.store.stats()["pinned"] == 0

"""What is elsewhere comes here once, whatever happens to those who have it."""

from __future__ import annotations

import pytest

from shoal.wire import messages as m
from unit.objects.world import CHUNK, World, body, pinned, refused


def own(node, number=1):
    """An id that a process of this node owns."""
    return node.proc + number.to_bytes(4, "big") + bytes(4)


def test_an_object_comes_with_everything_that_belongs_to_it():
    world = World()
    a, b = world.nodes
    x, inner = own(a), own(a, 2)
    data = body(5 * CHUNK + 17)
    a.seal(inner, b"inner")
    a.seal(x, data, contained=inner)
    assert b.pin(x, a.proc) == []
    world.run()
    assert b.read(pinned(b.told())) == data
    (row,) = [row for row in b.store.rows(0.0) if row["id"] == x.hex()]
    assert row["callsite"] == "here.py:1"
    assert b.store.stats()["secondary"] == row["allocated_bytes"]
    assert a.store.stats()["pinned"] == 0
    assert not a.core.serving.tickets
    assert b.counters["fetches"] == 1
    assert b.counters["fetched_bytes"] == len(data)


def test_what_is_wanted_at_once_is_asked_for_in_portions():
    """The source works on the first ones while the rest are put; whoever changes his mind in between is heard in order."""
    world = World(pull_wants_max=3)
    a, b = world.nodes
    ids = [own(a, number) for number in range(1, 9)]
    for object_id in ids:
        a.seal(object_id, body(100, object_id[11]))
    b.send(m.PIN_TOGETHER, [field for object_id in ids for field in (object_id, a.proc, 0)], 0)
    asked = world.mail[b.id, a.id]
    assert b"".join(message[2] for message in asked) == b"".join(ids[:3])
    assert b.core.next_deadline() == 0.0
    b.turn()
    assert b"".join(message[2] for message in asked) == b"".join(ids[:6])
    b.turn()
    assert b"".join(message[2] for message in asked) == b"".join(ids)
    assert b.core.next_deadline() is None
    world.run()
    assert sorted(b.read(answer) for answer in b.told()) == sorted(body(100, each[11]) for each in ids)
    b.store.drop(b.proc, 0.0)
    b.turn()
    world.run()


def test_a_copy_stays_though_nobody_here_holds_it():
    world = World()
    a, b = world.nodes
    x = own(a)
    a.seal(x, body(100))
    b.pin(x, a.proc)
    world.run()
    offset = pinned(b.told())[3]
    b.send(m.UNPIN, x)
    assert pinned(b.pin(x, a.proc))[3] == offset
    assert b.counters["fetches"] == 1


def test_readers_join_one_pull():
    world = World()
    a, b = world.nodes
    x = own(a)
    a.seal(x, body(9 * CHUNK))
    procs = [b.process(10 + number) for number in range(100)]
    for proc in procs:
        b.pin(x, a.proc, proc=proc, priority=m.PRIORITY_ARGUMENT)
    world.run()
    for proc in procs:
        assert b.read(pinned(b.told(proc))) == body(9 * CHUNK)
    assert b.counters["fetches"] == 1
    assert b.counters["fetch_joins"] == 99
    assert b.counters["fetched_bytes"] == 9 * CHUNK


def test_a_pending_object_is_waited_for_where_it_will_be():
    world = World()
    a, b = world.nodes
    x = own(a)
    a.send(m.EXPECT, x)
    b.pin(x)
    world.run()
    assert b.told() == []
    a.seal(x, body(10))
    world.run()
    assert b.read(pinned(b.told())) == body(10)


def test_a_read_that_overtakes_its_seal_waits_for_the_stream():
    world = World()
    a, b = world.nodes
    x = own(a)
    b.pin(x, a.proc, 7)
    world.run()
    assert b.told() == []
    a.seal(x, body(10))
    a.store.advanced(a.proc, 7, 0.0)
    world.run()
    assert pinned(b.told())


def test_what_was_never_there_is_lost_and_the_reason_is_the_sources():
    world = World()
    a, b = world.nodes
    b.pin(own(a), a.proc)
    world.run()
    kind, text = refused(b.told())
    assert kind == "lost"
    assert own(a).hex() in text
    assert len(b.core.pulls) == 0


def test_what_was_freed_is_said_to_be_freed():
    world = World()
    a, b = world.nodes
    a.seal(own(a), body(10))
    a.send(m.RELEASE, own(a))
    b.pin(own(a), a.proc)
    world.run()
    assert refused(b.told())[0] == "freed"


def test_the_owners_node_says_where_it_is():
    """The stamp names nobody; the owner's node heard of a seal on a third one."""
    world = World(3)
    a, b, c = world.nodes
    x = own(a)
    c.seal(x, body(3000))
    a.store.hint(x, c.id)
    b.pin(x)
    world.run()
    assert b.read(pinned(b.told())) == body(3000)
    assert a.counters["fetches"] == 0


def test_a_reader_that_waits_for_a_local_seal_hears_that_it_is_elsewhere():
    world = World()
    a, b = world.nodes
    x = own(a)
    a.send(m.HOLD, a.proc, x)
    a.send(m.EXPECT, x)
    other = a.process(5)
    assert a.pin(x, proc=other) == []
    b.pin(x)
    world.run()
    assert len(a.core.pulls) == 0
    b.seal(x, body(100), flags=m.SEAL_PRIMARY)
    a.store.sharing.receive_sealed(a.proc, x)
    a.store.located(x, b.id, 100, 0)
    a.turn()
    world.run()
    assert a.read(pinned(a.told(other))) == body(100)


def test_both_nodes_share_what_was_fetched_and_what_it_contains():
    world = World()
    a, b = world.nodes
    inner, x = own(a, 1), own(a, 2)
    a.seal(inner, body(10))
    a.seal(x, body(100), contained=inner)
    b.pin(x, a.proc)
    world.run()
    assert a.store.sharing.snapshot() == ([(x, 100), (inner, 10)], [x, inner])
    assert b.store.sharing.snapshot() == ([(x, 100)], [inner])
    a.send(m.RELEASE, x + inner)
    assert a.store.described(inner), "its copy on the other node holds it, whatever this one does"


def test_copies_of_what_a_dead_node_made_are_primary_ones():
    world = World(3)
    a, b, c = world.nodes
    x = own(a)
    a.seal(x, body(100))
    b.pin(x, a.proc)
    world.run()
    assert b.store.stats()["secondary"] > 0, "it may be dropped: its maker has it"
    world.kill(a)
    world.declare_dead(a)
    assert b.store.stats()["secondary"] == 0
    c.pin(x, b.proc)
    world.run()
    assert c.read(pinned(c.told())) == body(100)
    assert c.store.stats()["secondary"] == 0, "nor is a copy that was made of that dropped"


def test_the_head_knows_who_else_has_it():
    world = World(3)
    a, b, c = world.nodes
    x = own(a)
    a.seal(x, body(2 * CHUNK))
    c.pin(x, a.proc)
    world.run()
    world.kill(a)
    world.declare_dead(a)
    b.pin(x, a.proc)
    world.run()
    assert b.read(pinned(b.told())) == body(2 * CHUNK)


def test_nobody_is_left_who_could_know():
    world = World()
    a, b = world.nodes
    a.seal(own(a), body(10))
    world.kill(a)
    world.declare_dead(a)
    b.pin(own(a), a.proc)
    world.run()
    kind, text = refused(b.told())
    assert kind == "owner_died"
    assert "died" in text


def test_the_head_is_asked_again_while_it_does_not_answer():
    world = World(3, pull_rounds_max=3)
    a, b, c = world.nodes
    x = own(a)
    a.seal(x, body(10))
    c.pin(x, a.proc)
    world.run()
    world.kill(a)
    world.dead.add(a.id)
    world.head_answers = False
    b.pin(x, a.proc)
    world.run()
    assert b.told() == []
    world.head_answers = True
    world.wait(10.0)
    world.run()
    assert pinned(b.told())


def test_a_source_that_dies_is_replaced_in_mid_object():
    world = World(3)
    a, b, c = world.nodes
    x = own(a)
    data = body(20 * CHUNK)
    a.seal(x, data)
    c.pin(x, a.proc)
    world.run()
    b.pin(x, a.proc)
    world.deliver((b.id, a.id))
    world.deliver((a.id, b.id))
    while b.counters["fetched_bytes"] < 5 * CHUNK:
        world.land()
    world.kill(a)
    world.declare_dead(a)
    world.run()
    assert b.read(pinned(b.told())) == data
    assert b.counters["fetched_bytes"] == 20 * CHUNK
    assert [
        len([1 for _, reader, chunk in world.served if (reader, chunk) == (b.id, i)]) for i in range(20)
    ] == [1] * 20


@pytest.mark.parametrize("fault", ["silent", "lies"])
def test_a_source_that_stalls_or_lies_is_replaced(fault):
    world = World(3)
    a, b, c = world.nodes
    x = own(a)
    data = body(20 * CHUNK)
    a.seal(x, data)
    c.pin(x, a.proc)
    world.run()
    b.pin(x, a.proc)
    if fault == "lies":
        world.liars.add(a.id)
    else:
        world.silent.add((a.id, b.id))
    world.run()
    assert b.read(pinned(b.told())) == data
    assert b.counters["fetch_retries"] >= 1
    assert b.notes


def test_the_only_source_is_asked_again_after_a_pause():
    world = World()
    a, b = world.nodes
    x = own(a)
    a.seal(x, body(4 * CHUNK))
    world.silent.add((a.id, b.id))
    b.pin(x, a.proc)
    world.run()
    assert b.told() == []
    world.silent.clear()
    world.wait(1.0)
    world.run()
    assert b.read(pinned(b.told())) == body(4 * CHUNK)


def test_a_source_that_can_never_be_reached_ends_in_an_error():
    world = World(pull_rounds_max=3)
    a, b = world.nodes
    a.seal(own(a), body(10))
    world.silent.add((a.id, b.id))
    b.pin(own(a), a.proc)
    for _ in range(5):
        world.run()
        world.wait(5.0)
    kind, text = refused(b.told())
    assert kind == "lost"
    assert "cannot be reached" in text
    assert b.store.stats()["leased"] == 0


def test_another_copy_is_begun_anew():
    """The task ran again elsewhere, with other bytes: nothing of the first run is left in what is read."""
    world = World(3)
    a, b, c = world.nodes
    x = own(b)
    a.seal(x, body(20 * CHUNK, seed=1))
    c.seal(x, body(20 * CHUNK, seed=2))
    b.pin(x, a.proc)
    world.deliver((b.id, a.id))
    world.deliver((a.id, b.id))
    while b.counters["fetched_bytes"] < 5 * CHUNK:
        world.land()
    world.kill(a)
    world.declare_dead(a)
    world.run()
    assert b.read(pinned(b.told())) == body(20 * CHUNK, seed=2)


def test_a_pull_that_nobody_wants_any_more_leaves_nothing():
    world = World()
    a, b = world.nodes
    x = own(a)
    a.seal(x, body(20 * CHUNK))
    reader = b.process(9)
    b.pin(x, a.proc, proc=reader)
    world.deliver((b.id, a.id))
    world.deliver((a.id, b.id))
    world.land()
    b.store.drop(reader, 0.0)
    b.turn()
    assert b.store.stats()["leased"] > 0  # connections may still write there
    world.run()
    assert b.store.stats()["used"] == 0
    assert a.store.stats()["pinned"] == 0


def test_wanted_again_before_the_last_chunk_has_landed():
    world = World()
    a, b = world.nodes
    x = own(a)
    a.seal(x, body(20 * CHUNK))
    reader = b.process(9)
    b.pin(x, a.proc, proc=reader)
    world.deliver((b.id, a.id))
    world.deliver((a.id, b.id))
    world.land()
    b.store.drop(reader, 0.0)
    b.turn()
    b.pin(x, a.proc)
    world.run()
    assert b.read(pinned(b.told())) == body(20 * CHUNK)


def test_sealed_here_meanwhile():
    world = World()
    a, b = world.nodes
    x = own(a)
    a.seal(x, body(20 * CHUNK))
    b.pin(x, a.proc)
    world.deliver((b.id, a.id))
    world.deliver((a.id, b.id))
    reader = b.process(9)
    b.pin(x, a.proc, proc=reader)
    b.seal(x, body(20 * CHUNK, seed=2))
    assert b.read(pinned(b.told(reader))) == body(20 * CHUNK, seed=2)
    world.run()
    assert b.counters["fetches"] == 0


def test_only_asked_whether_it_is_there():
    world = World()
    a, b = world.nodes
    x = own(a)
    a.seal(x, body(20 * CHUNK))
    b.send(m.WATCH, x, a.proc, 0)
    world.run()
    assert b.told() == [[m.AVAILABLE, x, 20 * CHUNK, 0, ""]]
    assert b.store.stats()["used"] == 0
    assert a.store.stats()["pinned"] == 0
    b.send(m.WATCH, own(a, 9), a.proc, 0)
    world.run()
    ((_, object_id, _, _, error),) = b.told()
    assert object_id == own(a, 9)
    assert error


def test_asked_first_and_wanted_then():
    world = World()
    a, b = world.nodes
    x = own(a)
    a.send(m.EXPECT, x)
    b.send(m.WATCH, x, a.proc, 0)
    world.run()
    b.pin(x, a.proc)
    world.run()
    a.seal(x, body(3000))
    world.run()
    answers = b.told()
    assert [m.AVAILABLE, x, 3000, 0, ""] in answers
    assert b.read(pinned(answers)) == body(3000)


def test_a_barrier_is_answered_when_the_stream_is_there():
    """A WATCH for an id that never is (owner.table.hold_until), with a stamp of another node."""
    world = World()
    a, b = world.nodes
    barrier = b.proc + (5).to_bytes(8, "big")
    b.send(m.WATCH, barrier, a.proc, 3)
    world.run()
    assert b.told() == []
    a.store.advanced(a.proc, 3, 0.0)
    a.turn()
    world.run()
    ((tag, object_id, *_),) = b.told()
    assert (tag, object_id) == (m.AVAILABLE, barrier)


def test_small_objects_share_requests_and_room():
    world = World(pull_chunk_bytes=16 * 1024)
    a, b = world.nodes
    ids = [own(a, number + 1) for number in range(100)]
    for number, object_id in enumerate(ids):
        a.seal(object_id, body(700, seed=number))
    for object_id in ids:
        b.req += 1
        b.store.handle(b.proc, [m.PIN, b.req, object_id, a.proc, 0, 0], 0.0)
    b.turn()
    allocs = b.counters["allocs"]
    requests = 0
    while world.mail or world.flights:
        while world.mail:
            world.deliver_all(next(iter(world.mail)))
        if world.flights:
            requests += 1
            world.land()
    read = {answer[2]: b.read(answer) for answer in b.told()}
    assert read == {object_id: body(700, seed=number) for number, object_id in enumerate(ids)}
    assert requests <= 6
    assert b.counters["allocs"] - allocs <= 6
    world.validate()


def test_errors_stay_errors():
    world = World()
    a, b = world.nodes
    a.seal(own(a), b"an exception", flags=m.SEAL_PRIMARY | m.SEAL_ERROR)
    b.pin(own(a), a.proc)
    world.run()
    assert pinned(b.told())[5] & m.SEAL_ERROR


def test_what_was_pulled_stays_until_somebody_needs_the_room():
    world = World()
    a, b = world.nodes
    ids = [own(a, number + 1) for number in range(3)]
    for object_id in ids:
        a.seal(object_id, body(60 * 1024))
        b.pin(object_id, a.proc)
        world.run()
        world.wait(1.0)
        b.send(m.UNPIN, object_id)
    b.told()
    assert b.store.stats()["objects"] == 3
    b.seal(own(b), body(120 * 1024))
    assert not b.store.described(ids[0])
    assert b.counters["evictions"] >= 1
    world.run()


def test_messages_that_make_no_sense_are_refused():
    from shoald.store.errors import ProtocolError

    world = World()
    a, b = world.nodes
    for message in (
        [m.P_FETCH, 1],
        [m.P_FETCH, 1, b"short", b"", 0, 0, b""],
        [m.P_FETCHED, 1],
        [m.P_FETCH_DONE, 7, True],
        [m.P_FETCH_FAILED, 1],
        [m.P_CHUNKS],
        [m.P_HOLDERS, 1],
    ):
        with pytest.raises(ProtocolError):
            b.core.from_node(a.id, message, 0.0)
            b.turn()


def test_a_pull_that_waits_for_room_gets_that_of_what_is_only_kept():
    world = World()
    a, b = world.nodes
    for number in range(1, 4):
        x = own(a, number)
        a.seal(x, body(150 * 1024))
        b.pin(x, a.proc)
        world.run()
        world.wait(0.1)  # there are pauses between looks for victims
        world.run()
        assert b.read(pinned(b.told())) == body(150 * 1024)
        b.send(m.UNPIN, x)
        a.send(m.RELEASE, x)
        a.store.sharing.free([x])
    assert b.counters["evictions"] == 2


def test_people_can_ask_how_far_it_has_come():
    world = World(pull_memory_percent=1)
    a, b = world.nodes
    x, y = own(a), own(a, 2)
    a.send(m.EXPECT, x)
    b.pin(x, a.proc)
    world.run()
    assert b.core.pulls.story(x.hex()[:6]) == [f"this node asks node {a.id[:8]} for it"]
    a.seal(x, body(20 * CHUNK))
    a.seal(y, body(20 * CHUNK))
    b.pin(y, a.proc)
    while world.mail:
        world.deliver(next(iter(world.mail)))
    world.land()
    assert b.core.pulls.story(x.hex()) == [
        f"it is being fetched from node {a.id[:8]}: 1 of its 20 parts are here"
    ]
    (waits,) = b.core.pulls.story(y.hex())
    assert "wait for room" in waits
    world.run()
    assert b.core.pulls.story("") == []


def test_an_object_of_this_node_that_only_the_head_knows_of_is_found():
    """Its owner has let go of it; a reader got it out of a container, and quotes that one's stamp."""
    world = World()
    a, b = world.nodes
    x = own(b)
    a.seal(x, b"elsewhere")
    assert b.pin(x, b.proc, proc=b.process(7)) == []
    world.run()
    assert b.read(pinned(b.told(b.tag + (7).to_bytes(5, "big")))) == b"elsewhere"


def test_an_object_of_this_node_that_is_nowhere_is_lost_after_few_rounds():
    world = World()
    b = world.nodes[1]
    x = own(b)
    b.pin(x, b.proc)
    world.run()
    while not (answers := b.told()):
        assert world.now < 5.0
        world.wait(0.1)
        world.run()
    kind, text = refused(answers)
    assert kind == "lost"
    assert "no lineage" in text


def test_an_owner_is_asked_again_if_the_node_dies_that_made_it_again():
    world = World(4)
    a, b, *makers = world.nodes
    a.recovers = True
    x = own(a)
    b.pin(x, a.proc)
    for maker in makers:
        world.run()
        assert a.recovering == [x]
        a.recovering.clear()
        maker.seal(x, b"again")
        a.store.sharing.receive_sealed(a.proc, x)  # P_SEALED
        a.store.located(x, maker.id, 5, 0)
        if maker is not makers[-1]:
            world.kill(maker)
            a.turn()
            world.run()
            world.declare_dead(maker)
    a.turn()
    world.run()
    assert b.read(pinned(b.told())) == b"again"

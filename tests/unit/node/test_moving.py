"""What a leaving node has the only copy of: whom it gives it to, and what it waits for."""

from types import SimpleNamespace

import pytest

from shoal.ids import split_ids
from shoal.wire import messages as m
from shoald.node import moving
from shoald.node.draining import Draining
from shoald.node.moving import Moving

A, B = "a" * 32, "b" * 32


class Bench:
    """A daemon that leaves, with what `Moving` needs of it."""

    def __init__(self):
        self.objects = []
        self.sent = []
        self.handlers = {}
        self.live = {}
        self.now = 1000.0
        self.later = []
        self.lines = []
        self.on_node_dead = []
        self.store = SimpleNamespace(register=lambda *_: None, known_elsewhere=lambda: self.objects)
        self.peers = SimpleNamespace(
            on=self.handlers.__setitem__, send=lambda node_id, message: self.sent.append((node_id, message))
        )
        self.cluster = SimpleNamespace(live=self.live, alive=lambda: list(self.live.values()))
        self.log = SimpleNamespace(line=self.lines.append)
        self.loop = SimpleNamespace(now=lambda: self.now, call_later=lambda _, then: self.later.append(then))
        self.config = SimpleNamespace(drain_ms_max=20_000.0)
        self.actors = SimpleNamespace(drain=lambda _: False)
        self.scheduler = SimpleNamespace(
            leases={}, placement=SimpleNamespace(draining=False), view_changed=lambda _: None
        )
        self.moving = Moving(self)
        self.draining = Draining(self)

    def node(self, node_id, room):
        self.live[node_id] = SimpleNamespace(node_id=node_id, store_capacity=room, store_used=0)

    def dies(self, node_id):
        del self.live[node_id]
        for tell in self.on_node_dead:
            tell(node_id, "it died")

    def begin(self):
        self.moving.begin()

    def given(self):
        """Node → the ids that it was asked to take since the last call."""
        given = {}
        for node_id, message in self.sent:
            assert message[0] == m.P_TAKE
            given.setdefault(node_id, []).extend(split_ids(message[1]))
        self.sent.clear()
        return given

    def taken(self, node_id, ids):
        self.handlers[m.P_TAKEN](node_id, [m.P_TAKEN, b"".join(ids)])


@pytest.fixture
def bench():
    return Bench()


def ids(*numbers):
    return [number.to_bytes(16, "big") for number in numbers]


def test_it_is_over_when_all_was_taken(bench):
    bench.node(A, 100)
    bench.node(B, 90)
    bench.objects = [(each, 10) for each in ids(1, 2, 3, 4)]
    bench.begin()
    given = bench.given()
    assert sorted(each for node_ids in given.values() for each in node_ids) == ids(1, 2, 3, 4)
    assert set(given) == {A, B}
    for node_id, given_ids in given.items():
        assert not bench.moving.over
        bench.taken(node_id, given_ids)
    assert bench.moving.over


def test_what_a_node_did_not_take_before_it_died_goes_to_another(bench):
    bench.node(A, 100)
    bench.node(B, 50)
    bench.objects = [(each, 10) for each in ids(1, 2, 3)]
    bench.begin()
    assert bench.given() == {A: ids(1, 2, 3)}
    bench.dies(A)
    assert bench.given() == {B: ids(1, 2, 3)}
    assert not bench.moving.over
    bench.taken(B, ids(1, 2, 3))
    assert bench.moving.over


def test_what_a_node_took_before_it_died_goes_to_another_too(bench):
    bench.node(A, 100)
    bench.node(B, 99)
    bench.objects = [(each, 10) for each in ids(1, 2)]
    bench.begin()
    assert bench.given() == {A: ids(1), B: ids(2)}
    bench.taken(A, ids(1))
    bench.dies(A)
    assert bench.given() == {B: ids(1)}
    bench.taken(B, ids(2))
    assert not bench.moving.over
    bench.taken(B, ids(1))
    assert bench.moving.over


def test_it_is_over_when_nobody_is_left_to_take_it(bench):
    bench.node(A, 100)
    bench.objects = [(each, 10) for each in ids(1)]
    bench.begin()
    bench.dies(A)
    assert bench.moving.over


def test_what_a_node_had_taken_goes_to_another_as_long_as_this_one_lives(bench):
    bench.node(A, 100)
    bench.node(B, 50)
    bench.objects = [(each, 10) for each in ids(1)]
    bench.begin()
    bench.taken(A, ids(1))
    bench.given()
    assert bench.moving.over
    bench.node(A, 100)  # it is back at once, with nothing
    for tell in bench.on_node_dead:
        tell(A, "it began anew")
    assert bench.given() == {A: ids(1)}
    bench.taken(A, ids(1))
    assert bench.moving.over
    bench.dies(A)
    assert bench.given() == {B: ids(1)}
    assert not bench.moving.over
    bench.taken(B, ids(1))
    assert bench.moving.over


def test_a_node_that_does_not_leave_gives_nothing_away(bench):
    bench.node(A, 100)
    bench.node(B, 50)
    bench.objects = [(each, 10) for each in ids(1)]
    bench.dies(A)
    assert bench.given() == {}


def drained(bench, told):
    """A node with room and one without; the first takes the only object, and the leaving one is drained."""
    bench.node(A, 100)
    bench.node(B, 50)
    bench.objects = [(each, 10) for each in ids(1)]
    bench.draining.begin("it leaves", told.append)
    bench.taken(A, ids(1))


def look(bench):
    later, bench.later = bench.later, []
    for each in later:
        each()


def test_a_death_just_after_all_was_taken_is_not_the_end_of_draining(bench):
    told = []
    drained(bench, told)
    bench.dies(A)
    look(bench)
    assert not told
    bench.taken(B, ids(1))
    look(bench)
    assert told == [True]


def test_a_drained_node_that_is_to_go_waits_for_what_is_moved_again(bench):
    told = []
    drained(bench, told)
    look(bench)
    assert told == [True]
    assert not bench.draining.moves_again
    bench.draining.begin("it goes", told.append)
    assert told == [True, True]
    bench.now += 100.0
    bench.dies(A)
    assert bench.draining.moves_again
    bench.draining.begin("it goes", told.append)
    assert not bench.draining.moves_again
    look(bench)
    assert told == [True, True]
    bench.taken(B, ids(1))
    look(bench)
    assert told == [True, True, True]


def test_what_is_moved_again_is_not_waited_for_forever(bench):
    told = []
    drained(bench, told)
    look(bench)
    bench.dies(A)
    bench.draining.begin("it goes", told.append)
    bench.now += 19.0
    look(bench)
    assert told == [True]
    bench.now += 2.0
    look(bench)
    assert told == [True, True]
    assert not bench.later


def test_many_objects_are_many_messages(bench, monkeypatch):
    monkeypatch.setattr(moving, "_IDS_MAX", 2)
    bench.node(A, 100)
    bench.objects = [(each, 1) for each in ids(1, 2, 3, 4, 5)]
    bench.begin()
    assert [len(message[1]) // 16 for _, message in bench.sent] == [2, 2, 1]

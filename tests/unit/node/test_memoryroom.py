"""When what was ended for lack of memory is tried again."""

import pytest

from shoal.config import load
from shoald.node.memoryroom import MemoryRoom
from shoald.node.memorywatch import Candidate, Reading

GIB = 1024**3


def task(name, gib):
    return Candidate(name.encode(), 1000, name, int(gib * GIB), 0.0, True, False)


def reading(gib):
    return Reading(int(gib * GIB), 10 * GIB, "this machine")


@pytest.fixture
def room():
    settings = {"memory_usage_share_max": 0.9, "memory_room_ms_max": 60_000, "memory_room_shapes_max": 2}
    return MemoryRoom(load(settings))


def test_it_waits_until_what_it_had_is_free(room):
    assert not room
    room.ended("shape", task("hog", 4), 0.0)
    assert room
    reasons = room.lacking(reading(5.1), [task("other", 5)], 1.0)
    assert list(reasons) == ["shape"]
    assert "hog was ended with 4.29 GB" in reasons["shape"]
    assert not room.lacking(reading(5.0), [task("other", 5)], 2.0)
    assert not room, "then it is forgotten"


def test_or_until_nothing_runs(room):
    room.ended("shape", task("hog", 9), 0.0)
    assert room.lacking(reading(1.0), [task("other", 0.1)], 1.0)
    assert not room.lacking(reading(1.0), [], 2.0)


def test_or_for_so_long(room):
    room.ended("shape", task("hog", 9), 0.0)
    assert room.lacking(reading(1.0), [task("other", 0.1)], 59.9)
    assert not room.lacking(reading(1.0), [task("other", 0.1)], 60.0)


def test_a_neighbour_that_does_the_same_will_need_as_much(room):
    """It has only begun: at this moment both would fit."""
    room.ended("shape", task("hog", 6), 0.0)
    assert room.lacking(reading(1.0), [task("hog", 0.1)], 1.0)
    assert not room.lacking(reading(1.0), [task("other", 0.1)], 1.0)


def test_one_that_was_ended_early_needs_what_its_neighbour_has(room):
    room.ended("shape", task("hog", 2), 0.0)
    assert room.lacking(reading(8.0), [task("hog", 7)], 1.0)
    assert room.lacking(reading(1.1), [task("hog", 0.1)], 2.0), "the next one has begun there"
    assert not room.lacking(reading(1.0), [task("other", 0.1)], 3.0)


def test_the_largest_counts(room):
    room.ended("shape", task("hog", 6), 0.0)
    room.ended("shape", task("hog", 2), 1.0)
    assert room.lacking(reading(5.0), [task("other", 5)], 2.0)


def test_so_many_shapes_are_remembered(room):
    for number in range(3):
        room.ended(number, task("hog", 6), 0.0)
    assert list(room.lacking(reading(8.0), [task("other", 8)], 1.0)) == [1, 2]

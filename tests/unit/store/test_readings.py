"""Which reads from disk are given up."""

from __future__ import annotations

from shoal.config import Config
from shoald.store.objects import SpillFile, StoredObject
from shoald.store.readings import LateReads, Reading

KIB = 1024
CONFIG = Config(spill_read_ms_max=5000, spill_bytes_per_s_min=64 * KIB)


def reading(directory: int, size: int = 64 * KIB) -> Reading:
    obj = StoredObject(b"X" * 16, -1, size, size, (), 0, "here", b"", 0.0)
    return Reading(obj, SpillFile(1, directory), 0)


def test_a_read_of_which_nothing_comes_is_given_up_once() -> None:
    late = LateReads(CONFIG)
    assert late.next_deadline() is None
    first = reading(0)
    late.add(1, first, 10.0)
    assert late.next_deadline() == 16.0, "five seconds, and one for its bytes"
    assert late.take_hopeless(15.9) == []
    assert late.take_hopeless(16.0) == [first]
    assert late.take_hopeless(99.0) == []
    late.ended(1, 0)
    assert late.next_deadline() is None


def test_a_directory_that_is_slow_does_not_hang() -> None:
    late = LateReads(CONFIG)
    first, second = reading(0), reading(1)
    late.add(1, first, 10.0)
    late.add(2, second, 10.0)
    late.ended(3, 0)
    assert late.take_hopeless(15.0) == []
    assert late.take_hopeless(16.0) == [second]
    assert late.take_hopeless(20.9) == []
    assert late.take_hopeless(21.0) == [first]


def test_a_large_object_may_take_its_time() -> None:
    late = LateReads(CONFIG)
    late.add(1, reading(0, 6400 * KIB), 10.0)
    assert late.next_deadline() == 115.0
    late.ended(1, 0)
    assert late.take_hopeless(200.0) == []

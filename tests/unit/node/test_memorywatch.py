"""Who is ended when memory is short, and when nobody is."""

import pytest

from shoal.config import load
from shoald.node.memorywatch import Candidate, MemoryWatch, Reading

GIB = 1024**3


def candidate(name, started_at, repeatable=True, actor=False, gib=1.0):
    return Candidate(name.encode(), 1000 + len(name), name, int(gib * GIB), started_at, repeatable, actor)


@pytest.fixture
def watch():
    return MemoryWatch(
        load({"memory_usage_share_max": 0.9, "memory_patience_ms": 500, "memory_settle_ms": 1000})
    )


def reading(gib):
    return Reading(int(gib * GIB), 10 * GIB, "this machine")


def short(watch, now=0.0):
    """Memory is short since ``now``; the time at which somebody may be chosen."""
    assert not watch.is_short(reading(9.5), now)
    assert watch.is_short(reading(9.5), now + 0.5)
    return now + 0.5


def test_nobody_is_ended_below_the_threshold_or_for_a_moment(watch):
    assert not watch.is_short(reading(8.9), 0.0)
    assert not watch.short
    assert not watch.is_short(reading(9.5), 1.0)
    assert watch.short
    assert not watch.is_short(reading(8.0), 1.4)
    assert not watch.is_short(reading(9.5), 5.0)


@pytest.mark.parametrize(
    ("candidates", "victim"),
    [
        ([candidate("old", 1.0), candidate("new", 2.0)], b"new"),
        ([candidate("old", 1.0), candidate("new", 2.0, repeatable=False)], b"old"),
        ([candidate("task", 1.0, repeatable=False), candidate("actor", 2.0, actor=True)], b"task"),
        ([candidate("a", 1.0, False, True), candidate("b", 0.5, True, True)], b"b"),
        ([candidate("only", 1.0, repeatable=False)], b"only"),
    ],
)
def test_the_newest_that_may_run_again_is_chosen_and_actors_last(watch, candidates, victim):
    now = short(watch)
    chosen = watch.choose(reading(9.5), candidates, now)
    assert chosen is not None
    assert chosen.worker_id == victim


def test_one_at_a_time_and_a_pause_after_each(watch):
    now = short(watch)
    a, b = candidate("a", 1.0), candidate("b", 2.0)
    assert watch.choose(reading(9.5), [a, b], now).worker_id == b"b"
    assert watch.choose(reading(9.5), [a, b], now + 5) is None, "it is still there"
    assert watch.choose(reading(9.5), [a], now + 5) is None, "its memory has just been given back"
    assert not watch.is_short(reading(9.5), now + 5.9)
    assert watch.is_short(reading(9.5), now + 6.0)
    assert watch.choose(reading(9.5), [a], now + 6.0).worker_id == b"a"
    assert watch.ended == 2


def test_where_memory_grows_fast_nobody_is_given_time(watch):
    """Half a GB is left, and comes in a quarter of a second."""
    assert not watch.is_short(reading(8.5), 0.0)
    assert not watch.is_short(reading(8.9), 0.2)
    assert watch.is_short(reading(9.5), 0.5)
    a, b = candidate("a", 1.0), candidate("b", 2.0)
    assert watch.choose(reading(9.5), [a, b], 0.5).worker_id == b"b"
    assert watch.is_short(reading(9.6), 0.51)
    assert watch.choose(reading(9.6), [a, b], 0.51) is None, "one at a time"
    assert watch.is_short(reading(9.7), 0.52)
    assert watch.choose(reading(9.7), [a], 0.52) is None, "its memory has just been given back"
    assert not watch.is_short(reading(9.3), 0.53), "which shows now"
    assert watch.is_short(reading(9.6), 0.7), "and another one goes on as fast"
    assert watch.choose(reading(9.6), [a], 0.7).worker_id == b"a"


def test_slow_growth_is_patient(watch):
    assert not watch.is_short(reading(9.1), 0.0)
    assert not watch.is_short(reading(9.15), 0.25)
    assert watch.is_short(reading(9.2), 0.5)


def test_the_less_is_left_the_more_often_it_is_read(watch):
    assert watch.look_again_s(reading(1)) == 0.25
    assert watch.look_again_s(reading(9)) == pytest.approx(GIB / 4e9 / 2)
    assert watch.look_again_s(reading(10)) == watch.look_again_s(reading(11)) == 0.01


def test_nobody_to_end(watch):
    assert watch.choose(reading(9.5), [], short(watch)) is None


def test_the_reason_has_the_figures_and_the_largest(watch):
    candidates = [candidate(f"task {n}", float(n), gib=n / 2) for n in range(1, 6)]
    victim = watch.choose(reading(9.5), candidates, short(watch))
    assert "10.20 GB of 10.74 GB" in victim.reason
    assert "2.68 GB by this process" in victim.reason
    assert "task 5 (pid 1006) 2.68 GB, task 4" in victim.reason
    assert "task 2" not in victim.reason
    assert (victim.used_bytes, victim.limit_bytes) == (int(9.5 * GIB), 10 * GIB)


def test_the_name_of_an_actor_has_its_pid_already(watch):
    actor = Candidate(b"w", 17, "actor Cache 17", GIB, 1.0, True, True)
    assert "actor Cache 17 1.07 GB" in watch.choose(reading(9.5), [actor], short(watch)).reason


def test_what_the_kernel_did_lately(watch):
    assert not watch.kernel_kills(12, 0.0), "that was before we looked"
    assert not watch.kernel_kills(12, 1.0)
    assert watch.kernel_kills(13, 2.0)
    assert watch.kernel_kills(13, 4.9), "a large process takes its time to go"
    assert not watch.kernel_kills(13, 5.1)

"""Who waits for room while nothing is under way that would make any: how long, and what happens then."""

from __future__ import annotations

from typing import Any

from shoal.wire import messages as m
from shoald.store.spilleffects import Read, Write
from unit.store.reliefbench import KIB, bench_of, kinds, later, put_waiting, take, writes, written
from unit.store.storebench import A, B, Bench, C, X, Y


def stuck_bench(**settings: Any) -> Bench:
    """All of the region is taken by objects that A reads; writing to a file is possible in all directories, or nowhere."""
    bench = bench_of(**{"spill_map_after_ms": 64, "recall_grace_ms": 5, **settings})
    bench.core.spills.locate = lambda directory, file: f"/spill/{directory}/{file}"
    for object_id in (X, Y):
        bench.seal(A, object_id, size=32 * KIB, flags=m.SEAL_PRIMARY | m.SEAL_PINNED)
    return bench


def waits_until(bench: Bench, tag: int, seconds: float) -> tuple[float, list[Any]]:
    """Milliseconds until a message of this kind, within so many seconds, as the daemon would look; and the message."""
    began = bench.now
    while bench.now < began + seconds:
        due = bench.core.next_deadline()
        for _, message in later(bench, max(due - bench.now, 0.0) if due is not None else seconds):
            if message[0] == tag:
                return (bench.now - began) * 1000, message
        assert writes(bench) == []
    raise AssertionError(f"no {tag} within {seconds} s")


def test_who_finds_a_store_of_open_views_writes_to_a_file_soon_and_the_next_sooner() -> None:
    bench = stuck_bench()
    waits = []
    for number in range(6):
        bench.send(B, m.ALLOC, 10 + number, 16 * KIB, 16 * KIB, m.ALLOC_OR_FILE)
        ms, message = waits_until(bench, m.ALLOC_FAILED, 1.0)
        assert message[:3] == [m.ALLOC_FAILED, 10 + number, "file"]
        waits.append(round(ms))
    # First the pins are asked for, and leased memory; from then on nothing is under way.
    assert waits[0] in range(64, 100)
    assert waits[1:] == [16, 4, 1, 0, 0]


def test_a_wait_that_ended_with_room_is_worth_more_patience() -> None:
    bench = stuck_bench()
    for number in range(3):
        bench.send(B, m.ALLOC, 10 + number, 16 * KIB, 16 * KIB, m.ALLOC_OR_FILE)
        waits_until(bench, m.ALLOC_FAILED, 1.0)
    bench.send(B, m.ALLOC, 20, 16 * KIB, 16 * KIB, m.ALLOC_OR_FILE)
    assert later(bench, 0.0005) == []
    bench.send(A, m.UNPIN, X)
    assert (B, [m.EXTENT, 20, 0, 16 * KIB]) in written(bench)
    bench.send(B, m.ALLOC, 21, 32 * KIB, 32 * KIB, m.ALLOC_OR_FILE)
    ms, _ = waits_until(bench, m.ALLOC_FAILED, 1.0)
    assert ms >= 1.9


def test_who_wants_no_file_waits_as_long_as_ever() -> None:
    bench = stuck_bench()
    bench.send(B, m.ALLOC, 10, 16 * KIB, 16 * KIB)
    bench.send(C, m.ALLOC, 11, 16 * KIB, 16 * KIB, m.ALLOC_OR_FILE)
    _, message = waits_until(bench, m.ALLOC_FAILED, 0.2)
    assert message[1:3] == [11, "file"]
    ms, message = waits_until(bench, m.ALLOC_FAILED, 2.0)
    assert message[1:3] == [10, "full"]
    assert ms > 800


def test_nobody_is_sent_to_a_file_that_cannot_be_had() -> None:
    bench = stuck_bench()
    bench.core.spills.locate = lambda directory, file: "/spill" if directory == 0 else ""
    bench.send(B, m.ALLOC, 10, 16 * KIB, 16 * KIB, m.ALLOC_OR_FILE)
    ms, message = waits_until(bench, m.ALLOC_FAILED, 2.0)
    assert message[1:3] == [10, "full"]
    assert ms > 900


def test_nobody_is_sent_to_a_file_while_something_is_written() -> None:
    bench = stuck_bench()
    bench.send(A, m.UNPIN, X)
    bench.send(B, m.ALLOC, 10, 16 * KIB, 16 * KIB, m.ALLOC_OR_FILE)
    assert kinds(later(bench, 0.5)) == []
    assert (B, [m.EXTENT, 10, 0, 16 * KIB]) in written(bench)


def test_who_views_more_than_there_is_room_for_waits_once_and_not_for_each() -> None:
    bench = bench_of(spill_map_after_ms=64, recall_grace_ms=5, store_relief_wait_ms=60000)
    bench.core.spills.locate = lambda directory, file: f"/spill/{directory}/{file}"
    ids = [bytes([number]) * 16 for number in range(8)]
    for object_id in ids:
        put_waiting(bench, object_id, 32 * KIB)
    for object_id in ids[-2:]:
        assert kinds(bench.pin(B, object_id)) == [m.PINNED]
    waits = []
    for object_id in ids[:-2]:
        bench.pin(B, object_id)
        waits.append(round(waits_until(bench, m.PINNED_IN_FILE, 1.0)[0]))
    assert waits[0] >= 64
    assert waits[1:] == [16, 4, 1, 0, 0]


def test_pins_that_do_not_come_back_are_waited_for_only_a_few_times() -> None:
    """What B reads comes back from disk for it and is in its view; the next read need not hope that B gives that up."""
    bench = bench_of(256 * KIB, recall_grace_ms=20)
    ids = [bytes([number]) * 16 for number in range(16)]
    for object_id in ids:
        put_waiting(bench, object_id, 32 * KIB)
    waited = 0.0
    for object_id in ids[:7]:
        said = bench.pin(B, object_id)
        while m.PINNED not in kinds(said):
            for effect in take(bench):
                if isinstance(effect, Read):
                    bench.core.spills.read_done(effect.transfer, 1.0)
                elif isinstance(effect, Write):
                    bench.core.spills.wrote(effect.file, [1] * len(effect.parts), 1.0)
            said = later(bench, 0.001)
            waited += 0.001
    assert waited < 0.07


def test_who_waits_as_long_is_sent_to_a_file_soon_after_though_nothing_else_happens() -> None:
    bench = stuck_bench()
    for number in range(4):
        bench.send(B, m.ALLOC, 10 + number, 16 * KIB, 16 * KIB, m.ALLOC_OR_FILE)
    waits = []
    for number in range(4):
        ms, message = waits_until(bench, m.ALLOC_FAILED, 1.0)
        assert message[1:3] == [10 + number, "file"]
        waits.append(round(ms))
    assert waits[1:] == [16, 4, 1]

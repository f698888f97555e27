"""Which objects go so that there is room in one piece, and what is written ahead for it."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from shoal.wire import messages as m
from shoald.store.allocator import ALIGNMENT, LARGE_BYTES, PAGE, Allocator
from unit.store.reliefbench import KIB, bench_of, later, put_waiting, state, take, writes, written
from unit.store.storebench import A, B, Bench, C, X, Y, Z

P, Q = b"P" * 16, b"Q" * 16


def put(bench: Bench, object_id: bytes, size: int) -> None:
    bench.now += 0.01
    bench.seal(A, object_id, size=size)


def written_ahead(bench: Bench) -> int:
    """How many objects were to be written, and are now."""
    effects = writes(bench)
    for effect in effects:
        bench.core.spills.wrote(effect.file, [1] * len(effect.parts), 1.0)
    return sum(len(effect.parts) for effect in effects)


def both(bench: Bench) -> int:
    """How many objects are in the region and on disk."""
    return sum(obj.offset >= 0 and obj.disk is not None for obj in bench.core._ledger.objects.values())


def copy_on_disk(bench: Bench, object_id: bytes) -> None:
    bench.core.spills.write([bench.core._ledger.objects[object_id]], bench.now)
    assert written(bench) == []


def test_what_only_has_to_be_dropped_goes_before_a_smaller_one_is_written() -> None:
    bench = bench_of(112 * KIB)
    for object_id, size in ((X, 32), (P, 16), (Z, 16), (Y, 32), (Q, 16)):
        put(bench, object_id, size * KIB)
    copy_on_disk(bench, X)
    for object_id in (P, Q):
        bench.send(A, m.RELEASE, object_id)
    assert bench.send(B, m.ALLOC, 1, 32 * KIB, 0) == [(B, [m.EXTENT, 1, 0, 32 * KIB])]
    assert take(bench) == []


def test_between_pieces_what_only_has_to_be_dropped_costs_less() -> None:
    """The next victim alone leaves no piece; of two gaps that would do, the one whose object is on disk is cleared."""
    bench = bench_of(112 * KIB)
    for object_id, size in ((Y, 8), (P, 16), (Z, 16), (Q, 16), (X, 24), (b"R" * 16, 16), (b"S" * 16, 16)):
        put(bench, object_id, size * KIB)
    copy_on_disk(bench, X)
    bench.pin(A, X)  # it was used, and is not the next victim
    bench.send(A, m.UNPIN, X)
    for object_id in (P, Q, b"R" * 16):
        bench.send(A, m.RELEASE, object_id)
    bench.now += 1.0
    assert bench.send(B, m.ALLOC, 1, 48 * KIB, 0) == [(B, [m.EXTENT, 1, 40 * KIB, 48 * KIB])]
    assert take(bench) == []


def test_the_next_victim_is_not_written_while_no_disk_takes_anything() -> None:
    bench = bench_of(128 * KIB)
    for object_id, size in ((X, 32), (P, 16), (Y, 32), (Q, 16), (Z, 32)):
        put(bench, object_id, size * KIB)
    for object_id in (P, Q):
        bench.send(A, m.RELEASE, object_id)
    assert bench.send(B, m.ALLOC, 1, 32 * KIB, 0) == []
    for _ in range(2):
        (effect,) = writes(bench)
        bench.core.spills.write_failed(effect.file, False, "it failed", bench.now)
        assert later(bench, 0.01) == []
    bench.send(C, m.ALLOC, 2, KIB, 0)  # another event
    assert writes(bench) == []


def test_a_place_between_two_pages_is_found_again() -> None:
    """Large objects lie at page boundaries: with the gap behind it, one of their places is enough for the next."""
    size = LARGE_BYTES + ALIGNMENT
    bench = bench_of(2 * (LARGE_BYTES + PAGE) + LARGE_BYTES)
    put(bench, X, size)
    put(bench, Y, size)
    assert bench.send(C, m.ALLOC, 1, size, 0) == []
    assert written(bench) == [(C, [m.EXTENT, 1, 0, size])]
    assert (state(bench, X), state(bench, Y)) == ("spilled", "sealed")


def test_what_was_freed_is_not_ready_to_go_any_more() -> None:
    bench = bench_of(64 * KIB, spill_threshold=0.5)
    for round_ in range(3):
        ids = [bytes([round_, number]) * 8 for number in range(4)]
        for object_id in ids:
            put_waiting(bench, object_id, 16 * KIB)
        later(bench, 1.0)
        assert written_ahead(bench) == 2, round_
        for object_id in ids:
            bench.send(A, m.RELEASE, object_id)


def test_a_rest_that_is_too_small_for_those_who_wait_is_no_room() -> None:
    bench = bench_of(320 * KIB - ALIGNMENT, spill_threshold=0.801, spill_spare_ms=1000)
    for number in range(9):
        put(bench, bytes([number]) * 16, 32 * KIB)
    assert written_ahead(bench) == 1  # the rest of the region counts: nobody wanted more

    bench = bench_of(320 * KIB - ALIGNMENT, spill_threshold=0.801, spill_spare_ms=1000)
    for number in range(12):
        put_waiting(bench, bytes([number]) * 16, 32 * KIB)
    written_ahead(bench)
    assert both(bench) == 3  # twice as much is wanted ahead, less what is free

    bench.now += 2.0  # nobody has wanted more for a while
    for number in range(9, 12):
        bench.send(A, m.RELEASE, bytes([number]) * 16)
    for number in range(12, 15):
        put(bench, bytes([number]) * 16, 32 * KIB)
    written_ahead(bench)
    assert both(bench) == 3


def test_what_comes_back_is_not_written_ahead_for() -> None:
    """A read takes the place of something on disk, and what it brings can be dropped as well: nothing is written for it."""
    bench = bench_of(128 * KIB, spill_threshold=0.7)
    for number in range(6):
        put_waiting(bench, bytes([number]) * 16, 32 * KIB)
    written(bench)
    later(bench, 1.0)
    assert writes(bench) == []
    for number in range(2):
        bench.pin(B, bytes([number]) * 16)
        effects = take(bench)
        assert [type(effect).__name__ for effect in effects] == ["Read"], number
        bench.core.spills.read_done(effects[0].transfer, 1.0)
        later(bench, 0.0)
        bench.send(B, m.UNPIN, bytes([number]) * 16)
        later(bench, 1.0)
        assert writes(bench) == []


@given(st.lists(st.integers(1, 200), min_size=1, max_size=12), st.data())
def test_would_fit_is_what_happens(sizes: list[int], data: st.DataObject) -> None:
    unit = 16 * KIB  # so that some are large, and lie on pages
    allocator = Allocator(200 * unit)
    live = {}
    for size in sizes:
        length = size * unit + ALIGNMENT * data.draw(st.integers(0, 3))
        offset = allocator.allocate(length)
        if offset is not None:
            live[offset] = length
    for offset in data.draw(st.lists(st.sampled_from(sorted(live)), unique=True)) if live else []:
        allocator.free(offset, live.pop(offset))
    if not live:
        return
    offset = data.draw(st.sampled_from(sorted(live)))
    wanted = data.draw(st.integers(1, 200)) * unit
    promised = allocator.would_fit(wanted, offset, live[offset])
    allocator.free(offset, live[offset])
    assert promised == any(
        start <= offset < start + size and _holds(start, size, wanted)
        for start, size in allocator.free_extents()
    )


def _holds(start: int, size: int, wanted: int) -> bool:
    begin = -(-start // PAGE) * PAGE if wanted >= LARGE_BYTES else start
    return begin + wanted <= start + size

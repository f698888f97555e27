"""Objects that were written to files without a checksum: when it is made, and what comes of it."""

from __future__ import annotations

import pytest

from shoal.wire import messages as m
from shoald.store.objects import LOST
from shoald.store.spilleffects import Effect, Lend, Read, Remove, Sum
from unit.store.reliefbench import KIB, bench_of, later, take
from unit.store.storebench import A, B, Bench, C, X, Y, Z

SIZE = 32 * KIB
PROOF = -5
AFTER_S = 2.0


@pytest.fixture
def bench() -> Bench:
    made = bench_of(64 * KIB, spill_sum_after_ms=AFTER_S * 1000)
    made.core.spills.locate = lambda directory, file: f"/{directory}/{file}"
    return made


def born(bench: Bench, object_id: bytes, proof: int = PROOF) -> Lend:
    """An object that A wrote to a file."""
    bench.send(A, m.ALLOC_FILE, 7, SIZE)
    (effect,) = take(bench)
    assert isinstance(effect, Lend), effect
    bench.core.spills.made(effect.file, effect.directory)
    later(bench, 0.0)
    place = [effect.file, proof, object_id, SIZE, b"", m.SEAL_PRIMARY, A, "here", b""]
    assert bench.send(A, m.SEAL_IN_FILE, *place) == []
    return effect


def after(bench: Bench, seconds: float) -> list[Effect]:
    later(bench, seconds)
    return take(bench)


def proof_of(bench: Bench, object_id: bytes) -> int:
    disk = bench.core._ledger.objects[object_id].disk
    assert disk is not None
    return disk.proof


def test_it_is_summed_when_it_has_been_there_for_a_while(bench: Bench) -> None:
    file = born(bench, X)
    assert after(bench, AFTER_S - 0.1) == []
    assert bench.core.next_deadline() == pytest.approx(bench.now + 0.1)
    assert after(bench, 0.2) == [Sum(file.file, file.directory, SIZE, PROOF)]
    assert proof_of(bench, X) == PROOF
    bench.core.spills.summed(file.file, 99)
    assert proof_of(bench, X) == 99
    assert after(bench, 10.0) == []
    bench.core.validate()


def test_what_has_a_checksum_is_not(bench: Bench) -> None:
    born(bench, X, proof=99)
    assert after(bench, 10.0) == []


def test_what_has_gone_is_not(bench: Bench) -> None:
    born(bench, X)
    bench.send(A, m.RELEASE, X)
    assert not [effect for effect in after(bench, 10.0) if isinstance(effect, Sum)]
    assert bench.core.stats()["disk_files"] == 0


def test_one_at_a_time_in_a_directory(bench: Bench) -> None:
    files = [born(bench, object_id) for object_id in (X, Y, Z)]
    assert sorted(file.directory for file in files) in ([0, 0, 1], [0, 1, 1])
    first = after(bench, 10.0)
    assert sorted(effect.directory for effect in first) == [0, 1]
    assert after(bench, 10.0) == []
    for effect in first:
        assert isinstance(effect, Sum)
        bench.core.spills.summed(effect.file, 99)
    (last,) = after(bench, 0.0)
    assert {effect.file for effect in [*first, last]} == {file.file for file in files}  # type: ignore[union-attr]


def test_a_file_that_is_summed_stays_until_that_has_ended(bench: Bench) -> None:
    born(bench, X)
    (effect,) = after(bench, 10.0)
    assert isinstance(effect, Sum)
    bench.send(A, m.RELEASE, X)
    bench.core.validate()
    assert after(bench, 0.0) == []
    bench.core.spills.summed(effect.file, 99)
    bench.core.validate()
    assert bench.core.stats()["disk_files"] == 0
    removed = after(bench, 0.0) + after(bench, 30.0)  # it was spare
    assert [each.file for each in removed if isinstance(each, Remove)] == [effect.file]


def test_a_file_that_somebody_has_changed_is_a_lost_copy(bench: Bench) -> None:
    born(bench, X)
    (effect,) = after(bench, 10.0)
    assert isinstance(effect, Sum)
    bench.core.spills.summed(effect.file, None)
    disk = bench.core._ledger.objects[X].disk
    assert disk is not None
    assert disk.state == LOST
    ((to, message),) = bench.pin(C, X)
    assert (to, message[0], message[3]) == (C, m.PIN_FAILED, "lost")
    assert "changed after it had been written" in message[4]
    bench.core.validate()


def test_what_cannot_be_read_now_is_tried_again(bench: Bench) -> None:
    file = born(bench, X)
    for _ in range(2):
        assert after(bench, AFTER_S) == [Sum(file.file, file.directory, SIZE, PROOF)]
        bench.core.spills.sum_failed(file.file, bench.now)
        bench.core.validate()
    assert after(bench, AFTER_S / 2) == []


def test_readers_are_told_what_counts(bench: Bench) -> None:
    for object_id in (Y, Z):
        bench.seal(B, object_id, size=SIZE)
        bench.pin(B, object_id)
    file = born(bench, X)
    for proof in (PROOF, 99):
        said = bench.pin(C, X) + later(bench, 1.0)
        (message,) = [message for _, message in said if message[0] == m.PINNED_IN_FILE]
        assert message[7:] == [proof, file.file]
        take(bench)
        later(bench, AFTER_S)
        if take(bench):
            bench.core.spills.summed(file.file, 99)


def test_what_goes_while_it_is_read_is_not_summed(bench: Bench) -> None:
    born(bench, X)
    bench.pin(C, X)
    (read,) = take(bench)
    assert isinstance(read, Read)
    bench.send(A, m.RELEASE, X)
    assert after(bench, 10.0) == []
    bench.core.spills.read_done(read.transfer, 1.0)
    bench.core.validate()
    assert bench.core.stats()["disk_files"] == 0

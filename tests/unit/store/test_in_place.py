"""Large objects that go to files from the start, and are read there: who gets one when, and who does not."""

from __future__ import annotations

from typing import Any

import pytest

from shoal.wire import messages as m
from shoald.store.spilleffects import Lend, Read, Remove, Write
from unit.store.reliefbench import KIB, bench_of, kinds, later, state, take, written
from unit.store.storebench import A, B, Bench, C, X, Y, Z

LARGE = 32 * KIB
OR_FILE = m.ALLOC_OR_FILE


@pytest.fixture
def bench() -> Bench:
    """A store that two large objects of A's fill, X and Y."""
    made = bench_of(64 * KIB, spill_in_place_bytes_min=LARGE)
    made.core.spills.locate = lambda directory, file: f"/{directory}/{file}"
    for object_id in (X, Y):
        made.now += 0.01
        made.seal(A, object_id, size=LARGE)
    return made


def lent(bench: Bench, proc: bytes, req: int, size: int = LARGE) -> Lend:
    """A process wants room and is lent a file."""
    assert bench.send(proc, m.ALLOC, req, size, size, OR_FILE) == []
    (effect,) = take(bench)
    assert isinstance(effect, Lend), effect
    bench.core.spills.made(effect.file, effect.directory)
    ((to, message),) = later(bench, 0.0)
    assert (to, message) == (proc, [m.FILE_LENT, req, effect.file, f"/{effect.directory}/{effect.file}"])
    return effect


def born(bench: Bench, proc: bytes, object_id: bytes) -> Lend:
    """An object that its creator wrote to a file."""
    effect = lent(bench, proc, 7)
    place = [effect.file, 99, object_id, LARGE, b"", m.SEAL_PRIMARY, proc, "here", b""]
    assert bench.send(proc, m.SEAL_IN_FILE, *place) == []
    return effect


def in_file(said: list[tuple[bytes, list[Any]]]) -> list[Any]:
    ((_, message),) = said
    assert message[0] == m.PINNED_IN_FILE, message
    return message


def test_who_would_have_others_written_writes_its_own_value(bench: Bench) -> None:
    born(bench, B, Z)
    assert (state(bench, X), state(bench, Y), state(bench, Z)) == ("sealed", "sealed", "spilled")
    assert not [effect for effect in take(bench) if isinstance(effect, Write)]
    assert bench.core.stats()["disk_live"] == LARGE
    assert (bench.core.stats()["written_in_files"], bench.core.stats()["spilled"]) == (1, 0)


def test_nor_is_anything_written_ahead_for_it() -> None:
    bench = bench_of(128 * KIB, spill_in_place_bytes_min=LARGE, spill_threshold=0.5)
    bench.core.spills.locate = lambda directory, file: f"/{directory}/{file}"
    for number in range(4):
        bench.now += 0.01
        bench.seal(A, bytes([number]) * 16, size=LARGE)
    for write in take(bench):  # the store was filled for the first time
        bench.core.spills.write_failed(write.file, False, "not now", bench.now)
    take(bench)
    bench.now += 20.0
    effect = lent(bench, B, 1)
    assert bench.send(B, m.FILE_RETURN, effect.file) == []
    assert [type(effect) for effect in take(bench)] == [Remove]
    later(bench, 3.0)
    assert take(bench) == []
    assert bench.send(B, m.ALLOC, 2, KIB, KIB) == []
    assert [type(effect) for effect in take(bench)] == [Write] * 2, "one for it, one ahead"


def test_what_only_has_to_be_dropped_is_dropped(bench: Bench) -> None:
    bench.send(A, m.ALLOC, 1, KIB, KIB)
    for effect in take(bench):
        assert isinstance(effect, Write)
        bench.core.spills.wrote(effect.file, [1] * len(effect.parts), 1.0, True)
    later(bench, 0.0)
    assert state(bench, X) == "spilled"
    bench.send(A, m.EXTENT_RETURN, 0, KIB)
    assert kinds(bench.send(B, m.ALLOC, 2, LARGE, LARGE, OR_FILE)) == [m.EXTENT]


@pytest.mark.parametrize(("size", "ways"), [(LARGE - 64, OR_FILE), (LARGE, 0), (LARGE, m.ALLOC_KEEPS)])
def test_small_ones_and_who_wants_none_get_no_file(bench: Bench, size: int, ways: int) -> None:
    assert bench.send(B, m.ALLOC, 1, size, size, ways) == []
    assert kinds(written(bench)) == [m.EXTENT]


def test_nor_does_another_node(bench: Bench) -> None:
    node = b"internal"
    bench.core.register(node, {"pid": None, "kind": "node", "job_id": ""})
    assert bench.send(node, m.ALLOC, 1, LARGE, LARGE, OR_FILE) == []
    assert kinds(written(bench)) == [m.EXTENT]


def test_nor_anybody_where_files_cannot_be_mapped(bench: Bench) -> None:
    bench.core.spills.locate = lambda _directory, _file: ""
    assert bench.send(B, m.ALLOC, 1, LARGE, LARGE, OR_FILE) == []
    assert kinds(written(bench)) == [m.EXTENT]


def test_pins_that_may_come_back_are_waited_for(bench: Bench) -> None:
    bench.drop(A)
    for object_id in (X, Y):
        bench.seal(B, object_id, size=LARGE, flags=m.SEAL_PINNED)
    assert kinds(bench.send(C, m.ALLOC, 1, LARGE, LARGE, OR_FILE)) == [m.UNPIN_RECALL]
    assert not take(bench)
    assert kinds(bench.send(B, m.UNPIN, X)) == [m.EXTENT]


def test_a_file_that_cannot_be_made_is_asked_for_once_more_and_then_room(bench: Bench) -> None:
    assert bench.send(B, m.ALLOC, 1, LARGE, LARGE, OR_FILE) == []
    (effect,) = take(bench)
    bench.core.spills.write_failed(effect.file, True, "/0: no space left on device", bench.now)
    ((to, message),) = later(bench, 0.0)
    assert (to, message[:3]) == (B, [m.ALLOC_FAILED, 1, "file"]), "it knows what to do then"


def test_its_file_is_written_over_by_a_later_creator(bench: Bench) -> None:
    first = born(bench, B, Z)
    bench.send(B, m.RELEASE, Z)
    assert not take(bench)
    others = [lent(bench, C, req, LARGE + KIB) for req in (1, 2)]
    assert [other.over for other in others if other.directory == first.directory] == [first.file]
    bench.drop(C)
    assert {effect.file for effect in take(bench)} == {first.file, *(other.file for other in others)}


def lent_again(bench: Bench) -> tuple[Lend, list[Any]]:
    """A file of a dead object of B's, and what C is told when its turn comes to be lent for one as long."""
    first = born(bench, B, Z)
    bench.send(B, m.RELEASE, Z)
    lent(bench, C, 1)  # in the other directory
    ((to, message),) = bench.send(C, m.ALLOC, 2, LARGE, LARGE, OR_FILE)
    assert to == C
    assert not take(bench), "the disk is asked for nothing"
    return first, message


def test_one_that_is_as_long_is_lent_as_it_is(bench: Bench) -> None:
    first, message = lent_again(bench)
    path = f"/{first.directory}/{first.file}"
    assert message == [m.FILE_LENT, 2, first.file, path]
    bench.core.validate()
    place = [first.file, 77, Z, LARGE, b"", m.SEAL_PRIMARY, C, "here", b""]
    assert bench.send(C, m.SEAL_IN_FILE, *place) == []
    assert in_file(bench.pin(B, Z))[3:] == [path, 0, LARGE, m.SEAL_PRIMARY, 77, first.file]
    bench.core.validate()
    bench.send(C, m.RELEASE, Z)
    bench.send(B, m.UNPIN, Z)
    assert bench.core.stats()["disk_spare"] == LARGE, "and it is spare once more"


@pytest.mark.parametrize("gone", [False, True])
def test_and_goes_if_nobody_writes_it_after_all(bench: Bench, gone: bool) -> None:
    first, _ = lent_again(bench)
    assert not (bench.drop(C) if gone else bench.send(C, m.FILE_RETURN, first.file))
    assert Remove(first.file, first.directory) in take(bench), "whoever has it may still write there"
    assert bench.core.stats()["disk_spare"] == 0


def test_nobody_is_lent_one_so_who_asks_after_a_refusal(bench: Bench) -> None:
    """It may be gone: then it was refused by the disk."""
    first = born(bench, B, Z)
    bench.send(B, m.RELEASE, Z)
    for req in (1, 2):
        assert bench.send(C, m.ALLOC_FILE, req, LARGE) == []
    assert [effect.over for effect in take(bench) if effect.directory == first.directory] == [first.file]


def test_it_is_read_there_once_and_comes_into_the_store_when_it_is_wanted_again(bench: Bench) -> None:
    effect = born(bench, B, Z)
    message = in_file(bench.pin(C, Z))
    assert message[3:] == [f"/{effect.directory}/{effect.file}", 0, LARGE, m.SEAL_PRIMARY, 99, effect.file]
    assert not take(bench)
    assert bench.pin(B, Z) == []
    (write,) = take(bench)
    assert isinstance(write, Write)
    bench.core.spills.wrote(write.file, [1], 1.0, True)
    later(bench, 0.0)
    (read,) = take(bench)
    assert isinstance(read, Read)
    bench.core.spills.read_done(read.transfer, 1.0)
    assert kinds(later(bench, 0.0)) == [m.PINNED]


def test_what_there_is_room_for_is_read_into_the_store_at_once(bench: Bench) -> None:
    born(bench, B, Z)
    bench.send(A, m.RELEASE, X)
    assert bench.pin(C, Z) == []
    assert [type(effect) for effect in take(bench)] == [Read]


def test_so_is_what_another_node_wants(bench: Bench) -> None:
    born(bench, B, Z)
    node = b"internal"
    bench.core.register(node, {"pid": None, "kind": "node", "job_id": ""})
    assert bench.pin(node, Z) == []
    assert [type(effect) for effect in take(bench)] == [Write], "room is made for it"


def test_a_group_reads_some_in_files_and_the_rest_in_the_store(bench: Bench) -> None:
    born(bench, B, Z)
    wanted = [X, bytes(8), 0, Z, bytes(8), 0]
    said = bench.send(C, m.PIN_TOGETHER, wanted, m.PRIORITY_ARGUMENT)
    assert [(message[0], message[2]) for _, message in said] == [(m.PINNED, X), (m.PINNED_IN_FILE, Z)]


def test_what_is_gone_meanwhile_keeps_no_group_from_reading_the_rest(bench: Bench) -> None:
    """Nor those behind it, which were refused with it as if there were no files."""
    gone = bytes(15) + b"g"
    for object_id in (Z, gone):
        born(bench, A, object_id)
        number = in_file(bench.pin(C, object_id))[-1]
        bench.send(C, m.FILE_RETURN, number, 1)  # wanted again, it is worth room
    for object_id in (X, Y):
        bench.pin(B, object_id)  # and there is none
    wanted = [Z, bytes(8), 0, gone, bytes(8), 0]
    said = bench.send(C, m.PIN_TOGETHER, wanted, m.PRIORITY_ARGUMENT)
    assert not [message for to, message in said if to == C]
    bench.send(A, m.RELEASE, gone)
    said = later(bench, 0.0) + later(bench, 0.5)
    told = [(message[0], message[2]) for to, message in said if to == C]
    assert told == [(m.PIN_FAILED, gone), (m.PINNED_IN_FILE, Z)]

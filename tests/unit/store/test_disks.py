"""Which directory takes the next file, which hang, and what becomes of files that are of no use."""

from __future__ import annotations

from typing import Any

import pytest

from shoal.config import Config
from shoal.wire import messages as m
from shoald.store.core import StoreCore
from shoald.store.disks import Disks
from shoald.store.errors import ProtocolError
from shoald.store.spilleffects import Lend, Read, Remove, Write
from unit.store.storebench import A, B, Bench, C, X, Y

KIB = 1024
NODE = "c0ffee" + "00" * 13
FAR = b"F" * 8  # what reads for it
SETTINGS = {
    "spill_batch_bytes_min": 1,
    "spill_threshold": 1.0,
    "store_full_wait_ms": 60_000,
    "spill_lend_ms_max": 500,
    "spill_stall_ms": 1000,
    "spill_read_ms_max": 5000,
    "spill_bytes_per_s_min": 64 * KIB,
    "spill_spare_ms": 2000,
    "spill_spare_bytes_max": 128 * KIB,
}


def bench_of(capacity: int = 64 * KIB, directories: int = 2) -> Bench:
    bench = Bench(capacity, **SETTINGS)
    bench.core = StoreCore(capacity, Config(**SETTINGS), directories=directories)
    bench.core.spills.locate = lambda directory, file: f"/{directory}/{file}"
    bench.core.spills.disks.names = [f"/{number}" for number in range(directories)]
    for number, proc in enumerate((A, B, C)):
        bench.core.register(proc, {"pid": 100 + number, "kind": "worker", "job_id": "j1"})
    return bench


def effects(bench: Bench) -> list[Any]:
    found = list(bench.core.spills.outbox)
    bench.core.spills.outbox.clear()
    return found


def later(bench: Bench, seconds: float) -> list[tuple[bytes, list[Any]]]:
    bench.now += seconds
    bench.core.relieve(bench.now)
    return bench.take()


def spilled(bench: Bench, object_id: bytes, cached: bool = True, contained: bytes = b"") -> Write:
    """Seal an object that fills the store, and have it written and dropped."""
    bench.now += 0.01  # victims are listed anew not more often than that
    bench.seal(A, object_id, size=64 * KIB, contained=contained)
    assert bench.send(B, m.ALLOC, 1, 64 * KIB, 0) == []
    (effect,) = [each for each in effects(bench) if isinstance(each, Write)]
    bench.core.spills.wrote(effect.file, [1], 1.0, cached)
    assert later(bench, 0.0) == [(B, [m.EXTENT, 1, 0, 64 * KIB])]
    bench.send(B, m.EXTENT_RETURN, 0, 64 * KIB)
    assert isinstance(effect, Write)
    return effect


def test_directories_take_turns_and_one_that_is_busy_waits_for_the_others() -> None:
    disks = Disks(3, Config(spill_retry_ms=500))
    assert [disks.next(0.0) for _ in range(4)] == [0, 1, 2, 0]
    disks.begin(1, 1, 0.0, 1000)
    assert [disks.next(0.0) for _ in range(4)] == [2, 0, 2, 0]
    disks.failed(0, 0.0)
    assert [disks.next(0.4), disks.next(0.4), disks.next(0.5)] == [2, 2, 0]
    disks.begin(2, 2, 0.6, 1000)
    disks.begin(3, 0, 0.6, 1000)
    assert [disks.next(0.6) for _ in range(3)] == [1, 2, 0]
    disks.end(1)
    assert [disks.next(0.6) for _ in range(2)] == [1, 1]


def test_a_directory_that_hangs_gets_nothing_more_until_it_answers() -> None:
    disks = Disks(2, Config())
    disks.names = ["/a", "/b"]
    disks.begin(7, 0, 1.0, 500)
    assert disks.next_deadline() == 1.5
    assert disks.late(1.4) == []
    assert disks.late(1.5) == [7]
    assert disks.late(1.6) == []
    assert disks.next_deadline() is None
    assert [disks.next(2.0), disks.next(2.0)] == [1, 1]
    assert disks.complaints(4.0) == ["/a has not answered for 3 s (does its file system hang?)"]
    disks.begin(8, 1, 2.0, 500)
    disks.late(3.0)
    assert not disks.usable(3.0)
    disks.end(7)
    assert disks.usable(3.0)
    assert disks.complaints(3.0) == ["/b has not answered for 1 s (does its file system hang?)"]


def test_a_directory_is_slow_before_it_hangs() -> None:
    disks = Disks(2, Config())
    disks.names = ["/a", "s3://b"]
    disks.begin(7, 1, 1.0, 10_000)
    disks.begin(8, 1, 2.0, 10_000)
    disks.begin(9, 0, 3.5, 10_000)
    assert disks.slow(1.9) == []
    assert disks.slow(4.0) == ["s3://b has not done for 3 s what it was given then"]
    assert disks.complaints(4.0) == []
    disks.end(7)
    disks.end(8)
    assert disks.slow(4.0) == []


def test_what_hangs_on_its_way_to_a_directory_is_written_to_another_one() -> None:
    """Also if that is all there is in the store: nothing else could make room."""
    bench = bench_of()
    bench.seal(A, X, size=64 * KIB)
    assert bench.send(B, m.ALLOC, 1, 32 * KIB, 0) == []
    (first,) = effects(bench)
    assert later(bench, 0.9) == []
    assert effects(bench) == []
    assert later(bench, 0.1) == []
    (second,) = effects(bench)
    assert isinstance(second, Write)
    assert second.directory != first.directory
    assert second.parts == first.parts
    bench.core.validate()
    bench.core.spills.wrote(second.file, [1], 1.0)
    assert later(bench, 0.0) == [(B, [m.EXTENT, 1, 0, 32 * KIB])]
    # The first comes after all: nobody needs it any more.
    bench.core.spills.wrote(first.file, [7], 1.0)
    later(bench, 2.0)
    assert effects(bench) == [Remove(first.file, first.directory, True)]
    stats = bench.core.stats()
    assert (stats["spilled_objects"], stats["disk_files"]) == (1, 1)
    bench.core.validate()


def test_where_all_directories_are_slow_what_is_written_is_not_moved_on_and_on() -> None:
    bench = bench_of()
    bench.seal(A, X, size=64 * KIB)
    assert bench.send(B, m.ALLOC, 1, 32 * KIB, 0) == []
    (first,) = effects(bench)
    assert later(bench, 1.0) == []
    (second,) = effects(bench)
    bench.core.spills.wrote(first.file, [1], 1.0)
    assert later(bench, 1.0) == []
    assert effects(bench) == [Remove(first.file, first.directory, True)], (
        "the first could take it again by now"
    )
    bench.core.spills.wrote(second.file, [1], 1.0)
    assert later(bench, 0.0) == [(B, [m.EXTENT, 1, 0, 32 * KIB])]
    bench.core.validate()


def test_a_file_that_is_not_made_in_time_is_made_in_another_directory() -> None:
    bench = bench_of()
    assert bench.send(A, m.ALLOC_FILE, 5, KIB) == []
    (first,) = effects(bench)
    assert isinstance(first, Lend)
    assert bench.core.next_deadline() == 0.5
    assert later(bench, 0.5) == []
    (second,) = effects(bench)
    assert isinstance(second, Lend)
    assert second.directory != first.directory
    bench.core.spills.made(second.file, second.directory)
    assert later(bench, 0.0) == [(A, [m.FILE_LENT, 5, second.file, f"/{second.directory}/{second.file}"])]
    # The first answers late: nobody wants its file any more.
    bench.core.spills.made(first.file, first.directory)
    assert effects(bench) == [Remove(first.file, first.directory)]
    assert bench.send(A, m.FILE_RETURN, second.file) == []
    assert bench.core.stats()["disk_files"] == 0


def test_a_creator_is_told_of_the_directory_that_hangs() -> None:
    bench = bench_of(directories=1)
    bench.send(A, m.ALLOC_FILE, 5, KIB)
    (effect,) = effects(bench)
    ((to, message),) = later(bench, 0.5)
    assert (to, message[:3]) == (A, [m.ALLOC_FAILED, 5, "disk"])
    assert message[3] == "/0 has not answered for 0 s (does its file system hang?)"
    ((_, message),) = bench.send(B, m.ALLOC_FILE, 6, KIB)
    assert message[2] == "disk"
    assert effects(bench) == []
    bench.core.spills.write_failed(effect.file, False, "/0: stale handle", bench.now)
    assert effects(bench) == []
    assert bench.send(B, m.ALLOC_FILE, 7, KIB) == []
    assert isinstance(effects(bench)[0], Lend)


def test_a_file_without_live_objects_is_written_over() -> None:
    bench = bench_of(directories=1)
    first = spilled(bench, X)
    bench.send(A, m.RELEASE, X)
    assert effects(bench) == []
    assert (bench.core.stats()["disk"], bench.core.stats()["disk_spare"]) == (0, 64 * KIB)
    second = spilled(bench, Y)
    assert (first.over, second.over) == (0, first.file)
    assert (bench.core.stats()["disk"], bench.core.stats()["disk_spare"]) == (64 * KIB, 0)
    bench.send(A, m.RELEASE, Y)
    assert later(bench, 1.9) == []
    assert effects(bench) == []
    later(bench, 0.1)
    assert effects(bench) == [Remove(second.file, 0, True)]
    assert bench.core.stats()["disk_spare"] == 0
    assert bench.core.next_deadline() is None


def test_what_is_not_in_the_page_cache_is_no_spare() -> None:
    bench = bench_of(directories=1)
    effect = spilled(bench, X, cached=False)
    bench.send(A, m.RELEASE, X)
    assert effects(bench) == [Remove(effect.file, 0, True)]


def test_what_somebody_looks_at_is_not_written_over_until_that_ends() -> None:
    bench = bench_of(directories=1)
    path = in_a_file(bench)
    (number,) = bench.core.spills.files
    bench.send(A, m.RELEASE, X)
    bench.send(B, m.EXTENT_RETURN, 0, 64 * KIB)
    assert effects(bench) == [], f"{path} may be written over one day"
    assert bench.core.stats()["disk_spare"] == 64 * KIB
    second = spilled(bench, Y)
    assert second.over == 0
    assert bench.send(C, m.FILE_RETURN, number, 1) == []
    assert spilled(bench, bytes(15) + b"z").over == number


def test_a_reader_that_has_gone_and_its_forked_child_look_at_nothing() -> None:
    bench = bench_of(directories=1)
    in_a_file(bench)
    (number,) = bench.core.spills.files
    bench.core.forked(C, "child")
    bench.send(A, m.RELEASE, X)
    bench.send(B, m.EXTENT_RETURN, 0, 64 * KIB)
    bench.drop(C)
    assert number in bench.core.spills.readers
    bench.core.fork_ended("child")
    assert number not in bench.core.spills.readers
    assert spilled(bench, Y).over == number
    bench.core.validate()


def test_what_is_looked_at_is_removed_without_taking_its_bytes() -> None:
    bench = bench_of(directories=1)
    in_a_file(bench)
    (number,) = bench.core.spills.files
    bench.send(A, m.RELEASE, X)
    later(bench, 0.0)
    later(bench, 2.0)
    assert effects(bench) == [Remove(number, 0, False)]
    stats = bench.core.stats()
    assert (stats["disk"], stats["disk_spare"], stats["disk_removed"]) == (0, 0, 64 * KIB)
    assert list(stats["disk_removed_by"].values()) == [64 * KIB]
    assert bench.send(C, m.FILE_RETURN, number, 1) == []
    stats = bench.core.stats()
    assert (stats["disk_removed"], stats["disk_removed_by"]) == (0, {})


def test_nobody_returns_what_was_not_told() -> None:
    bench = bench_of(directories=1)
    in_a_file(bench)
    (number,) = bench.core.spills.files
    for proc, name, times in ((A, number, 1), (C, number, 2), (C, number, 0), (C, number + 1, 1)):
        with pytest.raises(ProtocolError, match="was not told"):
            bench.core.handle(proc, [m.FILE_RETURN, name, times], bench.now)


def test_spares_are_bounded_and_go_when_the_disk_is_full() -> None:
    bench = bench_of(directories=1)
    numbers = [bytes([number]) * 16 for number in range(3)]
    writes = [spilled(bench, object_id) for object_id in numbers]
    for object_id in numbers:
        bench.send(A, m.RELEASE, object_id)
    assert effects(bench) == [Remove(writes[2].file, 0, True)]
    bench.now += 0.01
    bench.seal(A, X, size=64 * KIB)
    bench.send(B, m.ALLOC, 1, 64 * KIB, 0)
    (write,) = effects(bench)
    assert write.over == writes[1].file or write.over == writes[0].file
    left = ({each.file for each in writes[:2]} - {write.over}).pop()
    bench.core.spills.write_failed(write.file, True, "/0: no space left on device", bench.now)
    gone = {effect.file for effect in effects(bench) if isinstance(effect, Remove)}
    assert gone == {write.file, write.over, left}
    later(bench, 0.0)
    later(bench, 0.1)  # and the disk is tried again soon
    (again,) = effects(bench)
    assert isinstance(again, Write)
    assert again.over == 0


def test_a_read_that_hangs_is_said() -> None:
    bench = bench_of(directories=2)
    write = spilled(bench, X)
    bench.pin(C, X)
    (effect,) = effects(bench)
    assert isinstance(effect, Read)
    later(bench, 3.0)
    assert bench.core.spills.disks.complaints(bench.now) == [
        f"/{write.directory} has not answered for 3 s (does its file system hang?)"
    ]
    bench.core.spills.read_done(effect.transfer, 3.0)
    assert bench.core.spills.disks.complaints(bench.now) == []


def in_a_file(bench):
    """X is spilled and told to C, who reads it in its file; (path, checksum)."""
    spilled(bench, X)
    bench.lease(B, 64 * KIB)
    bench.pin(C, X)
    ((_, message),) = later(bench, 0.2)
    assert message[0] == m.PINNED_IN_FILE
    return message[3]


def test_a_file_that_a_reader_finds_damaged_is_a_lost_copy() -> None:
    bench = bench_of(directories=1)
    path = in_a_file(bench)
    bench.send(C, m.FILE_DAMAGED, X, f"{path}0", "that is another file")
    bench.send(C, m.FILE_DAMAGED, Y, path, "that is no object")
    assert bench.core.stats()["lost"] == 0
    bench.send(C, m.FILE_DAMAGED, X, path, "its checksum is not what it was")
    assert bench.core.stats()["lost"] == 1
    bench.send(C, m.FILE_DAMAGED, X, path, "said by another one")
    assert bench.core.stats()["lost"] == 1
    ((_, message),) = bench.pin(C, X)
    assert (message[0], message[3]) == (m.PIN_FAILED, "lost")
    assert "its checksum is not what it was" in message[4]


def test_a_damaged_file_of_what_is_in_the_region_is_written_again() -> None:
    bench = bench_of(directories=1)
    path = in_a_file(bench)
    bench.drop(B)
    bench.pin(C, X)
    later(bench, 0.0)
    (read,) = [effect for effect in effects(bench) if isinstance(effect, Read)]
    bench.send(C, m.FILE_DAMAGED, X, path, "while it is read: that will show")
    bench.core.spills.read_done(read.transfer, 0.1)
    later(bench, 0.0)
    bench.send(C, m.FILE_DAMAGED, X, path, "its checksum is not what it was")
    assert bench.core.stats()["lost"] == bench.core.stats()["disk"] == 0
    assert bench.core.stats()["sealed"] == 64 * KIB


def hanging_read(bench: Bench) -> Read:
    """X is spilled; C and B ask for it, and nothing comes."""
    spilled(bench, X)
    bench.pin(C, X)
    bench.pin(B, X)
    (effect,) = effects(bench)
    assert isinstance(effect, Read)
    assert later(bench, 1.0) == [], "now it is late"
    return effect


def test_a_read_that_hangs_is_given_up_and_its_extent_stays_taken() -> None:
    bench = bench_of(directories=1)
    effect = hanging_read(bench)
    assert bench.core.next_deadline() == bench.now + 6.0, "5 s, and a second for its bytes"
    assert later(bench, 5.9) == []
    said = later(bench, 0.1)
    assert {proc for proc, _ in said} == {B, C}
    for _, message in said:
        assert message[3] == "lost"
        assert f"reading /0/{effect.file} was given up" in message[4]
        assert "/0 has not answered for 7 s" in message[4]
    assert bench.core.stats()["restoring"] == 64 * KIB
    bench.core.spills.read_failed(effect.transfer, "stale handle")
    assert bench.core.stats()["restoring"] == bench.core.stats()["used"] == 0
    assert bench.core.stats()["lost"] == 1
    assert bench.core.spills.files == {}
    assert bench.core.next_deadline() is not None, "the spare file goes"


def test_what_comes_after_it_was_given_up_is_back() -> None:
    bench = bench_of(directories=1)
    effect = hanging_read(bench)
    later(bench, 7.0)
    bench.core.spills.read_done(effect.transfer, 8.0)
    ((_, message),) = bench.pin(A, X)
    assert (message[0], message[2]) == (m.PINNED, X)
    assert bench.core.stats()["sealed"] == bench.core.stats()["used"] == 64 * KIB
    bench.core.validate()


def test_what_was_freed_or_made_again_meanwhile_stays_so() -> None:
    bench = bench_of(directories=1)
    effect = hanging_read(bench)
    later(bench, 7.0)
    bench.send(A, m.RELEASE, X)
    assert bench.ids == set()
    bench.core.spills.read_done(effect.transfer, 8.0)
    assert bench.core.stats()["used"] == 0
    bench.core.validate()


def shared_and_given_up(bench: Bench, contained: bytes = b"") -> Read:
    """X is known to another node, which reads it and asks for it again; its read back hangs, and was given up."""
    bench.core.sharing.joined(NODE)
    bench.core.register(FAR, {"kind": "node", "pid": None, "node_id": NODE})
    spilled(bench, X, contained=contained)
    bench.core.sharing.share(X)
    bench.pin(FAR, X)
    (effect,) = effects(bench)
    assert isinstance(effect, Read)
    later(bench, 1.0)
    ((_, answer),) = later(bench, 6.0)
    assert (answer[0], answer[3]) == (m.PIN_FAILED, "elsewhere"), "other copies first"
    assert X not in bench.ids
    assert ("freed", X, 0) in bench.core.sharing.take_changes()
    return effect


def test_what_other_nodes_know_is_back_for_them_too_when_its_directory_answers() -> None:
    bench = bench_of(directories=1)
    effect = shared_and_given_up(bench)
    assert bench.pin(C, X) == []
    assert [want[0] for want in bench.core.take_wants(9)] == [X], "is it anywhere else?"
    bench.core.spills.read_done(effect.transfer, 8.0)
    assert [message[0] for proc, message in bench.take() if proc == C] == [m.PINNED], (
        "and who still waits has it"
    )
    assert ("born", X, 64 * KIB) in bench.core.sharing.take_changes()
    ((_, message),) = bench.pin(FAR, X)
    assert (message[0], message[2]) == (m.PINNED, X)
    assert bench.core.stats()["used"] == bench.core.stats()["sealed"] == 64 * KIB
    bench.send(C, m.UNPIN, X)
    bench.send(FAR, m.UNPIN, X)
    bench.send(A, m.RELEASE, X)
    bench.core.sharing.free([X])
    bench.core.settle()
    bench.take()
    assert bench.core.stats()["used"] == 0


def test_what_only_other_nodes_hold_is_theirs_when_it_comes_back() -> None:
    bench = bench_of(directories=1)
    effect = shared_and_given_up(bench)
    bench.send(A, m.RELEASE, X)
    bench.core.sharing.take_changes()
    bench.core.spills.read_done(effect.transfer, 8.0)
    bench.take()
    assert bench.core.sharing.take_changes() == [("born", X, 64 * KIB)], (
        "the head knows who holds it, if anybody does"
    )
    bench.core.sharing.free([X])
    bench.take()
    assert bench.core.stats()["used"] == 0


def with_contents(bench: Bench) -> Read:
    """X, which was given up, contains Y, which nobody else holds."""
    effect = shared_and_given_up(bench, contained=Y)
    bench.seal(C, Y, 64)
    bench.send(C, m.RELEASE, Y)
    assert bench.ids == {Y}
    return effect


def test_what_an_object_contains_that_may_come_back_stays() -> None:
    bench = bench_of(64 * KIB + 64, directories=1)
    effect = with_contents(bench)
    bench.core.spills.read_done(effect.transfer, 8.0)
    bench.take()
    assert bench.ids == {X, Y}
    bench.send(A, m.RELEASE, X)
    bench.core.sharing.free([X])
    bench.core.sharing.free([Y])
    bench.take()
    assert bench.core.stats()["used"] == 0


def test_what_an_object_contained_that_never_came_back_goes() -> None:
    bench = bench_of(64 * KIB + 64, directories=1)
    effect = with_contents(bench)
    bench.core.spills.read_failed(effect.transfer, "stale handle")
    bench.take()
    bench.core.sharing.free([Y])
    bench.take()
    assert bench.core.stats()["used"] == 0


def test_what_is_about_to_be_made_again_is_not_what_comes_back() -> None:
    bench = bench_of(directories=1)
    effect = shared_and_given_up(bench)
    bench.send(A, m.EXPECT, X)
    bench.core.spills.read_done(effect.transfer, 8.0)
    assert bench.core.stats()["used"] == 0
    bench.seal(B, X, 64 * KIB, holder=A)
    assert bench.ids == {X}
    assert bench.core.stats()["sealed"] == 64 * KIB


def test_a_file_that_a_creator_cannot_write_to_is_one_in_another_directory() -> None:
    bench = bench_of(directories=2)
    bench.send(A, m.ALLOC_FILE, 5, KIB)
    (first,) = effects(bench)
    bench.core.spills.made(first.file, first.directory)
    bench.take()
    bench.now += 3.0
    assert bench.send(A, m.FILE_STALLED, first.file, 3000) == []
    bench.send(A, m.ALLOC_FILE, 6, KIB)
    (second,) = effects(bench)
    assert second.directory != first.directory
    bench.core.spills.made(second.file, second.directory)
    ((_, lent),) = bench.take()
    assert lent[:3] == [m.FILE_LENT, 6, second.file]
    bench.send(A, m.FILE_STALLED, second.file, 3000)
    ((_, refused),) = bench.send(A, m.ALLOC_FILE, 7, KIB)
    assert refused[2] == "disk"
    assert f"/{first.directory} has not answered for 3 s" in refused[3]
    assert later(bench, 60.0) == []
    # Its write has ended after all: the file goes, and the directory takes others again.
    bench.send(A, m.FILE_RETURN, first.file)
    assert effects(bench) == [Remove(first.file, first.directory)]
    bench.send(A, m.ALLOC_FILE, 8, KIB)
    (third,) = effects(bench)
    assert third.directory == first.directory
    # And with the client its files go.
    bench.drop(A)
    assert bench.core.spills.files == {}
    assert bench.core.spills.disks.complaints(bench.now) == []

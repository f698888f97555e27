"""In which order room is made, what is written together, who waits for what, and when they are refused."""

from __future__ import annotations

import random
from typing import Any

from shoal.config import Config
from shoal.wire import messages as m
from shoald.objects.cluster_refs import ClusterRefs
from shoald.store.core import StoreCore
from shoald.store.spilleffects import Lend, Read, Remove, Write
from unit.store.fakedisk import FakeDisk, FakeRegion
from unit.store.reliefbench import KIB, MIB, bench_of, kinds, later, put_waiting, state, take, writes, written
from unit.store.storebench import A, B, Bench, C, X, Y, Z


def test_a_secondary_copy_goes_before_anything_is_written() -> None:
    bench = bench_of()
    bench.seal(A, X, size=32 * KIB)
    bench.now = 1.0
    bench.seal(A, Y, size=32 * KIB, flags=0)
    assert bench.send(B, m.ALLOC, 1, 32 * KIB, 0) == [(B, [m.EXTENT, 1, 32 * KIB, 32 * KIB])]
    assert not writes(bench)
    assert bench.ids == {X}


def test_a_secondary_copy_that_holds_others_is_kept() -> None:
    bench = bench_of()
    bench.seal(A, X, size=1)
    bench.seal(A, Y, size=63 * KIB, flags=0, contained=X)
    bench.send(A, m.RELEASE, X)
    assert bench.send(B, m.ALLOC, 1, 32 * KIB, 0) == []
    assert written(bench) == [(B, [m.EXTENT, 1, 64, 32 * KIB])]
    assert state(bench, Y) == "spilled"


def test_the_least_recently_used_is_written_and_then_dropped() -> None:
    bench = bench_of()
    for number, object_id in enumerate((X, Y)):
        bench.now = float(number)
        bench.seal(A, object_id, size=32 * KIB)
    bench.now = 5.0
    bench.pin(B, X)
    bench.send(B, m.UNPIN, X)
    assert bench.send(C, m.ALLOC, 1, 16 * KIB, 0) == []
    assert state(bench, Y) == "sealed"
    assert written(bench) == [(C, [m.EXTENT, 1, 32 * KIB, 16 * KIB])]
    assert (state(bench, X), state(bench, Y)) == ("sealed", "spilled")


def test_cached_pins_are_asked_for_and_views_are_not_waited_for() -> None:
    bench = bench_of()
    bench.seal(A, X, size=32 * KIB, flags=m.SEAL_PINNED | m.SEAL_PRIMARY)
    bench.now = 1.0
    bench.seal(A, Y, size=32 * KIB, flags=m.SEAL_PINNED | m.SEAL_PRIMARY)
    assert bench.send(B, m.ALLOC, 1, 16 * KIB, 0) == [(A, [m.UNPIN_RECALL, X])]
    # X has a view: nothing comes back, and after a moment the next one is asked for.
    assert later(bench, 0.019) == []
    assert later(bench, 0.002) == [(A, [m.UNPIN_RECALL, Y])]
    bench.send(A, m.UNPIN, Y)
    assert written(bench) == [(B, [m.EXTENT, 1, 32 * KIB, 16 * KIB])]


def test_what_was_written_once_is_never_written_again() -> None:
    bench = bench_of()
    bench.seal(A, X, size=64 * KIB)
    bench.send(B, m.ALLOC, 1, KIB, 0)
    written(bench)
    assert state(bench, X) == "spilled"
    bench.send(B, m.EXTENT_RETURN, 0, KIB)
    bench.pin(B, X)
    (effect,) = take(bench)
    assert isinstance(effect, Read)
    bench.core.spills.read_done(effect.transfer, 1.0)
    assert m.PINNED in kinds(later(bench, 0.0))
    bench.send(B, m.UNPIN, X)
    bench.now += 0.01  # victims are listed anew not more often than that
    assert bench.send(C, m.ALLOC, 2, KIB, 0) == [(C, [m.EXTENT, 2, 0, KIB])]
    assert not writes(bench)


def test_what_was_read_back_goes_first_and_what_was_never_read_stays() -> None:
    """Objects are read one after the other, as they were made: the last ones are still there when their turn comes."""
    bench = bench_of(96 * KIB)
    ids = [bytes([number]) * 16 for number in range(9)]
    for object_id in ids:
        put_waiting(bench, object_id, 32 * KIB)
    cached: list[bytes] = []
    for object_id in ids:
        bench.now += 0.01
        said = bench.pin(B, object_id)
        for _ in range(5):
            recalled = [message[1] for _, message in said if message[0] == m.UNPIN_RECALL]
            for each in [each for each in cached if each in recalled]:
                cached.remove(each)
                bench.send(B, m.UNPIN, each)
            for effect in take(bench):
                if isinstance(effect, Write):
                    bench.core.spills.wrote(effect.file, [1] * len(effect.parts), 1.0)
                elif isinstance(effect, Read):
                    bench.core.spills.read_done(effect.transfer, 1.0)
            said += later(bench, 0.001)
            if m.PINNED in kinds(said):
                break
        assert m.PINNED in kinds(said)
        cached.append(object_id)
    # All but the newest three had to be written; the first that is read back takes the place of one more.
    stats = bench.core.stats()
    assert (stats["spilled_objects"], stats["restored_objects"]) == (7, 7)


def test_what_comes_back_again_is_one_like_the_others() -> None:
    bench = bench_of(64 * KIB)
    bench.seal(A, X, size=32 * KIB)
    bench.now = 0.1
    bench.seal(A, Y, size=32 * KIB)
    bench.send(C, m.ALLOC, 1, 32 * KIB, 0)
    written(bench)
    bench.send(C, m.EXTENT_RETURN, 0, 32 * KIB)
    dropped = []
    for _ in range(3):
        bench.now += 0.1
        away = X if state(bench, X) == "spilled" else Y
        bench.pin(B, away)
        for effect in take(bench):
            assert isinstance(effect, Read)
            bench.core.spills.read_done(effect.transfer, 1.0)
        later(bench, 0.0)
        bench.send(B, m.UNPIN, away)
        bench.now += 0.1
        bench.send(C, m.ALLOC, 2, 32 * KIB, 0)
        said = written(bench)
        dropped.append(X if state(bench, X) == "spilled" else Y)
        (offset,) = [offset for offset, _ in bench.core._ledger.clients[C].leased.ranges()]
        bench.send(C, m.EXTENT_RETURN, offset, 32 * KIB)
        del said
    # X came back and went first; when it came back again, Y was the least recently used.
    assert dropped[:2] == [X, Y]


def test_a_spilled_object_is_read_once_for_all_its_readers() -> None:
    bench = bench_of()
    bench.seal(A, X, size=32 * KIB)
    bench.now = 1.0
    bench.seal(A, Y, size=32 * KIB)
    bench.send(C, m.ALLOC, 1, 8 * KIB, 0)
    written(bench)
    bench.send(C, m.EXTENT_RETURN, 0, 8 * KIB)
    for proc in (A, B, B):
        assert m.PINNED not in kinds(bench.pin(proc, X))
    (effect,) = take(bench)
    bench.core.spills.read_done(effect.transfer, 1.0)
    assert [(proc, message[0]) for proc, message in later(bench, 0.0)] == [
        (A, m.PINNED),
        (B, m.PINNED),
        (B, m.PINNED),
    ]
    assert bench.core.stats()["restored_objects"] == 1


def test_groups_gather_one_after_the_other() -> None:
    """Each needs two of three places; pinned one by one, they would block each other for ever."""
    bench = bench_of(96 * KIB)
    ids = [bytes([number]) * 16 for number in range(4)]
    for number, object_id in enumerate(ids):
        bench.now = number / 10
        if number < 3:
            bench.seal(A, object_id, size=32 * KIB)
            continue
        bench.send(A, m.ALLOC, 77, 32 * KIB, 0)
        written(bench)
        bench.send(A, m.SEAL, object_id, 0, 32 * KIB, b"", m.SEAL_PRIMARY, A, "", b"")
    bench.send(C, m.ALLOC, 78, 32 * KIB, 0)
    written(bench)
    away = [object_id for object_id in ids if state(bench, object_id) == "spilled"]
    assert len(away) == 2
    here = [object_id for object_id in ids if object_id not in away]

    def ask(proc: bytes, group: list[bytes]) -> list[tuple[bytes, list[Any]]]:
        wanted: list[Any] = []
        for object_id in group:
            wanted += [object_id, bytes(8), 0]
        return bench.send(proc, m.PIN_TOGETHER, wanted, m.PRIORITY_ARGUMENT)

    assert m.PINNED not in kinds(ask(A, [here[0], away[0]]))
    assert m.PINNED not in kinds(ask(B, [here[1], away[1]]))
    answered = []
    disk = take(bench)
    for _ in range(20):
        for effect in disk:
            if isinstance(effect, Write):
                bench.core.spills.wrote(effect.file, [1] * len(effect.parts), 1.0)
            elif isinstance(effect, Read):
                bench.core.spills.read_done(effect.transfer, 1.0)
        for proc, message in later(bench, 0.05):
            if message[0] == m.PINNED:
                answered.append((proc, message[2]))
        for proc, object_id in answered:
            bench.send(proc, m.UNPIN, object_id)
        disk = take(bench)
    assert {proc for proc, _ in answered} == {A, B}
    assert len(answered) == 4


def test_a_read_that_completes_a_group_asks_back_what_nobody_holds_any_more() -> None:
    bench = bench_of(64 * KIB)
    bench.seal(A, X, size=32 * KIB)
    bench.now = 1.0
    bench.seal(A, Y, size=32 * KIB)
    bench.send(B, m.ALLOC, 1, 32 * KIB, 0)
    written(bench)
    assert (state(bench, X), state(bench, Y)) == ("spilled", "sealed")
    bench.send(B, m.EXTENT_RETURN, 0, 32 * KIB)
    assert bench.send(C, m.PIN_TOGETHER, [X, bytes(8), 0, Y, bytes(8), 0], m.PRIORITY_ARGUMENT) == []
    (effect,) = take(bench)
    assert isinstance(effect, Read)
    bench.send(A, m.RELEASE, Y)
    bench.core.spills.read_done(effect.transfer, 1.0)
    said = later(bench, 0.0)
    assert sorted(message[2] for _, message in said if message[0] == m.PINNED) == [X, Y]
    assert (C, [m.UNPIN_RECALL, Y]) in said


def test_progress_extends_the_wait_up_to_a_bound() -> None:
    bench = bench_of(64 * KIB, store_relief_wait_ms=2500)
    bench.seal(A, X, size=32 * KIB)
    bench.seal(A, Y, size=32 * KIB)
    bench.pin(B, Y)
    bench.send(C, m.ALLOC, 1, 64 * KIB, 0)
    assert later(bench, 0.9) == []
    assert [message[0] for _, message in written(bench)] in ([], [m.UNPIN_RECALL])
    assert all(message[0] != m.ALLOC_FAILED for _, message in later(bench, 0.9))
    failed = [message for _, message in later(bench, 0.2) if message[0] == m.ALLOC_FAILED]
    assert failed[0][:3] == [m.ALLOC_FAILED, 1, "full"]


def test_a_full_disk_is_what_a_creator_hears_of() -> None:
    bench = bench_of(spill_full_retry_ms=5000)
    bench.seal(A, X, size=64 * KIB)
    bench.send(B, m.ALLOC, 1, KIB, 0)
    for _ in range(2):  # the other directory is tried before anybody gives up
        (effect,) = writes(bench)
        bench.core.spills.write_failed(effect.file, True, "/disk: no space left on device", bench.now)
        later(bench, 0.01)
    assert not writes(bench)
    (message,) = [message for _, message in later(bench, 1.0) if message[0] == m.ALLOC_FAILED]
    assert message[2] == "disk"
    assert "/disk: no space left" in message[3]
    assert state(bench, X) == "sealed"
    # After a while the disk is given another chance.
    bench.send(B, m.ALLOC, 2, KIB, 0)
    later(bench, 0.5)
    assert not writes(bench)
    bench.now += 10.0
    bench.send(B, m.ALLOC, 3, KIB, 0)
    assert len(writes(bench)) == 1


def full_disk(bench: Bench) -> None:
    """X is on disk, Y in memory, and both directories are full."""
    bench.seal(A, X, size=48 * KIB)
    bench.send(B, m.ALLOC, 1, 48 * KIB, 0)
    written(bench)
    bench.send(B, m.EXTENT_RETURN, 0, 48 * KIB)
    bench.seal(A, Y, size=48 * KIB)
    bench.send(B, m.ALLOC, 2, 48 * KIB, 0)
    later(bench, 0.01)
    for _ in range(2):
        (effect,) = writes(bench)
        bench.core.spills.write_failed(effect.file, True, "/disk: no space left on device", bench.now)
        later(bench, 0.01)
    assert not writes(bench)


def test_who_waits_for_a_full_disk_goes_on_when_something_of_it_was_freed() -> None:
    bench = bench_of()
    full_disk(bench)
    bench.send(A, m.RELEASE, X)
    later(bench, 0.0)
    kept = [effect for effect in take(bench) if not isinstance(effect, Remove)]
    assert kept == [], "nothing of it is kept to be written over"
    assert bench.core.next_deadline() <= bench.now + 0.06
    later(bench, 0.06)
    assert m.EXTENT in kinds(written(bench))


def test_a_full_disk_is_not_tried_on_and_on() -> None:
    """The file of the write that failed goes as well, which makes no room."""
    bench = bench_of(store_full_wait_ms=9000)
    full_disk(bench)
    for _ in range(80):
        later(bench, 0.1)
        assert writes(bench) == []


def test_a_full_disk_is_tried_again_for_somebody_new() -> None:
    """Others may have made room there, which nobody hears of."""
    bench = bench_of()
    full_disk(bench)
    assert m.ALLOC_FAILED in kinds(later(bench, 1.1))
    bench.send(B, m.ALLOC, 3, 48 * KIB, 0)
    later(bench, 0.03)
    assert m.EXTENT in kinds(written(bench))


def test_what_was_begun_before_a_disk_was_full_does_not_say_that_it_is_not() -> None:
    bench = bench_of()
    spills = bench.core.spills
    for object_id in (X, Y, Z):
        bench.seal(A, object_id, size=16 * KIB)

    def begin(object_id: bytes) -> Write:
        spills.write([bench.core._ledger.objects[object_id]], bench.now)
        (effect,) = writes(bench)
        return effect

    first, second = begin(X), begin(Y)
    spills.write_failed(first.file, True, "no space left on device", bench.now)
    spills.wrote(second.file, [1], 1.0)
    assert spills.full
    spills.wrote(begin(Z).file, [1], 1.0)
    assert not spills.full


def test_a_disk_that_is_still_at_it_is_what_a_creator_hears_of() -> None:
    """A remote storage that is gone may try for a minute before it says so."""
    bench = bench_of()
    bench.core.spills.disks.names = ["s3://bucket/here"] * 2
    bench.seal(A, X, size=64 * KIB)
    bench.send(B, m.ALLOC, 1, KIB, 0)
    assert writes(bench)
    (message,) = [message for _, message in later(bench, 1.5) if message[0] == m.ALLOC_FAILED]
    assert message[2] == "full"
    assert "s3://bucket/here has not done for 2 s what it was given then." in message[3]


def test_a_lost_copy_is_replaced_by_another_run_of_its_task() -> None:
    bench = bench_of()
    bench.seal(A, Z, size=64)
    bench.seal(A, X, size=60 * KIB, contained=Z)
    bench.send(A, m.RELEASE, Z)
    bench.send(B, m.ALLOC, 1, 32 * KIB, 0)
    written(bench)
    assert state(bench, X) == "spilled"
    bench.send(B, m.EXTENT_RETURN, 64, 32 * KIB)
    bench.pin(C, X)
    (effect,) = [effect for effect in take(bench) if isinstance(effect, Read)]
    bench.core.spills.read_failed(effect.transfer, "the file is damaged")
    ((_, answer),) = [entry for entry in later(bench, 0.0) if entry[1][0] == m.PIN_FAILED]
    assert answer[3] == "lost"
    assert "the file is damaged" in answer[4]
    assert state(bench, X) == "lost"
    bench.seal(A, X, size=60 * KIB, contained=Z)
    assert (state(bench, X), state(bench, Z)) == ("sealed", "sealed")
    bench.send(A, m.RELEASE, X)
    assert bench.ids == set()


def test_the_region_is_never_in_pieces_for_long() -> None:
    """Ten thousand puts, gets and drops of mixed sizes: half of what is free is always to be had, and in the end
    the region is one piece again."""
    rng = random.Random(5)
    capacity = 4 * MIB
    core = StoreCore(capacity, Config(spill_batch_bytes_min=64 * KIB), directories=1)
    region = FakeRegion()
    disk = FakeDisk(core.spills, region)
    core.register(A, {"pid": 1, "kind": "driver", "job_id": "j"})
    held: list[bytes] = []
    now = 0.0

    def turn() -> list[list[Any]]:
        nonlocal now
        said = []
        for _ in range(100):
            now += 0.001
            core.relieve(now)
            said += [message for _, message in core.outbox]
            recalled = [message[1] for _, message in core.outbox if message[0] == m.UNPIN_RECALL]
            core.outbox.clear()
            for ids in recalled:
                core.handle(A, [m.UNPIN, ids], now)
            disk.take()
            if not disk.pending and not recalled:
                break
            while disk.pending:
                disk.step(0, "", now)
        return said

    def put(number: int, size: int) -> None:
        core.handle(A, [m.ALLOC, 1, size, size], now)
        (extent,) = [message for message in turn() if message[0] in {m.EXTENT, m.ALLOC_FAILED}]
        assert extent[0] == m.EXTENT, extent
        object_id = number.to_bytes(16, "big")
        flags = m.SEAL_PRIMARY | m.SEAL_PINNED
        core.handle(A, [m.SEAL, object_id, extent[2], size, b"", flags, A, "", b""], now)
        held.append(object_id)

    for number in range(10_000):
        choice = rng.random()
        if choice < 0.4:
            put(number, int(2 ** rng.uniform(6, 18)))
        elif choice < 0.45:
            free = core.stats()["free"]
            put(number, max(64, free // 2 // 64 * 64))
        elif choice < 0.6 and held:
            object_id = rng.choice(held)
            core.handle(A, [m.PIN, 0, object_id, bytes(8), 0, 0], now)
            assert m.PINNED in [message[0] for message in turn()]
            core.handle(A, [m.UNPIN, object_id], now)
        elif held:
            object_id = held.pop(rng.randrange(len(held)))
            core.handle(A, [m.UNPIN, object_id], now)
            core.handle(A, [m.RELEASE, object_id], now)
        turn()
    core.validate()
    while held:
        object_id = held.pop()
        core.handle(A, [m.UNPIN, object_id], now)
        core.handle(A, [m.RELEASE, object_id], now)
    core.drop(A, now)
    turn()
    now += Config().spill_spare_ms / 1000  # spare files go
    turn()
    core.validate()
    stats = core.stats()
    assert (stats["used"], stats["largest_free"], stats["disk"]) == (0, capacity, 0)
    assert not disk.files


def test_a_second_run_into_a_file_changes_nothing() -> None:
    bench = bench_of()
    bench.core.spills.locate = lambda _directory, file: str(file)
    bench.seal(A, X, size=KIB)
    for number in (1, 2):
        bench.send(B, m.ALLOC_FILE, number, 8 * KIB)
        (effect,) = [effect for effect in take(bench) if isinstance(effect, Lend)]
        bench.core.spills.made(effect.file, effect.directory)
        assert later(bench, 0.0) == [(B, [m.FILE_LENT, number, effect.file, str(effect.file)])]
        object_id = X if number == 1 else Y
        message = [effect.file, 5, object_id, 8 * KIB, b"", m.SEAL_PRIMARY | m.SEAL_PINNED, B, "", b""]
        bench.send(B, m.SEAL_IN_FILE, *message)
    assert (state(bench, X), state(bench, Y)) == ("sealed", "spilled")
    assert [row["size_bytes"] for row in bench.core.rows(0.0)] == [KIB, 8 * KIB]
    assert bench.core.stats()["disk_files"] == 1
    assert m.PINNED not in kinds(bench.pin(C, Y))
    (effect,) = [effect for effect in take(bench) if isinstance(effect, Read)]
    bench.core.spills.read_done(effect.transfer, 1.0)
    assert m.PINNED in kinds(later(bench, 0.0))


def test_files_that_were_lent_go_with_their_client() -> None:
    bench = bench_of()
    bench.core.spills.locate = lambda _directory, file: str(file)
    for number in range(3):
        bench.send(B, m.ALLOC_FILE, number, 8 * KIB)
    made, unmade, _ = take(bench)
    bench.core.spills.made(made.file, made.directory)
    bench.drop(B)
    assert len(take(bench)) == 3
    bench.core.spills.made(unmade.file, unmade.directory)
    assert [effect.file for effect in take(bench)] == [unmade.file]
    assert bench.core.stats()["disk"] == 0


def test_a_copy_that_had_to_go_for_the_others_of_its_group_is_fetched_again() -> None:
    bench = bench_of(store_full_wait_ms=100_000)
    refs = ClusterRefs(bench.core)
    refs.joined("c0ffee" + "00" * 13)
    bench.seal(A, X, size=32 * KIB)
    bench.now = 1.0
    bench.seal(A, Y, size=32 * KIB, flags=m.SEAL_PRIMARY)
    bench.send(C, m.ALLOC, 1, 32 * KIB, 0)
    written(bench)
    assert state(bench, X) == "spilled"
    bench.send(C, m.EXTENT_RETURN, 0, 32 * KIB)
    bench.seal(B, Z, size=32 * KIB, flags=0)  # a copy of what another node has
    wanted = [X, bytes(8), 0, Z, bytes(8), 0]
    said = bench.send(C, m.PIN_TOGETHER, wanted, m.PRIORITY_ARGUMENT) + later(bench, 0.05)
    assert m.PIN_FAILED not in kinds(said)
    assert Z not in bench.ids, "it made room for the other"
    for effect in take(bench):
        if isinstance(effect, Read):
            bench.core.spills.read_done(effect.transfer, 1.0)
    assert kinds(later(bench, 0.0)) == [m.PINNED]
    assert [want[0] for want in bench.core.take_wants(9)] == [Z]


def test_what_was_rewritten_and_cannot_be_read_leaves_no_file() -> None:
    bench = bench_of(spill_dead_share=0.4)
    region = FakeRegion()
    disk = FakeDisk(bench.core.spills, region)
    for object_id in (X, Y):
        bench.seal(A, object_id, size=32 * KIB)
    bench.send(C, m.ALLOC, 1, 64 * KIB, 0)
    disk.take()
    while disk.pending:
        disk.step(0, "", bench.now)
        later(bench, 0.0)
        disk.take()
    bench.send(C, m.EXTENT_RETURN, 0, 64 * KIB)
    bench.pin(B, X)
    disk.take()
    bench.send(A, m.RELEASE, Y)  # most of the file is dead, but it is being read
    disk.take()
    [read] = [each for each in disk.pending if isinstance(each, Read)]
    file = bench.core.spills.files[read.file]
    bench.core.spills._rewrite(file)
    disk.take()
    disk.step(next(at for at, each in enumerate(disk.pending) if not isinstance(each, Read)), "", bench.now)
    disk.step(0, "error", bench.now)
    later(bench, 0.0)
    disk.take()
    assert not bench.core.spills.files


def test_who_waits_for_pins_is_not_looked_at_a_thousand_times_a_second() -> None:
    bench = bench_of(recall_grace_ms=1, store_full_wait_ms=1000)
    bench.seal(A, X, size=64 * KIB, flags=m.SEAL_PINNED | m.SEAL_PRIMARY)
    bench.send(B, m.ALLOC, 1, 32 * KIB, 0)
    looks = 0
    while (due := bench.core.next_deadline()) is not None and bench.now < 0.9:
        later(bench, max(0.0, due - bench.now))
        looks += 1
    assert 0 < looks < 150

"""Holds: when an object lives and when it goes, whatever the order of messages."""

from __future__ import annotations

import itertools

import pytest

from shoal.ids import IdSource
from shoal.wire import messages as m
from shoald.store.errors import ProtocolError
from unit.store.storebench import NOBODY, A, B, Bench, C, X, Y, Z


def test_freed_with_the_last_hold() -> None:
    bench = Bench()
    bench.seal(A, X)
    assert bench.ids == {X}
    bench.send(A, m.HOLD, B, X)
    bench.send(A, m.RELEASE, X)
    assert bench.ids == {X}
    bench.send(B, m.RELEASE, X)
    assert bench.used == 0


def test_every_order_of_a_handover_ends_with_nothing() -> None:
    # A gives X to B: its own stream keeps its order, and B's release may come anywhere.
    a_stream = [(A, m.HOLD, B, X), (A, m.RELEASE, X)]
    for position in range(3):
        bench = Bench()
        bench.seal(A, X)
        steps = list(a_stream)
        steps.insert(position, (B, m.RELEASE, X))
        for index, (proc, *message) in enumerate(steps):
            assert bench.ids == {X}, (position, index)
            bench.send(proc, *message)
        assert bench.used == 0


def test_handover_before_the_seal_in_every_order() -> None:
    # C seals for A, who hands on to B: three streams, all interleavings.
    offset_of = {}
    streams = {
        "seal": [("C", "seal")],
        "a": [("A", "hold"), ("A", "release")],
        "b": [("B", "release")],
    }
    orders = set(itertools.permutations(["seal", "a", "a", "b"]))
    for order in orders:
        bench = Bench()
        offset_of["c"] = bench.lease(b"C" * 8, 1024)
        left = {name: list(steps) for name, steps in streams.items()}
        for name in order:
            _, what = left[name].pop(0)
            if what == "seal":
                seal = [X, offset_of["c"], 1000, b"", m.SEAL_PRIMARY, A, "", b""]
                bench.send(b"C" * 8, m.SEAL, *seal)
            elif what == "hold":
                bench.send(A, m.HOLD, B, X)
            else:
                bench.send(A if name == "a" else B, m.RELEASE, X)
        assert bench.used == 0, order


def test_an_early_release_takes_nothing_from_others() -> None:
    bench = Bench()
    bench.seal(A, X)
    bench.send(B, m.RELEASE, X)
    assert bench.ids == {X}


def test_repeated_ids_count() -> None:
    bench = Bench()
    bench.seal(A, X)
    bench.send(B, m.HOLD, A, X + X)
    bench.send(A, m.RELEASE, X + X)
    assert bench.ids == {X}
    bench.send(A, m.RELEASE, X)
    assert bench.used == 0


@pytest.mark.parametrize("holder", [b"never" + bytes(3), NOBODY])
def test_holds_for_unknown_processes_are_ignored(holder: bytes) -> None:
    bench = Bench()
    bench.seal(A, X)
    bench.send(A, m.HOLD, holder, X)
    bench.send(A, m.RELEASE, X)
    assert bench.used == 0


def test_holds_for_dead_processes_are_ignored() -> None:
    bench = Bench()
    bench.seal(A, X)
    bench.drop(B)
    bench.send(A, m.HOLD, B, X)
    bench.seal(A, Y, holder=B)
    assert bench.ids == {X}
    bench.send(A, m.RELEASE, X)
    assert bench.used == 0


def test_death_drops_holds_early_ones_too() -> None:
    bench = Bench()
    bench.seal(A, X)
    bench.send(A, m.HOLD, B, X + Y)
    bench.drop(A)
    assert bench.ids == {X}
    bench.drop(B)
    assert bench.used == 0
    bench.seal(b"C" * 8, Y)
    bench.send(b"C" * 8, m.RELEASE, Y)
    assert bench.used == 0


def test_a_container_holds_what_it_contains() -> None:
    bench = Bench()
    bench.seal(A, X)
    bench.seal(A, Y, contained=X + X)
    bench.send(A, m.RELEASE, X)
    assert bench.ids == {X, Y}
    bench.send(A, m.RELEASE, Y)
    assert bench.used == 0


def test_contained_ids_may_be_sealed_later() -> None:
    bench = Bench()
    bench.seal(A, Y, contained=X)
    bench.seal(A, X)
    bench.send(A, m.RELEASE, X)
    assert bench.ids == {X, Y}
    bench.send(A, m.RELEASE, Y)
    assert bench.used == 0


def test_a_container_freed_before_its_content_is_sealed() -> None:
    bench = Bench()
    bench.seal(A, Y, contained=X)
    bench.send(A, m.RELEASE, Y)
    bench.seal(A, X)
    assert bench.ids == {X}
    bench.send(A, m.RELEASE, X)
    assert bench.used == 0


def test_an_object_that_contains_itself_is_freed() -> None:
    bench = Bench()
    bench.seal(A, X, contained=X)
    bench.send(A, m.RELEASE, X)
    assert bench.used == 0


def test_a_chain_of_20000_containers_goes_without_recursion() -> None:
    bench = Bench(capacity=64 * 20_000)
    source = IdSource(A)
    previous = b""
    for _ in range(20_000):
        object_id = source.next_id()
        offset = bench.core._ledger.allocator.allocate(64)
        assert offset is not None
        bench.core._ledger.clients[A].leased.add(offset, 64)
        message = [m.SEAL, object_id, offset, 10, previous, m.SEAL_PRIMARY, A, "", b""]
        bench.core.handle(A, message, 0.0)
        if previous:
            bench.core.handle(A, [m.RELEASE, previous], 0.0)
        previous = object_id
    assert len(bench.ids) == 20_000
    bench.send(A, m.RELEASE, previous)
    assert bench.used == 0


def test_a_second_seal_changes_nothing() -> None:
    bench = Bench()
    bench.seal(A, X, size=100)
    bench.seal(B, X, size=200, holder=A)
    (row,) = bench.core.rows(0.0)
    assert row["size_bytes"] == 100
    assert bench.used == 128
    bench.send(A, m.RELEASE, X)
    assert bench.used == 0


def test_a_freed_id_can_be_sealed_again() -> None:
    bench = Bench()
    bench.seal(A, X)
    bench.send(A, m.RELEASE, X)
    bench.send(B, m.RELEASE, X)  # too late to matter: what it released is gone
    bench.seal(B, X)
    assert bench.ids == {X}
    bench.send(B, m.RELEASE, X)
    assert bench.used == 0


def test_releases_of_what_was_never_held_are_bounded() -> None:
    bench = Bench(store_debts_max=100)
    source = IdSource(A)
    bench.seal(A, X)
    for _ in range(1000):
        bench.send(B, m.RELEASE, source.next_id())
    # Swept: nothing is known of these ids. Those of stored objects are kept, and count.
    assert len(bench.core._ledger.clients[B].holds) <= 101
    with pytest.raises(ProtocolError, match="never held"):
        for _ in range(200):
            object_id = source.next_id()
            bench.seal(A, object_id, size=64)
            bench.send(B, m.RELEASE, object_id)
    bench.drop(B)
    bench.drop(A)
    assert bench.used == 0


def test_a_sealed_error_is_an_object() -> None:
    bench = Bench()
    bench.seal(A, X, flags=m.SEAL_ERROR)
    (row,) = bench.core.rows(1.5)
    assert row["state"] == "error"
    assert row["flags"] == m.SEAL_ERROR
    assert row["age_s"] == 1.5
    assert row["callsite"] == "script.py:7"


def test_release_of_thousands_in_one_message() -> None:
    bench = Bench(capacity=64 * 5000)
    offset = bench.lease(A, 64 * 5000)
    source = IdSource(A)
    ids = [source.next_id() for _ in range(5000)]
    for index, object_id in enumerate(ids):
        seal = [m.SEAL, object_id, offset + 64 * index, 64, b"", m.SEAL_PRIMARY, A, "", b""]
        bench.core.handle(A, seal, 0.0)
    bench.send(A, m.RELEASE, b"".join(reversed(ids)))
    stats = bench.core.stats()
    assert stats["used"] == 0
    assert stats["frees"] == 5000
    assert stats["largest_free"] == 64 * 5000


def test_ids_of_one_stay_apart_from_others() -> None:
    bench = Bench()
    for object_id in (X, Y, Z):
        bench.seal(A, object_id)
    bench.send(A, m.RELEASE, Y)
    assert bench.ids == {X, Z}


def test_holds_that_a_client_does_not_know_of_go() -> None:
    bench = Bench()
    for object_id in (X, Y):
        bench.send(A, m.HOLD, B, object_id)
        bench.send(A, m.HOLD, B, object_id)
    bench.seal(A, X)
    bench.send(A, m.RELEASE, X)
    bench.send(B, m.RELEASE, X + Y + Z, 1)
    assert bench.ids == {X}
    bench.send(B, m.RELEASE, X + Y, 0)
    assert bench.ids == set()
    assert not bench.core._ledger.early
    bench.core.validate()
    with pytest.raises(ProtocolError):
        bench.send(B, m.RELEASE, X, -1)


def test_neighbours_that_go_together_leave_one_gap_in_whatever_order_they_are_named() -> None:
    ids = [bytes([number]) * 16 for number in range(1, 6)]
    sizes = [1024, 64, 2048, 128, 512]
    for gone in itertools.chain.from_iterable(itertools.permutations(range(5), n) for n in (3, 5)):
        bench = Bench()
        for object_id, size in zip(ids, sizes, strict=True):
            bench.seal(A, object_id, size)
        bench.send(
            A, m.RELEASE, b"".join(ids[number] for number in gone)
        )  # the accounts are checked after it
        left = [number for number in range(5) if number not in gone]
        assert bench.ids == {ids[number] for number in left}
        assert bench.used == sum(sizes[number] for number in left)


def test_pins_of_neighbours_that_nobody_holds_come_back_together() -> None:
    ids = [bytes([number]) * 16 for number in range(1, 6)]
    bench = Bench()
    for object_id in ids:
        bench.seal(A, object_id)
        bench.pin(B, object_id)
    bench.pin(B, ids[1])  # twice: one UNPIN is not enough
    bench.pin(C, ids[3])
    bench.send(A, m.RELEASE, b"".join(ids))
    assert bench.ids == set(ids)
    bench.send(B, m.UNPIN, b"".join(ids))
    assert bench.ids == {ids[1], ids[3]}
    bench.send(B, m.UNPIN, ids[1] + ids[3] + ids[0])  # of what is not pinned nothing is said
    assert bench.ids == {ids[3]}
    bench.send(C, m.UNPIN, ids[3])
    assert bench.used == 0

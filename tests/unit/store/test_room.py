"""Leases under pressure, malformed messages, and what people are shown."""

from __future__ import annotations

from typing import Any

import pytest

from shoal.config import Config
from shoal.exceptions import ObjectStoreFullError
from shoal.wire import messages as m
from shoald.store.core import StoreCore
from shoald.store.errors import ProtocolError
from shoald.store.report import full_message
from unit.store.storebench import A, B, Bench, C, X, Y, Z

KIB = 1024


def test_a_lease_gives_less_than_wanted_when_there_is_less() -> None:
    bench = Bench(capacity=64 * KIB, lease_ahead_share=2.0)
    bench.lease(A, 40 * KIB)
    assert bench.send(B, m.ALLOC, 1, KIB, 60 * KIB) == [(B, [m.EXTENT, 1, 40 * KIB, 24 * KIB])]


def test_more_than_the_capacity_is_refused_at_once() -> None:
    bench = Bench(capacity=64 * KIB)
    ((_, answer),) = bench.send(A, m.ALLOC, 3, 64 * KIB + 1, 0)
    assert answer[:3] == [m.ALLOC_FAILED, 3, "never"]
    assert "the object store of this node has" in answer[3], "what to do about it is said by its client"
    assert bench.core.next_deadline() is None


def test_whoever_waits_is_served_when_room_is_made() -> None:
    bench = Bench(capacity=64 * KIB, store_full_wait_ms=1000)
    offset = bench.lease(A, 64 * KIB)
    assert bench.send(B, m.ALLOC, 1, 32 * KIB, 32 * KIB) == [(A, [m.EXTENT_RECALL])]
    assert bench.core.next_deadline() == 0.02  # until then it may come back
    bench.core.relieve(0.02)
    assert bench.core.next_deadline() == 1.0
    assert bench.send(A, m.EXTENT_RETURN, offset + 48 * KIB, 16 * KIB) == []
    sent = bench.send(A, m.EXTENT_RETURN, offset + 16 * KIB, 32 * KIB)
    assert sent == [(B, [m.EXTENT, 1, 16 * KIB, 32 * KIB])]
    assert bench.core.next_deadline() is None


def test_freed_objects_serve_the_queue_and_small_ones_pass() -> None:
    bench = Bench(capacity=64 * KIB)
    bench.seal(A, X, size=16 * KIB)
    bench.seal(A, Y, size=48 * KIB)
    bench.send(B, m.ALLOC, 1, 60 * KIB, 0)
    bench.send(C, m.ALLOC, 2, 8 * KIB, 0)
    assert [message[:2] for _, message in bench.send(A, m.RELEASE, X)] == [[m.EXTENT, 2]]
    assert bench.send(A, m.RELEASE, Y) == []
    sent = bench.drop(C)
    assert sent == [(B, [m.EXTENT, 1, 0, 60 * KIB])]


def test_nobody_gets_more_than_the_least_while_others_wait() -> None:
    bench = Bench(capacity=64 * KIB, lease_ahead_share=2.0)
    bench.seal(A, X, size=48 * KIB)
    bench.seal(A, Y, size=16 * KIB)
    bench.send(B, m.ALLOC, 1, 8 * KIB, 64 * KIB)
    bench.send(C, m.ALLOC, 2, 32 * KIB, 64 * KIB)
    assert bench.send(A, m.RELEASE, Y) == [(B, [m.EXTENT, 1, 48 * KIB, 8 * KIB])]
    assert bench.send(A, m.ALLOC, 3, KIB, 64 * KIB) == [(A, [m.EXTENT, 3, 56 * KIB, KIB])]
    assert bench.send(A, m.RELEASE, X) == [(C, [m.EXTENT, 2, 0, 48 * KIB])]


def test_unpinning_serves_the_queue() -> None:
    bench = Bench(capacity=64 * KIB)
    bench.seal(A, X, size=64 * KIB, flags=m.SEAL_PINNED)
    bench.send(A, m.RELEASE, X)
    bench.send(B, m.ALLOC, 1, 60 * KIB, 0)
    assert bench.send(A, m.UNPIN, X) == [(B, [m.EXTENT, 1, 0, 60 * KIB])]


def test_waiting_ends_with_who_fills_the_store() -> None:
    bench = Bench(capacity=64 * KIB, store_full_wait_ms=1000)
    bench.seal(A, X, size=60 * KIB)
    bench.pin(B, X)
    bench.send(C, m.ALLOC, 9, 32 * KIB, 32 * KIB)
    bench.core.relieve(0.9)
    assert bench.take() == []
    bench.core.relieve(1.0)
    ((to, answer),) = bench.take()
    assert to == C
    assert answer[:3] == [m.ALLOC_FAILED, 9, "full"]
    for part in ("32.8 KB", "worker 100 holds 1 objects (61.4 KB)", "worker 101"):
        assert part in answer[3]
    assert "shoal memory" in str(ObjectStoreFullError(answer[3])), "what to do"
    assert bench.core.next_deadline() is None


def test_requests_of_a_dead_process_do_not_wait() -> None:
    bench = Bench(capacity=64 * KIB)
    bench.lease(A, 64 * KIB)
    bench.send(B, m.ALLOC, 1, KIB, KIB)
    bench.drop(B)
    assert bench.core.next_deadline() is None
    assert bench.drop(A) == []
    assert bench.used == 0


def test_the_queue_is_bounded() -> None:
    bench = Bench(capacity=64 * KIB, store_waiters_max=2)
    bench.seal(A, X, size=64 * KIB)
    for req in range(2):
        assert bench.send(B, m.ALLOC, req, KIB, KIB) == []
    ((_, answer),) = bench.send(B, m.ALLOC, 2, KIB, KIB)
    assert answer[:3] == [m.ALLOC_FAILED, 2, "full"]


def test_death_frees_leased_and_sealed_memory() -> None:
    bench = Bench()
    bench.lease(A, 4096)
    bench.seal(A, X)
    offset = bench.lease(A, 4096)
    bench.send(A, m.SEAL, Y, offset + 1024, 64, b"", 0, A, "", b"")
    bench.drop(A)
    bench.drop(A)
    stats = bench.core.stats()
    assert (stats["used"], stats["largest_free"]) == (0, stats["capacity"])


SEAL = [m.SEAL, X, 0, 1000, b"", 0, A, "f.py:1", b""]


def with_field(message: list[Any], index: int, value: Any) -> list[Any]:
    return [*message[:index], value, *message[index + 1 :]]


@pytest.mark.parametrize(
    "message",
    [
        [m.ALLOC],
        [m.ALLOC, 1, -1, 5],
        [m.ALLOC, 1, "1", 5],
        [m.ALLOC, 1, 1.5, 5],
        [m.ALLOC, True, 1, 5],
        [m.EXTENT_RETURN, 0, 0],
        [m.EXTENT_RETURN, 64, 8192],
        [m.EXTENT_RETURN, 3, 64],
        [m.EXTENT_RETURN, None, 64],
        SEAL[:-1],
        with_field(SEAL, 1, b"short"),
        with_field(SEAL, 1, None),
        with_field(SEAL, 2, 32),
        with_field(SEAL, 2, -64),
        with_field(SEAL, 2, 2**64),
        with_field(SEAL, 3, 8193),
        with_field(SEAL, 3, -1),
        with_field(SEAL, 4, b"torn"),
        with_field(SEAL, 5, "flags"),
        with_field(SEAL, 6, 5),
        with_field(SEAL, 7, b"bytes"),
        with_field(SEAL, 8, b"short"),
        [m.SEAL_RUN, X, 0, [64], 0, A],
        [m.SEAL_RUN, b"", 0, [], 0, A, []],
        [m.SEAL_RUN, b"torn", 0, [64], 0, A, [""]],
        [m.SEAL_RUN, X + Z, 0, [64], 0, A, ["", ""]],
        [m.SEAL_RUN, X, 0, [-1], 0, A, [""]],
        [m.SEAL_RUN, X, 1, [64], 0, A, [""]],
        [m.SEAL_RUN, X, 0, [8193], 0, A, [""]],
        [m.SEAL_RUN, X, 0, [64], m.SEAL_PINNED, A, [""]],
        [m.SEAL_RUN, X, 0, [64], 0, None, [""]],
        [m.SEAL_RUN, X, 0, [64], 0, A, [7]],
        [m.HOLD, A],
        [m.HOLD, A, b"torn"],
        [m.HOLD, A, None],
        [m.RELEASE],
        [m.RELEASE, b"torn"],
        [m.RELEASE, [X]],
        [m.PIN, 1, X, A, 1],
        [m.PIN, 1, b"", A, 1, 0],
        [m.PIN, None, X, A, 1, 0],
        [m.PIN, 1, X, A, "1", 0],
        [m.UNPIN, b"torn"],
        [m.WATCH, X, A],
        [m.WATCH, X, A, -1],
        [m.EXPECT, b"torn"],
        [m.DEDUP, 1, b"short", 5],
        [m.DEDUP, 1, b"#" * 16, None],
        [m.FORK, 1],
        [9],
        [21],
        [m.EXTENT, 1, 0, 64],
    ],
)
def test_malformed_messages_close_one_connection_and_disturb_nobody(message: list[Any]) -> None:
    bench = Bench()
    assert bench.lease(A, 8192) == 0
    bench.seal(B, Y)
    with pytest.raises(ProtocolError):
        bench.core.handle(A, message, 0.0)
    bench.drop(A)
    assert bench.used == 1024
    assert bench.ids == {Y}


def test_clients_are_known_first() -> None:
    bench = Bench()
    with pytest.raises(ProtocolError, match="HELLO"):
        bench.send(b"stranger", m.ALLOC, 1, 1, 1)


def test_an_extent_of_another_client_cannot_be_sealed() -> None:
    bench = Bench()
    offset = bench.lease(A, 4096)
    with pytest.raises(ProtocolError, match="not leased"):
        bench.send(B, m.SEAL, X, offset, 64, b"", 0, B, "", b"")


def test_rows_and_leased_memory_add_up() -> None:
    bench = Bench()
    bench.seal(A, X, size=1)
    bench.seal(A, Y, size=100_000, contained=X, flags=m.SEAL_PINNED)
    bench.send(A, m.HOLD, B, X)
    bench.lease(C, 4096)
    rows = {row["id"]: row for row in bench.core.rows(2.0)}
    stats = bench.core.stats()
    assert sum(row["allocated_bytes"] for row in rows.values()) + stats["leased"] == stats["used"]
    holders = rows[X.hex()]["holders"]
    assert {(h["kind"], h["proc"]) for h in holders} == {
        ("hold", A.hex()),
        ("hold", B.hex()),
        ("container", Y.hex()),
    }
    assert {(h["kind"], h["pid"]) for h in rows[Y.hex()]["holders"]} == {("hold", 100), ("pin", 100)}
    assert stats["objects"] == 2
    assert stats["pinned"] == rows[Y.hex()]["allocated_bytes"] == stats["secondary"]
    assert stats["primary"] == 64
    assert stats["free"] + stats["used"] == stats["capacity"]
    assert (stats["allocs"], stats["seals"], stats["evictions"], stats["spilled"]) == (3, 2, 0, 0)


def test_registering_again_keeps_everything() -> None:
    bench = Bench()
    bench.seal(A, X)
    bench.core.register(A, {"pid": 5, "kind": "driver", "job_id": "j2"})
    assert bench.core.rows(0.0)[0]["holders"][0]["pid"] == 5
    assert bench.ids == {X}


def test_what_all_clients_lease_ahead_is_bounded_by_a_share_of_the_store() -> None:
    bench = Bench(1024 * KIB, lease_ahead_share=0.125)
    ((_, first),) = bench.send(A, m.ALLOC, 1, KIB, 100 * KIB)
    assert first[3] == 100 * KIB
    ((_, second),) = bench.send(B, m.ALLOC, 2, KIB, 100 * KIB)
    assert second[3] == KIB
    ((_, third),) = bench.send(B, m.ALLOC, 3, 500 * KIB, 0)
    assert third[3] == 500 * KIB
    bench.send(A, m.EXTENT_RETURN, first[2], first[3])
    bench.send(B, m.EXTENT_RETURN, third[2], third[3])
    ((_, fourth),) = bench.send(B, m.ALLOC, 4, KIB, 100 * KIB)
    assert fourth[3] == 100 * KIB


def test_leased_memory_comes_back_before_anything_is_spilled() -> None:
    bench = Bench(64 * KIB)
    bench.core = StoreCore(64 * KIB, Config(spill_threshold=0.5, spill_batch_bytes_min=1), directories=1)
    for number, proc in enumerate((A, B)):
        bench.core.register(proc, {"pid": number, "kind": "worker", "job_id": "j1"})
    bench.seal(A, X, size=32 * KIB)
    bench.lease(A, 32 * KIB)
    assert not bench.core.spills.outbox  # nothing is written ahead for it
    assert bench.send(B, m.ALLOC, 1, 16 * KIB, 0) == [(A, [m.EXTENT_RECALL])]
    assert not bench.core.spills.outbox
    assert (B, [m.EXTENT, 1, 32 * KIB, 16 * KIB]) in bench.send(A, m.EXTENT_RETURN, 32 * KIB, 32 * KIB)
    assert not bench.core.spills.outbox
    # Who has not given it back in time uses it.
    assert bench.send(B, m.ALLOC, 2, 32 * KIB, 0) != []
    bench.now = bench.core.next_deadline() or 0.0
    bench.core.relieve(bench.now)
    assert bench.core.spills.outbox


def hopeless(said: list[tuple[bytes, list[Any]]]) -> list[tuple[bytes, int]]:
    return [(proc, message[1]) for proc, message in said if message[0] == m.ALLOC_FAILED]


def test_without_spilling_a_hopeless_request_is_refused_at_once() -> None:
    bench = Bench(64 * KIB)
    bench.seal(A, X, size=40 * KIB)
    assert hopeless(bench.send(A, m.ALLOC, 1, 32 * KIB, 0, m.ALLOC_KEEPS)) == [(A, 1)]
    # A process that does not say that it keeps its refs, or has none that stand in the way, waits.
    assert hopeless(bench.send(A, m.ALLOC, 2, 32 * KIB, 0)) == []
    assert hopeless(bench.send(B, m.ALLOC, 3, 32 * KIB, 0, m.ALLOC_KEEPS)) == []
    bench.now += 10.0
    bench.core.relieve(bench.now)
    assert hopeless(bench.take()) == [(A, 2), (B, 3)]


def test_what_may_come_free_is_waited_for_without_spilling() -> None:
    bench = Bench(64 * KIB)
    bench.seal(A, X, size=20 * KIB)
    bench.seal(B, Y, size=40 * KIB)
    assert hopeless(bench.send(A, m.ALLOC, 1, 32 * KIB, 0, m.ALLOC_KEEPS)) == []
    assert (A, [m.EXTENT, 1, 20 * KIB, 32 * KIB]) in bench.send(B, m.RELEASE, Y)


def test_two_that_keep_what_the_other_wants_are_refused() -> None:
    bench = Bench(64 * KIB)
    bench.seal(A, X, size=20 * KIB)
    bench.seal(B, Y, size=40 * KIB)
    assert hopeless(bench.send(A, m.ALLOC, 1, 32 * KIB, 0, m.ALLOC_KEEPS)) == []
    assert sorted(hopeless(bench.send(B, m.ALLOC, 2, 60 * KIB, 0, m.ALLOC_KEEPS))) == [(A, 1), (B, 2)]


def test_a_request_that_fits_into_no_gap_between_what_stays_is_hopeless() -> None:
    bench = Bench(64 * KIB)
    bench.seal(B, X, size=16 * KIB)
    bench.seal(A, Y, size=16 * KIB)
    bench.seal(B, Z, size=32 * KIB)
    assert hopeless(bench.send(A, m.ALLOC, 1, 33 * KIB, 0, m.ALLOC_KEEPS)) == [(A, 1)]
    assert hopeless(bench.send(A, m.ALLOC, 2, 32 * KIB, 0, m.ALLOC_KEEPS)) == []


def test_secondary_copies_and_spilling_leave_hope() -> None:
    bench = Bench(64 * KIB)
    bench.seal(A, X, size=40 * KIB, flags=0)
    bench.pin(B, X)
    assert hopeless(bench.send(A, m.ALLOC, 1, 32 * KIB, 0, m.ALLOC_KEEPS)) == []
    bench = Bench(64 * KIB)
    bench.core = StoreCore(64 * KIB, Config(), directories=1)
    bench.core.register(A, {"pid": 1, "kind": "driver", "job_id": "j1"})
    bench.seal(A, X, size=40 * KIB)
    assert hopeless(bench.send(A, m.ALLOC, 1, 32 * KIB, 0, m.ALLOC_KEEPS)) == []


def test_who_finds_only_pieces_is_told_so() -> None:
    bench = Bench(256)
    for name in b"abcd":
        bench.seal(A, bytes([name]) * 16, 64)
    for name in b"ac":
        bench.send(A, m.RELEASE, bytes([name]) * 16)
    ledger = bench.core._ledger
    assert "128 B free (longest piece 64 B)" in full_message(ledger, 128)
    assert "lies in pieces, between values that have to stay" in full_message(ledger, 128)
    assert "in pieces" not in full_message(ledger, 192)
    assert "in the object store: of" in full_message(ledger, 192)


def test_in_a_cluster_it_says_on_which_node() -> None:
    bench = Bench(64 * KIB)
    bench.core.clustered()
    ledger = bench.core._ledger
    ledger.node_id = bytes.fromhex("12345678" * 4)
    assert "no room for 64 B in the object store of node 12345678: of" in full_message(ledger, 64)

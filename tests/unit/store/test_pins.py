"""Pins at the daemon: what is mapped stays, through frees, forks, deaths and double seals."""

from __future__ import annotations

import pytest

from shoal.wire import messages as m
from shoald.store.errors import ProtocolError
from unit.store.storebench import HASH, A, B, Bench, C, X, Y

PINNED_PRIMARY = m.SEAL_PINNED | m.SEAL_PRIMARY


def test_a_pin_keeps_an_object_until_its_unpin() -> None:
    bench = Bench()
    bench.seal(A, X)
    ((to, answer),) = bench.pin(B, X)
    assert to == B
    assert answer[0] == m.PINNED
    assert answer[2] == X
    assert answer[4:] == [1000, m.SEAL_PRIMARY]
    assert bench.send(A, m.RELEASE, X) == [(B, [m.UNPIN_RECALL, X])]
    assert bench.ids == {X}
    assert bench.core.rows(0.0)[0]["state"] == "unreferenced"
    bench.send(B, m.UNPIN, X)
    assert bench.used == 0


def test_recalls_go_out_in_one_message_per_process() -> None:
    bench = Bench()
    bench.seal(A, X, flags=PINNED_PRIMARY)
    bench.seal(A, Y, flags=PINNED_PRIMARY)
    bench.pin(B, Y)
    sent = bench.send(A, m.RELEASE, X + Y)
    assert sorted(sent) == [(A, [m.UNPIN_RECALL, X + Y]), (B, [m.UNPIN_RECALL, Y])]
    bench.send(A, m.UNPIN, X + Y)
    assert bench.ids == {Y}
    bench.send(B, m.UNPIN, Y)
    assert bench.used == 0


def test_pins_count() -> None:
    bench = Bench()
    bench.seal(A, X)
    bench.pin(B, X)
    bench.pin(B, X)
    bench.send(A, m.RELEASE, X)
    bench.send(B, m.UNPIN, X)
    assert bench.ids == {X}  # the second answer may still be on its way
    bench.send(B, m.UNPIN, X)
    assert bench.used == 0


def test_pins_do_not_survive_their_process_and_others_do() -> None:
    bench = Bench()
    bench.seal(A, X)
    bench.pin(B, X)
    bench.pin(B, X)
    bench.pin(C, X)
    bench.send(A, m.RELEASE, X)
    bench.drop(B)
    assert bench.ids == {X}
    bench.drop(C)
    assert bench.used == 0


def test_a_hold_on_an_unreferenced_object_keeps_it() -> None:
    bench = Bench()
    bench.seal(A, X, flags=PINNED_PRIMARY)
    bench.send(A, m.RELEASE, X)
    bench.send(A, m.HOLD, B, X)
    bench.send(A, m.UNPIN, X)
    assert bench.ids == {X}
    assert bench.core.stats()["cached"] == 0


def test_a_pin_of_an_unreferenced_object_is_recalled_at_once() -> None:
    bench = Bench()
    bench.seal(A, X, flags=PINNED_PRIMARY)
    bench.send(A, m.RELEASE, X)
    sent = bench.pin(B, X)
    assert [message[0] for _, message in sent] == [m.PINNED, m.UNPIN_RECALL]


def test_unpins_of_nothing_are_ignored() -> None:
    bench = Bench()
    bench.seal(A, X)
    assert bench.send(B, m.UNPIN, X + Y) == []
    assert bench.ids == {X}


def test_a_freed_container_recalls_pinned_content() -> None:
    bench = Bench()
    bench.seal(A, X, flags=PINNED_PRIMARY)
    bench.seal(A, Y, contained=X)
    bench.send(A, m.RELEASE, X)
    assert bench.send(A, m.RELEASE, Y) == [(A, [m.UNPIN_RECALL, X])]
    bench.send(A, m.UNPIN, X)
    assert bench.used == 0


def test_a_forked_child_keeps_what_was_pinned() -> None:
    bench = Bench()
    bench.seal(A, X, flags=PINNED_PRIMARY)
    assert bench.send(A, m.FORK) == []
    bench.core.forked(A, 7)
    bench.seal(A, Y, flags=PINNED_PRIMARY)  # after the fork: not the child's
    bench.send(A, m.RELEASE, X + Y)
    bench.send(A, m.UNPIN, X + Y)
    assert bench.ids == {X}
    bench.drop(A)
    (row,) = bench.core.rows(0.0)
    assert [(holder["role"], holder["pid"]) for holder in row["holders"]] == [("fork of worker", 100)]
    bench.core.fork_ended(7)
    bench.core.fork_ended(7)
    bench.take()
    assert bench.used == 0


def test_fork_tokens_are_unique_and_parents_known() -> None:
    bench = Bench()
    bench.core.forked(A, b"token")
    with pytest.raises(ProtocolError, match="in use"):
        bench.core.forked(B, b"token")
    with pytest.raises(ProtocolError, match="HELLO"):
        bench.core.forked(b"unknown!", 1)


def test_a_second_copy_stays_while_its_writer_looks_at_it() -> None:
    bench = Bench()
    bench.seal(A, X, flags=PINNED_PRIMARY)
    first = bench.core.rows(0.0)[0]
    assert bench.seal(B, X, holder=A, flags=PINNED_PRIMARY) == [(B, [m.UNPIN_RECALL, X])]
    assert bench.used == 2048
    assert [row["state"] for row in bench.core.rows(0.0)] == ["sealed", "duplicate"]
    ((_, answer),) = bench.pin(C, X)
    assert answer[3] == 0
    bench.core.forked(B, 1)
    bench.send(B, m.UNPIN, X)
    assert bench.used == 2048  # B's child looks at it too
    bench.core.fork_ended(1)
    assert bench.used == 1024
    assert bench.core.rows(0.0)[0]["id"] == first["id"]
    bench.send(A, m.RELEASE, X)
    bench.send(A, m.UNPIN, X)
    bench.send(C, m.UNPIN, X)
    assert bench.used == 0


def test_second_copies_go_with_their_writer() -> None:
    bench = Bench()
    bench.seal(A, X)
    bench.seal(B, X, flags=PINNED_PRIMARY)
    bench.seal(B, X, flags=PINNED_PRIMARY)
    bench.drop(B)
    assert bench.used == 1024


def test_dedup_finds_content_and_keeps_it() -> None:
    bench = Bench()
    bench.seal(A, X, content=HASH)
    ((_, answer),) = bench.send(B, m.DEDUP, 5, HASH, 1000)
    assert answer[:3] == [m.DEDUP_FOUND, 5, X]
    assert answer[4] == 1000
    bench.send(A, m.RELEASE, X)
    assert bench.ids == {X}
    assert bench.send(B, m.RELEASE, X) == [(B, [m.UNPIN_RECALL, X])]
    bench.send(B, m.UNPIN, X)
    assert bench.used == 0
    assert bench.send(B, m.DEDUP, 6, HASH, 1000) == [(B, [m.DEDUP_FOUND, 6, b"", 0, 0])]


def test_dedup_wants_the_same_size_and_no_errors() -> None:
    bench = Bench()
    bench.seal(A, X, content=HASH)
    assert bench.send(B, m.DEDUP, 1, HASH, 999)[0][1][2] == b""
    bench.seal(A, Y, content=b"e" * 16, flags=m.SEAL_ERROR)
    assert bench.send(B, m.DEDUP, 2, b"e" * 16, 1000)[0][1][2] == b""

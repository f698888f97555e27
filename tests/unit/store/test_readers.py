"""Reads of objects that are not here yet: who is answered when, and with what."""

from __future__ import annotations

import pytest

from shoal.wire import messages as m
from shoald.store.errors import ProtocolError
from unit.store.storebench import NOBODY, A, B, Bench, C, X, Y


def kinds(sent: list[tuple[bytes, list[object]]]) -> list[tuple[bytes, object, object]]:
    return [(to, message[0], message[3] if message[0] == m.PIN_FAILED else None) for to, message in sent]


def test_a_read_waits_for_the_stream_of_its_stamp() -> None:
    bench = Bench()
    assert bench.pin(B, X, A, 5) == []
    assert bench.advanced(A, 4) == []
    assert kinds(bench.seal(A, X)) == [(B, m.PINNED, None)]
    assert bench.advanced(A, 5) == []


def test_a_stream_that_went_by_without_a_seal_means_lost() -> None:
    bench = Bench()
    bench.pin(B, X, A, 5)
    ((to, answer),) = bench.advanced(A, 5)
    assert to == B
    assert answer[0] == m.PIN_FAILED
    assert answer[3] == "lost"
    assert X.hex() in answer[4]


def test_an_old_stamp_is_answered_at_once() -> None:
    bench = Bench()
    bench.advanced(A, 9)
    assert kinds(bench.pin(B, X, A, 9)) == [(B, m.PIN_FAILED, "lost")]
    assert kinds(bench.pin(B, X, NOBODY, 3)) == [(B, m.PIN_FAILED, "lost")]


def test_freed_says_freed() -> None:
    bench = Bench()
    bench.seal(A, X)
    bench.send(A, m.RELEASE, X)
    assert kinds(bench.pin(B, X)) == [(B, m.PIN_FAILED, "freed")]


def test_an_announced_object_is_waited_for() -> None:
    bench = Bench()
    bench.send(C, m.EXPECT, X)
    assert bench.pin(B, X) == []
    assert kinds(bench.seal(C, X)) == [(B, m.PINNED, None)]


def test_an_announcement_survives_the_stamp() -> None:
    bench = Bench()
    bench.pin(B, X, A, 2)
    bench.send(C, m.EXPECT, X)
    assert bench.advanced(A, 2) == []
    assert bench.drop(A) == []
    assert kinds(bench.drop(C)) == [(B, m.PIN_FAILED, "owner_died")]


def test_death_of_the_announcer_fails_readers() -> None:
    bench = Bench()
    bench.send(C, m.EXPECT, X + Y)
    bench.pin(B, X)
    bench.send(B, m.WATCH, Y, NOBODY, 0)
    sent = bench.drop(C)
    assert {message[0] for _, message in sent} == {m.PIN_FAILED, m.AVAILABLE}
    (available,) = [message for _, message in sent if message[0] == m.AVAILABLE]
    assert available[1:4] == [Y, 0, 0]
    assert "worker 102" in available[4]


def test_two_announcers_one_dies() -> None:
    bench = Bench()
    bench.send(A, m.EXPECT, X)
    bench.send(C, m.EXPECT, X)
    bench.pin(B, X)
    assert bench.drop(C) == []
    assert kinds(bench.seal(A, X)) == [(B, m.PINNED, None)]


def test_an_announcer_dies_while_a_stamp_is_still_waited_for() -> None:
    bench = Bench()
    bench.send(C, m.EXPECT, X)
    bench.pin(B, X, A, 5)
    assert bench.drop(C) == []
    assert kinds(bench.seal(A, X)) == [(B, m.PINNED, None)]


def test_a_stream_that_ends_fails_whoever_waited_for_it() -> None:
    bench = Bench()
    bench.pin(B, X, A, 5)
    assert kinds(bench.drop(A)) == [(B, m.PIN_FAILED, "owner_died")]
    assert kinds(bench.pin(B, X, A, 5)) == [(B, m.PIN_FAILED, "owner_died")]


def test_reads_of_a_dead_process_are_forgotten() -> None:
    bench = Bench()
    bench.pin(B, X, A, 5)
    bench.send(B, m.WATCH, X, A, 5)
    bench.drop(B)
    assert bench.seal(A, X) == []
    bench.send(A, m.RELEASE, X)
    assert bench.used == 0


def test_watch_is_answered_once() -> None:
    bench = Bench()
    assert bench.send(B, m.WATCH, X, A, 5) == []
    assert bench.seal(A, X, size=77) == [(B, [m.AVAILABLE, X, 77, m.SEAL_PRIMARY, ""])]
    assert bench.advanced(A, 9) == []
    assert bench.send(B, m.WATCH, X, A, 9) == [(B, [m.AVAILABLE, X, 77, m.SEAL_PRIMARY, ""])]


def test_a_read_of_an_object_nobody_holds_any_more() -> None:
    # Its holder's release came first; the reader still gets it, and is asked to give it back.
    bench = Bench()
    bench.pin(B, X, A, 5)
    bench.send(A, m.RELEASE, X)
    sent = bench.seal(A, X)
    assert [message[0] for _, message in sent] == [m.PINNED, m.UNPIN_RECALL]
    bench.send(B, m.UNPIN, X)
    assert bench.used == 0


def test_own_stamps_work() -> None:
    bench = Bench()
    assert bench.pin(A, X, A, 2) == []
    assert kinds(bench.advanced(A, 3)) == [(A, m.PIN_FAILED, "lost")]


def test_announcing_what_is_here_changes_nothing() -> None:
    bench = Bench()
    bench.seal(A, X)
    bench.send(B, m.EXPECT, X)
    assert bench.drop(B) == []
    assert bench.ids == {X}


OWNED = A + bytes(8)  # an id of process A


def test_a_seal_on_its_way_in_another_stream_is_waited_for_while_a_container_holds_the_id() -> None:
    bench = Bench()
    bench.seal(B, Y, contained=OWNED)
    assert bench.pin(C, OWNED) == []
    assert bench.send(C, m.WATCH, OWNED, NOBODY, 0) == []
    sent = bench.seal(A, OWNED, holder=C)
    assert [message[0] for _, message in sent] == [m.PINNED, m.AVAILABLE]


def test_and_while_a_process_holds_it() -> None:
    bench = Bench()
    bench.send(B, m.HOLD, C, OWNED)
    bench.pin(C, OWNED, B, 5)
    assert bench.advanced(B, 5) == []
    assert kinds(bench.seal(A, OWNED)) == [(C, m.PINNED, None)]


def test_holds_that_go_before_the_seal_fail_the_readers() -> None:
    bench = Bench()
    bench.seal(B, Y, contained=OWNED)
    bench.pin(C, OWNED)
    assert kinds(bench.send(B, m.RELEASE, Y)) == [(C, m.PIN_FAILED, "lost")]
    bench.send(B, m.HOLD, C, OWNED)
    bench.pin(C, OWNED, B, 5)
    assert bench.send(C, m.RELEASE, OWNED) == []  # it still waits for the stream
    assert kinds(bench.advanced(B, 5)) == [(C, m.PIN_FAILED, "lost")]


def test_held_or_not_nobody_waits_for_a_dead_owner() -> None:
    bench = Bench()
    bench.seal(B, Y, contained=OWNED)
    bench.pin(C, OWNED)
    assert kinds(bench.drop(A)) == [(C, m.PIN_FAILED, "owner_died")]
    assert kinds(bench.pin(C, OWNED, A, 0)) == [(C, m.PIN_FAILED, "owner_died")]


def test_an_announcement_broken_by_death_is_waited_for_no_longer_than_its_owner_lives() -> None:
    bench = Bench()
    bench.send(A, m.EXPECT, OWNED)
    bench.send(A, m.HOLD, B, OWNED)
    bench.pin(C, OWNED)
    assert kinds(bench.drop(A)) == [(C, m.PIN_FAILED, "owner_died")]


def test_parked_reads_are_bounded() -> None:
    bench = Bench(parked_reads_max=3)
    for _ in range(3):
        bench.pin(B, X, A, 5)
    with pytest.raises(ProtocolError, match="reads"):
        bench.pin(B, X, A, 5)
    bench.drop(B)
    with pytest.raises(ProtocolError, match="expected"):
        bench.send(C, m.EXPECT, b"".join(bytes([n]) * 16 for n in range(4)))
    bench.drop(C)

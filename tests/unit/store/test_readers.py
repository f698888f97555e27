"""Reads of objects that are not here yet: who is answered when, and with what."""

from __future__ import annotations

from typing import Any

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


OWNED = A + bytes(3) + b"\1" + bytes(4)  # an id of process A


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
    assert kinds(bench.send(B, m.RELEASE, Y)) == [(A, m.RECOVER, None)]
    assert kinds(bench.send(A, m.UNRECOVERABLE, OWNED, "lost", "why")) == [(C, m.PIN_FAILED, "lost")]
    bench.send(B, m.HOLD, C, OWNED)
    bench.pin(C, OWNED, B, 5)
    assert bench.send(C, m.RELEASE, OWNED) == []  # it still waits for the stream
    assert kinds(bench.advanced(B, 5)) == [(A, m.RECOVER, None)]
    assert kinds(bench.send(A, m.UNRECOVERABLE, OWNED, "lost", "why")) == [(C, m.PIN_FAILED, "lost")]


# --- the owner of a lost object is asked ---


def test_the_owner_of_what_is_lost_is_asked_once_and_its_word_counts() -> None:
    bench = Bench()
    assert kinds(bench.pin(B, OWNED)) == [(A, m.RECOVER, None)]
    assert bench.pin(C, OWNED) == []
    assert bench.send(C, m.UNRECOVERABLE, OWNED, "lost", "not for C to say") == []
    failed = bench.send(A, m.UNRECOVERABLE, OWNED, "unrecoverable", "its task ran too often")
    assert kinds(failed) == [(B, m.PIN_FAILED, "unrecoverable"), (C, m.PIN_FAILED, "unrecoverable")]
    assert "its task ran too often" in failed[0][1][4]
    assert bench.send(A, m.UNRECOVERABLE, OWNED, "lost", "again") == []


def test_an_owner_that_makes_it_again_says_so_and_then_it_is_there() -> None:
    bench = Bench()
    bench.send(A, m.HOLD, B, OWNED)
    bench.core.lost([OWNED])
    bench.pin(B, OWNED)
    bench.take()
    assert bench.send(A, m.EXPECT, OWNED) == []
    assert kinds(bench.seal(C, OWNED, holder=A)) == [(B, m.PINNED, None)]


def test_who_waits_for_what_an_owner_was_asked_is_told_when_that_dies() -> None:
    bench = Bench()
    bench.pin(B, OWNED)
    assert kinds(bench.drop(A)) == [(B, m.PIN_FAILED, "owner_died")]


def test_a_question_whose_reader_has_gone_is_asked_again_for_the_next() -> None:
    bench = Bench()
    bench.pin(B, OWNED)
    bench.drop(B)
    assert kinds(bench.pin(C, OWNED)) == [(A, m.RECOVER, None)]


def test_who_waits_for_what_its_owner_finds_no_room_for_is_told() -> None:
    bench = Bench()
    bench.send(A, m.HOLD, B, OWNED)
    assert bench.pin(B, OWNED) == []
    assert bench.send(C, m.UNRECOVERABLE, OWNED, "full", "not for C to say") == []
    ((to, message),) = bench.send(A, m.UNRECOVERABLE, OWNED, "full", "no room")
    assert (to, message[0], message[3:]) == (B, m.PIN_FAILED, ["full", "no room"])
    # It may come all the same, and then it is there.
    bench.pin(C, OWNED)
    assert kinds(bench.seal(A, OWNED)) == [(C, m.PINNED, None)]
    assert bench.send(A, m.UNRECOVERABLE, OWNED, "full", "no room") == []
    assert kinds(bench.pin(B, OWNED)) == [(B, m.PINNED, None)]


@pytest.mark.parametrize(
    "words",
    [
        (OWNED, "full", 3),
        (b"short", "full", "why"),
        (OWNED, "elsewhere", "why"),
        (OWNED, "lost", 3),
        (b"short", "lost", "why"),
        (OWNED, "lost"),
    ],
)
def test_words_that_make_no_sense_are_refused(words: tuple[Any, ...]) -> None:
    bench = Bench()
    bench.pin(B, OWNED)
    with pytest.raises(ProtocolError):
        bench.send(A, m.UNRECOVERABLE, *words)


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


def test_a_node_that_found_it_nowhere_has_the_owner_asked_though_somebody_holds_it() -> None:
    bench = Bench()
    bench.core.register(b"\0Nnode01", {"kind": "node"})
    bench.send(A, m.HOLD, A, OWNED)
    assert bench.pin(C, OWNED) == []  # a hold promises that it comes
    assert kinds(bench.pin(b"\0Nnode01", OWNED, b"", m.NOWHERE)) == [(A, m.RECOVER, None)]
    failed = bench.send(A, m.UNRECOVERABLE, OWNED, "lost", "it was put")
    assert kinds(failed) == [(C, m.PIN_FAILED, "lost"), (b"\0Nnode01", m.PIN_FAILED, "lost")]

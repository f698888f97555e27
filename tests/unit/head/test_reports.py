"""ReportBuffer: merging, and that what the head learns is what is there."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoald.head.directory import Directory
from shoald.head.reports import ActorBuffer, KillBuffer, ReportBuffer


def oid(number):
    return number.to_bytes(16, "big")


A, B = oid(1), oid(2)


def told(**first):
    """A buffer whose snapshot was sent."""
    buffer = ReportBuffer()
    buffer.add({"snapshot": True, **first})
    buffer.take(100)
    return buffer


def only(buffer):
    [part] = buffer.take(100)
    return part


def test_changes_before_the_snapshot_are_dropped():
    buffer = ReportBuffer()
    buffer.add({"born": [(A, 1)], "workers": 3})
    part = only(buffer)
    assert part.objects.born == ()
    assert part.gauges == {"workers": 3}
    assert not part.snapshot


def test_a_snapshot_starts_and_a_registration_starts_over():
    buffer = ReportBuffer()
    buffer.add({"snapshot": True, "born": [(A, 1)], "hold": [A], "workers": 1})
    part = only(buffer)
    assert (part.snapshot, part.objects.born, part.objects.hold) == (True, ((A, 1),), (A,))
    buffer.add({"born": [(B, 2)]})
    buffer.start_over()
    buffer.add({"freed": [A]})
    part = only(buffer)
    assert part.objects.freed == part.objects.born == ()
    assert part.gauges == {"workers": 1}, "the head has forgotten the gauges"


def test_the_last_word_counts():
    buffer = told()
    buffer.add({"hold": [A]})
    buffer.add({"release": [A]})
    buffer.add({"hold": [A]})
    part = only(buffer)
    assert (part.objects.hold, part.objects.release) == ((A,), ())


def test_what_came_and_went_is_not_mentioned():
    buffer = told()
    buffer.add({"born": [(A, 1)], "hold": [A]})
    buffer.add({"release": [A], "freed": [A]})
    assert buffer.empty


def test_a_hold_that_came_and_went_is():
    """It may have refused a proposal to free: the release brings the next proposal."""
    buffer = told()
    buffer.add({"hold": [A]})
    buffer.add({"release": [A]})
    assert only(buffer).objects.release == (A,)


def test_parts():
    buffer = told()
    buffer.add({"born": [(oid(n), n) for n in range(5)], "hold": [oid(n) for n in range(3)], "workers": 1})
    parts = buffer.take(2)
    assert [part.more for part in parts] == [True, True, False]
    assert [len(part.objects.born) for part in parts] == [2, 2, 1]
    assert [part.gauges is not None for part in parts] == [True, False, False]
    assert buffer.empty


def test_changes_count_in_their_order():
    buffer = told()
    buffer.add(
        {"changes": [("release", A, 0), ("hold", A, 0), ("born", A, 5), ("born", B, 6), ("freed", B, 0)]}
    )
    part = only(buffer)
    assert (part.objects.hold, part.objects.release) == ((A,), ())
    assert (part.objects.born, part.objects.freed) == (((A, 5),), ())


def test_a_heartbeat_is_an_empty_part():
    part = only(told())
    assert part.gauges is None
    assert not part.more


def test_unknown_keys_are_refused_and_nothing_taken():
    buffer = told()
    with pytest.raises(ValueError, match="colour"):
        buffer.add({"colour": 1, "born": [(A, 1)]})
    assert buffer.empty


REPORTS = st.lists(
    st.tuples(st.sampled_from(["born", "hold", "release", "freed", "take", "over"]), st.integers(0, 3)),
    max_size=30,
)


@given(REPORTS, st.integers(1, 3))
def test_the_directory_ends_up_with_what_is_there(steps, ids_max):
    buffer, directory = ReportBuffer(), Directory(1.0)
    copies, holds = set(), set()
    buffer.add({"snapshot": True})

    def send():
        parts = buffer.take(ids_max)
        snapshot = parts[0].snapshot
        joined = {
            name: tuple(x for part in parts for x in getattr(part.objects, name))
            for name in ("born", "hold", "release", "freed")
        }
        batch = type(parts[0].objects)(**joined)
        (directory.replace if snapshot else directory.apply)("n", batch, 0.0)

    for kind, number in steps:
        object_id = oid(number)
        if kind == "take":
            send()
        elif kind == "over":
            buffer.start_over()
            buffer.add({"snapshot": True, "born": [(o, 1) for o in sorted(copies)], "hold": sorted(holds)})
        elif kind == "born" and object_id not in copies:
            copies.add(object_id)
            buffer.add({"born": [(object_id, 1)]})
        elif kind == "freed" and object_id in copies:
            copies.discard(object_id)
            buffer.add({"freed": [object_id]})
        elif kind == "hold":
            holds.add(object_id)
            buffer.add({"hold": [object_id]})
        elif kind == "release" and object_id in holds:
            holds.discard(object_id)
            buffer.add({"release": [object_id]})
    send()
    for number in range(4):
        entry = directory.get(oid(number))
        assert (entry is not None and bool(entry.copies)) == (oid(number) in copies)
        assert (entry is not None and bool(entry.holders)) == (oid(number) in holds)
    directory.validate({"n"})


def test_of_actors_the_last_word_counts_and_a_snapshot_comes_first():
    buffer = ActorBuffer()
    buffer.add([{"actor_id": b"a", "state": "ALIVE"}], snapshot=False)
    assert buffer.take() is None, "the snapshot will have it"
    buffer.add([], snapshot=True)
    assert buffer.take() == ([], True)
    assert buffer.take() is None
    buffer.add([{"actor_id": b"a", "state": "ALIVE"}, {"actor_id": b"b", "state": "ALIVE"}], snapshot=False)
    buffer.add([{"actor_id": b"a", "state": "DEAD"}], snapshot=False)
    assert buffer.take() == (
        [{"actor_id": b"a", "state": "DEAD"}, {"actor_id": b"b", "state": "ALIVE"}],
        False,
    )
    buffer.start_over()
    buffer.add([{"actor_id": b"a"}], snapshot=False)
    assert buffer.take() is None


# --- kills ---


def test_kills_are_told_again_until_they_are_acknowledged():
    buffer, heard = KillBuffer(10), []
    buffer.add(A, "why", lambda: heard.append("a"))
    assert not buffer.empty
    assert buffer.take(1) == {A: "why"}
    assert buffer.empty
    buffer.add(B, "why not", lambda: heard.append("b"))
    buffer.add(A, "again", lambda: heard.append("a too"))
    assert buffer.take(2) == {B: "why not"}, "what is under way is not told twice over one stream"
    buffer.start_over()
    buffer.add(oid(3), "late", lambda: heard.append("c"))
    assert list(buffer.take(1).items()) == [(A, "why"), (B, "why not"), (oid(3), "late")]
    assert not heard
    for then in buffer.acknowledged(1):
        then()
    assert heard == ["a", "a too", "b", "c"]
    buffer.start_over()
    assert buffer.empty
    assert buffer.take(2) == {}
    assert buffer.acknowledged(2) == []


def test_kills_that_wait_for_a_head_are_bounded():
    buffer = KillBuffer(2)
    for number in (1, 2, 3):
        buffer.add(oid(number), "why", lambda: None)
    assert list(buffer.take(1)) == [B, oid(3)]
    for number in (4, 5, 6):  # a head that takes them, and acknowledges none
        buffer.add(oid(number), "why", lambda: None)
        assert list(buffer.take(number)) == [oid(number)]
    buffer.start_over()
    assert list(buffer.take(7)) == [oid(5), oid(6)]
    assert len(buffer.acknowledged(7)) == 2
    assert buffer.empty

"""The ready queue of `wait`, against a model that looks at every ref in every call."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal.client import waiting
from shoal.client.waiting import WaitState, local_wait_state, take_next
from shoal.ids import OBJECT_ID_SIZE
from shoal.owner.objects import INLINE, PENDING, Entry
from shoal.owner.table import ObjectTable
from shoal.refs import ObjectRef

LOCK = threading.RLock()


@pytest.fixture(autouse=True)
def no_state_is_left():
    yield
    waiting._states.clear()


def make(count: int) -> tuple[ObjectTable, list[ObjectRef[Any]]]:
    """A table, and refs to pending objects."""
    refs = []
    for number in range(count):
        object_id = number.to_bytes(OBJECT_ID_SIZE, "little")
        refs.append(ObjectRef(object_id, Entry(object_id, PENDING, 1)))
    return ObjectTable(bytes(8)), refs


def arrive(ref: ObjectRef[Any]) -> None:
    entry = ref._entry
    assert entry is not None
    entry.state = INLINE
    waiters, entry.waiters = entry.waiters, None
    for waiter in waiters or ():
        waiter.entry_ready(entry)


@given(st.data())
def test_what_is_taken_is_what_a_look_at_all_refs_would_find(data: st.DataObject) -> None:
    count = data.draw(st.integers(1, 12))
    table, refs = make(count)
    order = data.draw(st.permutations(range(count)))
    early = data.draw(st.integers(0, count))
    for index in order[:early]:
        arrive(refs[index])
    late = [refs[index] for index in order[early:]]
    state, left = WaitState(refs, table, LOCK, fetches=False), refs
    while left:
        for _ in range(data.draw(st.integers(0 if state.arrived else 1, len(late))) if late else 0):
            arrive(late.pop())
        wanted = data.draw(st.integers(1, len(left)))
        there = [ref for ref in left if ref._entry is not None and ref._entry.state == INLINE][:wanted]
        before, kept = left, list(left)
        quick = take_next(left, wanted, table, LOCK, False) if data.draw(st.booleans()) else None
        ready, left = quick or state.take(wanted)
        assert ready == there
        assert left == [ref for ref in before if ref not in there]
        assert before == kept, "a list that was returned is the caller's"
        assert state.matches(left, table, False) or not left
        assert local_wait_state() is (state if left else None)


def test_a_changed_list_is_another_one() -> None:
    table, refs = make(3)
    state = WaitState(refs, table, LOCK, fetches=False)
    arrive(refs[1])
    _, left = state.take(1)
    assert state.matches(left, table, False)
    assert not state.matches(list(left), table, False)
    left.reverse()
    assert not state.matches(left, table, False)


def test_the_quick_way_is_for_the_list_that_was_left_and_only_if_enough_is_ready() -> None:
    table, refs = make(6)
    state = WaitState(refs, table, LOCK, fetches=False)
    for ref in refs[:4]:
        arrive(ref)
    assert take_next(refs, 1, table, LOCK, False) is None, "no call has returned this list"
    _, left = state.take(1)
    assert take_next(list(left), 1, table, LOCK, False) is None, "another list"
    assert take_next(left, 1, table, LOCK, True) is None, "ready in another sense"
    assert take_next(left, 1, ObjectTable(bytes(8)), LOCK, False) is None, "another session"
    assert take_next(left, 0, table, LOCK, False) is None, "a number to be refused"
    assert take_next(left, 4, table, LOCK, False) is None, "three are ready"
    assert take_next(left, 3, table, LOCK, False) == (refs[1:4], refs[4:])
    changed = state._list
    changed.reverse()
    arrive(refs[4])
    assert take_next(changed, 1, table, LOCK, False) is None, "changed since"


def test_the_quick_way_ends_with_the_last_ref() -> None:
    table, refs = make(2)
    state = WaitState(refs, table, LOCK, fetches=False)
    for ref in refs:
        arrive(ref)
    _, left = state.take(1)
    assert take_next(left, 1, table, LOCK, False) == ([refs[1]], [])
    assert local_wait_state() is None
    assert take_next([], 1, table, LOCK, False) is None


def test_closing_leaves_no_waiter_behind() -> None:
    table, refs = make(3)
    state = WaitState(refs, table, LOCK, fetches=False)
    arrive(refs[0])
    state.take(1)
    state.close()
    assert [ref._entry.waiters for ref in refs[1:] if ref._entry is not None] == [[], []]


def test_a_wait_that_has_raised_keeps_nothing() -> None:
    table, refs = make(3)
    state = WaitState(refs, table, LOCK, fetches=False)
    arrive(refs[0])
    _, left = state.take(1)
    assert local_wait_state() is state
    state.give_up()
    assert local_wait_state() is None
    assert not [ref._entry.waiters for ref in left if ref._entry is not None and ref._entry.waiters]
    assert take_next(left, 1, table, LOCK, False) is None


def test_people_are_told_what_is_missing() -> None:
    table, refs = make(3)
    state = WaitState(refs, table, LOCK, fetches=False)
    entries = [ref._entry for ref in refs]
    assert (state.missing(), state.is_choice) == ((entries, False), True)
    arrive(refs[1])
    assert state.missing() == ([entries[0], entries[2]], False)
    state.expect(3)
    assert not state.is_choice
    state._positions.append(3)  # a generator
    assert state.missing() == ([entries[0], entries[2]], True)

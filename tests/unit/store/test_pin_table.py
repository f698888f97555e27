"""The client's pins against a model of the daemon that counts them."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from shoal.store.pins import PinTable

IDS = [bytes([index]) * 16 for index in range(6)]
X, Y = IDS[:2]


class PinTableMachine(RuleBasedStateMachine):
    """Pins in flight arrive late; a view never outlives its pin at the daemon; recalls are all obeyed."""

    def __init__(self) -> None:
        super().__init__()
        self.table = PinTable(cached_max=2)
        self.daemon: Counter[bytes] = Counter()
        self.flying: list[bytes] = []
        self.views: Counter[bytes] = Counter()
        self.recalled: set[bytes] = set()

    def unpin(self, ids: list[bytes]) -> None:
        for object_id in ids:
            self.daemon[object_id] -= 1

    @rule(object_id=st.sampled_from(IDS))
    def daemon_pins(self, object_id: bytes) -> None:
        self.daemon[object_id] += 1
        self.flying.append(object_id)

    @precondition(lambda self: self.flying)
    @rule(views=st.integers(0, 2))
    def answer_arrives(self, views: int) -> None:
        object_id = self.flying.pop(0)
        self.views[object_id] += views
        self.unpin(self.table.pinned(object_id, 64, 100, 0, views))

    @rule(object_id=st.sampled_from(IDS))
    def open_view(self, object_id: bytes) -> None:
        if self.table.lookup(object_id) is not None:
            self.table.view_opened(object_id)
            self.views[object_id] += 1

    @rule(ids=st.lists(st.sampled_from(IDS)))
    def close_views(self, ids: list[bytes]) -> None:
        closing = Counter(ids) & self.views
        self.views -= closing
        self.unpin(self.table.views_closed(closing.elements()))

    @rule(ids=st.lists(st.sampled_from(IDS), unique=True))
    def recall(self, ids: list[bytes]) -> None:
        self.unpin(self.table.recall(ids))
        for object_id in ids:
            pin = self.table.lookup(object_id)
            assert (pin is None) == (self.views[object_id] == 0)
            assert pin is None or pin.recalled

    @invariant()
    def sound(self) -> None:
        self.table.validate()
        flying = Counter(self.flying)
        for object_id in IDS:
            pin = self.table.lookup(object_id)
            assert self.daemon[object_id] == flying[object_id] + (pin.count if pin else 0)
            assert (pin.views if pin else 0) == self.views[object_id]
        assert sorted(self.table.live()) == sorted(i for i in IDS if self.views[i])


TestPinTableMachine = PinTableMachine.TestCase
TestPinTableMachine.settings = settings(max_examples=80, stateful_step_count=40, deadline=None)


def test_a_cached_pin_needs_no_daemon() -> None:
    table = PinTable(10)
    assert table.lookup(X) is None
    assert table.pinned(X, 640, 99, 4, views=1) == []
    assert table.views_closed([X]) == []
    pin = table.lookup(X)
    assert pin is not None
    assert (pin.offset, pin.size, pin.flags) == (640, 99, 4)
    assert table.recall([X, Y]) == [X]
    assert table.lookup(X) is None


def test_a_recalled_pin_goes_with_its_last_view() -> None:
    table = PinTable(10)
    table.pinned(X, 0, 1, 0)
    table.view_opened(X)
    table.view_opened(X)
    assert table.recall([X]) == []
    assert table.views_closed([X]) == []
    assert table.views_closed([X]) == [X]
    assert len(table) == 0


def test_pins_that_counted_twice_are_given_back_twice() -> None:
    table = PinTable(10)
    table.pinned(X, 0, 1, 0)
    table.pinned(X, 0, 1, 0)
    assert table.recall([X]) == [X, X]


def test_the_oldest_cached_pins_go_first() -> None:
    table = PinTable(2)
    for object_id in IDS[:2]:
        assert table.pinned(object_id, 0, 1, 0) == []
    assert table.pinned(IDS[2], 0, 1, 0) == [IDS[0]]
    assert table.pinned(IDS[3], 0, 1, 0, views=1) == []
    assert table.views_closed([IDS[3]]) == [IDS[1]]


def test_forgetting_sends_nothing() -> None:
    table = PinTable(10)
    table.pinned(X, 0, 1, 0, views=1)
    table.pinned(Y, 0, 1, 0)
    table.forget(X)
    table.forget(Y)
    assert table.views_closed([X]) == []
    assert table.recall([X, Y]) == []
    with pytest.raises(KeyError):
        table.view_opened(X)


def test_what_is_kept_is_never_given_back() -> None:
    table = PinTable(cached_max=2)
    table.pinned(X, 0, 10, 0, views=1)
    table.pinned(Y, 10, 10, 0)
    assert table.keep_live() == 1
    assert table.views_closed([X]) == []
    assert table.recall([X, Y]) == [Y]
    assert table.live() == [X]
    table.validate()


def test_unread_gives_back_all_without_a_view() -> None:
    table = PinTable(cached_max=10)
    table.pinned(X, 0, 100, 0)
    table.pinned(X, 0, 100, 0)
    table.pinned(Y, 128, 100, 0, views=1)
    assert table.views() == 1
    assert table.unread() == [X, X]
    assert table.live() == [Y]
    table.validate()

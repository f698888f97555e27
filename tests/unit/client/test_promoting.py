"""Values whose refs were sent away: what is written at once, what is asked for, and what those cost that wait."""

from __future__ import annotations

import pytest

from shoal.client.promoting import FOR_PROMOTION, Promoter
from shoal.owner.objects import INLINE, Entry
from shoal.owner.table import ObjectTable
from shoal.store.extents import ExtentLeases
from shoal.wire import messages as m

SLAB = 64 * 1024


class FakeRegion:
    """A region that is a bytearray."""

    def __init__(self) -> None:
        self.memory = bytearray(16 * SLAB)

    def window(self, offset: int, size: int) -> memoryview:
        """What is written lands in `memory`."""
        return memoryview(self.memory)[offset : offset + size]


class Values:
    """A promoter with entries that wait for it; counts how often it looks at one."""

    def __init__(self, count: int, size: int = 1000) -> None:
        self.table = ObjectTable(b"p" * 8)
        self.region = FakeRegion()
        self.promoter = Promoter(self.table, self.region, ExtentLeases(SLAB, 4 * SLAB, 8))
        self.entries = [Entry(number.to_bytes(16, "big"), INLINE, 1) for number in range(count)]
        for entry in self.entries:
            entry.value = bytes([entry.id[-1]]) * size
        self.looks = 0

    def value_of(self, entry: Entry) -> tuple[bytes, int]:
        """What is written for an entry."""
        self.looks += 1
        return entry.value, m.SEAL_PRIMARY

    def flush(self) -> list[list]:
        """One flush: what it sends."""
        del self.entries[: self.promoter.promote(self.entries, self.value_of)]
        return self.table.take_node_messages()


@pytest.fixture
def values(monkeypatch):
    monkeypatch.setattr("shoal.client.promoting.contained_ids", lambda _content: b"")
    return Values(10_000)


def test_values_that_wait_for_room_cost_a_flush_nothing(values):
    values.flush()
    values.looks = 0
    for _ in range(100):
        assert values.flush() == []
    assert values.looks == 100, "one look at the first is enough to know"


def test_room_is_asked_for_many_values_at_once(values):
    ((kind, number, least, wanted),) = values.flush()
    assert (kind, number) == (m.ALLOC, FOR_PROMOTION)
    assert SLAB // 2 - 1024 < least <= SLAB // 2
    assert wanted >= SLAB


def test_what_was_written_is_sealed_before_more_is_asked_for(values):
    """What is leased ahead of need counts until it is sealed: else little more would be granted."""
    _, _, least, _ = values.flush()[0]
    assert values.promoter.granted(0, least) == []
    messages = values.flush()
    assert [message[0] for message in messages] == [m.SEAL_RUN, m.ALLOC]
    sizes = messages[0][3]
    assert sizes == [1000] * (least // 1024)
    assert len(values.entries) == 10_000 - len(sizes)
    assert values.region.memory[1024:2024] == b"\x01" * 1000


def test_where_there_is_no_room_for_many_one_at_a_time_is_asked_for(values):
    values.flush()
    assert not values.promoter.refused()
    ((_, _, least, _),) = values.flush()
    assert least == 1024
    values.promoter.granted(0, 1024)
    assert values.flush()[-1][2] == 1024, "until none waits there may be no room for many"
    assert values.promoter.refused(), "none for one either"


def test_the_next_ones_are_asked_for_together_again(values):
    values.flush()
    values.promoter.refused()
    del values.entries[1:]
    values.flush()
    values.promoter.granted(0, 1024)
    values.flush()
    assert values.entries == []
    values.entries = Values(100).entries
    assert values.flush()[-1][2] > 1024

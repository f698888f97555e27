"""The allocator: nothing overlaps, everything merges, warm memory first."""

from __future__ import annotations

import random

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from shoald.store.allocator import LARGE_BYTES, PAGE, Allocator, round_up

MIB = 1024**2


class AllocatorMachine(RuleBasedStateMachine):
    """Against a naive model: a set of allocated 64-byte units."""

    def __init__(self) -> None:
        super().__init__()
        self.allocator = Allocator(16 * MIB)
        self.used: dict[int, int] = {}
        self.high_water = 0

    def _taken(self, offset: int, size: int) -> None:
        assert offset % (PAGE if size >= LARGE_BYTES else 64) == 0
        assert offset >= 0
        assert offset + size <= self.allocator.capacity
        for start, length in self.used.items():
            assert offset + size <= start or start + length <= offset
        self.used[offset] = size
        self.high_water = max(self.high_water, offset + size)

    @rule(size=st.one_of(st.integers(1, 5000), st.integers(100_000, 5 * MIB)))
    def allocate(self, size: int) -> None:
        size = round_up(size)
        largest = self.allocator.largest_free
        offset = self.allocator.allocate(size)
        if offset is None:
            assert size + (PAGE if size >= LARGE_BYTES else 0) > largest
        else:
            self._taken(offset, size)

    @rule(least=st.integers(1, 4 * MIB), more=st.integers(0, 20 * MIB))
    def lease(self, least: int, more: int) -> None:
        largest = self.allocator.largest_free
        leased = self.allocator.lease(least, least + more)
        if leased is None:
            assert round_up(least) + PAGE > largest
        else:
            assert round_up(least) <= leased[1] <= round_up(least + more)
            self._taken(*leased)

    @rule(data=st.data())
    def free(self, data: st.DataObject) -> None:
        if self.used:
            offset = data.draw(st.sampled_from(sorted(self.used)))
            self.allocator.free(offset, self.used.pop(offset))

    @rule(data=st.data(), cut=st.integers(1, 1000))
    def free_part(self, data: st.DataObject, cut: int) -> None:
        large = sorted(o for o, n in self.used.items() if n > 64)
        if large:
            offset = data.draw(st.sampled_from(large))
            size = self.used[offset]
            keep = 64 * (1 + cut % (size // 64 - 1))
            self.allocator.free(offset + keep, size - keep)
            self.used[offset] = keep

    @invariant()
    def adds_up(self) -> None:
        self.allocator.validate()
        assert self.allocator.used_bytes == sum(self.used.values())
        assert self.allocator.high_water == self.high_water
        if not self.used:
            assert self.allocator.free_extents() == [(0, self.allocator.capacity)]
            assert self.allocator.fragmentation == 0.0


TestAllocatorMachine = AllocatorMachine.TestCase
TestAllocatorMachine.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


def test_ends_with_one_extent_whatever_the_order() -> None:
    for seed in range(5):
        allocator = Allocator(64 * MIB)
        chooser = random.Random(seed)
        taken: list[tuple[int, int]] = []
        for _ in range(1500):
            if taken and chooser.random() < 0.45:
                allocator.free(*taken.pop(chooser.randrange(len(taken))))
            else:
                size = round_up(int(chooser.paretovariate(0.7) * 100) % (8 * MIB))
                offset = allocator.allocate(size)
                if offset is not None:
                    taken.append((offset, size))
        allocator.validate()
        chooser.shuffle(taken)
        for extent in taken:
            allocator.free(*extent)
        allocator.validate()
        assert allocator.free_extents() == [(0, allocator.capacity)]


def test_newest_free_is_reused_first() -> None:
    allocator = Allocator(64 * MIB)
    offsets = [allocator.allocate(100_032) for _ in range(9)]
    for index in (1, 5, 3):
        allocator.free(offsets[index] or 0, 100_032)
    assert [allocator.allocate(100_032) for _ in range(3)] == [offsets[3], offsets[5], offsets[1]]


def test_same_size_over_and_over_touches_no_new_memory() -> None:
    allocator = Allocator(1024 * MIB)
    for _ in range(50):
        offset = allocator.allocate(100 * MIB)
        assert offset == 0
        allocator.free(offset, 100 * MIB)
    assert allocator.high_water == 100 * MIB


def test_untouched_memory_comes_from_the_lowest_address() -> None:
    allocator = Allocator(64 * MIB)
    assert [allocator.allocate(MIB) for _ in range(4)] == [0, MIB, 2 * MIB, 3 * MIB]


def test_a_lease_takes_less_of_warm_memory_before_it_touches_new() -> None:
    allocator = Allocator(256 * MIB)
    first = allocator.allocate(32 * MIB)
    assert first == 0
    allocator.allocate(64)
    allocator.free(0, 32 * MIB)
    assert allocator.lease(MIB, 64 * MIB) == (0, 32 * MIB)
    assert allocator.high_water == 32 * MIB + 64


def test_a_lease_under_pressure_gives_what_there_is() -> None:
    allocator = Allocator(8 * MIB)
    assert allocator.allocate(5 * MIB) == 0
    assert allocator.lease(MIB, 64 * MIB) == (5 * MIB, 3 * MIB)
    assert allocator.lease(64, 64) is None
    assert allocator.allocate(64) is None


def test_large_blocks_start_on_a_page() -> None:
    allocator = Allocator(64 * MIB)
    allocator.allocate(64)
    offset = allocator.allocate(LARGE_BYTES)
    assert offset == PAGE
    allocator.validate()
    assert allocator.allocate(128) == 64  # the gap is used


def test_an_exact_fit_is_found_when_nothing_else_is_left() -> None:
    allocator = Allocator(8 * MIB)
    kept = [allocator.allocate(1000 * 64 + 64 * index) for index in range(12)]
    gaps = [allocator.allocate(64) for _ in range(2)]
    assert None not in kept + gaps
    rest = allocator.largest_free
    allocator.allocate(rest)
    for index in (11, 0, 1, 2, 4, 6):
        allocator.free(kept[index] or 0, 1000 * 64 + 64 * index)
    assert allocator.allocate(1011 * 64) == kept[11]


@pytest.mark.parametrize(("offset", "size"), [(0, 64), (64, 192), (-64, 64), (128, 64 * MIB), (0, 0)])
def test_freeing_what_is_not_allocated_is_refused(offset: int, size: int) -> None:
    allocator = Allocator(MIB)
    allocator.allocate(192)
    allocator.free(0, 64)
    before = allocator.free_extents()
    with pytest.raises(ValueError, match="not allocated"):
        allocator.free(offset, size)
    assert allocator.free_extents() == before
    allocator.validate()


def test_capacity_beyond_32_bits() -> None:
    allocator = Allocator(2**45)
    assert allocator.allocate(2**40) == 0
    assert allocator.allocate(2**33 + 1) == 2**40
    allocator.free(0, 2**40)
    allocator.validate()


def test_validate_notices_a_broken_state() -> None:
    allocator = Allocator(MIB)
    allocator.allocate(192)
    allocator.free(0, 64)
    allocator.free_bytes += 64
    with pytest.raises(AssertionError):
        allocator.validate()

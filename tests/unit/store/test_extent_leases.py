"""Carving leased slabs: no byte twice, none lost, and requests that follow what is written."""

from __future__ import annotations

import random

from shoal.store.extents import ExtentLeases

KIB, MIB = 1024, 1024**2


def leases(slabs_max: int = 8) -> ExtentLeases:
    return ExtentLeases(1 * MIB, 8 * MIB, slabs_max)


def test_carves_from_below_in_steps_of_64() -> None:
    extents = leases()
    assert extents.carve(10) is None
    assert extents.add(4096, 1 * MIB) == []
    assert [extents.carve(size) for size in (1, 64, 65, 0, 100)] == [4096, 4160, 4224, 4352, 4416]
    assert extents.unused() == [(4544, 4096 + MIB - 4544)]
    assert extents.carve(1) is None


def test_a_slab_used_up_exactly_is_gone() -> None:
    extents = leases()
    extents.add(0, 128)
    assert extents.carve(128) == 0
    assert extents.left_bytes == 0
    assert extents.unused() == []


def test_requests_follow_what_is_written() -> None:
    extents = leases()
    assert extents.want(100) == (128, 1 * MIB)
    assert extents.want(600 * KIB) == (600 * KIB, 2400 * KIB)
    assert extents.want(100 * MIB) == (100 * MIB, 100 * MIB)
    sizes = []
    at = 0
    for _ in range(5):
        _, wanted = extents.want(100)
        sizes.append(wanted // MIB)
        extents.add(at, wanted)
        at += wanted + MIB
        while extents.carve(64 * KIB) is not None:
            pass
    assert sizes == [1, 2, 4, 8, 8]
    extents.unused()
    assert extents.want(100) == (128, 1 * MIB)


def test_asks_ahead_once_before_a_slab_runs_out() -> None:
    extents = leases()
    assert extents.want_ahead() is None  # nothing was ever written
    extents.add(0, 4 * MIB)
    asked = []
    for _ in range(38):
        assert extents.carve(100 * KIB) is not None
        wanted = extents.want_ahead()
        if wanted:
            asked.append(wanted)
    assert len(asked) == 1
    assert asked[0] == (1 * MIB, 2 * MIB)
    extents.add(10 * MIB, 2 * MIB, ahead=True)
    extents.carve(MIB)
    extents.carve(MIB)
    assert extents.want_ahead() is not None
    extents.refused(ahead=True)
    assert extents.want_ahead() is None  # not again until something is written


def test_a_slab_that_continues_another_is_joined() -> None:
    extents = leases()
    extents.add(0, 1 * MIB)
    extents.carve(64)
    extents.add(1 * MIB, 1 * MIB)
    assert extents.unused() == [(64, 2 * MIB - 64)]


def test_slabs_are_bounded_and_the_smallest_rest_goes_back() -> None:
    extents = leases(slabs_max=2)
    extents.add(0, 4096)
    extents.add(10 * MIB, 64)
    assert extents.add(20 * MIB, 1 * MIB) == [(10 * MIB, 64)]


def test_what_was_carved_in_vain_is_kept_or_given_back() -> None:
    extents = leases()
    extents.add(0, 1024)
    first = extents.carve(100)
    second = extents.carve(100)
    assert (first, second) == (0, 128)
    assert extents.give_back(128, 100) == []
    assert extents.carve(100) == 128
    assert extents.give_back(0, 100) == [(0, 128)]


def test_nothing_larger_than_the_bound_is_asked_for_ahead() -> None:
    extents = ExtentLeases(1 * MIB, 64 * MIB, 8, ahead_max=2 * MIB)
    at = 0
    for _ in range(4):
        _, wanted = extents.want(100)
        assert wanted <= 2 * MIB
        extents.add(at, wanted)
        at += wanted + MIB
        while extents.carve(64 * KIB) is not None:
            pass
    assert extents.want(3 * MIB) == (3 * MIB, 3 * MIB)
    extents.add(at, 3 * MIB)
    assert extents.carve(3 * MIB) is not None
    assert extents.want_ahead() is None


def test_no_byte_twice_and_none_lost() -> None:
    for seed in range(20):
        chooser = random.Random(seed)
        extents = leases(slabs_max=3)
        owned: dict[int, bool] = {}  # units of 64 → still with us
        at = 0
        for _ in range(400):
            size = chooser.choice([1, 64, 100, 5000, 70_000])
            offset = extents.carve(size)
            if offset is None:
                least, wanted = extents.want(size)
                assert least >= size
                granted = chooser.choice([least, wanted])
                at += chooser.choice([0, 64])
                owned.update((unit, True) for unit in range(at // 64, (at + granted) // 64))
                back = extents.add(at, granted)
                at += granted
            else:
                units = range(offset // 64, offset // 64 + -(-size // 64))
                assert all(owned.pop(unit) for unit in units)
                back = []
            if chooser.random() < 0.02:
                back = back + extents.unused()
            for start, length in back:
                for unit in range(start // 64, (start + length) // 64):
                    assert owned.pop(unit)
            assert extents.left_bytes == 64 * len(owned)


def test_large_values_have_their_next_place_asked_for_ahead_when_they_keep_coming() -> None:
    extents = ExtentLeases(1 * MIB, 64 * MIB, 8)
    for _ in range(2):  # as put and freed one after the other: they get the same place
        assert extents.want(100 * MIB) == (100 * MIB, 100 * MIB)
        extents.add(0, 100 * MIB)
        assert extents.carve(100 * MIB) == 0
        assert extents.want_ahead() is None
    assert extents.want(100 * MIB) == (100 * MIB, 100 * MIB)
    extents.add(0, 100 * MIB)
    assert extents.carve(100 * MIB) == 0
    assert extents.want_ahead() == (1 * MIB, 100 * MIB)
    extents.add(100 * MIB, 100 * MIB, ahead=True)
    assert extents.carve(100 * MIB) == 100 * MIB
    assert extents.want_ahead() == (1 * MIB, 100 * MIB)
    extents.add(0, 100 * MIB, ahead=True)
    assert extents.want_ahead() is None
    assert extents.idle() == [(0, 100 * MIB)]
    assert extents.left_bytes == 0
    assert extents.want(100 * MIB) == (100 * MIB, 100 * MIB)
    extents.add(0, 100 * MIB)
    assert extents.carve(100 * MIB) == 0
    assert extents.want_ahead() is None


def large_writer(ahead_max: int) -> ExtentLeases:
    """Somebody who has written large values for a while."""
    extents = ExtentLeases(1 * MIB, 8 * MIB, 8, ahead_max=ahead_max)
    for number in range(4):
        assert extents.want(20 * MIB) == (20 * MIB, 20 * MIB)
        extents.add(number * 100 * MIB, 20 * MIB)
        assert extents.carve(20 * MIB) is not None
    return extents


def test_a_large_place_ahead_and_the_one_in_use_are_within_the_bound() -> None:
    assert large_writer(40 * MIB).want_ahead() == (1 * MIB, 20 * MIB)
    assert large_writer(39 * MIB).want_ahead() is None


def test_less_than_a_large_place_ahead_goes_back() -> None:
    extents = large_writer(64 * MIB)
    assert extents.want_ahead() is not None
    assert extents.add(0, 1 * MIB, ahead=True) == [(0, 1 * MIB)]
    assert extents.left_bytes == 0
    assert extents.want_ahead() is None


def test_a_slab_that_was_asked_for_before_a_large_value_is_kept() -> None:
    extents = ExtentLeases(1 * MIB, 8 * MIB, 8, ahead_max=64 * MIB)
    extents.add(0, 64)
    assert extents.carve(64) == 0
    assert extents.want_ahead() is not None
    extents.want(20 * MIB)
    assert extents.add(MIB, MIB, ahead=True) == []
    assert extents.carve(64) == MIB

"""Many values that are read together, most of them small, through a store that has room for a part of them."""

import gc
import resource
from pathlib import Path

import numpy as np
import pytest

import shoal

COUNT, SIZE, STORE = 20_000, 1000, 8 * 1024**2
FOR_EVER = {"store_full_wait_ms": 3_600_000, "store_relief_wait_ms": 3_600_000}


@pytest.fixture
def small(no_leaks):
    shoal.init(num_cpus=2, object_store_memory=STORE, _system_config=FOR_EVER)
    yield
    shoal.shutdown()


def value(number):
    return bytes([number % 256]) * SIZE


@shoal.remote
def make(begin, count):
    return [shoal.put(value(number)) for number in range(begin, begin + count)]


@shoal.remote
def check(refs, begin):
    for number, found in enumerate(shoal.get(refs), begin):
        assert found == value(number)
    return len(refs)


@pytest.fixture
def few_descriptors():
    """No process opens thousands of files at once, whatever the machine allows."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(1024, hard), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_what_was_spilled_is_read_without_a_descriptor_for_each(few_descriptors, small):
    part = COUNT // 4
    lists = shoal.get([make.remote(begin, part) for begin in range(0, COUNT, part)])
    refs = [ref for each in lists for ref in each]
    for number, found in enumerate(shoal.get(refs)):
        assert found == value(number)
    assert shoal.memory_summary()["read_in_files"] > 1024
    assert shoal.get(check.remote(refs, 0)) == COUNT


def mapped_files():
    return Path("/proc/self/maps").read_text().count(".spill")


def test_larger_ones_are_mapped_without_a_descriptor_for_each(few_descriptors, small):
    refs = [shoal.put(np.full(15_000, number)) for number in range(1500)]
    found = shoal.get(refs)
    assert shoal.memory_summary()["read_in_files"] > 1024
    assert all((array == number).all() for number, array in enumerate(found))
    with pytest.raises(ValueError, match="WRITEABLE"):
        found[0].flags.writeable = True
    assert 0 < mapped_files() < 1024
    del found
    gc.collect()
    assert mapped_files() == 0


def test_values_that_have_to_be_written_before_their_reader_can_go_on(small):
    """What the task has read fills the store, and it waits for the rest, which the driver finds no room for."""
    refs = [shoal.put(value(number)) for number in range(COUNT)]
    assert shoal.get(check.remote(refs, 0)) == COUNT


def test_several_readers_of_the_same(small):
    refs = [shoal.put(value(number)) for number in range(COUNT)]
    half = COUNT // 2
    tasks = [check.remote(refs[:half], 0), check.remote(refs[half:], half), check.remote(refs, 0)]
    assert shoal.get(tasks) == [half, half, COUNT]
    assert shoal.get(refs[::7]) == [value(number) for number in range(0, COUNT, 7)]


def test_without_spilling_the_reader_hears_that_there_is_no_room(no_leaks):
    settings = {"spilling": False, "store_full_wait_ms": 200}
    shoal.init(num_cpus=2, object_store_memory=STORE, _system_config=settings)
    try:
        refs = [shoal.put(value(number)) for number in range(COUNT)]
        with pytest.raises(shoal.exceptions.ObjectStoreFullError, match=r"driver .* holds .* objects"):
            shoal.get(check.remote(refs, 0))
        assert shoal.get(refs) == [value(number) for number in range(COUNT)]
        few = refs[:100]
        del refs
        assert shoal.get(check.remote([shoal.put(shoal.get(ref)) for ref in few], 0)) == 100
    finally:
        shoal.shutdown()

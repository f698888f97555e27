"""Copies into pages that are new, unmapped or mapped: whatever they are, the bytes arrive, and only where they should."""

import ctypes
import os
import resource
import threading
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from regionparts import opened, readable_of
from shoal.store.hugepages import HugePages
from shoal.store.region import Region
from shoald.store.region import RegionFile

MIB = 1024**2
CAPACITY = 12 * MIB
_PUNCH = 0x1 | 0x2  # FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE


@pytest.fixture
def file() -> Iterator[RegionFile]:
    region_file = RegionFile(CAPACITY)
    yield region_file
    region_file.close()


def copy(region: Region, offset: int, source: np.ndarray) -> None:
    region.copy(region.window(offset, source.size), source)


def punch(file: RegionFile, offset: int, size: int) -> None:
    fallocate = ctypes.CDLL(None, use_errno=True).fallocate
    fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]
    assert fallocate(file.write_fd, _PUNCH, offset, size) == 0


def refuse_huge_pages(region: Region) -> None:
    region.window(0, 1)  # opens the writer
    assert region._writer is not None
    region._writer._huge.stop()


ranges = st.tuples(st.integers(0, CAPACITY - 1), st.integers(1, 7 * MIB)).map(
    lambda pair: (pair[0], min(pair[1], CAPACITY - pair[0]))
)


@pytest.mark.parametrize("huge", [True, False])
@settings(max_examples=40, deadline=None)
@given(steps=st.lists(st.tuples(ranges, st.booleans()), min_size=1, max_size=8))
def test_any_copies_arrive_and_touch_nothing_else(
    huge: bool, steps: list[tuple[tuple[int, int], bool]]
) -> None:
    file = RegionFile(CAPACITY)
    try:
        region = opened(file)
        if not huge:
            refuse_huge_pages(region)
        expected = np.zeros(CAPACITY, np.uint8)
        random = np.random.default_rng(len(steps))
        for (offset, size), pages_go in steps:
            if pages_go:  # what others give back while this process believes that it is mapped
                start, end = -(-offset // 4096) * 4096, (offset + size) // 4096 * 4096
                if start < end:
                    punch(file, start, end - start)
                    expected[start:end] = 0
            else:
                source = random.integers(1, 255, size, np.uint8)
                copy(region, offset, source)
                expected[offset : offset + size] = source
            assert np.array_equal(readable_of(region), expected)
    finally:
        file.close()


def test_pages_that_others_have_made_are_found(file: RegionFile) -> None:
    other, region = opened(file), opened(file)
    other.window(3 * MIB + 5, 2 * MIB)[:] = 7
    source = np.full(8 * MIB, 9, np.uint8)
    copy(region, MIB + 3, source)
    assert np.array_equal(readable_of(other)[MIB + 3 : 9 * MIB + 3], source)
    assert not readable_of(other)[: MIB + 3].any()
    assert not readable_of(other)[9 * MIB + 3 :].any()


def test_pages_are_mapped_for_somebody_who_writes_bit_by_bit(file: RegionFile) -> None:
    region, other = opened(file), opened(file)
    other.window(MIB, MIB)[:] = 7
    window = region.window(MIB // 2 + 64, 6 * MIB)
    assert not region.is_mapped(window)
    region.prepare(window)
    assert region.is_mapped(window)
    assert (readable_of(region)[MIB : 2 * MIB] == 7).all()
    assert not readable_of(region)[2 * MIB :].any()
    faults = resource.getrusage(resource.RUSAGE_THREAD).ru_minflt
    window[:] = 9
    assert resource.getrusage(resource.RUSAGE_THREAD).ru_minflt - faults < 2 * MIB // 4096
    copy(region, MIB, np.full(4 * MIB, 5, np.uint8))
    assert (readable_of(region)[MIB : 5 * MIB] == 5).all()
    assert not region.is_mapped(region.window(0, CAPACITY))


@pytest.mark.parametrize("huge", [True, False])
def test_threads_copy_side_by_side(file: RegionFile, huge: bool) -> None:
    region = opened(file)
    if not huge:
        refuse_huge_pages(region)
    sources = [np.full(3 * MIB - 10, number + 1, np.uint8) for number in range(4)]
    threads = [
        threading.Thread(target=copy, args=(region, number * source.size, source))
        for number, source in enumerate(sources)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert np.array_equal(readable_of(region)[: 4 * (3 * MIB - 10)], np.concatenate(sources))


def test_a_file_that_cannot_be_written_to_is_written_through_the_mapping(
    file: RegionFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> int:
        raise OSError(22, "Invalid argument")

    region = opened(file)
    refuse_huge_pages(region)
    monkeypatch.setattr(os, "pwrite", refuse)
    for _ in range(2):
        source = np.random.default_rng(0).integers(0, 255, 5 * MIB + 3, np.uint8)
        copy(region, 11, source)
        assert np.array_equal(readable_of(region)[11 : 5 * MIB + 14], source)


def test_no_descriptor_is_left(file: RegionFile) -> None:
    before = sorted(os.listdir("/proc/self/fd"))
    region = opened(file)
    copy(region, 0, np.ones(2 * MIB, np.uint8))
    region.close()
    del region
    assert sorted(os.listdir("/proc/self/fd")) == before


def huge_pages_but(refused: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Huge pages can be made, but at these offsets; where they were asked for."""
    asked: list[int] = []

    def make(_: HugePages, offset: int) -> bool:
        asked.append(offset)
        return offset not in refused

    monkeypatch.setattr(HugePages, "make", make)
    return asked


@pytest.mark.parametrize("refused", [(), (4 * MIB,), (2 * MIB, 4 * MIB, 6 * MIB, 8 * MIB)])
def test_whole_units_of_new_pages_become_huge_ones(
    file: RegionFile, monkeypatch: pytest.MonkeyPatch, refused: tuple[int, ...]
) -> None:
    asked = huge_pages_but(refused, monkeypatch)
    region = opened(file)
    source = np.random.default_rng(1).integers(0, 255, 9 * MIB + 5, np.uint8)
    copy(region, MIB, source)
    assert np.array_equal(readable_of(region)[MIB : 10 * MIB + 5], source)
    assert not readable_of(region)[:MIB].any()
    assert not readable_of(region)[10 * MIB + 5 :].any()
    # After a refusal the rest is written as small pages, which this process has not mapped then.
    end = min(refused, default=10 * MIB)
    assert asked == list(range(2 * MIB, min(end + 1, 10 * MIB), 2 * MIB))
    assert region.is_mapped(region.window(2 * MIB, end - 2 * MIB))
    assert region.is_mapped(region.window(2 * MIB, 8 * MIB)) == (not refused)


@pytest.mark.parametrize("refused", [(), (6 * MIB,)])
def test_pages_made_for_somebody_who_writes_bit_by_bit_are_huge_ones(
    file: RegionFile, monkeypatch: pytest.MonkeyPatch, refused: tuple[int, ...]
) -> None:
    asked = huge_pages_but(refused, monkeypatch)
    region, other = opened(file), opened(file)
    other.window(3 * MIB, 5)[:] = 7  # this unit has a small page
    window = region.window(MIB + 64, 10 * MIB)
    region.prepare(window)
    assert asked == ([4 * MIB, 6 * MIB, 8 * MIB] if not refused else [4 * MIB, 6 * MIB])
    assert region.is_mapped(window)
    assert (readable_of(region)[3 * MIB : 3 * MIB + 5] == 7).all()
    before = len(asked)
    region.prepare(window)
    assert len(asked) == before  # all is known to be mapped


def test_huge_pages_of_the_kernel_hold_what_is_copied(file: RegionFile) -> None:
    region, other = opened(file), Region(file.read_fd, None, CAPACITY)
    region.window(5 * MIB, 1)[:] = 9  # not a hole: this unit has small pages
    source = np.random.default_rng(1).integers(0, 255, 9 * MIB, np.uint8)
    copy(region, MIB, source)
    assert os.fstat(file.write_fd).st_blocks * 512 == 9 * MIB  # reading a hole would fill it
    assert np.array_equal(readable_of(other)[MIB : 10 * MIB], source)
    assert not readable_of(other)[:MIB].any()
    assert not readable_of(other)[10 * MIB :].any()


def test_who_finds_another_thread_writing_goes_through_the_mapping(
    file: RegionFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> int:
        raise AssertionError("would wait for the other thread")

    region = opened(file)
    refuse_huge_pages(region)
    assert region._writer is not None
    monkeypatch.setattr(os, "pwrite", refuse)
    source = np.random.default_rng(2).integers(0, 255, 5 * MIB, np.uint8)
    with region._writer._writing:
        copy(region, MIB + 1, source)
    assert np.array_equal(readable_of(region)[MIB + 1 : 6 * MIB + 1], source)
    assert region._writer._writing.acquire(blocking=False)

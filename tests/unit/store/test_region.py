"""The client's mappings: readers cannot write, views outlive everything, forks are safe."""

from __future__ import annotations

import ctypes
import gc
import mmap
import os
import resource
from collections.abc import Iterator

import numpy as np
import pytest

from regionparts import opened, readable_of
from shoal.store.region import Region
from shoald.store.region import RegionFile

MIB = 1024**2


@pytest.fixture
def file() -> Iterator[RegionFile]:
    region_file = RegionFile(8 * MIB)
    yield region_file
    region_file.close()


def in_child(function: object) -> int:
    """Exit status of ``function()`` in a forked child; 0 if it returned True."""
    pid = os.fork()
    if pid == 0:
        try:
            os._exit(0 if function() else 1)  # type: ignore[operator]
        finally:
            os._exit(2)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def test_what_is_written_is_read(file: RegionFile) -> None:
    region = opened(file)
    region.window(4096, 5)[:] = [1, 2, 3, 4, 5]
    assert readable_of(region)[4094:4102].tolist() == [0, 0, 1, 2, 3, 4, 5, 0]
    other = Region(file.read_fd, None, file.capacity)
    assert readable_of(other)[4096] == 1


def test_readers_cannot_write_whatever_they_try(file: RegionFile) -> None:
    region = Region(file.read_fd, None, file.capacity)
    readable = readable_of(region)
    with pytest.raises(ValueError, match="read-only"):
        readable[0] = 1
    with pytest.raises(ValueError, match="WRITEABLE"):
        readable.flags.writeable = True
    with pytest.raises(PermissionError):
        mmap.mmap(file.read_fd, file.capacity, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)
    with pytest.raises(OSError, match="9"):
        os.write(file.read_fd, b"x")
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    assert libc.mprotect(readable.ctypes.data, 4096, mmap.PROT_READ | mmap.PROT_WRITE) == -1
    with pytest.raises(ValueError, match="reading only"):
        region.window(0, 1)


def test_mapping_a_large_region_costs_nothing() -> None:
    large = RegionFile(2**40)
    before = resource.getrusage(resource.RUSAGE_THREAD).ru_minflt
    region = opened(large)
    assert resource.getrusage(resource.RUSAGE_THREAD).ru_minflt - before < 1000, "pages were made"
    assert os.fstat(large.read_fd).st_blocks * 512 <= 16 * MIB
    region.window(2**40 - 1, 1)[0] = 7
    assert os.fstat(large.read_fd).st_blocks * 512 <= 16 * MIB
    region.close()
    large.close()


@pytest.mark.parametrize(("offset", "size"), [(-1, 2), (0, -1), (8 * MIB, 1), (8 * MIB - 1, 2)])
def test_windows_stay_within(file: RegionFile, offset: int, size: int) -> None:
    with pytest.raises(ValueError, match="within"):
        opened(file).window(offset, size)


def test_a_short_file_is_refused(file: RegionFile) -> None:
    with pytest.raises(ValueError, match="bytes"):
        Region(file.read_fd, None, file.capacity + 4096)
    with pytest.raises(ValueError, match="bytes"):
        Region(file.read_fd, None, 4096).open_writer(os.open("/dev/null", os.O_RDWR))


def test_views_outlive_the_region(file: RegionFile) -> None:
    region = opened(file)
    window = region.window(0, 100)
    view = readable_of(region)[:100]
    region.close()
    region.close()
    file.close()
    del region
    gc.collect()
    window[:] = 9
    assert view.sum() == 900


def test_closing_unmaps_when_nothing_lives(file: RegionFile) -> None:
    region = opened(file)
    view = readable_of(region)
    assert view is not None
    name = f"{view.ctypes.data:x}-"
    with open("/proc/self/maps") as maps:
        assert name in maps.read()
    region.close()
    del view
    with open("/proc/self/maps") as maps:
        assert name not in maps.read()


def test_a_child_reads_and_cannot_write(file: RegionFile) -> None:
    region = opened(file)
    window = region.window(0, 8)
    window[:] = 5
    address = window.ctypes.data
    readable = readable_of(region)

    def child() -> bool:
        assert readable[0] == 5
        with pytest.raises(ValueError, match="fork"):
            region.window(0, 8)
        with open("/proc/self/maps") as maps:
            (line,) = [line for line in maps if line.startswith(f"{address:x}-")]
        return "---p" in line

    assert in_child(child) == 0
    window[:] = 6
    assert readable[0] == 6


def test_nothing_of_the_child_is_unmapped_with_the_inherited_writer(file: RegionFile) -> None:
    region = opened(file)

    def child() -> bool:
        mine = [mmap.mmap(-1, file.capacity) for _ in range(4)]
        for block in mine:
            block[0] = 1
        region.close()
        gc.collect()
        return all(block[0] == 1 for block in mine)

    assert in_child(child) == 0


def test_a_child_may_open_a_writer_of_its_own(file: RegionFile) -> None:
    region = opened(file)

    def child() -> bool:
        region.open_writer(file.write_fd)
        region.window(64, 1)[0] = 42
        return True

    assert in_child(child) == 0
    assert readable_of(region)[64] == 42


def test_arrays_over_the_region_are_aligned(file: RegionFile) -> None:
    region = opened(file)
    assert readable_of(region).ctypes.data % 4096 == 0
    assert np.shares_memory(region.window(0, 64), region.window(0, 1))

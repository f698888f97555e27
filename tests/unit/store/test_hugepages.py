"""Huge pages of the region: mappings that can have them, and a kernel that refuses."""

import ctypes
import errno
import mmap
import os
from collections.abc import Iterator

import numpy as np
import pytest

from shoal import libc
from shoal.store import hugepages
from shoal.store.hugepages import UNIT, HugePages, map_aligned
from shoald.store.region import RegionFile

BOTH = mmap.PROT_READ | mmap.PROT_WRITE


@pytest.fixture
def file() -> Iterator[RegionFile]:
    region_file = RegionFile(5 * UNIT + 4096)
    yield region_file
    region_file.close()


def address_of(mapping: mmap.mmap) -> int:
    return int(np.frombuffer(mapping, np.uint8).ctypes.data)


def mappings() -> int:
    """Of a region's file, and of memory that nobody may touch, as it is reserved; others come and go with the heap."""
    with open("/proc/self/maps") as lines:
        return sum("shoal-store" in line or "---p" in line for line in lines)


def test_mappings_lie_at_a_multiple_and_leave_nothing_beside(file: RegionFile) -> None:
    before = mappings()
    kept = [map_aligned(file.write_fd, file.capacity, BOTH) for _ in range(4)]
    assert [address_of(mapping) % UNIT for mapping in kept] == [0] * 4
    assert mappings() <= before + 4
    kept[0][5 * UNIT : 5 * UNIT + 3] = b"abc"
    assert kept[3][5 * UNIT : 5 * UNIT + 3] == b"abc"
    with pytest.raises(TypeError):
        map_aligned(file.read_fd, file.capacity, mmap.PROT_READ)[0:1] = b"x"


def test_another_gap_of_the_right_size_is_not_taken(file: RegionFile) -> None:
    """It is the highest, and begins at no multiple."""
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
    reserved = libc.mmap(None, file.capacity + 3 * UNIT, mmap.PROT_READ, flags, -1, 0)
    odd = -(-reserved // UNIT) * UNIT + mmap.PAGESIZE
    libc.munmap(odd, file.capacity)
    mapping = map_aligned(file.write_fd, file.capacity, BOTH)
    assert address_of(mapping) % UNIT == 0
    libc.munmap(reserved, odd - reserved)
    libc.munmap(odd + file.capacity, reserved + 3 * UNIT - odd)


def test_a_small_file_is_mapped_like_any(file: RegionFile) -> None:
    assert len(map_aligned(file.write_fd, 4096, BOTH)) == 4096


def test_a_mapping_that_is_refused_leaves_nothing(file: RegionFile) -> None:
    before = mappings()
    with pytest.raises(OSError):
        map_aligned(file.read_fd, file.capacity, BOTH)
    assert mappings() <= before


def test_a_unit_keeps_what_it_contains(file: RegionFile) -> None:
    mapping = map_aligned(file.write_fd, file.capacity, BOTH)
    mapping[UNIT + 5000 : UNIT + 5003] = b"abc"
    made = HugePages(address_of(mapping)).make(UNIT)
    assert mapping[UNIT + 5000 : UNIT + 5003] == b"abc"
    assert mapping[UNIT : UNIT + 5000] == bytes(5000)
    assert os.fstat(file.write_fd).st_blocks * 512 == (UNIT if made else 8192)


def test_a_unit_of_small_pages_is_mended_if_all_of_them_exist(file: RegionFile) -> None:
    mapping = map_aligned(file.write_fd, file.capacity, BOTH)
    huge = HugePages(address_of(mapping))
    mapping[UNIT + 4096 : UNIT + 4099] = b"abc"
    assert not huge.mend(0)
    assert not huge.mend(UNIT)
    assert os.fstat(file.write_fd).st_blocks * 512 == 4096, "it is not worth memory"
    mapping[UNIT : 2 * UNIT] = content = os.urandom(UNIT)
    reader = map_aligned(file.read_fd, file.capacity, mmap.PROT_READ)
    assert reader[UNIT : UNIT + 9] == content[:9]
    made = any(huge.mend(UNIT) for _ in range(20))  # a page of it may be in use for a moment
    assert reader[UNIT : 2 * UNIT] == mapping[UNIT : 2 * UNIT] == content
    assert os.fstat(file.write_fd).st_blocks * 512 == UNIT
    assert made or not huge.make(2 * UNIT), "the kernel makes huge pages"


class Kernel:
    """Makes huge pages, or refuses, and takes its time."""

    def __init__(self) -> None:
        self.asked = 0
        self.error = 0
        self.takes_s = 0.0001
        self.time_s = 100.0

    def madvise(self, _address: int, size: int, _advice: int) -> int:
        if size != UNIT:
            return 0
        self.asked += 1
        self.time_s += self.takes_s
        ctypes.set_errno(self.error)
        return -1 if self.error else 0

    def clock(self) -> float:
        return self.time_s


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Kernel:
    fake = Kernel()
    monkeypatch.setattr(hugepages, "_madvise", fake.madvise)
    return fake


@pytest.mark.parametrize("error", [errno.ENOMEM, errno.EAGAIN])
def test_a_kernel_that_refuses_is_asked_again_later(kernel: Kernel, error: int) -> None:
    huge = HugePages(UNIT, kernel.clock, kernel.clock)
    kernel.error = error
    assert not any(huge.make(0) for _ in range(20))
    assert not huge.possible()
    assert kernel.asked == 4
    kernel.time_s += 60
    assert huge.possible()
    assert not any(huge.make(0) for _ in range(20))
    assert kernel.asked == 5
    kernel.time_s += 60
    kernel.error = 0
    assert all(huge.make(0) for _ in range(20))


def test_a_kernel_that_cannot_is_not_asked_again(kernel: Kernel) -> None:
    huge = HugePages(UNIT, kernel.clock, kernel.clock)
    kernel.error = errno.EINVAL
    assert not huge.make(0)
    kernel.time_s += 1e6
    assert not huge.make(0)
    assert kernel.asked == 1


def test_mending_takes_its_time_and_ends_where_the_kernel_cannot(kernel: Kernel, file: RegionFile) -> None:
    mapping = map_aligned(file.write_fd, file.capacity, BOTH)
    mapping[:UNIT] = bytes(UNIT)
    huge = HugePages(address_of(mapping), kernel.clock, kernel.clock)
    kernel.takes_s = 0.003
    assert all(huge.mend(0) for _ in range(20))
    assert huge.possible()
    kernel.error = errno.EAGAIN
    assert not huge.mend(0)
    assert not huge.stopped
    kernel.error = errno.EINVAL
    assert not huge.mend(0)
    assert huge.stopped
    asked = kernel.asked
    assert not huge.mend(0)
    assert kernel.asked == asked


def test_pages_that_are_dear_are_made_no_more_for_a_while(kernel: Kernel) -> None:
    huge = HugePages(UNIT, kernel.clock, kernel.clock)
    assert all(huge.make(0) for _ in range(20))
    kernel.takes_s = 0.003
    assert [huge.make(0) for _ in range(6)] == [True] * 4 + [False] * 2
    kernel.time_s += 60
    assert [huge.make(0) for _ in range(3)] == [True, False, False]
    kernel.time_s += 60
    kernel.takes_s = 0.0001
    assert all(huge.make(0) for _ in range(20))


def test_none_are_made_where_the_mapping_lies_badly() -> None:
    assert not HugePages(UNIT + 4096).possible()
    assert not HugePages(UNIT + 4096).make(0)

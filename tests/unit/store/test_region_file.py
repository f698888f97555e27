"""The daemon's side of the region: descriptors, capacity, and pages made ahead."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from marks import until
from regionparts import opened, readable_of
from shoal.store.hugepages import HugePages
from shoald.store import populate
from shoald.store.memory import default_capacity, kernel_kills, memory_available, memory_in_use, memory_limit
from shoald.store.populate import Populator
from shoald.store.region import RegionFile

MIB = 1024**2


@pytest.fixture(autouse=True)
def in_a_hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """At the lowest priority the thread gets nothing for a minute beside two processes that compute."""
    monkeypatch.setattr(populate, "_be_nice", lambda: None)


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_a_region_leaves_nothing_behind() -> None:
    before = descriptors()
    file = RegionFile(5000)
    assert file.capacity == 8192
    assert not os.get_inheritable(file.read_fd)
    assert not os.get_inheritable(file.write_fd)
    file.close()
    file.close()
    assert descriptors() == before


def test_a_file_where_there_is_no_memfd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "memfd_create")
    file = RegionFile(1 * MIB, str(tmp_path))
    region = opened(file)
    region.window(0, 4)[:] = 3
    assert readable_of(region)[:5].tolist() == [3, 3, 3, 3, 0]
    with pytest.raises(OSError, match="9"):
        os.write(file.read_fd, b"x")
    assert list(tmp_path.iterdir()) == []
    region.close()
    file.close()


def test_a_directory_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "memfd_create")
    before = descriptors()
    with pytest.raises(FileNotFoundError):
        RegionFile(4096, "/nowhere/at/all")
    assert descriptors() == before


def test_huge_pages_without_a_pool_leave_nothing_open() -> None:
    before = descriptors()
    try:
        RegionFile(2 * MIB, huge_pages=True).close()
    except OSError as error:
        assert error.errno  # a machine without hugetlbfs
    assert descriptors() == before


def test_capacity_follows_memory() -> None:
    assert default_capacity() == int(memory_limit() * 0.3) // 4096 * 4096
    assert 0 < memory_available() <= memory_limit()


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_limits_of_cgroup_v2_at_any_level(tmp_path: Path) -> None:
    write(tmp_path / "cgroup", "0::/slice/job.scope\n")
    root = tmp_path / "fs"
    write(root / "slice/memory.max", "1000000\n")
    write(root / "slice/memory.current", "400000\n")
    write(root / "slice/job.scope/memory.max", "max\n")
    assert memory_limit(root, tmp_path / "cgroup") == 1_000_000
    assert memory_available(root, tmp_path / "cgroup") == 600_000
    write(root / "slice/job.scope/memory.max", "500000")
    assert memory_limit(root, tmp_path / "cgroup") == 500_000


def test_limits_of_cgroup_v1(tmp_path: Path) -> None:
    write(tmp_path / "cgroup", "9:name=systemd:/x\n4:cpu,memory:/docker/abc\n0::/\n")
    root = tmp_path / "fs"
    write(root / "memory/memory.limit_in_bytes", "9223372036854771712\n")
    assert memory_limit(root, tmp_path / "cgroup") > 1_000_000
    write(root / "memory/docker/abc/memory.limit_in_bytes", "777777\n")
    write(root / "memory/docker/abc/memory.usage_in_bytes", "888888\n")
    assert memory_limit(root, tmp_path / "cgroup") == 777_777
    assert memory_available(root, tmp_path / "cgroup") == 0


@pytest.mark.parametrize(
    ("version", "limit", "used", "cache"),
    [
        (2, "memory.max", "memory.current", "inactive_file 200\nactive_file 100\n"),
        (
            1,
            "memory.limit_in_bytes",
            "memory.usage_in_bytes",
            "active_file 1\ntotal_inactive_file 200\ntotal_active_file 100\n",
        ),
    ],
)
def test_what_a_cgroup_uses_without_what_can_be_dropped(
    tmp_path: Path, version: int, limit: str, used: str, cache: str
) -> None:
    group = tmp_path / "fs" / ("job" if version == 2 else "memory/job")
    group.mkdir(parents=True)
    membership = tmp_path / "cgroup"
    membership.write_text("0::/job\n" if version == 2 else "4:cpu,memory:/job\n")
    (group / limit).write_text("1000\n")
    (group / used).write_text("1250\n")
    (group / "memory.stat").write_text(cache)
    assert memory_in_use(tmp_path / "fs", membership) == (950, 1000, f"the cgroup {group}")


def test_the_kernels_kills_are_counted_where_we_are(tmp_path: Path) -> None:
    v1, v2 = tmp_path / "fs/memory/job", tmp_path / "fs/job"
    v1.mkdir(parents=True)
    v2.mkdir()
    membership, machine = tmp_path / "cgroup", tmp_path / "vmstat"
    membership.write_text("4:memory:/job\n0::/job\n")
    assert kernel_kills(tmp_path / "fs", membership, machine) == 0
    (v1 / "memory.oom_control").write_text("oom_kill_disable 0\nunder_oom 0\noom_kill 3\n")
    assert kernel_kills(tmp_path / "fs", membership, machine) == 3
    (v2 / "memory.events").write_text("low 0\nmax 17\noom 9\noom_kill 2\noom_group_kill 0\n")
    machine.write_text("nr_free_pages 5\noom_kill 12\n")
    assert kernel_kills(tmp_path / "fs", membership, machine) == 17


def test_limits_of_the_own_namespace(tmp_path: Path) -> None:
    write(tmp_path / "fs/memory.max", "123456\n")
    write(tmp_path / "cgroup", "0::/../../elsewhere\n")
    assert memory_limit(tmp_path / "fs", tmp_path / "cgroup") == 123_456
    assert memory_limit(tmp_path / "fs", tmp_path / "missing") == 123_456
    assert memory_limit(tmp_path / "no", tmp_path / "missing") == psutil.virtual_memory().total


def resident(file: RegionFile) -> int:
    return os.fstat(file.write_fd).st_blocks * 512


def test_pages_are_made_ahead_within_the_bound() -> None:
    file = RegionFile(256 * MIB)
    region = opened(file)
    populator = Populator(file.map(), 40 * MIB, lambda: 2**40)
    assert populator.populated == 0
    populator.wake(0)
    assert populator.wait_parked(20)
    assert populator.populated == resident(file) == 40 * MIB
    populator.wake(10 * MIB + 64)
    assert populator.wait_parked(20)
    assert populator.populated == 50 * MIB
    populator.wake(5 * MIB)  # it never goes back
    populator.wake(250 * MIB)
    assert populator.wait_parked(20)
    assert populator.populated == 256 * MIB
    assert resident(file) == 50 * MIB + 6 * MIB
    assert not readable_of(region)[: 50 * MIB].any()
    populator.close()
    region.close()
    file.close()


def test_populating_keeps_what_is_written() -> None:
    file = RegionFile(32 * MIB)
    region = opened(file)
    region.window(0, 20 * MIB)[:] = 7
    populator = Populator(file.map(), 32 * MIB, lambda: 2**40)
    populator.wake(0)
    assert populator.wait_parked(20)
    assert np.all(readable_of(region)[: 20 * MIB] == 7)
    populator.close()
    region.close()
    file.close()


def test_a_quarter_of_what_is_available_at_most() -> None:
    file = RegionFile(256 * MIB)
    populator = Populator(file.map(), 256 * MIB, lambda: 160 * MIB - resident(file))
    populator.wake(0)
    assert populator.wait_parked(20)
    assert populator.populated == 40 * MIB
    populator.close()
    file.close()


def test_the_thread_ends_and_nothing_starts_again() -> None:
    file = RegionFile(32 * MIB)
    before = threading.active_count()
    populator = Populator(file.map(), 0, lambda: 2**40)
    populator.wake(64)
    assert populator.wait_parked(20)
    assert threading.active_count() == before + 1
    populator.close()
    populator.close()
    populator.wake(128)
    assert threading.active_count() == before
    assert populator.populated == 0
    file.close()


def test_a_kernel_that_refuses_is_not_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []

    def refuse(address: int, size: int, advice: int) -> int:
        calls.append(size)
        return -1

    monkeypatch.setattr(populate, "_madvise", lambda: refuse)
    monkeypatch.setattr(HugePages, "make", lambda *_: False)
    file = RegionFile(32 * MIB)
    populator = Populator(file.map(), 32 * MIB, lambda: 2**40)
    populator.wake(0)
    assert populator.wait_parked(20)
    populator.wake(64)
    assert populator.wait_parked(20)
    populator.close()
    assert len(calls) == 1
    file.close()


def test_idle_pages_are_given_back_and_made_again_on_demand() -> None:
    file = RegionFile(256 * MIB)
    region = opened(file)
    region.window(0, 10 * MIB)[:] = 7
    populator = Populator(file.map(), 100 * MIB, lambda: 2**40, idle_s=5.0)
    mark = 10 * MIB - 64  # in the middle of a page
    populator.wake(mark)
    assert populator.wait_parked(20)
    assert resident(file) == 108 * MIB
    assert populator.give_back(mark, 100.0) == 105.0
    assert populator.give_back(mark, 104.9) == 105.0
    assert resident(file) == 108 * MIB
    assert populator.give_back(mark, 105.0) == 105.0  # not all at once
    assert populator.give_back(mark, 105.0) is None
    assert populator.populated == mark
    assert resident(file) == 10 * MIB
    assert (readable_of(region)[: 10 * MIB] == 7).all()
    populator.wake(mark)  # nobody needs more
    assert populator.give_back(mark, 106.0) is None
    assert resident(file) == 10 * MIB
    populator.wake(11 * MIB)
    assert populator.wait_parked(20)
    assert populator.populated == 110 * MIB
    assert populator.give_back(11 * MIB, 107.0) == 112.0
    populator.close()
    region.close()
    file.close()


def test_pages_stay_while_the_mark_moves() -> None:
    file = RegionFile(64 * MIB)
    populator = Populator(file.map(), 16 * MIB, lambda: 2**40, idle_s=5.0)
    for step in range(1, 20):
        populator.wake(step * MIB)
        assert populator.wait_parked(20)
        assert populator.give_back(step * MIB, float(step)) == step + 5.0
    assert populator.populated == 34 * MIB  # whole units of 2 MiB
    populator.close()
    file.close()


def test_a_paused_populator_gives_back_what_it_had_made() -> None:
    file = RegionFile(64 * MIB)
    busy = [False, False, True]  # two steps, and then tasks run
    populator = Populator(
        file.map(),
        32 * MIB,
        lambda: 2**40,
        busy=lambda: busy[0] if len(busy) == 1 else busy.pop(0),
        idle_s=5.0,
    )
    populator.wake(0)
    until(lambda: populator.populated == 4 * MIB and not populator._stepping)  # the step may just be ending
    assert populator.give_back(0, 1.0) == 6.0
    assert populator.give_back(0, 6.0) is None
    assert populator.populated == resident(file) == 0
    assert populator.wait_parked(20)
    populator.close()
    file.close()


def test_pages_go_at_once_when_memory_is_short() -> None:
    file = RegionFile(64 * MIB)
    populator = Populator(file.map(), 16 * MIB, lambda: 2**40, idle_s=1000.0)
    populator.wake(MIB)
    assert populator.wait_parked(20)
    assert populator.give_back(MIB, 1.0) == 1001.0
    populator.hurry()
    assert populator.give_back(MIB, 2.0) is None
    assert populator.populated == MIB
    assert resident(file) <= MIB
    assert populator.give_back(MIB, 3.0) is None
    populator.wake(2 * MIB)
    assert populator.wait_parked(20)
    assert populator.give_back(2 * MIB, 4.0) == 1004.0  # only once
    populator.close()
    file.close()


class TestMending:
    @pytest.fixture
    def asked(self, monkeypatch: pytest.MonkeyPatch) -> list[int]:
        """Where a huge page was wanted for small ones, in MiB; there are none for what is populated."""
        asked: list[int] = []
        monkeypatch.setattr(HugePages, "make", lambda *_: False)

        def mend(_pages: HugePages, offset: int) -> bool:
            asked.append(offset // MIB)
            return offset != 2 * MIB  # this one is in use

        monkeypatch.setattr(HugePages, "mend", mend)
        return asked

    @pytest.fixture
    def populated(self) -> Iterator[Callable[..., Populator]]:
        """Makes a populator of 64 MiB that has populated nothing."""
        file = RegionFile(64 * MIB)
        made: list[Populator] = []

        def make(available: int = 2**40, **options: Any) -> Populator:
            made.append(Populator(file.map(), 8 * MIB, lambda: available, **options))
            return made[-1]

        yield make
        for populator in made:
            populator.close()
        file.close()

    def test_small_pages_in_use_are_mended_when_all_is_calm(
        self, asked: list[int], populated: Callable[..., Populator]
    ) -> None:
        populator = populated(calm_s=0.0)
        populator.wake(9 * MIB)  # in the middle of a unit
        until(lambda: populator._mended == 4)
        assert asked == [0, 2, 4, 6]
        populator.wake(13 * MIB)
        until(lambda: populator._mended == 6)
        assert asked[4:] == [2, 8, 10], "what is huge is not asked for again"
        assert populator.populated == 20 * MIB

    def test_nothing_is_mended_before(self, asked: list[int], populated: Callable[..., Populator]) -> None:
        active, busy, short = (
            populated(calm_s=3600.0),
            populated(calm_s=0.0, busy=lambda: True),
            populated(calm_s=0.0, available=MIB),
        )
        for populator in (active, busy, short):
            populator.wake(9 * MIB)
        until(lambda: short._mended == 4)
        assert active.wait_parked(20)
        assert active._calm_in() > 3000
        assert busy._mended == active._mended == 0
        assert asked == []

    def test_what_is_made_huge_needs_no_mending_until_it_is_given_back(
        self, monkeypatch: pytest.MonkeyPatch, asked: list[int], populated: Callable[..., Populator]
    ) -> None:
        monkeypatch.setattr(HugePages, "make", lambda *_: True)
        populator = populated(calm_s=0.0, idle_s=0.0)
        populator.wake(0)
        assert populator.wait_parked(20)
        assert populator.give_back(0, 1.0) is None
        populator.wake(0)
        assert bytes(populator._is_huge) == bytes(32)
        monkeypatch.setattr(HugePages, "make", lambda _pages, offset: offset != 4 * MIB)
        populator.wake(64)
        assert populator.wait_parked(20)
        populator.wake(8 * MIB)
        until(lambda: populator._mended == 4)
        assert asked == [0, 4]

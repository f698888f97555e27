"""Directories to spill to: local ones, and what fsspec knows; what daemons leave behind there."""

from __future__ import annotations

import errno
import json
import mmap
import os
import subprocess
import sys
from pathlib import Path

import pytest
from xxhash import xxh3_64_intdigest

from shoal.store.checksums import checksum, half, joined
from shoald.store.spilldirs import _DIRECT, Damaged, Directory, _Pace, check_url, directory, is_remote
from shoald.store.summing import PIECE, Summing


@pytest.fixture(params=["local", "memory"])
def place(request, tmp_path):
    """A directory of either kind, prepared."""
    url = str(tmp_path / "spill") if request.param == "local" else f"memory://{tmp_path.name}"
    made = directory(url, "me", 1.0)
    made.prepare()
    yield made
    made.close()


def nothing(_count: int) -> None:
    """Nobody wants to know how far a write or read is."""


def views(*parts: bytes) -> list[memoryview]:
    return [memoryview(part) for part in parts]


def test_what_was_written_is_read(place) -> None:
    place.write(1, views(b"a" * 64, b"", b"b" * 128), nothing)
    for offset, size, content in ((0, 64, b"a" * 64), (64, 128, b"b" * 128), (60, 8, b"aaaabbbb")):
        into = bytearray(size)
        place.read(1, offset, memoryview(into), nothing)
        assert into == content


def test_many_parts_are_one_file(place) -> None:
    parts = [bytes([number % 256]) * 64 for number in range(3000)]
    place.write(7, views(*parts), nothing)
    into = bytearray(64 * 3000)
    place.read(7, 0, memoryview(into), nothing)
    assert into == b"".join(parts)


def test_a_file_that_is_too_short_is_damaged(place) -> None:
    place.write(1, views(b"a" * 64), nothing)
    with pytest.raises(Damaged, match="shorter"):
        place.read(1, 0, memoryview(bytearray(65)), nothing)


def test_what_was_removed_cannot_be_read_and_can_be_removed_again(place) -> None:
    place.write(1, views(b"a" * 64), nothing)
    place.remove(1)
    place.remove(1)
    with pytest.raises(FileNotFoundError):
        place.read(1, 0, memoryview(bytearray(1)), nothing)


def test_a_number_is_written_anew(place) -> None:
    place.write(1, views(b"a" * 640), nothing)
    place.write(1, views(b"b" * 64), nothing)
    into = bytearray(64)
    place.read(1, 0, memoryview(into), nothing)
    assert into == b"b" * 64


def test_closing_leaves_nothing(tmp_path: Path) -> None:
    made = directory(str(tmp_path / "spill"), "me", 1.0)
    made.prepare()
    made.write(1, views(b"a" * 64), nothing)
    made.close()
    made.close()
    assert list((tmp_path / "spill").iterdir()) == []


def test_a_full_disk_is_said_before_it_is_full(tmp_path: Path) -> None:
    made = directory(str(tmp_path / "spill"), "me", 0.0)
    made.prepare()
    with pytest.raises(OSError, match="is to stay free") as caught:
        made.write(1, views(b"a" * 64), nothing)
    assert caught.value.errno == errno.ENOSPC
    made.close()


DAEMON = """
import os, sys
from shoald.store.spilldirs import directory
made = directory(sys.argv[1], "other", 1.0)
made.prepare()
made.write(1, [memoryview(b"x" * 64)], lambda count: None)
print("ready", flush=True)
sys.stdin.read()
os._exit(1)
"""


def test_files_of_a_daemon_that_lives_stay_and_those_of_a_dead_one_go(tmp_path: Path) -> None:
    command = [sys.executable, "-c", DAEMON, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"ready\n"
        first = directory(str(tmp_path), "first", 1.0)
        first.prepare()
        left = tmp_path / "shoal-spill-other"
        assert (left / "1.spill").exists()
    second = directory(str(tmp_path), "second", 1.0)
    second.prepare()
    assert not left.exists()
    assert (tmp_path / "shoal-spill-first").exists()
    first.close()
    second.close()


def test_remote_files_of_a_dead_process_of_this_machine_go(tmp_path: Path) -> None:
    import socket

    import fsspec

    url = f"memory://{tmp_path.name}"
    fs = fsspec.filesystem("memory")
    gone = {"host": socket.gethostname(), "pid": 2**22 + 1, "started": 1.0}
    recycled = {"host": socket.gethostname(), "pid": os.getpid(), "started": 1.0}
    elsewhere = {"host": "elsewhere", "pid": 2**22 + 1, "started": 1.0}
    for name, owner in (("gone", gone), ("recycled", recycled), ("elsewhere", elsewhere), ("strange", [])):
        fs.pipe_file(f"/{tmp_path.name}/shoal-spill-{name}/owner", json.dumps(owner).encode())
    made = directory(url, "me", 1.0)
    made.prepare()
    left = {path.rpartition("-")[2] for path in fs.ls(f"/{tmp_path.name}", detail=False)}
    assert left == {"elsewhere", "strange", "me"}
    made.close()


def test_places_are_checked(tmp_path: Path) -> None:
    check_url(str(tmp_path / "new"))
    check_url(f"file://{tmp_path}")
    check_url("memory://x")
    with pytest.raises(ValueError, match="cannot spill objects to /proc/x"):
        check_url("/proc/x")
    with pytest.raises(ValueError, match="cannot spill objects to nothing://x"):
        check_url("nothing://x")
    assert not is_remote("file:///x")
    assert is_remote("s3://x/y")


def test_large_files_are_written_past_a_slow_page_cache(tmp_path: Path) -> None:
    size = 3 * 1024 * 1024 + 64
    region = memoryview(mmap.mmap(-1, size))
    region[:] = os.urandom(size)
    made = directory(str(tmp_path), "me", 1.0)
    made.prepare()
    for number in range(40):
        made._pace.measured(False, 4 * 1024**3, 4000.0)
        made.write(number, [region], nothing, aligned=True)
        into = memoryview(mmap.mmap(-1, size))
        made.read(number, 0, into, nothing, aligned=number % 2 == 0)
        assert into == region
        into = memoryview(bytearray(100))
        made.read(number, size - 100, into, nothing)
        assert into == region[-100:]
        if number % 3:
            made.remove(number)
    made.close()


def test_a_file_is_written_over_another_one(tmp_path: Path) -> None:
    made = directory(str(tmp_path), "me", 1.0)
    made.prepare()
    folder = Path(made.path)
    assert made.write(1, views(b"a" * 640), nothing)
    inode = (folder / "1.spill").stat().st_ino
    for number, (content, over) in enumerate(((b"b" * 128, 1), (b"c" * 1280, 2), (b"d" * 64, 99)), 2):
        assert made.write(number, views(content), nothing, over=over)
        assert [path.name for path in folder.glob("*.spill")][-1:] != ["1.spill"]
        assert (folder / f"{number}.spill").read_bytes() == content
    assert (folder / "3.spill").stat().st_ino == inode
    assert sorted(path.name for path in folder.glob("*.spill")) == ["3.spill", "4.spill"]
    made.close()


def test_a_file_that_is_lent_has_another_ones_pages(tmp_path: Path) -> None:
    where = directory(str(tmp_path), "me", 1.0)
    where.prepare()
    where.write(1, views(b"a" * 4096), nothing)
    inode = os.stat(where.locate(1)).st_ino
    where.make(2, 4032, 1)
    assert (os.stat(where.locate(2)).st_ino, os.path.getsize(where.locate(2))) == (inode, 4032)
    assert not os.path.exists(where.locate(1))
    where.make(3, 8192, 2)  # a smaller one keeps what it has: its pages are warm
    assert os.stat(where.locate(3)).st_ino == inode
    where.make(4, 64, 2)  # somebody has removed it
    assert os.path.getsize(where.locate(4)) == 0
    where.close()


def test_a_file_that_nobody_looks_at_is_emptied_for_whoever_has_it_mapped(tmp_path: Path) -> None:
    where = directory(str(tmp_path), "me", 1.0)
    where.prepare()
    for number, emptied in ((1, True), (2, False)):
        where.write(number, views(b"a" * 4096), nothing)
        with open(where.locate(number), "rb") as file:
            where.remove(number, emptied)
            assert os.fstat(file.fileno()).st_size == (0 if emptied else 4096)
    where.remove(3, True)
    where.close()


def test_checksums_are_taken_as_parts_are_written(place) -> None:
    """The large one has two halves, which can be summed apart."""
    sizes = (1, 64, 100, 5 * 1024 * 1024 + 7, 0, 3000, 16 * 1024 * 1024 + 100, 2 * 1024 * 1024)
    parts = [os.urandom(size) for size in sizes]
    padded = [part + bytes(-len(part) % 64 or (64 if not part else 0)) for part in parts]
    summing = Summing(views(*parts), [len(part) for part in padded])
    place.write(1, views(*padded), summing.add)
    assert summing.sums == [checksum(memoryview(part)) for part in parts]
    assert summing.sums[:6] == [xxh3_64_intdigest(part) for part in parts[:6]]
    large = memoryview(parts[6])
    middle = half(len(large))
    sums = []
    for run in (large[:middle], large[middle:]):
        summing = Summing([run], [len(run)], whole=True)
        summing.add(len(run))
        sums += summing.sums
    assert joined(*sums) == checksum(large)
    for step in (1, 63, 64, 1000, 10**9):
        summing = Summing(views(*parts[:3]), [len(part) for part in padded[:3]])
        for _ in range(0, 4 * 64, step):
            summing.add(step)
        assert summing.sums == [xxh3_64_intdigest(part) for part in parts[:3]], step


def test_a_piece_is_summed_before_it_is_written(tmp_path: Path) -> None:
    """That brings it into the processor's cache."""
    made = directory(str(tmp_path), "one", 1.0)
    made.prepare()
    seen: list[tuple[int, int]] = []
    made.write(1, views(bytes(2 * PIECE + 5)), lambda count: seen.append((count, size_of(made, 1))))
    assert seen == [(PIECE, 0), (PIECE, PIECE), (5, 2 * PIECE)]
    made.close()


def size_of(made: Directory, number: int) -> int:
    return Path(made.locate(number)).stat().st_size


def test_some_files_are_written_to_a_slow_page_cache_all_the_same(tmp_path: Path) -> None:
    """They are written over later."""
    pace = _Pace()
    pace.measured(False, 3 * 1024**3, 3000.0)
    assert not pace.prefers_direct()
    pace.measured(False, 1024**3, 1000.0)
    assert pace.prefers_direct() == bool(_DIRECT)

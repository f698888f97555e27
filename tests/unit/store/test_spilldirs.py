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

from shoald.store.spilldirs import Damaged, check_url, directory, is_remote


@pytest.fixture(params=["local", "memory"])
def place(request, tmp_path):
    """A directory of either kind, prepared."""
    url = str(tmp_path / "spill") if request.param == "local" else f"memory://{tmp_path.name}"
    made = directory(url, "me", 1.0)
    made.prepare()
    yield made
    made.close()


def views(*parts: bytes) -> list[memoryview]:
    return [memoryview(part) for part in parts]


def test_what_was_written_is_read(place) -> None:
    place.write(1, views(b"a" * 64, b"", b"b" * 128))
    for offset, size, content in ((0, 64, b"a" * 64), (64, 128, b"b" * 128), (60, 8, b"aaaabbbb")):
        into = bytearray(size)
        place.read(1, offset, memoryview(into))
        assert into == content


def test_many_parts_are_one_file(place) -> None:
    parts = [bytes([number % 256]) * 64 for number in range(3000)]
    place.write(7, views(*parts))
    into = bytearray(64 * 3000)
    place.read(7, 0, memoryview(into))
    assert into == b"".join(parts)


def test_a_file_that_is_too_short_is_damaged(place) -> None:
    place.write(1, views(b"a" * 64))
    with pytest.raises(Damaged, match="shorter"):
        place.read(1, 0, memoryview(bytearray(65)))


def test_what_was_removed_cannot_be_read_and_can_be_removed_again(place) -> None:
    place.write(1, views(b"a" * 64))
    place.remove(1)
    place.remove(1)
    with pytest.raises(FileNotFoundError):
        place.read(1, 0, memoryview(bytearray(1)))


def test_a_number_is_written_anew(place) -> None:
    place.write(1, views(b"a" * 640))
    place.write(1, views(b"b" * 64))
    into = bytearray(64)
    place.read(1, 0, memoryview(into))
    assert into == b"b" * 64


def test_closing_leaves_nothing(tmp_path: Path) -> None:
    made = directory(str(tmp_path / "spill"), "me", 1.0)
    made.prepare()
    made.write(1, views(b"a" * 64))
    made.close()
    made.close()
    assert list((tmp_path / "spill").iterdir()) == []


def test_a_full_disk_is_said_before_it_is_full(tmp_path: Path) -> None:
    made = directory(str(tmp_path / "spill"), "me", 0.0)
    made.prepare()
    with pytest.raises(OSError, match="is to stay free") as caught:
        made.write(1, views(b"a" * 64))
    assert caught.value.errno == errno.ENOSPC
    made.close()


DAEMON = """
import os, sys
from shoald.store.spilldirs import directory
made = directory(sys.argv[1], "other", 1.0)
made.prepare()
made.write(1, [memoryview(b"x" * 64)])
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
        made._pace.measured(False, 1e6)
        made.write(number, [region], aligned=True)
        into = memoryview(mmap.mmap(-1, size))
        made.read(number, 0, into, aligned=number % 2 == 0)
        assert into == region
        into = memoryview(bytearray(100))
        made.read(number, size - 100, into)
        assert into == region[-100:]
        if number % 3:
            made.remove(number)
    made.close()

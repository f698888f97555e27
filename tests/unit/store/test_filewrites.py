"""Values as their creators write them to files: new ones, and such as are written over."""

from __future__ import annotations

import os
from collections import deque
from pathlib import Path

import numpy as np
import pytest

from shoal.serialization import deserialize, serialize
from shoal.store import filewrites
from shoal.store.checksums import checksum
from shoal.store.filecopies import FileCopy, FileUse
from shoal.store.filewrites import FileWrite, Windows, write_copy

MIB = 1024**2
VALUES = {
    "nothing": b"",
    "small": {"a": 1},
    "large": np.arange(3 * MIB, dtype=np.float64),  # 24 MiB: in halves
    "several": [np.full(5 * MIB, number, np.uint8) for number in range(5)],
    "by column": np.asfortranarray(np.arange(4 * MIB, dtype=np.float64).reshape(1024, -1)),
}


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "1.spill"
    path.touch()
    return str(path)


def content(path, size):
    return Path(path).read_bytes()[:size]


def same(one, other):
    if isinstance(one, list):
        return all(map(same, one, other))
    return np.array_equal(one, other) if isinstance(one, np.ndarray) else one == other


@pytest.mark.parametrize("name", VALUES)
def test_a_file_has_the_value_and_its_checksum_is_right(file, name):
    value = serialize(VALUES[name])
    for _ in range(3):  # a new file, and one that is written over twice
        found = content(file, value.size) if write_copy(file, value) else b""
        assert same(deserialize(np.frombuffer(found, np.uint8)), VALUES[name])
        assert write_copy(file, value) == checksum(memoryview(found))


@pytest.mark.parametrize("count", [1, 2])
def test_two_threads_write_what_one_writes(file, monkeypatch, count):
    monkeypatch.setattr(filewrites, "processors", lambda: count)
    for name in ("large", "several", "by column"):
        value = serialize(VALUES[name])
        for _ in range(3):
            write_copy(file, value)
            found = content(file, value.size)
            assert same(deserialize(np.frombuffer(found, np.uint8)), VALUES[name])


@pytest.mark.parametrize(
    ("start", "end"),
    [(0, 0), (9, 10), (0, 4 * MIB), (512, 10 * MIB + 3), (MIB, 6 * MIB), (MIB, 4 * MIB), (512, 29 * MIB)],
)
def test_two_threads_share_all_of_a_value(start, end):
    pieces = filewrites._Pieces(start, end)
    written, assigned = [], []
    while (part := pieces.first()) is not None:
        written.append(part)
        assigned += [part for part in (pieces.last(), pieces.last()) if part is not None]
    assert pieces.last() is None
    parts = sorted(written + assigned)
    assert [start, *(stop for _, stop in parts)] == [*(begin for begin, _ in parts), end]
    # A mapping costs a fault per 2 MiB of the file, and hundreds for a part of that.
    assert all(begin % (2 * MIB) == stop % (2 * MIB) == 0 for begin, stop in assigned)
    assert len(assigned) == {10 * MIB + 3: 1, 29 * MIB: 5}.get(end, 0)


@pytest.mark.parametrize("faults", [[0, 0], [7, 8]])
def test_pages_that_the_kernel_has_protected_are_unmapped_at_once(file, monkeypatch, faults):
    monkeypatch.setattr(filewrites, "processors", lambda: 2)
    monkeypatch.setattr(filewrites, "_PIECE", 4 * MIB)
    write_copy(file, serialize(VALUES["large"]))
    unmapped = []
    madvise = filewrites._madvise

    def spy(address, size, advice):
        unmapped.append((size, advice))
        return madvise(address, size, advice)

    counts = iter(faults)
    monkeypatch.setattr(filewrites, "_faults", lambda: next(counts))
    monkeypatch.setattr(filewrites, "_madvise", spy)
    pieces = filewrites._Pieces

    class Assigned(pieces):
        def first(self):  # all whole pieces are left to the mapping
            return pieces.first(self) if self._rests else None

    monkeypatch.setattr(filewrites, "_Pieces", Assigned)
    value = serialize(VALUES["large"][::-1].copy())
    write_copy(file, value)
    assert unmapped == ([] if faults == [0, 0] else [(20 * MIB, filewrites._MADV_DONTNEED)])
    found = content(file, value.size)
    assert same(deserialize(np.frombuffer(found, np.uint8)), VALUES["large"][::-1])


def test_what_was_there_does_not_matter(file):
    first, second = serialize(VALUES["large"]), serialize(VALUES["large"][::-1].copy())
    write_copy(file, first)
    expected = write_copy(file, second)
    copy = FileCopy(file, 0, second.size, 0, expected)
    assert copy.open(None)
    with pytest.raises(ValueError, match="damaged"):
        FileCopy(file, 0, first.size, 0, expected + 1).open(None)


def test_a_write_in_a_thread(file):
    value = serialize(VALUES["small"])
    writing = FileWrite(file, value)
    assert writing.wait(60)
    assert writing.error is None
    assert writing.proof == checksum(memoryview(content(file, value.size)))


class TestWindows:
    @pytest.fixture
    def opened(self, tmp_path):
        """Descriptors of files of 8 MiB."""
        fds = [os.open(tmp_path / str(number), os.O_RDWR | os.O_CREAT) for number in range(3)]
        for fd in fds:
            os.ftruncate(fd, 8 * MIB)
        yield fds
        for fd in fds:
            os.close(fd)

    def test_a_mapping_is_kept_and_given_to_one_at_a_time(self, opened):
        windows = Windows()
        first = windows.take(opened[0], 8 * MIB)
        other = windows.take(opened[0], 8 * MIB)
        assert other is not first
        windows.keep(opened[0], first)
        assert windows.take(opened[0], 8 * MIB) is first

    def test_it_knows_a_file_by_another_name(self, opened, tmp_path):
        windows = Windows()
        window = windows.take(opened[0], 8 * MIB)
        windows.keep(opened[0], window)
        os.rename(tmp_path / "0", tmp_path / "renamed")
        fd = os.open(tmp_path / "renamed", os.O_RDWR)
        try:
            assert windows.take(fd, 8 * MIB) is window
        finally:
            os.close(fd)

    def test_one_that_is_too_short_by_now_is_made_anew(self, opened):
        windows = Windows()
        window = windows.take(opened[0], 8 * MIB)
        windows.keep(opened[0], window)
        os.ftruncate(opened[0], 9 * MIB)
        assert windows.take(opened[0], 9 * MIB).size == 9 * MIB

    def test_none_has_a_descriptor(self, opened):
        windows = Windows()
        before = os.listdir("/proc/self/fd")
        windows.keep(opened[0], windows.take(opened[0], 8 * MIB))
        assert os.listdir("/proc/self/fd") == before

    def test_the_oldest_go_at_the_bound_and_all_when_they_are_dropped(self, opened):
        windows = Windows(bytes_max=16 * MIB)
        kept = [windows.take(fd, 8 * MIB) for fd in opened]
        for fd, window in zip(opened, kept, strict=True):
            windows.keep(fd, window)
        assert windows.take(opened[0], 8 * MIB) is not kept[0]
        assert windows.take(opened[2], 8 * MIB) is kept[2]
        windows.drop()
        assert windows.take(opened[1], 8 * MIB) is not kept[1]

    def test_small_ones_are_not_worth_it(self, opened):
        windows = Windows()
        os.ftruncate(opened[0], MIB)
        window = windows.take(opened[0], MIB)
        windows.keep(opened[0], window)
        assert windows.take(opened[0], MIB) is not window


def test_a_use_ends_with_the_last_view(file):
    value = serialize(VALUES["large"])
    expected = write_copy(file, value)
    ended: deque[int] = deque()
    copies = [FileCopy(file, 0, value.size, 0, expected, use=FileUse(7, ended)) for _ in range(2)]
    views = []
    for copy in copies:
        copy.open(None)
        views.append(np.frombuffer(copy.mapping, np.uint8))
    del copy
    copies.clear()
    assert len(ended) == 1, "the other one is for the mapping"
    del views[0]
    assert len(ended) == 1
    views.clear()
    assert list(ended) == [7, 7]


def test_the_use_of_what_was_never_opened_ends_too(file):
    ended: deque[int] = deque()
    copy = FileCopy(file, 0, 100, 0, 1, use=FileUse(7, ended))
    with pytest.raises(ValueError, match="empty"):
        copy.open(None)
    del copy
    assert list(ended) == [7]

"""Copies in spill files as readers open them: what is wrong with a file system for a moment is not wrong with the copy."""

from __future__ import annotations

import errno
import threading

import pytest

from shoal.store import filecopies
from shoal.store.checksums import checksum
from shoal.store.filecopies import OPEN_ATTEMPTS, FileCopy, FileWork

DATA = b"what was written" * 100


@pytest.fixture
def copy(tmp_path):
    path = tmp_path / "1.spill"
    path.write_bytes(DATA)
    return FileCopy(str(path), 0, len(DATA), 0, checksum(memoryview(DATA)))


@pytest.fixture
def failing(monkeypatch):
    """Have the next ``count`` opens fail; how many there were in all."""
    tried = []
    monkeypatch.setattr(filecopies, "OPEN_PAUSE_S", 0.0)

    def fail(code, count):
        def open_(path, mode):
            tried.append(path)
            if len(tried) <= count:
                raise OSError(code, "the server does not answer")
            return open(path, mode)

        monkeypatch.setattr(filecopies, "open", open_, raising=False)
        return tried

    return fail


@pytest.mark.parametrize("code", [errno.EIO, errno.ESTALE, errno.ETIMEDOUT])
def test_an_error_that_passes_is_no_damage(copy, failing, code):
    tried = failing(code, OPEN_ATTEMPTS - 1)
    assert copy.open(None)
    assert copy.mapping[: len(DATA)] == DATA
    assert len(tried) == OPEN_ATTEMPTS


def test_an_error_that_stays_is_told_in_the_end(copy, failing):
    tried = failing(errno.EIO, 100)
    with pytest.raises(OSError, match="does not answer"):
        copy.open(None)
    assert len(tried) == OPEN_ATTEMPTS


def test_what_no_second_try_helps_is_told_at_once(copy, failing, tmp_path):
    tried = failing(errno.EACCES, 100)
    with pytest.raises(PermissionError):
        copy.open(None)
    assert len(tried) == 1
    gone = FileCopy(str(tmp_path / "gone"), 0, 1, 0, 1)
    failing(errno.EACCES, 0)
    with pytest.raises(FileNotFoundError):
        gone.open(None)
    assert len(tried) == 2


def test_a_wrong_checksum_is_damage_at_once(tmp_path, failing):
    path = tmp_path / "1.spill"
    path.write_bytes(DATA)
    tried = failing(errno.EIO, 0)
    with pytest.raises(ValueError, match="damaged"):
        FileCopy(str(path), 0, len(DATA), 0, 1).open(None)
    assert len(tried) == 1


def small(path, number, content=None, flags=0):
    content = content or bytes([number]) * 64
    return FileCopy(str(path), 64 * number, len(content), flags, checksum(memoryview(content)), small=True)


def test_small_ones_of_a_file_are_read_together_and_none_keeps_it_open(tmp_path):
    path = tmp_path / "1.spill"
    path.write_bytes(b"".join(bytes([number]) * 64 for number in range(4)))
    copies = [small(path, number) for number in range(4)]
    copies[2] = small(path, 2, b"?" * 64)  # damaged: others do not suffer
    copies.append(small(path, 4))  # beyond the end
    assert copies[0].open(1.0, copies[1:])
    path.unlink()
    for number in (0, 1, 3):
        assert copies[number].open(1.0)
        assert copies[number].mapping == bytes([number]) * 64
        assert (copies[number].offset, copies[number].capacity) == (0, 64)
    assert [copies[number].mapping for number in (2, 4)] == [None, None]
    path.write_bytes(bytes(64 * 4))
    for number in (2, 4):
        with pytest.raises(ValueError, match="is damaged"):
            copies[number].open(1.0)


def test_a_copy_in_memory_needs_no_file():
    copy = FileCopy.of(DATA, 5)
    assert copy.open(1.0)
    assert (copy.mapping, copy.offset, copy.size, copy.flags) == (DATA, 0, len(DATA), 5)


def test_nothing_is_read_of_threads_that_have_ended():
    """So many at once that the C library unmaps their stacks, where it keeps what is asked for."""
    together = threading.Barrier(32)
    works = [FileWork(together.wait) for _ in range(32)]
    for work in works:
        work._thread.join()
    assert all(work.wait(1.0) for work in works)

"""What tells that a file has what was written: its checksum, or the time of its last change."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from shoal.serialization import serialize
from shoal.store import proofs
from shoal.store.checksums import checksum, of_file
from shoal.store.filecopies import FileCopy
from shoal.store.filewrites import write_copy

MIB = 1024**2
VALUE = serialize(np.arange(3 * MIB, dtype=np.float64))  # 24 MiB: in halves


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "1.spill"
    path.touch()
    return str(path)


@pytest.fixture
def proven(file):
    """A file that was written without a sum, and its proof."""
    with open(file, "rb") as opened:
        if proofs._kind(opened.fileno()) not in proofs._SETS_TIME_AT_ONCE:
            pytest.skip("the file system of the temporary directory is not known to set the time at once")
    return file, write_copy(file, VALUE, sum_later=True)


def scribble(file):
    with open(file, "r+b") as opened:
        opened.seek(5 * MIB)
        opened.write(b"?")


def opens(file, proof):
    return FileCopy(file, 0, VALUE.size, 0, proof).open(None)


def test_a_file_that_nobody_changes_needs_no_checksum(proven):
    file, proof = proven
    assert proof == -os.stat(file).st_mtime_ns
    assert opens(file, proof)
    with open(file, "rb") as opened:
        os.fsync(opened.fileno())
    os.chmod(file, 0o600)
    os.rename(file, file + ".new")
    assert opens(file + ".new", proof), "neither the disk nor another name changes it"


def test_one_that_is_written_over_is_proven_anew(proven):
    file, _ = proven
    for _ in range(3):  # through the mapping that is kept
        assert opens(file, write_copy(file, VALUE, sum_later=True))
    with open(file, "rb") as opened:
        os.fsync(opened.fileno())
    assert opens(file, write_copy(file, VALUE, sum_later=True))


def test_whoever_changes_it_damages_it(proven):
    file, proof = proven
    scribble(file)
    with pytest.raises(ValueError, match="changed after it had been written"):
        opens(file, proof)
    assert proofs.sum_of(file, VALUE.size, proof) is None


def test_the_checksum_that_takes_its_place(proven):
    file, proof = proven
    found = proofs.sum_of(file, VALUE.size, proof)
    assert found == checksum(memoryview(Path(file).read_bytes()[: VALUE.size]))
    assert opens(file, found)
    scribble(file)
    with pytest.raises(ValueError, match="checksum"):
        opens(file, found)


def test_a_file_that_has_gone_is_not_damaged(proven):
    file, proof = proven
    os.unlink(file)
    with pytest.raises(FileNotFoundError):
        opens(file, proof)
    with pytest.raises(FileNotFoundError):
        proofs.sum_of(file, VALUE.size, proof)


def test_one_that_is_too_short_has_no_sum(proven):
    file, proof = proven
    os.truncate(file, VALUE.size - 1)
    assert proofs.sum_of(file, VALUE.size, proof) is None


def test_a_small_one_is_summed_at_once(file):
    small = serialize(np.arange(MIB))
    assert write_copy(file, small, sum_later=True) >= 0


@pytest.mark.parametrize("kind", [0, 0x6969, 0x2FC12FC1])  # unknown, NFS, ZFS
def test_where_times_come_late_it_is_summed_at_once(file, monkeypatch, kind):
    monkeypatch.setattr(proofs, "_kind", lambda _fd: kind)
    assert opens(file, write_copy(file, VALUE, sum_later=True))
    assert write_copy(file, VALUE, sum_later=True) >= 0


def test_where_times_are_whole_seconds_it_is_summed_at_once(proven):
    file, _ = proven
    os.utime(file, ns=(0, 5_000_000_000))
    with open(file, "rb") as opened:
        assert proofs.by_time(opened.fileno()) is None


@pytest.mark.parametrize("size", [0, 1, 4096, 700_000, 16 * MIB, 17 * MIB + 3])
def test_the_sum_of_a_file_is_that_of_its_content(tmp_path, size):
    path = tmp_path / "content"
    path.write_bytes(np.random.default_rng(size).bytes(size) + b"beyond")
    with path.open("rb") as opened:
        assert of_file(opened.fileno(), size) == checksum(memoryview(path.read_bytes()[:size]))
        assert of_file(opened.fileno(), size + 7) is None

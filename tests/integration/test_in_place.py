"""Large values in a store that is too small: written to files by their creators, read there, and the files written over."""

import os

import numpy as np
import pytest

import shoal
from marks import until
from shoal import session
from shoal.client import objectstore
from shoal.exceptions import ObjectLostError
from shoal.store.filecopies import FileCopy

MIB = 1024**2
STORE = 64 * MIB
PART = 8 * MIB
COUNT = 16  # twice the store


@pytest.fixture
def files(no_leaks, tmp_path, request):
    """A session whose store is too small; the spill files that there are."""
    settings = {"spill_in_place_bytes_min": 4 * MIB, "spill_spare_ms": 3_600_000}
    settings |= getattr(request, "param", {})
    shoal.init(
        num_cpus=2,
        object_store_memory=STORE,
        object_spilling_directory=str(tmp_path),
        _system_config=settings,
    )
    yield lambda: sorted(tmp_path.glob("shoal-spill-*/*.spill"))
    shoal.shutdown()


def array(number):
    return np.full(PART // 8, number, np.int64)


def is_array(value, number):
    return len(value) == PART // 8 and bool((value == number).all())


def inodes(files):
    return {os.stat(path).st_ino for path in files()}


def test_they_are_written_once_and_read_without_being_restored(files):
    refs = [shoal.put(array(number)) for number in range(COUNT)]
    for number, ref in enumerate(refs):
        assert is_array(shoal.get(ref), number)
    summary = shoal.memory_summary()
    assert summary["spilled_objects"] <= COUNT // 4, "hardly any was written by the daemon"
    assert summary["written_in_files"] >= COUNT // 4
    on_disk = summary["written_in_files"] + summary["spilled_objects"]
    assert PART * on_disk < summary["disk_live"] < (PART + 4096) * on_disk, "all that is there was counted"
    assert summary["read_in_files"] >= COUNT // 4
    for _ in range(3):
        for number, ref in enumerate(refs):
            assert is_array(shoal.get(ref), number)


def test_a_view_stays_as_it_is_while_other_values_are_written(files):
    refs = [shoal.put(array(number)) for number in range(COUNT)]
    views = [shoal.get(ref) for ref in refs]
    looked_at = inodes(files)
    del refs
    for round_number in range(3):
        others = [shoal.put(array(100 + round_number)) for _ in range(COUNT)]
        assert all(is_array(view, number) for number, view in enumerate(views))
        assert all(is_array(shoal.get(other), 100 + round_number) for other in others)
        del others
    assert looked_at <= inodes(files)


def test_files_are_written_over_when_the_last_view_has_gone(files):
    refs = [shoal.put(array(number)) for number in range(COUNT)]
    views = [shoal.get(ref) for ref in refs]
    before = inodes(files)
    del refs, views
    until(lambda: not shoal.memory_summary()["disk_files"])
    refs = [shoal.put(array(number)) for number in range(COUNT)]
    assert len(inodes(files) & before) >= len(before) - 2, "their pages are warm"
    assert len(files()) <= len(before) + 2
    assert all(is_array(shoal.get(ref), number) for number, ref in enumerate(refs))


def test_results_and_arguments_of_tasks(files):
    @shoal.remote
    def make(number):
        return array(number)

    @shoal.remote
    def first(*parts):
        return [int(part[0]) for part in parts]

    made = [make.remote(number) for number in range(COUNT)]
    for start in range(0, COUNT, 2):
        assert shoal.get(first.remote(*made[start : start + 2])) == [start, start + 1]
    assert all(is_array(shoal.get(ref), number) for number, ref in enumerate(made))


def test_a_forked_child_keeps_what_it_looks_at(files):
    refs = [shoal.put(array(number)) for number in range(COUNT)]
    views = [shoal.get(ref) for ref in refs]
    go, go_end = os.pipe()
    child = os.fork()
    if child == 0:
        os.read(go, 1)
        os._exit(0 if all(is_array(view, number) for number, view in enumerate(views)) else 1)
    try:
        del refs, views
        until(lambda: not shoal.memory_summary()["disk_files"])
        for _ in range(2):
            others = [shoal.put(array(100)) for _ in range(COUNT)]
            del others
    finally:
        os.write(go_end, b"!")
        os.close(go)
        os.close(go_end)
    assert os.waitpid(child, 0)[1] == 0


def test_a_damaged_file_is_a_lost_copy(files):
    refs = [shoal.put(array(number)) for number in range(COUNT)]
    for path in files():
        with path.open("r+b") as file:
            file.seek(PART // 2)
            file.write(b"something else")
    answers = []
    for ref in refs:
        try:
            answers.append(bool(len(shoal.get(ref))))
        except ObjectLostError as error:
            assert "checksum" in str(error)
            answers.append(False)
    assert answers.count(False) == len(files()) > 0


def test_a_file_that_somebody_has_removed_is_a_lost_copy(files):
    refs = [shoal.put(array(number)) for number in range(COUNT)]
    views = {number: shoal.get(ref) for number, ref in enumerate(refs)}
    in_region = set(session.runtime().store.pins.live())
    # There is no room to read others into.
    views = {number: view for number, view in views.items() if refs[number].binary() in in_region}
    removed = files()
    for path in removed:
        path.unlink()
    lost = 0
    for number, ref in enumerate(refs):
        try:
            assert is_array(shoal.get(ref), number)
        except ObjectLostError as error:
            assert "No such file" in str(error)
            lost += 1
    assert 0 < lost <= len(removed)
    assert all(is_array(view, number) for number, view in views.items())


def test_what_was_made_by_a_task_is_made_again(files):
    @shoal.remote
    def make(number):
        return array(number)

    refs = [make.remote(number) for number in range(COUNT)]
    shoal.wait(refs, num_returns=COUNT)
    for path in files():
        with path.open("r+b") as file:
            file.seek(PART // 2)
            file.write(b"something else")
    assert all(is_array(shoal.get(ref), number) for number, ref in enumerate(refs))


@pytest.mark.parametrize(
    ("files", "why"),
    [({"spill_sum_after_ms": 3_600_000}, "changed after"), ({"spill_sum_after_ms": 0}, "checksum")],
    indirect=["files"],
)
def test_a_file_without_a_checksum_yet_is_no_less_safe(files, why):
    large = 3 * PART  # such are summed later
    refs = [shoal.put(np.full(large, number, np.uint8)) for number in range(6)]
    assert shoal.memory_summary()["written_in_files"] >= 3
    for path in files():
        with path.open("r+b") as file:
            file.seek(PART)
            file.write(b"something else")
    reasons = []
    for number, ref in enumerate(refs):
        try:
            assert (shoal.get(ref) == number).all()
        except ObjectLostError as error:
            reasons.append(str(error))
    assert len(reasons) >= 3
    assert any(why in reason for reason in reasons)
    assert all("damaged" in reason for reason in reasons), "also of what the daemon has written, and summed"


@pytest.mark.parametrize("files", [{"spill_sum_after_ms": 1}], indirect=True)
def test_the_daemon_sums_what_stays(files, monkeypatch):
    proofs = []

    class Recorded(FileCopy):
        def __init__(self, path, offset, size, flags, proof, *rest):
            proofs.append(proof)
            super().__init__(path, offset, size, flags, proof, *rest)

    monkeypatch.setattr(objectstore, "FileCopy", Recorded)
    ref = shoal.put(np.arange(2 * STORE // 8))  # it is always read in its file

    def is_summed():
        assert shoal.get(ref)[-1] == 2 * STORE // 8 - 1
        return proofs[-1] >= 0

    until(is_summed)
    (path,) = files()
    os.utime(path)
    assert shoal.get(ref)[-1] == 2 * STORE // 8 - 1, "its time is of no interest any more"

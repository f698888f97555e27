"""Spill directories whose file systems hang stop nobody for ever: other ways are taken, or an error says which file it was."""

import os
import threading
import time
from dataclasses import replace

import numpy as np
import pytest
from click.testing import CliRunner

import shoal
from ledger import rows
from marks import until
from shoal.cli.app import app
from shoal.store import filecopies
from shoal.testing import Cluster

MIB = 1024**2
STORE = 64 * MIB
PART = 4 * MIB


def start(**more):
    return shoal.init(num_cpus=2, object_store_memory=STORE, **more)


def array(number, size=PART):
    return np.full(size // 8, number, np.int64)


def check(value, number, size=PART):
    assert len(value) == size // 8
    assert (value == number).all()


def spill_files(*folders):
    return [path for folder in folders for path in folder.glob("shoal-spill-*/*.spill")]


HANGS = """
import os, threading
real = os.statvfs

def statvfs(path):
    if os.environ["HANGS"] in str(path):
        threading.Event().wait()
    return real(path)

os.statvfs = statvfs
"""


def patch_daemon(code, tmp_path, monkeypatch):
    """Have every Python that starts from now on run ``code`` first, which finds the path "hangs" in HANGS."""
    (tmp_path / "sitecustomize.py").write_text(code)
    paths = [str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(paths))
    monkeypatch.setenv("HANGS", str(tmp_path / "hangs"))


@pytest.fixture
def hanging(no_leaks, tmp_path, monkeypatch):
    """Starts a cluster for whose daemon a directory of the name "hangs" hangs; yields a function."""
    patch_daemon(HANGS, tmp_path, monkeypatch)

    def begin(*names, **settings):
        directories = ",".join(str(tmp_path / name) for name in names)
        start(object_spilling_directory=directories, _system_config=settings)
        return tmp_path / "hangs"

    yield begin
    shoal.shutdown()


READS_HANG = """
import os, time
real = os.preadv

def preadv(*arguments):
    while os.path.exists(os.environ["HANGS"]):
        time.sleep(0.01)
    return real(*arguments)

os.preadv = preadv
"""


@pytest.fixture
def hanging_reads(no_leaks, tmp_path, monkeypatch):
    """A cluster whose daemon hangs in reads of spill files while the file that this yields is there."""
    patch_daemon(READS_HANG, tmp_path, monkeypatch)
    settings = {"spill_stall_ms": 200, "spill_read_ms_max": 200, "spill_threshold": 1.0}
    start(object_spilling_directory=str(tmp_path / "disk"), _system_config=settings)
    yield tmp_path / "hangs"
    (tmp_path / "hangs").unlink(missing_ok=True)
    shoal.shutdown()


def state_of(ref):
    return next((row["state"] for row in rows() if row["id"] == ref.hex()), "")


def test_a_read_that_hangs_is_an_error_that_names_the_file_and_the_value_is_back_when_it_ends(hanging_reads):
    refs = [shoal.put(array(number)) for number in range(2 * STORE // PART)]
    ref = next(ref for ref in refs if state_of(ref) == "spilled")
    number = refs.index(ref)
    hanging_reads.touch()
    with pytest.raises(shoal.exceptions.ObjectLostError, match=r"disk/.*\.spill was given up.* not answered"):
        shoal.get(ref)
    assert state_of(ref) == "lost"
    assert shoal.memory_summary()["restoring"] > 0, "the thread may still write there"
    hanging_reads.unlink()
    until(lambda: state_of(ref) == "sealed")
    assert shoal.memory_summary()["restoring"] == 0
    check(shoal.get(ref), number)


def test_a_result_whose_read_hangs_is_made_again(hanging_reads, tmp_path):
    marks = tmp_path / "marks"

    @shoal.remote
    def make(number):
        with open(marks, "a") as file:
            print(number, file=file)
        return array(number)

    refs = [make.remote(number) for number in range(2 * STORE // PART)]
    shoal.wait(refs, num_returns=len(refs))
    ref = next(ref for ref in refs if state_of(ref) == "spilled")
    number = refs.index(ref)
    # What is made again needs room: to a directory that hangs nothing is written.
    here = {row["id"] for row in rows() if row["state"] == "sealed"}
    refs = [each for each in refs if each.hex() not in here]
    hanging_reads.touch()
    check(shoal.get(ref), number)
    assert marks.read_text().split().count(str(number)) == 2
    hanging_reads.unlink()
    until(lambda: not shoal.memory_summary()["restoring"])


@shoal.remote(num_cpus=0, resources={"far": 1})
class Keeper:
    """Holds a ref on another node."""

    def keep(self, refs):
        self.refs = refs

    def value(self):
        return shoal.get(self.refs[0])[0]


def test_a_value_that_other_nodes_hold_is_back_for_all_when_its_directory_answers(
    no_leaks, tmp_path, monkeypatch
):
    patch_daemon(READS_HANG, tmp_path, monkeypatch)
    hangs = tmp_path / "hangs"
    settings = {"spill_stall_ms": 200, "spill_read_ms_max": 200, "spill_threshold": 1.0}
    options = {"object_store_memory": STORE, "system_config": settings}
    with Cluster(num_cpus=1, spilling_directories=(str(tmp_path / "disk"),), **options) as cluster:
        cluster.add_node(num_cpus=1, resources={"far": 1}, **options)
        shoal.init(cluster.address)
        try:
            refs = [shoal.put(array(number)) for number in range(2 * STORE // PART)]
            ref = next(ref for ref in refs if state_of(ref) == "spilled")
            number = refs.index(ref)
            keeper = Keeper.remote()
            shoal.get(keeper.keep.remote([ref]))
            hangs.touch()
            for get in (lambda: shoal.get(keeper.value.remote()), lambda: shoal.get(ref)):
                with pytest.raises(shoal.exceptions.ObjectLostError):
                    get()
            assert not state_of(ref), "it is looked for on other nodes"
            hangs.unlink()
            until(lambda: state_of(ref))
            check(shoal.get(ref), number)
            refs = ref = None
            assert shoal.get(keeper.value.remote()) == number
        finally:
            hangs.unlink(missing_ok=True)
            shoal.shutdown()


@pytest.fixture
def hanging_writes(no_leaks, tmp_path, monkeypatch):
    """A cluster that spills to directories of these names; writes of this process below "hangs" do, until the event is set."""
    released = threading.Event()
    real = os.posix_fallocate

    def fallocate(fd, *arguments):
        if "/hangs/" in os.readlink(f"/proc/self/fd/{fd}"):
            released.wait()
        real(fd, *arguments)

    monkeypatch.setattr(os, "posix_fallocate", fallocate)

    def begin(*names):
        paths = [tmp_path / name for name in names]
        directories = ",".join(map(str, paths))
        start(object_spilling_directory=directories, _system_config={"spill_write_ms_max": 100})
        return released, paths

    yield begin
    released.set()
    shoal.shutdown()


def test_a_creator_whose_write_hangs_takes_another_directory(hanging_writes):
    released, (hangs, works) = hanging_writes("hangs", "works")
    refs = [shoal.put(array(number, 2 * STORE)) for number in range(3)]
    assert (len(spill_files(hangs)), len(spill_files(works))) == (1, 3)
    released.set()
    until(lambda: not spill_files(hangs))
    for number, ref in enumerate(refs):
        check(shoal.get(ref), number, 2 * STORE)


def test_a_creator_whose_write_hangs_is_told_the_file(hanging_writes):
    released, (hangs,) = hanging_writes("hangs")
    with pytest.raises(
        shoal.exceptions.OutOfDiskError,
        match=rf"{hangs}\S* has not answered.*{hangs}/\S*\.spill has taken nothing for 0.1 s",
    ):
        shoal.put(array(1, 2 * STORE))
    check(shoal.get(shoal.put(array(2))), 2)
    released.set()
    until(lambda: not spill_files(hangs))
    check(shoal.get(shoal.put(array(3, 2 * STORE))), 3, 2 * STORE)


def test_a_directory_that_hangs_is_named(hanging):
    folder = hanging("hangs", spill_lend_ms_max=300)
    with pytest.raises(shoal.exceptions.OutOfDiskError, match=f"{folder}.* has not answered"):
        shoal.put(array(1, 2 * STORE))
    check(shoal.get(shoal.put(array(2))), 2)


def test_why_and_a_notice_tell_of_a_directory_that_hangs(hanging, tmp_path, monkeypatch, capfd):
    folder = hanging("hangs", spill_lend_ms_max=600_000)

    @shoal.remote
    def fill():
        return shoal.put(array(1, 2 * STORE))

    ref = fill.remote()
    lines = f"is being made in {folder}"
    until(lambda: lines in CliRunner().invoke(app, ["why", ref.hex()]).stdout)
    found = CliRunner().invoke(app, ["why", ref.hex()]).stdout
    assert "here for a spill file for 134.22 MB" in found
    shoal.cancel(ref, force=True)
    runtime = shoal.session.runtime()
    monkeypatch.setattr(runtime, "config", replace(runtime.config, get_warning_s=0.2))

    def put():
        with pytest.raises(shoal.exceptions.NodeDiedError):
            shoal.put(array(1, 2 * STORE))

    thread = threading.Thread(target=put)
    thread.start()
    until(lambda: f"for a spill file for 134.22 MB: a file for 134.22 MB {lines}" in capfd.readouterr().err)
    shoal.shutdown()
    thread.join()


def test_one_directory_that_hangs_does_not_stop_the_others(hanging):
    hanging("hangs", "works", spill_lend_ms_max=300, spill_stall_ms=500)
    refs = [shoal.put(array(number)) for number in range(2 * STORE // PART)]
    for number, ref in enumerate(refs):
        check(shoal.get(ref), number)
    check(shoal.get(shoal.put(array(5, 2 * STORE))), 5, 2 * STORE)


def test_a_read_in_a_file_that_hangs_is_an_error_of_that_read_alone(no_leaks, tmp_path, monkeypatch):
    start(object_spilling_directory=str(tmp_path), _system_config={"spill_read_ms_max": 1000})
    answers = threading.Event()
    try:
        ref = shoal.put(array(1, 2 * STORE))
        real = filecopies.proofs.fits

        def fits(*what):
            answers.wait()
            return real(*what)

        monkeypatch.setattr(filecopies.proofs, "fits", fits)
        text = rf"{tmp_path}/\S*\.spill, which has given nothing for 1 s"
        with pytest.raises(shoal.exceptions.OutOfDiskError, match=text):
            shoal.get(ref)
        answers.set()
        check(shoal.get(ref), 1, 2 * STORE)
    finally:
        answers.set()
        shoal.shutdown()


def test_why_tells_of_a_task_that_reads_in_a_file(no_leaks, tmp_path):
    start(object_spilling_directory=str(tmp_path))
    answers = tmp_path / "answers"

    @shoal.remote
    def read(refs):
        real = filecopies.proofs.fits

        def fits(*what):
            while not answers.exists():
                time.sleep(0.01)
            return real(*what)

        filecopies.proofs.fits = fits
        return int(shoal.get(refs[0])[0])

    try:
        ref = read.remote([shoal.put(array(1, 2 * STORE))])
        until(lambda: "134.22 MB to be read from" in CliRunner().invoke(app, ["why", ref.hex()]).stdout)
        answers.touch()
        assert shoal.get(ref) == 1
    finally:
        answers.touch()
        shoal.shutdown()

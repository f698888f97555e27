"""The threads that write spill files, where somebody removes the directory under them."""

from __future__ import annotations

import os
import queue
import shutil
from types import SimpleNamespace

import pytest

from shoal.config import Config
from shoal.store.checksums import checksum
from shoald.store.spilldirs import directory
from shoald.store.spilleffects import Lend, Write
from shoald.store.spiller import Spiller

WAIT_S = 60
SIZE = 64 * 1024
DATA = os.urandom(SIZE)


class Core:
    """Stands for `Spills`: hears what has become of effects."""

    def __init__(self):
        self.outbox = []
        self.heard = []
        self.disks = SimpleNamespace(names=[])
        self.locate = None

    def wrote(self, number, checksums, _seconds, cached):
        self.heard.append(("wrote", number, checksums, cached))

    def write_failed(self, number, full, why, _now):
        self.heard.append(("failed", number, full, why))

    def made(self, number, where):
        self.heard.append(("made", number, where))


class Loop:
    """Runs what threads ask it to when a test looks."""

    def __init__(self):
        self._calls = queue.Queue()

    def now(self):
        return 0.0

    def call_soon_threadsafe(self, call):
        self._calls.put(call)

    def run_until(self, condition):
        while not condition():
            self._calls.get(timeout=WAIT_S)()


class Rig:
    def __init__(self, folder):
        self.fd = os.memfd_create("region")
        os.pwrite(self.fd, DATA, 0)
        self.core, self.loop, self.said, self.faults = Core(), Loop(), [], []
        self.directory = directory(str(folder), "n" * 16, 1.0)
        region = SimpleNamespace(write_fd=self.fd, capacity=SIZE)
        self.spiller = Spiller(
            self.loop,
            self.core,
            region,
            [self.directory],
            Config(),
            lambda text, error: self.faults.append((text, error)),
            self.said.append,
        )

    def heard(self, effect):
        """What the core hears of this effect."""
        self.core.outbox = [effect]
        self.core.heard.clear()
        self.spiller.turn()
        self.loop.run_until(lambda: self.core.heard)
        assert not self.faults
        (event,) = self.core.heard
        return event

    def close(self):
        self.spiller.close()
        os.close(self.fd)


@pytest.fixture
def rig(tmp_path):
    it = Rig(tmp_path / "a")
    yield it
    it.close()
    assert list((tmp_path / "a").iterdir()) == []


WROTE = ("wrote", 2, [checksum(memoryview(DATA))], True)


def removing(it, monkeypatch, name, times):
    """So often the directory goes when a thread has seen that it is there."""
    call = getattr(it.directory, name)
    left = [times]

    def late(*arguments, **options):
        if left[0]:
            left[0] -= 1
            shutil.rmtree(it.directory.path)
        return call(*arguments, **options)

    monkeypatch.setattr(it.directory, name, late)


def test_a_directory_that_goes_under_a_write_is_made_again_for_it(rig, monkeypatch):
    assert rig.heard(Write(1, 0, ((0, 64),)))[0] == "wrote"
    removing(rig, monkeypatch, "write", 1)
    assert rig.heard(Write(2, 0, ((0, SIZE),))) == WROTE
    with open(rig.core.locate(0, 2), "rb") as file:
        assert file.read() == DATA
    assert ["somebody has removed" in text for text in rig.said] == [True]


def test_also_for_one_that_takes_the_place_of_another(rig, monkeypatch):
    assert rig.heard(Write(1, 0, ((0, SIZE),)))[0] == "wrote"
    removing(rig, monkeypatch, "write", 1)
    assert rig.heard(Write(2, 0, ((0, SIZE),), over=1)) == WROTE


def test_and_for_one_that_is_to_be_lent(rig, monkeypatch):
    assert rig.heard(Write(1, 0, ((0, 64),)))[0] == "wrote"
    removing(rig, monkeypatch, "make", 1)
    assert rig.heard(Lend(2, 0, SIZE)) == ("made", 2, 0)
    assert os.path.exists(rig.core.locate(0, 2))


@pytest.mark.parametrize("parent", [True, False])
def test_where_a_file_lies_instead_nothing_is_written_until_it_is_gone(rig, parent):
    assert rig.heard(Write(1, 0, ((0, 64),)))[0] == "wrote"
    shutil.rmtree(rig.directory.path)
    path = os.path.dirname(rig.directory.path) if parent else rig.directory.path
    if parent:
        os.rmdir(path)
    with open(path, "w"):
        pass
    for _ in range(2):
        assert rig.heard(Write(2, 0, ((0, SIZE),)))[-1] == f"{rig.directory.path}: Not a directory"
    os.unlink(path)
    assert rig.heard(Write(2, 0, ((0, SIZE),))) == WROTE


def test_but_only_once(rig, monkeypatch):
    assert rig.heard(Write(1, 0, ((0, 64),)))[0] == "wrote"
    removing(rig, monkeypatch, "write", 2)
    kind, number, full, why = rig.heard(Write(2, 0, ((0, SIZE),)))
    assert (kind, number, full) == ("failed", 2, False)
    assert why == f"{rig.directory.path}: No such file or directory"
    assert rig.heard(Write(2, 0, ((0, SIZE),))) == WROTE

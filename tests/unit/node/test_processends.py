"""Whoever waits for the end of a process hears of it when it has come, and not because this one is short of something."""

import errno
import os
import subprocess
import sys

import pytest

from shoald.node import processends
from shoald.node.processends import when_ended
from shoald.shell.descriptors import copies_of
from shoald.shell.loop import Loop


@pytest.fixture
def loop():
    faults = []
    made = Loop(lambda where, error: faults.append(error))
    yield made
    made.close()
    assert not faults


@pytest.fixture
def process():
    made = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    yield made
    made.communicate()


def turns(loop, condition):
    for _ in range(1000):
        if condition():
            return
        loop.call_later(0.005, lambda: None)
        loop.turn()
    raise AssertionError("it did not happen")


def test_the_end_is_told_once(loop, process):
    told = []
    when_ended(loop, process.pid, lambda: told.append(1))
    loop.call_later(0.01, lambda: None)
    loop.turn()
    assert not told
    process.stdin.close()
    turns(loop, lambda: told)
    process.wait()
    when_ended(loop, process.pid, lambda: told.append(2))
    assert told == [1, 2]


def test_no_descriptor_to_watch_with_is_no_end(loop, process, monkeypatch):
    opened, refusals, told = os.pidfd_open, [3], []

    def open_later(pid):
        if refusals[0]:
            refusals[0] -= 1
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return opened(pid)

    monkeypatch.setattr(processends, "_AGAIN_S", 0.001)
    monkeypatch.setattr(os, "pidfd_open", open_later)
    when_ended(loop, process.pid, lambda: told.append(1))
    turns(loop, lambda: not refusals[0])
    assert not told
    process.stdin.close()
    turns(loop, lambda: told)
    assert told == [1]


def test_copies_are_made_of_all_or_none(monkeypatch):
    copy, made = os.dup, []

    def copy_one(fd):
        if made:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        made.append(copy(fd))
        return made[-1]

    monkeypatch.setattr(os, "dup", copy_one)
    with pytest.raises(OSError, match="open files"):
        copies_of([0, 1])
    with pytest.raises(OSError, match="Bad file"):
        os.fstat(made[0])

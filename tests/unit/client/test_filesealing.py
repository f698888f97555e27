"""Files that were lent to a creator: one that it will not use goes back, whatever comes in between."""

import threading
from types import SimpleNamespace

import pytest

from shoal.client import filesealing
from shoal.client.filesealing import FileSealer, RatherAFileError
from shoal.config import Config
from shoal.exceptions import ObjectStoreFullError
from shoal.wire import messages as m

LENT = [m.FILE_LENT, 3, 7, "/spill/7"]


class World:
    """As much of a runtime as there is to it; `said`: what the daemon is told."""

    def __init__(self):
        self.said = []
        self.lock = threading.RLock()
        self.config = Config()
        self.table = SimpleNamespace(to_node=self.said.append)
        self.explain = SimpleNamespace(
            room_wait_begins=lambda token, what: None, room_wait_ends=lambda token: None
        )


@pytest.fixture
def world():
    return World()


@pytest.fixture
def files(world):
    return FileSealer(world, SimpleNamespace(answered=lambda number, message: number == 3))


def test_what_raises_before_it_is_used_gives_it_back(world, files):
    with pytest.raises(KeyboardInterrupt), files.given_back(RatherAFileError("no room", lent=LENT)):
        raise KeyboardInterrupt
    assert world.said == [[m.FILE_RETURN, 7]]


@pytest.mark.parametrize("full", [RatherAFileError("no room"), ObjectStoreFullError("no room")])
def test_where_none_was_lent_none_goes_back(world, files, full):
    with pytest.raises(KeyboardInterrupt), files.given_back(full):
        raise KeyboardInterrupt
    with files.given_back(RatherAFileError("no room", lent=LENT)):
        pass
    assert world.said == []


def test_one_that_nobody_waits_for_goes_back(world, files):
    files.lent(LENT)
    assert world.said == []
    files.lent([m.FILE_LENT, 4, 8, "/spill/8"])
    assert world.said == [[m.FILE_RETURN, 8]]


def test_where_no_thread_is_to_be_had_it_goes_back(world, files, monkeypatch):
    def refuses(*_):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(filesealing, "FileWrite", refuses)
    value = SimpleNamespace(size=100)
    with pytest.raises(RuntimeError, match="new thread"):
        files.seal(b"x" * 16, value, [], RatherAFileError("no room", lent=LENT))
    assert world.said == [[m.FILE_RETURN, 7]]

"""Folders that workers of one node make and share. Threads stand for workers: locks belong to open files."""

import fcntl
import os
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from shoald.worker import folders
from shoald.worker.folders import hold, make_room, used_folder

ROOM = 10**9


@pytest.fixture(autouse=True)
def let_go(monkeypatch):
    """What a test holds goes at its end, as it does with a worker."""
    held = []
    monkeypatch.setattr(folders, "_held", held)
    yield held
    end_of_worker(held)


def end_of_worker(held):
    while held:
        os.close(held.pop())


def filled(size):
    def make(target):
        os.mkdir(target)
        with open(os.path.join(target, "file"), "wb") as file:
            file.write(bytes(size))

    return make


def never(_target):
    raise AssertionError("it is there already")


def names(parent):
    return sorted(each.name for each in parent.iterdir() if each.is_dir())


def test_it_is_made_once_and_used_by_all(tmp_path):
    target = str(tmp_path / "p" / "a")
    assert used_folder(target, ROOM, filled(1)) == target
    assert used_folder(target, ROOM, never) == target


def test_two_that_both_found_it_missing_do_not_wait_for_each_other(tmp_path, monkeypatch):
    looked = threading.Barrier(2, timeout=20)
    complete, first = folders._complete, threading.local()

    def look(lock, target):
        found = complete(lock, target)
        if not getattr(first, "done", False):
            first.done = True
            looked.wait()
        return found

    monkeypatch.setattr(folders, "_complete", look)
    made = []

    def make(target):
        made.append(target)
        filled(1)(target)

    target = str(tmp_path / "a")
    with ThreadPoolExecutor(2) as workers:
        uses = [workers.submit(used_folder, target, ROOM, make) for _ in range(2)]
        assert [each.result(timeout=20) for each in uses] == [target] * 2
    assert made == [target]


def test_who_waits_for_another_may_stop_waiting(tmp_path, let_go):
    target = str(tmp_path / "a")
    making, go_on = threading.Event(), threading.Event()

    def make(path):
        making.set()
        assert go_on.wait(20)
        filled(1)(path)

    def stop():
        raise TimeoutError("enough")

    with ThreadPoolExecutor(1) as workers:
        use = workers.submit(used_folder, target, ROOM, make)
        assert making.wait(20)
        with pytest.raises(TimeoutError, match="enough"):
            used_folder(target, ROOM, never, stop)
        go_on.set()
        assert use.result(timeout=20) == target
    assert len(let_go) == 1


def test_nothing_is_left_of_one_that_cannot_be_made(tmp_path, let_go):
    def broken(target):
        filled(1)(target)
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        used_folder(str(tmp_path / "a"), ROOM, broken)
    assert names(tmp_path) == []
    assert not let_go
    assert used_folder(str(tmp_path / "a"), ROOM, filled(1))


def test_half_made_ones_go_as_soon_as_another_is_made_or_are_made_again(tmp_path):
    for name in "ab":  # as a worker leaves them that is killed
        (tmp_path / name).mkdir()
        (tmp_path / f"{name}.lock").touch()
    used_folder(str(tmp_path / "b"), ROOM, filled(5))
    assert names(tmp_path) == ["b"]
    assert (tmp_path / "b.lock").read_text() == "5"


def test_one_that_is_being_made_does_not_go(tmp_path):
    def make(target):
        filled(1)(target)
        used_folder(str(tmp_path / "other"), 0, filled(1))

    used_folder(str(tmp_path / "a"), ROOM, make)
    assert names(tmp_path) == ["a", "other"]


def test_least_recently_used_ones_make_room_unless_they_are_used(tmp_path, let_go):
    for time, name in enumerate("abcd", 1):
        used_folder(str(tmp_path / name), ROOM, filled(10))
        os.utime(tmp_path / f"{name}.lock", (time, time))
    end_of_worker(let_go)
    used_folder(str(tmp_path / "a"), ROOM, never)  # now it is the one that was used last, and it is in use
    os.utime(tmp_path / "a.lock", (9, 9))
    make_room(str(tmp_path), 25)
    assert names(tmp_path) == ["a", "d"]
    make_room(str(tmp_path), 0)
    assert names(tmp_path) == ["a"]
    assert used_folder(str(tmp_path / "b"), ROOM, filled(3))


def test_who_comes_while_it_is_removed_makes_it_again(tmp_path, let_go):
    target = str(tmp_path / "a")
    used_folder(target, ROOM, filled(1))
    end_of_worker(let_go)
    with open(f"{target}.lock", "r+b") as remover, ThreadPoolExecutor(1) as workers:
        fcntl.flock(remover, fcntl.LOCK_EX)
        use = workers.submit(used_folder, target, ROOM, filled(7))
        os.truncate(remover.fileno(), 0)
        fcntl.flock(remover, fcntl.LOCK_UN)
        assert use.result(timeout=20) == target
    assert (tmp_path / "a.lock").read_text() == "7"


def test_who_runs_from_one_keeps_it_and_is_told_if_it_has_gone(tmp_path, let_go):
    target = used_folder(str(tmp_path / "one"), ROOM, filled(10))
    end_of_worker(let_go)
    hold(target)
    make_room(str(tmp_path), 0)
    assert os.path.exists(target)
    end_of_worker(let_go)
    make_room(str(tmp_path), 0)
    with pytest.raises(FileNotFoundError, match="was removed"):
        hold(target)
    assert let_go == []

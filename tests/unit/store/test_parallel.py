"""Work by several threads: all of it is done once, and whichever way was faster is taken."""

import threading

import pytest

from shoal.store import parallel
from shoal.store.parallel import BYTES_MIN, THREAD, Parallel

SIZE = BYTES_MIN + 12_345


@pytest.fixture
def two(monkeypatch):
    """Two processors, and a clock that only what is done moves."""
    clock = [0.0]
    monkeypatch.setattr(parallel, "_processors", lambda: 2)
    monkeypatch.setattr(parallel.time, "perf_counter", lambda: clock[0])
    return clock


class Work:
    """Takes a second for a whole piece, and so long if it is shared."""

    def __init__(self, clock, shared_s):
        self.clock, self.shared_s = clock, shared_s
        self.parts = []

    def __call__(self, start, end):
        self.parts.append((start, end, threading.current_thread().name == THREAD))
        if start == 0:
            self.clock[0] += 1.0 if end == SIZE else self.shared_s


def ways(work, count):
    """Which of so many pieces were shared."""
    jobs, found = Parallel(), []
    for _ in range(count):
        work.parts = []
        jobs.run(SIZE, work)
        ends = [0, *sorted(end for _, end, _ in work.parts)]
        assert sorted(start for start, _, _ in work.parts) == ends[:-1]
        assert ends[-1] == SIZE
        found.append(len(work.parts) == 2)
    return found


def test_each_way_is_tried_and_the_faster_one_taken(two):
    assert ways(Work(two, 0.5), 20)[6:] == [True] * 14
    assert ways(Work(two, 0.9), 20)[6:] == [False] * 14  # not worth another core
    assert ways(Work(two, 0.5), 6).count(True) == 3


def test_the_other_way_is_tried_now_and_then_and_taken_when_it_is_faster_by_then(two):
    work = Work(two, 1.0)
    jobs = Parallel()
    for _ in range(10):
        jobs.run(SIZE, work)
    work.shared_s = 0.2
    for _ in range(200):
        jobs.run(SIZE, work)
    work.parts = []
    jobs.run(SIZE, work)
    assert len(work.parts) == 2


@pytest.mark.parametrize("size", [0, 1, BYTES_MIN - 1])
def test_small_pieces_are_not_shared(two, size):
    work = Work(two, 0.1)
    jobs = Parallel()
    for _ in range(10):
        jobs.run(size, work)
    assert [part[1:] for part in work.parts] == [(size, False)] * 10


def test_nor_is_anything_with_one_processor(monkeypatch):
    monkeypatch.setattr(parallel, "_processors", lambda: 1)
    calls = []
    jobs = Parallel()
    for _ in range(10):
        jobs.run(SIZE, lambda *part: calls.append(part))
    assert calls == [(0, SIZE)] * 10


@pytest.mark.parametrize("failing", [0, 1])
def test_an_error_of_either_part_is_raised_when_both_have_ended(two, failing):
    ended = []

    def work(start, end):
        if (start > 0) == failing and (start, end) != (0, SIZE):
            raise OSError("this part")
        ended.append(start)

    jobs = Parallel()
    jobs.run(SIZE, work)  # by one thread first
    ended.clear()
    with pytest.raises(OSError, match="this part"):
        jobs.run(SIZE, work)
    assert len(ended) == 1


def test_a_signal_is_raised_when_the_other_thread_has_ended(two):
    go, ended = threading.Event(), threading.Event()

    def work(start, _end):
        if threading.current_thread().name == THREAD:
            go.wait(60)
            ended.set()
        elif start == 0 and _end != SIZE:
            threading.Timer(0.05, go.set).start()
            raise KeyboardInterrupt

    jobs = Parallel()
    jobs.run(SIZE, work)
    with pytest.raises(KeyboardInterrupt):
        jobs.run(SIZE, work)
    assert ended.is_set()


def test_where_no_thread_is_to_be_had_one_does_it_all(two, monkeypatch):
    def refuses(_thread):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuses)
    parts = []
    jobs = Parallel()
    jobs.run(SIZE, lambda *part: parts.append(part))
    jobs.run(SIZE, lambda *part: parts.append(part))
    assert parts[0] == (0, SIZE)
    assert len(parts) == 3
    assert parts[1][1] == parts[2][0]

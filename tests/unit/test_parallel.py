"""Work by several threads: all of it is done once, and whichever way was faster is taken."""

import signal
import threading

import pytest

from shoal import parallel
from shoal.parallel import BYTES_MIN, Parallel, in_threads

SIZE = BYTES_MIN + 12_345


@pytest.fixture
def two(monkeypatch):
    """Two processors, and a clock that only what is done moves."""
    clock = [0.0]
    monkeypatch.setattr(parallel, "processors", lambda: 2)
    monkeypatch.setattr(parallel.time, "perf_counter", lambda: clock[0])
    return clock


class Work:
    """Takes a second for a whole piece, and so long if it is shared."""

    def __init__(self, clock, shared_s):
        self.clock, self.shared_s = clock, shared_s
        self.parts = []

    def __call__(self, start, end):
        self.parts.append((start, end))
        if start == 0:
            self.clock[0] += 1.0 if end == SIZE else self.shared_s


def ways(work, count):
    """Which of so many pieces were shared."""
    jobs, found = Parallel(), []
    for _ in range(count):
        work.parts = []
        jobs.run(SIZE, work)
        ends = [0, *sorted(end for _, end in work.parts)]
        assert sorted(start for start, _ in work.parts) == ends[:-1]
        assert ends[-1] == SIZE
        found.append(len(work.parts) == 2)
    return found


def test_each_way_is_tried_and_the_faster_one_taken_and_the_other_ever_more_seldom(two):
    assert ways(Work(two, 0.5), 6).count(True) == 3
    probes = [7, 11, 19, 35, 67, 99, 131]  # after 2, 4, 8, 16, and then every 32
    assert [at for at, shared in enumerate(ways(Work(two, 0.5), 140)) if not shared and at > 5] == probes
    assert [
        at for at, shared in enumerate(ways(Work(two, 0.9), 140)) if shared and at > 5
    ] == probes  # not worth another core


def unshared(jobs, work, count):
    """How many of so many more pieces one thread did alone."""
    work.parts = []
    for _ in range(count):
        jobs.run(SIZE, work)
    return work.parts.count((0, SIZE))


def test_what_the_first_pieces_took_is_soon_forgotten(two):
    """The first ones, to memory that nobody has touched yet, take equally long by one thread and by two."""
    work, jobs = Work(two, 1.0), Parallel()
    assert unshared(jobs, work, 8) == 4
    work.shared_s = 0.5
    assert unshared(jobs, work, 10) <= 5


def test_the_other_way_is_tried_now_and_then_and_taken_when_it_is_faster_by_then(two):
    work, jobs = Work(two, 1.0), Parallel()
    unshared(jobs, work, 10)
    work.shared_s = 0.2
    unshared(jobs, work, 200)
    assert unshared(jobs, work, 1) == 0
    assert len(work.parts) == 2


@pytest.mark.parametrize("size", [0, 1, BYTES_MIN - 1])
def test_small_pieces_are_not_shared(two, size):
    work = Work(two, 0.1)
    jobs = Parallel()
    for _ in range(10):
        jobs.run(size, work)
    assert work.parts == [(0, size)] * 10


def test_nor_is_anything_with_one_processor(monkeypatch):
    monkeypatch.setattr(parallel, "processors", lambda: 1)
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


def test_helpers_run_elsewhere_and_are_waited_for(monkeypatch):
    """Not for ever: a machine may be busy. Here one helper begins late, after the caller has begun its own part."""
    left, begun = [], threading.Event()
    monkeypatch.setattr(parallel, "current", lambda: 7)

    def leave(place):
        left.append(place)
        if len(left) == 2:
            assert begun.wait(60)

    monkeypatch.setattr(parallel, "leave", leave)
    in_threads([lambda: None, lambda: None, begun.set])
    assert left == [7, 7]


def test_a_failure_in_a_copying_thread_is_raised():
    def fail():
        raise OSError("no memory behind this page")

    with pytest.raises(OSError, match="no memory"):
        in_threads([fail, lambda: None])


def test_where_no_thread_can_be_started_the_rest_is_done_here(monkeypatch):
    gate, ended = threading.Event(), []
    start = parallel.start_new_thread

    def once(function, args):
        if gate.is_set():
            raise RuntimeError("can't start new thread")
        gate.set()
        return start(function, args)

    monkeypatch.setattr(parallel, "start_new_thread", once)
    in_threads([lambda: ended.append(gate.wait(60)), *[lambda: ended.append("here")] * 3])
    assert sorted(map(str, ended)) == ["True", "here", "here", "here"]


def test_nobody_writes_any_more_when_a_signal_ends_the_wait():
    main = threading.get_ident()
    raised, left, ended = threading.Event(), threading.Event(), threading.Event()

    def interrupt(*_):
        raised.set()
        raise KeyboardInterrupt

    def slow():
        signal.pthread_kill(main, signal.SIGINT)
        raised.wait(60)
        left.wait(0.2)  # nobody sets it before all have ended
        ended.set()

    before = signal.signal(signal.SIGINT, interrupt)
    try:
        with pytest.raises(KeyboardInterrupt):
            in_threads([slow, lambda: None])
        was_over = ended.is_set()
        left.set()
    finally:
        signal.signal(signal.SIGINT, before)
    assert was_over

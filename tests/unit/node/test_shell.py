"""The daemon's own loop and log: order within a turn, faults that do not spread, files that do not grow."""

import os
import sys
import threading

import pytest

from shoald.shell import loop as loops
from shoald.shell.daemonlog import DaemonLog
from shoald.shell.loop import Loop


@pytest.fixture(params=["epoll", "selectors"])
def loop(request, monkeypatch):
    if request.param == "selectors":
        monkeypatch.delattr(loops.select, "epoll", raising=False)
    faults = []
    made = Loop(lambda where, error: faults.append((where, error)))
    made.faults = faults
    yield made
    made.close()


def test_readable_descriptor_is_served_until_it_is_removed(loop):
    read_end, write_end = os.pipe()
    seen = []
    loop.add_reader(read_end, lambda: seen.append(os.read(read_end, 10)))
    os.write(write_end, b"one")
    loop.turn()
    loop.remove_reader(read_end)
    loop.remove_reader(read_end)
    os.write(write_end, b"two")
    loop.wake()
    loop.turn()
    assert seen == [b"one"]
    os.close(read_end)
    os.close(write_end)


def test_writable_descriptor_is_served_beside_its_reader(loop):
    read_end, write_end = os.pipe()
    seen = []
    loop.add_reader(write_end, lambda: None)
    loop.add_writer(write_end, lambda: seen.append("room"))
    loop.turn()
    loop.remove_writer(write_end)
    loop.remove_reader(write_end)
    assert seen == ["room"]
    os.close(read_end)
    os.close(write_end)


def test_stop_before_run_and_the_last_decisions_are_carried_out(loop):
    ends = []
    loop.on_turn_end = lambda now: ends.append(now)
    loop.stop()
    loop.run()
    assert len(ends) == 1


def test_timers_in_order_and_not_when_cancelled(loop):
    seen = []
    loop.call_later(0.002, lambda: seen.append("second"))
    loop.call_later(0.0, lambda: seen.append("first"))
    loop.call_later(0.001, lambda: seen.append("never")).cancel()
    loop.call_later(0.003, loop.stop)
    loop.run()
    assert seen == ["first", "second"]


def test_other_threads_hand_in_work(loop):
    thread = threading.Thread(target=lambda: loop.call_soon_threadsafe(loop.stop))
    thread.start()
    loop.run()
    thread.join()


def test_fault_of_one_callback_is_told_and_the_loop_goes_on(loop):
    loop.call_later(0.0, lambda: 1 / 0)
    loop.call_later(0.001, loop.stop)
    loop.run()
    assert [type(error) for _, error in loop.faults] == [ZeroDivisionError]


def test_log_rotates_and_keeps_what_goes_to_standard_error(tmp_path):
    path = tmp_path / "node.log"
    kept = os.dup(1), os.dup(2)
    try:
        log = DaemonLog(str(path), file_bytes=4096, files=3)
        log.open()
        os.write(2, b"from elsewhere\n")
        for number in range(1000):
            log.line(f"line {number}")
        log.fault("in a test", ValueError("told"))
    finally:
        os.dup2(kept[0], 1)
        os.dup2(kept[1], 2)
        for fd in kept:
            os.close(fd)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["node.log", "node.log.1", "node.log.2"]
    assert "ValueError: told" in path.read_text()
    assert max(file.stat().st_size for file in tmp_path.iterdir()) < 3 * 4096
    assert sys.stderr is not None

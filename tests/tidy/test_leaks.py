"""The leak check catches each kind of thing that it looks for, and waits for what is on its way out."""

import os
import subprocess
import sys
import tempfile
import threading

import pytest

from leaks import Snapshot, difference_after_wait

RUN = os.environ["SHOAL_TEST_RUN"]
SLEEP = [sys.executable, "-c", "import sys; sys.stdin.read()"]


@pytest.fixture
def before():
    return Snapshot.take(RUN)


def only_line(before):
    (line,) = difference_after_wait(before, RUN, wait_s=0)
    return line


def test_nothing_left(before):
    assert difference_after_wait(before, RUN, wait_s=0) == []


def test_process(before):
    with subprocess.Popen(SLEEP, stdin=subprocess.PIPE) as child:
        lines = difference_after_wait(before, RUN, wait_s=0)
        assert any(line.startswith(f"process {child.pid} ") for line in lines)
    assert difference_after_wait(before, RUN, wait_s=5) == []


def test_detached_process(before):
    """A daemon's daemon: its parent is gone, and it is found by what it inherited."""
    end, start = os.pipe()
    launch = f"import subprocess, sys; subprocess.Popen({SLEEP!r}, stdin={end}, start_new_session=True)"
    subprocess.run([sys.executable, "-c", launch], check=True, pass_fds=[end])
    lines = difference_after_wait(before, RUN, wait_s=0)
    assert any(line.startswith("process ") for line in lines)
    os.close(end)
    os.close(start)
    assert difference_after_wait(before, RUN, wait_s=5) == []


def test_descriptor(before):
    descriptor = os.memfd_create("leak")
    assert "memfd:leak" in only_line(before)
    os.close(descriptor)


def test_thread(before):
    go_on = threading.Event()
    thread = threading.Thread(target=go_on.wait, name="leaky")
    thread.start()
    assert "thread leaky" in only_line(before)
    go_on.set()
    assert difference_after_wait(before, RUN, wait_s=5) == []


def test_file(before):
    with tempfile.NamedTemporaryFile(prefix="session-") as file:
        assert file.name in "".join(difference_after_wait(before, RUN, wait_s=0))
    assert difference_after_wait(before, RUN, wait_s=0) == []

"""What tasks print, on its way into the pipe."""

import os
import subprocess
import sys
import textwrap
import threading

import pytest

from shoald.node.lines import StreamLines
from shoald.worker import output
from shoald.worker.output import TaskWriter

LINE_MAX = 1 << 20


def parsed(data):
    stream = StreamLines(LINE_MAX)
    return stream.feed(data) + stream.flush()


@pytest.fixture
def pipe():
    """(writer, what was written so far, the two ends)."""
    ends = os.pipe()
    os.set_blocking(ends[0], False)

    def written():
        data = b""
        while True:
            try:
                piece = os.read(ends[0], 1 << 16)
            except BlockingIOError:
                return data
            if not piece:
                return data
            data += piece

    yield TaskWriter(ends[1], 64), written, ends
    output.set_task("")
    for end in ends:
        try:
            os.close(end)
        except OSError:
            continue


@pytest.fixture
def text(pipe):
    return output._text_writer(pipe[0])


def test_a_marker_goes_before_the_first_output_of_another_task(pipe, text):
    _, written, _ = pipe
    print("start", file=text)
    for task in ("f", "f", "silent", "f", "g"):
        output.set_task(task)
        if task != "silent":
            print("line", file=text)
    data = written()
    assert data.count(b"\x00") == 2  # f, g
    assert parsed(data) == [("", "start"), ("f", "line"), ("f", "line"), ("f", "line"), ("g", "line")]


@pytest.fixture
def installed(pipe, monkeypatch):
    monkeypatch.setattr(output, "_writers", [pipe[0]])
    return pipe


def test_output_that_bypasses_python_counts_for_its_task_or_the_worker(installed):
    _, written, ends = installed
    for name, short in [("f", False), ("g", True), ("g", True), ("h", True), ("i", False), ("i", True)]:
        output.set_task(name, short)
        os.write(ends[1], b"raw\n")
    data = written()
    assert parsed(data) == [("f", "raw"), *[("", "raw")] * 3, ("i", "raw"), ("i", "raw")]
    assert data.count(b"\x00") == 3


def test_a_task_does_not_wait_for_room_to_say_its_name(installed):
    writer, written, ends = installed
    output.set_task("f", False)
    os.set_blocking(ends[1], False)
    with pytest.raises(BlockingIOError):
        while True:
            os.write(ends[1], b"x" * 4095 + b"\n")
    os.set_blocking(ends[1], True)
    output.set_task("g", False)
    before = parsed(written())
    assert {task for task, _ in before} == {"f"}
    writer.write(b"line\n")
    writer.flush()
    assert parsed(written()) == [("g", "line")]


def test_lines_without_an_end_are_written_after_their_task(installed, text):
    _, written, _ = installed
    output.set_task("f", False)
    print("no end", end="", file=text)
    output.flush_partial_lines()
    assert parsed(written()) == [("f", "no end")]


def test_a_line_without_an_end_stays_with_its_task(pipe, text):
    writer, written, _ = pipe
    output.set_task("f")
    print("no end", end="", file=text)
    assert written() == b""
    output.set_task("g")
    print("next", file=text)
    print("last", end="", file=text)
    writer.flush()
    assert parsed(written()) == [("f", "no end"), ("g", "next"), ("g", "last")]


def test_bytes_and_text_share_one_order(pipe, text):
    _, written, _ = pipe
    output.set_task("f")
    text.write("a")
    text.buffer.write(b"\xffb")
    text.write("c\n")
    assert parsed(written()) == [("f", r"a\xffbc")]


def test_much_without_an_end_is_written_all_the_same(pipe, text):
    writer, written, _ = pipe
    print("x" * 200, end="", file=text)
    assert len(written()) == 200
    assert not writer.pending


def test_surrogates_and_large_writes(pipe, text):
    _, written, ends = pipe
    data = []
    os.set_blocking(ends[0], True)
    reader = threading.Thread(target=lambda: data.append(os.read(ends[0], 1)))
    reader.start()
    print("\udc80", file=text)
    reader.join()
    os.set_blocking(ends[0], False)
    assert data[0] + written() == b"\\udc80\n"


@pytest.mark.parametrize("blocking", [True, False])
def test_output_larger_than_the_pipe_waits_for_its_reader(pipe, blocking):
    writer, _, ends = pipe
    os.set_blocking(ends[0], True)
    os.set_blocking(ends[1], blocking)
    size = 1 << 20
    received = bytearray()

    def read():
        while len(received) < size:
            received.extend(os.read(ends[0], 1 << 16))

    reader = threading.Thread(target=read)
    reader.start()
    assert writer.write(b"y" * size) == size
    reader.join()
    assert received == b"y" * size


def test_nothing_is_raised_when_nobody_reads(pipe, text):
    writer, _, ends = pipe
    os.close(ends[0])
    for _ in range(3):
        print("into the void", file=text)
        writer.flush()
    os.close(ends[1])
    print("no descriptor", file=text)
    assert not writer.pending


def test_closing_does_not_silence_later_tasks(pipe, text):
    _, written, _ = pipe
    text.close()
    output.set_task("f")
    print("still here", file=text)
    assert parsed(written()) == [("f", "still here")]
    assert not text.closed
    assert not text.isatty()


def test_threads_do_not_tear_writes(pipe):
    writer, _, ends = pipe
    os.set_blocking(ends[0], True)
    lines = {f"{name * 50}\n".encode() for name in "abcd"}
    received = bytearray()

    def read():
        while len(received) < 4 * 200 * 51:
            received.extend(os.read(ends[0], 1 << 16))

    def write(line):
        for _ in range(200):
            writer.write(line)

    threads = [
        threading.Thread(target=read),
        *(threading.Thread(target=write, args=[line]) for line in lines),
    ]
    for thread in threads:
        thread.start()
    for thread in threads[1:]:
        thread.join()
    writer.flush()
    threads[0].join()
    assert set(bytes(received).splitlines(keepends=True)) == lines


def run(code):
    """(stdout, stderr) lines by task of a process that installs the writers and runs `code`."""
    start = "import os, sys\nfrom shoal.config import Config\nfrom shoald.worker import output\n"
    start += "output.install(Config())\nset_task = output.set_task\n"
    done = subprocess.run(
        [sys.executable, "-c", start + textwrap.dedent(code)], capture_output=True, timeout=60, check=True
    )
    return parsed(done.stdout), parsed(done.stderr)


def test_a_process_with_the_writers():
    out, err = run(
        """
        import contextlib, io, subprocess
        set_task("f")
        print("printed")
        print("error", file=sys.stderr)
        os.write(1, b"by descriptor\\n")
        subprocess.run([sys.executable, "-c", "print('child')"], check=True)
        with contextlib.redirect_stdout(io.StringIO()):
            print("captured")
        sys.stdout = io.StringIO()
        print("lost by its own doing")
        sys.stdout = sys.__stdout__
        set_task("g")
        sys.stdout.buffer.write(b"bytes\\n")
        sys.stdout.close()
        sys.stdout.reconfigure(encoding="utf-8")
        print("é", sys.stdout.fileno(), sys.stdout.isatty(), sys.stdout.encoding, sys.stdout.buffer.name)
        print("no end", end="")
        output.flush()
        os._exit(0)
        """
    )
    assert out == [
        ("f", "printed"),
        ("f", "by descriptor"),
        ("f", "child"),
        ("g", "bytes"),
        ("g", "é 1 False utf-8 <stdout>"),
        ("g", "no end"),
    ]
    assert err == [("f", "error")]


def test_a_forked_child_does_not_repeat_its_parents_output():
    out, _ = run(
        """
        set_task("f")
        print("parent", end=" ")
        child = os.fork()
        if child == 0:
            print("child")
            output.flush()
            os._exit(0)
        os.waitpid(child, 0)
        print("end")
        """
    )
    assert [line for _, line in out] == ["child", "parent end"]


def test_flush_survives_what_user_code_put_there():
    out, err = run(
        """
        class Odd:
            def flush(self):
                raise KeyError("odd")
        set_task("f")
        print("kept", end="")
        sys.stdout = Odd()
        output.flush()
        sys.stdout = None
        sys.stderr = None
        output.flush()
        os._exit(0)
        """
    )
    assert out == [("f", "kept")]
    assert "could not be flushed" in err[0][1]


def test_a_signal_handler_may_print_while_the_task_prints():
    out, _ = run(
        """
        import signal
        signal.signal(signal.SIGALRM, lambda *_: print("S" * 10))
        signal.setitimer(signal.ITIMER_REAL, 0.0005, 0.0005)
        for _ in range(3000):
            print("T" * 10)
        signal.setitimer(signal.ITIMER_REAL, 0)
        """
    )
    text = "".join(line for _, line in out)
    assert text.count("T") == 30000
    assert text.count("S") % 10 == 0

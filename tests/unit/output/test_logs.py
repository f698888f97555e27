"""A worker's output at its node: entries for the driver, and the log file."""

import os

import pytest

from shoal.config import Config
from shoal.wire import barlines
from shoald.markers import encode_marker
from shoald.node.logs import RotatingFile, WorkerOutput


@pytest.fixture
def output(tmp_path):
    made = WorkerOutput(
        b"w" * 16, 12, str(tmp_path / "worker-12.log"), Config(output_line_bytes_max=64), "n1"
    )
    yield made
    made.close()


def test_entries_are_grouped_by_task(output):
    data = encode_marker("f") + b"one\ntwo\n" + encode_marker("g") + b"three\nno end"
    assert output.feed(data, "stdout") == [
        ["f", 12, "n1", "stdout", ["one", "two"]],
        ["g", 12, "n1", "stdout", ["three"]],
    ]
    assert output.feed(b"bad\n", "stderr") == [["", 12, "n1", "stderr", ["bad"]]]
    assert output.feed(b"", "stdout") == [["g", 12, "n1", "stdout", ["no end"]]]
    assert output.feed(b"", "stdout") == []


def test_flush_gives_what_has_no_end(output):
    output.feed(b"a", "stdout")
    output.feed(b"b", "stderr")
    assert output.flush() == [["", 12, "n1", "stdout", ["a"]], ["", 12, "n1", "stderr", ["b"]]]
    output.feed(b"c", "stdout")
    assert output.close() == [["", 12, "n1", "stdout", ["c"]]]
    assert output.close() == []


def test_the_log_file_has_the_lines_by_task(output, tmp_path):
    output.feed(encode_marker("f") + b"one\n", "stdout")
    output.feed(b"two\n", "stdout")
    output.feed(b"oops \xff\n", "stderr")
    text = (tmp_path / "worker-12.log").read_text()
    assert text == "--- f stdout ---\none\ntwo\n--- worker stderr ---\noops \\xff\n"


def test_a_silent_worker_has_no_file(output, tmp_path):
    output.close()
    assert list(tmp_path.iterdir()) == []


def test_files_rotate(tmp_path):
    path = tmp_path / "log"
    file = RotatingFile(str(path), bytes_max=10, files_max=3)
    for number in range(6):
        file.write(f"line {number}\n".encode())
    file.close()
    assert sorted(each.name for each in tmp_path.iterdir()) == ["log", "log.1", "log.2"]
    assert [(tmp_path / name).read_text() for name in ("log", "log.1", "log.2")] == [
        "line 5\n",
        "line 4\n",
        "line 3\n",
    ]
    again = RotatingFile(str(path), bytes_max=10, files_max=3)
    again.write(b"x\n")
    again.close()
    assert path.read_text() == "line 5\nx\n"  # an old file goes on


def test_one_file_only(tmp_path):
    file = RotatingFile(str(tmp_path / "log"), bytes_max=5, files_max=1)
    for _ in range(4):
        file.write(b"1234\n")
    file.close()
    assert [each.name for each in tmp_path.iterdir()] == ["log"]
    assert (tmp_path / "log").read_text() == "1234\n"


def test_a_file_that_cannot_be_written_is_logged_once(tmp_path, caplog):
    folder = tmp_path / "missing"
    output = WorkerOutput(b"w" * 16, 12, str(folder / "log"), Config())
    assert output.feed(b"a\n", "stdout") == [["", 12, "", "stdout", ["a"]]]
    output.feed(b"b\n", "stdout")
    assert len(caplog.records) == 1
    os.mkdir(folder)
    output.feed(b"c\n", "stdout")
    output.close()
    assert (folder / "log").read_text().endswith("c\n")


def bar_line(bar, n=1, state=barlines.OPEN):
    return barlines.encode(barlines.Report(bar, bar, n, 10, state=state))


def test_bars_are_not_in_the_file_and_those_of_a_worker_that_ends_have_gone(tmp_path):
    path = tmp_path / "worker.log"
    output = WorkerOutput(b"w", 5, str(path), Config())
    said = [bar_line("a"), bar_line("b"), bar_line("a", 2), bar_line("b", 10, barlines.CLOSED)]
    entries = output.feed("".join(f"{line}\n" for line in said).encode(), "stdout")
    assert entries == [["", 5, "", "stdout", said]]
    assert not path.exists()
    assert output.feed(f"text\n{bar_line('a', 3)}\nmore\n".encode(), "stdout")[0][4] == [
        "text",
        bar_line("a", 3),
        "more",
    ]
    assert path.read_text() == "--- worker stdout ---\ntext\nmore\n"
    assert output.close() == [["", 5, "", "stdout", [bar_line("a", 3, barlines.GONE)]]]
    assert output.close() == []

"""What a driver prints of its workers' output, and where."""

import io
import sys
import threading

import pytest

from shoal.client.driver_output import DriverOutput
from shoal.config import Config
from shoal.wire import barlines


def entry(lines, pid=1, task="f", node="here", stream="stdout"):
    return [task, pid, node, stream, lines]


class Terminal(io.StringIO):
    def isatty(self):
        return True


class Recorder(io.StringIO):
    def __init__(self):
        super().__init__()
        self.writes = []

    def write(self, text):
        self.writes.append(text)
        return super().write(text)


@pytest.fixture
def streams():
    return Recorder(), Recorder()


def test_lines_go_to_the_stream_they_came_from(streams):
    out, err = streams
    output = DriverOutput("here", None, out, err)
    output.entries([entry(["a", "b"]), entry(["c"], stream="stderr"), entry(["d"], node="there")])
    output.close()
    assert out.getvalue() == "(f pid=1) a\n(f pid=1) b\n(f pid=1, node=there) d\n"
    assert err.getvalue() == "(f pid=1) c\n"
    assert all(text.endswith("\n") for text in out.writes)  # whole lines only


def test_close_prints_what_was_folded_and_ends_the_thread(streams):
    out, err = streams
    output = DriverOutput("here", None, out, err)
    before = threading.active_count()
    output.entries([entry(["x"], pid) for pid in range(1, 5)])
    output.close()
    output.close()
    assert threading.active_count() <= before
    assert out.getvalue() == "(f pid=1) x\n(f pid=4) x [repeated 3x across cluster]\n"
    output.entries([entry(["late"])])
    assert "late" not in out.getvalue()


def test_lines_that_come_when_no_thread_can_be_started_any_more_are_printed_at_the_close(
    streams, monkeypatch
):
    def refuse(_thread):
        raise RuntimeError("can't create new thread at interpreter shutdown")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    out, _ = streams
    output = DriverOutput("here", None, out)
    output.entries([entry(["a"])])
    output.entries([entry(["b"])])
    output.close()
    output.close()
    assert out.getvalue() == "(f pid=1) a\n(f pid=1) b\n"


def test_a_fold_is_printed_when_its_window_ends(streams):
    out, err = streams
    printed = threading.Event()
    now = [0.0]

    class Waking(Recorder):
        def flush(self):
            if "repeated" in self.getvalue():
                printed.set()
            elif self.getvalue():
                now[0] = 10.0  # the window is over

    out = Waking()
    output = DriverOutput("here", Config(output_fold_ms=20.0), out, err, clock=lambda: now[0])
    output.entries([entry(["x"], pid) for pid in range(1, 4)])
    assert printed.wait(60)
    output.close()
    assert out.getvalue().count("x") == 2 + 1  # "across"


def test_nothing_starts_before_there_is_output():
    before = threading.active_count()
    output = DriverOutput()
    assert threading.active_count() == before
    output.close()


def test_streams_are_looked_up_when_printing(capsys):
    output = DriverOutput()
    output.entries([entry(["seen"], node="")])
    output.close()
    assert capsys.readouterr().out == "(f pid=1) seen\n"


@pytest.mark.parametrize("broken", ["closed", "pipe", "none", "odd"])
def test_a_driver_whose_stdout_is_gone_does_not_notice(broken, monkeypatch, streams, caplog):
    class Pipe(io.StringIO):
        def write(self, text):
            raise BrokenPipeError

    class Odd(io.StringIO):
        def write(self, text):
            raise RuntimeError("odd")

    out = {"closed": io.StringIO(), "pipe": Pipe(), "none": None, "odd": Odd()}[broken]
    if broken == "closed":
        out.close()
    monkeypatch.setattr(sys, "stdout", out)
    output = DriverOutput("here", None, None, streams[1])
    output.entries([entry(["a"]), entry(["b"], stream="stderr")])
    output.close()
    assert streams[1].getvalue() == "(f pid=1) b\n"
    assert bool(caplog.records) == (broken == "odd")


def test_a_poor_encoding_escapes():
    raw = io.BytesIO()
    target = io.TextIOWrapper(raw, encoding="ascii")
    output = DriverOutput("here", None, target)
    output.entries([entry(["é"])])
    output.close()
    assert raw.getvalue() == b"(f pid=1) \\xe9\n"


def test_colours_are_for_terminals(monkeypatch):
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    terminal = Terminal()
    output = DriverOutput("here", None, terminal)
    output.entries([entry(["a"], 3)])
    output.close()
    assert terminal.getvalue() == "\x1b[34m(f pid=3)\x1b[0m a\n"
    monkeypatch.setenv("NO_COLOR", "1")
    plain = Terminal()
    output = DriverOutput("here", None, plain)
    output.entries([entry(["a"], 3)])
    output.close()
    assert plain.getvalue() == "(f pid=3) a\n"


def test_what_comes_too_fast_is_left_out_and_said(streams):
    _, err = streams
    blocked, go_on = threading.Event(), threading.Event()

    class Slow(Recorder):
        def write(self, text):
            blocked.set()
            assert go_on.wait(60)
            return super().write(text)

    out = Slow()
    output = DriverOutput("here", Config(output_queue_lines_max=5), out, err)
    output.entries([entry(["first"])])
    assert blocked.wait(60)
    for number in range(20):
        output.entries([entry([f"line {number}"])])
    go_on.set()
    output.close()
    assert out.getvalue().splitlines() == ["(f pid=1) first", *(f"(f pid=1) line {n}" for n in range(15, 20))]
    assert "15 lines" in err.getvalue()


def test_reports_of_bars_go_to_the_screen(streams, monkeypatch):
    from shoal.client import screen

    shown = []
    monkeypatch.setattr(screen.screen, "handle", lambda reports, label: shown.append((reports, label)))
    out, err = streams
    report = barlines.Report("a", "a", 1, 10, name="g")
    line = barlines.encode(report)
    output = DriverOutput("here", None, out, err)
    output.entries([entry(["x", line, "y"]), entry([line], node="there"), entry([barlines.BAR + "rubbish"])])
    output.close()
    assert out.getvalue() == "(f pid=1) x\n(f pid=1) y\n"
    assert shown == [([report], "(g pid=1)"), ([report], "(g pid=1, node=there)")]

"""Bars below what is printed: what is on the terminal after it."""

import io
import os
import sys

import pytest

from shoal.client.screen import Screen
from shoal.wire.barlines import CLOSED, Report
from terminal import Terminal


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def begin(monkeypatch):
    """Called by a test: (a screen, the terminal that standard output and error are from now on)."""

    def begun():
        terminal = Terminal()
        monkeypatch.setattr(sys, "stdout", terminal)
        monkeypatch.setattr(sys, "stderr", terminal)
        monkeypatch.setenv("TERM", "xterm")
        monkeypatch.setenv("COLUMNS", "60")
        monkeypatch.setenv("LINES", "8")
        return Screen(clock=Clock(), starts_thread=False), terminal

    return begun


def show(screen, n, bar="a", **fields):
    screen.handle([Report(bar, bar, n, 10, bar, **fields)], "")
    screen.draw()


def names(terminal):
    """The lines, of bars only their names and counts."""
    return [_short(line) if "|" in line else line for line in terminal.lines]


def _short(row):
    return row.partition(":")[0] + row.rpartition("|")[2].partition(" [")[0]


def test_what_is_printed_comes_above_and_bars_stay_below(begin):
    screen, terminal = begin()
    show(screen, 1)
    print("first")
    show(screen, 2, "b")
    print("second", "line")
    print("to standard error", file=sys.stderr)
    assert names(terminal) == ["first", "second line", "to standard error", "a 1/10", "b 2/10"]
    show(screen, 10, state=CLOSED, leave=True)
    print("third")
    assert names(terminal) == ["first", "second line", "to standard error", "a 10/10", "third", "b 2/10"]
    show(screen, 3, "b", state=CLOSED)
    print("fourth")
    assert names(terminal)[-3:] == ["a 10/10", "third", "fourth"]
    assert sys.stdout is terminal, "nothing is wrapped any more"


def test_half_a_line_is_not_torn(begin):
    screen, terminal = begin()
    show(screen, 1)
    print("one, ", end="")
    show(screen, 2)
    show(screen, 3)
    print("two")
    assert names(terminal) == ["one, two", "a 3/10"]
    print("half", end="")
    show(screen, 4, state=CLOSED, leave=True)
    print("other")
    assert names(terminal) == ["one, two", "half", "a 4/10", "other"]


def test_an_unchanged_screen_looks_the_same_however_often_it_is_drawn(begin):
    screen, terminal = begin()
    show(screen, 1)
    show(screen, 2, "b")
    before = terminal.lines
    for _ in range(5):
        screen.draw()
    assert terminal.lines == before


def test_more_bars_than_rows(begin):
    screen, terminal = begin()
    for number in range(12):
        show(screen, 1, f"bar {number}")
    assert len(terminal.lines) == 7
    assert terminal.lines[-1] == "... and 6 more"


def test_collectors_are_asked(begin):
    screen, terminal = begin()
    left = [[Report("x", "x", 1, 10, "x")], [Report("x", "x", 2, 10, "x", state=CLOSED, leave=True)]]
    screen.collectors.append(lambda: left.pop(0) if left else [])
    assert screen.draw()
    assert names(terminal) == ["x 1/10"]
    assert not screen.draw()
    assert names(terminal) == ["x 2/10"]


def test_the_end_of_a_session_takes_the_bars_of_workers(begin):
    screen, terminal = begin()
    show(screen, 1, "own")
    screen.handle([Report("b", "b", 1, 10, "b")], "(f pid=1)")
    screen.draw()
    assert len(terminal.lines) == 2
    screen.close()
    assert names(terminal) == ["own 1/10"]


def test_who_replaced_stdout_meanwhile_keeps_it(begin):
    screen, terminal = begin()
    show(screen, 1)
    other = io.StringIO()
    sys.stdout = other
    show(screen, 2, state=CLOSED)
    assert sys.stdout is other
    assert sys.stderr is terminal


def test_no_terminal(monkeypatch):
    out = io.StringIO()
    monkeypatch.setattr(sys, "stderr", out)
    clock = Clock()
    screen = Screen(clock=clock, starts_thread=False)
    for second in range(25):
        clock.now = float(second)
        show(screen, second)
    assert out.getvalue().count("\n") == 2
    assert "\x1b" not in out.getvalue()
    assert "\r" not in out.getvalue()
    assert sys.stderr is out


def test_a_terminal_that_cannot_show_all_characters_and_one_that_is_closed(begin, monkeypatch):
    screen, terminal = begin()
    terminal.encoding = "ascii"
    screen.handle([Report("a", "a", 5, 10, "naïve")], "")
    screen.draw()
    assert terminal.lines[0].startswith("na\\xefve:  50%|#")
    terminal.close()
    monkeypatch.setattr(terminal, "write", lambda text: io.StringIO.write(terminal, text))
    screen.draw()  # nobody looks any more


def test_a_terminal_that_nobody_gave_a_size(begin, monkeypatch):
    screen, terminal = begin()
    monkeypatch.setattr(os, "get_terminal_size", lambda fd: os.terminal_size((0, 0)))
    monkeypatch.setattr(terminal, "fileno", lambda: 1)
    show(screen, 1)
    assert len(terminal.lines[0]) <= 79


def test_a_wrapper_that_somebody_puts_back_is_seen_through(begin, monkeypatch):
    """As `contextlib.redirect_stderr` does that began while bars were drawn."""
    screen, terminal = begin()
    show(screen, 1)
    wrapper = sys.stderr
    assert wrapper is not terminal
    show(screen, 10, state=CLOSED)
    monkeypatch.setattr(sys, "stderr", wrapper)
    show(screen, 1, "b")
    print("text", file=sys.stderr)
    assert names(terminal) == ["text", "b 1/10"]

"""Draws the progress bars of a driver at the bottom of its terminal, below all that is printed.

While bars are drawn, sys.stdout and sys.stderr are wrapped: what is printed comes above the bars, which are drawn again after
each whole line. So it is with the output of workers. A thread draws ten times a second, and ends with the last bar. Where
standard error is no terminal nothing is drawn: a line is printed now and then.

Not responsible for what the rows say (`bars`), nor for who sends reports: those of workers come with their output, those of this
process from `collectors`, which are asked before each drawing.

Invariant: between two calls the cursor is at the end of the last row drawn, or where the last text ended if none is.
"""

from __future__ import annotations

import os
import shutil
import sys
import threading
import time
from typing import TYPE_CHECKING, Any, TextIO

from shoal.client.bars import Bars, Look
from shoal.config import load

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from shoal.wire.barlines import Report

_TICK_S = 0.1
_ROWS_MAX = 20


class Screen:
    """The bars of one process.

    Args:
        stream: where to draw; None: what sys.stderr is when the first bar comes.
        clock: seconds, monotonic.
        starts_thread: draw by itself; without, `draw` is called by who made it.
    """

    def __init__(
        self,
        stream: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
        starts_thread: bool = True,
    ) -> None:
        config = load()
        self._bars = Bars(config.progress_bars_max, config.progress_line_s)
        self._given = stream
        self._stream: TextIO | None = None
        self._clock = clock
        self._starts_thread = starts_thread
        self._thread: threading.Thread | None = None
        # Can be taken again: a signal handler or a finalizer may print while this thread draws.
        self._lock = threading.RLock()
        self._drawn = 0
        self._terminal = False
        self._mid_line = False
        self._wrapped: list[tuple[str, Any, Any]] = []
        self.collectors: list[Callable[[], Iterable[Report]]] = []

    def handle(self, reports: Iterable[Report], label: str) -> None:
        """Take reports of a worker that people know as ``label``."""
        with self._lock:
            now = self._clock()
            for report in reports:
                self._bars.handle(report, label, now)
            self.begin()

    def begin(self, collect: Callable[[], Iterable[Report]] | None = None) -> None:
        """There may be something to draw from now on; ``collect``: what is asked before each drawing."""
        with self._lock:
            if collect is not None and collect not in self.collectors:
                self.collectors.append(collect)
            if self._thread is None and self._starts_thread:
                thread = threading.Thread(target=self._run, name="shoal-bars", daemon=True)
                try:
                    thread.start()
                except RuntimeError:
                    return  # the interpreter ends (Python 3.12 and newer): `close` draws
                self._thread = thread

    def _run(self) -> None:
        while True:
            time.sleep(_TICK_S)
            with self._lock:
                if not self.draw():
                    self._thread = None
                    return

    def draw(self) -> bool:
        """Draw what there is now; whether there is any bar."""
        with self._lock:
            now = self._clock()
            for collect in self.collectors:
                for report in collect():
                    self._bars.handle(report, "", now)
            if not self._bars and not self._drawn:
                self._unwrap()
                return False
            if self._stream is None:
                self._stream = self._given or _under(sys.stderr)
                self._terminal = _is_terminal(self._stream)
            if self._terminal:
                self._draw_rows(self._stream, now)
            else:
                self._put(self._stream, "".join(f"{line}\n" for line in self._bars.take_lines(now)))
            if not self._bars:
                self._unwrap()
                self._stream = None
                return False
            return True

    def _draw_rows(self, stream: TextIO, now: float) -> None:
        look = _look(stream)
        ended = self._bars.take_ended(look, now)
        rows = self._bars.rows(look, now)
        if self._mid_line and not ended:
            return  # something was printed without an end of line: what follows it comes first
        before = "\n" if self._mid_line else ""
        self._mid_line = False
        text = "".join(f"{row}\x1b[K\n" for row in ended) + "\n".join(f"{row}\x1b[K" for row in rows)
        self._put(stream, before + _up(self._drawn) + text + "\x1b[J")
        self._drawn = len(rows)
        if rows:
            self._wrap()

    def count(self, bar: str) -> float:
        """How many a bar has counted."""
        with self._lock:
            return self._bars.count(bar)

    def clear(self) -> None:
        """Take the rows off the screen; the next `draw` brings them back."""
        with self._lock:
            if self._drawn and self._stream is not None:
                self._put(self._stream, _up(self._drawn) + "\x1b[J")
                self._drawn = 0

    def write(self, target: Any, text: str) -> int:
        """Have ``target`` print a text above the bars."""
        with self._lock:
            self.clear()
            count: int = target.write(text)
            if text:
                self._mid_line = not text.endswith("\n")
            if not self._mid_line:
                target.flush()
                self.draw()
            return count

    def _put(self, stream: TextIO, text: str) -> None:
        if not text:
            return
        encoding = getattr(stream, "encoding", None) or "utf-8"
        try:
            stream.write(text.encode(encoding, "backslashreplace").decode(encoding))
            stream.flush()
        except (OSError, ValueError):
            self._terminal = False  # closed: nobody looks

    def _wrap(self) -> None:
        if self._wrapped or self._given is not None:
            return
        for name in ("stdout", "stderr"):
            original = _under(getattr(sys, name))
            if original is not None and _is_terminal(original):
                wrapper = _Above(self, original)
                self._wrapped.append((name, original, wrapper))
                setattr(sys, name, wrapper)

    def _unwrap(self) -> None:
        for name, original, wrapper in self._wrapped:
            if getattr(sys, name) is wrapper:  # not if somebody has put another one there meanwhile
                setattr(sys, name, original)
        self._wrapped.clear()
        self._mid_line = False

    def close(self) -> None:
        """The session ends: no worker reports any more."""
        with self._lock:
            self.draw()
            self._bars.forget_workers()
            self.draw()

    def after_fork(self) -> None:
        """In a forked child: the rows and the thread are the parent's."""
        self._lock = threading.RLock()
        self._thread = None
        self._drawn = 0
        self._bars = Bars(load().progress_bars_max, load().progress_line_s)
        self._unwrap()


class _Above:
    """A stream whose text comes above the bars."""

    def __init__(self, screen: Screen, stream: TextIO) -> None:
        self._screen = screen
        self._stream = stream

    def write(self, text: str) -> int:
        return self._screen.write(self._stream, text)

    def writelines(self, lines: Iterable[str]) -> None:
        self.write("".join(lines))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def _under(stream: Any) -> Any:
    """What a stream is without wrappers: somebody may have put one back that was there when he came."""
    while isinstance(stream, _Above):
        stream = stream._stream
    return stream


def _up(rows: int) -> str:
    """To the beginning of the first of so many rows."""
    if not rows:
        return ""
    return f"\r\x1b[{rows - 1}A" if rows > 1 else "\r"


def _is_terminal(stream: TextIO) -> bool:
    try:
        return stream.isatty() and os.environ.get("TERM") != "dumb"
    except (AttributeError, ValueError):
        return False


def _look(stream: TextIO) -> Look:
    try:
        columns, lines = os.get_terminal_size(stream.fileno())
    except (OSError, ValueError, AttributeError):
        columns, lines = shutil.get_terminal_size()
    columns, lines = columns or 80, lines or 24  # a terminal that nobody gave a size says 0
    smooth = (getattr(stream, "encoding", None) or "").lower().startswith("utf")
    return Look(max(1, columns - 1), max(1, min(_ROWS_MAX, lines - 1)), smooth)


screen = Screen()
os.register_at_fork(after_in_child=screen.after_fork)

"""Prints what the driver's workers print: `(task pid=123) line`, standard error to standard error.

`entries` takes what a LOG message brings and returns at once (it is called under the runtime's lock); a
thread of its own prints, since a terminal, a pipe or a notebook may be slow, or run code. Whole lines go out
in single writes. What cannot be printed (a closed pipe, a closed file) is dropped: a driver does not fail
because nobody reads. Which lines are printed is decided in `folding`.

What workers say of their progress bars comes with their lines, and goes to the `screen`.
"""

from __future__ import annotations

import itertools
import logging
import os
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, TextIO

from shoal.client.folding import Line, OutputFolding, label
from shoal.config import Config
from shoal.wire.barlines import BAR, decode

_log = logging.getLogger("shoal")
_CLOSE_S = 5.0  # a blocked terminal does not keep a driver from ending for longer
# By pid, so that the lines of one worker look alike. Not red: that is for errors.
_COLOURS = (36, 32, 35, 34, 33, 96, 92, 95, 94, 93)


class DriverOutput:
    """The printer of one session.

    Args:
        own_node: the id of this machine's node: its name is left out.
        stdout, stderr: where to print; by default what sys.stdout and sys.stderr are at that time.
        clock: seconds, monotonic.
    """

    def __init__(
        self,
        own_node: str = "",
        settings: Config | None = None,
        stdout: TextIO | None = None,
        stderr: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        settings = settings or Config()
        self._own_node = own_node
        self._folding = OutputFolding(
            own_node, settings.output_fold_ms / 1000, settings.output_fold_lines_max
        )
        self._lines_max = settings.output_queue_lines_max
        self._streams = {"stdout": stdout, "stderr": stderr}
        self._clock = clock
        # A Condition's lock can be taken again by the thread that has it: a signal handler may call shoal.
        self._changed = threading.Condition()
        self._queue: deque[Sequence[Any]] = deque()
        self._queued_lines = 0
        self._left_out = 0
        self._has_bars = False
        self._closing = False
        self._thread: threading.Thread | None = None
        self._pid = os.getpid()

    def entries(self, entries: Sequence[Sequence[Any]]) -> None:
        """Have the entries [task name, pid, node, stream, lines] of a LOG message printed soon."""
        with self._changed:
            if self._closing:
                return
            for entry in entries:
                self._queue.append(entry)
                self._queued_lines += len(entry[4])
            while self._queued_lines > self._lines_max:
                lines = len(self._queue.popleft()[4])
                self._queued_lines -= lines
                self._left_out += lines
            if self._thread is None:
                self._start()
            self._changed.notify()

    def _start(self) -> None:
        thread = threading.Thread(target=self._run, name="shoal-output", daemon=True)
        try:
            thread.start()
        except RuntimeError:
            return  # the first lines come while the interpreter ends (Python 3.12 and newer), or later ones try again
        self._thread = thread

    def close(self) -> None:
        """Print what is left, and end the thread; if there is none, print here. Idempotent; in a forked child it does nothing."""
        if os.getpid() != self._pid:
            return
        with self._changed:
            self._closing = True
            self._changed.notify()
            thread = self._thread
        if thread is None:
            self._run()
        elif thread is not threading.current_thread():
            thread.join(_CLOSE_S)

    def _run(self) -> None:
        closing = False
        while not closing:
            entries, left_out, closing = self._take()
            if any(line.startswith(BAR) for entry in entries for line in entry[4]):
                entries = self._without_bars(entries)
            lines = self._folding.handle(entries, self._clock())
            if closing:
                lines += self._folding.flush()
            if left_out:
                text = f"{left_out} lines came too fast and were not printed; the workers' logs have them"
                lines.append(Line("stderr", "[shoal]", text, 1))
            self._print(lines)
        if self._has_bars:  # here, since the terminal may be blocked
            from shoal.client.screen import screen

            screen.close()

    def _take(self) -> tuple[list[Sequence[Any]], int, bool]:
        """Wait until there is something to do: (entries, lines left out, whether this is the end)."""
        with self._changed:
            if not self._queue and not self._closing:
                deadline = self._folding.next_deadline()
                self._changed.wait(None if deadline is None else max(deadline - self._clock(), 0.0))
            entries, left_out = list(self._queue), self._left_out
            self._queue.clear()
            self._queued_lines = self._left_out = 0
            return entries, left_out, self._closing

    def _without_bars(self, entries: list[Sequence[Any]]) -> list[Sequence[Any]]:
        """The entries without reports of bars, which are shown."""
        from shoal.client.screen import screen

        self._has_bars = True
        others: list[Sequence[Any]] = []
        for task_name, pid, node, stream, lines in entries:
            reports = [decode(line) for line in lines if line.startswith(BAR)]
            for report in reports:
                if report is not None:
                    screen.handle([report], label(report.name, (node, pid), self._own_node))
            if len(reports) < len(lines):
                text = [line for line in lines if not line.startswith(BAR)] if reports else lines
                others.append([task_name, pid, node, stream, text])
        return others

    def _print(self, lines: list[Line]) -> None:
        for stream, group in itertools.groupby(lines, key=lambda line: line.stream):
            target = self._streams.get(stream)
            if target is None:
                target = sys.stderr if stream == "stderr" else sys.stdout
            try:
                self._write(target, list(group))
            except (OSError, ValueError, AttributeError):
                continue  # closed, or there is none: nobody reads
            except Exception:  # noqa: BLE001  a user's or notebook's own stream may raise anything
                _log.exception("worker output could not be printed to %r", target)

    def _write(self, target: TextIO, lines: list[Line]) -> None:
        coloured = _shows_colours(target)
        text = "".join([f"{_coloured(line) if coloured else line.whole}\n" for line in lines])
        try:
            target.write(text)
        except UnicodeEncodeError:
            encoding = target.encoding or "ascii"
            target.write(text.encode(encoding, "backslashreplace").decode(encoding))
        target.flush()


def _shows_colours(target: TextIO) -> bool:
    return target.isatty() and "NO_COLOR" not in os.environ and os.environ.get("TERM") != "dumb"


def _coloured(line: Line) -> str:
    digits = "".join(filter(str.isdigit, line.prefix.rpartition("pid=")[2].partition(",")[0]))
    colour = _COLOURS[int(digits or 0) % len(_COLOURS)]
    return f"\x1b[{colour}m{line.prefix}\x1b[0m{line.whole[len(line.prefix) :]}"

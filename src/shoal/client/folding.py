"""Which lines of worker output a driver prints, and when: a pure core (R6), stepped with entries and times.

The first worker that prints a line has it, and all its repetitions, printed at once. The same line of the
same task from other workers within a short window is counted, and at the end of the window printed once with
the count. So many workers that say the same do not bury what only one says, and what one says is never
changed.

Invariant: for each text, what the printed lines stand for adds up to the lines received, after `flush`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

Source = tuple[str, int]  # node, pid
Key = tuple[str, str, str]  # stream, task name, text


class Line(NamedTuple):
    """One line to print: `prefix` says whose it is, `times` for how many it stands."""

    stream: str
    prefix: str
    text: str
    times: int

    @property
    def whole(self) -> str:
        """What to print, without an end of line."""
        repeated = f" [repeated {self.times}x across cluster]" if self.times > 1 else ""
        return f"{self.prefix} {self.text}{repeated}"


def label(task_name: str, source: Source, own_node: str) -> str:
    """How people know a worker: by its task, its pid, and its node if that is another one."""
    node, pid = source
    where = f", node={node}" if node not in ("", own_node) else ""
    return f"({task_name or 'worker'} pid={pid}{where})"


class _Window:
    __slots__ = ("count", "last", "source", "until")

    def __init__(self, source: Source, until: float) -> None:
        self.source = source
        self.until = until
        self.count = 0
        self.last = source


class OutputFolding:
    """The lines of all workers of a driver.

    Args:
        own_node: the node whose name needs no mention; entries may also name it "".
        window_s: for how long a line is remembered. 0 folds nothing.
        lines_max: how many lines are remembered; beyond, the oldest window ends early.
    """

    def __init__(self, own_node: str, window_s: float, lines_max: int) -> None:
        self._own_node = own_node
        self._window_s = window_s
        self._lines_max = lines_max
        self._windows: dict[Key, _Window] = {}  # in the order of their ends

    def handle(self, entries: Sequence[Sequence[Any]], now: float) -> list[Line]:
        """What to print now, for entries [task name, pid, node, stream, lines] of a LOG message, in order."""
        printed = self.due(now)
        for task_name, pid, node, stream, lines in entries:
            source = (node, pid)
            for text in lines:
                self._line((stream, task_name, text), source, now, printed)
        return printed

    def _line(self, key: Key, source: Source, now: float, printed: list[Line]) -> None:
        window = self._windows.get(key)
        if window is not None and window.source != source:
            window.count += 1
            window.last = source
            return
        printed.append(self._printable(key, source, 1))
        if window is None and self._window_s > 0:
            if len(self._windows) >= self._lines_max:
                self._end_oldest(printed)
            self._windows[key] = _Window(source, now + self._window_s)

    def _end_oldest(self, printed: list[Line]) -> None:
        key = next(iter(self._windows))
        window = self._windows.pop(key)
        if window.count:
            printed.append(self._printable(key, window.last, window.count))

    def _printable(self, key: Key, source: Source, count: int) -> Line:
        stream, task_name, text = key
        return Line(stream, label(task_name, source, self._own_node), text, count)

    def due(self, now: float) -> list[Line]:
        """The repetitions whose window has ended."""
        printed: list[Line] = []
        while self._windows and next(iter(self._windows.values())).until <= now:
            self._end_oldest(printed)
        return printed

    def next_deadline(self) -> float | None:
        """When `due` will have something; None if nothing is held back."""
        return next((window.until for window in self._windows.values() if window.count), None)

    def flush(self) -> list[Line]:
        """All that is held back."""
        printed: list[Line] = []
        while self._windows:
            self._end_oldest(printed)
        return printed

    def validate(self) -> None:
        """Raise AssertionError if an invariant is broken."""
        ends = [window.until for window in self._windows.values()]
        assert ends == sorted(ends), ends
        assert len(ends) <= self._lines_max, len(ends)

"""Progress bars of one driver, its own and those of its workers: what they say, as rows of text. A pure core (R6).

Events: reports (`wire.barlines`) with where they come from, and the time. What comes out: the rows to show now, those to leave
behind for good, and for what is no terminal now and then a line.

Invariants: what a bar counts is the sum of what its reporters said last, so a report that is lost or comes twice changes nothing;
of the bars that are too many for the screen, the oldest are shown.
"""

from __future__ import annotations

import unicodedata
from typing import NamedTuple

from shoal.wire.barlines import CLOSED, GONE, Report

BAR_CELLS_MAX = 30
_BAR_CELLS_MIN = 6
_BLOCKS = " ▏▎▍▌▋▊▉█"
_SMOOTHING = 0.3  # weight of the newest rate
_RATE_S = 0.5  # of so long a time, at least, is a rate


class _Bar:
    __slots__ = ("began", "counts", "label", "printed", "printed_n", "rate", "report", "since")

    def __init__(self, report: Report, label: str, now: float) -> None:
        self.report = report
        self.label = label
        self.counts: dict[str, float] = {}
        self.began = now - report.age_s
        self.rate: float | None = None
        self.since = (self.began, report.initial)  # when there were how many, for the rate
        self.printed = now  # as a line
        self.printed_n = 0.0

    @property
    def n(self) -> float:
        return sum(self.counts.values())

    def counted(self, report: Report, now: float) -> None:
        self.counts[report.reporter] = report.n
        if report.reporter == report.bar:  # others may not know of its newest description
            self.report = report
        then, before = self.since
        n = self.n
        if now - then >= _RATE_S and n != before:
            rate = max(0.0, n - before) / (now - then)
            self.rate = rate if self.rate is None else self.rate + (rate - self.rate) * _SMOOTHING
            self.since = (now, n)


class Look(NamedTuple):
    """How rows look: cells in a row, rows, and whether there are characters for a smooth bar."""

    columns: int
    rows: int
    smooth: bool = True


class Bars:
    """All bars of a driver.

    Args:
        bars_max: how many there may be; beyond, the oldest is forgotten.
        line_s: seconds between two lines of one bar, where there is no terminal.
    """

    def __init__(self, bars_max: int, line_s: float) -> None:
        self._bars: dict[str, _Bar] = {}
        self._bars_max = bars_max
        self._line_s = line_s
        self._ended: list[_Bar] = []

    def __len__(self) -> int:
        return len(self._bars) + len(self._ended)

    def handle(self, report: Report, label: str, now: float) -> None:
        """Take a report of a worker that people know as ``label`` ("" for the driver itself)."""
        bar = self._bars.get(report.bar)
        maker = report.bar == report.reporter
        if bar is None:
            # What is not its maker's comes too late. Of a bar that is closed at once only what it leaves is of interest.
            if not maker or report.state == GONE or (report.state == CLOSED and not report.leave):
                return
            if len(self._bars) >= self._bars_max:
                del self._bars[next(iter(self._bars))]
            bar = self._bars[report.bar] = _Bar(report, label, now)
        bar.counted(report, now)
        if maker and report.state in (CLOSED, GONE):
            del self._bars[report.bar]
            if report.leave and report.state == CLOSED:
                self._ended.append(bar)

    def count(self, bar: str) -> float:
        """How many a bar has counted; 0 if there is no such bar."""
        found = self._bars.get(bar)
        return found.n if found is not None else 0

    def forget_workers(self) -> None:
        """No worker reports any more."""
        self._bars = {name: bar for name, bar in self._bars.items() if not bar.label}

    def rows(self, look: Look, now: float) -> list[str]:
        """A row for each bar; the last one says how many more there are."""
        shown = list(self._bars.values())
        more = len(shown) - look.rows
        if more > 0:
            shown = shown[: max(0, look.rows - 1)]
            more = len(self._bars) - len(shown)
        rows = [_row(bar, look, now) for bar in shown]
        return [*rows, fitted(f"... and {more} more", look.columns)] if more > 0 else rows

    def take_ended(self, look: Look, now: float) -> list[str]:
        """The rows of closed bars that stay, once."""
        ended, self._ended = self._ended, []
        return [_row(bar, look, now) for bar in ended]

    def take_lines(self, now: float) -> list[str]:
        """Lines for what is no terminal: of bars that are there for a while, now and then; once more at their end."""
        look = Look(10_000, 0)
        due = [bar for bar in self._ended if now - bar.began >= self._line_s]
        self._ended.clear()
        for bar in self._bars.values():
            if now - bar.printed >= self._line_s and bar.n != bar.printed_n:
                bar.printed, bar.printed_n = now, bar.n
                due.append(bar)
        return [_row(bar, look, now, 0) for bar in due]


def _row(bar: _Bar, look: Look, now: float, bar_cells: int = BAR_CELLS_MAX) -> str:
    report = bar.report
    n, total = bar.n, report.total
    title = " ".join(part for part in (bar.label, report.desc) if part)
    head = f"{title}: " if title else ""
    rate = bar.rate
    if rate is None and now > bar.began and n > report.initial:
        rate = (n - report.initial) / (now - bar.began)
    elapsed = clock(now - bar.began)
    left = f"<{clock((total - n) / rate) if rate else '?'}" if total and n < total else ""
    postfix = f", {report.postfix}" if report.postfix else ""
    facts = f"[{elapsed}{left}, {speed(rate, report.unit)}{postfix}]"
    if not total:
        return fitted(f"{head}{amount(n)}{report.unit} {facts}", look.columns)
    share = min(1.0, max(0.0, n / total))
    head += f"{int(share * 100):3d}%"
    tail = f" {amount(n)}/{amount(total)} {facts}"
    room = min(bar_cells, look.columns - cells(head) - cells(tail) - 2)
    drawn = f"|{_drawn(share, room, look.smooth)}|" if room >= _BAR_CELLS_MIN else ""
    return fitted(head + drawn + tail, look.columns)


def _drawn(share: float, room: int, smooth: bool) -> str:
    if not smooth:
        return ("#" * int(share * room)).ljust(room, "-")
    full, part = divmod(int(share * room * 8), 8)
    return ("█" * full + (_BLOCKS[part] if part else "")).ljust(room)


def amount(n: float) -> str:
    """A number for people."""
    return str(n) if isinstance(n, int) else f"{n:.6g}"


def speed(rate: float | None, unit: str) -> str:
    """How fast, or how long one takes."""
    if not rate:
        return f"?{unit}/s"
    return f"{rate:.2f}{unit}/s" if rate >= 1 else f"{1 / rate:.2f}s/{unit}"


def clock(seconds: float) -> str:
    """1:02:03, or 02:03."""
    minutes, second = divmod(int(min(seconds, 359_999)), 60)
    hour, minute = divmod(minutes, 60)
    return f"{hour}:{minute:02d}:{second:02d}" if hour else f"{minute:02d}:{second:02d}"


def cells(text: str) -> int:
    """How wide a text is on a terminal."""
    if text.isascii():
        return len(text)
    return sum(_cells(character) for character in text)


def _cells(character: str) -> int:
    if unicodedata.combining(character):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def fitted(text: str, columns: int) -> str:
    """The text without what would move the cursor, cut to so many cells."""
    text = "".join(character if character.isprintable() else " " for character in text)
    if cells(text) <= columns:
        return text
    width = 0
    for index, character in enumerate(text):
        width += _cells(character)
        if width > columns:
            return text[:index]
    return text

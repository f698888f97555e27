"""How a progress bar in a worker says how far it is: a line in its output that begins with a NUL byte.

It comes the way of the output, so it is there before what the task printed after it; the daemon takes it out of the line of text
that it may be in the middle of, keeps it out of the log file, and says when a worker has ended that had bars (`gone`).
The driver that the output goes to shows it (`client.screen`).

A report says all that there is to say: of one that is lost only what it said last is missing.
A bar that several processes add to has a reporter for each, with what that one has added.
"""

from __future__ import annotations

import json
from typing import NamedTuple

BAR = "\x00shoal-bar:"
PAYLOAD_BYTES_MAX = 1500
NUMBER_MAX = 1e300  # beyond, what is computed with them is an error
TEXT_CHARS_MAX = 100  # of a description and so on: six bytes each in JSON at most
OPEN, CLOSED, GONE = "open", "closed", "gone"


class Report(NamedTuple):
    """How far one reporter of one bar is.

    Attributes:
        bar, reporter: ids, letters and digits; the bar's maker is the reporter of the same id.
        n, total: how many there are, of how many (None: nobody knows).
        state: OPEN; CLOSED: the bar is not needed any more; GONE: the reporter has ended without saying so.
        leave: what a closed bar has come to stays on the screen.
        name: of the task that made the bar, "" for a driver.
        initial: where the bar began, and `age_s` seconds ago.
    """

    bar: str
    reporter: str
    n: float
    total: float | None = None
    desc: str = ""
    unit: str = "it"
    postfix: str = ""
    state: str = OPEN
    leave: bool = False
    name: str = ""
    initial: float = 0
    age_s: float = 0.0


def encode(report: Report) -> str:
    """The line of a report, without an end; ASCII. Texts are cut to `TEXT_CHARS_MAX`."""
    cut = [part[:TEXT_CHARS_MAX] if isinstance(part, str) else part for part in report]
    return BAR + json.dumps(cut, separators=(",", ":"))


def decode(line: str) -> Report | None:
    """The report that a line is, or None: user code may print what looks like one."""
    try:
        report = Report(*json.loads(line.removeprefix(BAR)))
    except (ValueError, TypeError, RecursionError):
        return None
    numbers = [report.n, report.n if report.total is None else report.total, report.initial, report.age_s]
    texts = (report.bar, report.reporter, report.desc, report.unit, report.postfix, report.state, report.name)
    good = all(type(text) is str for text in texts) and all(
        type(number) in (int, float) and abs(number) <= NUMBER_MAX for number in numbers
    )
    return report if good else None

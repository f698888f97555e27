"""How a worker's output says whose it is: a marker line before the first output of another task.

Markers are in the same pipe as the output, so they cannot get out of step with it. They start with a NUL
byte, which text does not contain; a task name in one contains neither NUL nor an end of line. User output
that happens to look like a marker is taken for one, and does no harm beyond a wrong name.

Reports of progress bars (`shoal.wire.barlines`) are markers of another kind.
"""

from __future__ import annotations

import re

from shoal.wire.barlines import BAR, PAYLOAD_BYTES_MAX

MARK = b"\x00shoal-task:"
BAR_MARK = BAR.encode()
NAME_BYTES_MAX = 500
_PATTERN = rb"%s[^\x00\n]{0,%d}|%s[^\x00\n]{0,%d}"
_EITHER = _PATTERN % (re.escape(MARK), NAME_BYTES_MAX, re.escape(BAR_MARK), PAYLOAD_BYTES_MAX)
_MARKER = re.compile(rb"(" + _EITHER + rb")\n")
_BEGINNING = re.compile(rb"(?:" + _EITHER + rb")\Z")


def encode_marker(name: str) -> bytes:
    """The marker for output of the task ``name`` ("" for none)."""
    clean = name.encode("utf-8", "backslashreplace").replace(b"\n", b" ").replace(b"\x00", b" ")
    return MARK + clean[:NAME_BYTES_MAX] + b"\n"


def find_marker(data: bytes, start: int) -> tuple[int, int, str] | None:
    """(begin, end, task name) of the next whole marker in ``data[start:]``; None if there is none.

    In place of a task name, the report of a bar begins with `BAR`.
    """
    found = _MARKER.search(data, start)
    if found is None:
        return None
    text = found[1].removeprefix(MARK).decode("utf-8", "replace")
    return found.start(), found.end(), text


def unfinished_marker(data: bytes, start: int) -> int:
    """Where in ``data[start:]`` a marker may begin whose rest has not arrived; its length if nowhere.

    What may be one is at most a marker long, whatever the data.
    """
    begin = data.rfind(b"\x00", start)
    if begin >= 0:
        rest = data[begin:]
        if MARK.startswith(rest) or BAR_MARK.startswith(rest) or _BEGINNING.match(data, begin):
            return begin
    return len(data)

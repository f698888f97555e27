"""How a worker's output says whose it is: a marker line before the first output of another task.

Markers are in the same pipe as the output, so they cannot get out of step with it. They start with a NUL
byte, which text does not contain; a task name in one contains neither NUL nor an end of line. User output
that happens to look like a marker is taken for one, and does no harm beyond a wrong name.
"""

from __future__ import annotations

import re

MARK = b"\x00shoal-task:"
NAME_BYTES_MAX = 500
_MARKER = re.compile(re.escape(MARK) + rb"([^\x00\n]{0,%d})\n" % NAME_BYTES_MAX)
_BEGINNING = re.compile(re.escape(MARK) + rb"[^\x00\n]{0,%d}\Z" % NAME_BYTES_MAX)


def encode_marker(name: str) -> bytes:
    """The marker for output of the task ``name`` ("" for none)."""
    clean = name.encode("utf-8", "backslashreplace").replace(b"\n", b" ").replace(b"\x00", b" ")
    return MARK + clean[:NAME_BYTES_MAX] + b"\n"


def find_marker(data: bytes, start: int) -> tuple[int, int, str] | None:
    """(begin, end, task name) of the next whole marker in ``data[start:]``; None if there is none."""
    found = _MARKER.search(data, start)
    if found is None:
        return None
    return found.start(), found.end(), found[1].decode("utf-8", "replace")


def unfinished_marker(data: bytes, start: int) -> int:
    """Where in ``data[start:]`` a marker may begin whose rest has not arrived; its length if nowhere.

    What may be one is at most a marker long, whatever the data.
    """
    begin = data.rfind(b"\x00", start)
    if begin >= 0 and (MARK.startswith(data[begin:]) or _BEGINNING.match(data, begin)):
        return begin
    return len(data)

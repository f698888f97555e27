"""A worker's bytes become lines of tasks: a pure core (R6). How they were cut into reads does not matter.

A line ends with a newline, with CR LF, or with a lone CR (progress bars), or where another task's output
starts. A line without an end is kept until one of these comes; past a bound it is cut. Bytes that are no
UTF-8 are shown escaped: nothing is lost.

The report of a progress bar (`shoal.wire.barlines`) is a line of its own, and no end of the one that it is in the middle of.
"""

from __future__ import annotations

import re

from shoal.wire.barlines import BAR
from shoald.markers import find_marker, unfinished_marker

TaskLine = tuple[str, str]  # task name, text
_ENDED = re.compile(rb"([^\r\n]*)(\r\n|\n|\r)")


class StreamLines:
    """One stream of one worker.

    Args:
        line_bytes_max: where a longer line is cut (before the character that would not fit).
    """

    __slots__ = ("_line_bytes_max", "_partial", "_unread", "task")

    def __init__(self, line_bytes_max: int) -> None:
        self.task = ""
        self._line_bytes_max = line_bytes_max
        self._unread = b""  # may become a marker
        self._partial = bytearray()  # a line without an end; a CR at its end may become a CR LF

    def feed(self, data: bytes) -> list[TaskLine]:
        """The lines that ``data`` completes."""
        data = self._unread + data
        lines: list[TaskLine] = []
        position = 0
        while (marker := find_marker(data, position)) is not None:
            begin, end, name = marker
            self._add(data[position:begin], lines)
            position = end
            if name.startswith(BAR):
                lines.append((self.task, name))
                continue
            self._end_line(lines)
            self.task = name
        end = unfinished_marker(data, position)
        self._unread = data[end:]
        self._add(data[position:end], lines)
        return lines

    def flush(self) -> list[TaskLine]:
        """The line that has no end, as it is: no more comes, or it has waited long enough."""
        lines: list[TaskLine] = []
        self._add(self._unread, lines)
        self._unread = b""
        self._end_line(lines)
        return lines

    def _add(self, text: bytes, lines: list[TaskLine]) -> None:
        partial = self._partial
        ambiguous = partial.endswith(b"\r")
        partial += text
        if ambiguous or b"\n" in text or b"\r" in text:
            self._take_ended(lines)
        self._cut(lines)

    def _take_ended(self, lines: list[TaskLine]) -> None:
        """Move the ended lines out of the partial one."""
        data = bytes(self._partial)
        # A CR at the very end: what it is shows the next byte.
        stop = len(data) - 1 if data.endswith(b"\r") else len(data)
        position = 0
        for found in _ENDED.finditer(data, 0, stop):
            text, end = found.groups()
            position = found.end()
            if text or end != b"\r":  # progress bars begin with a CR: that is no empty line
                self._emit(text, lines)
        self._partial = bytearray(data[position:])

    def _emit(self, text: bytes, lines: list[TaskLine]) -> None:
        while len(text) > self._line_bytes_max:
            end = self._cut_at(text)
            lines.append((self.task, _decode(text[:end])))
            text = text[end:]
        lines.append((self.task, _decode(text)))

    def _cut(self, lines: list[TaskLine]) -> None:
        partial = self._partial
        while len(partial) - partial.endswith(b"\r") > self._line_bytes_max:
            end = self._cut_at(partial)
            lines.append((self.task, _decode(partial[:end])))
            del partial[:end]

    def _cut_at(self, text: bytes | bytearray) -> int:
        """Where to cut a text that is too long: not inside of a character, if it is text at all."""
        most = self._line_bytes_max
        for end in range(most, max(most - 4, 0), -1):
            if text[end] & 0xC0 != 0x80:
                return end
        return most

    def _end_line(self, lines: list[TaskLine]) -> None:
        text = bytes(self._partial.removesuffix(b"\r"))
        self._partial.clear()
        if text:
            self._emit(text, lines)


def _decode(text: bytes | bytearray) -> str:
    return text.decode("utf-8", "backslashreplace")

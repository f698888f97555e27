"""A terminal, as far as progress bars need one: what is on it after text with a few escape sequences."""

import contextlib
import fcntl
import io
import os
import pty
import re
import struct
import subprocess
import sys
import termios

_PIECES = re.compile(r"\x1b\[(\d*)([A-Za-z])|(.)", re.DOTALL)


class Terminal(io.StringIO):
    """A stream that is a terminal; `lines` is what one would see, with all that has scrolled away."""

    encoding = "utf-8"

    def __init__(self, columns=80):
        super().__init__()
        self._screen = [[]]
        self._row = self._column = 0
        self._columns = columns
        self.writes = 0

    def isatty(self):
        return True

    def write(self, text):
        self.writes += 1
        for count, command, character in _PIECES.findall(text):
            if command:
                self._command(command, int(count or 1))
            elif character == "\r":
                self._column = 0
            elif character == "\n":
                self._row += 1
                self._column = 0
                if self._row == len(self._screen):
                    self._screen.append([])
            else:
                self._show(character)
        return len(text)

    def _show(self, character):
        assert character.isprintable(), repr(character)
        assert self._column < self._columns, (
            "a row that is too long goes on in the next one, and cannot be taken back"
        )
        row = self._screen[self._row]
        row += [" "] * (self._column + 1 - len(row))
        row[self._column] = character
        self._column += 1

    def _command(self, command, count):
        if command == "m":  # colours
            return
        if command == "A":
            self._row -= count
            assert self._row >= 0
            return
        assert command in "KJ", command
        del self._screen[self._row][self._column :]
        if command == "J":
            del self._screen[self._row + 1 :]

    @property
    def lines(self):
        """Without empty ones at the end."""
        lines = ["".join(row).rstrip() for row in self._screen]
        while lines and not lines[-1]:
            lines.pop()
        return lines


def on_terminal(command, columns=80, rows=24):
    """(exit status, what it wrote) of a command whose streams are a terminal of its own."""
    fd, other = pty.openpty()
    fcntl.ioctl(other, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
    process = subprocess.Popen(command, stdin=other, stdout=other, stderr=other, start_new_session=True)
    os.close(other)
    written = bytearray()
    with contextlib.suppress(OSError):  # what reading raises when the last one has closed the other side
        while data := os.read(fd, 65536):
            written += data
    os.close(fd)
    return process.wait(), written.decode()


PYTHON = sys.executable

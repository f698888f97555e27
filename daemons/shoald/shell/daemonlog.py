"""The daemon's log file: one line per event, rotated by size, with what goes to standard error in the same
file.

Also where the standard library's `logging` of other threads ends up, through standard error.
"""

from __future__ import annotations

import os
import sys
import time
import traceback

_CHECK_EVERY = 64  # lines between two looks at the size: other threads write to the same file


class DaemonLog:
    """Appends to ``path``; keeps ``files`` files of about ``file_bytes`` each.

    Until `open` (and after an error that makes files impossible) lines go to standard error.
    """

    def __init__(self, path: str, file_bytes: int, files: int) -> None:
        self._path = path
        self._file_bytes = file_bytes
        self._files = max(1, files)
        self._lines = 0
        self._opened = False

    def open(self) -> None:
        """Create the file and make it standard output and standard error of this process."""
        fd = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        sys.stdout.flush()
        sys.stderr.flush()
        os.dup2(fd, 1)
        os.dup2(fd, 2)
        os.close(fd)
        self._opened = True

    def line(self, text: str) -> None:
        """Write one line, with the time."""
        now = time.time()
        stamp = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(now))
        data = f"{stamp}.{int(now % 1 * 1000):03d} {text}\n".encode(errors="replace")
        try:
            os.write(2, data)
        except OSError:
            return  # a full disk or a closed terminal must not stop the daemon, and there is nobody to tell
        self._lines += 1
        if self._opened and self._lines % _CHECK_EVERY == 0 and os.fstat(2).st_size > self._file_bytes:
            self._rotate()

    def fault(self, where: str, error: BaseException) -> None:
        """A fault of the daemon itself, with its traceback."""
        trace = "".join(traceback.format_exception(error)).rstrip()
        self.line(f"fault {where}:\n{trace}")

    def _rotate(self) -> None:
        for number in range(self._files - 1, 0, -1):
            source = f"{self._path}.{number - 1}" if number > 1 else self._path
            if os.path.exists(source):
                os.replace(source, f"{self._path}.{number}")
        self.open()

"""What a worker prints, at its node daemon: into its log file, and as entries for its driver.

Not responsible for the pipes (node.workers reads them) nor for sending (node.daemon). A log file that cannot
be written costs its lines, not the worker: that is logged, once for each file.

Reports of progress bars are for the driver alone. A worker that ends may have bars that nobody will close: the driver is told
that these have gone.
"""

from __future__ import annotations

import logging
import os
from typing import Any

from shoal.config import Config
from shoal.wire import barlines
from shoald.node.lines import StreamLines, TaskLine

_log = logging.getLogger(__name__)
STREAMS = ("stdout", "stderr")
BARS_MAX = (
    1000  # open bars of one worker that are remembered; of others the driver is not told that they have gone
)
Entry = list[Any]  # [task name, pid, node, stream, lines]; see LOG in shoal.wire.messages


class WorkerOutput:
    """The output of one worker process.

    Args:
        worker_id, pid: of the worker.
        log_path: its log file, made with the first output; older parts are ``log_path.1``, ``.2`` …
        node: the id of this node; "" leaves it to the reader.
    """

    def __init__(self, worker_id: bytes, pid: int, log_path: str, config: Config, node: str = "") -> None:
        self.worker_id = worker_id
        self.pid = pid
        self.node = node
        self._streams = {stream: StreamLines(config.output_line_bytes_max) for stream in STREAMS}
        self._file = RotatingFile(log_path, config.log_file_bytes_max, config.log_files_max)
        self._last = ("", "")
        self._bars: dict[str, barlines.Report] = {}

    def feed(self, data: bytes, stream: str) -> list[Entry]:
        """The entries that one read completes; no bytes: that stream has ended, here is its last line."""
        lines = self._streams[stream]
        return self._entries(lines.feed(data) if data else lines.flush(), stream)

    def flush(self) -> list[Entry]:
        """The lines that have no end yet, as they are."""
        return [entry for stream in STREAMS for entry in self._entries(self._streams[stream].flush(), stream)]

    def close(self) -> list[Entry]:
        """Flush, and close the file. Idempotent."""
        entries = self.flush()
        self._file.close()
        gone = [barlines.encode(bar._replace(state=barlines.GONE)) for bar in self._bars.values()]
        self._bars.clear()
        if gone:
            entries.append(["", self.pid, self.node, STREAMS[0], gone])
        return entries

    def _entries(self, lines: list[TaskLine], stream: str) -> list[Entry]:
        entries: list[Entry] = []
        for task, line in lines:
            if not entries or entries[-1][0] != task:
                entries.append([task, self.pid, self.node, stream, []])
            entries[-1][4].append(line)
            if line.startswith(barlines.BAR):
                self._note(line)
        text = self._as_text(entries)
        if text:
            self._file.write(text)
        return entries

    def _note(self, line: str) -> None:
        """Remember which bars are open."""
        report = barlines.decode(line)
        if report is None or report.bar != report.reporter:
            return  # of who only counts nobody is told that it has gone
        if report.state == barlines.CLOSED:
            self._bars.pop(report.bar, None)
        elif len(self._bars) < BARS_MAX or report.bar in self._bars:
            self._bars[report.bar] = report

    def _as_text(self, entries: list[Entry]) -> bytes:
        parts = []
        for task, _, _, stream, all_lines in entries:
            lines = [line for line in all_lines if not line.startswith(barlines.BAR)]
            if not lines:
                continue
            if (task, stream) != self._last:
                self._last = (task, stream)
                parts.append(f"--- {task or 'worker'} {stream} ---")
            parts += lines
        return "".join([f"{part}\n" for part in parts]).encode("utf-8", "backslashreplace")


class RotatingFile:
    """Appends to a file of at most about ``bytes_max``; the last ``files_max`` parts are kept."""

    def __init__(self, path: str, bytes_max: int, files_max: int) -> None:
        self.path = path
        self._bytes_max = bytes_max
        self._files_max = files_max
        self._fd = -1
        self._size = 0
        self._failed = False

    def write(self, data: bytes) -> None:
        """Append ``data``, in a new file if this one would grow too large. Never raises OSError."""
        try:
            if self._fd < 0:
                self._open()
            elif self._size + len(data) > self._bytes_max:
                self._rotate()
            rest = memoryview(data)
            while rest:
                rest = rest[os.write(self._fd, rest) :]
            self._size += len(data)
            self._failed = False
        except OSError:
            if not self._failed:
                self._failed = True
                _log.exception("worker output is missing from %s", self.path)

    def _open(self) -> None:
        self._fd = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        self._size = os.fstat(self._fd).st_size

    def _rotate(self) -> None:
        self.close()
        for number in range(self._files_max - 1, 0, -1):
            older = self.path if number == 1 else f"{self.path}.{number - 1}"
            if os.path.exists(older):
                os.replace(older, f"{self.path}.{number}")
        if self._files_max <= 1 and os.path.exists(self.path):
            os.unlink(self.path)
        self._open()

    def close(self) -> None:
        """Close the file; another write opens it again."""
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            os.close(fd)

"""Worker processes, as the daemon's shell handles them: pipes for their output, forks, ends, and the
confirmed death.

Decides nothing: the scheduler says who starts and who ends, the fork server reports who did. A worker's
pipes are read as long as whoever its lines go to keeps up; otherwise the worker waits in its `print`.

A worker may be faster than the report of its fork: it says hello, runs a task, and its driver leaves, while the fork server
waits for a processor. So it is read from whichever comes first; before that its output stays in the pipe, where also
its death leaves it.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from shoald.node.logs import WorkerOutput

if TYPE_CHECKING:
    from collections.abc import Callable

    from shoal.config import Config
    from shoald.node.forkclient import ForkClient
    from shoald.node.statusboard import StatusBoard
    from shoald.shell.loop import Loop, Timer

STREAMS = ("stdout", "stderr")
READ_BYTES = 64 * 1024
READS_AT_END = 256  # of 64 KiB: more than a pipe holds, so what ended is read to its end
PAUSE_S = 0.02


class _Process:
    """One worker process: its pipes and what was cut from them."""

    __slots__ = ("fds", "kill_timer", "output", "slot", "worker_id")

    def __init__(self, worker_id: bytes, slot: int, fds: dict[int, str]) -> None:
        self.worker_id = worker_id
        self.slot = slot
        self.fds = fds
        self.output: WorkerOutput | None = None
        self.kill_timer: Timer | None = None


class WorkerProcesses:
    """All worker processes of the daemon.

    Args:
        on_output: gets (worker id, entries for LOG).
        keeps_up: whether the reader of a worker's lines has room for more.
    """

    def __init__(
        self,
        loop: Loop,
        board: StatusBoard,
        logs_dir: str,
        config: Config,
        on_output: Callable[[bytes, list[Any]], None],
        keeps_up: Callable[[bytes], bool],
    ) -> None:
        self._loop = loop
        self._board = board
        self._logs_dir = logs_dir
        self._config = config
        self._on_output = on_output
        self._keeps_up = keeps_up
        self._processes: dict[bytes, _Process] = {}
        self.forks: ForkClient | None = None

    def start(self, worker_id: bytes, slot: int, python: str = "") -> str:
        """Ask for a fork; returns "" or why that is impossible now."""
        assert self.forks is not None, "started before the fork server"
        ends: list[int] = []
        try:
            for _ in STREAMS:
                ends.extend(os.pipe())
        except OSError as error:
            for fd in ends:
                os.close(fd)
            return f"no pipe for a worker's output: {error.strerror}"
        self._board.clear(slot)
        readers = dict(zip(ends[::2], STREAMS, strict=True))
        process = self._processes[worker_id] = _Process(worker_id, slot, readers)
        for fd in readers:
            os.set_blocking(fd, False)
        self.forks.fork(worker_id, slot, ends[1], ends[3], python)
        return "" if process.fds else "no pipes"

    def forked(self, worker_id: bytes, pid: int) -> None:
        """The process exists, says the fork server or its own hello: from the first of these on its output is read."""
        process = self._processes[worker_id]
        if process.output is not None:
            return
        path = os.path.join(self._logs_dir, f"worker-{pid}.log")
        process.output = WorkerOutput(worker_id, pid, path, self._config)
        for fd in process.fds:
            self._watch(process, fd)

    def end(self, worker_id: bytes, after_s: float) -> None:
        """Kill a worker and its group, now or after ``after_s`` unless it has ended by then."""
        process = self._processes.get(worker_id)
        if process is None or self.forks is None:
            return
        if process.kill_timer is not None:
            process.kill_timer.cancel()
        if after_s > 0:
            process.kill_timer = self._loop.call_later(after_s, lambda: self.end(worker_id, 0))
        else:
            self.forks.end(worker_id)

    def ended(self, worker_id: bytes) -> bytes:
        """The confirmed death (or a fork that failed): forward the last output, close the pipes.

        Returns the id of the task that it had started last, zeros if none.
        """
        process = self._processes.pop(worker_id)
        if process.kill_timer is not None:
            process.kill_timer.cancel()
        for fd in list(process.fds):
            for _ in range(READS_AT_END):
                if not self._read(process, fd):
                    break
            self._close(process, fd)
        if process.output is not None:
            entries = process.output.close()
            if entries:
                self._on_output(worker_id, entries)
        return self._board.current(process.slot)

    def read_all(self, worker_ids: list[bytes]) -> None:
        """Forward what these workers have written so far."""
        for worker_id in worker_ids:
            process = self._processes.get(worker_id)
            for fd in list(process.fds) if process is not None else ():
                for _ in range(READS_AT_END):
                    if process is None or not self._read(process, fd):
                        break

    def _watch(self, process: _Process, fd: int) -> None:
        if fd in process.fds:
            self._loop.add_reader(fd, lambda: self._readable(process, fd))

    def _readable(self, process: _Process, fd: int) -> None:
        if not self._keeps_up(process.worker_id):
            self._loop.remove_reader(fd)
            self._loop.call_later(PAUSE_S, lambda: self._watch(process, fd))
        else:
            self._read(process, fd)

    def _read(self, process: _Process, fd: int) -> bool:
        """One read; False when there is nothing more now, or nobody to whom its lines would belong yet."""
        if fd not in process.fds or process.output is None:
            return False
        try:
            data = os.read(fd, READ_BYTES)
        except BlockingIOError:
            return False
        entries = process.output.feed(data, process.fds[fd])
        if entries:
            self._on_output(process.worker_id, entries)
        if not data:
            self._close(process, fd)
        return bool(data)

    def _close(self, process: _Process, fd: int) -> None:
        if process.fds.pop(fd, None) is not None:
            self._loop.remove_reader(fd)
            os.close(fd)

"""What user code in a worker prints: lines to the node daemon's pipes (descriptors 1 and 2), by task.

`set_task` runs for every task and mostly stores a name. A writer that has something to print looks whether the
name is another one than last time, and if so writes a marker (shoald.markers) first. What does not come through Python
(C code, `os.write`, child processes) has no such moment: before a task that is not known to be short the marker is
written at once, and before one that is, the name of another task is taken back. So it counts for its task, or for the
worker, but never for another task.

The writers cannot be closed, and never raise when the daemon is gone: nobody reads, and the task goes on.
They are `sys.__stdout__` and `sys.__stderr__` too, for code that replaces `sys.stdout` and puts those back.
"""

from __future__ import annotations

import io
import os
import select
import sys
import threading
from typing import TYPE_CHECKING, Any

from shoald.markers import encode_marker

if TYPE_CHECKING:
    from shoal.config import Config

_current = ""
_writers: list[TaskWriter] = []


def set_task(name: str, short: bool = True) -> None:
    """What is printed from now on is the output of the task ``name``; "" for none. ``short``: it is known to be."""
    global _current
    if name is _current:
        return
    _current = name
    for writer in _writers:
        if not short:
            writer.announce(name)
        elif writer.marked and writer.marked != name:
            writer.announce("")


def flush_partial_lines() -> None:
    """Write out lines without an end: whoever printed them has ended."""
    for writer in _writers:
        if writer.pending:
            writer.flush()


def install(config: Config) -> None:
    """Make sys.stdout and sys.stderr line-buffered writers to descriptors 1 and 2. Once per process."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError, AttributeError):
            continue  # closed, or there was none
    _writers[:] = [TaskWriter(fd, config.output_buffer_bytes_max) for fd in (1, 2)]
    out, err = (_text_writer(writer) for writer in _writers)
    sys.stdout = sys.__stdout__ = out  # type: ignore[misc]  # not to be replaced, says typeshed
    sys.stderr = sys.__stderr__ = err  # type: ignore[misc]
    os.register_at_fork(after_in_child=_after_fork)


def flush() -> None:
    """Write out what is buffered, here and in whatever sys.stdout and sys.stderr are now. Never raises."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except Exception as error:  # noqa: BLE001  user code has put its own object there
            _complain(f"sys.stdout or sys.stderr could not be flushed: {error!r}")
    for writer in _writers:
        writer.flush()


def _complain(text: str) -> None:
    if _writers:
        _writers[-1].write(f"[shoal] {text}\n".encode("utf-8", "backslashreplace"))


def _text_writer(writer: TaskWriter) -> io.TextIOWrapper:
    return io.TextIOWrapper(
        writer,
        encoding="utf-8",
        errors="backslashreplace",
        newline="\n",
        line_buffering=True,
        write_through=True,
    )


def _after_fork() -> None:
    for writer in _writers:
        writer.after_fork()


class TaskWriter(io.BufferedIOBase):
    """The bytes of one descriptor, marked with the task that wrote them. Usable from any thread.

    Attributes:
        marked: the task that the last marker named.
        pending: what was not written yet.

    Args:
        fd: where to write; it stays the caller's.
        buffer_bytes_max: how much of a line without an end is kept before it is written all the same.
    """

    def __init__(self, fd: int, buffer_bytes_max: int) -> None:
        super().__init__()
        self._fd = fd
        self._buffer_bytes_max = buffer_bytes_max
        self.pending = bytearray()
        self._draining = False
        self.marked = ""
        # Can be taken again: a signal handler may print while this thread writes.
        self._lock = threading.RLock()

    @property
    def name(self) -> str:
        """As Python names its own."""
        return {1: "<stdout>", 2: "<stderr>"}.get(self._fd, str(self._fd))

    @property
    def closed(self) -> bool:
        """Never: the next task prints too."""
        return False

    def write(self, data: Any, /) -> int:
        """Take all of ``data``; it is written at the next `flush`, or when there is much of it."""
        view = memoryview(data)
        name = _current
        with self._lock:
            if name is not self.marked:
                if name != self.marked:
                    self.pending += encode_marker(name)
                self.marked = name
            self.pending += view
            if len(self.pending) >= self._buffer_bytes_max:
                self._drain()
        return view.nbytes

    def announce(self, name: str) -> None:
        """Write the marker of the task ``name`` now, after what is pending; later, if the pipe has no room for it."""
        with self._lock:
            if name == self.marked:
                return
            self.pending += encode_marker(name)
            self.marked = name
            # A task that prints nothing does not wait for those who read what others have printed.
            if len(self.pending) <= select.PIPE_BUF and self._has_room():
                self._drain()

    def _has_room(self) -> bool:
        poll = select.poll()
        poll.register(self._fd, select.POLLOUT)
        return bool(poll.poll(0))

    def flush(self) -> None:
        """Write what is pending. Never raises for a descriptor that takes nothing any more."""
        with self._lock:
            if self.pending:
                self._drain()

    def _drain(self) -> None:
        if self._draining:  # a signal handler prints in the middle of it: that is written next
            return
        self._draining = True
        try:
            self._write_pending()
        finally:
            self._draining = False

    def _write_pending(self) -> None:
        pending = self.pending
        while pending:
            try:
                # A copy: a signal handler that prints makes it grow meanwhile.
                written = os.write(self._fd, bytes(pending[: self._buffer_bytes_max]))
            except BlockingIOError:  # user code made the pipe non-blocking
                self._wait_writable()
                continue
            except OSError:  # the daemon is gone, or user code closed the descriptor
                pending.clear()
                return
            del pending[:written]

    def _wait_writable(self) -> None:
        poll = select.poll()
        poll.register(self._fd, select.POLLOUT)
        poll.poll()

    def after_fork(self) -> None:
        """In a forked child: what was pending is the parent's to write; who held the lock is not here."""
        self._lock = threading.RLock()
        self.pending = bytearray()
        self._draining = False

    def close(self) -> None:
        """Flush only: user code that closes sys.stdout must not silence the tasks after it."""
        self.flush()

    def detach(self) -> Any:
        """Not possible: there is nothing below."""
        raise io.UnsupportedOperation("detach")

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._fd

    def isatty(self) -> bool:
        return False

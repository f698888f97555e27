"""The daemon's side of the fork server: requests out, news of workers in, and a new server when it dies.

Requests never block: what the kernel does not take waits in a queue, bounded by the workers there can be.
When the server is lost, the kernel kills its workers; this process is the next subreaper, so it reaps them,
kills what they left, reports each death, and starts a fresh server (as a new program, because this process
has threads by then). What killed the server may keep another from starting (no memory, processes or descriptors):
that is tried again with growing pauses, and what is asked for meanwhile waits in the queue.
"""

from __future__ import annotations

import array
import os
import signal
import socket
import time
from collections import deque
from typing import TYPE_CHECKING, Any, Protocol

import msgpack

from shoald.shell.descriptors import copies_of
from shoald.shell.framesocket import NO_ROOM_NOW
from shoald.worker import forkserver as fs

if TYPE_CHECKING:
    from shoald.shell.loop import Loop

PACKETS_PER_TURN = 256
_END_S = 3.0
_RESTARTS_MAX = 5  # in a row, without a worker forked in between
_RESTART_PAUSE_S = 0.5  # after the first start that failed, and twice as long after each further one
_NO_ROOM_PAUSE_S = 0.01


class Listener(Protocol):
    """What is told about workers."""

    def forked(self, worker_id: bytes, pid: int) -> None: ...
    def fork_failed(self, worker_id: bytes, reason: str) -> None: ...
    def exited(self, worker_id: bytes, exit_code: int, signal_number: int) -> None: ...
    def server_lost(self, reason: str, final: bool) -> None: ...


class ForkClient:
    """The fork server as the daemon's loop sees it.

    Args:
        pid, sock: what `forkserver.start` returned.
    """

    def __init__(self, loop: Loop, pid: int, sock: socket.socket, listener: Listener) -> None:
        self._loop = loop
        self._listener = listener
        self._queue: deque[tuple[bytes, list[int]]] = deque()
        self._writing = False
        self._attached = False
        self._pause_s = _RESTART_PAUSE_S
        self._pids: dict[bytes, int] = {}
        self._asked: set[bytes] = set()
        self._setup: tuple[dict[str, Any], list[int]] | None = None
        self._restarts = 0
        self.closed = False
        self._attach(pid, sock)

    def _attach(self, pid: int, sock: socket.socket) -> None:
        self.pid = pid
        self._sock = sock
        self._attached = True
        sock.setblocking(False)
        self._loop.add_reader(sock.fileno(), self._readable)

    # --- requests ---

    def setup(self, info: dict[str, Any], fds: list[int]) -> None:
        """Give the server what it needs before it can fork; ``fds`` stay the caller's, and open."""
        self._setup = (info, fds)
        self._request_setup(copies_of(fds))

    def _request_setup(self, copies: list[int]) -> None:
        assert self._setup is not None
        # Before what was asked for while there was no server.
        self._queue.appendleft((_packed([fs.SETUP, self._setup[0]]), copies))
        self._write()

    def fork(self, worker_id: bytes, slot: int, stdout: int, stderr: int, python: str = "") -> None:
        """Fork a worker, which becomes ``python`` if that is given.

        The descriptors are its output and are closed here once they are sent.
        """
        self._asked.add(worker_id)
        self._request([fs.FORK, worker_id, slot, python], [stdout, stderr])

    def end(self, worker_id: bytes) -> None:
        """Kill a worker and its process group."""
        self._request([fs.END, worker_id], [])

    def _request(self, message: list[Any], fds: list[int]) -> None:
        self._queue.append((_packed(message), fds))
        if self._attached and not self._writing:
            self._write()

    def _write(self) -> None:
        try:
            while self._queue:
                data, fds = self._queue[0]
                rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
                self._sock.sendmsg([data], rights)
                self._queue.popleft()
                for fd in fds:
                    os.close(fd)
        except BlockingIOError:
            if not self._writing:
                self._writing = True
                self._loop.add_writer(self._sock.fileno(), self._write)
            return
        except OSError as error:
            if error.errno in NO_ROOM_NOW:
                sock = self._sock
                self._loop.remove_writer(sock.fileno())
                self._writing = True
                self._loop.call_later(_NO_ROOM_PAUSE_S, lambda: self._write_again(sock))
            return  # else it is gone; the reader finds that out
        if self._writing:
            self._writing = False
            self._loop.remove_writer(self._sock.fileno())

    def _write_again(self, sock: socket.socket) -> None:
        if self._sock is sock and self._attached:
            self._writing = False
            self._write()

    # --- news ---

    def _readable(self) -> None:
        for _ in range(PACKETS_PER_TURN):
            try:
                data = self._sock.recv(fs.PACKET_BYTES_MAX)
            except BlockingIOError:
                return
            except OSError:
                data = b""
            if not data:
                self._lost()
                return
            self._news(msgpack.unpackb(data, raw=False))

    def _news(self, message: list[Any]) -> None:
        tag = message[0]
        if tag == fs.FORKED:
            _, worker_id, pid = message
            self._restarts, self._pause_s = 0, _RESTART_PAUSE_S
            self._asked.discard(worker_id)
            self._pids[worker_id] = pid
            self._listener.forked(worker_id, pid)
        elif tag == fs.FAILED:
            self._asked.discard(message[1])
            self._listener.fork_failed(message[1], message[2])
        elif tag == fs.EXITED:
            _, worker_id, _, exit_code, signal_number = message
            self._pids.pop(worker_id, None)
            self._listener.exited(worker_id, exit_code, signal_number)

    # --- its end ---

    def _lost(self) -> None:
        """The server died: see to its workers, report them, and start another one."""
        self._detach()
        _reap(self.pid, _END_S)
        pids, self._pids = self._pids, {}
        asked, self._asked = self._asked, set()
        # They are dying by the kernel's hand; their descendants, which this process adopts now, are not.
        fs.end_children(_END_S)
        self._restarts += 1
        final = self._restarts > _RESTARTS_MAX or self._setup is None
        self._listener.server_lost("the fork server ended", final)
        for worker_id in pids:
            self._listener.exited(worker_id, 0, int(signal.SIGKILL))
        for worker_id in asked:
            self._listener.fork_failed(worker_id, "the fork server ended")
        if not final:
            self._start_another()

    def _start_another(self) -> None:
        if self.closed or self._setup is None:
            return
        copies: list[int] = []
        try:
            copies = copies_of(self._setup[1])
            server = fs.start_fresh()
        except OSError as error:
            for fd in copies:
                os.close(fd)
            self._restarts += 1
            final = self._restarts > _RESTARTS_MAX
            self._listener.server_lost(f"no fork server can be started: {error}", final)
            if not final:
                self._loop.call_later(self._pause_s, self._start_another)
                self._pause_s *= 2
            return
        self._attach(*server)
        self._request_setup(copies)

    def _detach(self) -> None:
        self._attached = False
        self._loop.remove_reader(self._sock.fileno())
        if self._writing:
            self._loop.remove_writer(self._sock.fileno())
            self._writing = False
        self._sock.close()
        self._drop_queue()

    def _drop_queue(self) -> None:
        for _, fds in self._queue:
            for fd in fds:
                os.close(fd)
        self._queue.clear()

    def close(self) -> None:
        """End the server and, with it, every worker; returns when it is gone, after a bounded time."""
        if not self.closed:
            self.closed = True
            if self._attached:
                self._detach()
                _reap(self.pid, _END_S)
            self._drop_queue()


def _packed(message: list[Any]) -> bytes:
    data: bytes = msgpack.packb(message, use_bin_type=True)
    return data


def _reap(pid: int, limit_s: float) -> None:
    """Wait for the end of a child; kill it after ``limit_s``."""
    deadline = time.monotonic() + limit_s
    try:
        while os.waitpid(pid, os.WNOHANG)[0] == 0:
            if time.monotonic() > deadline:
                os.kill(pid, signal.SIGKILL)
                deadline = time.monotonic() + limit_s
            time.sleep(0.001)
    except (ChildProcessError, ProcessLookupError):
        return  # not ours (no subreaper on this platform), or gone

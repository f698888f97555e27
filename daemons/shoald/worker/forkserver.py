"""The fork server: a warm, single-threaded process from which workers are forked in a millisecond, and
their reaper.

The daemon forks it as its first act, before it has loaded anything itself; while the daemon goes on
starting, this process imports numpy, cloudpickle and the worker's code, and maps the store's region, so
that all workers share these pages and see the region at one address. It never touches BLAS and never loads
grpc: forks would take ten times as long.

Packets (msgpack, one per datagram of a SOCK_SEQPACKET pair, descriptors beside them):

    daemon →  [SETUP, info] + region read-only, status board, log
              [FORK, worker id, slot, python] + stdout, stderr  [END, worker id]       python: "", or another program (`cold`)
    → daemon  [READY]   [FORKED, worker id, pid]   [FAILED, worker id, text]
              [EXITED, worker id, pid, exit code, signal]

Nothing outlives the daemon. Every worker leads a session and a process group of its own and is a subreaper,
so all its descendants stay its descendants while it lives; when it dies this process, the next subreaper,
kills its group and adopts whoever had left it, and kills those too. When the daemon is gone (the socket
closes, or the parent-death signal comes) everything ends here; when this process is killed, the kernel
kills the workers. EXITED is sent after waitpid: it is the confirmed death that leases, pins and extents
wait for.
"""

from __future__ import annotations

import array
import contextlib
import ctypes
import gc
import importlib
import os
import select
import signal
import socket
import sys
import time
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from collections.abc import Callable

SETUP, FORK, END = 1, 2, 3
READY, FORKED, FAILED, EXITED = 11, 12, 13, 14
PACKET_BYTES_MAX = 64 * 1024
DESCRIPTORS_MAX = 8
STATUS_SLOT_BYTES = 64
_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_END_ALL_S = 2.0
_WORKER_MAIN = "shoald.worker.main"
_ANCILLARY_BYTES = socket.CMSG_SPACE(4 * DESCRIPTORS_MAX)


def start() -> tuple[int, socket.socket]:
    """Fork the server from this process, which must have one thread. Returns its pid and the daemon's
    socket end.
    """
    ours, theirs = _socket_pair()
    parent = os.getpid()
    pid = os.fork()
    if not pid:
        _serve_and_exit(theirs, parent)
    theirs.close()
    return pid, ours


def start_fresh() -> tuple[int, socket.socket]:
    """Start a server as a new program: for a daemon that has threads and cannot fork one. Same result as
    `start`; OSError where there are no processes or descriptors to be had.
    """
    ours, theirs = _socket_pair()
    theirs.set_inheritable(True)
    command = [sys.executable, "-m", "shoald.worker.forkserver", str(theirs.fileno()), str(os.getpid())]
    try:
        # posix_spawn: no Python code runs between fork and exec, whatever the other threads hold.
        pid = os.posix_spawn(sys.executable, command, os.environ)
    except OSError:
        ours.close()
        raise
    finally:
        theirs.close()
    return pid, ours


def _socket_pair() -> tuple[socket.socket, socket.socket]:
    kind = socket.SOCK_SEQPACKET if sys.platform == "linux" else socket.SOCK_DGRAM
    return socket.socketpair(socket.AF_UNIX, kind)


def become_subreaper() -> None:
    """Orphaned descendants of this process become its children, where the platform can do that."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def die_with_parent(parent: int, signal_number: int) -> None:
    """Have the kernel send ``signal_number`` to this process when its parent dies; exits if that has
    happened.
    """
    _prctl(_PR_SET_PDEATHSIG, signal_number)
    if os.getppid() != parent:
        os._exit(1)


def go_first() -> None:
    """Have the kernel, when memory runs out, end this process rather than one that others depend on.

    The daemon maps the whole store, so the kernel's killer takes it for the largest process of all.
    """
    if sys.platform == "linux":
        with contextlib.suppress(OSError):  # no /proc, or it is read-only: then nobody goes first
            fd = os.open(
                "/proc/self/oom_score_adj", os.O_WRONLY
            )  # not `open`, which writes to a hundred pages more
            try:
                os.write(fd, b"1000")
            finally:
                os.close(fd)


def _prctl(option: int, value: int) -> None:
    if sys.platform == "linux":
        _libc().prctl(option, value, 0, 0, 0)


def _libc(loaded: list[Any] = []) -> Any:  # noqa: B006 - loaded once, before the forks
    if not loaded:
        loaded.append(ctypes.CDLL(None))
    return loaded[0]


def _serve_and_exit(control: socket.socket, parent: int) -> NoReturn:
    code = 1
    try:
        keep = control.fileno()
        os.closerange(3, keep)
        os.closerange(keep + 1, min(os.sysconf("SC_OPEN_MAX"), 65536))
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the daemon's to handle
        die_with_parent(parent, signal.SIGTERM)
        become_subreaper()
        ForkServer(control).serve()
        code = 0
    except KeyboardInterrupt:
        code = 130
    except Exception:  # noqa: BLE001 - the last boundary: it goes to the log with its traceback
        sys.excepthook(*sys.exc_info())
    finally:
        os._exit(code)


class ForkServer:
    """The process that this module is about."""

    def __init__(self, control: socket.socket) -> None:
        self._control = control
        self._info: dict[str, Any] = {}
        self._mapped = (-1, -1)  # descriptors of the region and the status board, for who maps them anew
        self._workers: dict[int, bytes] = {}
        self._pids: dict[bytes, int] = {}
        self._region: Any = None
        self._status: memoryview = memoryview(b"")
        self._run_worker: Any = None
        self._config: Any = None
        self._ending = False
        self._wake_read, self._wake_write = os.pipe()

    def serve(self) -> None:
        """Warm up, then fork and reap until the daemon is gone; then end all that is left."""
        import msgpack

        gc.disable()  # until the freeze: there is no garbage to speak of in imports, and looking for it takes 10 ms
        self._pack, self._unpack = msgpack.packb, msgpack.unpackb
        self._warm_up()
        for fd in (self._wake_read, self._wake_write):
            os.set_blocking(fd, False)
        signal.set_wakeup_fd(self._wake_write, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.signal(signal.SIGTERM, self._on_term)
        poller = select.poll()
        poller.register(self._control.fileno(), select.POLLIN)
        poller.register(self._wake_read, select.POLLIN)
        while not self._ending:
            for fd, _ in poller.poll():
                if fd == self._wake_read:
                    os.read(self._wake_read, 4096)
                    self._reap()
                elif not self._receive():
                    self._ending = True
        self._end_all()

    def _on_term(self, *_: object) -> None:
        self._ending = True  # the wake-up descriptor ends the poll

    def _warm_up(self) -> None:
        """Import what every worker needs, the worker's own code too: the daemon is still starting meanwhile.

        Not `numpy.random`: mapping its libraries makes each fork 0.4 ms (of 1) slower, and importing it
        costs 10 ms once in a worker that uses it.
        """
        importlib.import_module("shoal.maththreads").begin()
        for module in ("numpy", "cloudpickle", _WORKER_MAIN):
            importlib.import_module(module)
        _libc()

    # --- requests ---

    def _receive(self) -> bool:
        """Take one packet; False when the daemon is gone."""
        try:
            data, ancillary, _, _ = self._control.recvmsg(PACKET_BYTES_MAX, _ANCILLARY_BYTES)
        except ConnectionError:
            return False
        if not data:
            return False
        fds = array.array("i")
        for _, _, content in ancillary:
            fds.frombytes(content[: len(content) - len(content) % fds.itemsize])
        message = self._unpack(data, raw=False)
        if message[0] == FORK:
            self._fork(message[1], message[2], message[3], list(fds))
        elif message[0] == END:
            self._end(message[1])
        elif message[0] == SETUP:
            self._setup(message[1], list(fds))
        return True

    def _send(self, *message: Any) -> None:
        try:
            self._control.send(self._pack(message, use_bin_type=True))
        except ConnectionError:
            self._ending = True

    def _setup(self, info: dict[str, Any], fds: list[int]) -> None:
        import mmap

        region_read, status, log = fds
        null = os.open(os.devnull, os.O_RDONLY)
        for source, target in ((null, 0), (log, 1), (log, 2)):
            os.dup2(source, target)
        os.close(null)
        os.close(log)
        self._info = info
        self._mapped = (region_read, status)
        self._run_worker = importlib.import_module(info["worker_main"]).run_worker
        self._config = importlib.import_module("shoal.config").Config(**info["config"])
        if info.get("tls"):  # 40 ms that the first connection to each worker would wait for
            importlib.import_module("shoal.client.tlsconnection")
        # For reading only: a mapping to write through is not inherited by a fork, and each worker makes its
        # own.
        self._region = importlib.import_module("shoal.store.region").Region(
            region_read, None, info["capacity"]
        )
        self._status = memoryview(mmap.mmap(status, info["slots"] * STATUS_SLOT_BYTES))
        heap = importlib.import_module("shoal.client.heap")
        heap.keep_arrays_of_tasks(self._config.worker_heap_kept_bytes_max)
        heap.give_back()  # 0.1 ms: half a megabyte that the imports have left, which every worker would have
        gc.freeze()  # the collector would write into, and so copy, every page that workers share
        gc.enable()
        self._send(READY)

    def _fork(self, worker_id: bytes, slot: int, python: str, fds: list[int]) -> None:
        try:
            pid = os.fork()
        except OSError as error:
            pid = -1
            self._send(FAILED, worker_id, f"fork failed: {error}")
        if pid == 0:
            run_to_end(lambda: self._become_worker(worker_id, slot, python, fds))
        for fd in fds:
            os.close(fd)
        if pid > 0:
            self._workers[pid] = worker_id
            self._pids[worker_id] = pid
            self._send(FORKED, worker_id, pid)

    def _become_worker(self, worker_id: bytes, slot: int, python: str, fds: list[int]) -> None:
        parent = os.getppid()
        self._leave_server(fds)
        if parent != 1:
            die_with_parent(parent, signal.SIGKILL)
        become_subreaper()
        go_first()
        info = self._info
        if python:
            facts = {**info, "worker_id": worker_id, "slot": slot}
            importlib.import_module("shoald.worker.cold").become(python, facts, *self._mapped)
        for fd in self._mapped:
            os.close(fd)
        start = slot * STATUS_SLOT_BYTES
        self._run_worker(
            worker_id,
            info["socket_path"],
            info["secret"],
            info["node_id"],
            self._region,
            self._status[start : start + STATUS_SLOT_BYTES],
            self._config,
        )

    def _leave_server(self, fds: list[int]) -> None:
        """Undo what is the server's alone: its descriptors, signals, and the state of random generators."""
        os.setsid()
        for target, fd in enumerate(fds, 1):
            os.dup2(fd, target)
            os.close(fd)
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGCHLD, signal.SIGTERM):
            signal.signal(number, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        self._control.close()
        os.close(self._wake_read)
        os.close(self._wake_write)
        if "numpy.random" in sys.modules:  # somebody imported it before the forks; `random` sees to itself
            sys.modules["numpy.random"].seed()

    # --- ends ---

    def _end(self, worker_id: bytes) -> None:
        """Kill a worker and its group; nothing if it is gone. Its pid is still its own: only this process
        reaps it.
        """
        pid = self._pids.get(worker_id)
        if pid is not None:
            _kill_group(pid)

    def _reap(self) -> None:
        """Reap all children that ended, and take what they left behind with them."""
        died = False
        while True:
            try:
                # Looked at before it is reaped: until then its pid, and so its group's number, cannot be
                # reused.
                ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            except ChildProcessError:
                ended = None
            if ended is None:
                break
            pid = ended.si_pid
            worker_id = self._workers.pop(pid, None)
            if worker_id is not None:
                _kill_group(pid)
            _, status = os.waitpid(pid, 0)
            died = True
            if worker_id is not None:
                del self._pids[worker_id]
                code = os.waitstatus_to_exitcode(status)
                self._send(EXITED, worker_id, pid, max(code, 0), max(-code, 0))
        if died:
            self._kill_strays()

    def _kill_strays(self) -> None:
        """Kill adopted children: descendants of dead workers that had left their group."""
        for pid in _children():
            if pid not in self._workers:
                _kill(pid)

    def _end_all(self) -> None:
        """Kill everything below this process and wait for its end, for a bounded time."""
        self._control.close()
        end_children(_END_ALL_S)


def run_to_end(worker: Callable[[], None]) -> NoReturn:
    """What a worker process does, and its end, whichever way that comes."""
    code = 1
    try:
        worker()
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:  # noqa: BLE001 - the last boundary: it goes to the worker's output
        sys.excepthook(*sys.exc_info())
    finally:
        _flush_output()
        os._exit(code)


def end_children(limit_s: float) -> None:
    """Kill every child of this process, with its group, and those that it adopts then; returns when all are
    reaped, or after ``limit_s``.
    """
    deadline = time.monotonic() + limit_s
    while time.monotonic() < deadline:
        for pid in _children():
            _kill_group(pid)
        try:
            if not os.waitpid(-1, os.WNOHANG)[0]:
                time.sleep(0.001)
        except ChildProcessError:
            return


def _children() -> list[int]:
    try:
        with open(f"/proc/self/task/{os.getpid()}/children", encoding="ascii") as listing:
            return [int(pid) for pid in listing.read().split()]
    except OSError:
        return []  # a platform without /proc, where nobody is adopted either


def _kill_group(pid: int) -> None:
    try:
        os.killpg(pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        _kill(pid)  # it has not made its group yet


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return  # it ended by itself


def _flush_output() -> None:
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            continue  # the daemon is gone, or user code closed it: there is nobody to tell


if __name__ == "__main__":
    _serve_and_exit(socket.socket(fileno=int(sys.argv[1])), int(sys.argv[2]))

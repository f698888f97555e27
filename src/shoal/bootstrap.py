"""Starting and stopping daemons from outside: what `init()` and the command line share.

A daemon is `python -m shoald.node`, in a session of its own (no terminal, no signals of ours), told by
arguments and answering with one line of JSON on a pipe when it is ready. Whatever goes wrong is one
`BootstrapError` with the last lines of its log; nothing is left of a daemon that did not get ready.

Also finds the daemon to connect to for an address. Light: no grpc, rich or psutil.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from shoal.config import load
from shoal.sessions import (
    SECRET_FILE,
    Session,
    SessionError,
    clean_stale,
    durable_secret,
    find_sessions,
    make_session,
    process_started,
    read_secret,
    remove_directory,
    root_directory,
)
from shoal.wire import web

DEFAULT_PORT = 7462
SECRET_VARIABLE = "SHOAL_SECRET_FILE"  # noqa: S105  (the name of a variable)
OUTPUT_FILE = "daemon.out"  # what the daemon writes before, or instead of, its log
_LOG_LINES = 12
_STANDARD_MAX = 2  # the number of standard error
_LOG_TAIL_BYTES = 16 * 1024
_READY_BYTES_MAX = 64 * 1024
_LOCAL_NAMES = {"localhost", "127.0.0.1", "::1", "0.0.0.0", ""}  # noqa: S104  (compared, not bound)


class BootstrapError(Exception):
    """A daemon did not start, stop, or is not there; the message is for the user and says what to do.

    Attributes:
        refused: what was asked for is wrong, and the message says why: there is no log to look at.
    """

    refused = False


class NoNodeHereError(BootstrapError):
    """The cluster may be there, but no node of it is on this machine."""


@dataclass(frozen=True)
class DaemonOptions:
    """How to start a daemon. None leaves a choice to it.

    Attributes:
        head: run the head in it too, at ``host``:``port`` (0: any free port).
        data_dir: where that head's state and secret outlive it; "": in its session, with which they go.
        host: where it listens for other nodes too; "": on loopback, or where the head reaches this machine.
        head_address: without `head`, the cluster to join; its secret is ``secret``, or in ``secret_file``, or, without
            these, that of the head on this machine.
        owner_pid: stop when this process is gone.
        kind: "cluster", or "local" for one driver's own.
        dashboard_port: serve a dashboard there, at ``dashboard_host``; 0: any free port, -1: 8265, or any; None: no dashboard.
        object_store_memory: bytes.
        huge_pages: take them out of the system's pool of huge pages.
        spilling_directories: where objects go when the store is full; empty: a directory of the session.
        resources, labels: as given to init and start-node, beyond `num_cpus`.
        config: overrides of shoal.config, by name.
    """

    head: bool = False
    data_dir: str = ""
    host: str = ""
    port: int = 0
    head_address: str = ""
    secret_file: str = ""
    secret: bytes | None = field(default=None, repr=False)
    num_cpus: float | None = None
    resources: Mapping[str, float] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)
    object_store_memory: int | None = None
    huge_pages: bool = False
    spilling_directories: tuple[str, ...] = ()
    owner_pid: int | None = None
    config: Mapping[str, Any] = field(default_factory=dict)
    name: str = ""
    kind: str = "cluster"
    temp_dir: str | None = None
    dashboard_host: str = "127.0.0.1"
    dashboard_port: int | None = None


@dataclass(frozen=True)
class DaemonInfo:
    """A daemon that is ready.

    Attributes:
        session: where it lives; `socket`, `secret`, `node_id`, `address` are the session's, for convenience.
        process: its process, as a child of ours; poll it after stopping, or it stays a zombie.
    """

    session: Session
    process: subprocess.Popen[bytes]
    secret: bytes

    @property
    def socket(self) -> str:
        return self.session.socket

    @property
    def session_dir(self) -> str:
        return self.session.directory

    @property
    def node_id(self) -> str:
        return self.session.node_id

    @property
    def address(self) -> str:
        """host:port of the cluster's head."""
        return self.session.head_address

    @property
    def pid(self) -> int:
        return self.session.pid


def keep_standard_descriptors() -> None:
    """Open 0, 1 and 2 where they are closed (``script >&- 2>&-``): what is opened next is then no socket or pipe of ours that
    gets what a child, or C code, writes to its standard output.
    """
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= _STANDARD_MAX:
        pass
    os.close(descriptor)


def start_daemon(options: DaemonOptions, *, meanwhile: Callable[[], object] = lambda: None) -> DaemonInfo:
    """Start a daemon and wait until it is ready, at most config.start_ms_max; ``meanwhile`` is called while it starts.

    Raises:
        BootstrapError: it did not get ready; its process is gone and its directory removed.
    """
    try:
        clean_stale(options.temp_dir)
        secret = _secret_of_head(options) if options.head else _secret_to_join(options)
        session = Session(
            directory="",
            kind=options.kind,
            name=options.name,
            head=options.head,
            head_address=options.head_address,
            owner_pid=options.owner_pid or 0,
        )
        session = make_session(session, options.temp_dir, secret)
    except SessionError as error:
        problem = BootstrapError(str(error))
        problem.refused = True
        raise problem from error
    read_end, write_end = os.pipe()
    process: subprocess.Popen[bytes] | None = None
    try:
        try:
            process = _spawn(session, options, write_end)
        finally:
            os.close(write_end)
        session = session.with_process(process.pid).save()
        meanwhile()
        ready = _wait_ready(read_end, process, session)
        session = _complete(session, options, ready).save()
        return DaemonInfo(session, process, session.secret)
    except BaseException:
        if process is not None:
            _end_group(process)
        remove_directory(session.directory)
        raise
    finally:
        os.close(read_end)


def dashboard_link(url: str, secret: bytes) -> str:
    """A link that opens the dashboard at ``url`` in a browser: once, and within config.dashboard_link_s."""
    return web.link_url(url, secret, time.time(), os.urandom(web.NONCE_SIZE))


def stop_session(session: Session, *, remove: bool = True, drain: bool = False) -> str:
    """Stop a daemon: ask, wait config.stop_ms_max, then kill its process group. With ``drain`` it first lets end what runs
    there, for up to config.drain_ms_max.

    Returns "stopped", "killed" or "gone" (it did not run). Raises BootstrapError if it cannot be stopped.
    """
    outcome = "gone"
    if session.live:
        outcome = "stopped"
        _signal(session.pid, signal.SIGTERM if drain else signal.SIGINT)
        stop_s = load().stop_ms_max / 1000
        drain_s = load().drain_ms_max / 1000 if drain else 0.0
        if not _wait_gone(session, drain_s + stop_s):
            outcome = "killed"
            _signal(-session.pid, signal.SIGKILL)
            if not _wait_gone(session, stop_s):
                raise BootstrapError(
                    f"process {session.pid} of {session.directory} does not end, even when killed"
                )
    if remove:
        remove_directory(session.directory)
    return outcome


def resolve_address(address: str, temp_dir: str | None = None) -> Session:
    """The local node to connect to for init("auto") or init("host:port").

    Raises BootstrapError if no node of that cluster runs on this machine.
    """
    sessions = find_sessions(temp_dir)
    if address == "auto":
        clusters = [session for session in sessions if session.kind == "cluster"]
        addresses = {normal_address(session.head_address) for session in clusters}
        if not clusters:
            raise BootstrapError(
                f"no cluster runs on this machine (as far as {root_directory(temp_dir)} shows, and SHOAL_TEMP_DIR says "
                "where else to look); start one with `shoal start-head`, or use init() without an address"
            )
        if len(addresses) > 1:
            raise BootstrapError(_several(clusters))
        return _nearest(clusters)
    wanted = normal_address(address)
    found = [session for session in sessions if _is_at(session, wanted) and not _is_guest(session)]
    if found:
        return _nearest(found)
    raise NoNodeHereError(
        f"no node of the cluster at {address} runs on this machine (as far as {root_directory(temp_dir)} shows, and "
        f"SHOAL_TEMP_DIR says where else to look); start one with "
        f"`shoal start-node --address {address}`, or name the cluster's secret file in {SECRET_VARIABLE}"
    )


def daemon_to_ask(address: str, temp_dir: str | None = None) -> Session:
    """The local daemon of the cluster that a person asks about, as `resolve_address`; "auto" also finds a driver's private one,
    if nothing else runs.

    Raises BootstrapError; it names the clusters, if several run.
    """
    sessions = find_sessions(temp_dir)
    if address != "auto" or not sessions or any(session.kind == "cluster" for session in sessions):
        return resolve_address(address, temp_dir)
    if len(sessions) > 1:
        raise BootstrapError(_several(sessions))
    return sessions[0]


def _several(sessions: list[Session]) -> str:
    """That an address has to be said, and which there are: a cluster each, by its head's daemon if that is here; newest first."""
    clusters: dict[str, Session] = {}
    for session in sorted(sessions, key=lambda session: (not session.head, -session.created_s)):
        clusters.setdefault(session.head_address or session.directory, session)
    named = [
        f"{address} (since {time.strftime('%Y-%m-%d %H:%M:%S', time.localtime(session.created_s))}, pid {session.pid}"
        + (f", of process {session.owner_pid})" if session.owner_pid else ")")
        for address, session in sorted(clusters.items(), key=lambda item: -item[1].created_s)
    ]
    return (
        f"several clusters run on this machine: {', '.join(named)}; say which: --address HOST:PORT (or SHOAL_ADDRESS), or "
        'init("HOST:PORT")'
    )


def is_of_cluster(session: Session, address: str) -> bool:
    """Whether ``session`` is of the cluster whose head is at ``address``; raises BootstrapError if that is no address."""
    return _is_at(session, normal_address(address))


def guest_options(address: str, temp_dir: str | None, config: Mapping[str, Any]) -> DaemonOptions | None:
    """For a driver on a machine without a node of the cluster at ``address``: a node that runs no tasks that need CPUs, and ends
    with this process. None if the cluster's secret is not named in SECRET_VARIABLE.
    """
    secret_file = os.environ.get(SECRET_VARIABLE, "")
    if not secret_file:
        return None
    return DaemonOptions(
        head_address=normal_address(address),
        secret_file=secret_file,
        num_cpus=0,
        owner_pid=os.getpid(),
        config=config,
        kind="local",
        temp_dir=temp_dir,
    )


def _is_guest(session: Session) -> bool:
    """Another driver's own node in somebody else's cluster, which ends with that driver."""
    return bool(session.owner_pid) and not session.head


def _nearest(sessions: list[Session]) -> Session:
    """The head's own node, if it is here: another may still belong to a head that was there before, at the same address."""
    return next((session for session in sessions if session.head), sessions[0])


def _is_at(session: Session, wanted: str) -> bool:
    return bool(session.head_address) and normal_address(session.head_address) == wanted


def normal_address(address: str) -> str:
    """``address`` as host:port, with one spelling for this machine; raises BootstrapError for others."""
    host, colon, port = address.rpartition(":")
    if not colon or not port.isdigit() or not 0 < int(port) < 65536:
        raise BootstrapError(f"{address!r} is no address; it looks like 127.0.0.1:{DEFAULT_PORT}")
    return f"{'127.0.0.1' if host in _LOCAL_NAMES else host}:{int(port)}"


def _secret_of_head(options: DaemonOptions) -> bytes | None:
    return durable_secret(options.data_dir) if options.data_dir else None


def _secret_to_join(options: DaemonOptions) -> bytes:
    if options.secret is not None:
        return options.secret
    if options.secret_file:
        return read_secret(options.secret_file)
    wanted = normal_address(options.head_address)
    found = [session for session in find_sessions(options.temp_dir) if _is_at(session, wanted)]
    if found:
        return _nearest(found).secret
    raise SessionError(
        f"no cluster at {options.head_address} is known on this machine; if its head runs on another one, "
        "copy its secret file here and name it with --secret-file"
    )


def _spawn(session: Session, options: DaemonOptions, ready_fd: int) -> subprocess.Popen[bytes]:
    output = os.open(
        os.path.join(session.directory, OUTPUT_FILE), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600
    )
    try:
        return subprocess.Popen(
            _command(session, options, ready_fd),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            close_fds=True,
            pass_fds=(ready_fd,),
            start_new_session=True,
        )
    finally:
        os.close(output)


def _command(session: Session, options: DaemonOptions, ready_fd: int) -> list[str]:
    # -P: a file of the user's directory must not be imported instead of ours.
    command = [sys.executable, "-P", "-m", "shoald.node", "--session-dir", session.directory]
    if options.head:
        command += ["--head", "--port", str(options.port)]
        if options.data_dir:
            command += ["--data-dir", os.path.abspath(options.data_dir)]
    else:
        command += ["--head-address", options.head_address]
        command += ["--secret-file", os.path.join(session.directory, SECRET_FILE)]
    command += ["--ready-fd", str(ready_fd)]
    if options.huge_pages:
        command.append("--huge-pages")
    optional = {
        "--host": options.host or None,
        "--num-cpus": options.num_cpus,
        "--object-store-memory": options.object_store_memory,
        "--object-spilling-directory": ",".join(options.spilling_directories) or None,
        "--owner-pid": options.owner_pid,
        "--resources": json.dumps(dict(options.resources)) if options.resources else None,
        "--labels": json.dumps(dict(options.labels)) if options.labels else None,
        "--config": json.dumps(dict(options.config)) if options.config else None,
        "--name": options.name or None,
        "--dashboard-port": options.dashboard_port,
        "--dashboard-host": options.dashboard_host if options.dashboard_port is not None else None,
    }
    for option, value in optional.items():
        if value is not None:
            command += [option, str(value)]
    return command


def _wait_ready(read_end: int, process: subprocess.Popen[bytes], session: Session) -> dict[str, Any]:
    start_s = load().start_ms_max / 1000
    deadline = time.monotonic() + start_s
    poller = select.poll()
    poller.register(read_end, select.POLLIN | select.POLLHUP)
    line = b""
    while not line.endswith(b"\n"):
        left_ms = int((deadline - time.monotonic()) * 1000)
        if left_ms <= 0:
            raise BootstrapError(
                _with_log(f"the daemon was not ready in {start_s:.0f} s (start_ms_max)", session)
            )
        if not poller.poll(left_ms):
            continue
        chunk = os.read(read_end, _READY_BYTES_MAX)
        if not chunk or len(line) > _READY_BYTES_MAX:
            _wait_exit(process)
            raise BootstrapError(_with_log(f"the daemon ended while it started ({_fate(process)})", session))
        line += chunk
    try:
        ready = json.loads(line)
    except ValueError:
        raise BootstrapError(
            _with_log(f"the daemon is not a shoal daemon: it said {line[:80]!r}", session)
        ) from None
    if not ready.get("ok"):
        _wait_exit(process)
        problem = BootstrapError(str(ready.get("error") or "the daemon did not say why it failed"))
        problem.refused = True
        raise problem
    return dict(ready)


def _complete(session: Session, options: DaemonOptions, ready: dict[str, Any]) -> Session:
    address = str(ready.get("address") or "")
    head_address = str(ready.get("head_address") or "") or (address if options.head else options.head_address)
    return replace(
        session,
        socket=str(ready["socket"]),
        node_id=str(ready["node_id"]),
        address=address,
        head_address=head_address,
        dashboard=str(ready.get("dashboard") or ""),
    )


def log_tail(directory: str, lines: int = _LOG_LINES) -> list[str]:
    """The last ``lines`` lines of what the daemon in ``directory`` wrote: its log, else its output."""
    logs = os.path.join(directory, "logs")
    paths = [os.path.join(directory, OUTPUT_FILE)]
    if os.path.isdir(logs):
        paths += sorted((entry.path for entry in os.scandir(logs) if entry.is_file()), key=os.path.getmtime)
    found: list[str] = []
    for path in paths:
        try:
            with open(path, "rb") as file:
                file.seek(max(0, os.fstat(file.fileno()).st_size - _LOG_TAIL_BYTES))
                found += file.read().decode(errors="replace").splitlines()
        except FileNotFoundError:
            continue
    return found[-lines:]


def _with_log(message: str, session: Session) -> str:
    tail = log_tail(session.directory)
    return message + (":\n  " + "\n  ".join(tail) if tail else "; it logged nothing")


def _fate(process: subprocess.Popen[bytes]) -> str:
    code = process.poll()
    if code is None:
        return "it closed its pipe"
    return f"signal {-code}" if code < 0 else f"exit status {code}"


def _wait_exit(process: subprocess.Popen[bytes]) -> None:
    try:
        process.wait(timeout=1.0)
    except subprocess.TimeoutExpired:
        _end_group(process)


def _end_group(process: subprocess.Popen[bytes]) -> None:
    """Kill what was started: the daemon leads its own process group."""
    _signal(-process.pid, signal.SIGKILL)
    process.wait()


def _signal(pid: int, number: int) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return  # it has ended by itself, which is what was wanted


def _wait_gone(session: Session, timeout_s: float) -> bool:
    """Wait for the end of the session's process, whoever its parent is."""
    deadline = time.monotonic() + timeout_s
    pause_s = 0.002
    while process_started(session.pid) == session.pid_started:
        if time.monotonic() >= deadline:
            return False
        time.sleep(pause_s)
        pause_s = min(2 * pause_s, 0.05)
    return True

"""Session directories: where the daemons of this user and machine are found, and what is cleaned up.

    <tmp>/shoal-<uid>/<short name>/     0700, owned by us, never a symlink
        session.json                    who runs here (written by whoever started the daemon)
        node.json                       what the daemon says of itself
        secret                          0600, the cluster's secret
        node.sock, logs/, …             the daemon's own

A session is live while its daemon's process is: pid and start time, so that a reused pid is not taken for it.
One whose daemon and starter are both gone is stale, and removed by the next start. Light: standard
library only, since `init()` waits for it.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from shoal import joining
from shoal.wire.auth import SECRET_SIZE, new_secret

SESSION_FILE = "session.json"
NODE_FILE = "node.json"
SECRET_FILE = "secret"  # noqa: S105  (the name of a file)
# A path of a Unix socket has 108 bytes with its end; the daemon's socket names need up to 24.
_DIRECTORY_LENGTH_MAX = 80
# A directory without a session file is somebody's who is just starting, for this long.
_YOUNG_S = 60.0
_SESSIONS_MAX = 10_000
_ATTEMPTS_MAX = 5


class SessionError(Exception):
    """A directory or file of a session cannot be trusted or used; one line that says what to do."""


@dataclass(frozen=True)
class Session:
    """One daemon of this user on this machine.

    Attributes:
        kind: "cluster" (start-head, start-node) or "local" (made by init for one driver).
        head_address: host:port of the cluster's head; `head` tells whether it runs in this daemon.
        dashboard: URL of the dashboard that it serves, without what lets in; "" if it serves none, or is a driver's own.
        pid_started: when the process started, as the system counts; "" where it does not tell.
    """

    directory: str
    kind: str = "cluster"
    name: str = ""
    head: bool = False
    head_address: str = ""
    address: str = ""
    socket: str = ""
    node_id: str = ""
    pid: int = 0
    pid_started: str = ""
    starter_pid: int = 0
    starter_started: str = ""
    owner_pid: int = 0
    dashboard: str = ""
    created_s: float = field(default_factory=time.time)

    @property
    def secret(self) -> bytes:
        """Read from its file; raises SessionError."""
        return read_secret(os.path.join(self.directory, SECRET_FILE))

    @property
    def live(self) -> bool:
        """The daemon runs."""
        return self.pid > 0 and process_started(self.pid) == self.pid_started

    def same_cluster(self, other: Session) -> bool:
        """Both belong to one cluster, as far as is known."""
        if self.directory == other.directory:
            return True
        return bool(self.head_address) and self.head_address == other.head_address

    def save(self) -> Session:
        """Write session.json, atomically; returns self."""
        path = os.path.join(self.directory, SESSION_FILE)
        partial = f"{path}.{os.getpid()}"
        _write_private(partial, json.dumps(asdict(self)).encode())
        os.replace(partial, path)
        return self

    def with_process(self, pid: int) -> Session:
        """The session once its daemon is process ``pid``."""
        return replace(self, pid=pid, pid_started=process_started(pid) or "")


def process_started(pid: int) -> str | None:
    """A text that tells this process from a later one with its pid; None if there is no such process.

    A zombie counts as gone. "" where the system does not say when a process started.
    """
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            # The name may contain spaces and parentheses: fields count from after its end.
            fields = file.read().rpartition(b")")[2].split()
        return None if fields[0] in {b"Z", b"X"} else fields[19].decode()
    except FileNotFoundError:
        if os.path.exists("/proc/self/stat"):
            return None
    except ProcessLookupError:
        return None
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except PermissionError:
        return ""
    return ""


def root_directory(temp_dir: str | None = None) -> str:
    """Where this user's sessions are; SHOAL_TEMP_DIR or the system's temporary directory by default.

    Where that is too long for sockets (a job's own directory on a cluster, say), and was not chosen for shoal: /tmp.
    """
    base = temp_dir or os.environ.get("SHOAL_TEMP_DIR")
    root = _root_in(base or tempfile.gettempdir())
    return _root_in("/tmp") if not base and _is_too_long(root) else root


def _root_in(base: str) -> str:
    return os.path.join(os.path.abspath(base), f"shoal-{os.getuid()}")


def _is_too_long(root: str) -> bool:
    return len(os.fsencode(root)) > _DIRECTORY_LENGTH_MAX - 10


def check_private(path: str) -> None:
    """Raise SessionError unless ``path`` is a real directory that only this user can use."""
    info = os.lstat(path)
    if not stat.S_ISDIR(info.st_mode):
        raise SessionError(f"{path} is not a directory (a symlink?); remove it, or set SHOAL_TEMP_DIR")
    if info.st_uid != os.getuid():
        raise SessionError(f"{path} belongs to another user; set SHOAL_TEMP_DIR to a directory of your own")
    if stat.S_IMODE(info.st_mode) & 0o077:
        raise SessionError(f"{path} is open to other users; run: chmod 700 {path}")


def make_session(session: Session, temp_dir: str | None, secret: bytes | None) -> Session:
    """Make a session's directory, secret and file.

    Args:
        session: everything but the directory.
        temp_dir: see `root_directory`.
        secret: of the cluster to join, or None for a new one.

    Raises:
        SessionError: the directory cannot be trusted or made; nothing is left.
    """
    root = root_directory(temp_dir)
    if _is_too_long(root):
        raise SessionError(
            f"{root} is too long for the sockets in it; use a shorter one (SHOAL_TEMP_DIR, --temp-dir, or _temp_dir of init)"
        )
    try:
        os.makedirs(os.path.dirname(root), exist_ok=True)
        directory = _make_directory(root)
    except OSError as error:
        raise SessionError(f"cannot make a directory in {root}: {error.strerror}") from error
    try:
        _write_private(os.path.join(directory, SECRET_FILE), (secret or new_secret()).hex().encode())
        pid = os.getpid()
        made = replace(
            session, directory=directory, starter_pid=pid, starter_started=process_started(pid) or ""
        )
        return made.save()
    except BaseException as error:
        remove_directory(directory)
        if isinstance(error, OSError):
            raise SessionError(f"cannot write to {directory}: {error.strerror}") from error
        raise


def _make_directory(root: str) -> str:
    for attempt in range(_ATTEMPTS_MAX):
        with contextlib.suppress(FileExistsError):
            os.mkdir(root, 0o700)
        try:
            check_private(root)
            directory = os.path.join(root, os.urandom(4).hex())
            os.mkdir(directory, 0o700)
        except FileNotFoundError:
            # Somebody's last session ended just now, and took the empty root with it.
            if attempt + 1 == _ATTEMPTS_MAX:
                raise
        else:
            return directory
    raise AssertionError("unreachable")


def read_secret(path: str) -> bytes:
    """The cluster secret in ``path``, raw, as hex, or in a join string; raises SessionError."""
    try:
        with open(path, "rb") as file:
            info = os.fstat(file.fileno())
            content = file.read(joining.BYTES_MAX)
    except OSError as error:
        raise SessionError(f"cannot read the secret {path}: {error.strerror}") from error
    if stat.S_IMODE(info.st_mode) & 0o077:
        raise SessionError(f"the secret {path} is open to other users; run: chmod 600 {path}")
    if len(content) == SECRET_SIZE:
        return content
    try:
        text = content.decode()
        secret = joining.read_join_string(text)[1] if joining.WORD in text else bytes.fromhex(text.strip())
    except (ValueError, joining.BadJoinString):
        secret = b""
    if len(secret) != SECRET_SIZE:
        raise SessionError(f"{path} is not a shoal secret ({SECRET_SIZE} bytes, or as many in hex)")
    return secret


def durable_secret(directory: str) -> bytes:
    """The secret of the cluster whose head keeps its state in ``directory``, which is made, with a new one, if it is not there.

    Raises SessionError if the directory or the file cannot be trusted or used.
    """
    path = os.path.join(directory, SECRET_FILE)
    try:
        os.makedirs(directory, mode=0o700, exist_ok=True)
        check_private(directory)
        with contextlib.suppress(FileExistsError):
            _write_private(path, new_secret().hex().encode())
    except OSError as error:
        raise SessionError(f"cannot keep a cluster's state in {directory}: {error.strerror}") from error
    return read_secret(path)


def load_session(directory: str) -> Session | None:
    """The session in ``directory``; None if its file is not there or not readable as one."""
    content = _read_json(os.path.join(directory, SESSION_FILE))
    try:
        session = Session(**{**content, "directory": directory})
    except TypeError:
        return None
    if session.head and session.socket and not session.head_address:
        # A driver's own daemon is ready before its head; its address is in the daemon's own file, later.
        address = str(_read_json(os.path.join(directory, NODE_FILE)).get("address") or "")
        return replace(session, head_address=address)
    return session if content else None


def _read_json(path: str) -> dict[str, Any]:
    """The object in a file; empty if it is not there (any more), or is none."""
    try:
        with open(path, "rb") as file:
            content = json.load(file)
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def find_sessions(temp_dir: str | None = None) -> list[Session]:
    """This user's daemons that run and are ready, oldest first; raises SessionError (see check_private)."""
    sessions = [load_session(directory) for directory in _directories(temp_dir)]
    live = [session for session in sessions if session is not None and session.socket and session.live]
    return sorted(live, key=lambda session: session.created_s)


def clean_stale(temp_dir: str | None = None) -> list[str]:
    """Remove the directories of daemons that are gone; returns them."""
    removed = []
    for directory in _directories(temp_dir):
        if _is_stale(directory):
            remove_directory(directory)
            removed.append(directory)
    return removed


def remove_directory(directory: str) -> None:
    """Remove a session's directory, or what others have not removed of it meanwhile; and an empty root."""

    def ignore_missing(_function: object, _path: str, info: tuple[type, BaseException, object]) -> None:
        if not isinstance(info[1], FileNotFoundError):
            raise info[1]

    shutil.rmtree(directory, onerror=ignore_missing)
    with contextlib.suppress(OSError):  # others have sessions in it
        os.rmdir(os.path.dirname(directory))


def _directories(temp_dir: str | None) -> Iterator[str]:
    root = root_directory(temp_dir)
    try:
        check_private(root)
        names = sorted(os.listdir(root))
    except FileNotFoundError:
        return
    for name in names[:_SESSIONS_MAX]:
        yield os.path.join(root, name)


def _is_stale(directory: str) -> bool:
    session = load_session(directory)
    if session is None:
        try:
            return time.time() - os.lstat(directory).st_mtime > _YOUNG_S and os.path.isdir(directory)
        except FileNotFoundError:
            return False
    starting = not session.socket and process_started(session.starter_pid) == session.starter_started
    return not session.live and not starting


def _write_private(path: str, content: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)

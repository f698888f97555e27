"""The session directory of a daemon: private, with its socket, the secret, node.json and logs.

Made by the daemon if it is missing, refused if it belongs to somebody else. At the end the socket and
everything but the logs goes; a daemon that belongs to one driver leaves nothing.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import stat
from typing import Any

from shoal.wire.auth import SECRET_SIZE, new_secret

ROOT_PREFIX = "shoal-"  # of the directory that a user's sessions lie in, which goes with the last one
SOCKET_PATH_BYTES_MAX = 107  # sun_path, without its terminator


class SessionError(Exception):
    """The directory, or the secret in it, cannot be used; the message is one line for the operator."""


class Session:
    """A session directory and the files in it."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.socket_path = os.path.join(path, "node.sock")
        self.logs_dir = os.path.join(path, "logs")
        if len(os.fsencode(self.socket_path)) > SOCKET_PATH_BYTES_MAX:
            raise SessionError(f"{path} is too long for a socket's path: use a shorter temporary directory")
        try:
            os.makedirs(path, mode=0o700, exist_ok=True)
            found = os.stat(path)
            if found.st_uid != os.getuid() or stat.S_IMODE(found.st_mode) & 0o077:
                raise SessionError(f"{path} must belong to this user, and be closed to others (mode 0700)")
            self._lock()
            os.makedirs(self.logs_dir, mode=0o700, exist_ok=True)
        except OSError as error:
            raise SessionError(f"cannot make the session directory {path}: {error.strerror}") from None

    def _lock(self) -> None:
        """Keep other daemons out for as long as this process lives, however it ends."""
        directory = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            fcntl.flock(directory, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(directory)
            raise SessionError(f"a node daemon runs in {self.path} already") from None
        if os.path.exists(self.socket_path):
            os.unlink(self.socket_path)  # of a daemon that was killed

    def secret(self, source: str, make: bool) -> bytes:
        """The cluster's secret: from the file ``source`` if given, from this directory, or a new one if
        ``make``.

        It lies in this directory afterwards, where the clients of this daemon find it.
        """
        own = os.path.join(self.path, "secret")
        try:
            with open(source or own, "rb") as file:
                text = file.read(4 * SECRET_SIZE)
        except FileNotFoundError:
            if source or not make:
                raise SessionError(f"there is no secret in {source or own}") from None
            text = new_secret().hex().encode()
        except OSError as error:
            raise SessionError(f"cannot read the secret in {source or own}: {error.strerror}") from None
        secret = _decode(text, source or own)
        if not os.path.exists(own):
            self._write("secret", secret.hex().encode())
        return secret

    def write_facts(self, facts: dict[str, Any]) -> None:
        """node.json: how to find this daemon, replaced as a whole."""
        self._write("node.json", json.dumps(facts, indent=1).encode())

    def _write(self, name: str, content: bytes) -> None:
        path = os.path.join(self.path, name)
        new = f"{path}.new"
        fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with open(fd, "wb") as file:
            file.write(content)
        os.replace(new, path)

    def remove(self, keep_logs: bool) -> None:
        """Remove what is in the directory, and the directory itself unless its logs stay. Errors are left
        alone: what a cleaner of temporary files took is gone too.
        """
        if not keep_logs:
            shutil.rmtree(self.path, ignore_errors=True)
            parent = os.path.dirname(self.path)
            if os.path.basename(parent).startswith(ROOT_PREFIX):
                try:
                    os.rmdir(parent)
                except OSError:
                    return  # others have sessions in it
            return
        for name in ("packages", "jobs"):
            shutil.rmtree(os.path.join(self.path, name), ignore_errors=True)
        for name in ("node.sock", "secret", "tls.pem", "node.json"):
            try:
                os.unlink(os.path.join(self.path, name))
            except FileNotFoundError:
                continue


def _decode(text: bytes, source: str) -> bytes:
    """The secret is hexadecimal in its file; raw bytes are taken as they are."""
    if len(text) == SECRET_SIZE:
        return text
    try:
        secret = bytes.fromhex(text.decode("ascii").strip())
    except ValueError:
        secret = b""
    if len(secret) != SECRET_SIZE:
        raise SessionError(f"{source} does not hold a secret of {SECRET_SIZE} bytes")
    return secret

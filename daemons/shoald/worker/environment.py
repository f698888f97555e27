"""Entering a `runtime_env`: what a worker does before it runs the first code of a user. Variables, packages, directory, path.

A worker that was forked for nobody is bound to the environment of its first lease, and gets no other (`node/pool`). Variables
are set as soon as that is known. Packages are unpacked when the first function is loaded, on the main thread, since that may have
to wait for their objects; what goes wrong there is raised in that task, and in every later one of this worker.

A package is unpacked once per node: into a directory of the session named by its content, and made complete before it gets its
name. Beside it is a file with its size, which workers lock: each alone while it makes it, all together while they use it. So what
nobody uses can be told, and goes when all take more than `package_cache_bytes_max`; the rest goes with the session's directory.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
import sys
from io import BytesIO
from typing import TYPE_CHECKING, Any

from shoal.client.environments import packages_of
from shoal.exceptions import RuntimeEnvSetupError, ShoalError
from shoal.refs import ObjectRef

if TYPE_CHECKING:
    from collections.abc import Mapping

    from shoal.client.runtime import Runtime

_VARIABLE = re.compile(r"\$\{(\w+)\}")
_FOLDER = "packages"
_LOCK = ".lock"
_held: list[int] = []  # descriptors of the locks of this worker's packages, for as long as it lives


def set_variables(environment: Mapping[str, Any]) -> None:
    """Set the variables of ``environment`` in this process; "${NAME}" in a value is what NAME was before."""
    before = dict(os.environ)
    for name, value in environment.get("env_vars", {}).items():
        os.environ[name] = _VARIABLE.sub(lambda found: before.get(found[1], ""), value)
    if "PYTHONPATH" in environment.get("env_vars", {}):  # which Python read when the fork server began
        _import_from([path for path in os.environ["PYTHONPATH"].split(os.pathsep) if path])


def enter_packages(runtime: Runtime, environment: Mapping[str, Any]) -> None:
    """Have the packages of ``environment`` on this node, and import from them; the working directory is entered.

    Raises RuntimeEnvSetupError.
    """
    folders = [_unpacked(runtime, key, object_id) for key, object_id in packages_of(environment)]
    _import_from(folders)
    if environment.get("working_dir"):
        os.chdir(folders[0])


def _import_from(folders: list[str]) -> None:
    sys.path[:0] = [folder for folder in folders if folder not in sys.path]


def _unpacked(runtime: Runtime, key: str, object_id: bytes) -> str:
    """The directory of a package, made if this is the first worker of the node that needs it."""
    parent = os.path.join(runtime.identity.session_dir, _FOLDER)
    target = os.path.join(parent, key)
    try:
        os.makedirs(parent, mode=0o700, exist_ok=True)
        lock = os.open(target + _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        _held.append(lock)
        while True:
            fcntl.flock(lock, fcntl.LOCK_SH)
            if os.path.isdir(target):
                return target
            fcntl.flock(lock, fcntl.LOCK_EX)  # it may be made, or removed again, before this returns
            if not os.path.isdir(target):
                _make_room(parent, runtime.config.package_cache_bytes_max)
                _unpack(runtime.values.get(ObjectRef(object_id), None), target)
                os.truncate(lock, 0)
                os.pwrite(lock, str(_size(target)).encode(), 0)
    except (OSError, ShoalError) as error:
        raise RuntimeEnvSetupError(
            f"a package of runtime_env could not be unpacked on node {runtime.identity.node_id}: {error}",
            next_step="check that who submitted it lives, and that the session's disk has room, and submit again",
        ) from error


def _make_room(parent: str, bytes_max: int) -> None:
    """Remove packages that no worker uses, oldest first, until all take at most ``bytes_max``."""
    with os.scandir(parent) as entries:
        locks = sorted((entry.stat().st_mtime, entry.path) for entry in entries if entry.name.endswith(_LOCK))
    sizes = {path: int(_content(path) or 0) for _, path in locks}
    total = sum(sizes.values())
    for _, path in locks:
        if total <= bytes_max:
            return
        with open(path, "r+b") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue  # in use
            shutil.rmtree(path.removesuffix(_LOCK), ignore_errors=True)
            lock.truncate(0)
            total -= sizes[path]


def _content(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()


def _size(folder: str) -> int:
    return sum(
        os.lstat(os.path.join(where, name)).st_size for where, _, names in os.walk(folder) for name in names
    )


def _unpack(content: bytes, target: str) -> None:
    import zipfile  # 0.4 MB that workers without packages do without

    making = f"{target}.part"
    with contextlib.suppress(FileNotFoundError):  # of a worker that was killed meanwhile
        shutil.rmtree(making)
    try:
        with zipfile.ZipFile(BytesIO(content)) as archive:
            archive.extractall(making)
            for entry in archive.infolist():  # which the library forgets
                mode = entry.external_attr >> 16 & 0o777
                if mode and not entry.is_dir():
                    os.chmod(os.path.join(making, entry.filename), mode)
    except zipfile.BadZipFile as error:
        raise OSError(f"it is no archive: {error}") from error
    os.makedirs(making, exist_ok=True)  # of an empty archive
    os.rename(making, target)

"""Folders that one worker of a node makes and all use: unpacked packages, installed environments. Side by side in one directory.

    NAME         the folder
    NAME.lock    locked by all workers that use the folder, or are about to, for as long as they live; has its size when complete
    NAME.making  locked by the one that makes it

So a folder is complete exactly if its lock has a size. What was left half-made, by a worker that was killed, nobody locks: it
is removed as soon as anything else is made, or made again by who needs it. What nobody uses goes when all take more than a
bound, least recently used first. Two locks, since one cannot be turned from shared into exclusive in one step: two workers that
both used it, and found it missing, would wait for each other.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

LOCK, _MAKING = ".lock", ".making"
_LOOK_S = 0.02
_held: list[int] = []  # descriptors of the locks of what this worker uses, for as long as it lives


def used_folder(
    target: str, bytes_max: int, make: Callable[[str], None], wait: Callable[[], None] | None = None
) -> str:
    """``target``, complete, and kept for as long as this process lives.

    Args:
        bytes_max: of all folders beside it; others that nobody uses go before this one is made.
        make: fills the directory of that path, which is not there yet. Nothing is left of it if it raises.
        wait: called again and again while another worker makes it; may raise.

    Raises OSError, and what ``make`` and ``wait`` raise.
    """
    os.makedirs(os.path.dirname(target), mode=0o700, exist_ok=True)
    lock = os.open(target + LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_SH)  # waits for who removes it, for a moment
        if not _complete(lock, target):
            with _maker(target, wait or _nothing):
                if not _complete(lock, target):
                    _make(lock, target, bytes_max, make)
        os.utime(lock)
    except BaseException:
        os.close(lock)
        raise
    _held.append(lock)
    return target


def hold(target: str) -> None:
    """Keep ``target`` for as long as this process lives, which runs from it. Raises FileNotFoundError if it has gone."""
    lock = os.open(target + LOCK, os.O_RDWR | os.O_CLOEXEC)
    fcntl.flock(lock, fcntl.LOCK_SH)
    if not _complete(lock, target):
        os.close(lock)
        raise FileNotFoundError(f"{target} was removed")
    _held.append(lock)


def _nothing() -> None:
    """Nobody looks."""


def _complete(lock: int, target: str) -> bool:
    return os.fstat(lock).st_size > 0 and os.path.isdir(target)


@contextlib.contextmanager
def _maker(target: str, wait: Callable[[], None]) -> Iterator[None]:
    making = os.open(target + _MAKING, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        while True:
            try:
                fcntl.flock(making, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                wait()
                time.sleep(_LOOK_S)
        yield
    finally:
        os.close(making)


def _make(lock: int, target: str, bytes_max: int, make: Callable[[str], None]) -> None:
    os.truncate(lock, 0)
    make_room(os.path.dirname(target), bytes_max)
    if os.path.lexists(target):  # of a worker that was killed meanwhile
        shutil.rmtree(target)
    try:
        make(target)
        os.pwrite(lock, str(_size(target)).encode(), 0)
    except BaseException:
        shutil.rmtree(target, ignore_errors=True)
        raise


def make_room(parent: str, bytes_max: int) -> None:
    """Remove what is half-made, and what no worker uses, least recently used first, until all take at most ``bytes_max``."""
    with os.scandir(parent) as entries:
        locks = sorted((entry.stat().st_mtime, entry.path) for entry in entries if entry.name.endswith(LOCK))
    sizes = {path: _noted_size(path) for _, path in locks}
    total = sum(size or 0 for size in sizes.values())
    for _, path in locks:
        size = sizes[path]
        if size is not None and total <= bytes_max:
            continue
        with open(path, "r+b") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue  # in use, or being made
            lock.truncate(0)
            shutil.rmtree(path.removesuffix(LOCK), ignore_errors=True)
            total -= size or 0


def _noted_size(path: str) -> int | None:
    """None of a folder that is not complete."""
    with open(path, "rb") as file:
        content = file.read()
    return int(content) if content else None


def _size(folder: str) -> int:
    return sum(
        os.lstat(os.path.join(where, name)).st_size for where, _, names in os.walk(folder) for name in names
    )

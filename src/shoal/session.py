"""The session of this process: which runtime `shoal.get` and the others use. A driver's is made by init, a worker's is given."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, NoReturn

from shoal import refs

if TYPE_CHECKING:
    from collections.abc import Callable

    from shoal.client.runtime import Runtime

_runtime: Runtime | None = None
_start: Callable[[], object] | None = None


def on_first_use(start: Callable[[], object]) -> None:
    """What to call when the API is used before init."""
    global _start
    _start = start


def adopt(runtime: Runtime | None) -> None:
    """Make ``runtime`` this process's (None: there is none any more)."""
    global _runtime
    _runtime = runtime


def current() -> Runtime | None:
    """The running session's runtime, or None."""
    return _runtime


def runtime() -> Runtime:
    """The running session's runtime; starts a local cluster if there is none.

    Raises RuntimeError in a process that was forked from one with a session: its sockets belong to the parent.
    """
    if _runtime is None:
        if _start is None:
            raise RuntimeError("no shoal session in this process; call shoal.init()")
        _start()
        return runtime()
    return _runtime


def _after_fork() -> None:
    global _runtime
    if _runtime is not None:
        _runtime = None
        refs.released.clear()
        on_first_use(refuse_forked)


def refuse_forked() -> NoReturn:
    """What the API does in a child of a process with a session: RuntimeError."""
    raise RuntimeError(
        f"process {os.getpid()} was forked from one with a shoal session; shoal calls work only in the parent. "
        "Use tasks instead of multiprocessing, or start the child with the 'spawn' method and call shoal.init(address)"
    )


os.register_at_fork(after_in_child=_after_fork)
refs.session.runtime = runtime

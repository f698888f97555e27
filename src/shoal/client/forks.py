"""Fork in user code (multiprocessing in a task, os.fork in a driver): views stay valid in the child, the session does not.

The child's arrays lie over the same shared memory. So what was read when it was forked stays pinned until the child is gone:
before the fork the daemon gets (FORK) the read end of a pipe whose write end only the child keeps, and its children. The pipe is
closed by exec, which ends the mappings too. Where there is no pipe to be had, they stay pinned until this process ends, and that
is said.

The sockets belong to the parent: the child closes its copies, without a word on them or on the epoll that it shares with the
parent, and every use of shoal in it raises. The runtime's lock is taken over the fork, so the child does not start
with tables that another thread was changing.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, NoReturn

from shoal import session
from shoal.store.filecopies import mapped_files
from shoal.wire import messages as m

if TYPE_CHECKING:
    from shoal.client.runtime import Runtime
    from shoal.store.filecopies import Pages


class _Fork:
    """A fork that is under way; one at a time, since the runtime's lock is held."""

    runtime: Runtime | None = None
    write_end: int | None = None
    installed = False
    in_child = False


_fork = _Fork()
_kept: list[int] = []  # in a child: the pipes that say that it lives
_kept_files: list[Pages] = []  # mappings that children have, for whom there was no pipe


def _before() -> None:
    runtime = session.current()
    if runtime is None or runtime.closed or runtime.pid != os.getpid():
        return
    if not runtime.lock.acquire(timeout=runtime.config.control_ms_max / 1000):
        raise RuntimeError("a fork inside of the runtime's own code: views in the child are not protected")
    _fork.runtime = runtime
    runtime.store.drain()
    if has_views(runtime):
        try:
            _fork.write_end = keep_what_is_read(runtime)
        except OSError as error:
            _keep_for_good(runtime, error)


def has_views(runtime: Runtime) -> bool:
    """Whether this process may look at anything of the store, or at a spill file (lock held)."""
    return bool(runtime.store.pins.live() or mapped_files)


def keep_what_is_read(runtime: Runtime) -> int:
    """Have what this process may look at now stay as it is until the descriptor that is returned is closed everywhere.

    Lock held. Raises OSError if there is no descriptor to be had.
    """
    read_end, write_end = os.pipe()
    try:
        runtime.table.to_node([m.FORK])
        runtime.node.send_with_descriptor(runtime.table.take_node_messages(), read_end)
    except BaseException:
        os.close(write_end)
        raise
    finally:
        os.close(read_end)
    return write_end


def _keep_for_good(runtime: Runtime, error: OSError) -> None:
    """Nothing can tell when the child ends: what it has views of is not let go of while this process lives."""
    files = list(mapped_files.values())
    _kept_files.extend(files)
    kept = runtime.store.pins.keep_live() + len(files)
    runtime.report(
        f"no pipe for the child that is forked now ({error.strerror}): the {kept} stored object(s) that it may read stay in the "
        f"store until this process, {os.getpid()}, ends, and the child must not read them after that; "
        "allow more open files (ulimit -n)"
    )


def _in_parent() -> None:
    runtime, write_end = _fork.runtime, _fork.write_end
    _fork.runtime = _fork.write_end = None
    if write_end is not None:
        os.close(write_end)
    if runtime is not None:
        runtime.lock.release()


def _in_child() -> None:
    runtime, write_end = _fork.runtime, _fork.write_end
    _fork.runtime = _fork.write_end = None
    if write_end is not None:
        _kept.append(write_end)
    if runtime is not None:
        _fork.in_child = True
        runtime.lock.release()
        runtime.closed = True
        runtime.lost_reason = "this process was forked from one with a session"
        runtime.reactor.forked(_refuse_to_wait)
        runtime.packer.close()


def _refuse_to_wait(*_: Any) -> NoReturn:
    """A child has nothing to wait for, nor a task to go back to."""
    session.refuse_forked()


def in_child() -> bool:
    """Whether this is a child of a process with a session, or a child's child."""
    return _fork.in_child


def install() -> None:
    """Be called at every fork of this process; again changes nothing."""
    if not _fork.installed:
        _fork.installed = True
        os.register_at_fork(before=_before, after_in_parent=_in_parent, after_in_child=_in_child)

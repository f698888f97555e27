"""An actor that goes on elsewhere, since its node drains: what its process does before it ends.

From the moment it is told (EXIT [True]) it begins no call. Callers hear which calls are not begun here (NOT_BEGUN); all that run
end and are answered, on the main thread, in threads, or on the loop; then the process says `LEFT` with its status word, and ends.
The daemon, which tells the callers, and then finds the actor another place, has patience for `drain_ms_max`. After that it kills
the process: the calls that it has cut off are in doubt, and only those.

A process that could not send all its answers does not say `LEFT`: what its callers have not heard may have run. One that says it
has handed all to the kernel, and what of that arrives is for each caller to judge, by how its connection ends
(`ActorCalls.known`). So the process ends each connection itself: else the kernel would reset those of callers that go on sending.
That all has arrived on other machines is waited for, in bounds, since callers wait for what is late only so long.
"""

from __future__ import annotations

import array
import contextlib
import fcntl
import select
import socket
import termios
from time import perf_counter, sleep
from typing import TYPE_CHECKING, Any, NamedTuple

from shoal.wire import messages as m

if TYPE_CHECKING:
    from collections import deque
    from collections.abc import Callable

    from shoal.client.connection import Connection
    from shoal.client.runtime import Runtime
    from shoald.worker.callers import Caller, Callers

    Call = tuple[Caller, tuple[Any, ...]]

_UNSENT_S = 1.0  # what was answered before an intended end is waited for this long
_ARRIVAL_S = 0.25  # and then that the machines of callers have it
_LOOK_S = 0.01


class WaysOut(NamedTuple):
    """What an actor's lanes do when it leaves.

    Attributes:
        not_begun: gives calls back.
        idle: no call runs any more, and all that did are answered.
    """

    not_begun: Callable[[list[Call]], None]
    idle: Callable[[], None]


def take_all(calls: deque[Call]) -> list[Call]:
    """Empty ``calls``, from which another thread may take some meanwhile."""
    taken = []
    with contextlib.suppress(IndexError):
        while True:
            taken.append(calls.popleft())
    return taken


def give_back(calls: list[Call]) -> None:
    """Queue what callers are to hear of calls that are for the next process (lock held)."""
    ids: dict[Caller, list[bytes]] = {}
    for caller, message in calls:
        ids.setdefault(caller, []).append(message[1])
    for caller, task_ids in ids.items():
        caller.replies.append((m.NOT_BEGUN, task_ids))


def flush_out(runtime: Runtime, callers: Callers, *, arrival: bool = False) -> bool:
    """Wait until all that was said to callers and daemon is sent, for some time; whether it is, and no caller was away.

    Callers to whom all was sent see the end: nothing can be said to them any more. With ``arrival``, that it reaches their
    machines is waited for too, but does not count.
    """
    deadline = perf_counter() + _UNSENT_S
    connections: list[Connection] = [each.connection for each in callers if each.connection is not None]
    connections.append(runtime.node.connection)
    while any(each.out_bytes for each in connections) and (left_s := deadline - perf_counter()) > 0:
        _await_room(connections, left_s)
        with runtime.lock:
            for each in connections:
                if each.waits_for_kernel:
                    each.writable()
    with runtime.lock:  # callers that see the end go away, as they should
        away = any(each.connection is None and each.unheard for each in callers)
        sent = not away and not any(each.out_bytes for each in connections)
        for each in connections[:-1]:
            if not each.out_bytes:
                each.send_end()
    if arrival:
        _await_arrival(connections[:-1])
    return sent


def _await_room(connections: list[Connection], wait_s: float) -> None:
    """Wait until the kernel takes more for one of these; only briefly if one waits for something else, or is lost."""
    poll = select.poll()
    waiting = [each for each in connections if each.waits_for_kernel]
    for each in waiting:
        poll.register(each.fd, select.POLLOUT)
    if len(waiting) < sum(each.out_bytes > 0 for each in connections):
        wait_s = min(wait_s, _LOOK_S)
    if any(mask & ~select.POLLOUT for _, mask in poll.poll(wait_s * 1000)):
        sleep(_LOOK_S)


def _await_arrival(connections: list[Connection]) -> None:
    """Wait, for some time, until other machines have acknowledged all that was sent to them, and the end."""
    deadline = perf_counter() + _ARRIVAL_S
    while any(unacknowledged(each) for each in connections) and perf_counter() < deadline:
        sleep(_LOOK_S)  # the kernel does not tell


def unacknowledged(connection: Connection) -> int:
    """Bytes, the end included, that the kernel has taken for another machine, and of which it cannot tell that they arrived."""
    if connection.closed or connection.sock.family == socket.AF_UNIX:
        return 0
    waiting = array.array("i", [0])
    with contextlib.suppress(OSError):  # it is lost
        fcntl.ioctl(connection.fd, termios.TIOCOUTQ, waiting)
    return waiting[0]

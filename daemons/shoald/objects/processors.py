"""On which processors the threads that move chunks run, where source and reader are on one machine.

There a chunk is in the processor's cache all the way if its sender is never far ahead (`sockets.keep_close`), so sender and
receiver take turns hundreds of times for each. On one processor a turn costs next to nothing; between two it wakes a processor
that had just gone to sleep, and the kernel, which sees little of threads that sleep so often, leaves all of them on one while
another has nothing to do. So receivers of one node keep off each other's processors, and a sender goes where its request came
from. 200 MB to a hundred tasks on the other node, two processors: 54 ms before, 42 (35 to 60) with small buffers, 38 with this
too; beside one process that computes 83, 74 and 48.

A receiver is free to go anywhere again when it has nothing to do; a sender waits where it was last. Neither leaves the processors
that the daemon's main thread may use. Where the system has no such calls, or forbids them, nothing is done.
"""

from __future__ import annotations

import os
import socket
import threading

from shoal.processors import POSSIBLE, confine, current

_POSSIBLE = POSSIBLE and hasattr(socket, "SO_INCOMING_CPU")


class Receivers:
    """The threads of one node that receive from nodes on the same machine. From any thread."""

    def __init__(self) -> None:
        self._places: dict[int, int] = {}  # thread → the processor that it was seen on last

    def settle(self) -> None:
        """Before a chunk: keep this thread off the processors of the others, or share those that fewest of them are on."""
        if not _POSSIBLE:
            return
        me = threading.get_ident()
        self._places[me] = current()
        others = [place for thread, place in tuple(self._places.items()) if thread != me]
        allowed = _allowed()
        free = allowed.difference(others)
        if not free and allowed:
            fewest = min(map(others.count, allowed))
            free = {place for place in allowed if others.count(place) == fewest}
        confine(free)
        self._places[me] = current()

    def leave(self) -> None:
        """This thread has nothing to do."""
        if self._places.pop(threading.get_ident(), None) is not None:
            confine(_allowed())


def follow(sock: socket.socket) -> None:
    """Have this thread, which is about to answer on ``sock``, run where the peer ran when it asked."""
    if _POSSIBLE:
        place = sock.getsockopt(socket.SOL_SOCKET, socket.SO_INCOMING_CPU)
        if place in _allowed():
            confine({place})


def _allowed() -> set[int]:
    """What the main thread may use: nobody has confined it here."""
    return os.sched_getaffinity(os.getpid())

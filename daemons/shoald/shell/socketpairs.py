"""The sockets between a submitter and its worker.

With the kernel's usual buffer (208 KiB, of which a message of 80 KB takes nearly half) a worker stops to be read, and to be
written to, every few tasks: then the bytes wait in the process, and for a turn of whoever looks at its sockets. A larger one
lets both go on; it is a limit, and takes memory only while bytes wait in it.
"""

from __future__ import annotations

import contextlib
import socket


def task_pair(unread_bytes: int) -> tuple[socket.socket, socket.socket]:
    """A pair of which either end may send ``unread_bytes`` ahead of its reader, or as many as this machine allows.

    Raises OSError, and leaves nothing, if there are no descriptors for it.
    """
    ends = socket.socketpair()
    for end in ends:
        with contextlib.suppress(
            OSError
        ):  # some kernels refuse what is above their limit: the usual size does too
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, unread_bytes)
    return ends

"""The end of a process that is no child of this one, told once. Decides nothing.

What a process has mapped may be reused when this says that it is gone. So where there is no descriptor to be had for watching it,
that is tried again; only where the platform cannot watch, or does not know the process, its end is taken for granted.
"""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from shoald.shell.loop import Loop

_NOT_NOW = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM})
_AGAIN_S = 0.5


def when_ended(loop: Loop, pid: int, then: Callable[[], None]) -> None:
    """Have ``then`` called once process ``pid`` has ended; at once if it has, or if that cannot be known."""
    try:
        fd = os.pidfd_open(pid)
    except OSError as error:
        if error.errno in _NOT_NOW:
            loop.call_later(_AGAIN_S, lambda: when_ended(loop, pid, then))
        else:
            then()
        return
    except AttributeError:
        then()
        return

    def ended() -> None:
        loop.remove_reader(fd)
        os.close(fd)
        then()

    loop.add_reader(fd, ended)

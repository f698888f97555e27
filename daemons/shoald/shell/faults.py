"""Faults of the daemon itself, for people: each kind with its traceback once, then only how often it came.

A kind is where it was met, its type and the line that raised it. A fault that comes with every turn would fill the log
otherwise: after the first it is said again at the 2nd, 4th, 8th … time, in one line. What there is no memory to say is said
when the next of its kind comes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from shoald.shell.daemonlog import DaemonLog

    Kind = tuple[str, str, str, int]


class Faults:
    """The faults of one daemon, by kind.

    Args:
        kinds_max: kinds that are remembered; one more, and the oldest is forgotten.
    """

    def __init__(self, log: DaemonLog, kinds_max: int) -> None:
        self._log = log
        self._kinds_max = kinds_max
        self._counts: dict[Kind, int] = {}

    def met(self, where: str, error: BaseException) -> None:
        """A fault that nobody is to be told of but people; the daemon goes on."""
        kind = (where, type(error).__name__, *_place(error))
        count = self._counts.get(kind, 0) + 1
        try:
            if count == 1:
                self._log.fault(where, error)
                if len(self._counts) >= self._kinds_max:
                    del self._counts[next(iter(self._counts))]
            elif count & (count - 1) == 0:
                self._log.line(f"fault {where}, for the {count}th time: {type(error).__name__}: {error}")
            self._counts[kind] = count
        except MemoryError:
            self._counts.pop(kind, None)


def _place(error: BaseException) -> tuple[str, int]:
    """Where it was raised: file and line."""
    trace = error.__traceback__
    if trace is None:
        return "", 0
    while trace.tb_next is not None:
        trace = trace.tb_next
    return trace.tb_frame.f_code.co_filename, trace.tb_lineno

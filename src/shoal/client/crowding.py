"""Whether other work wants the processors that this process polls on: a pure core (R6), on which the reactor's waits depend.

A thread that polls yields the processor between two looks. A yield that takes long has given it to somebody; one that takes
longer than a peer that answers has given it to other work. Where that happens a lot the machine is crowded, and sleeping is
better than polling: the end of a sleep preempts such work. Beside fourteen busy processes on two processors: 2,000 -> 3,500
calls/s, 180 -> 95 us of processor time each. (A poll in vain says nothing: two peers that sleep are kept on one
processor, where an answer takes longer than the poll; with the other one idle, sleeping after these halved the calls.)

One long yield is not a crowd: everywhere something runs for a millisecond now and then, and if each such moment led to sleep,
and those a second apart to longer and longer sleep, then calls took half as long again for good (31,000 -> 20,000/s, in every
third process). So what is lost to others counts by its share of the time.
"""

from __future__ import annotations

LOST_S = 0.00005  # a yield that took so long was lost to others
_FOREIGN_S = 0.0005  # and this one not to a peer that answers
# What may be lost: a share of the time, and so much at once. Measured: one process that polls with its peer loses 1 to 2 %,
# two such pairs 14 to 27 % on two processors, and one pair beside a busy process 9 to 24 %.
_LOST_SHARE, _LOST_S_MAX = 0.05, 0.005
# For how long waits sleep at once; longer, the more often polling is found to be no good when it is tried again.
_SLEEPY_S_MIN, _SLEEPY_S_MAX, _TRIES = 0.02, 1.0, 10


class Crowding:
    """What one process knows of its competitors.

    Attributes:
        sleepy_until: until then waits are to sleep at once.
    """

    __slots__ = ("_lost_at", "_lost_s", "_sleepy_s", "sleepy_until")

    def __init__(self) -> None:
        self.sleepy_until = 0.0
        self._sleepy_s = _SLEEPY_S_MIN
        self._lost_s = 0.0
        self._lost_at = 0.0

    def lost(self, now: float, took_s: float) -> bool:
        """A yield that ended ``now`` took LOST_S or more; whether the machine is found crowded, and `sleepy_until` is set."""
        left = self._lost_s - _LOST_SHARE * (now - self._lost_at)
        self._lost_s = took_s + max(left, 0.0)
        self._lost_at = now
        if took_s < _FOREIGN_S or self._lost_s < _LOST_S_MAX:
            return False
        if now - self.sleepy_until > _TRIES * self._sleepy_s:
            self._sleepy_s = _SLEEPY_S_MIN
        else:
            self._sleepy_s = min(2 * self._sleepy_s, _SLEEPY_S_MAX)
        self.sleepy_until = now + self._sleepy_s
        return True

"""The callers of an actor, across their connections: a pure core (R6).

    CONNECTED ⇄ PARKED (the connection is closed) → forgotten (it said goodbye, began anew, or stayed away too long)
    any → forgotten (the daemon says that it is gone)

A caller that has lost its connection comes back with how many frames of replies it has heard, and learns how many calls were
received from it: it sends the others again, and is sent the frames that it has not heard. So no call is lost with a
connection, and none runs twice. Calls of a parked caller that have not started are held: usually it has died, and
nobody wants them any more.

What goes over one connection after the other is a *session*, numbered by the caller. One that this actor has never heard of
is one of which nothing arrived. One that it has forgotten, though its caller may live (it stayed away too long; or its node was
believed dead, and was cut off), is over: every RESUME of it is answered with UNKNOWN, over a connection that is then closed, and
the caller begins another session. No caller is kept for it: of two RESUMEs the second would be taken for one of that. The
connection of one that is forgotten is reset: should it live, and the actor leave before it comes back, an end in order
would mean to it that all calls without an answer never began.

Invariants: `received` counts every call that was ever taken from the caller, in the order in which it submitted them; a frame
is kept until the caller says that it has heard it. It says so often (`actor_frames_unheard_max`), and can have only so
many calls under way: that bounds what is kept.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

UNKNOWN = -1  # in RESUMED: this actor has forgotten the session


class Caller:
    """One process that calls.

    Attributes:
        session: number of the present one.
        connection: to it, opaque here; None while it is parked.
        replies: messages for it that are not in a frame yet.
        received: how many calls came from it.
        held: its calls that wait until it comes back: (caller, message), in order.
    """

    __slots__ = (
        "_first",
        "_frames",
        "connection",
        "held",
        "parked_at",
        "proc",
        "received",
        "replies",
        "session",
    )

    def __init__(self, proc: bytes, session: int) -> None:
        self.proc = proc
        self.session = session
        self.connection: Any = None
        self.replies: list[tuple[Any, ...]] = []
        self.received = 0
        self.held: list[tuple[Caller, tuple[Any, ...]]] = []
        self.parked_at: float | None = None
        self._frames: deque[bytes] = deque()
        self._first = 1  # number of the first frame in `_frames`

    def keep(self, data: bytes) -> None:
        """A frame of replies is about to be sent, or would be if there were a connection."""
        self._frames.append(data)

    def heard(self, count: int) -> None:
        """The caller has heard the first ``count`` frames; raises ValueError if there were not that many."""
        if not self._first - 1 <= count <= self._first - 1 + len(self._frames):
            raise ValueError(f"{count} frames heard of {self._first - 1 + len(self._frames)}")
        while self._first <= count:
            self._frames.popleft()
            self._first += 1

    @property
    def unheard(self) -> list[bytes]:
        """The frames that it may not have heard, in order."""
        return list(self._frames)


class Callers:
    """All callers of one actor.

    Args:
        stay_s: how long a parked caller is remembered; parked_max: how many are, and how many forgotten sessions. Beyond,
            any session that is not known may be one that was forgotten.
    """

    def __init__(self, stay_s: float, parked_max: int) -> None:
        self._stay_s = stay_s
        self._parked_max = parked_max
        self._callers: dict[bytes, Caller] = {}
        self._parked: dict[bytes, Caller] = {}  # in the order in which they left
        self._strays: OrderedDict[bytes, int] = OrderedDict()  # process → its session that was forgotten
        self._forgot_strays = False

    def __iter__(self) -> Iterator[Caller]:
        return iter(self._callers.values())

    def get(self, proc: bytes) -> Caller | None:
        """The caller ``proc``, parked or not."""
        return self._callers.get(proc)

    def is_late(self, proc: bytes, session: int, begins: bool) -> bool:
        """Whether a connection that opens with these is older than what is known of its caller; ``begins``: with JOB.

        Connections have no order between each other: one that was given up already may be read after the one that took its
        place, and what it carries is on its way again.
        """
        known = self._callers.get(proc)
        last = known.session if known is not None else self._strays.get(proc, 0)
        return session < last or (begins and session == last)

    def begins(self, proc: bytes, session: int, connection: Any) -> Caller:
        """A new session; that of before, if there is any, was forgotten by `forget`."""
        caller = self._callers[proc] = Caller(proc, session)
        caller.connection = connection
        return caller

    def resumes(self, caller: Caller, connection: Any, heard: int) -> None:
        """A known caller goes on with its session; raises ValueError, and changes nothing, if it cannot have heard that much."""
        caller.heard(heard)
        self._parked.pop(caller.proc, None)
        caller.parked_at = None
        caller.connection = connection

    def received_of_unknown(self, proc: bytes, session: int, heard: int) -> int:
        """How many calls came in a session that is not known: none, unless it may have been forgotten."""
        forgotten = self._forgot_strays or session <= self._strays.get(proc, 0)
        return UNKNOWN if heard or forgotten else 0

    def left(self, proc: bytes) -> Caller | None:
        """The daemon says that a caller is gone, which is to be forgotten; None if it is not known."""
        caller = self._callers.get(proc)
        if caller is not None:
            self._strays_off(caller)
        return caller

    def _strays_off(self, caller: Caller) -> None:
        """It is about to be forgotten, and may come back."""
        if caller.received:
            self._strays[caller.proc] = caller.session
            if len(self._strays) > self._parked_max:
                self._strays.popitem(last=False)
                self._forgot_strays = True

    def parks(self, caller: Caller, now: float) -> list[Caller]:
        """Its connection is closed. Returns callers to forget, since too many are parked."""
        caller.connection = None
        caller.parked_at = now
        self._parked[caller.proc] = caller
        surplus = list(self._parked.values())[: max(0, len(self._parked) - self._parked_max)]
        for gone in surplus:
            self._strays_off(gone)
        return surplus

    def overdue(self, now: float) -> list[Caller]:
        """Callers to forget, since they have stayed away too long."""
        late = []
        for caller in self._parked.values():
            if caller.parked_at is None or now - caller.parked_at < self._stay_s:
                break
            late.append(caller)
            self._strays_off(caller)
        return late

    def forget(self, caller: Caller) -> None:
        """Nothing is known of it any more; idempotent."""
        if self._callers.get(caller.proc) is caller:
            del self._callers[caller.proc]
            self._parked.pop(caller.proc, None)
        caller.held.clear()
        caller.replies.clear()

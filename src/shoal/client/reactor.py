"""Whoever waits, reads: leader and followers around one epoll.

A thread that waits for something takes the lead if nobody has it: it polls for some tens of microseconds, yielding the
processor between looks, and only then blocks (at once on a crowded machine). Other waiting threads sleep on a lock
of their own and are woken when their condition holds, or to take the lead over. A backup thread leads when nobody waits
(results and questions arrive while user code runs), a tick after the last leader has left.

A thread that takes the lead from the sleeping backup rings the bell, an eventfd: one system call, safe in signal
handlers and in `__del__`. Wake-ups are idempotent.

Nobody may sleep where nobody leads: whoever sleeps says so first and then looks again, and whoever leaves looks after
the sleepers. A wait on top of a wait (in a signal handler, or in a `__del__` that interrupts the leader) leads in its place.

Not responsible for what messages mean: connections hand frames to their owners with the runtime's lock held.
"""

from __future__ import annotations

import contextlib
import os
import select
import threading
import traceback
from time import monotonic
from typing import TYPE_CHECKING, Protocol

from shoal.client.crowding import LOST_S, Crowding
from shoal.wire.frames import BrokenFrame

if TYPE_CHECKING:
    from collections.abc import Callable

    from shoal.client.connection import Connection

_EVENTS_MAX = 32
_QUIET_TICKS = 5  # ticks without activity before the backup thread parks
_PARK_S = 30.0
# So many turns in a tick, and whoever leads has nothing that runs long, nor leaves anything unsent for long: the backup looks
# only once in so many ticks then, since each look takes the GIL from it.
_BUSY_TURNS = 8
_UNSEEN_MAX = 7
_LAST_READS_MAX = 1000  # of a peer that has ended: more than its socket holds
_LEAVE_S = 5.0  # how long `stop` waits for whoever leads
_AFTER_ERROR_S = 1.0
_sched_yield = os.sched_yield


class Awaited(Protocol):
    """What a thread waits for. `ready` changes with the runtime's lock held; `wake` belongs to the reactor."""

    wake: object

    @property
    def ready(self) -> bool: ...


class Reactor:
    """The sockets of one process, and the threads that take turns at reading them.

    Args:
        lock: the runtime's lock; held while frames are handled and outboxes are flushed.
        flush: writes out what is queued; called with the lock held.
        tick: periodic work (with the lock held): given the time in s, says after how many s it wants to run again.
    """

    def __init__(
        self,
        lock: threading.RLock,
        flush: Callable[[], None],
        tick: Callable[[float], float | None],
        poll_s: float,
        tick_s: float,
        report: Callable[[str], None],
    ) -> None:
        self._lock = lock
        self._flush = flush
        self._tick = tick
        self._poll_s = poll_s
        self._tick_s = tick_s
        self._report = report
        self._epoll = select.epoll()
        self._bell = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._epoll.register(self._bell, select.EPOLLIN)
        self._connections: dict[int, Connection] = {}
        self._lost: list[Connection] = []
        self._lead = threading.Lock()
        self._leader = 0  # which thread has it
        self._followers: list[Awaited] = []
        self.turns = 0  # how often somebody led; the backup compares
        self._backup_leads = False
        self._nudges = 0
        self._asleep = False  # the backup is parked, or blocks as the leader
        self._claims: list[object] = []  # one of each thread that wants the lead from the backup
        self._crowding = Crowding()
        self._tick_at = 0.0  # what comes with time is not looked at again before
        self._unseen = 0
        self._awaits = (
            0  # things awaited without a thread that waits (futures): the backup does not pause then
        )
        self._stopping = False
        self._nap = threading.Lock()
        self._nap.acquire()
        self._backup = threading.Thread(target=self._run_backup, name="shoal-backup", daemon=True)

    # --- connections (lock held) ---

    def register(self, connection: Connection) -> None:
        """Read ``connection`` from now on."""
        self._connections[connection.fd] = connection
        self._epoll.register(connection.fd, select.EPOLLIN)

    def unregister(self, connection: Connection) -> None:
        """Stop reading it; before its socket is closed."""
        if self._connections.get(connection.fd) is connection:
            del self._connections[connection.fd]
            with contextlib.suppress(OSError, ValueError):  # the epoll may be closed already, at shutdown
                self._epoll.unregister(connection.fd)

    def want_write(self, connection: Connection, wanted: bool) -> None:
        """Tell when ``connection`` can be written."""
        self._epoll.modify(connection.fd, select.EPOLLIN | (select.EPOLLOUT if wanted else 0))
        if wanted and self._backup_leads:
            self.ring()

    def lost(self, connection: Connection) -> None:
        """A send failed: the leader will report the loss."""
        self._lost.append(connection)
        self.ring()

    # --- bell ---

    def ring(self) -> None:
        """Wake whoever sleeps in the epoll. Safe anywhere."""
        with contextlib.suppress(OSError, ValueError):  # already ringing, or closed at shutdown
            os.eventfd_write(self._bell, 1)

    def nudge(self) -> None:
        """Something is queued: have the backup look soon, if it sleeps and nobody leads."""
        if self._asleep:
            self._asleep = False
            self._nudges += 1
            if self._backup_leads:
                self.ring()
            else:
                self._wake_nap()

    def await_begins(self) -> None:
        """Something is awaited without a thread that waits: the backup reads it at once (lock held)."""
        self._awaits += 1
        self._wake_nap()

    def await_ends(self) -> None:
        """It is there, or nobody awaits it any more (lock held)."""
        self._awaits -= 1

    def _wake_nap(self) -> None:
        with contextlib.suppress(RuntimeError):  # awake already
            self._nap.release()

    # --- waiting ---

    def wait(
        self, awaited: Awaited, timeout_s: float | None, on_block: Callable[[], bool] | None = None
    ) -> bool:
        """Read until ``awaited`` is ready; whether it is (False: time is up).

        ``on_block`` runs once before the thread sleeps for longer than it would poll; if it returns True, the wait ends (the
        caller found other work). A KeyboardInterrupt leaves everything consistent.
        """
        deadline = None if timeout_s is None else monotonic() + timeout_s
        try:
            while not awaited.ready and not self._stopping:
                if self._lead.acquire(blocking=False):
                    if self._lead_once(awaited, deadline, on_block):
                        break
                elif self._leader == threading.get_ident():
                    if self._lead_until(awaited, deadline, on_block):
                        break
                elif self._backup_leads:
                    self._take_over()
                elif on_block is not None:
                    soon = monotonic() + self._poll_s
                    if not self._follow(awaited, soon if deadline is None else min(soon, deadline)):
                        block, on_block = on_block, None
                        if block():
                            break
                        with self._lock:
                            self._flush()
                elif not self._follow(awaited, deadline):
                    break
        except (OSError, ValueError):
            if not self._stopping:  # a handler that ran on top of this wait has closed everything
                raise
        finally:
            # Perhaps this thread was woken to take the lead, and does not need it any more.
            if self._followers and not self._lead.locked():
                self._pass_on()
        return awaited.ready

    def _lead_once(
        self, awaited: Awaited, deadline: float | None, on_block: Callable[[], bool] | None
    ) -> bool:
        """Lead, with the lead acquired, and pass it on."""
        try:
            self._leader = threading.get_ident()
            return self._lead_until(awaited, deadline, on_block)
        finally:
            self._leader = 0
            self._lead.release()
            self._pass_on()

    def _take_over(self) -> None:
        claim = object()
        try:
            self._claims.append(claim)
            self.ring()
            self._wake_nap()
            if self._lead.acquire(timeout=0.05):
                self._lead.release()
        finally:
            if claim in self._claims:
                self._claims.remove(claim)

    def _lead_until(
        self, awaited: Awaited, deadline: float | None, on_block: Callable[[], bool] | None
    ) -> bool:
        """Lead; True: stop waiting (ready, time is up, or other work)."""
        poll, crowding = self._epoll.poll, self._crowding
        with self._lock:
            self._flush()
        now = monotonic()
        poll_until = now + self._poll_s
        while not awaited.ready and not self._stopping:
            events = poll(0, _EVENTS_MAX)
            if events:
                self._handle(events)
                now = monotonic()
                poll_until = now + self._poll_s
                continue
            if now >= crowding.sleepy_until:
                _sched_yield()
                before, now = now, monotonic()
                crowded = now - before >= LOST_S and crowding.lost(now, now - before)
                if not crowded and now < poll_until and (deadline is None or now < deadline):
                    continue
            if deadline is not None and now >= deadline:
                return True
            if on_block is not None:
                block, on_block = on_block, None
                if block():
                    return True
                with self._lock:
                    self._flush()
                continue
            self._sleep(deadline, now)
            now, poll_until = monotonic(), 0.0
        return True

    def _sleep(self, deadline: float | None, now: float) -> None:
        """Block until something comes; for what comes with time, at most until then.

        That is not looked at before each of many short sleeps: a sleep that may be short ends with the tick instead.
        """
        delay: float | None = self._tick_at - now
        with self._lock:
            if now >= self._tick_at:
                self._tick_at = now + self._tick_s
                delay = self._tick(now)
            self._flush()
        if deadline is not None and (delay is None or deadline - now < delay):
            delay = deadline - now
        events = self._epoll.poll(-1 if delay is None else max(delay, 0.0), _EVENTS_MAX)
        if events:
            self._handle(events)

    def _handle(self, events: list[tuple[int, int]]) -> None:
        """Read the sockets that have something, hand frames to their owners, write what that caused."""
        self.turns += 1
        with self._lock:
            for fd, mask in events:
                connection = self._connections.get(fd)
                if connection is None:
                    if fd == self._bell:
                        with contextlib.suppress(BlockingIOError):
                            os.eventfd_read(fd)
                    continue
                if mask & select.EPOLLOUT:
                    connection.writable()
                if mask & ~select.EPOLLOUT:
                    self._read(connection)
            if self._lost:
                self._handle_lost()
            self._flush()
        if self._followers:
            self._wake_followers()

    def _handle_lost(self) -> None:
        """Peers that take nothing more have ended; what they had sent before counts."""
        while self._lost:
            connection = self._lost.pop()
            for _ in range(_LAST_READS_MAX):
                if not connection.readable:
                    break
                self._read(connection)
            self._drop(connection)

    def _read(self, connection: Connection) -> None:
        try:
            bodies = connection.receive()
            if bodies:
                connection.on_frames(connection, bodies)
        except BrokenFrame as error:
            self._report(f"closing a connection: {error}")
            bodies = None
        except Exception:  # noqa: BLE001  a boundary that must go on: one peer's message must not end the process
            self._report(f"closing a connection, its message failed:\n{traceback.format_exc()}")
            bodies = None
        if bodies is None:
            self._drop(connection)

    def _drop(self, connection: Connection) -> None:
        if not connection.closed:
            connection.close()
            connection.on_closed(connection)

    def _follow(self, awaited: Awaited, deadline: float | None) -> bool:
        """Sleep until woken: ready, or to take the lead. False: time is up."""
        lock = threading.Lock()
        lock.acquire()
        awaited.wake = lock
        self._followers.append(awaited)
        try:
            if awaited.ready or self._stopping or self._backup_leads or not self._lead.locked():
                return True
            timeout = -1.0 if deadline is None else max(deadline - monotonic(), 0.0)
            woken = lock.acquire(timeout=timeout)
            return woken or awaited.ready
        finally:
            if awaited in self._followers:
                self._followers.remove(awaited)
            awaited.wake = None

    def _wake_followers(self) -> None:
        for follower in list(self._followers):
            if follower.ready:
                self._wake(follower)

    @staticmethod
    def _wake(follower: Awaited) -> None:
        lock = follower.wake
        if lock is not None:
            with contextlib.suppress(RuntimeError):  # woken already
                lock.release()  # type: ignore[attr-defined]

    def wake_ready(self) -> None:
        """Somebody became ready by other means than a message: wake followers and a sleeping leader."""
        self._wake_followers()
        self.ring()

    def _pass_on(self) -> None:
        """The lead is free: give it to a follower, or make sure that the backup notices."""
        self.turns += 1
        followers = self._followers
        if followers:
            self._wake_followers()
            for follower in list(followers):
                if not follower.ready:
                    self._wake(follower)
                    return
        self.nudge()

    # --- backup ---

    def start(self) -> None:
        """Start the backup thread."""
        self._backup.start()

    def _run_backup(self) -> None:
        quiet = 0
        while not self._stopping:
            try:
                quiet = self._backup_turn(quiet)
            except Exception:  # noqa: BLE001  a boundary that must go on: without this thread nobody reads while nobody waits
                self._report(f"the backup thread met an error, and goes on:\n{traceback.format_exc()}")
                self._nap.acquire(timeout=_AFTER_ERROR_S)

    def _backup_turn(self, quiet: int) -> int:
        """Park, look, or lead; returns for how many ticks nothing has happened."""
        seen = self.turns
        if quiet >= _QUIET_TICKS:
            self._asleep = True  # before the look at the lead: who leaves it now wakes us
            woken = self._lead.locked() and self._nap.acquire(timeout=_PARK_S)
            self._asleep = False
            # Time alone has passed: nothing is to be seen, and a look would cost as much as the sleep saves.
            return 0 if woken or self.turns != seen or not self._lead.locked() else quiet
        self._nap.acquire(timeout=self._tick_s)
        if self._lead.locked() or self.turns != seen:
            if self.turns - seen < _BUSY_TURNS or self._unseen >= _UNSEEN_MAX:
                self._unseen = 0
                self._backup_look()
            else:
                self._unseen += 1
            return 0 if self.turns != seen else quiet + 1
        if not self._claims and self._lead.acquire(blocking=False):
            try:
                self._leader = threading.get_ident()
                self._backup_leads = True
                self._lead_as_backup()
            finally:
                self._backup_leads = False
                self._leader = 0
                self._lead.release()
                if self._followers:
                    self._pass_on()
        return 0

    def _backup_look(self) -> None:
        """Somebody else leads, or is about to: only see to work that runs long, and to queued messages."""
        if self._lock.acquire(blocking=False):
            try:
                self._tick(monotonic())
                self._flush()
            finally:
                self._lock.release()

    def _lead_as_backup(self) -> None:
        """Lead until somebody else wants to.

        While user code keeps submitting, look once a tick instead of at every message: each look takes the GIL from it.
        """
        delay: float | None = 0.0
        seen = self._nudges
        while not self._wanted():
            events = self._epoll.poll(-1 if delay is None else delay, _EVENTS_MAX)
            nudged = self._nudges != seen
            seen = self._nudges
            self._asleep = False
            if events:
                self._handle(events)
            if (nudged or events) and not self._awaits:
                self._nap.acquire(timeout=self._tick_s)
            if self._wanted():
                return
            self._asleep = not nudged  # before the look: what is queued after it rings
            with self._lock:
                delay = self._tick(monotonic())
                self._flush()
            if nudged:
                delay = 0.0

    def _wanted(self) -> bool:
        """Whether the backup has to give up the lead."""
        return bool(self._stopping or self._claims or self._followers)

    def forked(self, refuse: Callable[..., bool]) -> None:
        """This is a child: let go of the sockets, which the parent goes on with. ``refuse`` takes the place of `wait`."""
        for connection in self._connections.values():
            connection.forget()
        self._connections.clear()
        self._epoll.close()
        bell, self._bell = self._bell, -1  # the number may become a file of the child's: nothing rings there
        os.close(bell)
        self._stopping = True
        self.wait = refuse  # type: ignore[method-assign]

    def stop(self) -> None:
        """End the backup thread and every wait, and close what is open; idempotent. A handler on top of a wait may call it."""
        if self._stopping:
            return
        self._stopping = True
        for follower in list(self._followers):
            self._wake(follower)
        self.ring()
        self._wake_nap()
        me = threading.get_ident()
        if self._backup.is_alive() and self._backup.ident != me:
            self._backup.join(_LEAVE_S)
        left = self._leader == me or self._lead.acquire(timeout=_LEAVE_S)
        with self._lock:
            for connection in list(self._connections.values()):
                connection.close()
        if left:  # otherwise somebody still reads: better a descriptor too many than one under a reader
            self._epoll.close()
            bell, self._bell = self._bell, -1
            os.close(bell)

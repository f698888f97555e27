"""One actor as this process calls it: a pure core (R6). The order of calls, the connection, and what a death does to them.

    UNRESOLVED → CONNECTED → BROKEN (connection lost: the daemon will tell) → RESTARTING → CONNECTED
    BROKEN → RESUMING (a new connection to the same process; RESUMED is awaited) → CONNECTED
    any → DEAD

Calls wait here in the order of submission, and are sent in that order: one whose arguments are not there yet holds up the later
ones, unless the actor runs calls at once anyway (`ordered` is False). Calls that were sent are kept until their
answer. At a confirmed death those that may have started fail, or are sent again as `max_task_retries` allows; those
that surely have not started, and those that were never sent, go to the restarted actor, or fail with the dead one.
An actor that leaves, as its node drains, says of calls that it does not begin them (`not_begun`); they stay where they are, in
order, until its process is gone. Then the daemon says that all calls that it began are *answered* (`LEFT`), which is not that
they are heard here. What is not answered never began only if all was heard that the process ever said in the session: it ended
the connection itself, which was read to that end, and there was no question open over it (a RESUME without RESUMED). If the
connection broke, or its end does not come in time, or the word is of another process, the calls are in doubt, as after any death:
nobody else knows of them, for the next process begins without what this one knew.

A connection may break though the process lives. Then the actor says how many calls it has received of this caller: those are
the first that were sent, and their replies are to come; the others are sent again, in order. If it has forgotten the caller, they
are in doubt, and a new session begins, over one more connection. A connection that breaks again
and again with nothing heard over it (a message that the other side cannot read) is given up, and its calls are in doubt.

Invariants: a call is in exactly one place: `waiting`, `aside` (unordered, without its arguments), the lease's `inflight`, or
done. The actor's lifetime object is counted once while there is any call: the last handle may go while calls are under way.
"""

from __future__ import annotations

from collections import deque
from itertools import count
from typing import TYPE_CHECKING, Any

from shoal.actors.errors import actor_died, actor_unavailable
from shoal.owner import reruns
from shoal.owner.dispatch import OUTBOX_FLUSH_BYTES
from shoal.owner.leases import Lease
from shoal.owner.tasks import DONE, SENT, WAITING, TaskRecord
from shoal.wire import messages as m

if TYPE_CHECKING:
    from shoal.actors.method import ClassTable
    from shoal.owner.dispatch import Dispatcher
    from shoal.owner.objects import Entry

UNRESOLVED, CONNECTED, BROKEN, RESTARTING, DEAD, RESUMING = range(6)
STATE_NAMES = ("PENDING_CREATION", "ALIVE", "RECONNECTING", "RESTARTING", "DEAD", "RECONNECTING")
_next_session = count(1).__next__
# No task runs in place of an actor's call: nothing offers this resource.
_RESOURCES = {"an actor's own process": 1}


class ActorCalls:
    """The calls of this process to one actor. All methods are called with the runtime's lock held.

    Args:
        entry: of the lifetime object.

    Attributes:
        details: what the daemon last said of the actor (see ACTOR_STATE).
        session: number of the stream of calls to the present process, which may go over several connections.
        sent: calls that were sent in it.
        heard: frames of replies that were handled in it.
        not_begun: sent calls that the present process will never begin.
    """

    __slots__ = (
        "_attempts", "_heard_bytes", "_heard_told", "_pumping", "_received", "_resuming", "actor_id", "aside", "backlog_told",
        "details", "dispatch", "entry", "heard", "held", "incarnation", "infeasible", "lease", "leases", "not_begun", "ready",
        "resources", "sent", "session", "state", "table", "waiting",
    )  # fmt: skip

    def __init__(self, actor_id: bytes, table: ClassTable, dispatch: Dispatcher, entry: Entry) -> None:
        self.actor_id = actor_id
        self.table = table
        self.dispatch = dispatch
        self.entry = entry
        self.state = UNRESOLVED
        self.waiting: deque[TaskRecord] = deque()
        self.aside: dict[bytes, TaskRecord] = {}
        self.lease: Lease | None = None
        self.incarnation = 0
        self.held = False
        self.details: dict[str, Any] = {}
        self.not_begun: set[bytes] = set()
        self._pumping = False
        self.session = 0
        self._begin_anew()
        # What tasks expect of the queue they are in.
        self.resources = _RESOURCES
        self.ready: deque[TaskRecord] = deque()  # nothing here is for leased workers
        self.backlog_told = 0
        self.leases: list[Lease] = []
        self.infeasible: str | None = None

    # --- submit ---

    @property
    def pending(self) -> int:
        """Calls without an answer."""
        return (
            len(self.waiting) + len(self.aside) + (len(self.lease.inflight) if self.lease is not None else 0)
        )

    def submit(self, task: TaskRecord) -> None:
        """Take over a call, whose arguments are counted for it."""
        dispatch = self.dispatch
        dispatch.counters["submitted"] += 1
        dispatch.tasks[task.id] = task
        if task.parent is not None:
            dispatch.children.setdefault(task.parent, set()).add(task.id)
        if not self.held:
            self.held = True
            self.entry.count += 1
        if task.lifted:
            task.unresolved, task.doomed = dispatch.table.wait_for_each(task.lifted, task)
        if task.doomed:
            self._fail_for_argument(task)
        elif task.unresolved and not self.table.ordered:
            self.aside[task.id] = task
        else:
            self.waiting.append(task)
        self.settle()

    def arguments_ready(self, task: TaskRecord) -> None:
        """All top-level arguments of ``task`` are there, or one has failed (called by the task)."""
        was_aside = self.aside.pop(task.id, None) is not None
        if task.doomed:
            self._fail_for_argument(task)
        elif was_aside:
            self.waiting.append(task)
        self.settle()

    def _fail_for_argument(self, task: TaskRecord) -> None:
        self.dispatch.fail_dependent(task)

    def pump(self) -> None:
        """Send what can be sent, in order. A call that fails makes others ready: that is a loop here, not a recursion."""
        if self._pumping:
            return
        self._pumping = True
        try:
            while self.waiting and self._step(self.waiting[0]):
                continue
        finally:
            self._pumping = False

    go_on = pump  # the connection is held back no longer

    def _step(self, task: TaskRecord) -> bool:
        if task.state == DONE:  # cancelled meanwhile, or an argument failed
            self.waiting.popleft()
            return True
        if self.state == DEAD:
            self.waiting.popleft()
            self._fail(task, died=True)
            return True
        lease = self.lease
        if lease is None or lease.broken or task.unresolved or self.state == RESUMING:
            return False
        if lease.held_back or len(lease.inflight) >= self.dispatch.config.actor_calls_sent_max:
            return False
        self.waiting.popleft()
        self._send(lease, task)
        if lease.outbox_bytes >= OUTBOX_FLUSH_BYTES:
            self.dispatch.flush_now()
        return True

    def _send(self, lease: Lease, task: TaskRecord) -> None:
        dispatch = self.dispatch
        task.state = SENT
        task.lease = lease
        self.sent += 1
        idle = not lease.inflight
        lease.inflight[task.id] = task
        dispatch.put_out(lease, task, idle)

    def _fail(self, task: TaskRecord, died: bool) -> None:
        dispatch = self.dispatch
        if task.cancelled:
            error = dispatch.make_error("cancelled", task)
        else:
            error = (actor_died if died else actor_unavailable)(self.actor_id, self.table.name, self.details)
        dispatch._fail_with(task, error)

    # --- the connection ---

    def _begin_anew(self) -> None:
        """Nothing was sent in this session, and nothing heard."""
        self.sent = self._received = 0
        self.heard = self._heard_told = self._heard_bytes = 0
        self._attempts = 0
        # RESUMED has not come over the last connection: what the process had said over the one before may be lost.
        self._resuming = False

    def _resumes(self, incarnation: int) -> bool:
        """Whether a new connection to the ``incarnation``-th process is to go on where the last one broke."""
        lease = self.lease
        return (
            lease is not None
            and incarnation == self.incarnation
            and bool(lease.inflight)
            and self._attempts < self.dispatch.config.actor_resumes_max
        )

    def connected(self, lease: Lease, incarnation: int, job: dict[str, Any]) -> None:
        """There is a new connection to the actor's process, its ``incarnation``-th, which is to know ``job``."""
        old = self.lease
        if old is not None and self._resumes(incarnation):
            self._attempts += 1
            self._close(old)
            lease.inflight, old.inflight = old.inflight, {}
            for task in lease.inflight.values():
                task.lease = lease
            self.state = RESUMING
            self._resuming = True
            lease.outbox.append((m.RESUME, self.session, self.heard))
        else:
            if old is not None:  # the old connection's calls: whether they ran is not known
                self._process_gone({}, restarting=True)
            self._begin_anew()
            self.session = _next_session()
            self.state = CONNECTED
            lease.outbox.append((m.JOB, {**job, "session": self.session}))
        self.dispatch.dirty.add(lease)
        self.lease = lease
        self.leases = [lease]
        self.incarnation = incarnation
        self.settle()  # calls may have been given up just now, the last ones too

    def resumed(self, lease: Lease, received: int) -> None:
        """(RESUMED, calls received): the first message on a connection that goes on where another one broke."""
        if lease is not self.lease or self.state != RESUMING:
            return
        self.state = CONNECTED
        self._resuming = False
        tasks = list(lease.inflight.values())
        kept = len(tasks) - (self.sent - received)
        if received < 0 or not 0 <= kept <= len(tasks):
            self._session_over()
            return
        if received > self._received:
            self._received = received
            self._attempts = 0
        for task in tasks[:kept]:
            self._remind(lease, task)
        self._unsend(lease, tasks[kept:])
        self.dispatch.dirty.add(lease)
        self.settle()

    def _session_over(self) -> None:
        """The actor has forgotten this caller: what was sent is in doubt, and what comes goes in another session."""
        self.state = BROKEN
        self._process_gone({}, restarting=True)
        self.dispatch.table.to_node([m.CONNECT_ACTOR, self.actor_id, self.incarnation])
        self.settle()

    def _unsend(self, lease: Lease, tasks: list[TaskRecord]) -> None:
        """Take back the last calls, which were sent and not received."""
        self.sent -= len(tasks)
        again = []
        for task in tasks:
            del lease.inflight[task.id]
            task.lease = None
            task.state = WAITING
            if task.cancelled:
                self._fail(task, died=False)
            else:
                again.append(task)
        self.waiting.extendleft(reversed(again))

    def _remind(self, lease: Lease, task: TaskRecord) -> None:
        """Say again what may have been lost with the connection, of a call that was received."""
        if task.cancelled:
            lease.outbox.append((m.CANCEL, task.id, False, True))
        if task.stream is not None:
            lease.outbox.append((m.CONSUMED, task.id, task.stream.taken))

    def heard_frame(self, lease: Lease, size: int) -> None:
        """A frame of replies was handled; the actor keeps it until it is told."""
        self.heard += 1
        self._attempts = 0
        self._heard_bytes += size
        config = self.dispatch.config
        if (
            self.heard - self._heard_told >= config.actor_frames_unheard_max
            or self._heard_bytes >= config.actor_bytes_unheard_max
        ):
            self._heard_told = self.heard
            self._heard_bytes = 0
            lease.outbox.append((m.HEARD, self.heard))
            self.dispatch.dirty.add(lease)

    def lost(self) -> None:
        """The connection is closed: the daemon will say whether the actor died."""
        if self.lease is not None:
            self.lease.broken = True
            if self.state in (CONNECTED, RESUMING):
                self.state = BROKEN

    def is_past(self, details: dict[str, Any]) -> bool:
        """Whether a state is of a process before the present one: the word of a host that it has left is slower than the next."""
        return bool(0 < details.get("incarnation", 0) < self.incarnation)

    def known(self, details: dict[str, Any], ended: bool) -> dict[str, Any]:
        """What is known for sure of the end of the process that calls were sent to.

        Args:
            details: what the daemon says.
            ended: the connection to it has ended in order, and all that came over it was handled.
        """
        other = details.get("incarnation", self.incarnation) != self.incarnation
        if other or (details.get("current") == m.LEFT and (self._resuming or not ended)):
            return {**details, "unmade": False, "current": b""}
        return details

    def restarting(self, details: dict[str, Any]) -> None:
        """The actor's process died, and another one is on its way."""
        self.details = details
        self.state = RESTARTING
        self._process_gone(details, restarting=True)
        self.settle()

    def died(self, details: dict[str, Any]) -> None:
        """The actor is dead for good; idempotent."""
        if self.state == DEAD:
            return
        self.details = details
        self.state = DEAD
        self._process_gone(details, restarting=False)
        for task in list(self.aside.values()):
            self._fail(task, died=True)
        self.aside.clear()
        self.pump()
        self.settle()

    def _process_gone(self, details: dict[str, Any], restarting: bool) -> None:
        lease, self.lease = self.lease, None
        self.leases = []
        if lease is not None:
            self._close(lease)
            self._give_up(lease, details, restarting)

    def _close(self, lease: Lease) -> None:
        lease.broken = True
        if lease.connection is not None:
            lease.connection.close()
        self.dispatch.dirty.discard(lease)

    def _give_up(self, lease: Lease, details: dict[str, Any], restarting: bool) -> None:
        """Decide over the calls that were sent."""
        tasks = list(lease.inflight.values())
        lease.inflight.clear()
        started = len(tasks)
        current: bytes = (
            details.get("current") or b""
        )  # the one that the process started last, if it was ours
        if details.get("unmade"):
            started = 0
        elif self.table.ordered and current in (task.id for task in tasks):
            started = [task.id for task in tasks].index(current) + 1
        not_begun, self.not_begun = self.not_begun, set()
        again: list[TaskRecord] = []
        for position, task in enumerate(tasks):
            task.lease = None
            task.state = WAITING
            begun = position < started and task.id not in not_begun
            if begun:
                reruns.run_died(task, self.dispatch.config.generator_backlog_max)
                task.attempt += 1
            if task.cancelled or not restarting:
                self._fail(task, died=True)
            elif not begun:
                again.append(task)
            elif task.retries:
                task.retries -= task.retries > 0
                self.dispatch.counters["retried"] += 1
                again.append(task)
            else:
                self._fail(task, died=False)
        self.waiting.extendleft(reversed(again))

    # --- answers ---

    def failed(self, lease: Lease, message: tuple[Any, ...]) -> None:
        """(FAILED, task id, error, container, kept ids, cancelled) from the actor."""
        _, task_id, error, container, kept, cancelled = message
        task = lease.inflight.pop(task_id, None)
        if task is None:
            return
        dispatch = self.dispatch
        if kept:
            dispatch.table.hand_over(lease.proc, kept)
        held = dispatch.received_container(container)
        reruns.run_failed(task, container)
        if not cancelled and task.retries and not task.cancelled and dispatch.is_retriable(task, error):
            task.retries -= task.retries > 0
            dispatch.counters["retried"] += 1
            task.attempt += 1
            task.lease = None
            task.state = WAITING
            self.waiting.append(task)
        else:
            dispatch._fail_with(task, error, held)
        if held is not None:
            dispatch.table.drop_uses((held,))

    def settle(self) -> None:
        """After answers: send more; with no call left, let the lifetime object go."""
        if self.waiting:
            self.pump()
        if (
            self.held
            and not self.waiting
            and not self.aside
            and (self.lease is None or not self.lease.inflight)
        ):
            self.held = False
            self.dispatch.table.drop_uses((self.entry,))

    # --- asked by people ---

    def why(self, task: TaskRecord) -> str:
        """What an unsent call waits for."""
        name = self.table.name
        if task.unresolved:
            return f"waits for {task.unresolved} argument(s)"
        if self.state in (CONNECTED, BROKEN, RESUMING) and task in self.waiting:
            return f"waits in line for actor {name}, behind {self.waiting.index(task)} call(s) not sent yet"
        reason = self.infeasible or self.details.get("reason") or ""
        return f"waits for actor {name}, which is {STATE_NAMES[self.state]}" + (
            f": {reason}" if reason else ""
        )

    def where(self, task: TaskRecord) -> str:
        """What has become of a sent call, as far as this process knows."""
        lease = task.lease
        where = f"actor {self.table.name}, process {lease.pid if lease is not None else 0}"
        if self.state != CONNECTED:
            return f"was sent to {where}, which is {STATE_NAMES[self.state]}"
        sent = list(lease.inflight) if lease is not None and self.table.ordered else []
        ahead = sent.index(task.id) if task.id in sent else 0
        return f"waits behind {ahead} call(s) of this process at {where}" if ahead else f"is at {where}"

    def validate(self) -> None:
        """Raise AssertionError if an invariant is broken."""
        inflight = self.lease.inflight if self.lease is not None else {}
        for task in self.waiting:
            assert task.state in (WAITING, DONE), task
            assert task.id not in inflight, task
        for task in inflight.values():
            assert task.state == SENT, task
            assert task.lease is self.lease, task
        for task in self.aside.values():
            assert task.state == DONE or task.unresolved, task
        assert self.held or not inflight, self.actor_id.hex()
        assert self.state != DEAD or not (self.waiting or inflight or self.aside), self.actor_id.hex()

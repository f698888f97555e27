"""A simulated worker that is an actor (`shoald.worker.actor`), and the connections of its callers.

It makes itself from its lifetime object, then runs calls one after the other, or so many at once, each for a drawn time; those
that overlap end in any order. One that is to leave (`shoald.worker.leaving`) begins none, and ends after those that run. Who
has called what, and which frames of replies a caller has heard, is for the production core (`Callers`).
"""

from __future__ import annotations

from collections import deque
from functools import partial
from typing import TYPE_CHECKING, Any

from tests.sim.workers import Connection

from shoal.wire import messages as m
from shoald.worker.callers import UNKNOWN, Caller, Callers

if TYPE_CHECKING:
    from tests.sim.cluster import Cluster
    from tests.sim.storage import Reading
    from tests.sim.workers import Process, Worker

_MAKES_S = (0.0, 0.01, 0.5)


class ActorConnection(Connection):
    """Between a caller and an actor; without one it is broken from the start."""

    def __init__(self, cluster: Cluster, caller: Process, worker: Worker | None) -> None:
        self.owner: Caller | None = None
        self.closed = False  # by the caller
        self.refused = False  # by the actor
        self.reset = False  # by the actor, so that it does not look like an end in order
        self.orderly = False  # the caller has read all that the actor had sent, to the end
        if worker is None:
            self.submitter = caller
            self.lease = None
            self.ended = True
            return
        super().__init__(cluster, caller, worker)

    def _at_worker(self, batch: list[Any] | None) -> None:
        if not self.worker.alive or self.ended or self.refused:
            return
        if batch is None:
            self._actor_left()
            self.end()
        elif self.accepted:
            self.worker.acting.take(self, batch)
        else:
            self.early.append(batch)

    def accept(self) -> None:
        self.accepted = True
        for batch in self.early:
            self.worker.acting.take(self, batch)

    def _at_submitter(self, batch: list[Any] | None) -> None:
        if self.submitter.alive and not self.closed:
            if batch is None:
                self.end()
                self.orderly = not self.reset
                self.submitter.casts.broke(self)
            else:
                self.submitter.casts.replies(self, batch)

    def broken(self) -> None:
        if not self.ended:
            self.end()
            if self.worker.alive:
                self._actor_left()
            if self.submitter.alive and not self.closed:
                self.submitter.casts.broke(self)

    def _actor_left(self) -> None:
        if self.worker.acting is not None:
            self.worker.acting.left(self)

    def close(self) -> None:
        """The caller does not want it any more."""
        self.closed = True
        if not self.ended:
            self.there.send(None)


class Acting:
    """One process of one actor."""

    def __init__(self, worker: Worker, actor_id: bytes, info: dict[str, Any]) -> None:
        self.worker = worker
        self.actor_id = actor_id
        self.made = False
        self.leaving = False
        self._running: set[bytes] = set()
        self._width = worker.cluster.stage.width(actor_id)
        worker.status = actor_id
        config = worker.config
        self._callers = Callers(config.actor_resume_ms / 1000, config.actor_parked_callers_max)
        self._inbox: deque[tuple[Caller, tuple[Any, ...]]] = deque()
        worker.cluster.stage.began(self)
        wanted = [(actor_id, worker.table.stamp_now())]
        worker.storage.read(wanted, m.PRIORITY_GET, self._loaded)

    def __repr__(self) -> str:
        return f"<actor {self.actor_id.hex()} in {self.worker}>"

    def _loaded(self, reading: Reading) -> None:
        worker = self.worker
        worker.storage.close(reading)
        if reading.error:
            worker.table.to_node([m.ACTOR_FAILED, self.actor_id, reading.error.encode()])
            worker.flush()
        else:
            worker.cluster.clock.at(worker.cluster.random.choice(_MAKES_S), self._ready)

    def _ready(self) -> None:
        if self.worker.alive:
            self.made = True
            self.worker.table.to_node([m.ACTOR_READY, self.actor_id])
            self.worker.flush()
            self._next()
            self._leave_if_idle()

    # --- callers ---

    def take(self, connection: ActorConnection, batch: list[Any]) -> None:
        """A frame of a caller."""
        if connection.owner is None:
            if not self._opens(connection, batch[0]):
                return
            batch = batch[1:]
        caller = connection.owner
        assert caller is not None
        for message in batch:
            if message[0] == m.TASK:
                caller.received += 1
                self._inbox.append((caller, message))
                self._give_back_if_leaving()
            elif message[0] == m.HEARD:
                caller.heard(message[1])
            elif message[0] == m.LEAVE:
                self._forget(caller)
        self._next()

    def _opens(self, connection: ActorConnection, message: tuple[Any, ...]) -> bool:
        tag, *fields = message
        proc = connection.submitter.proc
        session = fields[0]["session"] if tag == m.JOB else fields[0]
        if self._callers.is_late(proc, session, begins=tag == m.JOB):
            self._refuse(connection)
            return False
        caller = self._callers.get(proc)
        if tag == m.JOB or caller is None or caller.session != session:
            if tag == m.RESUME:
                received = self._callers.received_of_unknown(proc, session, fields[1])
                connection.back.send([(m.RESUMED, received)])
                if received == UNKNOWN:
                    self._refuse(connection)
                    return False
            if caller is not None:
                self._forget(caller)
            connection.owner = self._callers.begins(proc, session, connection)
            return True
        if caller.connection is not None:
            self._refuse(caller.connection)
        self._callers.resumes(caller, connection, fields[1])
        connection.owner = caller
        connection.back.send([(m.RESUMED, caller.received)])
        for frame in caller.unheard:
            connection.back.send(frame)
        self._inbox.extend(caller.held)
        caller.held.clear()
        self._give_back_if_leaving()
        return True

    def left(self, connection: ActorConnection) -> None:
        """A connection is closed."""
        caller = connection.owner
        if caller is not None and caller.connection is connection:
            self._hold(caller)
            for gone in self._callers.parks(caller, self.worker.now):
                self._forget(gone)

    def caller_left(self, proc: bytes) -> None:
        """The daemon says that a caller is gone."""
        caller = self._callers.left(proc)
        if caller is not None:
            self._forget(caller)

    def _forget(self, caller: Caller) -> None:
        self._hold(caller)
        if caller.connection is not None:
            caller.connection.reset = True
            self._refuse(caller.connection)
        self._callers.forget(caller)

    @staticmethod
    def _refuse(connection: ActorConnection) -> None:
        """Close a connection, on this side."""
        connection.owner = None
        connection.refused = True
        connection.back.send(None)

    def _hold(self, caller: Caller) -> None:
        caller.held += [item for item in self._inbox if item[0] is caller]
        self._inbox = deque(item for item in self._inbox if item[0] is not caller)

    # --- calls ---

    def _next(self) -> None:
        while self.made and len(self._running) < self._width and self._inbox and self.worker.alive:
            caller, message = self._inbox.popleft()
            plan = self.worker.cluster.plans[int.from_bytes(message[3], "big")]
            self._running.add(message[1])
            if self._width == 1:
                self.worker.status = message[1]
            self.worker.cluster.stage.starts(self, caller.proc, plan)
            self.worker.cluster.clock.at(plan.run_s, partial(self._ran, caller, message, plan.run_s))

    def _ran(self, caller: Caller, message: tuple[Any, ...], run_s: float) -> None:
        if not self.worker.alive:
            return
        self._running.discard(message[1])
        self._send(caller, [(m.DONE, message[1], [b"value"], b"", run_s * 1e6)])
        self._next()
        self._leave_if_idle()

    @staticmethod
    def _send(caller: Caller, frame: Any) -> None:
        caller.keep(frame)
        if caller.connection is not None:
            caller.connection.back.send(frame)

    # --- it leaves ---

    def leave(self) -> None:
        """EXIT [True]."""
        self.leaving = True
        self._give_back_if_leaving()
        self._leave_if_idle()

    def _give_back_if_leaving(self) -> None:
        if self.leaving:
            for caller, message in self._inbox:
                self._send(caller, [(m.NOT_BEGUN, [message[1]])])
            self._inbox.clear()

    def _leave_if_idle(self) -> None:
        if self.leaving and self.made and not self._running and self.worker.alive:
            if not any(each.connection is None and each.unheard for each in self._callers):
                self.worker.status = m.LEFT
            self.worker.cluster.kill(self.worker)


class Stage:
    """All actors of a cluster, as their calls see them: what must hold at each one."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._processes: dict[bytes, list[Acting]] = {}
        self._last: dict[tuple[Acting, bytes], int] = {}
        self._runs: dict[int, int] = {}
        self.restarts_max: dict[bytes, int] = {}
        self.widths: dict[bytes, int] = {}
        self.retried: set[int] = set()

    def width(self, actor_id: bytes) -> int:
        """How many calls the actor runs at once."""
        return self.widths.get(actor_id, 1)

    def is_let_go(self, actor_id: bytes) -> bool:
        """Whether nobody has a handle to an actor, and none is to outlive them: it may find gone what it is made from."""
        if actor_id not in self.restarts_max:
            return False
        held = any(actor_id in process.table.entries for process in self._cluster.processes())
        return not held and not any(actor_id in driver.casts.unkilled for driver in self._cluster.drivers)

    def began(self, acting: Acting) -> None:
        """A process is to be an actor."""
        self._processes.setdefault(acting.actor_id, []).append(acting)

    def starts(self, acting: Acting, caller: bytes, plan: Any) -> None:
        """A call starts: in order, not twice, and nowhere else is its actor alive."""
        number = plan.number
        runs = self._runs[number] = self._runs.get(number, 0) + 1
        assert runs == 1 or number in self.retried, f"{plan} runs again"
        if runs == 1:
            last = self._last.get((acting, caller), -1)
            assert number > last, f"{plan} of {caller.hex()} runs at {acting} after {last}"
            self._last[acting, caller] = number
        for other in self._processes[acting.actor_id]:
            if other is not acting and other.worker.alive and other.made:
                nodes = {acting.worker.daemon.node_id, other.worker.daemon.node_id}
                assert nodes & self._cluster.fenced, f"{other} lives beside {acting}"
        processes = [each for each in self._processes[acting.actor_id] if each.made]
        most = self.restarts_max[acting.actor_id] + 1 + len(self._cluster.draining)
        assert len(processes) <= most, f"{acting.actor_id.hex()} had {processes}, and may have {most}"


def hears(worker: Worker, message: list[Any]) -> bool:
    """Whether this was a message of the daemon to an actor."""
    if message[0] == m.BECOME_ACTOR:
        worker.acting = Acting(worker, message[1], message[2])
    elif message[0] == m.EXIT and len(message) > 1 and worker.acting is not None:
        worker.acting.leave()
    elif message[0] == m.CALLER_LEFT and worker.acting is not None:
        worker.acting.caller_left(message[1])
    else:
        return False
    return True

"""The actors of one node: a pure core (R6). Creation, names, restarts, callers and death; the scheduler finds the workers.

    PENDING (a worker is awaited) → STARTING (the constructor runs) → ALIVE → DEAD
    STARTING, ALIVE → RESTARTING → STARTING        after an unintended death, while `max_restarts` allows
                                                   when the node drains, on another one, if it may restart at all
    any → forgotten                                when another node has it: given to that, or in a later life (`supersede`)

To the scheduler an actor is a client that asks for one lease and keeps it for life (`proc`, a new one for each process). A
detached actor is a job of its own: it does not end with its driver's.

Invariants: a name belongs to at most one actor that is not dead, and is free as soon as the actor is to end for good. Callers
are told of each death once that of the process is confirmed; of a constructor's failure at once. What was killed for good never
runs here again: a kill may be faster than the creation, or than the word that this node is to host the actor, so kills are
remembered (`_kills`), and what comes later ends at once.
"""

from __future__ import annotations

import struct
from collections import OrderedDict
from typing import TYPE_CHECKING, Any, NamedTuple

from shoal.ids import OBJECT_ID_SIZE
from shoal.wire import messages as m
from shoald.node import constraints
from shoald.node.actorinfo import TEXT_MAX, check, kill_reason, name_taken, rows
from shoald.store.errors import ProtocolError

if TYPE_CHECKING:
    from shoal.config import Config
    from shoald.node.leases import Amounts
    from shoald.node.scheduler import SchedulerCore

PENDING, STARTING, ALIVE, RESTARTING, DEAD = "PENDING_CREATION", "STARTING", "ALIVE", "RESTARTING", "DEAD"
_pack_number = struct.Struct(">Q").pack  # process ids that no process has: theirs are random


class ActorRecord:
    """One actor.

    Attributes:
        proc: what the scheduler calls the actor's present process; b"" without one.
        worker_id: of its worker; b"" while there is none.
        incarnation: how many workers it has had, this one included, and hand-overs to other nodes: of two words on who hosts it,
            the one with the higher number is the later.
        restarts_left: -1 for any number.
        final: why it is not restarted any more; "" while it may be.
        callers: processes that are connected, or wait to be; `reconnects`: when those get a new connection that lost theirs;
            `breaks`: of those, (when they got or get the last one, after which pause).
        restart_at: when it may start again, if it has to pause before; None otherwise.
        obstacle: why no worker can be had; "" if one can.
        moved: it was placed here by another node or the head, and does not go on to another.
        leaving: its process ends because the node drains, or to be followed by a later life here; that restart does not count.
        superseded: another node has a later life of it: its process ends, which is no death of the actor.
    """

    __slots__ = (
        "actor_id", "breaks", "callers", "details", "error", "final", "incarnation", "info", "job", "leaving", "moved",
        "obstacle", "owner_job", "pid", "proc", "reconnects", "restart_at", "restarts", "restarts_left", "since", "state",
        "superseded", "worker_id",
    )  # fmt: skip

    def __init__(self, actor_id: bytes, info: dict[str, Any], owner_job: str, now: float) -> None:
        self.actor_id = actor_id
        self.info = info
        self.owner_job = owner_job
        self.job = f"detached {actor_id.hex()}" if info["detached"] else owner_job
        self.state = PENDING
        self.since = now
        self.proc = b""
        self.worker_id = b""
        self.pid = 0
        self.incarnation = 0
        self.restarts = 0
        self.restarts_left: int = info["max_restarts"]
        self.final = ""
        self.error = b""
        self.obstacle = ""
        self.callers: dict[bytes, None] = {}
        self.reconnects: dict[bytes, float] = {}
        self.breaks: dict[bytes, tuple[float, float]] = {}
        self.restart_at: float | None = None
        self.details: dict[str, Any] = {}
        self.moved = False
        self.leaving = False
        self.superseded = False

    @property
    def key(self) -> tuple[str, str]:
        """(namespace, name); the name is "" if it has none."""
        return self.info["namespace"], self.info["name"]

    @property
    def group(self) -> list[Any] | None:
        """[placement group, bundle or -1, whether it captures what it submits]; None without one."""
        strategy = self.info["constraints"].get("strategy")
        return strategy[1:] if isinstance(strategy, list) and strategy and strategy[0] == "group" else None

    def __repr__(self) -> str:
        return f"<actor {self.info['class']} {self.actor_id.hex()} {self.state} pid={self.pid}>"


class Moved(NamedTuple):
    """What an actor brings along to the node that is to host it."""

    actor_id: bytes
    incarnation: int
    restarts: int
    restarts_left: int


class ActorCore:
    """All actors of one node.

    Attributes:
        outbox: effects in order, for the shell: ("send", proc, message), ("become", record), ("connect", proc, record),
            ("left", proc, record): a caller is gone; ("changed", record): for the head; ("hold", actor id) and
            ("let_go", actor id): the node's own hold on a detached actor; ("superseded", record): another node has it.
    """

    def __init__(self, scheduler: SchedulerCore, config: Config, node_id: str) -> None:
        self._scheduler = scheduler
        self._config = config
        self._node_id = node_id
        self.actors: dict[bytes, ActorRecord] = {}
        self.by_proc: dict[bytes, ActorRecord] = {}
        self.by_worker: dict[bytes, ActorRecord] = {}
        self.names: dict[tuple[str, str], ActorRecord] = {}
        self.dead: OrderedDict[bytes, dict[str, Any]] = OrderedDict()
        self.outbox: list[tuple[Any, ...]] = []
        self._early: dict[bytes, dict[bytes, float]] = {}
        self._kills: OrderedDict[bytes, str] = OrderedDict()  # why, of those that are not here; oldest first
        self._namesakes: dict[tuple[str, str], ActorRecord] = {}  # see `host`
        self._procs = 0

    # --- creation ---

    def create(self, caller: bytes, job: str, actor_id: Any, info: Any, now: float) -> ActorRecord:
        """A new actor, or with `get_if_exists` the one that has its name.

        Raises ValueError if the name is taken, ProtocolError for a message that makes no sense.
        """
        check(actor_id, info)
        if actor_id in self.actors or actor_id in self.dead:
            raise ProtocolError(f"actor {actor_id.hex()} exists already")
        record = ActorRecord(actor_id, info, job, now)
        if info["name"]:
            owner = self.names.get(record.key)
            if owner is not None and info["get_if_exists"]:
                return owner
            if owner is not None:
                raise ValueError(name_taken(info))
        self._add(record, now, caller)
        return record

    def host(self, moved: Moved, info: Any, owner_job: str, now: float) -> ActorRecord | None:
        """An actor that was made elsewhere is this node's from now on; None if it is here already, or was.

        If another one here has its name, one of the two was killed, and this node has not heard of that yet: so long the first
        keeps it. Raises ProtocolError for a description that makes no sense.
        """
        check(moved.actor_id, info)
        here = self.actors.get(moved.actor_id)
        if here is not None and here.superseded and moved.incarnation > here.incarnation:
            self._take(here, moved)
            here.restarts -= (
                1  # that one is counted when it starts: after the process of the earlier life is gone
            )
            here.superseded, here.leaving = False, True
            return here
        if here is not None or moved.actor_id in self.dead:
            return None
        record = ActorRecord(moved.actor_id, info, owner_job, now)
        self._take(record, moved)
        self._add(record, now)
        return record

    def _take(self, record: ActorRecord, moved: Moved) -> None:
        record.incarnation, record.restarts = moved.incarnation, moved.restarts
        record.restarts_left = moved.restarts_left
        record.moved = True

    def _add(self, record: ActorRecord, now: float, *callers: bytes) -> None:
        if record.info["name"] and self.names.setdefault(record.key, record) is not record:
            self._namesakes[record.key] = record
        self.actors[record.actor_id] = record
        record.callers.update(dict.fromkeys(callers))
        record.callers.update(dict.fromkeys(self._early.pop(record.actor_id, ())))
        if record.info["detached"]:
            self.outbox.append(("hold", record.actor_id))
        self.outbox.append(("changed", record))
        self._start(record, now)
        reason = self._kills.pop(record.actor_id, "")
        if reason:
            self._end(record, reason, now)

    def leave(self, proc: bytes, now: float) -> ActorRecord | None:
        """The actor that waits for a worker as ``proc`` goes to another node, and is forgotten here; None if none waits so."""
        record = self.by_proc.get(proc)
        if record is None or record.worker_id:
            return None
        self._forget_process(record, now)
        del self.actors[record.actor_id]
        self._free_name(record)
        record.incarnation += 1
        return record

    def supersede(self, actor_id: bytes, incarnation: int, now: float) -> None:
        """Another node has a later life of an actor: the one here ends, if there is one, and its callers go there."""
        record = self.actors.get(actor_id)
        if record is None or record.superseded or record.incarnation >= incarnation:
            return
        record.superseded = True
        if record.worker_id:
            self._end_process(record, "another node has the actor by now", now)
        else:
            self._forget_process(record, now)
            self._give_up(record)

    def _give_up(self, record: ActorRecord) -> None:
        del self.actors[record.actor_id]
        self._free_name(record)
        self.outbox.append(("superseded", record))

    def _start(self, record: ActorRecord, now: float) -> None:
        """Ask the scheduler for a worker."""
        record.restart_at = None
        self._procs += 1
        record.proc = _pack_number(self._procs)
        self.by_proc[record.proc] = record
        scheduler, info = self._scheduler, record.info
        scheduler.client_joined(record.proc, "actor", record.job)
        # What is only needed to be placed is not kept; on one node it only has to be there at all. If it is to go on, not here.
        placed = scheduler.ledger.feasible(info["placement"]) and not scheduler.placement.draining
        resources: Amounts = info["resources"] if placed else info["placement"]
        options: dict[str, Any] = {"name": info["class"], "actor": True}
        record.moved = record.moved and not scheduler.placement.draining
        if record.moved and record.group is None:
            options["strategy"] = ["affinity", self._node_id, False]
            options["env"] = info["constraints"].get("env", "")
        else:
            options |= info["constraints"]
        if record.group is not None:  # its bundle has what it needs to be placed
            resources = info["resources"]
        scheduler.handle(record.proc, [m.DEMAND, 1, resources, 1, options], now)

    # --- the process ---

    def granted(self, proc: bytes, worker_id: bytes, pid: int, now: float) -> None:
        """The scheduler leased a worker to an actor."""
        record = self.by_proc[proc]
        record.worker_id = worker_id
        record.pid = pid
        record.incarnation += 1
        record.obstacle = ""
        self._enter(record, STARTING, now)
        self.by_worker[worker_id] = record
        self.outbox.append(("become", record))
        for caller in record.callers:
            self.outbox.append(("connect", caller, record))

    def told(self, proc: bytes, message: list[Any], now: float) -> None:
        """The scheduler's word to an actor as its client."""
        record = self.by_proc.get(proc)
        if record is None:
            return
        if message[0] == m.WORKER_DIED:
            _, _, exit_code, signal, current, text = message[:6]
            self._process_gone(record, exit_code, signal, current, text, now)
        elif message[0] == m.DEMAND_STATUS:
            record.obstacle = message[3] if message[2] != "ok" else ""
            if message[2] == "never":
                self._end(record, f"no node can ever have it: {message[3]}", now)
                return
            for caller in record.callers:
                self._tell(caller, record, "pending", {"reason": record.obstacle})

    def ready(self, worker_id: bytes, actor_id: Any, now: float) -> None:
        """The constructor has returned."""
        record = self._of_worker(worker_id, actor_id)
        if record is not None and record.state == STARTING:
            self._enter(record, ALIVE, now)

    def failed(self, worker_id: bytes, actor_id: Any, error: Any, now: float) -> None:
        """The constructor raised: the actor is dead, and its process ends."""
        record = self._of_worker(worker_id, actor_id)
        if type(error) is not bytes:
            raise ProtocolError("an actor's failure without an error")
        if record is not None and not record.final and not record.superseded:
            record.error = error
            self._finish(record, {"reason": "its constructor raised an exception", "error": error}, now)
            self._end_process(record, "its constructor raised an exception", now, politely=True)

    def begins_elsewhere(self, worker_id: bytes, now: float) -> None:
        """Before its constructor its process has turned out to be none for it: it gets another one, which does not count."""
        if (record := self.by_worker.get(worker_id)) is not None and record.state == STARTING:
            record.leaving = True
            record.restarts -= 1  # its end adds one
            self._end_process(record, "it needs an interpreter of its own", now, politely=True)

    def exits(self, worker_id: bytes, actor_id: Any, reason: Any, now: float) -> None:
        """The process ends on purpose."""
        record = self._of_worker(worker_id, actor_id)
        if record is not None and not record.final:
            self._finalize(record, str(reason)[:TEXT_MAX])
            self._end_process(record, record.final, now, politely=True)

    def _of_worker(self, worker_id: bytes, actor_id: Any) -> ActorRecord | None:
        record = self.by_worker.get(worker_id)
        if record is not None and record.actor_id != actor_id:
            raise ProtocolError("a worker spoke for another actor")
        return record

    def _end_process(self, record: ActorRecord, reason: str, now: float, politely: bool = False) -> None:
        worker = self._scheduler.pool.workers.get(record.worker_id)
        if worker is not None:
            self._scheduler.end_worker(worker, reason, now, politely)

    def _process_gone(
        self, record: ActorRecord, exit_code: int, signal: int, current: bytes, text: str, now: float
    ) -> None:
        self._forget_process(record, now)
        if record.state == DEAD:
            return
        details = {
            "reason": text, "pid": record.pid, "exit_code": exit_code, "signal": signal, "current": current,
        }  # fmt: skip
        if record.superseded:
            for caller in record.callers:
                self._tell(caller, record, "restarting", {**details, "incarnation": record.incarnation})
            self._give_up(record)
            return
        leaving, record.leaving = record.leaving, False
        if record.final or not (record.restarts_left or leaving):
            if record.final:
                details["reason"] = record.final
            self._finish(record, details, now)
            return
        record.restarts_left -= record.restarts_left > 0 and not leaving
        record.restarts += 1
        record.details = details
        unmade = record.state == STARTING
        details["unmade"] = unmade or (leaving and current == m.LEFT)
        self._enter(record, RESTARTING, now)
        for caller in record.callers:
            self._tell(caller, record, "restarting", {**details, "incarnation": record.incarnation})
        if unmade and not leaving:  # its constructor ends it: without a pause this node did nothing else
            record.restart_at = now + self._config.worker_restart_ms / 1000
        else:
            self._start(record, now)

    def _forget_process(self, record: ActorRecord, now: float) -> None:
        record.restart_at = None
        self.by_proc.pop(record.proc, None)
        self.by_worker.pop(record.worker_id, None)
        self._scheduler.client_left(record.proc, now)
        record.proc = record.worker_id = b""
        record.reconnects.clear()
        record.breaks.clear()

    # --- callers ---

    def connect(self, caller: bytes, actor_id: Any, broken: Any, now: float) -> None:
        """A process has a handle and wants to call.

        ``broken``: the incarnation that it has lost its connection to, 0 for none.
        """
        if type(actor_id) is not bytes or len(actor_id) != OBJECT_ID_SIZE:
            raise ProtocolError("a connection to what is no actor")
        record = self.actors.get(actor_id)
        if record is not None:
            record.callers[caller] = None
            if broken and broken == record.incarnation:
                # Usually the process has died, and that is about to be confirmed.
                record.reconnects[caller] = self._reconnect_at(record, caller, now)
            elif record.worker_id and not self._is_dying(record):
                self.outbox.append(("connect", caller, record))
            elif record.obstacle:
                self._tell(caller, record, "pending", {"reason": record.obstacle})
        elif actor_id in self.dead:
            self.outbox.append(("send", caller, [m.ACTOR_STATE, actor_id, "dead", self.dead[actor_id]]))
        else:
            # The creator's stream may be behind the one that brought the handle.
            self._early.setdefault(actor_id, {})[caller] = now + self._config.actor_unknown_ms / 1000

    def _reconnect_at(self, record: ActorRecord, caller: bytes, now: float) -> float:
        """When a caller whose connection broke gets another one: soon, but less soon if it breaks again and again."""
        pause_s, pause_s_max = (
            self._config.actor_reconnect_ms / 1000,
            self._config.actor_reconnect_ms_max / 1000,
        )
        last, last_pause_s = record.breaks.get(caller, (0.0, 0.0))
        if last_pause_s and now - last < pause_s_max:
            pause_s = min(2 * last_pause_s, pause_s_max)
        record.breaks[caller] = now + pause_s, pause_s
        return now + pause_s

    def _is_dying(self, record: ActorRecord) -> bool:
        worker = self._scheduler.pool.workers.get(record.worker_id)
        return worker is None or worker.state == "dying"

    def disconnect(self, caller: bytes, actor_id: Any) -> None:
        """A process has no handle any more."""
        record = self.actors.get(actor_id)
        if record is not None:
            self._left(caller, record)
        self._early.get(actor_id, {}).pop(caller, None)

    def client_left(self, proc: bytes) -> None:
        """A process is gone, as a caller."""
        for record in self.actors.values():
            self._left(proc, record)
        for waiting in self._early.values():
            waiting.pop(proc, None)

    def _left(self, caller: bytes, record: ActorRecord) -> None:
        record.reconnects.pop(caller, None)
        record.breaks.pop(caller, None)
        if caller in record.callers:
            del record.callers[caller]
            if record.worker_id:
                self.outbox.append(("left", caller, record))

    def tick(self, now: float) -> float | None:
        """Tell those who wait for an actor that never came; connect those anew whose connection broke; start
        actors again that had to pause.

        Returns when to look again.
        """
        due: float | None = None
        for actor_id, waiting in list(self._early.items()):
            for caller, until in list(waiting.items()):
                if until <= now:
                    del waiting[caller]
                    details = {"reason": "this node does not know it: it was never made, or ended long ago"}
                    self.outbox.append(("send", caller, [m.ACTOR_STATE, actor_id, "dead", details]))
                elif due is None or until < due:
                    due = until
            if not waiting:
                del self._early[actor_id]
        for record in list(self.actors.values()):
            if record.restart_at is not None:
                if record.restart_at <= now:
                    self._start(record, now)
                else:
                    due = record.restart_at if due is None else min(due, record.restart_at)
            for caller, until in list(record.reconnects.items()):
                if until > now:
                    due = until if due is None else min(due, until)
                    continue
                del record.reconnects[caller]
                if record.worker_id and not self._is_dying(record):
                    self.outbox.append(("connect", caller, record))
        return due

    # --- the node drains ---

    def drain(self, now: float) -> bool:
        """Have actors that may restart go to other nodes, if there are any for them; whether some are still about to.

        Called again and again: there may be another actor later, or another node. A process ends after the calls that run, within
        `drain_ms_max`; what was not begun goes to the next one. All others stay until the node goes.
        """
        scheduler = self._scheduler
        leaving = False
        for record in list(self.actors.values()):
            info = record.info
            if not info["max_restarts"] or record.final or record.superseded:
                continue
            if not record.leaving:
                where = constraints.read(info["constraints"])
                if not scheduler.placement.has_place_elsewhere(info["placement"], where, scheduler.view):
                    continue
                if record.worker_id:
                    record.leaving = True
                    worker, limit_ms = scheduler.pool.workers[record.worker_id], self._config.drain_ms_max
                    scheduler.end_worker(worker, "its node drains", now, True, patience_ms=limit_ms)
                elif record.moved and record.proc:  # it was to stay here
                    self._forget_process(record, now)
                    self._start(record, now)
            leaving = True
        return leaving

    # --- ends ---

    def kill(self, actor_id: bytes, no_restart: bool, now: float, reason: str = "") -> None:
        """Somebody wants it ended for good, or its process replaced; nothing if it is dead. ``reason``: see `kill_reason`."""
        record = self.actors.get(actor_id)
        reason = reason or kill_reason(no_restart)
        if not no_restart:
            if record is not None and record.worker_id:
                self._end_process(record, reason, now)
        elif record is not None:
            self._end(record, reason, now)
        elif actor_id not in self.dead and actor_id not in self._kills:
            self._kills[actor_id] = reason
            if len(self._kills) > self._config.actor_kills_max:
                self._kills.popitem(last=False)

    def is_ending(self, actor_id: bytes) -> bool:
        """Whether this node knows that an actor is dead, or was killed, here or elsewhere, whatever the head says yet."""
        record = self.actors.get(actor_id)
        return actor_id in self.dead or actor_id in self._kills or (record is not None and bool(record.final))

    def unheld(self, actor_id: bytes, now: float) -> None:
        """Nobody holds the lifetime object any more: the last handle is gone."""
        record = self.actors.get(actor_id)
        if record is not None:
            self._end(record, "all handles to it are gone", now, politely=True)

    def job_ended(self, job: str, now: float) -> None:
        """A driver is gone, and its actors with it, except detached ones."""
        for record in [record for record in self.actors.values() if record.job == job]:
            self._end(record, "its driver is gone", now)

    def end_for_good(self, proc: bytes, reason: str, now: float) -> None:
        """What the scheduler calls ``proc`` has lost its place, and gets no other; nothing if that is no actor."""
        record = self.by_proc.get(proc)
        if record is not None:
            self._end(record, reason, now)

    def _end(self, record: ActorRecord, reason: str, now: float, politely: bool = False) -> None:
        if record.state == DEAD:
            return
        self._finalize(record, reason)
        if record.worker_id:
            self._end_process(record, reason, now, politely)
        else:
            self._forget_process(record, now)
            self._finish(record, {"reason": reason}, now)

    def _finalize(self, record: ActorRecord, reason: str) -> None:
        """It will not be restarted; its name is free."""
        record.final = record.final or reason
        self._free_name(record)

    def _free_name(self, record: ActorRecord) -> None:
        heir = self._namesakes.get(record.key)
        if heir is record or self.names.get(record.key) is record:
            self._namesakes.pop(record.key, None)
            if heir is not record:
                del self.names[record.key]
                if heir is not None:
                    self.names[record.key] = heir

    def _finish(self, record: ActorRecord, details: dict[str, Any], now: float) -> None:
        self._finalize(record, details["reason"])
        facts = {
            "name": record.info["name"],
            "node": self._node_id,
            "pid": record.pid,
            "class": record.info["class"],
        }
        record.details = details = {**facts, **details, "died_at": now}
        self._enter(record, DEAD, now)
        del self.actors[record.actor_id]
        self.dead[record.actor_id] = details
        if len(self.dead) > self._config.dead_actors_max:
            self.dead.popitem(last=False)
        for caller in record.callers:
            self.outbox.append(("send", caller, [m.ACTOR_STATE, record.actor_id, "dead", details]))
        record.callers.clear()
        if record.info["detached"]:
            self.outbox.append(("let_go", record.actor_id))
            self._scheduler.jobs.pop(record.job, None)

    def _tell(self, caller: bytes, record: ActorRecord, state: str, details: dict[str, Any]) -> None:
        facts = {"name": record.info["name"], "node": self._node_id}
        self.outbox.append(("send", caller, [m.ACTOR_STATE, record.actor_id, state, {**facts, **details}]))

    def _enter(self, record: ActorRecord, state: str, now: float) -> None:
        record.state = state
        record.since = now
        self.outbox.append(("changed", record))

    # --- for people ---

    def named(self, namespace: str, name: str) -> ActorRecord | None:
        """The actor of that name that is not about to end."""
        return self.names.get((namespace, name))

    def rows(self, now: float) -> list[dict[str, Any]]:
        """A row per actor, the living first, for `list actors`."""
        return rows(self.actors.values(), self.dead, self._node_id, now)

    def validate(self) -> None:
        """Raise AssertionError if an invariant is broken."""
        for actor_id, record in self.actors.items():
            assert record.actor_id == actor_id
            assert record.state != DEAD, record
            assert bool(record.proc) == (record.restart_at is None), record
            assert not record.proc or self.by_proc[record.proc] is record, record
            assert bool(record.worker_id) == (record.state in (STARTING, ALIVE)), record
            assert not record.worker_id or self.by_worker[record.worker_id] is record, record
            known = (self.names.get(record.key), self._namesakes.get(record.key))
            assert not record.info["name"] or record.final or record in known, record
        for key, record in self.names.items():
            assert record.key == key, record
            assert self.actors.get(record.actor_id) is record, record

"""What drivers of simulations do with actors: make one, or get the one of a name, call it, and let go of it; some are killed.

The production core (`ActorCalls`), with what its shell does (`shoal.actors.client`).
"""

from __future__ import annotations

from functools import partial
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from tests.sim.workload import PLAIN, Plan

from shoal.actors.calls import ActorCalls
from shoal.ids import split_ids
from shoal.owner.leases import Lease
from shoal.owner.objects import FAILED, PENDING, Entry
from shoal.owner.tasks import FunctionExport, TaskRecord
from shoal.wire import messages as m

if TYPE_CHECKING:
    from tests.sim.acting import ActorConnection
    from tests.sim.drivers import Driver

_TABLES = [SimpleNamespace(name="Sim", ordered=ordered, max_pending_calls=0) for ordered in (False, True)]
_WIDTHS = (2, 3, 5)
_CALL = FunctionExport(b"call".ljust(16), b"code", "call", [])
_BYTES = 400
_NAMES = ("", "", "", "ann", "bob")
_CALLS_MAX = 8
_SWEEP_S = 0.1


class _Cast:
    """An actor, and the calls to it that have not ended."""

    def __init__(self, plan: Plan, entry: Entry, calls: ActorCalls) -> None:
        self.plan = plan
        self.entry = entry
        self.calls = calls
        self.left = 0
        self.running = 0
        self.kills = self.detached = self.over = False


class Casts:
    """The actors that one driver calls."""

    def __init__(self, driver: Driver) -> None:
        self._driver = driver
        self.calls: dict[bytes, ActorCalls] = {}
        self._requests: dict[int, tuple[_Cast, bool]] = {}
        self._living: dict[_Cast, None] = {}
        self._numbers = 0
        self._late_s = driver.cluster.config.late_replies_ms / 1000
        # Detached actors that nobody has killed for good: made here, or by a driver that has died; and kills without an answer.
        self._detached: dict[bytes, None] = {}
        self._killing: dict[int, bytes] = {}
        self._unsure: dict[bytes, None] = {}
        self._late_ends: dict[bytes, tuple[str, dict[str, Any]]] = {}  # states that wait for last replies
        self._next: dict[bytes, tuple[Any, ...]] = {}  # connections that wait for these

    @property
    def running(self) -> int:
        """Actors that this driver has not let go of."""
        return len(self._living)

    # --- making ---

    def make(self, plan: Plan) -> None:
        """A new actor: what it is made from is stored first."""
        driver = self._driver
        object_id = driver.new_put_id()
        then = partial(self._sealed, plan, object_id)
        driver.storage.write(object_id, _BYTES, m.SEAL_PRIMARY, driver.proc, then)

    def _sealed(self, plan: Plan, actor_id: bytes, error: str) -> None:
        assert not error, error
        driver, source = self._driver, self._driver.cluster.random
        entry = driver.table.add_stored(actor_id, _BYTES)
        lanes = driver.workload.mix.lanes
        if lanes and source.random() < lanes:
            driver.cluster.stage.widths[actor_id] = source.choice(_WIDTHS)
        calls = self.calls[actor_id] = self._calls_of(actor_id, entry)
        cast = _Cast(plan, entry, calls)
        self._living[cast] = None
        name = source.choice(_NAMES)
        cast.detached = bool(name) and source.random() < 0.3
        if cast.detached:
            self._detached[actor_id] = None
        cast.kills = cast.detached or source.random() < 0.2
        restarts = source.choice((0, 1, 3))
        driver.cluster.stage.restarts_max[actor_id] = restarts
        info = {
            "name": name, "namespace": "sim", "class": "Sim", "resources": source.choice(({}, {"CPU": 10_000})),
            "placement": {"CPU": 10_000}, "constraints": {}, "max_restarts": restarts, "detached": cast.detached,
            "get_if_exists": source.random() < 0.5, "table": b"table",
        }  # fmt: skip
        driver.cluster.note(f"{driver} makes actor {actor_id.hex()} {name} {restarts}")
        req = 0
        if name:
            self._numbers -= 1
            req = self._numbers
            self._requests[req] = cast, True
        driver.table.to_node([m.CREATE_ACTOR, req, actor_id, info])
        if not req:
            self._begin(cast)

    def _calls_of(self, actor_id: bytes, entry: Entry) -> ActorCalls:
        driver = self._driver
        table = _TABLES[driver.cluster.stage.width(actor_id) == 1]
        return ActorCalls(actor_id, table, driver.dispatch, entry)  # type: ignore[arg-type]

    def _answered(self, cast: _Cast, ok: bool, data: Any) -> None:
        driver = self._driver
        if not ok:
            assert data, "an actor was refused without a reason"
            self._forget(cast.calls)
            self._ends(cast, "name taken")
        elif data["actor"] == cast.calls.actor_id:
            self._begin(cast)
        else:
            self._forget(cast.calls)
            driver.table.drop_uses((cast.entry,))
            (cast.entry,) = driver.table.received_held(split_ids(data["actor"]), None)
            actor_id = cast.entry.id
            calls = self.calls.get(actor_id)
            if calls is None:
                calls = self.calls[actor_id] = self._calls_of(actor_id, cast.entry)
                driver.table.to_node([m.CONNECT_ACTOR, actor_id, 0])
            calls.entry = cast.entry
            cast.calls = calls
            self._begin(cast)

    # --- calling ---

    def _begin(self, cast: _Cast) -> None:
        source = self._driver.cluster.random
        cast.left = source.randint(1, _CALLS_MAX)
        self._call(cast)

    def _call(self, cast: _Cast) -> None:
        """Call it, a few times at once; more follow later."""
        driver, source = self._driver, self._driver.cluster.random
        if not driver.alive:
            return
        for _ in range(min(cast.left, source.randint(1, 4))):
            cast.left -= 1
            cast.running += 1
            self._submit(cast, source.choice((0, 0, 2, -1)))
        if cast.left:
            driver.cluster.clock.at(source.choice((0.0, 0.2, 3.0)), lambda: self._call(cast))
        driver.flush()

    def _submit(self, cast: _Cast, retries: int) -> None:
        driver = self._driver
        plan = driver.workload.plain()
        driver.cluster.planned(plan)
        if retries:
            driver.cluster.stage.retried.add(plan.number)
        self._numbers -= 1
        task_id = driver.proc + (1 << 29 | -self._numbers).to_bytes(4, "big") + bytes(4)
        options = PLAIN.merged(max_retries=retries)
        task = TaskRecord(task_id, _CALL, options, plan.number.to_bytes(8, "big"), cast.calls)  # type: ignore[arg-type]
        task.careful = False
        entry = driver.table.entries[task_id] = Entry(task_id, PENDING, 1, task)
        entry.waiters = [_Answer(self, cast, plan)]
        task.returns = (entry,)
        cast.calls.submit(task)

    def ended(self, cast: _Cast, plan: Plan, entry: Entry) -> None:
        """A call has its value, or an error."""
        driver = self._driver
        assert not plan.outcome, f"{plan} ended twice"
        plan.outcome = "call failed" if entry.state == FAILED else "called"
        assert entry.state != FAILED or entry.value, f"{plan} failed without a reason"
        driver.cluster.counted(plan.outcome)
        driver.cluster.clock.at(0.0, partial(driver.forget, entry))
        cast.running -= 1
        if not cast.running and not cast.left:
            driver.cluster.clock.at(driver.cluster.random.choice((0.0, 1.0)), lambda: self._let_go(cast))

    def _let_go(self, cast: _Cast) -> None:
        driver = self._driver
        if cast.over or not driver.alive:
            return
        if cast.kills:
            cast.calls.lost()
            self._kill(cast.calls.actor_id)
        self._ends(cast, "actor killed" if cast.kills else "actor let go")
        driver.flush()

    def _kill(self, actor_id: bytes) -> None:
        """`Actors.kill`: once is enough, unless this driver dies before it is answered."""
        self._numbers -= 1
        self._killing[self._numbers] = actor_id
        if self._detached.pop(actor_id, self) is None:
            self._unsure[actor_id] = None
        self._driver.table.to_node([m.KILL_ACTOR, self._numbers, actor_id, True])

    def _ends(self, cast: _Cast, outcome: str) -> None:
        cast.over = True
        self._living.pop(cast, None)
        self._driver.table.drop_uses((cast.entry,))
        self._driver.cluster.clock.at(_SWEEP_S, self._sweep)
        self._driver.plan_over(cast.plan, outcome)

    def _sweep(self) -> None:
        """`Actors.tick`."""
        driver = self._driver
        if not driver.alive:
            return
        for calls in list(self.calls.values()):
            if calls.waiting:
                calls.settle()
            if not calls.held and calls.actor_id not in driver.table.entries:
                self._forget(calls)
                driver.table.to_node([m.DISCONNECT_ACTOR, calls.actor_id])
        driver.flush()
        if len(self.calls) > len(self._living):
            driver.cluster.clock.at(_SWEEP_S, self._sweep)

    def _forget(self, calls: ActorCalls) -> None:
        self.calls.pop(calls.actor_id, None)
        self._late_ends.pop(calls.actor_id, None)
        self._drop_next(calls.actor_id)
        lease, calls.lease = calls.lease, None
        if lease is not None:
            if not lease.broken:
                lease.connection.there.send([(m.LEAVE,)])
            lease.connection.close()
            lease.broken = True

    # --- messages ---

    def hears(self, message: list[Any]) -> bool:
        """Whether this was about an actor."""
        tag = message[0]
        if tag == m.RESPONSE and message[1] in self._requests:
            cast, _ = self._requests.pop(message[1])
            self._answered(cast, message[2], message[3])
        elif tag == m.RESPONSE and message[1] in self._killing:
            actor_id = self._killing.pop(message[1])
            if message[3]:  # the head knows; else only this node goes on telling it
                self._unsure.pop(actor_id, None)
        elif tag == m.ACTOR_PEER:
            self._meets(*message[1:])
        elif tag == m.ACTOR_STATE:
            self._state(*message[1:])
        else:
            return False
        return True

    def _meets(
        self, actor_id: bytes, incarnation: int, proc: bytes, pid: int, connection: ActorConnection
    ) -> None:
        calls = self.calls.get(actor_id)
        if calls is None:
            connection.close()
            return
        if actor_id in self._late_ends and calls.lease is not None and not calls.lease.connection.ended:
            self._drop_next(actor_id)
            self._next[actor_id] = incarnation, proc, pid, connection
            return
        self._let_end(actor_id)
        self._meet(calls, incarnation, proc, pid, connection)

    def _drop_next(self, actor_id: bytes) -> None:
        if actor_id in self._next:
            self._next.pop(actor_id)[3].close()

    def _meet(
        self, calls: ActorCalls, incarnation: int, proc: bytes, pid: int, connection: ActorConnection
    ) -> None:
        lease = Lease(0, proc, pid, calls, connection, "")  # type: ignore[arg-type]
        connection.lease = lease
        calls.connected(lease, incarnation, {"caller": self._driver.proc})
        if connection.ended:
            self.broke(connection)

    def _state(self, actor_id: bytes, state: str, details: dict[str, Any]) -> None:
        assert details.get("reason") or state == "pending", f"an actor is {state}, and nobody says why"
        calls = self.calls.get(actor_id)
        if calls is None or calls.is_past(details):
            return
        self._let_end(actor_id)
        lease = calls.lease
        late = (
            lease is not None
            and lease.inflight
            and not lease.connection.ended
            and not details.get("node_died")
        )
        if state != "pending" and late:
            lease.broken = True
            self._late_ends[actor_id] = end = state, details
            self._driver.cluster.clock.at(self._late_s, lambda: self._let_end(actor_id, end))
        else:
            self._take_state(calls, state, details)

    def _let_end(self, actor_id: bytes, end: tuple[str, dict[str, Any]] | None = None) -> None:
        """`Actors._let_end`; ``end``: if it is still that one."""
        held = self._late_ends.get(actor_id)
        if held is None or (end is not None and held is not end) or not self._driver.alive:
            return
        del self._late_ends[actor_id]
        calls = self.calls.get(actor_id)
        if calls is not None:
            state, details = held
            self._take_state(calls, state, details)
            if actor_id in self._next:
                self._meet(calls, *self._next.pop(actor_id))
            self._driver.flush()

    def _take_state(self, calls: ActorCalls, state: str, details: dict[str, Any]) -> None:
        if state == "dead":
            calls.died(details)
        elif state == "restarting":
            ended = calls.lease is None or calls.lease.connection.orderly
            calls.restarting(calls.known(details, ended))
        else:
            calls.infeasible = details.get("reason") or None

    def replies(self, connection: ActorConnection, batch: list[Any]) -> None:
        """A frame of an actor."""
        lease = connection.lease
        calls: Any = lease.queue if lease is not None else None
        if lease is None or (
            lease.broken and (lease is not calls.lease or calls.actor_id not in self._late_ends)
        ):
            return
        for message in batch:
            if message[0] == m.DONE:
                self._driver.dispatch.done(lease, message)
            elif message[0] == m.RESUMED:
                calls.resumed(lease, message[1])
            elif message[0] == m.NOT_BEGUN:
                calls.not_begun.update(message[1])
            else:
                raise AssertionError(f"{self._driver} got {message} from an actor")
        if batch[-1][0] != m.RESUMED:
            calls.heard_frame(lease, 100)
        calls.settle()
        self._driver.flush()

    def broke(self, connection: ActorConnection) -> None:
        """A connection is closed."""
        lease = connection.lease
        calls: Any = lease.queue if lease is not None else None
        if lease is not None and lease is calls.lease and calls.actor_id in self._late_ends:
            self._let_end(calls.actor_id)
        elif lease is not None and not lease.broken and lease is calls.lease:
            calls.lost()
            self._driver.table.to_node([m.CONNECT_ACTOR, calls.actor_id, calls.incarnation])
            self._driver.flush()

    @property
    def unkilled(self) -> set[bytes]:
        """Detached actors that this driver has not killed, or was not told that it has."""
        return {*self._detached, *self._unsure}

    def inherit(self, gone: Casts) -> None:
        """The detached actors of a driver that has died are killed by this one."""
        self._detached.update(gone._detached | gone._unsure)

    def forget(self) -> None:
        """Detached actors that nobody has killed are."""
        for actor_id in list(self._detached):
            self._kill(actor_id)

    def describe(self) -> list[str]:
        """What is not over, for people."""
        return [
            f"actor {cast.calls.actor_id.hex()}, {cast.running} calls under way, {cast.left} to come, state {cast.calls.state}"
            f": {cast.calls.details}"
            for cast in self._living
        ]

    def validate(self) -> None:
        """Every core is sound."""
        for calls in self.calls.values():
            calls.validate()


class _Answer:
    """Waits for the result of a call."""

    __slots__ = ("_cast", "_casts", "_plan")

    def __init__(self, casts: Casts, cast: _Cast, plan: Plan) -> None:
        self._casts = casts
        self._cast = cast
        self._plan = plan

    def entry_ready(self, entry: Entry) -> None:
        self._casts.ended(self._cast, self._plan, entry)

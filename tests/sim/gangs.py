"""What drivers of simulations do with placement groups: make one, run tasks in it, and remove it, mostly when these are done.

Some groups are removed sooner, some are more than the cluster has, some have a name that may be taken, and a small one is kept
until the driver forgets everything, or ends: no more, for what is kept takes room that others may need.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from shoal.client.groups import Captured
from shoal.owner.objects import FAILED, Entry
from shoal.wire import messages as m
from shoald.node.groups import STRATEGIES

if TYPE_CHECKING:
    from tests.sim.drivers import Driver
    from tests.sim.workload import Plan

_BUNDLES_MAX = 3
_TASKS_MAX = 6
_PATIENCE_S = (0.0, 0.3, 20.0, 20.0, 20.0)  # what waits for longer is removed
_NAMES = ("", "", "", "one", "two")
_CPU = 10_000
_FORGETS = 0.5


class InBundle(Captured):
    """The strategy of a task in one bundle of a group, or any (-1)."""

    __slots__ = ("_bundle",)

    def __init__(self, group: bytes, bundle: int) -> None:
        super().__init__(group)
        self._bundle = bundle

    def to_wire(self) -> list[Any]:
        return ["group", self._group, self._bundle, False]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, InBundle) and other.to_wire() == self.to_wire()

    def __hash__(self) -> int:
        return hash((self._group, self._bundle))


class _Gang:
    """A group, and its tasks that have not ended."""

    def __init__(self, plan: Plan, group_id: bytes, bundles: int, keeps: bool) -> None:
        self.plan = plan
        self.group_id = group_id
        self.bundles = bundles
        self.keeps = keeps
        self.running = 0
        self.begun = self.over = False


class Gangs:
    """The placement groups of one driver."""

    def __init__(self, driver: Driver) -> None:
        self._driver = driver
        self._gangs: dict[bytes, _Gang] = {}
        self._requests: dict[int, _Gang] = {}
        self._kept: list[bytes] = []
        self._made = 0

    def make(self, plan: Plan) -> None:
        """Ask for a group."""
        driver, source = self._driver, self._driver.cluster.random
        self._made += 1
        group_id = driver.proc + (1 << 30 | self._made).to_bytes(4, "big") + bytes(4)
        bundles = source.randint(1, _BUNDLES_MAX)
        gang = self._gangs[group_id] = _Gang(plan, group_id, bundles, bundles == 1)
        info = {
            "name": source.choice(_NAMES), "namespace": "sim", "strategy": source.choice(STRATEGIES), "detached": False,
            "bundles": [{"CPU": _CPU * source.choice((1, 1, 1, 2))} for _ in range(bundles)],
        }  # fmt: skip
        req = 0
        if info["name"]:
            req = self._made
            self._requests[req] = gang
        driver.cluster.note(
            f"{driver} wants {group_id.hex()}: {info['strategy']} of {bundles} {info['name']}"
        )
        driver.table.to_node([m.CREATE_GROUP, req, group_id, info])
        patience_s = source.choice(_PATIENCE_S)
        driver.cluster.clock.at(patience_s, lambda: self._impatient(gang))

    def hears(self, message: list[Any]) -> bool:
        """Whether this was about a group."""
        if message[0] == m.RESPONSE and message[1] in self._requests:
            gang = self._requests.pop(message[1])
            if not message[2]:
                assert message[3], "a group was refused without a reason"
                self._end(gang, "group refused")
            return True
        if message[0] != m.GROUP_STATE:
            return False
        _, group_id, state, reason, nodes = message
        gang = self._gangs.get(group_id)
        if gang is None:
            return True
        if state == "CREATED":
            assert all(nodes), f"{group_id.hex()} is created, and has {nodes}"
            self._begin(gang)
        else:
            assert reason, f"{group_id.hex()} is {state}, and nobody says why"
            if state == "REMOVED":
                self._end(gang, "group removed")
        return True

    def _begin(self, gang: _Gang) -> None:
        if gang.begun or gang.over:
            return
        gang.begun = True
        driver, source = self._driver, self._driver.cluster.random
        for _ in range(source.randint(1, _TASKS_MAX)):
            plan = driver.workload.plain()
            strategy = InBundle(gang.group_id, source.choice((-1, source.randrange(gang.bundles))))
            plan.options = plan.options.merged(scheduling_strategy=strategy)
            driver.cluster.planned(plan)
            gang.running += 1
            driver.submit(plan, (), _Member(self, gang, plan))

    def ended(self, gang: _Gang, plan: Plan, entry: Entry) -> None:
        """A task in a group has ended."""
        driver = self._driver
        driver.cluster.ended(plan, entry)
        if entry.state == FAILED:
            known = gang.over or driver.cluster.faulty
            assert known, f"{plan} failed in a group that is there: {entry.value!r}"
        driver.cluster.clock.at(0.0, partial(driver.forget, entry))
        gang.running -= 1
        if not gang.running:
            driver.cluster.clock.at(0.0, lambda: self._done(gang))

    def _done(self, gang: _Gang) -> None:
        if gang.keeps and not gang.over and not self._kept:
            self._kept.append(gang.group_id)
            self._end(gang, "group kept")
        else:
            self._remove(gang, "group done")

    def _impatient(self, gang: _Gang) -> None:
        if self._driver.alive:
            self._remove(gang, "group left")

    def _remove(self, gang: _Gang, outcome: str) -> None:
        if not gang.over:
            self._driver.table.to_node([m.REMOVE_GROUP, gang.group_id])
            self._end(gang, outcome)
            self._driver.flush()

    def _end(self, gang: _Gang, outcome: str) -> None:
        """It is over; tasks in it may still have to hear of it."""
        if gang.over:
            return
        gang.over = True
        if not gang.running:
            self._gangs.pop(gang.group_id, None)
        self._driver.plan_over(gang.plan, outcome)

    def forget(self) -> None:
        """Remove what was kept, or not: then it ends with the driver."""
        if self._kept and self._driver.cluster.random.random() < _FORGETS:
            self._driver.table.to_node([m.REMOVE_GROUP, self._kept.pop()])

    @property
    def running(self) -> int:
        """Tasks in groups that have not ended."""
        return sum(gang.running for gang in self._gangs.values())


class _Member:
    """Waits for the result of a task in a group."""

    __slots__ = ("_gang", "_gangs", "_plan")

    def __init__(self, gangs: Gangs, gang: _Gang, plan: Plan) -> None:
        self._gangs = gangs
        self._gang = gang
        self._plan = plan

    def entry_ready(self, entry: Entry) -> None:
        self._gangs.ended(self._gang, self._plan, entry)

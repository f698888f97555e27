"""What the tasks of a simulated cluster do, drawn from a seed: how long they run, what they return, and what they read.

Tasks of three functions: short, medium and long ones. Some results are stored, and each of these is read by one later task,
together with one or two others; so it is known how many bytes have to move at the least. Optionally, some tasks have tasks of
their own, some fail, and some ask for more than one CPU or for another node each time.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from shoal.options import TaskOptions

PLAIN = TaskOptions()
TWO_CPUS = PLAIN.merged(num_cpus=2)
SPREAD = PLAIN.merged(scheduling_strategy="SPREAD")
ONCE = PLAIN.merged(max_retries=0)
# The functions of plans that are no tasks: their driver writes a value, or makes a placement group and runs tasks in it,
# or an actor and calls it.
PUT, GROUP, ACTOR = "put", "group", "actor"
MEANS_S = {"short": 0.001, "medium": 0.2, "long": 1.0}
SIZES = (200_000, 1_000_000, 5_000_000, 20_000_000)
SMALL = 100
ARGUMENTS_MAX = 3


class Plan:
    """One task.

    Attributes:
        arguments: plans whose stored results it reads.
        ready_s: when its arguments are there at the earliest, however many machines there are; `chain_s`: when it is done.
        made_on: tag of the node where its result was made; b"" if that is not stored or not known.
    """

    __slots__ = (
        "arguments",
        "chain_s",
        "children",
        "fails",
        "function",
        "made_on",
        "nests",
        "number",
        "options",
        "outcome",
        "run_s",
        "size",
    )

    def __init__(self, number: int, function: str, run_s: float, size: int) -> None:
        self.number = number
        self.function = function
        self.run_s = run_s
        self.size = size
        self.options = PLAIN
        self.arguments: tuple[Plan, ...] = ()
        self.children: tuple[Plan, ...] = ()
        self.fails = self.nests = False
        self.made_on = b""
        self.outcome = ""
        self.chain_s = run_s

    def __repr__(self) -> str:
        return f"<plan {self.number} {self.function} {self.run_s:.3f} s, {self.size} bytes {self.outcome}>"


@dataclass
class Mix:
    """How often things are drawn; `sizes` of stored results in bytes.

    Attributes:
        puts: values that drivers write themselves; gets: how many results drivers look at, for each task.
        groups: placement groups; actors: actors, with some calls each.
        lanes: actors that run several calls at once.
        once: tasks that may not run again; nested: those of which a stored result contains a ref to what the run has put.
    """

    stored: float = 0.25
    readers: float = 0.2
    parents: float = 0.0
    failing: float = 0.0
    odd: float = 0.0
    puts: float = 0.0
    gets: float = 0.0
    once: float = 0.0
    nested: float = 0.0
    groups: float = 0.0
    actors: float = 0.0
    lanes: float = 0.0
    sizes: tuple[int, ...] = SIZES


class Workload:
    """Draws plans.

    Attributes:
        work_s: CPU seconds of all that was drawn; `longest_s`: the longest chain of tasks that wait for each other.
    """

    def __init__(self, source: random.Random, mix: Mix, next_number: Callable[[], int]) -> None:
        self._random = source
        self.mix = mix
        self._unread: list[Plan] = []
        self._next_number = next_number
        self.work_s = 0.0
        self.longest_s = 0.0

    def draw(self) -> Plan:
        """The next task of a driver."""
        mix, source = self.mix, self._random
        if mix.puts and source.random() < mix.puts:
            return self._put()
        if mix.groups and source.random() < mix.groups:
            return Plan(self._next_number(), GROUP, 0.0, SMALL)
        if mix.actors and source.random() < mix.actors:
            return Plan(self._next_number(), ACTOR, 0.0, SMALL)
        plan = self.plain()
        if self._unread and source.random() < mix.readers:
            count = min(len(self._unread), source.randint(1, ARGUMENTS_MAX))
            plan.arguments = tuple(self._take_unread() for _ in range(count))
            plan.chain_s += max(each.chain_s for each in plan.arguments)
        if source.random() < mix.parents:
            plan.children = tuple(self.plain() for _ in range(source.randint(1, 3)))
            plan.chain_s += max(child.run_s for child in plan.children)
            if source.random() < 0.3:
                plan.children[0].children = (self.plain(),)
                plan.chain_s += plan.children[0].children[0].run_s
        elif source.random() < mix.stored:
            plan.size = source.choice(mix.sizes)
            self._unread.append(plan)
            plan.nests = bool(mix.nested) and source.random() < mix.nested
        plan.fails = source.random() < mix.failing
        if source.random() < mix.odd:
            plan.options = source.choice((TWO_CPUS, SPREAD))
        elif mix.once and source.random() < mix.once:
            plan.options = ONCE
        self.longest_s = max(self.longest_s, plan.chain_s)
        return plan

    def _put(self) -> Plan:
        plan = Plan(self._next_number(), PUT, 0.0, self._random.choice(self.mix.sizes))
        self._unread.append(plan)
        return plan

    def forget(self, plan: Plan) -> None:
        """Its value could not be written: nobody can read it."""
        self._unread.remove(plan)

    def plain(self) -> Plan:
        """A task that reads nothing, with a small result."""
        source = self._random
        function = source.choices(("short", "medium", "long"), (2, 5, 3))[0]
        plan = Plan(self._next_number(), function, MEANS_S[function] * source.uniform(0.1, 1.9), SMALL)
        self.work_s += plan.run_s
        return plan

    def _take_unread(self) -> Plan:
        """One of the results that nobody reads yet, out of the last ones mostly."""
        unread = self._unread
        position = self._random.randrange(len(unread))
        unread[position], unread[-1] = unread[-1], unread[position]
        return unread.pop()


def bytes_to_move(plan: Plan) -> int:
    """How many bytes of its arguments have to move at the least: all but those of the node that made most of them."""
    by_node: dict[Any, int] = {}
    for each in plan.arguments:
        if each.size > SMALL:
            by_node[each.made_on] = by_node.get(each.made_on, 0) + each.size
    return sum(by_node.values()) - max(by_node.values(), default=0)

"""From a graph of Dask to steps: what becomes one task each, in which order, and on whose results each depends. Pure.

A step is a short *program*: instructions, each with a function and its operands, which are constants, results of instructions
before it, or values that the step depends on. The function of a Dask task is one instruction; so is a list of other tasks'
results among its arguments. What Dask has fused into one task becomes several instructions of one program: running these takes
no planning at the worker, where Dask would order such a subgraph anew for each task, and they are pickled in a few microseconds,
of the 15 to 120 that Dask's own task objects take. A node of a class that is not known here is called as Dask would call it.

A chain of tasks, each of which only the next one needs, and which needs only that one, is one step: nothing could run beside
it. A chain of ten is faster by a third than as ten tasks (5,000 small tasks in 0.17 s instead of 0.25).

Large constants, and refs of what was persisted, wherever they are inside of a task, are dependencies (`Constant`): stored once.

Invariants: a step comes after all steps that it depends on; a requested key is a step or a constant, once aliases have been
followed; a value is needed by a step at most once (`Step.needs`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from dask._task_spec import (
    Alias,
    DataNode,
    GraphNode,
    Task,
    TaskRef,
    _execute_subgraph,
    convert_legacy_graph,
    cull,
)
from dask.order import order

from shoal.util.programs import Instruction, itself

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping

    Key = Hashable


class Constant:
    """A value that is no task's result, as a dependency; one for each such object in a graph."""

    __slots__ = ("value",)

    def __init__(self, value: Any) -> None:
        self.value = value


class Step(NamedTuple):
    """What one task does.

    Attributes:
        key: whose result it makes; `keys`: of all tasks of Dask in it.
        needs: keys of other steps, and constants, whose values the program is called with.
        options: of the task; None if nothing was said of any.
    """

    key: Key
    keys: tuple[Key, ...]
    program: tuple[Instruction, ...]
    needs: tuple[Key | Constant, ...]
    options: Any = None


class Plan(NamedTuple):
    """A graph, ready to be submitted in order.

    Attributes:
        results: requested key → the key of the step that makes it, or a constant.
        uses: how many steps need a value.
    """

    steps: list[Step]
    results: dict[Key, Key | Constant]
    uses: dict[Key | Constant, int]


def make_plan(
    graph: Mapping[Key, Any],
    requested: Iterable[Key],
    is_large: Callable[[Any], bool],
    options_of: Callable[[Iterable[Key]], Any] | None = None,
) -> Plan:
    """The plan for the ``requested`` keys of a graph, old style or new.

    Args:
        is_large: whether a constant is to be stored, instead of being sent along with each task that needs it.
        options_of: the options of a task that stands for several keys, its own last. Tasks whose options are not the same object
            are never in one step.

    Raises KeyError for a key that is not in the graph, RuntimeError for a cycle.
    """
    wanted = set(requested)
    nodes: dict[Key, GraphNode] = cull(convert_legacy_graph(graph), wanted)
    values = _Values(nodes, is_large)
    results = {key: values.of(key) for key in wanted}
    tasks = {key: node for key, node in nodes.items() if not isinstance(node, Alias | DataNode)}
    needs = {key: _unique(map(values.of, node.dependencies)) for key, node in tasks.items()}
    priorities = order(nodes)
    options = {key: options_of(_all_keys(key, node)) for key, node in tasks.items()} if options_of else {}
    chains = _chains(sorted(tasks, key=priorities.__getitem__), needs, set(results.values()), options)
    steps = [_step([(key, tasks[key]) for key in chain], values, options.get(chain[-1])) for chain in chains]
    steps.sort(key=lambda step: priorities[step.key])
    uses: dict[Key | Constant, int] = {}
    for step in steps:
        for value in step.needs:
            uses[value] = uses.get(value, 0) + 1
    return Plan(steps, results, uses)


class _Values:
    """What keys stand for, once aliases have been followed; and the constants of a graph."""

    def __init__(self, nodes: dict[Key, GraphNode], is_large: Callable[[Any], bool]) -> None:
        self._nodes = nodes
        self._constants: dict[int, Constant] = {}
        self.is_large = is_large

    def of(self, key: Key) -> Key | Constant:
        """The key of a task, or a constant."""
        seen = {key}
        node = self._nodes.get(key)
        while isinstance(node, Alias):
            key = node.target
            if key in seen:
                raise RuntimeError(f"{key!r} is an alias of itself")
            seen.add(key)
            node = self._nodes.get(key)
        if node is None:
            raise KeyError(f"{key!r} is not in the graph, though it is needed")
        return self.constant(node.value) if isinstance(node, DataNode) else key

    def constant(self, value: Any) -> Constant:
        """The constant that stands for this very object."""
        found = self._constants.get(id(value))
        if found is None:
            found = self._constants[id(value)] = Constant(value)
        return found


def _unique(values: Iterable[Any]) -> tuple[Any, ...]:
    return tuple(dict.fromkeys(values))


def _chains(
    keys: list[Key],
    needs: dict[Key, tuple[Key | Constant, ...]],
    requested: set[Key | Constant],
    options: dict[Key, Any],
) -> Iterator[list[Key]]:
    """The tasks, in order, those of a chain together."""
    users: dict[Key | Constant, int] = {}
    for needed in needs.values():
        for value in needed:
            users[value] = users.get(value, 0) + 1
    chain_of: dict[Key, list[Key]] = {}
    for key in keys:
        before = [value for value in needs[key] if type(value) is not Constant]
        only = before[0] if len(before) == 1 else None
        if (
            only is not None
            and users[only] == 1
            and only not in requested
            and options.get(only) is options.get(key)
        ):
            chain = chain_of.pop(only)
            chain.append(key)
            chain_of[key] = chain
        else:
            chain_of[key] = [key]
    yield from chain_of.values()


def _all_keys(key: Key, node: GraphNode) -> list[Key]:
    """The keys of a task, with those of what Dask fused in it."""
    if isinstance(node, Task) and node.func is _execute_subgraph:
        return [*node.args[0], key]
    return [key]


def _step(chain: list[tuple[Key, GraphNode]], values: _Values, options: Any) -> Step:
    program = _Program(values)
    known: dict[Key, int] = {}
    for key, node in chain:
        known[key] = program.call(node, known)
    return Step(chain[-1][0], tuple(known), program.finished(), tuple(program.needs), options)


class _Program:
    """The program of a step in the making."""

    def __init__(self, values: _Values) -> None:
        self._values = values
        self._instructions: list[Instruction] = []
        self.needs: dict[Key | Constant, int] = {}

    def finished(self) -> tuple[Instruction, ...]:
        """All instructions; each knows which results are not needed after it."""
        last: dict[int, int] = {}
        for number, instruction in enumerate(self._instructions):
            last.update(
                (operand, number) for operand in instruction.operands if operand is not None and operand >= 0
            )
        ends: dict[int, list[int]] = {}
        for operand, number in last.items():
            ends.setdefault(number, []).append(operand)
        return tuple(
            instruction._replace(last_uses=tuple(ends[number])) if number in ends else instruction
            for number, instruction in enumerate(self._instructions)
        )

    def call(self, node: GraphNode, known: Mapping[Key, int]) -> int:
        """Append what makes the value of a task; the operand that stands for it. ``known``: operands of keys in its scope."""
        if type(node).__call__ is not Task.__call__:
            return self._call_unknown(node, known)
        if node.func is _execute_subgraph:
            return self._call_subgraph(node, known)
        names = tuple(node.kwargs)
        constants: list[Any] = []
        operands = [self._operand(value, known, constants) for value in node.args]
        operands += [self._operand(value, known, constants) for value in node.kwargs.values()]
        return self._append(node.func, operands, constants, names)

    def _append(
        self, function: Any, operands: list[int | None], constants: list[Any], names: tuple[str, ...] = ()
    ) -> int:
        self._instructions.append(Instruction(function, tuple(operands), tuple(constants), names))
        return len(self._instructions) - 1

    def _operand(self, value: Any, known: Mapping[Key, int], constants: list[Any]) -> int | None:
        """What stands for an argument; None for a constant, which is appended to ``constants``."""
        if isinstance(value, TaskRef):
            return self._value(value.key, known)
        if isinstance(value, Alias):
            return self._value(value.target, known)
        if isinstance(value, DataNode):
            value = value.value
        elif isinstance(value, GraphNode):
            return self.call(value, known)
        if self._values.is_large(value):
            return self._needed(self._values.constant(value))
        constants.append(value)
        return None

    def _made(self, value: Any, known: Mapping[Key, int]) -> int:
        """As `_operand`, for what has to have one."""
        constants: list[Any] = []
        operand = self._operand(value, known, constants)
        return self._append(itself, [None], constants) if operand is None else operand

    def _value(self, key: Key, known: Mapping[Key, int]) -> int:
        operand = known.get(key)
        if operand is None:
            value = self._values.of(key)  # it may be an alias of what is known
            operand = known.get(value) if type(value) is not Constant else None
            if operand is None:
                operand = self._needed(value)
        return operand

    def _needed(self, value: Key | Constant) -> int:
        return self.needs.setdefault(value, ~len(self.needs))

    def _call_subgraph(self, node: Task, known: Mapping[Key, int]) -> int:
        """What Dask fused: the tasks inside, whose scope is their own."""
        graph, result, *_ = node.args
        scope: dict[Key, int] = {}
        for key, value in _outer_values(node):
            scope[key] = self._made(value, known)
        todo = [result]
        while todo:
            key = todo[-1]
            if key in scope:
                todo.pop()
                continue
            inner = graph[key]
            missing = [each for each in inner.dependencies if each not in scope]
            if missing:
                todo += missing
                continue
            todo.pop()
            scope[key] = self._made(inner, scope)
        return scope[result]

    def _call_unknown(self, node: GraphNode, known: Mapping[Key, int]) -> int:
        keys = tuple(node.dependencies)
        return self._append(
            _call_node, [None, None, *(self._value(key, known) for key in keys)], [node, keys]
        )


def _outer_values(node: Task) -> Iterator[tuple[Key, Any]]:
    """The keys that a subgraph knows from outside, with what stands for them."""
    _, _, keys, *rest = node.args
    if isinstance(keys, tuple):
        yield from zip(keys, rest, strict=True)
        return
    for each in (keys, *rest):  # Dask 2024.12: two dicts, empty ones or nodes that have a node for each pair
        yield from (pair.args for pair in getattr(each, "args", ()))


def _call_node(node: Any, keys: tuple[Key, ...], *values: Any) -> Any:
    return node(dict(zip(keys, values, strict=True)))

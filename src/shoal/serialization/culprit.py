"""What in a value cannot be serialized, and where: "value['model'].lock: _thread.lock object".

The search serializes parts: of a value that cannot be serialized it takes the first part that cannot either,
and goes on inside that one, until it comes to something whose parts all can. Long containers are halved
instead of tried one by one. The number of trials and the depth are bounded; where the bound ends the search
the path found so far is the answer.
"""

from __future__ import annotations

import pickle
import sys
import types
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Any, NamedTuple, TextIO

TRIALS_MAX = 200
DEPTH_MAX = 24
# Attributes, items of small containers and variables of a closure that are tried at one level.
PARTS_MAX = 256
_REPR_MAX = 60
# Never the culprit.
_ATOMS = frozenset({int, float, complex, bool, str, bytes, bytearray, type(None), range})


class FailureTuple(NamedTuple):
    """One thing that cannot be serialized.

    Attributes:
        obj: the thing.
        name: the path to it.
        parent: what it was found in.
    """

    obj: Any
    name: str
    parent: Any

    def __repr__(self) -> str:
        return f"FailTuple({self.name} [obj={_short(self.obj)}, parent={_short(self.parent)}])"

    def __hash__(self) -> int:
        return hash((id(self.obj), self.name))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, FailureTuple) and self.obj is other.obj and self.name == other.name


def explain(value: Any, error: BaseException, code: bool = False) -> str:
    """The message for a value that could not be serialized because of ``error``."""
    name = "value"
    if code:
        name = f"{'class' if isinstance(value, type) else 'function'} {getattr(value, '__qualname__', '')}"
    culprit = find_culprit(value, name, code)
    kind = _kind(culprit.obj)
    return (
        f"cannot serialize {culprit.name}: {kind}; {type(error).__name__}: {error}. Make it inside the task, "
        f"leave it out in __getstate__, or use shoal.register_serializer for the class that contains it"
    )


def can_serialize(value: Any, code: bool = False) -> bool:
    """Whether ``value`` (``code``: a function or class) can be serialized now."""
    return _Search(code).try_one(value) is None


def find_culprit(value: Any, name: str, code: bool = False) -> FailureTuple:
    """The innermost part of ``value`` that cannot be serialized, given that ``value`` cannot.

    Args:
        value: something that cannot be serialized.
        name: what the path starts with.
        code: it is a function or class.
    """
    return _Search(code).descend(FailureTuple(value, name, None))


def inspect_serializability(
    obj: Any, name: str | None = None, depth: int = DEPTH_MAX, print_file: TextIO | None = None
) -> tuple[bool, set[FailureTuple]]:
    """Find out whether something can be serialized, and if not, why; prints a report.

    Args:
        obj: a value, function or class.
        name: what it is called in the report; its ``__name__`` or type by default.
        depth: how many levels below it are looked at.
        print_file: where the report goes; standard output by default.

    Returns:
        Whether it can, and the innermost parts that cannot.
    """
    code = isinstance(obj, (type, types.FunctionType))
    title = name or getattr(obj, "__name__", None) or type(obj).__name__
    output = print_file or sys.stdout
    search = _Search(code, depth)
    error = search.try_one(obj)
    if error is None:
        output.write(f"{title} can be serialized.\n")
        return True, set()
    output.write(f"{title} cannot be serialized: {type(error).__name__}: {error}\n")
    failures = search.leaves(FailureTuple(obj, title, None))
    for failure in sorted(failures, key=lambda found: found.name):
        output.write(f"  {failure.name}: {_kind(failure.obj)}, in {_short(failure.parent)}\n")
    output.write("Make these inside the task, or leave them out in __getstate__, or register a serializer.\n")
    return False, failures


class _Search:
    """A bounded search; `descend` follows the first failing part, `leaves` all of them."""

    def __init__(self, code: bool, depth: int = DEPTH_MAX) -> None:
        self._code = code
        self._depth = depth
        self._trials = TRIALS_MAX
        # By id, with the object, so that no other object gets the id.
        self._failed: dict[int, tuple[Any, bool]] = {}

    def try_one(self, value: Any) -> BaseException | None:
        """The error that serializing ``value`` ends with."""
        from .pickler import return_dump, take_dump

        self._trials -= 1
        dump = take_dump(self._code)
        try:
            dump.run(value, packing=False)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is the answer
            return error
        finally:
            return_dump(dump)
        return None

    def descend(self, found: FailureTuple) -> FailureTuple:
        """The innermost failing part below ``found``."""
        path: set[int] = set()
        for _ in range(self._depth):
            path.add(id(found.obj))
            inner = next((part for part in self._failing(found) if id(part.obj) not in path), None)
            if inner is None:
                break
            found = inner
        return found

    def leaves(self, root: FailureTuple) -> set[FailureTuple]:
        """All innermost failing parts below ``root``, each where it is met first."""
        return self._leaves(root, (), set())

    def _leaves(self, found: FailureTuple, path: tuple[int, ...], seen: set[int]) -> set[FailureTuple]:
        seen.add(id(found.obj))
        path = (*path, id(found.obj))
        inner = [part for part in self._failing(found) if id(part.obj) not in path]
        if not inner or len(path) > self._depth:
            return {found}
        leaves: set[FailureTuple] = set()
        for part in inner:
            if id(part.obj) not in seen:
                leaves |= self._leaves(part, path, seen)
        return leaves

    def _failing(self, found: FailureTuple) -> Iterator[FailureTuple]:
        for name, part in self._parts(found.obj, found.name):
            if type(part) not in _ATOMS and self._fails(part):
                yield FailureTuple(part, name, found.obj)

    def _fails(self, part: Any) -> bool:
        known = self._failed.get(id(part))
        if known is None:
            if self._trials <= 0:
                return False
            known = self._failed[id(part)] = (part, self.try_one(part) is not None)
        return known[1]

    def _parts(self, value: Any, path: str) -> Iterator[tuple[str, Any]]:
        """What a value is made of, each with its path."""
        if isinstance(value, dict):
            yield from self._items(list(value.keys()), lambda _, key: (f"{path} key {_short(key)}", key))
            items = list(value.items())
            yield from self._items(items, lambda _, item: (f"{path}[{_short(item[0])}]", item[1]))
        elif isinstance(value, (list, tuple)):
            yield from self._items(value, lambda i, item: (f"{path}[{i}]", item))
        elif isinstance(value, (set, frozenset)):
            yield from self._items(list(value), lambda _, item: (f"{path} member {_short(item)}", item))
        elif isinstance(value, types.FunctionType):
            yield from islice(_function_parts(value, path), PARTS_MAX)
        elif isinstance(value, types.MethodType):
            yield f"{path}.__self__", value.__self__
            yield f"{path}.__func__", value.__func__
        yield from islice(_state(value, path), PARTS_MAX)

    def _items(
        self, items: Sequence[Any], name: Callable[[int, Any], tuple[str, Any]]
    ) -> Iterator[tuple[str, Any]]:
        """The items; of many of them, only the first that fails."""
        start, stop = 0, len(items)
        if stop > PARTS_MAX:
            if self.try_one(list(items)) is None:
                return
            while stop - start > 1 and self._trials > 0:
                middle = (start + stop) // 2
                if self.try_one(list(items[start:middle])) is not None:
                    stop = middle
                else:
                    start = middle
        for index in range(start, min(stop, start + PARTS_MAX)):
            yield name(index, items[index])


def _function_parts(function: types.FunctionType, path: str) -> Iterator[tuple[str, Any]]:
    """The variables that a function takes along: of its closure, its globals and its defaults."""
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=False):
        try:
            yield f"{path} closure variable {name!r}", cell.cell_contents
        except ValueError:  # the variable has no value yet
            continue
    if function.__module__ == "__main__" or function.__globals__.get("__name__") == "__main__":
        for name in function.__code__.co_names:
            if name in function.__globals__:
                yield f"{path} global {name!r}", function.__globals__[name]
    for index, default in enumerate(function.__defaults__ or ()):
        yield f"{path} default {index}", default


def _state(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    """What stands for a value besides its items: what its class says, or its attributes. What refuses has no parts."""
    try:
        if _defines(value, "__reduce__") or _defines(value, "__reduce_ex__"):
            reduced = value.__reduce_ex__(pickle.HIGHEST_PROTOCOL)
            yield from ((f"{path}.__reduce__()[{index}]", part) for index, part in enumerate(reduced))
            return
        if _defines(value, "__getstate__"):
            state = value.__getstate__()
            named = isinstance(state, dict) and all(isinstance(name, str) for name in state)
            yield from (
                ((f"{path}.{name}", part) for name, part in state.items())
                if named
                else ((f"{path}.__getstate__()", state),)
            )
            return
    except Exception:  # noqa: BLE001 - that is its answer to whoever serializes it: it is the culprit itself
        return
    yield from _attributes(value, path)


def _defines(value: Any, method: str) -> bool:
    """Whether a class written in Python says itself how its instances are serialized."""
    return not isinstance(value, type) and isinstance(getattr(type(value), method, None), types.FunctionType)


def _attributes(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    """What an instance or a class has in its ``__dict__`` and ``__slots__``."""
    if isinstance(value, types.ModuleType):
        return
    own = getattr(value, "__dict__", None)
    for name, part in list(own.items()) if own else ():
        if name not in {"__dict__", "__weakref__", "__module__", "__doc__", "__annotations__"}:
            yield f"{path}.{name}", part
    for cls in type(value).__mro__:
        slots = cls.__dict__.get("__slots__", ())
        for name in (slots,) if isinstance(slots, str) else slots:
            if name not in {"__dict__", "__weakref__"} and hasattr(value, name):
                yield f"{path}.{name}", getattr(value, name)
    if isinstance(value, BaseException):
        yield f"{path}.args", value.args


def _kind(value: object) -> str:
    if isinstance(value, type):
        return f"class {value.__module__}.{value.__qualname__}"
    if isinstance(value, types.FunctionType):
        return f"function {value.__qualname__}"
    return f"{type(value).__module__}.{type(value).__qualname__} object".removeprefix("builtins.")


def _short(value: object) -> str:
    """A representation for one line, whatever the object's own does."""
    try:
        text = repr(value)
    except Exception:  # noqa: BLE001 - a broken __repr__ must not hide the error that is being explained
        return f"<{type(value).__qualname__}>"
    return text if len(text) <= _REPR_MAX else f"{text[:_REPR_MAX]}…"

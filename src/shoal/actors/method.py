"""What callers know of an actor's class: its methods, how they are called, and what they return.

A table of these travels with each handle, so that arguments are checked at `.remote`, wherever that is.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from shoal import option_checks as checks
from shoal.suggest import UnknownNameError

if TYPE_CHECKING:
    from collections.abc import Callable

F = TypeVar("F")
_MARK = "__shoal_method__"
_FOR_CALLER = "__shoal_for_caller__"
_METHOD_OPTIONS: dict[str, checks.Check] = {
    "num_returns": checks.returns,
    "concurrency_group": checks.text,
    "max_task_retries": checks.whole(0, also=-1),
    "retry_exceptions": checks.retriable,
    "generator_backpressure_num_objects": checks.backpressure,
    "name": checks.text,
    "enable_task_events": checks.flag,
}
# Ray's names for what every actor answers.
BUILT_IN = ("__ray_ready__", "__ray_call__", "__ray_terminate__")
_ANY_NUMBER = 1 << 30


@dataclass(frozen=True)
class MethodSpec:
    """One method.

    Attributes:
        parameters: (name, kind, whether it has a default) of each but self; None if they are not known.
        positional: least and most arguments that surely fit if all are positional; (-1, -1): only binding can tell.
        options: from `@method`, by name.
    """

    name: str
    parameters: tuple[tuple[str, int, bool], ...] | None
    positional: tuple[int, int]
    options: dict[str, Any] = field(default_factory=dict)

    def check(self, label: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Raise TypeError, naming the method, unless the arguments fit."""
        least, most = self.positional
        if (kwargs or not least <= len(args) <= most) and self.parameters is not None:
            try:
                _signature(self.parameters).bind(*args, **kwargs)
            except TypeError as error:
                raise TypeError(f"{label}(): {error}") from None


@dataclass(frozen=True)
class ClassTable:
    """One actor class, as its handles carry it.

    Attributes:
        ordered: calls of one caller run one after the other, in order.
        max_pending_calls, max_task_retries: of the actor; -1 for no limit.
        groups: its concurrency groups.
    """

    name: str
    methods: dict[str, MethodSpec]
    ordered: bool = True
    max_pending_calls: int = -1
    max_task_retries: int = 0
    groups: tuple[str, ...] = ()


def check_group(label: str, group: str, groups: tuple[str, ...]) -> None:
    """Raise ValueError unless ``group`` is one of the class's."""
    if group not in groups:
        has = f"it has {', '.join(sorted(groups))}" if groups else "concurrency_groups={…} gives it some"
        raise ValueError(f"{label} is in concurrency group {group!r}, which the class does not have; {has}")


def method(*args: Any, **options: Any) -> Any:
    """Options of one method of an actor: `@shoal.method(num_returns=2, concurrency_group="io")`.

    Raises TypeError or ValueError for bad options, at once.
    """
    if args or not options:
        raise TypeError("use @shoal.method(num_returns=…, concurrency_group=…) with keyword arguments")
    checked = check_method_options(options)

    def mark(function: F) -> F:
        setattr(function, _MARK, checked)
        return function

    return mark


def check_method_options(options: dict[str, Any]) -> dict[str, Any]:
    """The options to keep; raises for an unknown name or a bad value."""
    checked = {}
    for name, value in options.items():
        own = name.removeprefix("_") if name.startswith("_generator") else name
        check = _METHOD_OPTIONS.get(own)
        if check is None:
            raise UnknownNameError("option of an actor's method", name, list(_METHOD_OPTIONS))
        if value is not None:
            checked[own] = check(name, value)
    return checked


def options_of(function: Any) -> dict[str, Any]:
    """What `@method` said of ``function``."""
    found: dict[str, Any] = getattr(function, _MARK, {})
    return found


def describe_methods(cls: type) -> dict[str, MethodSpec]:
    """Every method of ``cls`` that a handle offers, by name."""
    found = {name: MethodSpec(name, None, (0, _ANY_NUMBER)) for name in BUILT_IN}
    for base in reversed(cls.__mro__):
        if base is object or base.__module__ == "typing":
            continue
        for name, value in vars(base).items():
            spec = _describe(name, value)
            if spec is not None:
                found[name] = spec
    return found


def _describe(name: str, value: Any) -> MethodSpec | None:
    bound = not isinstance(value, staticmethod)
    function = value.__func__ if isinstance(value, staticmethod | classmethod) else value
    if not inspect.isroutine(function):
        return None
    options = dict(options_of(function))
    if _is_generator(function):
        options.setdefault("num_returns", "streaming")
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):  # builtins without a signature are checked when they run
        return MethodSpec(name, None, (0, _ANY_NUMBER), options)
    parameters = parameters[1:] if bound and parameters and parameters[0].kind < 2 else parameters
    rows = tuple((each.name, int(each.kind), each.default is not each.empty) for each in parameters)
    return MethodSpec(name, rows, _counts(rows), options)


def for_its_caller(function: F) -> F:
    """What an async method of the runtime's own actors does is for its caller alone: it is cancelled when that is dead."""
    setattr(function, _FOR_CALLER, True)
    return function


def is_for_its_caller(function: Any) -> bool:
    """Whether `for_its_caller` said so of ``function``."""
    return bool(getattr(function, _FOR_CALLER, False))


def _is_generator(function: Callable[..., Any]) -> bool:
    return inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function)


def _counts(rows: tuple[tuple[str, int, bool], ...]) -> tuple[int, int]:
    least = most = 0
    for _, kind, has_default in rows:
        if kind in (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD):
            most += 1
            least += not has_default
        elif kind == inspect.Parameter.VAR_POSITIONAL:
            most = _ANY_NUMBER
        elif kind == inspect.Parameter.KEYWORD_ONLY and not has_default:
            return -1, -1
    return least, most


def _signature(rows: tuple[tuple[str, int, bool], ...]) -> inspect.Signature:
    kinds = (
        inspect.Parameter.POSITIONAL_ONLY,
        inspect.Parameter.POSITIONAL_OR_KEYWORD,
        inspect.Parameter.VAR_POSITIONAL,
        inspect.Parameter.KEYWORD_ONLY,
        inspect.Parameter.VAR_KEYWORD,
    )  # by number
    return inspect.Signature(
        [
            inspect.Parameter(name, kinds[kind], default=None if has_default else inspect.Parameter.empty)
            for name, kind, has_default in rows
        ]
    )


def is_async_class(cls: type) -> bool:
    """Whether any method is a coroutine function or an async generator: then all run on one event loop."""
    return any(
        inspect.iscoroutinefunction(value) or inspect.isasyncgenfunction(value)
        for base in cls.__mro__
        if base is not object
        for value in vars(base).values()
    )

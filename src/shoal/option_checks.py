"""Checks of single options: each takes (name, value) and returns the value to keep, or says what is wrong.

TypeError for a value of the wrong kind, ValueError for one out of range. Amounts of resources have a
granularity of 1/10,000 and travel as integers of that unit.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Hashable, Mapping
from typing import Any

from shoal import runtime_env
from shoal.config import load
from shoal.wire import labels

UNITS = 10_000
_UNITS_MAX = 2**63 - 1
_RETURNS_MAX = load().returns_max
_OPTION_OF_RESOURCE = {
    "CPU": "num_cpus",
    "GPU": "num_gpus",
    "memory": "memory",
    "object_store_memory": "object_store_memory",
}
Check = Callable[[str, Any], Any]


def to_units(name: str, amount: float) -> int:
    """An amount of a resource in units of 1/10,000, rounded down: three times a third fits.

    Raises TypeError for what is no number, ValueError for a negative or endless one, or one below the smallest unit.
    """
    if isinstance(amount, bool | str) or not hasattr(amount, "__float__"):
        raise TypeError(f"{name} needs a number, not {type(amount).__name__}")
    if hasattr(amount, "__index__"):
        units = operator.index(amount) * UNITS
    else:
        exact = float(amount) * UNITS
        if not math.isfinite(exact):
            raise ValueError(f"{name} needs a finite number, not {amount}")
        units = round(exact)
        # Sixteen digits are what a float has: 0.3 × 10,000 is not quite 3000.
        if abs(exact - units) > max(1e-6, abs(exact) * 1e-15):
            units = math.floor(exact)
        if units == 0 and amount:
            raise ValueError(f"{name}={amount!r} is less than 0.0001, the granularity of resources")
    if units < 0:
        raise ValueError(f"{name} cannot be negative, as {amount!r} is")
    if units > _UNITS_MAX:
        raise ValueError(f"{name}={amount!r} is more than {_UNITS_MAX // UNITS}")
    return units


def amount(name: str, value: Any) -> float:
    """A number of CPUs, GPUs or bytes."""
    to_units(name, value)
    return operator.index(value) if hasattr(value, "__index__") else float(value)


def gpus(name: str, value: Any) -> float:
    """A number of GPUs: a share of one, or a whole number, since nothing runs on one and a half."""
    if to_units(name, value) > UNITS and to_units(name, value) % UNITS:
        raise ValueError(f"{name}={value!r}: a share of one GPU (up to 1) or a whole number of them")
    return amount(name, value)


def whole_gpus(name: str, value: Any) -> float:
    """The GPUs that a node has."""
    if to_units(name, value) % UNITS:
        raise ValueError(f"{name}={value!r}: a node has a whole number of GPUs")
    return amount(name, value)


def resources(name: str, value: Any) -> dict[str, float]:
    """Custom resources: name → amount."""
    if not isinstance(value, Mapping):
        raise TypeError(f"{name} needs a dict of resource names and amounts, not {type(value).__name__}")
    for key in value:
        if not isinstance(key, str) or not key:
            raise TypeError(f"{name}: a resource name is a non-empty string, not {key!r}")
        if key in _OPTION_OF_RESOURCE:
            raise ValueError(
                f"{name}: use the option {_OPTION_OF_RESOURCE[key]} instead of {key!r} in {name}"
            )
    return {key: amount(f"{name}[{key!r}]", each) for key, each in value.items()}


def whole(least: int, also: int | None = None) -> Check:
    """An int from ``least``, or the special value ``also``."""

    def check(name: str, value: Any) -> int:
        if isinstance(value, bool) or not hasattr(value, "__index__"):
            raise TypeError(f"{name} needs an int, not {type(value).__name__}")
        number = int(value)
        if number < least and number != also:
            special = f" or {also}" if also is not None else ""
            raise ValueError(f"{name} needs an int of {least} or more{special}, not {number}")
        return number

    return check


def seconds(name: str, value: Any) -> Any:
    """A time in seconds; also a negative one, which has passed, or inf."""
    if not isinstance(value, int | float) and not hasattr(value, "__float__"):
        raise TypeError(f"{name} needs a number of seconds, or None, not {type(value).__name__}")
    if math.isnan(value):
        raise ValueError(f"{name} needs a number of seconds, or None, not nan")
    return value


def flag(name: str, value: Any) -> bool:
    """True or False."""
    if not isinstance(value, bool):
        raise TypeError(f"{name} needs True or False, not {type(value).__name__}")
    return value


def text(name: str, value: Any) -> str:
    """A non-empty string."""
    if not isinstance(value, str):
        raise TypeError(f"{name} needs a string, not {type(value).__name__}")
    if not value:
        raise ValueError(f"{name} needs a string that is not empty")
    return value


def one_of(*allowed: str) -> Check:
    """One of some strings."""

    def check(name: str, value: Any) -> str:
        if value not in allowed or not isinstance(value, str):
            choices = " or ".join(repr(each) for each in allowed)
            kind = ValueError if isinstance(value, str) else TypeError
            raise kind(f"{name} needs {choices}, not {value!r}")
        return value

    return check


def mapping(name: str, value: Any) -> dict[str, Any]:
    """A dict with strings as keys; copied in depth, so that later changes to it are not seen."""
    import copy

    if not isinstance(value, Mapping):
        raise TypeError(f"{name} needs a dict, not {type(value).__name__}")
    for key in value:
        if not isinstance(key, str):
            raise TypeError(f"{name} needs strings as keys, not {key!r}")
    return copy.deepcopy(dict(value))


def environment(name: str, value: Any) -> dict[str, Any]:
    """A runtime environment (see shoal.runtime_env)."""
    return runtime_env.check(name, value)


def texts(name: str, value: Any) -> dict[str, str]:
    """A dict of strings."""
    found = mapping(name, value)
    for key, each in found.items():
        if not isinstance(each, str):
            raise TypeError(f"{name}[{key!r}] needs a string, not {type(each).__name__}")
    return found


def selector(name: str, value: Any) -> dict[str, str]:
    """A dict of labels and what they must be, as strings (see shoal.wire.labels)."""
    found = texts(name, value)
    labels.parse(found)
    return found


def returns(name: str, value: Any) -> int | str:
    """How many values a task returns, or that it streams them."""
    if isinstance(value, str):
        return str(one_of("dynamic", "streaming")(name, value))
    count = int(whole(0)(name, value))
    if count > _RETURNS_MAX:
        raise ValueError(
            f'{name} may be {_RETURNS_MAX} at most, not {count}; with more, use {name}="streaming"'
        )
    return count


def retriable(name: str, value: Any) -> bool | tuple[type[BaseException], ...]:
    """True, False, or classes of exceptions."""
    if isinstance(value, bool):
        return value
    if not isinstance(value, list | tuple | set | frozenset):
        raise TypeError(
            f"{name} needs True, False or a list of exception classes, not {type(value).__name__}"
        )
    for each in value:
        if not (isinstance(each, type) and issubclass(each, BaseException)):
            raise TypeError(f"{name} needs exception classes, and {each!r} is none")
    return tuple(value)


def strategy(name: str, value: Any) -> Any:
    """The name of a strategy, or a strategy object: anything with `to_wire()` that returns plain values."""
    if isinstance(value, str):
        return one_of("DEFAULT", "SPREAD")(name, value)
    if not callable(getattr(value, "to_wire", None)):
        raise TypeError(
            f'{name} needs "DEFAULT", "SPREAD" or a scheduling strategy, not {type(value).__name__}'
        )
    return value


def groups(name: str, value: Any) -> dict[str, int]:
    """Concurrency groups: name → how many calls at once."""
    check = whole(1)
    return {key: check(f"{name}[{key!r}]", each) for key, each in mapping(name, value).items()}


def backpressure(name: str, value: Any) -> int | None:
    """How many unread items a generator may have; -1 means the configured default."""
    number = whole(1, also=-1)(name, value)
    return None if number == -1 else int(number)


def freeze(value: Any) -> Hashable:
    """A hashable value that is equal for equal ``value``, for dicts and lists of any depth."""
    if isinstance(value, Mapping):
        return ("dict", tuple(sorted((str(key), freeze(each)) for key, each in value.items())))
    if isinstance(value, list | tuple):
        return ("list", tuple(freeze(each) for each in value))
    if isinstance(value, set | frozenset):
        return ("set", tuple(sorted(repr(each) for each in value)))
    return (type(value).__name__, value if isinstance(value, Hashable) else repr(value))

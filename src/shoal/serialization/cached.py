"""Functions and properties with a cache (functools), where these belong to a module that goes by value (``__main__``).

cloudpickle takes `lru_cache` functions by their name, which no other process knows, and before Python 3.12 refuses a class with a
`cached_property`, for the lock in it. Here both are made anew, with an empty cache, wherever they are loaded. `singledispatch`
functions have a weak dictionary, which goes with what is in it.
"""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable
from typing import Any

from cloudpickle import cloudpickle as cloudpickle_module

from .arrays import Reduced, Reducer


def reducers(is_by_value: Callable[[str | None], bool]) -> dict[type, Reducer]:
    """How to pickle them; ``is_by_value`` says it of a module."""

    def reduce_function(function: Any) -> Reduced | str:
        if not is_by_value(function.__module__) and cloudpickle_module._lookup_module_and_qualname(function):
            name: str = function.__reduce__()
            return name
        parameters = function.cache_parameters()
        return load_function, (function.__wrapped__, parameters["maxsize"], parameters["typed"])

    return {
        functools._lru_cache_wrapper: reduce_function,
        functools.cached_property: _reduce_property,
        weakref.WeakKeyDictionary: lambda weak: (weakref.WeakKeyDictionary, (dict(weak),)),
    }


def load_function(function: Callable[..., Any], maxsize: int | None, typed: bool) -> Any:
    """A function with `lru_cache`."""
    return functools.lru_cache(maxsize, typed)(function)


def _reduce_property(found: functools.cached_property[Any]) -> Reduced:
    return load_property, (found.func, found.attrname)


def load_property(function: Callable[[Any], Any], name: str | None) -> functools.cached_property[Any]:
    """A `cached_property` as it is once its class is made."""
    made = functools.cached_property(function)
    made.attrname = name
    return made

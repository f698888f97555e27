"""Serializers that users register for their classes, in this process.

What a serializer returns is pickled in the object's place, together with the deserializer. That is shipped
by cloudpickle, once per value, so a process that never registered anything can load it. The class need not be
importable either: what refers to it refers to it by value where cloudpickle does.

Functions and classes take all registrations along when they are sent to other processes (`WithSerializers`), so that
tasks can return instances. A registration that a process made itself comes before one that it was sent.

`generation` changes with every registration; whoever caches what was found here compares it, or is called (`on_change`).
"""

from __future__ import annotations

import pickle
from collections.abc import Callable
from functools import lru_cache
from typing import Any, NoReturn

import cloudpickle

from .arrays import Reduced, Reducer

# Deserializers (and with them classes) that a process keeps; beyond, the least recently used is loaded anew.
LOADED_MAX = 256

_reducers: dict[type, Reducer] = {}
# By class: the serializer and the deserializer, or (None, None) for "by its dict".
_registrations: dict[type, tuple[Any, Any]] = {}
_generation = 0
_on_change: list[Callable[[], None]] = []


class Shipped:
    """A callable that travels by value; pickled as its cloudpickle bytes, made once.

    It is callable for the pickler's sake only: what is called at the load is what it was made of.
    """

    __slots__ = ("_blob", "_function")

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function
        self._blob: bytes | None = None

    def __call__(self, *_: object) -> NoReturn:
        raise TypeError("a shipped callable is called where it was loaded")

    def reduce(self) -> Reduced:
        """How to pickle it."""
        if self._blob is None:
            self._blob = cloudpickle.dumps(self._function, 5)
        return load_shipped, (self._blob,)


def register_serializer(
    cls: type, *, serializer: Callable[[Any], Any], deserializer: Callable[[Any], Any]
) -> None:
    """Serialize instances of exactly ``cls``, in this process, by functions of the user.

    Args:
        cls: the class; subclasses are not affected.
        serializer: takes an instance and returns what is pickled in its place.
        deserializer: takes that and returns the instance; sent along with the value.

    Raises:
        TypeError: ``cls`` is no class, or one of the functions cannot be called.
    """
    _check_class(cls)
    for name, function in (("serializer", serializer), ("deserializer", deserializer)):
        if not callable(function):
            raise TypeError(f"{name} must be callable, not {type(function).__name__}")
    shipped = Shipped(deserializer)
    _set(cls, lambda value: (shipped, (serializer(value),)), (serializer, deserializer))


def deregister_serializer(cls: type) -> None:
    """Serialize instances of ``cls`` by pickle again; nothing happens if it was not registered."""
    _set(cls, None, (None, None))


def register_custom_serializer(
    cls: type,
    serializer: Callable[[Any], Any] | None = None,
    deserializer: Callable[[Any], Any] | None = None,
    use_pickle: bool = False,
    use_dict: bool = False,
    local: object = None,  # noqa: ARG001 - registrations are always local to the process
    job_id: object = None,  # noqa: ARG001 - and so never outlive or leave its job
    class_id: object = None,  # noqa: ARG001 - classes are identified by themselves
) -> None:
    """The older form of `register_serializer`, with three ways of which exactly one is to be chosen.

    Args:
        cls: the class.
        serializer: with ``deserializer``, as in `register_serializer`.
        deserializer: see ``serializer``.
        use_pickle: by cloudpickle, as if nothing had been registered.
        use_dict: by the instance's ``__dict__``, without calling ``__init__`` or ``__reduce__``.
        local: accepted and without effect.
        job_id: accepted and without effect.
        class_id: accepted and without effect.

    Raises:
        ValueError: none or several of the ways were chosen, or only one of the two functions was given.
    """
    functions = serializer is not None or deserializer is not None
    if functions + bool(use_pickle) + bool(use_dict) != 1:
        raise ValueError(
            "choose exactly one of: serializer with deserializer, use_pickle=True, use_dict=True "
            f"(got serializer={serializer!r}, deserializer={deserializer!r}, {use_pickle=}, {use_dict=})"
        )
    if use_pickle:
        deregister_serializer(cls)
    elif use_dict:
        _check_class(cls)
        _set(cls, _reduce_dict, (None, None))
    elif serializer is None or deserializer is None:
        raise ValueError("serializer and deserializer must be given together")
    else:
        register_serializer(cls, serializer=serializer, deserializer=deserializer)


def registered(cls: type) -> Reducer | None:
    """How instances of exactly ``cls`` are pickled, if the user said so."""
    return _reducers.get(cls)


def generation() -> int:
    """A number that changes with every registration."""
    return _generation


@lru_cache(maxsize=LOADED_MAX)
def load_shipped(blob: bytes) -> Any:
    """The callable of a `Shipped`, one object per process for the same bytes."""
    return pickle.loads(blob)


def new_instance(cls: type) -> Any:
    """An instance without ``__init__``."""
    instance: Any = object.__new__(cls)
    return instance


def set_dict(instance: Any, state: dict[str, Any]) -> None:
    """Fill in the ``__dict__`` of a new instance."""
    instance.__dict__.update(state)


def _reduce_dict(instance: Any) -> Reduced:
    return new_instance, (type(instance),), instance.__dict__, None, None, set_dict


def on_change(callback: Callable[[], None]) -> None:
    """Have ``callback`` called after every registration."""
    _on_change.append(callback)


class WithSerializers:
    """Code on its way to another process, with the registrations of this one; what is loaded is the code."""

    __slots__ = ("_code",)

    def __init__(self, code: Any) -> None:
        self._code = code

    def __reduce__(self) -> Any:
        return _adopt, (list(_registrations.items()), self._code)


def any_registered() -> bool:
    """Whether code has registrations to take along."""
    return bool(_registrations)


def _adopt(registrations: list[tuple[type, tuple[Any, Any]]], code: Any) -> Any:
    for cls, (serializer, deserializer) in registrations:
        if cls in _reducers:
            continue
        if serializer is None:
            _set(cls, _reduce_dict, (None, None))
        else:
            register_serializer(cls, serializer=serializer, deserializer=deserializer)
    return code


def _set(cls: type, reducer: Reducer | None, registration: tuple[Any, Any]) -> None:
    global _generation
    if reducer is None:
        _reducers.pop(cls, None)
        _registrations.pop(cls, None)
    else:
        _reducers[cls] = reducer
        _registrations[cls] = registration
    _generation += 1
    for callback in _on_change:
        callback()


def _check_class(cls: object) -> None:
    if not isinstance(cls, type):
        raise TypeError(f"expected a class, not {cls!r}")

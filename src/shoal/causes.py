"""The exception that a task raised, on its way from the worker to whoever calls `get`.

Exceptions travel badly: constructors that do not take what they leave in ``args``, attributes that are locks
or sockets, classes that the reader cannot import. So the cause is pickled apart, into bytes that are tried
out where they are made, and that may fail to load without taking the error around them along. It is taken
apart and rebuilt without its constructor, unless its class says itself how it is pickled. What cannot travel
is left out: first single attributes, then the exception (only its text arrives).

Refs in the cause are listed beside the bytes, so that the pickler of the error around sees and counts them.

At `get` the error must be an instance of the cause's class too: `mixed_class` makes a class of both. It does
not for exceptions that steer Python rather than report (SystemExit, KeyboardInterrupt, CancelledError,
StopIteration): raised by `get` as themselves they would end the driver, or quietly a loop of it.
"""

from __future__ import annotations

import functools
import io
import pickle
import types
from typing import TYPE_CHECKING, Any, TypeVar

from shoal.tracebacks import TEXT_CHARS_MAX, shorten

if TYPE_CHECKING:
    from collections.abc import Iterator

E = TypeVar("E", bound=BaseException)
M = TypeVar("M", bound=BaseException)
Packed = tuple[bytes, list[Any]]  # pickle, refs in it

_HEAP_TYPE = 1 << 9  # Py_TPFLAGS_HEAPTYPE: a class made by a `class` statement, or like one
_OWN_PICKLING = ("__reduce__", "__reduce_ex__", "__getstate__", "__setstate__")
_SHORT_BYTES_MAX = 256 * 1024  # of a cause that was too large to be sent as it is
_STEERING = (StopIteration, StopAsyncIteration)
_mixed: dict[tuple[type, type], Any] = {}


# --- taking an exception apart, and putting it together again ---


def bare_exception(cls: type[E], arguments: tuple[Any, ...]) -> E:
    """An instance of ``cls`` with these ``args``, made without its constructor.

    Raises TypeError if ``cls`` is no exception or cannot be made so (a group without its parts).
    """
    base: type = cls
    while base.__flags__ & _HEAP_TYPE and base.__base__ is not None:
        base = base.__base__
    if not issubclass(base, BaseException):
        raise TypeError(f"{cls!r} is not a class of exceptions")
    if issubclass(base, BaseExceptionGroup):
        error = BaseExceptionGroup.__new__(cls, *arguments[:2])  # type: ignore[type-var]  # cls is one too
    else:
        error = base.__new__(cls)
    BaseException.__setattr__(error, "args", arguments)  # a frozen dataclass has a __setattr__ that refuses
    return error


def set_state(error: BaseException, state: tuple[dict[str, Any], dict[str, Any]]) -> None:
    """Give ``error`` its members (slots, and fields of built-in classes) and attributes."""
    members, attributes = state
    for name, value in members.items():
        # Some are read-only (a group's parts) and came with __new__. The class's own __setattr__ is bypassed.
        try:
            BaseException.__setattr__(error, name, value)
        except (AttributeError, TypeError):
            continue
    error.__dict__.update(attributes)


def members_of(error: BaseException) -> dict[str, Any]:
    """What ``error`` keeps outside of its ``__dict__``: errno of an OSError, slots of a user's class."""
    found = {}
    for name in _member_names(type(error)):
        try:
            found[name] = BaseException.__getattribute__(error, name)
        except AttributeError:  # an empty slot
            continue
    return found


def _member_names(cls: type) -> Iterator[str]:
    for base in cls.__mro__:
        if base in (BaseException, object):
            continue
        for name, value in vars(base).items():
            is_member = isinstance(value, types.MemberDescriptorType | types.GetSetDescriptorType)
            # `obj` of an AttributeError is whatever lacked the attribute; Python does not pickle it either.
            if is_member and not name.startswith("__") and not (base is AttributeError and name == "obj"):
                yield name


def _reduce(error: BaseException) -> tuple[Any, ...]:
    """The ``__reduce__`` of an exception that is rebuilt without its constructor."""
    state = (members_of(error), dict(error.__dict__))
    return (bare_exception, (type(error), error.args), state, None, None, set_state)


def _pickles_itself(cls: type) -> bool:
    return any(
        name in vars(base) for base in cls.__mro__ if base.__flags__ & _HEAP_TYPE for name in _OWN_PICKLING
    )


# --- there and back ---


def pack_cause(error: BaseException, shortened: bool = False) -> Packed | None:
    """``error`` as bytes and the refs in them, with as much of it as can travel; None if its class cannot.

    ``shortened``: in all `_SHORT_BYTES_MAX` bytes at most; what is long in it is shortened, or left out.
    """
    if shortened:
        packed = _pack_what_can_travel(error, _SHORT_BYTES_MAX // 4)
        return packed if packed is not None and len(packed[0]) <= _SHORT_BYTES_MAX else None
    return _pack(error, own_way=True) or _pack(error, own_way=False) or _pack_what_can_travel(error)


def unpack_cause(packed: Packed) -> BaseException | None:
    """The exception, or None if it cannot be loaded in this process (its class may be missing here)."""
    try:
        error = _loads(packed)
    except Exception:  # noqa: BLE001  whatever a foreign class does when it is loaded; its text is in the error around
        return None
    return error if isinstance(error, BaseException) else None


def _pack(value: object, own_way: bool) -> Packed | None:
    """The bytes, if they also load. ``own_way``: classes that say how they are pickled are heeded."""
    try:
        packed = _dumps(value, own_way)
        loaded = _loads(packed)
    except Exception:  # noqa: BLE001  user code refuses in any way it likes; the caller has a next best
        return None
    return packed if type(loaded) is type(value) or not isinstance(value, BaseException) else None


def _pack_what_can_travel(error: BaseException, part_bytes_max: int | None = None) -> Packed | None:
    def travels(value: object) -> bool:
        packed = _pack(value, own_way=True)
        return packed is not None and (part_bytes_max is None or len(packed[0]) <= part_bytes_max)

    def told(value: object) -> str:
        return shorten(value if isinstance(value, str) else safe_repr(value), TEXT_CHARS_MAX)

    arguments = tuple(each if travels(each) else told(each) for each in error.args)
    try:
        stripped = bare_exception(type(error), arguments)
    except Exception:  # noqa: BLE001  a group with parts that cannot travel, or a class with a __new__ of its own mind
        return None
    members = {name: value for name, value in members_of(error).items() if travels(value)}
    set_state(stripped, (members, {name: value for name, value in vars(error).items() if travels(value)}))
    return _pack(stripped, own_way=False)


def safe_repr(value: object) -> str:
    """``repr``, or what can be said of a value whose repr raises."""
    try:
        return repr(value)
    except Exception:  # noqa: BLE001  user code; the value is named by its class instead
        return f"<{type(value).__name__}>"


def _dumps(value: object, own_way: bool) -> Packed:
    target = io.BytesIO()
    refs: list[Any] = []
    _pickler_class()(target, refs, own_way).dump(value)
    return target.getvalue(), refs


def _loads(packed: Packed) -> Any:
    return _Unpickler(io.BytesIO(packed[0]), packed[1]).load()


@functools.cache
def _pickler_class() -> type[Any]:
    # Made at the first error: neither cloudpickle nor refs are needed to define the tree of errors.
    import cloudpickle

    from shoal.refs import ObjectRef

    class CausePickler(cloudpickle.Pickler):  # type: ignore[misc]  # cloudpickle has no types
        def __init__(self, target: io.BytesIO, refs: list[Any], own_way: bool) -> None:
            super().__init__(target, protocol=pickle.HIGHEST_PROTOCOL)
            self._refs = refs
            self._own_way = own_way

        def persistent_id(self, value: object) -> int | None:
            if type(value) is not ObjectRef:
                return None
            self._refs.append(value)
            return len(self._refs) - 1

        def reducer_override(self, value: Any) -> Any:
            if isinstance(value, BaseException) and not (self._own_way and _pickles_itself(type(value))):
                return _reduce(value)
            return super().reducer_override(value)

    return CausePickler


class _Unpickler(pickle.Unpickler):
    def __init__(self, source: io.BytesIO, refs: list[Any]) -> None:
        super().__init__(source)
        self._refs = refs

    def persistent_load(self, index: Any) -> Any:
        return self._refs[index]


# --- a class of both ---


def mixed_class(error_class: type[M], cause_class: type[BaseException]) -> type[M] | None:
    """A subclass of both classes, the same one each time; None if there can be none."""
    if not issubclass(cause_class, Exception) or issubclass(cause_class, _STEERING):
        return None
    try:
        return _mixed[error_class, cause_class]  # type: ignore[no-any-return]  # of the type that the key says
    except KeyError:
        made = _make_mixed(error_class, cause_class)
        if len(_mixed) >= _classes_max():
            _mixed.pop(next(iter(_mixed)), None)
        _mixed[error_class, cause_class] = made
        return made
    except TypeError:  # a metaclass that makes classes unhashable
        return _make_mixed(error_class, cause_class)


def _make_mixed(error_class: type[M], cause_class: type) -> type[M] | None:
    name = f"{error_class.__name__}({cause_class.__name__})"
    members = {"__module__": error_class.__module__, "__qualname__": name, "__doc__": cause_class.__doc__}
    try:
        return types.new_class(
            name, (error_class, cause_class), {}, lambda namespace: namespace.update(members)
        )
    except Exception:  # noqa: BLE001  a class that refuses to be subclassed, in whatever way its author chose
        return None


@functools.cache
def _classes_max() -> int:
    from shoal.config import load

    return load().error_classes_max


def remedy(cause: BaseException) -> str:
    """What helps against some common exceptions of tasks, which say nothing of it themselves; "" for all others."""
    if isinstance(cause, ModuleNotFoundError) and isinstance(cause.name, str):
        return (
            f"have workers find {cause.name!r}: they import from where the driver did at shoal.init() (extend sys.path before, "
            "with absolute paths), and what runtime_env brings (working_dir, py_modules, pip)"
        )
    if isinstance(cause, ValueError) and any(
        isinstance(text, str) and "read-only" in text for text in cause.args
    ):
        return "change a copy (x = x.copy()): arrays that are arguments, or come from shoal.get(), are read-only views"
    return ""

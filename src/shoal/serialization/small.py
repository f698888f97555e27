"""The hot path: plain values that fit a message, without setting up anything.

An int takes 0.2 µs, where the general way takes 2. What is let through cannot contain a ref, an array or
anything of a class that other processes lack, so plain pickle is right for it.
"""

from __future__ import annotations

from pickle import dumps
from typing import Any

from shoal.lazynumpy import notice, np, when_loaded

from .raw import HEADER_SIZE, dumps_raw
from .serialized import INLINE_BYTES

# Items of a container that are looked at; a longer one takes the general way.
ITEMS_MAX = 32
# A longer text or bytes takes the general way, which does not copy it.
LENGTH_MAX = 16 * 1024

_NUMBERS = frozenset({int, float, bool, complex, type(None)})
_TEXTS = frozenset({str, bytes})
_PLAIN = _NUMBERS | _TEXTS
_all_plain = _PLAIN.issuperset
_ndarray: type = np.ndarray


@when_loaded
def _find_ndarray() -> None:
    global _ndarray  # by this name it is looked up in half of the time
    _ndarray = np.ndarray


def dumps_small(value: Any) -> bytes | None:
    """The inline bytes of a plain value, or None if it is another kind of value, or large.

    Plain are exact numbers, None, short texts and bytes, short tuples, lists and dicts of these, and small arrays of one
    dimension and a common dtype.
    """
    kind = type(value)
    if kind is _ndarray:
        return dumps_raw(value) if value.nbytes <= INLINE_BYTES - HEADER_SIZE else None
    if kind in _NUMBERS:
        blob = dumps(value, 5)
        return blob if len(blob) <= INLINE_BYTES else None
    if kind in _TEXTS:
        return dumps(value, 5) if len(value) <= LENGTH_MAX else None
    if kind is tuple or kind is list:
        plain = len(value) <= ITEMS_MAX and _all_plain(map(type, value))
    elif kind is dict:
        plain = (
            len(value) <= ITEMS_MAX and _all_plain(map(type, value)) and _all_plain(map(type, value.values()))
        )
    else:
        return dumps_small(value) if notice() else None
    if not plain:
        return None
    blob = dumps(value, 5)
    return blob if len(blob) <= INLINE_BYTES else None


def dumps_call(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bytes | None:
    """The inline bytes of the arguments of a call, if all are plain and together small; else None."""
    if not _all_plain(map(type, args)) or (kwargs and not _all_plain(map(type, kwargs.values()))):
        return None
    blob = dumps((args, kwargs), 5)
    return blob if len(blob) <= INLINE_BYTES else None

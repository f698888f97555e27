"""Programs: several calls, one after the other, that are one task. What graphs of Dask are made of here (`dask.plan`).

A function is pickled once for all programs of an encoder, and unpickled once per worker: a program has its bytes. What else is
in most programs is plain, so that the plain pickle is right for it, and the bytes go the fast way of plain arguments.

A worker needs no Dask for this module, unless the functions do: it takes a tenth of a second to import.
"""

from __future__ import annotations

import functools
import pickle
from types import BuiltinFunctionType, FunctionType
from typing import TYPE_CHECKING, Any, NamedTuple

from shoal.lazynumpy import np
from shoal.serialization import dumps_code, loads_code

if TYPE_CHECKING:
    from collections.abc import Callable

    from shoal.refs import ObjectRef

# A function of more bytes is stored, instead of being sent along with each of its tasks.
SENT_BYTES_MAX = 8 * 1024
# Unpickled functions that a worker keeps; beyond, the one that was not used for longest goes.
FUNCTIONS_MAX = 1024

_PLAIN = frozenset({int, float, bool, complex, type(None), str, bytes, slice, range})
# Classes and functions go by name if they are of modules that are the same everywhere.
_NAMED = (type, FunctionType, BuiltinFunctionType, np.ufunc)
_COMMON = frozenset({"builtins", "dask", "numpy", "operator"})


class Instruction(NamedTuple):
    """One call of a program.

    Attributes:
        function: what is called.
        operands: of each argument: the number of the instruction that made it, ~n for the n-th value that the program is
            called with, or None for the next of the `constants`.
        names: of the last arguments, which are passed by keyword.
        last_uses: instructions whose results nothing after this one needs.
    """

    function: Any
    operands: tuple[int | None, ...]
    constants: tuple[Any, ...]
    names: tuple[str, ...]
    last_uses: tuple[int, ...] = ()


class Encoder:
    """Makes the programs of one graph ready to be sent.

    Args:
        store: puts a value, and gives its ref.
    """

    def __init__(self, store: Callable[[Any], ObjectRef[Any]]) -> None:
        self._store = store
        # With the function itself, so that no other one gets its id meanwhile.
        self._functions: dict[int, tuple[Any, bytes | ObjectRef[Any]]] = {}

    def encode(self, program: tuple[Instruction, ...], needs: int) -> tuple[Any, list[ObjectRef[Any]]]:
        """What `run` takes for a program that needs that many values; and the refs of functions, which follow these values."""
        functions: list[ObjectRef[Any]] = []
        code = []
        plain = True
        for function, *rest in program:
            encoded: Any = self._function(function)
            if type(encoded) is not bytes:
                functions.append(encoded)
                encoded = needs + len(functions) - 1
            plain = plain and all(map(_is_plain, rest[1]))
            code.append((encoded, *rest))
        return pickle.dumps(code, 5) if plain else code, functions

    def _function(self, function: Any) -> bytes | ObjectRef[Any]:
        known = self._functions.get(id(function))
        if known is None:
            blob, refs = dumps_code(function)
            sent = len(blob) <= SENT_BYTES_MAX and not refs
            known = self._functions[id(function)] = (function, blob if sent else self._store(function))
        return known[1]


def _is_plain(value: Any) -> bool:
    """Whether plain pickle is surely right for a value: nothing in it is a ref, or of a class that other processes lack."""
    kind = type(value)
    if kind in _PLAIN:
        return True
    if kind is tuple or kind is list:
        return all(map(_is_plain, value))
    if kind is dict:
        return all(map(_is_plain, value)) and all(map(_is_plain, value.values()))
    if isinstance(value, _NAMED):
        root = str(getattr(value, "__module__", "")).partition(".")[0]
        return root in _COMMON and "<" not in getattr(value, "__qualname__", "")
    return isinstance(value, np.dtype | np.generic) or (kind is np.ndarray and not value.dtype.hasobject)


def itself(value: Any) -> Any:
    """For a constant that is to be a result."""
    return value


_load = functools.lru_cache(FUNCTIONS_MAX)(loads_code)


def run(program: Any, *values: Any) -> Any:
    """The result of a program's last instruction."""
    code = pickle.loads(program) if type(program) is bytes else program
    results: list[Any] = []
    for function, operands, constants, names, last_uses in code:
        call = _load(function) if type(function) is bytes else values[function]
        rest = iter(constants)
        args = [
            next(rest) if where is None else results[where] if where >= 0 else values[~where]
            for where in operands
        ]
        for number in last_uses:
            results[number] = None  # so that a large one goes after the call
        split = len(args) - len(names)
        results.append(call(*args[:split], **dict(zip(names, args[split:], strict=True))))
        del args
    return results[-1]

"""How numpy arrays enter and leave a pickle: as bytes plus what `numpy.ndarray` needs to view them.

An array is rebuilt by `numpy.ndarray(shape, dtype, buffer)`, which runs without a line of Python and whose
result is read-only for as long as the buffer is: it never owns memory, so ``flags.writeable = True`` raises.
Small arrays lie in the pickle (as `bytes`, hence read-only as well), the others out of it. numpy's own way
is three times slower, gives writable results for small arrays, and copies datetimes and what is not
contiguous.

Arrays of objects are containers of Python values: numpy pickles them, and they come back writable.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any, TypeAlias

from shoal.lazynumpy import np, when_loaded

from .sources import Array, storage_order

# What reduces to: a callable, its arguments, and further items as `object.__reduce__` has them.
Reduced: TypeAlias = tuple[Any, ...]
Reducer: TypeAlias = Callable[[Any], Any]
# Gives what stands for the bytes of a source in the pickle: the bytes, or a mark of an out-of-band buffer.
Placer: TypeAlias = "Callable[[Any, int], bytes | pickle.PickleBuffer]"

PROTOCOL = 5
# Kinds whose items are nothing but their bytes (no objects, no pointers into an arena as in StringDType).
RAW_KINDS = frozenset("biufcmMSUV")
# Short names for the common dtypes: pickled as a string, they take a quarter of the time of the dtype.
CODES: dict[np.dtype[Any], str] = {}


@when_loaded
def _find_codes() -> None:
    CODES.update({np.dtype(code): np.dtype(code).str for code in "?bBhHiIlLqQefdgFDG"})


def dtype_code(dtype: np.dtype[Any]) -> str | np.dtype[Any] | None:
    """What stands for the dtype in a pickle; None if arrays of it are not just bytes."""
    code = CODES.get(dtype)
    if code is not None:
        return code
    if dtype.kind not in RAW_KINDS or dtype.hasobject or not dtype.itemsize:
        return None
    return dtype


def array_arguments(array: Array, place: Placer) -> Reduced | None:
    """The arguments that make `numpy.ndarray` rebuild the array; None if it is not just bytes."""
    code = dtype_code(array.dtype)
    if code is None:
        return None
    nbytes = array.nbytes
    data = place(array, nbytes)
    if array.ndim < 2 or storage_order(array) == "C":
        return array.shape, code, data
    return array.shape, code, data, 0, None, "F"


class InBand:
    """Pickles as an array of which all bytes lie in the pickle."""

    __slots__ = ("_arguments",)

    def __init__(self, arguments: Reduced) -> None:
        self._arguments = arguments

    def __reduce__(self) -> Reduced:
        return np.ndarray, self._arguments


def in_band(array: Array) -> InBand | None:
    """What to give to `pickle.dumps` for an array of a common dtype; 2 µs, where a `Dump` takes 6."""
    code = CODES.get(array.dtype)
    if code is None:
        return None
    if array.ndim < 2 or storage_order(array) == "C":
        return InBand((array.shape, code, array.tobytes()))
    return InBand((array.shape, code, array.tobytes("F"), 0, None, "F"))


def subclass_reducer(cls: type, place: Placer) -> Reducer:
    """How to pickle arrays of a subclass of `numpy.ndarray`."""
    if issubclass(cls, np.memmap):
        return lambda array: reduce_memmap(array, place)
    if cls is np.ma.MaskedArray:
        return reduce_masked
    if all(
        getattr(cls, name) is getattr(np.ndarray, name)
        for name in ("__reduce__", "__reduce_ex__", "__setstate__")
    ):
        return lambda array: reduce_subclass(array, place)
    return reduce_own


def reduce_memmap(array: Array, place: Placer) -> Reduced:
    """A mapped file is sent as the array that it is."""
    arguments = array_arguments(array, place)
    return (np.asarray, (np.array(array, subok=False),)) if arguments is None else (np.ndarray, arguments)


def reduce_subclass(array: Array, place: Placer) -> Reduced:
    """A subclass that pickles the way ndarray does: its attributes do not travel, as with numpy."""
    arguments = array_arguments(array, place)
    if arguments is None:
        return reduce_own(array)
    return rebuild_subclass, (type(array), *arguments)


def reduce_own(array: Array) -> Reduced:
    """A subclass with its own way to pickle: that way is followed, and its result made read-only."""
    reduced = array.__reduce_ex__(PROTOCOL)
    if (
        isinstance(reduced, tuple)
        and len(reduced) == 3
        and array.dtype.kind != "O"
        and not array.dtype.fields
    ):
        return (*reduced, None, None, set_state_read_only)
    return reduced  # type: ignore[return-value]


def reduce_masked(array: Any) -> Reduced:
    """A masked array: data and mask as arrays of their own."""
    fill_value = None if array._fill_value is None else array.fill_value
    mask = None if array.mask is np.ma.nomask else np.asarray(array.mask)
    return rebuild_masked, (np.asarray(array.data), mask, fill_value, array.hardmask)


def rebuild_subclass(cls: type[Array], *arguments: Any) -> Array:
    """The array of `reduce_subclass`; like numpy's own unpickling it calls no ``__new__`` of the subclass."""
    return np.ndarray.__new__(cls, *arguments)


def rebuild_masked(data: Array, mask: Array | None, fill_value: object, hard: bool) -> Any:
    """The array of `reduce_masked`."""
    kept = np.ma.nomask if mask is None else mask
    make: Any = np.ma.MaskedArray
    return make(data, mask=kept, fill_value=fill_value, hard_mask=hard, copy=False)


def set_state_read_only(array: Array, state: Any) -> None:
    """Give an unpickled array its state, and take away the right to write."""
    array.__setstate__(state)
    array.flags.writeable = False

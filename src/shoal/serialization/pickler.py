"""One dump: a C pickler set up so that what it cannot do well by itself is done by reducers of ours.

Everything hangs on the pickler's ``dispatch_table``, which is looked up in C. `ReducerTable` fills itself:
what it does not know gets ``methodcaller("__reduce_ex__")``, so that objects of ordinary classes are pickled
without a call into Python, and a list of a million ints knows nothing of all this. (`persistent_id` is called
for every object, 40 ns each; `reducer_override` for every one that is not built in.)

Refs are pickled as calls of a function that yields the next rider. That function comes out of the buffers
(an out-of-band buffer may be any object at the load), so loading a ref takes two opcodes and no Python code,
and needs no `pickle.Unpickler` with its copy of the stream. 10,000 refs: 2 ms in, 1 ms out.

Plain C pickle comes first. cloudpickle takes over when that refuses, and when something belongs to a module
that other processes have not (``__main__``) or shall not import. `Dump` objects are used again, one per
thread at a time: a table is worth more the longer it lives.
"""

from __future__ import annotations

import copyreg
import pickle
import sys
from collections.abc import Callable, Mapping
from operator import getitem, methodcaller
from types import CodeType
from typing import Any

import cloudpickle
from cloudpickle import cloudpickle as cloudpickle_module

from shoal.lazynumpy import notice, np

from . import cached, custom
from .arrays import CODES, PROTOCOL, Reduced, Reducer, array_arguments, reduce_own, subclass_reducer
from .format import NEXT_RIDER, RIDERS_BY_ID
from .ragged import PackedSequence, pack, reduce_object_array, reduce_sequence
from .sources import Array, RaggedRows, Source, array_bytes

# Buffers up to this size stay in the pickle: in the buffer table one costs more than its copy.
IN_BAND_BYTES_MAX = 4096
# Classes that a table remembers; beyond, it forgets all and starts again.
TABLE_CLASSES_MAX = 4096
# Idle dumps that are kept.
POOL_MAX = 8

# Libraries with reducers of their own, loaded when a class of theirs turns up.
_LIBRARIES = {"pandas": "frames", "polars": "frames", "pyarrow": "frames", "torch": "tensors"}
SPAWNED_MAIN = "__mp_main__"  # what multiprocessing calls the main module in a process that it has spawned
# How the pickle says that something is in the main module: a string of 8 characters.
_MAIN = b"\x8c\x08__main__"
_FRAME = b"\x95"
_FRAME_HEAD_MAX = 64

_ref_type: type | None = None


class RowsAliasedError(Exception):
    """Packed rows turned out to appear elsewhere in the value: it must be dumped without packing."""


class _NeedsCloudpickleError(Exception):
    """Plain pickle met what must go by value."""


class Riders:
    """Stands in a pickle for a dict of the riders by id."""

    __slots__ = ()


class NextRider:
    """Stands in a pickle for the function that returns the next rider; callable for the pickler's sake."""

    __slots__ = ()

    def __call__(self) -> None:
        raise TypeError("only what is loaded in its place can be called")


_RIDERS = Riders()
_TAKE_NEXT = (NextRider(), ())


def _no_write(_piece: Any) -> None:
    """What a sink does before it is given the list of a dump."""


def identity(value: Any) -> Any:
    """What a slot of the buffer table is wrapped in: `value`."""
    return value


class _Sink:
    """The file that a pickler writes to: each write is kept as it is, so large bytes are not copied."""

    __slots__ = ("write",)

    def __init__(self, write: Callable[[Any], Any]) -> None:
        self.write = write


class ReducerTable(dict[type, Reducer]):
    """How to pickle instances of each class, found when the class is first met."""

    def __init__(
        self, fixed: dict[type, Reducer], others: Mapping[type, Any], by_value: bool, dump: Dump
    ) -> None:
        super().__init__(fixed)
        self._fixed = fixed
        self._others = others
        self._by_value = by_value
        self._dump = dump

    def __missing__(self, cls: type) -> Reducer:
        if issubclass(cls, type):
            raise KeyError(cls)
        if not self._by_value and is_by_value(cls.__module__):
            raise _NeedsCloudpickleError
        if len(self) > TABLE_CLASSES_MAX:
            self.clear()
            self.update(self._fixed)
        notice()
        reducer = self[cls] = self._find(cls)
        return reducer

    def _find(self, cls: type) -> Reducer:
        found = custom.registered(cls) or self._others.get(cls)
        if found is not None:
            return found
        if not self._dump.code:
            if cls is np.ndarray:  # numpy was not there when the tables were made
                return self._dump.reduce_array
            if issubclass(cls, np.ndarray):
                return subclass_reducer(cls, self._dump.place)
            library = _LIBRARIES.get((cls.__module__ or "").partition(".")[0])
            if library is not None:
                found = _library_reducer(library, cls)
        return found or methodcaller("__reduce_ex__", PROTOCOL)


def reduce_code(code: CodeType) -> Reduced:
    """As cloudpickle does it, with the file that it is from: tracebacks of tasks show the lines of their source.

    cloudpickle leaves the file out since 3.1.2.
    """
    rebuild, args = cloudpickle.Pickler.dispatch_table[CodeType](code)[:2]
    return load_code, (code.co_filename, rebuild, args)


def load_code(filename: str, rebuild: Callable[..., CodeType], args: tuple[Any, ...]) -> CodeType:
    """The code object of `reduce_code`."""
    return rebuild(*args).replace(co_filename=filename)


class _CloudPickler(cloudpickle.Pickler):  # type: ignore[misc]
    def __init__(self, sink: _Sink, on_buffer: Callable[[Any], Any], table: ReducerTable) -> None:
        # Read by the C part of the constructor; the class attribute of cloudpickle is not touched.
        self.dispatch_table = table
        super().__init__(sink, protocol=PROTOCOL, buffer_callback=on_buffer)


class Dump:
    """The state of one dump; `clear` makes it ready for the next.

    Attributes:
        code: functions and classes are dumped: by cloudpickle, with ordinary, writable arrays.
        pieces: the pickle stream.
        entries: per out-of-band buffer its source, or the kind of slot that it is.
    """

    __slots__ = (
        "_array_ids",
        "_cloud",
        "_generation",
        "_packing",
        "_plain",
        "_refs",
        "_row_ids",
        "_sink",
        "_sources",
        "code",
        "entries",
        "in_band_bytes_max",
        "pieces",
    )

    def __init__(self, code: bool) -> None:
        self.code = code
        self._sink = _Sink(_no_write)
        self._sources: dict[int, tuple[Any, Source | int]] = {}
        self._refs: dict[bytes, Any] = {}
        self._array_ids: list[int] = []
        self._row_ids: list[Array] = []
        self.clear()
        self._make_tables()

    def clear(self) -> None:
        """Forget the value; what was taken out of here before is not touched."""
        self.pieces: list[Any] = []
        self.entries: list[Source | int] = []
        self.in_band_bytes_max = IN_BAND_BYTES_MAX
        self._sink.write = self.pieces.append
        self._packing = True
        if self._sources:
            self._sources.clear()
        if self._refs:
            self._refs.clear()
        if self._array_ids:
            self._array_ids.clear()
        if self._row_ids:
            self._row_ids.clear()

    @property
    def refs(self) -> list[Any]:
        """The refs met, each id once, in order."""
        return list(self._refs.values())

    def run(self, value: Any, packing: bool = True) -> None:
        """Pickle ``value``; afterwards the attributes have what came out.

        Raises `RowsAliasedError` if it must be done again with ``packing`` off, and whatever pickling raises.
        """
        self._packing = packing
        if self._generation != _state():
            self._make_tables()
        if self.code or not self._run_plain(value):
            self._reset()
            _CloudPickler(self._sink, self._on_buffer, self._cloud).dump(value)
        if self._row_ids:
            self._check_rows()

    def place(self, source: Source, nbytes: int) -> bytes | pickle.PickleBuffer:
        """What stands for the bytes of a source in the pickle: themselves, if they are few."""
        if nbytes <= self.in_band_bytes_max:
            return source.tobytes() if isinstance(source, RaggedRows) else array_bytes(source)
        return self._mark(source)

    def _run_plain(self, value: Any) -> bool:
        """Whether plain pickle could do it."""
        pickler = pickle.Pickler(self._sink, PROTOCOL, buffer_callback=self._on_buffer)
        pickler.dispatch_table = self._plain
        try:
            pickler.dump(value)
        except (_NeedsCloudpickleError, pickle.PicklingError, AttributeError, TypeError):
            return False
        return not self._mentions_by_value()

    def _reset(self) -> None:
        in_band, packing = self.in_band_bytes_max, self._packing
        self.clear()
        self.in_band_bytes_max, self._packing = in_band, packing

    def _make_tables(self) -> None:
        self._generation = _state()
        fixed: dict[type, Reducer] = {
            custom.Shipped: custom.Shipped.reduce,
            NextRider: lambda _: (identity, (self._mark(NEXT_RIDER),)),
            Riders: lambda _: (identity, (self._mark(RIDERS_BY_ID),)),
            PackedSequence: self._reduce_sequence,
        }
        if not self.code:
            fixed[np.ndarray] = self.reduce_array
        if _ref_type is not None:
            fixed[_ref_type] = self._reduce_ref
        self._plain = ReducerTable(fixed, copyreg.dispatch_table, by_value=False, dump=self)
        cloud = {**fixed, CodeType: reduce_code, **cached.reducers(is_by_value)}
        self._cloud = ReducerTable(cloud, cloudpickle.Pickler.dispatch_table, by_value=True, dump=self)

    def _reduce_ref(self, ref: Any) -> Reduced:
        key = ref.id
        refs = self._refs
        if key in refs:  # another object of the same id
            return getitem, (_RIDERS, key)
        refs[key] = ref
        return _TAKE_NEXT

    def reduce_array(self, array: Array) -> Reduced:
        """How to pickle an exact `numpy.ndarray`."""
        dtype = array.dtype
        if dtype.hasobject:
            return self._reduce_objects(array)
        self._array_ids.append(id(array))
        if array.ndim == 1 and array.nbytes <= self.in_band_bytes_max and dtype in CODES:
            return np.ndarray, (array.shape, CODES[dtype], array.tobytes())
        arguments = array_arguments(array, self.place)
        if arguments is None:
            return array.__reduce_ex__(PROTOCOL)  # type: ignore[return-value]
        return np.ndarray, arguments

    def _reduce_objects(self, array: Array) -> Reduced:
        packed = pack(array.ravel()) if self._packing and array.dtype.kind == "O" and array.ndim else None
        if array.dtype.kind == "T":
            return reduce_own(array)
        if packed is None:
            return array.__reduce_ex__(PROTOCOL)  # type: ignore[return-value]
        self._row_ids.append(packed.row_ids)
        return reduce_object_array(packed.rows, array.shape, self.place)

    def _reduce_sequence(self, sequence: PackedSequence) -> Reduced:
        self._row_ids.append(sequence.packed.row_ids)
        return reduce_sequence(sequence, self.place)

    def _mark(self, source: Source | int) -> pickle.PickleBuffer:
        # Writable, because a read-only one would have its object checked to be a buffer at the load.
        buffer = pickle.PickleBuffer(bytearray())
        self._sources[id(buffer)] = (buffer, source)
        return buffer

    def _on_buffer(self, buffer: pickle.PickleBuffer) -> bool:
        """Take a buffer out of the pickle; True leaves it in."""
        marked = self._sources.pop(id(buffer), None)
        if marked is not None:
            self.entries.append(marked[1])
            return False
        raw = buffer.raw()
        if raw.nbytes <= self.in_band_bytes_max:
            return True
        self.entries.append(np.frombuffer(raw, np.uint8))
        return False

    def _check_rows(self) -> None:
        """Raise `RowsAliasedError` if an array is both a packed row and something else."""
        if len(self._row_ids) == 1 and not self._array_ids:
            return
        every = np.sort(np.concatenate([*self._row_ids, np.array(self._array_ids, np.uint64)]))
        if bool((every[1:] == every[:-1]).any()):
            raise RowsAliasedError

    def _mentions_by_value(self) -> bool:
        """Whether the pickle refers to a module that is to go by value (or has a string of its name)."""
        names = [_MAIN, *(name.encode() for name in cloudpickle_module.list_registry_pickle_by_value())]
        for piece in self.pieces:
            # Bytes and strings of 64 KiB and more are written in pieces of their own, without a frame.
            if len(piece) <= _FRAME_HEAD_MAX or piece[:1] == _FRAME or piece[2:3] == _FRAME:
                for name in names:
                    if name in piece:
                        return True
        return False


_pool: dict[bool, list[Dump]] = {False: [], True: []}


def take_dump(code: bool = False) -> Dump:
    """A cleared dump, to be given back to `return_dump`. A value may be serialized while another one is."""
    idle = _pool[code]
    try:
        return idle.pop()
    except IndexError:
        return Dump(code)


def return_dump(dump: Dump) -> None:
    """Make the dump available again."""
    dump.clear()
    idle = _pool[dump.code]
    if len(idle) < POOL_MAX:
        idle.append(dump)


def set_ref_type(cls: type) -> None:
    """Tell which class refs are of: its instances have an ``id`` of 16 bytes."""
    global _ref_type
    _ref_type = cls


def adopt_spawned_main() -> None:
    """Have the main module go by value also where it is `SPAWNED_MAIN`: no other process has a module of that name."""
    if SPAWNED_MAIN in sys.modules:
        cloudpickle_module.register_pickle_by_value(sys.modules[SPAWNED_MAIN])


def is_by_value(module: str | None) -> bool:
    """Whether what belongs to a module is pickled by value."""
    if module == "__main__":
        return True
    registered = cloudpickle_module.list_registry_pickle_by_value()
    return bool(registered) and any(
        module == name or f"{module}.".startswith(f"{name}.") for name in registered
    )


def _state() -> tuple[int, int, type | None]:
    """What the tables were made from, cheap enough to compare at every dump."""
    return custom.generation(), len(copyreg.dispatch_table), _ref_type


def _library_reducer(library: str, cls: type) -> Reducer | None:
    if library == "frames":
        from . import frames

        return frames.reducer_for(cls)
    from . import tensors

    return tensors.reducer_for(cls)

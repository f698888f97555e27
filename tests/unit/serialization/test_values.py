"""Plain values, their aliasing and recursion, what belongs to __main__, and the hot path."""

import collections
import dataclasses
import enum
import pickle
import subprocess
import sys
import textwrap
import typing

import cloudpickle
import numpy as np
import pytest

from shoal.serialization import deserialize, dumps_code, dumps_small, loads_code, serialize


@dataclasses.dataclass
class Point:
    x: object
    arrays: list = dataclasses.field(default_factory=list)


class Slotted:
    __slots__ = ("a", "b")


class Color(enum.Enum):
    RED = 1


class Meta(type):
    pass


class WithMeta(metaclass=Meta):
    pass


Pair = collections.namedtuple("Pair", "a b")  # noqa: PYI024 - this is what is under test
T = typing.TypeVar("T")
LEVEL = 5


@pytest.mark.parametrize(
    "value",
    [
        None,
        5,
        -(2**70),
        1.5,
        True,
        2j,
        "text",
        "é" * 70_000,
        b"bytes",
        b"\x80\x05" * 70_000,
        bytearray(b"x" * 70_000),
        [1, [2, (3, {4: {5}})]],
        frozenset([1, 2]),
        range(3),
        Pair(1, [2]),
        Color.RED,
        WithMeta,
        len,
        np.sin,
        "__main__",
        {"__main__": ["__main__"]},
        ...,
        list(range(100_000)),
    ],
)
def test_round_trip(both, value):
    for loaded in both(value):
        assert loaded == value
        assert type(loaded) is type(value)


def test_what_is_plain_is_a_plain_pickle():
    for value in (None, [1, "a"], np.arange(10), Point(1), b"x" * 10**6):
        data = serialize(value).to_bytes()
        assert data[:2] == b"\x80\x05"
        pickle.loads(data)


def test_objects(both):
    slotted = Slotted()
    slotted.a, slotted.b = np.arange(10_000), slotted
    for point, loaded in both([Point(1, [np.arange(50_000)]), slotted]):
        assert point.x == 1
        assert point.arrays[0].sum() == 1_249_975_000
        assert loaded.b is loaded
        assert not loaded.a.flags.writeable


def test_plain_values_are_fresh(store):
    where = store.put({"a": [1, 2], "x": np.arange(100_000)})
    first, second = store.get(where), store.get(where)
    first["a"].append(3)
    assert second["a"] == [1, 2]


def test_aliases_and_recursion(both):
    shared = [1]
    value = {"a": shared, "b": (shared, {"c": shared})}
    value["self"] = value
    for loaded in both(value):
        assert loaded["a"] is loaded["b"][0] is loaded["b"][1]["c"]
        assert loaded["self"] is loaded
    recursive = []
    recursive.append(recursive)
    for loaded in both(recursive):
        assert loaded[0] is loaded


def test_large_bytes_are_not_copied_by_the_dump():
    data = b"x" * 1_000_000
    packed = serialize([data, bytearray(data)])
    assert any(piece is data for piece in packed._pieces)
    assert deserialize(packed.to_bytes()) == [data, bytearray(data)]


def test_put_is_a_snapshot(store):
    data = bytearray(b"x" * 200_000)
    where = store.put(data)
    data[0] = 0
    assert store.get(where) == b"x" * 200_000


def test_lambdas_and_local_classes(both):
    class Local:
        def level(self):
            return LEVEL

    for function, cls, instance in both((lambda x: x + LEVEL, Local, Local())):
        assert function(1) == 6
        assert type(instance) is cls
        assert instance.level() == 5


def test_deep_recursion_is_said_to_be_that():
    value = []
    for _ in range(100_000):
        value = [value]
    with pytest.raises(RecursionError):
        serialize(value)


def test_serializing_inside_of_serializing(both):
    class Outer:
        def __reduce__(self):
            return deserialize, (serialize([1, np.arange(3)]).to_bytes(),)

    for loaded in both([Outer(), Outer()]):
        assert loaded[1][0] == 1


def test_foreign_buffers(both):
    buffer = pickle.PickleBuffer(bytearray(b"a" * 10_000))

    class Holder:
        def __reduce_ex__(self, protocol):
            return bytes, (buffer,)

    for loaded in both(Holder()):
        assert loaded == b"a" * 10_000


def test_registrations_with_copyreg_are_followed(both):
    import copyreg

    class Odd:
        pass

    copyreg.pickle(Odd, lambda odd: "LEVEL")
    Odd.__module__, Odd.__reduce__ = __name__, lambda self: pytest.fail("copyreg comes first")
    try:
        copyreg.pickle(Odd, lambda odd: (int, (7,)))
        for loaded in both([Odd()]):
            assert loaded == [7]
    finally:
        copyreg.dispatch_table.pop(Odd)


SCRIPT = """
import sys, enum, dataclasses, typing, numpy as np
from shoal.serialization import serialize, dumps_code
LEVEL = 7
class Base:
    pass
@dataclasses.dataclass
class Mine(Base):
    x: object
    def total(self):
        return self.x.sum() + LEVEL
class Kind(enum.Enum):
    ONE = 1
class Error(Exception):
    pass
def function(a):
    return Mine(np.arange(a)).total()
arrays = [Mine(np.arange(5)), Mine(np.arange(50_000))]
value = [*arrays, function, Kind.ONE, Mine, Error("e"), {"deep": (Base(),)}]
for item in (value, Mine, Kind.ONE, function, Error("e"), Base()):
    data = serialize(item).to_bytes()
    sys.stdout.buffer.write(len(data).to_bytes(8, "little") + data)
data, refs = dumps_code(function)
sys.stdout.buffer.write(len(data).to_bytes(8, "little") + data)
"""


def test_main_goes_by_value():
    output = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, check=True).stdout
    values = []
    while output:
        size = int.from_bytes(output[:8], "little")
        values.append(deserialize(output[8 : 8 + size]))
        output = output[8 + size :]
    small, large, function, kind, mine, error, deep = values[0]
    assert small.total() == 17
    assert large.total() == 1_249_975_007
    assert type(large) is mine
    assert not large.x.flags.writeable
    assert function(5) == 17
    assert kind.name == "ONE"
    assert error.args == ("e",)
    assert type(deep["deep"][0]).__name__ == "Base"
    assert values[1].__name__ == "Mine"
    assert values[6](5) == 17


def test_modules_registered_by_value(tmp_path, monkeypatch):
    (tmp_path / "shoal_test_by_value.py").write_text(
        "class Thing:\n    pass\n\n\ndef call():\n    return 3\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    import shoal_test_by_value as module

    by_reference = [serialize(value).size for value in (module.call, module.Thing())]
    cloudpickle.register_pickle_by_value(module)
    try:
        data = [serialize(value).to_bytes() for value in (module.call, module.Thing())]
    finally:
        cloudpickle.unregister_pickle_by_value(module)
    assert all(len(new) > 2 * old for new, old in zip(data, by_reference, strict=True))
    monkeypatch.delitem(sys.modules, "shoal_test_by_value")
    monkeypatch.undo()
    assert deserialize(data[0])() == 3


def test_code_by_reference_and_by_value():
    data, refs = dumps_code(textwrap.dedent)
    assert loads_code(data) is textwrap.dedent
    assert refs == []
    table = np.arange(100_000)
    data, _ = dumps_code(lambda: table)
    loaded = loads_code(data)()
    loaded[0] = 5  # what a function captured is its own
    assert table[0] == 0


SMALL = [
    0,
    -1,
    2**80,
    1.5,
    True,
    False,
    None,
    2j,
    "x",
    "é",
    b"b",
    (),
    [],
    {},
    (1, "a"),
    [None, 2.5],
    {"a": 1, 2: b""},
]


@pytest.mark.parametrize("value", SMALL, ids=repr)
def test_small_values(value):
    data = dumps_small(value)
    assert data is not None
    assert deserialize(data) == value
    assert type(deserialize(data)) is type(value)


class Whole(int):
    pass


@pytest.mark.parametrize(
    "value",
    [
        Whole(3),
        "x" * 200_000,
        b"x" * 200_000,
        2 ** (8 * 200_000),
        [[1]],
        (np.arange(3),),
        {"a": []},
        {(1, 2): 3},
        list(range(1000)),
        np.float64(1),
        Point(1),
        object(),
        int,
    ],
    ids=lambda value: type(value).__name__,
)
def test_not_small(value):
    assert dumps_small(value) is None

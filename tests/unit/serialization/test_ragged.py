"""Lists and object arrays of many small arrays: packed where nobody can tell the difference."""

import numpy as np
import pytest

from shoal.serialization import serialize
from shoal.serialization.ragged import ROWS_MIN


def make_rows(count, dtype=np.int32):
    return [(np.arange(i % 60) + i).astype(dtype) for i in range(count)]


def objects(rows, shape=None):
    array = np.fromiter(rows, object, len(rows))
    return array if shape is None else array.reshape(shape)


def flat(value):
    if isinstance(value, dict):
        return [row for item in value.values() for row in flat(item)]
    if isinstance(value, np.ndarray) and value.dtype != object:
        return [value]
    if not isinstance(value, (list, tuple, np.ndarray)):
        return []
    items = value.ravel() if isinstance(value, np.ndarray) else value
    return [row for item in items for row in flat(item)]


def is_packed(value):
    rows = len(flat(value))
    return serialize(value).size < sum(row.nbytes for row in flat(value)) + 8 * rows + 2000


ROWS = make_rows(1000)
PACKED = {
    "list": ROWS,
    "tuple": tuple(ROWS),
    "object array": objects(ROWS),
    "two-dimensional object array": objects(ROWS, (10, 100)),
    "values of a dict": {"a": ROWS, "b": make_rows(500, np.float64)},
    "object arrays in a dict": {"a": {"b": [objects(ROWS)]}},
    "arguments of a task": (([1, ROWS],), {"key": tuple(make_rows(100))}),
    "very many rows": make_rows(5000),
    "very many rows in an object array": objects(make_rows(5000)),
    "very many rows of one length": [np.arange(5) + i for i in range(5000)],
    "rows of one length": [np.arange(5) + i for i in range(100)],
    "empty rows": [np.empty(0, np.int8) for _ in range(100)],
    "strided rows": [np.arange(40 + i)[::2] for i in range(100)],
    "datetimes": [np.arange(i).astype("M8[s]") for i in range(100)],
    "structured": [np.ones(i, [("a", "i1"), ("b", "f8")]) for i in range(100)],
}


@pytest.mark.parametrize("name", PACKED)
def test_packed_and_back(both, name):
    value = PACKED[name]
    assert is_packed(value)
    for loaded in both(value):
        assert type(loaded) is type(value)
        if isinstance(value, np.ndarray):
            assert loaded.shape == value.shape
        for new, old in zip(flat(loaded), flat(value), strict=True):
            assert type(new) is np.ndarray
            assert new.dtype == old.dtype
            assert new.tobytes() == old.tobytes()
            with pytest.raises(ValueError, match="WRITEABLE"):
                new.flags.writeable = True


@pytest.mark.parametrize("rows", [make_rows(5000), [np.arange(7) + i for i in range(5000)]])
def test_rows_lie_in_the_store_and_keep_it(store, rows):
    loaded = store.get(store.put(objects(rows)), "rows")
    row = loaded[4999]
    assert store.contains(row.ctypes.data)
    loaded[0] = None  # the container is the reader's own
    del loaded
    assert store.dead() == []
    del row
    assert store.dead() == ["rows"]


SHARED = np.arange(7)
NOT_PACKED = {
    "few": make_rows(ROWS_MIN - 1),
    "two dtypes": [*make_rows(100), np.arange(3.0)],
    "two dimensions": [np.zeros((2, 2))] * 1 + [np.zeros((2, 2)) for _ in range(99)],
    "one of two dimensions": [*make_rows(50), np.zeros((2, 2), np.int32), *make_rows(50)],
    "a subclass": [*make_rows(50), np.arange(3, dtype=np.int32).view(np.recarray), *make_rows(50)],
    "something else": [*make_rows(50), None, *make_rows(50)],
    "one row twice": [*make_rows(99), SHARED, SHARED],
    "one row twice, far from each other": [SHARED, *make_rows(5000, np.int64), SHARED],
    "another dtype after very many rows": [*make_rows(5000), np.arange(3.0)],
    "0-d": [np.array(i) for i in range(100)],
}


@pytest.mark.parametrize("name", NOT_PACKED)
def test_not_packed(both, name):
    value = NOT_PACKED[name]
    for loaded in both(value):
        for new, old in zip(loaded, value, strict=True):
            assert type(new) is type(old)
            assert np.array_equal(new, old)


def test_rows_that_appear_twice_stay_one(both):
    for loaded in both([*make_rows(99), SHARED, SHARED]):
        assert loaded[-1] is loaded[-2]
    rows = make_rows(100)
    for loaded in both({"rows": rows, "best": rows[3]}):
        assert loaded["best"] is loaded["rows"][3]
    for loaded in both({"rows": rows, "some": rows[::2]}):
        assert loaded["some"][1] is loaded["rows"][2]
    for loaded in both({"rows": objects(rows), "best": [rows[3]]}):
        assert loaded["best"][0] is loaded["rows"][3]


def test_lists_that_appear_twice_stay_one(both):
    rows = make_rows(100)
    for loaded in both({"a": rows, "b": rows, "c": [rows]}):
        assert loaded["a"] is loaded["b"] is loaded["c"][0]
    deep = {"a": rows, "b": [[[[[rows]]]]]}
    for loaded in both(deep):
        assert loaded["a"] is loaded["b"][0][0][0][0][0]


def test_recursive_containers_of_rows(both):
    value = {"rows": make_rows(100)}
    value["self"] = value
    for loaded in both(value):
        assert loaded["self"] is loaded
        assert loaded["self"]["rows"] is loaded["rows"]


def test_the_value_itself_is_not_changed():
    rows = make_rows(100)
    value = {"rows": rows, "more": (rows,)}
    serialize(value)
    assert value["rows"] is rows
    assert value["more"][0] is rows
    assert type(rows[0]) is np.ndarray


def test_hash_and_comparison_do_not_depend_on_where_rows_lie():
    first, second = serialize(make_rows(20_000)), serialize(make_rows(20_000))
    assert first.content_hash() == second.content_hash()
    window = np.zeros(first.size, np.uint8)
    first.write_into(window)
    assert second.equals(window)
    window[-1] ^= 1
    assert not second.equals(window)

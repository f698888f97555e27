"""Arrays of all kinds come back equal, of the same type and layout, read-only, and in place when large."""

import gc

import numpy as np
import pytest

from shoal.serialization import deserialize, serialize

STRUCTURED = np.dtype([("a", "i4"), ("b", "f8"), ("c", "S3")], align=True)
WIDE = np.arange(60000.0).reshape(200, 300)

RAW = {
    "small": np.arange(5),
    "large": np.arange(100_000.0),
    "bool": np.ones(70_000, bool),
    "complex": np.arange(5) * 1j,
    "zero-size": np.zeros((0, 5)),
    "zero-size F": np.zeros((3, 0), order="F"),
    "0-d": np.array(3),
    "0-d datetime": np.array("2024-01-01", "M8[D]"),
    "datetime": np.arange(80_000).astype("M8[s]"),
    "timedelta": np.arange(4).astype("m8[ms]"),
    "fortran": np.asfortranarray(WIDE),
    "small fortran": np.asfortranarray(np.arange(6).reshape(2, 3)),
    "structured": np.zeros(20_000, STRUCTURED),
    "small structured": np.ones(3, STRUCTURED),
    "strings": np.array(["a", "bb"]),
    "bytes": np.array([b"a", b"bb"] * 20_000),
    "void": np.zeros(3, "V5"),
    "empty strings": np.zeros(3, "S0"),
    "big-endian": np.arange(10_000, dtype=">i4"),
    "longdouble": np.arange(3, dtype=np.longdouble),
    "every second": WIDE[::2, ::3],
    "transposed view": WIDE[::2, ::3].T,
    "negative stride": np.arange(50_000)[::-1],
    "broadcast": np.broadcast_to(np.arange(3.0), (4, 3)),
    "four axes": np.arange(36_000.0).reshape(3, 4, 5, 600).transpose(3, 0, 2, 1),
    "structured view": np.zeros((300, 40), STRUCTURED)[:, ::2],
}


def assert_same(loaded, array):
    assert type(loaded) is np.ndarray
    assert loaded.dtype == array.dtype
    assert loaded.shape == array.shape
    if array.dtype.fields:  # tobytes leaves what is between fields undefined
        assert np.array_equal(loaded, array)
    else:
        assert loaded.tobytes() == array.tobytes()


def assert_read_only(array):
    assert not array.flags.writeable
    with pytest.raises(ValueError, match="assignment destination is read-only"):
        array[...] = array.copy()
    with pytest.raises(ValueError, match="WRITEABLE"):
        array.flags.writeable = True
    view = array[...] if array.ndim else array.reshape(1)
    with pytest.raises(ValueError, match="WRITEABLE"):
        view.flags.writeable = True
    copy = array.copy()
    copy[...] = array


@pytest.mark.parametrize("name", RAW)
def test_comes_back_equal_and_read_only(both, name):
    array = RAW[name]
    for loaded in both(array):
        assert_same(loaded, array)
        assert_read_only(loaded)
    for loaded in both({"nested": [array]}):
        assert_same(loaded["nested"][0], array)
        assert_read_only(loaded["nested"][0])


def test_large_arrays_are_read_in_place_and_aligned(store):
    value = [np.arange(30_000), {"x": np.arange(2_000.0)}, np.zeros((1000, 1000))[::2, ::2]]
    loaded = store.get(store.put(value))
    for array in (loaded[0], loaded[1]["x"], loaded[2]):
        assert store.contains(array.ctypes.data)
        assert array.ctypes.data % 64 == 0


def test_fortran_order_survives(both):
    for loaded in both(RAW["fortran"]):
        assert loaded.flags.f_contiguous
    for loaded in both(np.asfortranarray(np.arange(6).reshape(2, 3))):
        assert loaded.flags.f_contiguous


def test_every_view_keeps_the_memory(store):
    loaded = store.get(store.put({"a": np.arange(60_000).reshape(200, 300), "b": np.arange(60_000)}), "it")
    part = loaded["a"].T[5:7][::-1].view(np.uint64)
    del loaded
    assert store.dead() == []
    assert part[0, 0] == 6
    del part
    assert store.dead() == ["it"]


def test_inline_arrays_keep_only_their_bytes():
    loaded = deserialize(serialize(np.arange(1000)).to_bytes())
    gc.collect()
    assert loaded.sum() == 499_500


def test_aliased_arrays_stay_aliased(both):
    array, small = np.arange(50_000), np.arange(3)
    for loaded in both({"a": array, "b": [array, small], "c": small}):
        assert loaded["a"] is loaded["b"][0]
        assert loaded["c"] is loaded["b"][1]


def test_memmap_comes_back_as_an_array(both, tmp_path):
    for shape in ((10,), (300, 200)):
        mapped = np.memmap(tmp_path / "file", np.float64, "w+", shape=shape)
        mapped[...] = 3
        for loaded in both({"a": mapped}):
            assert_same(loaded["a"], np.asarray(mapped))
            assert_read_only(loaded["a"])


class Tagged(np.ndarray):
    """Pickles its attribute the way that numpy's guide recommends."""

    tag = None

    def __reduce__(self):
        make, arguments, state = super().__reduce__()
        return make, arguments, (*state, self.tag)

    def __setstate__(self, state):
        self.tag = state[-1]
        super().__setstate__(state[:-1])


class Plain(np.ndarray):
    made = 0

    def __new__(cls):
        raise AssertionError("unpickling calls no __new__")


@pytest.mark.filterwarnings("ignore:the matrix subclass")
@pytest.mark.parametrize("count", [4, 40_000])
def test_subclasses(both, count):
    tagged = np.arange(count).view(Tagged)
    tagged.tag = "t"
    for loaded in both([tagged]):
        assert type(loaded[0]) is Tagged
        assert loaded[0].tag == "t"
        assert np.array_equal(loaded[0], tagged)
        with pytest.raises(ValueError, match="read-only"):
            loaded[0][0] = 1
    for array in (
        np.arange(count).view(Plain),
        np.matrix(np.arange(count)),
        np.rec.array([(1, 2.0)] * count),
    ):
        for loaded in both([array]):
            assert type(loaded[0]) is type(array)
            assert loaded[0].dtype == array.dtype
            assert loaded[0].tobytes() == array.tobytes()
            assert_read_only(loaded[0].view(np.ndarray))


@pytest.mark.parametrize("count", [4, 40_000])
def test_masked_arrays(both, count):
    array = np.ma.masked_array(np.arange(count), np.arange(count) % 2, fill_value=7)
    for loaded in both([array, np.ma.masked_array(np.arange(count))]):
        assert type(loaded[0]) is np.ma.MaskedArray
        assert np.array_equal(loaded[0].mask, array.mask)
        assert np.array_equal(loaded[0].data, array.data)
        assert loaded[0].fill_value == 7
        assert loaded[1].mask is np.ma.nomask
        with pytest.raises(ValueError, match="read-only"):
            loaded[0][0] = 1


def test_object_arrays_are_fresh_containers(both):
    array = np.array([[1, None], ["x", [1, 2]]], object)
    for loaded in both(array):
        assert loaded.tolist() == array.tolist()
        loaded[0, 0] = 5
    mixed = np.zeros(2, [("a", object), ("b", "i4")])
    for loaded in both(mixed):
        assert loaded.dtype == mixed.dtype


def test_recursive_object_array(both):
    array = np.empty(2, object)
    array[0] = array
    for loaded in both(array):
        assert loaded[0] is loaded


@pytest.mark.skipif(not hasattr(np.dtypes, "StringDType"), reason="numpy before 2 has no StringDType")
def test_variable_strings(both):
    array = np.array(["a", "b" * 10_000, ""], np.dtypes.StringDType())
    for loaded in both([array]):
        assert loaded[0].tolist() == array.tolist()
        with pytest.raises(ValueError, match="read-only"):
            loaded[0][0] = "z"


def test_scalars(both):
    for value in (np.float64(3), np.datetime64("2020-01-01"), np.int8(-3), np.bool_(True), np.str_("x")):
        for loaded in both(value):
            assert loaded == value
            assert type(loaded) is type(value)


def test_random_generators_work(both):
    generator = np.random.default_rng(5)
    legacy = np.random.RandomState(5)
    for loaded, old in both((generator, legacy)):
        assert loaded.random() == np.random.default_rng(5).random()
        assert old.rand() == np.random.RandomState(5).rand()

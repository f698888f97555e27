"""pandas, polars and Arrow: read in place, and pandas written by copy-on-write."""

import numpy as np
import pytest

from shoal.serialization import frames, serialize

ROWS = 50_000


@pytest.fixture
def pd():
    return pytest.importorskip("pandas")


@pytest.fixture
def pa():
    return pytest.importorskip("pyarrow")


@pytest.fixture
def pl():
    pytest.importorskip("pyarrow")
    return pytest.importorskip("polars")


@pytest.fixture
def frame(pd):
    return pd.DataFrame(
        {
            "a": np.arange(float(ROWS)),
            "b": np.arange(ROWS),
            "text": [f"t{i}" for i in range(ROWS)],
            "when": pd.date_range("2020", periods=ROWS, freq="min"),
            "kind": pd.Categorical(["u", "v"] * (ROWS // 2)),
            "n": pd.array([1, None] * (ROWS // 2), dtype="Int64"),
            "c": np.ones(ROWS),
            "o": [None, (1,)] * (ROWS // 2),
        },
        index=pd.Index(np.arange(ROWS) * 2, name="key"),
    )


def cow(pd):
    """Whether pandas copies on write."""
    return int(pd.__version__.partition(".")[0]) >= 3 or pd.options.mode.copy_on_write is True


def test_frame_is_read_in_place(pd, frame, store):
    loaded = store.get(store.put(frame))
    pd.testing.assert_frame_equal(loaded, frame)
    places = [
        block.values.ctypes.data
        for block in loaded._mgr.blocks
        if type(block.values) is np.ndarray and block.values.dtype != object
    ]
    assert len(places) >= 2
    assert all(store.contains(place) for place in places)
    assert store.contains(loaded["when"].array._ndarray.ctypes.data)
    assert store.contains(loaded["kind"].array.codes.ctypes.data)
    assert store.contains(loaded["n"].array._data.ctypes.data)
    assert store.contains(loaded.index.values.ctypes.data)


def test_frame_is_written_without_anybody_noticing(pd, frame, store):
    if not cow(pd):
        pytest.skip("pandas before 3 without the copy_on_write option writes in place")
    where = store.put(frame)
    mine, other = store.get(where), store.get(where)
    mine.iloc[0, 0] = 5
    mine.loc[4, "b"] = 77
    mine.loc[0, "text"] = "new"
    mine.iloc[1, 3] = pd.Timestamp("1999-01-01")
    mine.iloc[1, 4] = "u"
    mine.iloc[0, 5] = 9
    mine["c"] += 1
    mine.loc[:, "a"] = 1.5
    mine["new"] = mine["b"] * 2
    assert mine.iloc[0, 5] == 9
    assert mine.loc[4, "b"] == 77
    pd.testing.assert_frame_equal(other, frame)
    part = other["a"]
    part.iloc[0] = 8
    view = other[["a", "b"]]
    view.iloc[0, 0] = 7
    whole = other.reset_index()
    whole.iloc[0, 0] = 9
    turned = other[["a", "c"]].T
    turned.iloc[0, 0] = 3
    pd.testing.assert_frame_equal(other, frame)
    pd.testing.assert_frame_equal(store.get(where), frame)


def test_frame_keeps_the_memory_until_it_is_gone(pd, frame, store):
    loaded = store.get(store.put(frame), "frame")
    column = loaded["b"]
    del loaded
    assert store.dead() == []
    assert column.sum() == frame["b"].sum()
    del column
    assert store.dead() == ["frame"]


@pytest.mark.parametrize("name", ["a", "b", "text", "when", "kind", "n", "o"])
def test_series(pd, frame, store, name):
    series = frame[name]
    where = store.put(series)
    loaded = store.get(where)
    pd.testing.assert_series_equal(loaded, series)
    if cow(pd):
        loaded.iloc[0] = loaded.iloc[1]
        pd.testing.assert_series_equal(store.get(where), series)


def test_small_frames(pd, both):
    small = pd.DataFrame({"x": [1.0, 2.0], "y": ["a", None]})
    for loaded in both([small, small["x"], small]):
        assert loaded[0] is loaded[2]
        pd.testing.assert_frame_equal(loaded[0], small)
        if cow(pd):
            loaded[0].iloc[0, 0] = 5
            loaded[1].iloc[0] = 6


def test_frames_without_much(pd, both):
    for frame in (pd.DataFrame(), pd.DataFrame({"a": []}), pd.DataFrame(index=range(3))):
        for loaded in both(frame):
            pd.testing.assert_frame_equal(loaded, frame)


def test_indexes(pd, both):
    for index in (
        pd.Index(np.arange(ROWS)),
        pd.Index(["a", "b"]),
        pd.RangeIndex(5),
        pd.MultiIndex.from_product([range(100), range(200)], names=["a", "b"]),
        pd.date_range("2020", periods=10_000, tz="UTC"),
        pd.interval_range(0, 5),
        pd.CategoricalIndex(["a", "b"]),
        pd.period_range("2020", periods=4),
    ):
        for loaded in both(index):
            pd.testing.assert_index_equal(loaded, index)
            if cow(pd) and loaded.nlevels == 1:
                series = pd.Series(loaded)
                del loaded
                series.iloc[0] = series.iloc[1]


def test_frame_subclass(pd, both):
    class Frame(pd.DataFrame):
        _metadata = ["unit"]  # noqa: RUF012 - as pandas wants it

        @property
        def _constructor(self):
            return Frame

    frame = Frame({"a": np.arange(10_000.0)})
    frame.unit = "m"
    for loaded in both(frame):
        assert type(loaded) is Frame
        assert loaded.unit == "m"
        if cow(pd):
            loaded.iloc[0, 0] = 5


def test_arrow_is_read_in_place(pa, store):
    table = pa.table(
        {"a": np.arange(ROWS), "s": ["x"] * ROWS, "l": [[1, 2]] * ROWS, "n": [None, 1.5] * (ROWS // 2)}
    )
    loaded = store.get(store.put({"t": table}), "table")["t"]
    assert loaded.equals(table)
    assert store.contains(loaded.column("a").chunk(0).buffers()[1].address)
    column = loaded.column("a")
    del loaded
    assert store.dead() == []
    assert column.to_numpy()[3] == 3
    del column
    assert store.dead() == ["table"]


def test_arrow_slices_do_not_take_the_whole_along(pa, both):
    table = pa.table({"a": np.arange(ROWS), "s": ["x"] * ROWS})
    batch = table.to_batches()[0]
    for part in (table.slice(100, 50), batch.slice(100, 50), batch.slice(3, 0), table.slice(0, 0)):
        assert serialize(part).size < 10_000
        for loaded in both(part):
            assert type(loaded) is type(part)
            assert loaded.equals(part)
    for loaded in both([table.schema, table.column("a"), pa.array([1, None]), batch]):
        assert loaded[0] == table.schema
        assert loaded[1].equals(table.column("a"))
        assert loaded[3].equals(batch)


def test_polars_is_read_in_place(pl, store):
    frame = pl.DataFrame(
        {
            "i": np.arange(ROWS),
            "s": [f"a{i}" if i % 3 else None for i in range(ROWS)],
            "c": pl.Series(["x", "y"] * (ROWS // 2), dtype=pl.Categorical),
            "e": pl.Series(["x", "y"] * (ROWS // 2), dtype=pl.Enum(["x", "y"])),
            "l": [[1, 2]] * ROWS,
            "d": pl.Series([1, 2] * (ROWS // 2)).cast(pl.Datetime("ms", "UTC")),
        }
    )
    where = store.put(frame)
    loaded = store.get(where, "frame")
    assert loaded.equals(frame)
    assert loaded.schema == frame.schema
    assert store.contains(loaded["i"].to_numpy().ctypes.data)
    column = loaded["i"]
    loaded[0, "i"] = 99
    loaded = loaded.with_columns(pl.col("i") + 1).sort("i")
    assert store.get(where).equals(frame)
    assert "frame" not in store.dead() or not store.contains(column.to_numpy().ctypes.data)
    assert column[0] == 0


def test_polars_of_other_kinds(pl, both):
    series = pl.Series("name", [1, None, 3])
    empty, bare = pl.DataFrame(), pl.DataFrame(schema={"a": pl.Int64, "s": pl.String})
    lazy = pl.DataFrame({"a": [1, 2]}).lazy().filter(pl.col("a") > 1)
    for new_series, new_empty, new_bare, new_lazy in both((series, empty, bare, lazy)):
        assert new_series.equals(series, check_names=True)
        assert new_empty.equals(empty)
        assert new_bare.schema == bare.schema
        assert new_lazy.collect().item() == 2


def test_polars_without_arrow(pl, both, monkeypatch):
    def missing(*args, **kwargs):
        raise ImportError("no pyarrow")

    monkeypatch.setattr(pl.DataFrame, "to_arrow", missing)
    frame = pl.DataFrame({"a": [1, 2], "s": ["x", None]})
    for loaded in both(frame):
        assert loaded.equals(frame)


def test_nothing_is_imported_for_those_who_do_not_use_it():
    import subprocess
    import sys

    script = (
        "import sys; from shoal import serialization; "
        "serialization.deserialize(serialization.serialize([1, object, lambda: 3]).to_bytes()); "
        "print([m for m in ('pandas', 'polars', 'pyarrow', 'torch', 'xxhash', 'grpc') if m in sys.modules])"
    )
    output = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert output.strip() == "[]"
    assert frames.reducer_for(type("Other", (), {"__module__": "pandas.x"})) is None

"""Objects as people have them: large arrays, tables, frames, tensors, ragged rows, by reference and by value.

A view over shared memory shows: the same address in every process that reads the object (the region is mapped at one address in
all workers), read-only all the way down, valid as long as any part of it lives.
"""

import dataclasses
import gc
import os

import numpy as np
import pytest

import shoal
from largebytes import large_bytes
from ledger import bytes_of_objects, everything_came_back, rows
from marks import until

MIB = 1024 * 1024
LARGE = 50_000  # float64: more than 100 KiB


@pytest.fixture(autouse=True)
def empty_in_the_end(shoal_session):
    yield
    everything_came_back()


@shoal.remote
def echo(value):
    return value


@shoal.remote
def describe(value):
    """(address, writeable, own data, sum) of an array."""
    return value.ctypes.data, value.flags.writeable, value.flags.owndata, float(value.sum())


# --- arrays ---


def test_ten_thousand_squared(shoal_session):
    array = np.ones((10_000, 10_000))
    ref = shoal.put(array)
    view = shoal.get(ref)
    assert view.shape == array.shape
    assert np.array_equal(view[::1000], array[::1000])
    del array
    seen = shoal.get([describe.remote(ref) for _ in range(5)])
    assert len({address for address, *_ in seen}) == 1
    assert seen[0][1:] == (False, False, 1e8)
    assert view.ctypes.data == shoal.get(ref).ctypes.data


def test_five_tasks_print_one_address(shoal_session, capfd):
    ref = shoal.put(np.arange(LARGE))

    @shoal.remote
    def show(array):
        print("address", array.ctypes.data)

    shoal.get([show.remote(ref) for _ in range(5)])
    text = ""

    def has_all():
        nonlocal text
        text += capfd.readouterr().out
        return text.count("address") >= 5 or "repeated" in text

    until(has_all)
    addresses = {line.split("address ")[1].split()[0] for line in text.splitlines() if "address" in line}
    assert len(addresses) == 1


def test_read_only_all_the_way_down(shoal_session):
    @shoal.remote
    def tries(array, nested):
        problems = []
        for view in (
            array,
            array[10:],
            array.reshape(2, -1),
            array.T,
            shoal.get(nested[0])["a"][0],
            np.asarray(array),
        ):
            try:
                view[...] = 1
            except ValueError as error:
                problems.append(str(error))
            try:
                view.flags.writeable = True
            except ValueError:
                problems.append("stays")
            try:
                view.setflags(write=True)
            except ValueError:
                problems.append("stays")
        return problems

    array = np.zeros(LARGE)
    problems = shoal.get(tries.remote(shoal.put(array), [shoal.put({"a": [array]})]))
    assert problems == ["assignment destination is read-only", "stays", "stays"] * 6
    view = shoal.get(shoal.put(array))
    with pytest.raises(ValueError, match="assignment destination is read-only"):
        view[0] = 1
    with pytest.raises(ValueError, match="WRITEABLE"):
        view.flags.writeable = True
    copy = view.copy()
    copy[0] = 1
    assert copy[0] == 1
    assert shoal.get(shoal.put(np.zeros(3))).flags.writeable is False


def test_views_in_nested_values_are_in_place(shoal_session):
    @dataclasses.dataclass
    class Data:
        a: np.ndarray
        more: dict

    value = Data(np.arange(LARGE), {"b": [np.ones(LARGE), (np.zeros(LARGE), "text")]})
    ref = shoal.put(value)
    first, second = shoal.get(ref), shoal.get(ref)
    for one, other in (
        (first.a, second.a),
        (first.more["b"][0], second.more["b"][0]),
        (first.more["b"][1][0], second.more["b"][1][0]),
    ):
        assert one is not other
        assert one.ctypes.data == other.ctypes.data
    assert np.array_equal(first.a, value.a)


def test_parts_of_a_view_keep_it(shoal_session):
    ref = shoal.put({"a": np.arange(LARGE), "b": np.ones(LARGE)})
    part = shoal.get(ref)["a"][100:200:10].reshape(2, 5)
    del ref
    gc.collect()
    assert bytes_of_objects() > 0
    shoal.get(shoal.put(np.zeros(LARGE)))  # would be written over it
    assert part.tolist() == [[100, 110, 120, 130, 140], [150, 160, 170, 180, 190]]
    del part
    until(lambda: bytes_of_objects() == 0)


def kinds(folder):
    record = np.zeros(20_000, dtype=[("x", "i4"), ("y", "f8", (2,)), ("s", "S5")])
    record["x"] = np.arange(20_000)
    mapped = np.memmap(folder / "file", np.int32, "w+", shape=(300, 300))
    mapped[:] = 7
    shared = np.arange(LARGE)
    recursive = [shared]
    recursive.append(recursive)
    return {
        "memmap": mapped,
        "strided": np.arange(4 * LARGE).reshape(-1, 4)[::3, 1::2],
        "reversed": np.arange(LARGE)[::-1],
        "structured": record,
        "datetime": np.arange("2000-01-01", "2200-01-01", dtype="datetime64[D]"),
        "timedelta": np.arange(LARGE).astype("timedelta64[ms]"),
        "empty": np.zeros((0, 5)),
        "0-d": np.array(5.5),
        "fortran": np.asfortranarray(np.arange(2 * LARGE).reshape(100, -1)),
        "big endian": np.arange(LARGE, dtype=">i8"),
        "bool": np.arange(LARGE) % 3 == 0,
        "half": np.arange(LARGE, dtype=np.float16),
        "complex": np.arange(LARGE) * 1j,
        "text": np.array(["ä", "bc"] * 20_000),
        "objects": np.array([None, "x", 3, [1, 2]] * 10, dtype=object),
        "aliased": [shared, {"again": shared}],
        "recursive": recursive,
        "masked": np.ma.masked_array(np.arange(LARGE), np.arange(LARGE) % 2 == 0),
    }


def test_kinds_of_arrays(shoal_session, tmp_path):
    for name, value in kinds(tmp_path).items():
        ref = shoal.put(value)
        for got in (shoal.get(ref), shoal.get(echo.remote(ref)), shoal.get(echo.remote(value))):
            if name == "aliased":
                assert got[0] is got[1]["again"], name
                array, expected = got[0], value[0]
            elif name == "recursive":
                assert got[1] is got
                array, expected = got[0], value[0]
            else:
                array, expected = got, value
            assert array.dtype == expected.dtype, name
            assert array.shape == expected.shape, name
            assert np.array_equal(array, expected), name
            assert name != "fortran" or array.flags.f_contiguous


# --- tables, frames, tensors ---


def test_arrow_tables_are_read_in_place(shoal_session):
    pa = pytest.importorskip("pyarrow")
    table = pa.table({"a": np.arange(LARGE), "s": ["text"] * LARGE})
    ref = shoal.put(table)

    @shoal.remote
    def address(table):
        return table.column("a").chunk(0).buffers()[1].address, table.num_rows

    seen = shoal.get([address.remote(ref) for _ in range(4)])
    assert len(set(seen)) == 1
    assert seen[0][1] == LARGE
    got = shoal.get(ref)
    assert got.equals(table)
    del ref
    gc.collect()
    assert bytes_of_objects() > 0
    assert got.column("a")[77].as_py() == 77
    del got


def test_frames_are_read_in_place_and_written_by_nobody_else(shoal_session):
    pd = pytest.importorskip("pandas")
    frame = pd.DataFrame(
        {"a": np.arange(LARGE), "b": np.ones(LARGE), "c": np.ones(LARGE), "s": ["x", "y"] * (LARGE // 2)}
    )
    ref = shoal.put(frame)

    @shoal.remote
    def change(frame):
        before = frame["b"].to_numpy().ctypes.data
        frame.iloc[0, 0] = 5
        frame.loc[3, "b"] = -1
        frame["new"] = 1
        return before, int(frame.iloc[0, 0]), float(frame["b"].sum())

    seen = shoal.get([change.remote(ref) for _ in range(4)])
    assert len(set(seen)) == 1
    assert seen[0][1:] == (5, LARGE - 2)
    mine = shoal.get(ref)
    mine.iloc[0, 0] = 5
    assert mine.iloc[0, 0] == 5
    assert shoal.get(ref).iloc[0, 0] == 0
    assert shoal.get(ref).equals(frame)
    assert frame.iloc[0, 0] == 0
    del ref
    gc.collect()
    assert mine["c"].sum() == LARGE


def test_polars_frames(shoal_session):
    pl = pytest.importorskip("polars")
    frame = pl.DataFrame({"a": np.arange(LARGE), "s": ["x", "y"] * (LARGE // 2)})
    ref = shoal.put(frame)

    @shoal.remote
    def work(frame):
        return frame.filter(pl.col("a") % 2 == 0)["a"].sum(), frame["s"].n_unique()

    assert shoal.get(work.remote(ref)) == (sum(range(0, LARGE, 2)), 2)
    assert shoal.get(ref).equals(frame)
    assert shoal.get(echo.remote(frame)).equals(frame)


def test_torch_tensors(shoal_session):
    torch = pytest.importorskip("torch")
    tensor = torch.arange(500_000, dtype=torch.float32)
    ref = shoal.put({"weights": tensor})

    @shoal.remote
    def work(model):
        return float(model["weights"].sum()), str(model["weights"].dtype)

    assert shoal.get(work.remote(ref)) == (float(tensor.sum()), "torch.float32")
    got = shoal.get(ref)["weights"]
    assert torch.equal(got, tensor)
    assert torch.equal(shoal.get(echo.remote(tensor)), tensor)

    @shoal.remote
    def whose(model):
        address = model["weights"].data_ptr()
        with open("/proc/self/maps") as file:
            for line in file:
                first, last = (int(part, 16) for part in line.split()[0].split("-"))
                if first <= address < last:
                    return line
        return ""

    assert "memfd:shoal-store" in shoal.get(whose.remote(ref))  # not copied


# --- ragged ---


def test_an_object_array_of_three_million_rows(shoal_session):
    """The layout has 64-bit lengths and offsets throughout, and needs no entry per row: 150 million are no other case."""
    count = 3_000_000
    lengths = np.random.default_rng(0).integers(50, 101, count)
    flat = np.arange(1000, dtype=np.int32)
    rows_ = np.empty(count, dtype=object)
    rows_[:] = [flat[:length] for length in lengths.tolist()]
    ref = shoal.put(rows_)
    (row,) = rows()
    assert lengths.sum() * 4 < row["size_bytes"] < lengths.sum() * 4 + count * 9

    @shoal.remote
    def check(rows_):
        return len(rows_), int(sum(map(len, rows_))), int(rows_[-1][3]), rows_[7].flags.writeable

    assert shoal.get(check.remote(ref)) == (count, int(lengths.sum()), 3, False)
    got = shoal.get(ref)
    assert got.shape == (count,)
    assert got[count // 2].dtype == np.int32
    assert np.array_equal(got[count // 2], rows_[count // 2])


# --- by value ---


def test_one_array_passed_by_value_to_many_tasks_is_stored_once(shoal_session, tmp_path):
    array = np.arange(4 * MIB, dtype=np.uint8)

    @shoal.remote
    def wait_and_sum(array, path):
        import time

        while not os.path.exists(path):
            time.sleep(0.002)
        return int(array[0]), int(array.sum()), array.ctypes.data

    path = str(tmp_path / "go")
    before = int(array.sum())
    first = [wait_and_sum.options(num_cpus=0.1).remote(array, path) for _ in range(6)]
    named = wait_and_sum.options(num_cpus=0.1).remote(array=array, path=path)
    assert len(rows()) == 1
    array[0] = 77
    changed = wait_and_sum.options(num_cpus=0.1).remote(array, path)
    assert len(rows()) == 2
    array[0] = 0
    again = wait_and_sum.options(num_cpus=0.1).remote(array, path)
    assert len(rows()) == 2
    (tmp_path / "go").touch()
    seen = shoal.get([*first, named, again])
    assert {each[:2] for each in seen} == {(0, before)}
    assert len({each[2] for each in seen}) == 1
    assert shoal.get(changed)[:2] == (77, before + 77)


def test_any_change_to_an_array_that_is_passed_again_and_again_is_seen(shoal_session):
    array = np.zeros(4 * MIB, dtype=np.uint8)

    @shoal.remote
    def look(array):
        return int(array.sum()), array.shape, array.dtype.str

    for _ in range(4):
        assert shoal.get(look.remote(array)) == (0, (4 * MIB,), "|u1")
    for place in (0, 1, 4 * MIB // 2 + 3, -1):
        array[place] = 1
        assert shoal.get(look.remote(array))[0] == 1
        array[place] = 0
        assert shoal.get(look.remote(array))[0] == 0
    array.shape = (4, MIB)
    assert shoal.get(look.remote(array)) == (0, (4, MIB), "|u1")
    array.dtype = np.int8
    assert shoal.get(look.remote(array)) == (0, (4, MIB), "|i1")


def test_the_copy_of_an_array_goes_when_the_array_has_changed(shoal_session):
    array = np.zeros(4 * MIB, dtype=np.uint8)

    @shoal.remote
    def last(array):
        return int(array[-1])

    for number in range(1, 5):
        array[-1] = number
        assert shoal.get([last.remote(array) for _ in range(3)]) == [number] * 3
        until(lambda: len(rows()) == 1)


def test_other_large_values_by_value_too(shoal_session):
    value = {"a": np.ones(LARGE), "text": "x" * 200_000}

    @shoal.remote
    def length(value):
        return len(value["a"]) + len(value["text"])

    assert shoal.get([length.remote(value) for _ in range(5)]) == [LARGE + 200_000] * 5
    assert len(rows()) <= 1
    value["text"] = "y"
    assert shoal.get(length.remote(value)) == LARGE + 1


def test_large_results(shoal_session):
    @shoal.remote
    def make(i):
        return np.full(4 * MIB, i, np.uint8)

    refs = [make.remote(i) for i in range(8)]
    assert [int(view[-1]) for view in shoal.get(refs)] == list(range(8))


# --- beyond 2 GiB ---


@pytest.mark.slow
@pytest.mark.large
def test_more_than_two_gib_in_one_buffer_and_in_one_pickle(shoal_session):
    size = 2**31 + 10
    ref = shoal.put(np.zeros(size, np.uint8))

    @shoal.remote
    def check(array):
        return array.nbytes, int(array[-1])

    assert shoal.get(check.remote(ref)) == (size, 0)
    assert shoal.get(ref).nbytes == size
    del ref

    class InBand:
        """Its bytes are in the pickle itself."""

        def __init__(self, data):
            self.data = data

        def __reduce_ex__(self, protocol):
            return InBand, (self.data,)

    @shoal.remote
    def check_in_band(value):
        return len(value.data), value.data[-3:]

    value = InBand(large_bytes(size, b"end"))
    ref = shoal.put(value)
    del value
    assert shoal.get(check_in_band.remote(ref)) == (size, b"end")

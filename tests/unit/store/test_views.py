"""Exporters: released once, after the last view of any kind, and never writable."""

from __future__ import annotations

import gc
import itertools
import os
import pickle
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from regionparts import opened
from shoal.store.region import Region
from shoal.store.views import Exporter, make_view
from shoald.store.region import RegionFile


@pytest.fixture
def region() -> Iterator[Region]:
    file = RegionFile(1024**2)
    mapped = opened(file)
    mapped.window(0, 64 * 1024)[:] = np.arange(64 * 1024, dtype=np.int64).astype(np.uint8)
    yield mapped
    mapped.close()
    file.close()


def load(exporter: Any, pickled: bytes, sizes: list[int]) -> Any:
    """What a get does: buffers are slices of the exporter's memoryview."""
    view = memoryview(exporter)
    starts = np.cumsum([0, *sizes]).tolist()
    return pickle.loads(pickled, buffers=[view[a:b] for a, b in itertools.pairwise(starts)])


def store(region: Region, value: Any) -> tuple[bytes, list[int]]:
    buffers: list[pickle.PickleBuffer] = []
    pickled = pickle.dumps(value, 5, buffer_callback=buffers.append)
    at = 0
    for buffer in buffers:
        raw = buffer.raw()
        region.window(at, raw.nbytes)[:] = raw
        at += raw.nbytes
    return pickled, [buffer.raw().nbytes for buffer in buffers]


DERIVE: dict[str, Callable[[Any], Any]] = {
    "itself": lambda e: e,
    "slice": lambda e: e[10:20],
    "slice of a slice": lambda e: e[10:2000][5:10],
    "strided": lambda e: e[::-2],
    "reshaped": lambda e: e[:1000].reshape(10, 100).T,
    "other dtype": lambda e: e[:800].view(np.float64),
    "asarray": np.asarray,
    "asarray of a slice": lambda e: np.asarray(e[5:50]),
    "plain view": lambda e: e.view(np.ndarray),
    "plain view of a plain view": lambda e: np.asarray(e)[3:].view(np.ndarray)[1:].T,
    "frombuffer": lambda e: np.frombuffer(e, np.int32),
    "frombuffer of a memoryview": lambda e: np.frombuffer(memoryview(e)[8:800], np.int32)[::2],
    "memoryview": memoryview,
    "slice of a memoryview": lambda e: memoryview(e)[100:200],
    "broadcast": lambda e: np.broadcast_to(e[:5], (3, 5)),
    "split": lambda e: np.split(e[:100], 4)[2],
    "diagonal": lambda e: np.diagonal(np.asarray(e[:100]).reshape(10, 10)),
    "windows": lambda e: np.lib.stride_tricks.sliding_window_view(np.asarray(e)[:100], 5),
    "as_strided": lambda e: np.lib.stride_tricks.as_strided(e[:100], (5,), (3,)),
    "structured": lambda e: e[:800].view([("a", "<i4"), ("b", "<f4")])["b"],
    "pickle buffer": pickle.PickleBuffer,
    "record array": lambda e: e[:800].view([("a", "<i4"), ("b", "<f4")]).view(np.recarray).a,
}


@pytest.mark.parametrize("name", DERIVE)
def test_released_once_after_the_last_view(region: Region, name: str) -> None:
    released: deque[str] = deque()
    view = DERIVE[name](make_view(region, 0, 8000, "key", released))
    gc.collect()
    assert not released
    del view
    gc.collect()
    assert list(released) == ["key"]


@pytest.mark.parametrize(
    "name", [name for name in DERIVE if "memoryview" not in name and name[-6:] != "buffer"]
)
def test_no_view_can_be_made_writable(region: Region, name: str) -> None:
    view = DERIVE[name](make_view(region, 0, 8000, "key", deque()))
    assert not view.flags.writeable
    with pytest.raises(ValueError, match="WRITEABLE"):
        view.flags.writeable = True
    with pytest.raises(ValueError, match="read-only"):
        view[...] = 1
    with pytest.raises(ValueError, match="WRITEABLE"):
        view.setflags(write=True)


def test_a_memoryview_is_read_only(region: Region) -> None:
    exporter: Any = make_view(region, 0, 100, "key", deque())
    view = memoryview(exporter)
    assert view.readonly
    with pytest.raises(TypeError):
        view[0] = 1


def test_copies_and_results_are_ordinary(region: Region) -> None:
    released: deque[str] = deque()
    exporter = make_view(region, 0, 100, "key", released)
    copy = exporter.copy()
    copy[0] = 1
    total = exporter + exporter
    empty = np.empty_like(exporter)
    del copy, total, empty
    gc.collect()
    assert not released
    del exporter
    assert list(released) == ["key"]


def test_nested_containers_of_arrays(region: Region) -> None:
    value = {"a": [np.arange(10), np.ones((3, 4))], "b": {"c": np.zeros(5, np.int8)}}
    pickled, sizes = store(region, value)
    released: deque[str] = deque()
    loaded = load(make_view(region, 0, sum(sizes), "key", released), pickled, sizes)
    assert loaded["a"][1].shape == (3, 4)
    assert type(loaded["a"][0]) is np.ndarray
    deep = loaded["b"]["c"][1:3]
    with pytest.raises(ValueError, match="read-only"):
        deep[0] = 1
    with pytest.raises(ValueError, match="WRITEABLE"):
        loaded["a"][1].flags.writeable = True
    del loaded
    gc.collect()
    assert not released
    del deep
    assert list(released) == ["key"]


def test_data_frames(region: Region) -> None:
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"x": np.arange(1000.0), "y": np.arange(1000.0), "n": np.arange(1000)})
    pickled, sizes = store(region, frame)
    assert sum(sizes) >= 24_000
    released: deque[str] = deque()
    loaded = load(make_view(region, 0, sum(sizes), "key", released), pickled, sizes)
    part = loaded["x"].iloc[5:10]
    total = loaded.sum()
    del loaded
    gc.collect()
    assert not released
    assert part.tolist() == [5, 6, 7, 8, 9]
    del part, total
    gc.collect()
    assert list(released) == ["key"]


def test_arrow_tables(region: Region) -> None:
    arrow = pytest.importorskip("pyarrow")
    table = arrow.table({"x": np.arange(1000), "s": [str(n) for n in range(1000)]})
    sink = arrow.BufferOutputStream()
    with arrow.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    raw = sink.getvalue()
    region.window(0, raw.size)[:] = np.frombuffer(raw, np.uint8)
    released: deque[str] = deque()
    exporter: Any = make_view(region, 0, raw.size, "key", released)
    loaded = arrow.ipc.open_stream(arrow.py_buffer(memoryview(exporter)[:])).read_all()
    column = loaded.column("x").slice(3, 4).to_numpy()
    del exporter, loaded
    gc.collect()
    assert not released
    assert column.tolist() == [3, 4, 5, 6]
    del column
    gc.collect()
    assert list(released) == ["key"]


def test_half_built_exporters_release_nothing(region: Region) -> None:
    released: deque[str] = deque()
    for offset, size in ((0, 2 * 1024**2), (1024**2, 1), (-1, 5), (0, -1)):
        with pytest.raises(ValueError, match="within"):
            make_view(region, offset, size, "key", released)
    with pytest.raises(TypeError):
        make_view(region, 0, "size", "key", released)  # type: ignore[arg-type]
    bare = Exporter.__new__(Exporter, 5)
    del bare
    gc.collect()
    assert not released


def test_a_closed_region_has_no_views() -> None:
    file = RegionFile(4096)
    region = opened(file)
    region.close()
    with pytest.raises(ValueError, match="closed"):
        make_view(region, 0, 5, "key", deque())
    file.close()


def test_release_by_the_collector_in_a_cycle(region: Region) -> None:
    released: deque[int] = deque()
    for key in range(100):
        cycle: list[Any] = [make_view(region, 64 * key, 64, key, released)]
        cycle.append(cycle)
        del cycle
    gc.collect()
    assert sorted(released) == list(range(100))


def test_zero_bytes(region: Region) -> None:
    released: deque[str] = deque()
    view = make_view(region, 128, 0, "key", released)
    assert len(view) == 0
    del view
    assert list(released) == ["key"]


def test_views_that_live_at_exit_are_harmless() -> None:
    code = """
import collections
from regionparts import opened
from shoald.store.region import RegionFile
from shoal.store.views import make_view
region = opened(RegionFile(4096))
released = collections.deque()
kept = [make_view(region, 0, 10, 1, released)[2:]]
kept.append(kept)
import builtins
builtins.kept = kept
region.close()
"""
    path = ":".join(sys.path)
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={"PYTHONPATH": path}, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


# --- private views ---


def private(array: Any) -> Any:
    """What a torch tensor is made over."""
    return array.base.private_view(array.ctypes.data, array.nbytes)


def test_a_private_view_can_be_written_and_the_region_does_not_change(region: Region) -> None:
    exporter = make_view(region, 100, 50_000, "key", deque())
    part = exporter[1000:40_000].view(np.ndarray)
    mine = private(part)
    assert np.array_equal(mine, part)
    before = part.copy()
    mine += 1
    assert np.array_equal(part, before)
    assert np.array_equal(mine, before + 1)


def test_private_views_keep_the_exporter_and_share_one_mapping(region: Region) -> None:
    released: deque[str] = deque()
    exporter = make_view(region, 0, 50_000, "key", released)
    parts = [exporter[a : a + 5000].view(np.ndarray) for a in range(0, 50_000, 5000)]
    descriptors = len(os.listdir("/proc/self/fd"))
    mine = [private(part) for part in parts]
    assert len(os.listdir("/proc/self/fd")) == descriptors + 1
    assert np.array_equal(np.concatenate(mine), np.concatenate(parts))
    last = mine[3]
    del exporter, parts, mine
    gc.collect()
    assert not released
    del last
    assert list(released) == ["key"]  # at once: there is no cycle
    assert len(os.listdir("/proc/self/fd")) == descriptors


def test_views_of_two_exporters_are_independent(region: Region) -> None:
    mine, other = (
        private(make_view(region, 0, 5000, "key", deque())[10:].view(np.ndarray)) for _ in range(2)
    )
    mine[:] = 7
    assert not np.array_equal(other, mine)


def test_there_are_no_private_views_of_a_closed_region(region: Region) -> None:
    exporter = make_view(region, 0, 5000, "key", deque())
    region.close()
    assert private(np.asarray(exporter)) is None

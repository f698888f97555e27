"""Copies in blocks, and by several threads."""

import numpy as np
import pytest

from shoal import parallel
from shoal.parallel import BYTES_MIN, Faster
from shoal.store import copying
from shoal.store.copying import BLOCK_BYTES, copy_large

PAIR = 2 * BLOCK_BYTES


@pytest.mark.parametrize(
    "size",
    [
        0,
        1,
        BLOCK_BYTES,
        PAIR,
        2 * PAIR - 1,
        2 * PAIR,
        2 * PAIR + 1,
        3 * PAIR + BLOCK_BYTES + 7,
        9 * PAIR - 64,
    ],
)
def test_all_bytes_are_copied_and_none_beside_them(size: int) -> None:
    random = np.random.default_rng(size)
    source = random.integers(0, 256, size + 16, np.uint8)[16:]  # arrays rarely begin where blocks do
    whole = np.full(size + 128, 7, np.uint8)
    copy_large(whole[64 : 64 + size], source)
    assert np.array_equal(whole[64 : 64 + size], source)
    assert set(whole[:64].tolist()) | set(whole[64 + size :].tolist()) == {7}


def test_a_source_that_cannot_be_written_is_read() -> None:
    source = np.arange(3 * PAIR, dtype=np.uint8)
    source.flags.writeable = False
    target = np.empty_like(source)
    copy_large(target, source)
    assert np.array_equal(target, source)


@pytest.mark.parametrize("size", [BYTES_MIN, BYTES_MIN + 4096 * 3 + 1, 3 * BYTES_MIN + 77])
def test_what_is_shared_by_threads_is_whole(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parallel, "processors", lambda: 3)
    source = np.random.default_rng(size).integers(0, 256, size, np.uint8)
    for _ in range(4):
        whole = np.full(size + 128, 7, np.uint8)
        copy_large(whole[64 : 64 + size], source)
        assert np.array_equal(whole[64 : 64 + size], source)
        assert set(whole[:64].tolist()) | set(whole[64 + size :].tolist()) == {7}


@pytest.mark.parametrize(("in_blocks_s", "whole_s", "faster"), [(1.0, 0.6, "whole"), (0.65, 0.6, "blocks")])
def test_the_largest_are_copied_whole_where_that_is_faster(
    monkeypatch: pytest.MonkeyPatch, in_blocks_s: float, whole_s: float, faster: str
) -> None:
    clock = [0.0]
    copyto = np.copyto

    def copy_whole(target: np.ndarray, source: np.ndarray) -> None:
        clock[0] += whole_s
        ways.append("whole")
        copyto(target, source)

    def copy_blocks(target: np.ndarray, source: np.ndarray) -> None:
        clock[0] += in_blocks_s
        ways.append("blocks")
        copyto(target, source)

    monkeypatch.setattr(parallel, "processors", lambda: 1)
    monkeypatch.setattr(parallel.time, "perf_counter", lambda: clock[0])
    monkeypatch.setattr(copying, "_WHOLE_BYTES_MIN", BYTES_MIN)
    monkeypatch.setattr(copying, "_wholes", Faster(1.1))
    monkeypatch.setattr(copying, "copy_blocks", copy_blocks)
    monkeypatch.setattr(copying.np, "copyto", copy_whole)
    source = np.random.default_rng(3).integers(0, 256, BYTES_MIN + 5, np.uint8)
    ways: list[str] = []
    for _ in range(20):
        target = np.zeros(source.size, np.uint8)
        copy_large(target, source)
        assert np.array_equal(target, source)
    assert ways[:6].count("whole") == 3
    assert [at for at, way in enumerate(ways) if way != faster and at > 5] == [7, 11, 19]

"""Copies in blocks, and by several threads."""

import numpy as np
import pytest

from shoal import parallel
from shoal.parallel import BYTES_MIN
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

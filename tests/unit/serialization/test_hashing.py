"""The hash of content: the same however the content is handed over, and by how many threads."""

import numpy as np
import pytest

from shoal.serialization import hashing
from shoal.serialization.hashing import ContentHash


@pytest.fixture
def small_segments(monkeypatch):
    monkeypatch.setattr(hashing, "SEGMENT_BYTES", 1000)
    monkeypatch.setattr(hashing, "_BLOCK_BYTES", 300)
    monkeypatch.setattr(hashing, "_THREADS_BYTES_MIN", 5000)
    monkeypatch.setattr(hashing.os, "cpu_count", lambda: 3)


def hashes(data):
    target = np.zeros_like(data)
    ways = [ContentHash() for _ in range(4)]
    ways[0].add(data)
    ways[1].add_copying(data, target)
    ways[2].add_pieces([data])
    ways[3].add_pieces(np.array_split(data, 7))
    assert np.array_equal(target, data)
    return {way.digest() for way in ways}


@pytest.mark.parametrize("size", [0, 1, 999, 1000, 1001, 3000, 4999, 5000, 12_345])
def test_all_ways_agree_and_every_byte_counts(small_segments, size):
    data = np.random.default_rng(size).integers(0, 255, size, np.uint8)
    (before,) = hashes(data)
    for place in {0, size // 2, size - 1} if size else ():
        data[place] ^= 1
        (after,) = hashes(data)
        assert after != before
        data[place] ^= 1


def test_what_fails_in_a_thread_is_raised(small_segments):
    target = np.zeros(9000, np.uint8)
    target.flags.writeable = False
    with pytest.raises(ValueError, match="read-only"):
        ContentHash().add_copying(np.zeros(9000, np.uint8), target)

"""Copies split over threads."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from shoal.store import copy
from shoal.store.copy import copy_bytes


@pytest.mark.parametrize("size", [0, 1, 4095, 100_000, 262_143, 262_144, 262_145, 1_000_003])
@pytest.mark.parametrize("threads", [1, 2, 3, 8])
def test_every_byte_arrives(size: int, threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(copy, "usable_cpus", lambda: 8)
    source = np.random.default_rng(size).integers(0, 256, size, np.uint8)
    target = np.zeros(size, np.uint8)
    before = threading.active_count()
    copy_bytes(target, source, 200_000, threads)
    assert (target == source).all()
    assert threading.active_count() == before


def test_lengths_must_agree() -> None:
    with pytest.raises(ValueError, match="copy"):
        copy_bytes(np.zeros(5, np.uint8), np.zeros(1, np.uint8), 10, 2)
    assert copy.usable_cpus() >= 1

"""The ids of a task's GPUs, and what CUDA is told."""

import os

import pytest

from shoal import get_gpu_ids, gpus


@pytest.mark.parametrize(
    ("before", "ids", "after"),
    [
        (None, [1, 2], "1,2"),
        ("4, 6,7", [6, 7], "6,7"),
        ("GPU-a,GPU-b,3", ["GPU-b", 3], "GPU-b,3"),
        ("5", [1, 2], "1,2"),  # the node was said to have more than that
    ],
)
def test_ids_are_those_that_the_node_sees(monkeypatch, before, ids, after):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if before is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", before)
    assert gpus.use([1, 2]) == ids
    assert os.environ["CUDA_VISIBLE_DEVICES"] == after


def test_without_any(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    assert gpus.use([]) == []
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "3"
    assert get_gpu_ids() == []

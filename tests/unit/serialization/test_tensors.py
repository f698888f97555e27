"""torch tensors: without a copy where the memory can be mapped privately, and always writable."""

import os
import tempfile

import numpy as np
import pytest

from shoal.serialization.tensors import private_pages

torch = pytest.importorskip("torch", reason="torch is not installed")


def test_private_pages_read_the_file_and_keep_writes():
    class Source:
        alive = True

        def __del__(self):
            Source.alive = False

    with tempfile.TemporaryFile() as file:
        file.write(os.urandom(5000) + b"x" * 20_000)
        file.flush()
        pages = private_pages(file.fileno(), 5000, 20_000, Source())
        assert bytes(pages) == b"x" * 20_000
        pages[0] = 0
        file.seek(5000)
        assert file.read(1) == b"x"
    part = np.ndarray((5,), "f8", pages, 8)[1:]
    del pages
    assert Source.alive
    assert part.size == 4
    del part
    assert not Source.alive


def test_large_tensors_share_pages_and_can_be_written(store):
    tensor = torch.arange(200_000.0).reshape(200, 1000)
    where = store.put(tensor)
    mine, other = store.get(where, "mine"), store.get(where, "other")
    assert not store.contains(mine.data_ptr())
    mine += 1
    mine[0, 0] = 50
    assert torch.equal(other, tensor)
    view = other[3:].numpy()
    del other
    assert store.dead() == []  # the pages that were not written are still the store's
    assert view[0, 0] == 3000
    del view, mine
    assert store.dead() == ["mine", "other"]


@pytest.mark.parametrize(
    "make",
    [
        lambda: torch.tensor(3.0),
        lambda: torch.zeros(0, 3),
        lambda: torch.randn(300, 400).T,
        lambda: torch.randn(300, 400)[::2],
        lambda: torch.randn(500, 500).bfloat16(),
        lambda: torch.randn(4).bfloat16(),
        lambda: torch.randn(4).requires_grad_(),
        lambda: torch.zeros(3, dtype=torch.complex64),
        lambda: torch.zeros(1_000_000, dtype=torch.bool),
        lambda: torch.nn.Parameter(torch.randn(600, 600)),
        lambda: torch.randn(3, 3, dtype=torch.complex64).conj(),
    ],
)
def test_kinds(both, make):
    tensor = make()
    for loaded in both([tensor, tensor]):
        assert loaded[0] is loaded[1]
        assert type(loaded[0]) is type(tensor)
        assert loaded[0].dtype == tensor.dtype
        assert loaded[0].requires_grad == tensor.requires_grad
        assert torch.equal(loaded[0], tensor)
        with torch.no_grad():
            loaded[0].zero_()


def test_a_model_can_be_trained_on(store):
    model = torch.nn.Sequential(torch.nn.Linear(1000, 500), torch.nn.ReLU(), torch.nn.Linear(500, 10))
    where = store.put(model)
    mine = store.get(where)
    optimizer = torch.optim.SGD(mine.parameters(), 0.1)
    mine(torch.randn(5, 1000)).sum().backward()
    optimizer.step()
    assert not torch.equal(mine[0].weight, model[0].weight)
    assert torch.equal(store.get(where)[0].weight, model[0].weight)

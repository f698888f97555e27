"""How far ahead of its results a graph is submitted."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal.util.dask.window import Window


def opened(window, count, kind="kind", first=0):
    for number in range(first, first + count):
        window.opened(b"%d" % number, kind)


def room(window, kind="kind", first=0):
    """How many tasks are submitted until it is full."""
    count = 0
    while not window.excess():
        opened(window, 1, kind, first + count)
        count += 1
    return count


def test_a_few_go_ahead_while_nothing_is_known():
    assert room(Window(1000, first=10, tasks_min=0, tasks_max=100)) == 10


def test_small_results_let_as_many_go_ahead_as_are_allowed():
    window = Window(1000, first=10, tasks_min=0, tasks_max=100)
    opened(window, 10)
    for number in range(10):
        window.closed(b"%d" % number, 0)
    assert room(window, first=10) == 100
    assert window.excess() == 25


@pytest.mark.parametrize(
    ("tasks_min", "size", "fits"),
    [(0, 300, 4), (0, 5000, 1), (8, 5000, 8)],
    ids=["what fits", "what is larger than all goes alone", "all CPUs have tasks"],
)
def test_large_results_let_go_ahead(tasks_min, size, fits):
    window = Window(1000, first=10, tasks_min=tasks_min, tasks_max=100)
    opened(window, 1)
    window.closed(b"0", size)
    assert room(window, first=1) == fits
    assert window.excess() == 1


def test_kinds_are_told_apart():
    window = Window(1000, first=10, tasks_min=0, tasks_max=100)
    opened(window, 1, "large")
    opened(window, 1, "small", first=1)
    window.closed(b"0", 600)
    window.closed(b"1", 0)
    opened(window, 50, "small", first=2)
    assert not window.excess()
    assert room(window, "large", first=100) == 2


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 2000)), max_size=60), st.integers(0, 30))
def test_who_waits_for_the_excess_gets_on(results, tasks_min):
    """The loop of the scheduler: submit, and wait while there is too much; all end, and nothing is left to count."""
    window = Window(1000, first=5, tasks_min=tasks_min, tasks_max=20)
    sizes, under_way = {}, []
    for number, (kind, size) in enumerate(results):
        name = b"%d" % number
        sizes[name] = size
        window.opened(name, kind)
        under_way.append(name)
        excess = window.excess()
        assert 0 <= excess <= len(under_way)
        assert len(under_way) <= 20
        for _ in range(excess):
            done = under_way.pop(0)
            window.closed(done, sizes[done])
    for name in under_way:
        window.closed(name, sizes[name])
    assert len(window) == 0
    assert window.excess() == 0

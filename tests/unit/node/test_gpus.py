"""Which GPUs leases get: shares of one, whole ones that nobody else uses."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoald.node.gpus import Gpus

HALF, WHOLE = 5_000, 10_000


def test_shares_are_put_together():
    gpus = Gpus(2 * WHOLE)
    assert gpus.take(HALF) == ((0, HALF),)
    assert gpus.take(2_000) == ((0, 2_000),)
    assert gpus.take(HALF) == ((1, HALF),), "the first has no room for it"
    assert gpus.take(3_000) == ((0, 3_000),)


def test_a_whole_one_is_nobody_elses():
    gpus = Gpus(2 * WHOLE)
    first, second = gpus.take(HALF), gpus.take(6_000)
    assert not gpus.fits(WHOLE), "0.9 are free, on two"
    assert gpus.lacking(WHOLE) == HALF
    gpus.give(first)
    assert gpus.take(WHOLE) == ((0, WHOLE),)
    assert gpus.lacking(WHOLE) == 6_000
    gpus.give(second)
    assert gpus.lacking(WHOLE) == 0


def test_many_and_none():
    gpus = Gpus(3 * WHOLE)
    assert gpus.take(0) == ()
    assert gpus.take(2 * WHOLE) == ((0, WHOLE), (1, WHOLE))
    assert gpus.lacking(2 * WHOLE) == WHOLE
    assert not Gpus(0).fits(1)
    assert Gpus(0).fits(0)


@given(
    st.lists(st.sampled_from([1, 2_500, HALF, 7_000, WHOLE, 2 * WHOLE, 3 * WHOLE]), max_size=30), st.randoms()
)
def test_nothing_is_given_twice(wanted, random):
    gpus, taken = Gpus(4 * WHOLE), []
    for units in wanted:
        if gpus.fits(units):
            taken.append(gpus.take(units))
            assert sum(amount for _, amount in taken[-1]) == units
            assert len({number for number, _ in taken[-1]}) == len(taken[-1])
        else:
            assert gpus.lacking(units) > 0
            if taken:
                gpus.give(taken.pop(random.randrange(len(taken))))
        gpus.validate(taken)
    for shares in taken:
        gpus.give(shares)
    gpus.validate([])
    with pytest.raises(AssertionError):
        gpus.validate([((0, 1),)])

"""Copies of large by-value arguments are kept a while after their last use, but nothing that they refer to."""

import numpy as np
import pytest

import shoal
from ledger import bytes_of_objects
from marks import until

SIZE = 1_000_000
FILLING = bytes(200_000)  # makes an argument large enough for a copy in the store


@pytest.fixture(scope="module")
def shoal_session(module_leaves_nothing):
    """A cluster whose drivers keep copies for as long as they run."""
    shoal.init(num_cpus=1, _system_config={"shared_copy_ms": 3_600_000.0})
    yield shoal
    shoal.shutdown()


@shoal.remote
def filled(value):
    return len(value[1])


def test_a_kept_copy_is_found_by_the_next_call(shoal_session):
    assert shoal.get(filled.remote((0, FILLING))) == len(FILLING)
    before = bytes_of_objects()
    assert before > 0
    assert shoal.get(filled.remote((0, FILLING))) == len(FILLING)
    assert bytes_of_objects() == before


def test_what_a_large_argument_refers_to_goes_with_its_users(shoal_session):
    before = bytes_of_objects()
    for _ in range(3):  # the second time the copy is looked for
        ref = shoal.put(np.ones(SIZE, np.uint8))
        argument = [ref, FILLING]
        assert shoal.get(filled.remote(argument)) == len(FILLING)
        assert shoal.get(filled.remote(argument)) == len(FILLING)
        assert bytes_of_objects() >= before + SIZE
        del argument, ref
        until(lambda: bytes_of_objects() <= before)

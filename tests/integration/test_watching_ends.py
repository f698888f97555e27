"""What arrays are watched with belongs to a session: it is opened for the first array that is worth it, and closed at the end."""

import os

import numpy as np
import pytest

import shoal
from leaks import Snapshot
from shoal import session
from shoal.store.writetracking import open_tracker

SIZE = 8 * 1024 * 1024


@shoal.remote
def total(array):
    return int(array.sum(dtype=np.int64))


def descriptors():
    """Those of this process for watching."""
    lines = Snapshot.take(os.environ.get("SHOAL_TEST_RUN", "")).descriptors
    return [line for line in lines if "userfaultfd" in line or "pagemap" in line]


def test_sessions_close_what_they_watched_with():
    possible = open_tracker(1)
    if possible is None:
        pytest.skip("this kernel (before 6.7, or a filter of system calls) does not watch, or a GPU is here")
    possible.close()
    array = np.ones(SIZE, np.uint8)
    for _ in range(2):
        shoal.init(num_cpus=1)
        assert shoal.get([total.remote(array), total.remote(np.ones(SIZE, np.uint8))]) == [SIZE, SIZE]
        assert not descriptors()
        assert {shoal.get(total.remote(array)) for _ in range(4)} == {SIZE}
        assert session.current().packer._watch.count == 1
        assert len(descriptors()) == 2
        shoal.shutdown()
        assert not descriptors()
        array[:] = 1

"""How often a driver's collector of cycles comes by: seldom while there is a session, and always as the user has said."""

from __future__ import annotations

import gc

import pytest

import shoal
from shoal import api, config
from shoal.exceptions import ClusterNotFoundError

USUAL = (700, 10, 10)


@pytest.fixture(autouse=True)
def usual_threshold():
    before = gc.get_threshold()
    gc.set_threshold(*USUAL)
    yield
    gc.set_threshold(*before)


def test_it_comes_by_seldom_and_then_as_usual_again() -> None:
    api._collect_seldom(True)
    assert gc.get_threshold() == config.GC_THRESHOLD
    api._collect_seldom(False)
    assert gc.get_threshold() == USUAL


def test_what_the_user_has_set_stays() -> None:
    gc.set_threshold(10, 5, 5)
    api._collect_seldom(True)
    assert gc.get_threshold() == (10, 5, 5)
    api._collect_seldom(False)
    assert gc.get_threshold() == (10, 5, 5)


def test_it_comes_by_as_usual_after_an_init_that_failed() -> None:
    with pytest.raises(ClusterNotFoundError):
        shoal.init("127.0.0.1:1")
    assert gc.get_threshold() == USUAL

"""What actors keep of the refs that they were given, and what they give away."""

import numpy as np
import pytest

import shoal
from ledger import everything_came_back

SIZE = 50_000  # float64: 400 kB, a stored object


def array(seed=1.0):
    return np.full(SIZE, seed)


@pytest.fixture(autouse=True)
def empty_in_the_end(shoal_session):
    yield
    everything_came_back()


@shoal.remote
def make(seed):
    return array(seed)


@shoal.remote
class Keeper:
    def __init__(self, refs=()):
        self.refs = list(refs)

    def keep(self, refs):
        self.refs += refs
        return len(self.refs)

    def total(self):
        return float(sum(np.sum(shoal.get(ref)) for ref in self.refs))

    def give(self, index):
        return self.refs[index]

    def give_all(self):
        return {"refs": self.refs}

    def clear(self):
        self.refs.clear()


def test_an_actor_keeps_what_it_was_given_and_lets_go(shoal_session):
    keeper = Keeper.remote([shoal.put(array())])
    assert shoal.get(keeper.keep.remote([shoal.put(array(2.0)), make.remote(3.0)])) == 3
    assert shoal.get(keeper.total.remote()) == 6 * SIZE
    assert shoal.get(shoal.get(keeper.give.remote(1))).sum() == 2 * SIZE
    kept = shoal.get(keeper.give_all.remote())["refs"][2]
    shoal.get(keeper.clear.remote())
    del keeper
    assert shoal.get(kept).sum() == 3 * SIZE


def test_an_actor_that_is_killed_lets_go(shoal_session):
    keeper = Keeper.remote()
    assert shoal.get(keeper.keep.remote([shoal.put(array()), make.remote(2.0)])) == 2
    given = shoal.get(keeper.give.remote(1))
    shoal.kill(keeper)
    assert shoal.get(given).sum() == 2 * SIZE


def test_an_async_actor_keeps_refs_too(shoal_session):
    @shoal.remote
    class Async:
        def __init__(self):
            self.refs = []

        async def keep(self, refs):
            self.refs += refs
            return float(sum([np.sum(await ref) for ref in self.refs]))

        async def give(self):
            return self.refs

    actor = Async.remote()
    calls = [actor.keep.remote([shoal.put(array())]) for _ in range(5)]
    assert shoal.get(calls[-1]) >= SIZE
    shoal.get(calls)
    given = shoal.get(actor.give.remote())
    del actor, calls
    assert [shoal.get(ref).sum() for ref in given] == [SIZE] * 5

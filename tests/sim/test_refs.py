"""References across nodes, from many seeds: nothing referenced is freed, everything else is."""

import pytest
from tests.sim.refs import World

from shoald.objects.cluster_refs import ClusterRefs
from shoald.store.sharing import Sharing

STEPS = 250


def run(seed, steps=STEPS, **options):
    world = World(seed, **options)
    try:
        for _ in range(steps):
            world.step()
        world.settle()
        world.end()
    except AssertionError as error:
        error.add_note(f"seed {seed}, {options}:\n" + "\n".join(world.history[-60:]))
        raise


@pytest.mark.parametrize("seed", range(20))
def test_without_faults(seed):
    run(seed, faults=False)


@pytest.mark.parametrize("seed", range(60))
def test_with_faults(seed):
    run(seed)


@pytest.mark.parametrize("seed", range(6))
def test_many_nodes(seed):
    run(seed, nodes=6, workers=4)


# --- canaries: a rule that is broken on purpose is missed ---


def caught(seeds):
    for seed in seeds:
        try:
            run(seed)
        except AssertionError:
            return True
    return False


def test_an_answer_before_the_head_knows_is_noticed(monkeypatch):
    turn = ClusterRefs.turn

    def hasty(self):
        changes = turn(self)
        while self._waiting:
            self._waiting.popleft()[1]()
        return changes

    monkeypatch.setattr(ClusterRefs, "turn", hasty)
    assert caught(range(20))


def test_refs_that_are_not_held_on_their_way_are_noticed(monkeypatch):
    monkeypatch.setattr(Sharing, "hand", lambda self, holder, ids: None)
    assert caught(range(20))


def test_contents_that_are_not_shared_are_noticed(monkeypatch):
    share = Sharing.share

    def shallow(self, object_id):
        obj = self._ledger.objects.get(object_id)
        contained, unshared = (
            (obj.contained, object_id not in self._ledger.shared) if obj is not None else ((), False)
        )
        if unshared:
            obj.contained = ()
        share(self, object_id)
        if unshared:
            obj.contained = contained

    monkeypatch.setattr(Sharing, "share", shallow)
    assert caught(range(20))


def test_a_head_that_frees_nothing_is_noticed(monkeypatch):
    monkeypatch.setattr(Sharing, "free", lambda self, ids: None)
    assert caught(range(3))

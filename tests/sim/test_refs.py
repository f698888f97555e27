"""References across nodes, from many seeds: nothing referenced is freed, everything else is."""

import pytest
from tests.sim.refs import World

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

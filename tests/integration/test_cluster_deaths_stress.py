"""Machines die at random under random work: every result is right all the same, and afterwards nothing is left.

Tasks may run again as often as it takes, and only what has a lineage is on the nodes that die. A seed that fails is printed
with the test's name; put it into SEEDS.
"""

import gc
import os
import random
import signal

import numpy as np
import pytest

import shoal
from integration.test_cluster_references_stress import everything_came_back
from shoal.testing import Cluster

SEEDS = tuple(map(int, os.environ.get("SHOAL_STRESS_SEEDS", "1").split()))
STEPS = int(os.environ.get("SHOAL_STRESS_STEPS", "1000"))
STEPS_BETWEEN_DEATHS = 250
FAST_DEATHS = {"heartbeat_ms": 200, "node_suspect_ms": 600, "node_dead_ms": 1500}
LARGE, SMALL = 30_000, 3  # float64
POOL_MAX = 60


@shoal.remote(max_retries=-1)
def make(number, size):
    return np.full(size, number)


@shoal.remote(max_retries=-1)
def add(one, other):
    size = min(one.size, other.size)
    return one[:size] + other[:size]


@shoal.remote(max_retries=-1)
def total(refs):
    """Reads what it borrows."""
    return sum(float(array[0]) for array in shoal.get(refs))


@shoal.remote(max_retries=-1)
def children(count):
    return sum(shoal.get([leaf.remote(number) for number in range(count)]))


@shoal.remote(max_retries=-1, num_returns="streaming")
def items(numbers):
    for number in numbers:
        yield np.full(LARGE, number)


@shoal.remote(max_retries=-1)
def leaf(number):
    return number


@shoal.remote(max_retries=-1)
def wrap(refs):
    """A container of borrowed refs; their owner may let go of its own."""
    return {"refs": refs}


@shoal.remote(max_restarts=-1, max_task_retries=-1, num_cpus=0)
class Adder:
    def one_more(self, number):
        return number + 1


class Run:
    """One seed. The model of an object: a number, or a tuple of those of what it refers to."""

    def __init__(self, seed, cluster):
        self.random = random.Random(seed)
        self.cluster = cluster
        self.pool = []  # (ref, model, whether it is an array)
        self.adders = [Adder.remote() for _ in range(2)]

    def step(self):
        arrays = [each for each in self.pool if each[2]]
        if len(arrays) < 2:
            return self.make(arrays)
        action = self.random.choices(
            [
                self.make,
                self.add,
                self.total,
                self.children,
                self.items,
                self.wrap,
                self.call,
                self.put,
                self.check,
                self.drop,
            ],
            [25, 20, 10, 5, 3, 10, 4, 4, 12, 8],
        )[0]
        action(arrays)
        if len(self.pool) > POOL_MAX:
            del self.pool[: POOL_MAX // 2]
        return None

    def make(self, _arrays):
        number = float(self.random.randint(0, 99))
        self.pool.append((make.remote(number, self.random.choice((LARGE, SMALL))), number, True))

    def add(self, arrays):
        one, other = self.random.choice(arrays), self.random.choice(arrays)
        self.pool.append((add.remote(one[0], other[0]), one[1] + other[1], True))

    def total(self, arrays):
        chosen = self.random.choices(arrays, k=3)
        self.pool.append((total.remote([each[0] for each in chosen]), sum(each[1] for each in chosen), False))

    def children(self, _arrays):
        count = self.random.randint(1, 10)
        self.pool.append((children.remote(count), sum(range(count)), False))

    def wrap(self, arrays):
        chosen = self.random.choices(arrays, k=2)
        self.pool.append(
            (wrap.remote([each[0] for each in chosen]), tuple(each[1] for each in chosen), False)
        )

    def items(self, _arrays):
        numbers = [float(self.random.randint(0, 99)) for _ in range(3)]
        self.pool += [(ref, number, True) for ref, number in zip(items.remote(numbers), numbers, strict=True)]

    def call(self, _arrays):
        number = self.random.randint(0, 99)
        self.pool.append((self.random.choice(self.adders).one_more.remote(number), number + 1, False))

    def put(self, _arrays):
        """On the driver's node, which lives; no task gets it, since a lineage does not keep what was put."""
        number = float(self.random.randint(0, 99))
        self.pool.append((shoal.put(np.full(LARGE, number)), number, False))

    def check(self, _arrays):
        compare(*self.random.choice(self.pool)[:2])

    def drop(self, _arrays):
        self.pool.pop(self.random.randrange(len(self.pool)))

    def check_all(self):
        for ref, model, _ in self.pool:
            compare(ref, model)

    def a_machine_dies(self):
        victim = self.random.choice(self.cluster.nodes[1:])
        os.kill(victim.process.pid, signal.SIGKILL)
        victim.process.wait()
        self.cluster.forget(victim)
        self.cluster.add_node(num_cpus=1, system_config=FAST_DEATHS)


def compare(ref, model):
    value = shoal.get(ref, timeout=60)
    if isinstance(model, tuple):
        for inner, inner_model in zip(value["refs"], model, strict=True):
            compare(inner, inner_model)
    elif isinstance(value, np.ndarray):
        assert (value == model).all()
    else:
        assert value == model


@pytest.mark.parametrize("seed", SEEDS)
def test_machines_die(no_leaks, seed):
    with Cluster(num_cpus=0, system_config=FAST_DEATHS) as cluster:
        for _ in range(3):
            cluster.add_node(num_cpus=1, system_config=FAST_DEATHS)
        shoal.init(cluster.address)
        try:
            run = Run(seed, cluster)
            for step in range(STEPS):
                run.step()
                if step % STEPS_BETWEEN_DEATHS == STEPS_BETWEEN_DEATHS // 2:
                    run.a_machine_dies()
            run.check_all()
            del run
            gc.collect()
            everything_came_back(cluster.nodes)
        finally:
            shoal.shutdown()

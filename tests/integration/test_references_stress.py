"""Refs put, nested, passed, returned, raised, kept and dropped at random, while workers are killed.

Every get is compared with a model; at the end everything is dropped, and the ledger must be empty. A seed that fails is printed
with the test's name; put it into SEEDS.
"""

import contextlib
import os
import random
import signal

import numpy as np
import pytest

import shoal
from ledger import everything_came_back
from shoal import session

SEEDS = tuple(map(int, os.environ.get("SHOAL_STRESS_SEEDS", "1 2 3").split()))
STEPS = int(os.environ.get("SHOAL_STRESS_STEPS", "400"))
LARGE = 20_000  # float64: more than 100 KiB


class CarriesRefsError(Exception):
    def __init__(self, refs):
        super().__init__(refs)
        self.refs = refs


def pad(large):
    return np.zeros(LARGE if large else 1)


@shoal.remote(max_retries=-1)
def same(value):
    """A top-level ref comes as its value, and goes back as a value."""
    return value


@shoal.remote(max_retries=-1)
def wrap(refs, large):
    """Borrowed refs in a result."""
    return {"refs": refs, "pad": pad(large)}


@shoal.remote(max_retries=-1)
def pick(refs, index):
    """A borrowed ref as the result itself."""
    return refs[index]


@shoal.remote(max_retries=-1)
def rewrap(value, large):
    """Refs out of a container that came as an argument, put into an object of the worker's own."""
    return {"refs": [shoal.put({"refs": value["refs"][::-1], "pad": pad(large)})], "pad": pad(False)}


@shoal.remote(max_retries=-1)
def make(numbers, large):
    """New objects, of the worker and of its children."""
    refs = [shoal.put(number) for number in numbers] + [
        same.options(num_cpus=0.1).remote(number) for number in numbers
    ]
    refs += [fill.options(num_cpus=0.1).remote(number) for number in numbers]
    shoal.wait(refs, num_returns=len(refs))  # what is pending would fail with its owner
    return {"refs": refs, "pad": pad(large)}


@shoal.remote(max_retries=-1)
def fill(number):
    return np.full(LARGE, float(number))


@shoal.remote(max_retries=-1)
def through(refs, large):
    """Borrowed refs through a child."""
    child = wrap.options(num_cpus=0.1).remote(refs, large)
    value = shoal.get(child)
    return {"refs": [*value["refs"], child], "pad": pad(large)}


@shoal.remote(max_retries=-1)
def raises(refs):
    raise CarriesRefsError([*refs, shoal.put(7)])


@shoal.remote(max_retries=-1)
def reads(refs):
    """Sums of what can be summed: the worker reads what it borrows."""
    total = 0.0
    for ref in refs:
        value = shoal.get(ref)
        if isinstance(value, dict):
            total += len(value["refs"])
        else:
            total += float(np.sum(value))
    return total


@shoal.remote(max_retries=-1, num_returns=2)
def two(refs, large):
    return {"refs": refs[:1], "pad": pad(large)}, {"refs": refs[1:], "pad": pad(False)}


class Run:
    """One seed. The model of an object: a number, ("array", number), or a list of models."""

    def __init__(self, seed, kills):
        self.random = random.Random(seed)
        self.kills = kills
        self.pool = []

    def add(self, ref, model):
        self.pool.append((ref, model))

    def some(self, count=None):
        count = self.random.randint(1, 4) if count is None else count
        return [self.random.choice(self.pool) for _ in range(count)] if self.pool else []

    def large(self):
        return self.random.random() < 0.4

    def step(self):
        actions = [
            self.put,
            self.put_container,
            self.call,
            self.call,
            self.call,
            self.drop,
            self.drop,
            self.check,
            self.unpack,
        ]
        if self.kills and self.random.random() < 0.06:
            self.kill()
        self.random.choice(actions)()

    def put(self):
        number = self.random.randint(0, 100)
        if self.large():
            self.add(shoal.put(np.full(LARGE, float(number))), ("array", number))
        else:
            self.add(shoal.put(number), number)

    def put_container(self):
        chosen = self.some()
        self.add(
            shoal.put({"refs": [ref for ref, _ in chosen], "pad": pad(self.large())}),
            [model for _, model in chosen],
        )

    def call(self):
        chosen = self.some()
        if not chosen:
            return
        refs, models = [ref for ref, _ in chosen], [model for _, model in chosen]
        large = self.large()
        kind = self.random.choice(
            ["same", "wrap", "pick", "rewrap", "make", "through", "two", "raises", "reads"]
        )
        if kind == "same":
            self.add(same.remote(refs[0]), models[0])
        elif kind == "wrap":
            self.add(wrap.remote(refs, large), models)
        elif kind == "pick":
            index = self.random.randrange(len(refs))
            self.add(pick.remote(refs, index), ("ref", models[index]))
        elif kind == "rewrap":
            containers = [(ref, model) for ref, model in self.pool if isinstance(model, list)]
            if containers:
                ref, model = self.random.choice(containers)
                self.add(rewrap.remote(ref, large), [model[::-1]])
        elif kind == "make":
            numbers = [self.random.randint(0, 9) for _ in range(2)]
            self.add(
                make.remote(numbers, large), [*numbers, *numbers, *(("array", number) for number in numbers)]
            )
        elif kind == "through":
            self.add(through.remote(refs, large), [*models, models])
        elif kind == "two":
            first, second = two.remote(refs, large)
            self.add(first, models[:1])
            self.add(second, models[1:])
        elif kind == "raises":
            self.add(raises.remote(refs), ("raises", [*models, 7]))
        else:
            plain = [
                (ref, model)
                for ref, model in chosen
                if not (isinstance(model, tuple) and model[0] != "array")
            ]
            sums = sum(
                len(m) if isinstance(m, list) else m if isinstance(m, int) else m[1] * LARGE for _, m in plain
            )
            self.add(reads.remote([ref for ref, _ in plain]), sums)

    def drop(self):
        for _ in range(self.random.randint(0, min(3, len(self.pool)))):
            self.pool.pop(self.random.randrange(len(self.pool)))

    def check(self):
        for ref, model in self.some(1):
            check(ref, model, 3)

    def unpack(self):
        """Keep refs that were read out of an object, perhaps without the object."""
        for ref, model in self.some(1):
            if isinstance(model, list) and model:
                inner = shoal.get(ref)["refs"]
                index = self.random.randrange(len(model))
                self.add(inner[index], model[index])
                if self.random.random() < 0.5:
                    self.pool = [each for each in self.pool if each[0] != ref]

    def check_all(self):
        for ref, model in self.pool:
            check(ref, model, 2)

    def kill(self):
        workers = [
            row["pid"]
            for row in session.runtime().request("workers", {})["rows"]
            if row["state"] != "starting"
        ]
        if workers:
            with contextlib.suppress(ProcessLookupError):  # it has just gone by itself
                os.kill(self.random.choice(workers), signal.SIGKILL)


def check(ref, model, depth):
    """Compare an object with its model, and what it contains, down to ``depth``."""
    if isinstance(model, tuple) and model[0] == "raises":
        with pytest.raises(CarriesRefsError) as caught:
            shoal.get(ref, timeout=60)
        if depth:
            for inner, inner_model in zip(caught.value.refs, model[1], strict=True):
                check(inner, inner_model, depth - 1)
        return
    value = shoal.get(ref, timeout=60)
    if isinstance(model, list):
        assert len(value["refs"]) == len(model)
        if depth:
            for inner, inner_model in zip(value["refs"], model, strict=True):
                check(inner, inner_model, depth - 1)
    elif isinstance(model, tuple) and model[0] == "array":
        assert value.shape == (LARGE,)
        assert (value == model[1]).all()
    elif isinstance(model, tuple):
        check(value, model[1], depth)
    else:
        assert value == model


@pytest.mark.parametrize("kills", [False, True], ids=["calm", "kills"])
@pytest.mark.parametrize("seed", SEEDS)
def test_random_refs(shoal_session, seed, kills):
    run = Run(seed, kills)
    for _ in range(STEPS):
        run.step()
    run.check_all()
    del run
    everything_came_back()

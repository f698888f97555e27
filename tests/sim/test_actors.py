"""Actors in a whole cluster: made once, called in order, restarted as often as they may be, and gone with their last handle."""

import os
import re
from dataclasses import replace
from functools import partial

import pytest
from tests.sim import checks
from tests.sim.cluster import Cluster
from tests.sim.faults import DRAINING_KINDS, KINDS, Faults
from tests.sim.workload import Mix

from shoal.actors.calls import ActorCalls
from shoal.config import load
from shoald.node.actors import ActorCore

SEEDS = int(os.environ.get("SHOAL_SIM_SEEDS", "8"))
MIX = Mix(actors=0.5, stored=0.2, readers=0.3, sizes=(150_000, 3_000_000))
# An actor whose host has a copy of what it is made from, and of which the head hears of no handle for so long, ends. What nodes
# report is up to 3 s under way here, and much longer when they are cut off.
CONFIG = load({"directory_grace_ms": 60_000})


def run(seed, nodes=4, tasks=25, drivers=2, *, faults=0, steady=False, limit_s=900.0):
    cluster = Cluster(seed, nodes, cpus=3, config=CONFIG, steady=steady)
    return checks.play(
        cluster, MIX, tasks, drivers=drivers, window=8, trouble=Faults(cluster, survivors=drivers), faults=faults,
        within_s=30.0, limit_s=limit_s,
    )  # fmt: skip


@pytest.mark.parametrize("seed", range(SEEDS // 2))
def test_without_faults(seed):
    outcomes = run(seed).outcomes
    assert outcomes["called"] > 30


@pytest.mark.parametrize(
    "seed", [*range(SEEDS), 9, 10, 25, 62, 68, 83, 96, 110, 155, 289, 302, 322, 360, 453, 456, 805]
)
def test_with_faults(seed):
    run(seed, faults=30)


LANES = Mix(actors=0.5, lanes=0.6, stored=0.2, readers=0.3, sizes=(150_000, 3_000_000))


def run_lanes(seed, kinds, *, faults=0):
    """Actors of which most run several calls at once; nodes may drain."""
    cluster = Cluster(seed, 4, cpus=3, config=CONFIG, steady=False)
    trouble = Faults(cluster, survivors=2, kinds=kinds)
    return checks.play(
        cluster, LANES, 25, drivers=2, window=8, trouble=trouble, faults=faults, within_s=30.0, limit_s=900.0
    )


@pytest.mark.parametrize("seed", [*range(SEEDS), 201, 382])
def test_calls_that_overlap(seed):
    run_lanes(seed, KINDS, faults=30)


@pytest.mark.parametrize("seed", [*range(8), 31, 40, 57, 92, 116, 128, 135, 221, 280, 389, 394])
def test_actors_leave_nodes_that_drain(seed):
    run_lanes(seed, DRAINING_KINDS, faults=30)


class SecondLives:
    """Gives actors that live to another node, as if the word of who has them had been lost with the one that gave them there."""

    def __init__(self, cluster):
        self.cluster = cluster
        self.begun = self.seen = 0

    def strike(self):
        cluster, table = self.cluster, self.cluster.head.core.actors
        for record in list(table._records.values()):
            actor = record.actor
            if actor.state != "ALIVE" or actor.restarts_left < 1:
                continue
            lost = replace(
                actor, node_id="", restarts=actor.restarts + 1, restarts_left=actor.restarts_left - 1
            )
            table._rehost(record, lost)
            cluster.fenced.add(actor.node_id)  # until it hears of that, there may be two
            cluster.daemons[actor.node_id].link._up.break_now()  # then it speaks of all that it has
            if record.actor.node_id != actor.node_id:
                self.begun += 1
                cluster.clock.at(1.0, partial(self.look, actor.actor_id))
                return

    def look(self, actor_id):
        hosts = [each for each in self.cluster.daemons.values() if actor_id in each.actors.core.actors]
        assert len(hosts) <= 1, f"{actor_id.hex()} lives on {hosts}"
        self.seen += len(hosts)


@pytest.mark.parametrize("seed", range(SEEDS // 2))
def test_of_two_lives_of_an_actor_the_earlier_ends(seed):
    cluster = Cluster(seed, 4, cpus=3, config=CONFIG)
    lives = SecondLives(cluster)
    for second in range(2, 30, 2):
        cluster.clock.at(second, lives.strike)
    trouble = Faults(cluster, survivors=2)
    checks.play(
        cluster, MIX, 25, drivers=2, window=8, trouble=trouble, faults=0, within_s=30.0, limit_s=900.0
    )
    assert lives.begun
    assert lives.seen


# --- canaries: a rule that is broken on purpose is noticed ---


@pytest.mark.parametrize(
    ("owner", "method", "broken", "seen"),
    [
        # Handles do not count; calls that were received are sent again; a call may run as often as it likes.
        (ActorCore, "unheld", lambda core, actor_id, now: None, "keeps|nothing ends"),
        (ActorCalls, "resumed", lambda calls, lease, received: RESUMED(calls, lease, 0), "runs again"),
        (ActorCalls, "_give_up", lambda calls, *args: again(calls, *args), "runs again"),
    ],
)
def test_a_broken_rule_is_noticed(owner, method, broken, seen, monkeypatch):
    monkeypatch.setattr(owner, method, broken)
    monkeypatch.setattr(Cluster, "validate", lambda cluster: None)
    assert any(caught(seed, seen) for seed in range(12))


RESUMED = ActorCalls.resumed
GIVE_UP = ActorCalls._give_up


def again(calls, lease, details, restarting):
    for task in lease.inflight.values():
        task.retries = -1
    GIVE_UP(calls, lease, details, restarting)


def caught(seed, seen):
    try:
        run(seed, faults=30)
    except AssertionError as error:
        return re.search(seen, str(error)) is not None
    return False

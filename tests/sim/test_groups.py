"""Placement groups in a whole cluster: reserved entirely or not at all, never twice, and gone without a trace."""

import os
import re

import pytest
from tests.sim import checks
from tests.sim.cluster import Cluster
from tests.sim.faults import Faults
from tests.sim.workload import Mix

from shoald.head import groups
from shoald.head.groups import GroupTable
from shoald.head.planning import plan
from shoald.node.bundles import Bundles
from shoald.node.leases import ResourceLedger

SEEDS = int(os.environ.get("SHOAL_SIM_SEEDS", "8"))
MIX = Mix(groups=0.35, stored=0.2, readers=0.3, parents=0.1, sizes=(150_000, 3_000_000))


def run(seed, nodes=4, tasks=30, drivers=2, *, faults=0, steady=False, limit_s=900.0):
    cluster = Cluster(seed, nodes, cpus=3, steady=steady)
    return checks.play(
        cluster, MIX, tasks, drivers=drivers, window=12, trouble=Faults(cluster, survivors=drivers), faults=faults,
        within_s=30.0, limit_s=limit_s,
    )  # fmt: skip


@pytest.mark.parametrize("seed", range(SEEDS // 2))
def test_without_faults(seed):
    outcomes = run(seed).outcomes
    assert outcomes["group done"] > 2


@pytest.mark.parametrize("seed", [*range(SEEDS), 39, 111, 135, 337])
def test_with_faults(seed):
    run(seed, faults=30)


# --- canaries: a rule that is broken on purpose is noticed ---


def caught(seen, **options):
    for seed in range(6):
        try:
            run(seed, **options)
        except AssertionError as error:
            return bool(re.search(seen, str(error)))
    return False


@pytest.mark.parametrize(
    ("owner", "method", "broken", "seen"),
    [
        # Bundles take nothing; nodes do not hear what becomes of a group; a removed one keeps its bundles; none is apart.
        (ResourceLedger, "fits", lambda ledger, amounts, keep=None: True, "promised|in use"),
        (GroupTable, "_order", lambda *args: None, "has {|keeps|has promised"),
        (Bundles, "give_back", lambda bundles, group, indices: None, "keeps|has {"),
        (groups, "plan", lambda strategy, *args: plan("PACK", *args), "has bundles"),
    ],
)
def test_a_broken_rule_is_noticed(owner, method, broken, seen, monkeypatch):
    monkeypatch.setattr(owner, method, broken)
    monkeypatch.setattr(Cluster, "validate", lambda cluster: None)  # the cores would see some of it, too
    assert caught(seen)

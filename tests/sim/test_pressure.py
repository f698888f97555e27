"""Stores that are much smaller than what is in use, with disks that are slow, full, broken, or bring back something else.

Every task ends, and every value that is read is the one that was wanted; what is lost was damaged; nothing is restored without
end; and when all is over no byte of a store and no file is left.
"""

import os
import re

import pytest
from tests.sim import checks
from tests.sim.cluster import Cluster
from tests.sim.faults import DISK_KINDS, KINDS, Faults
from tests.sim.workload import Mix

from shoal.config import load
from shoald.objects.serving import ServeCore
from shoald.store.eviction import Eviction
from shoald.store.ledger import Ledger
from shoald.store.spills import Spills

SEEDS = int(os.environ.get("SHOAL_SIM_SEEDS", "40"))
KIB, MIB = 1024, 1024**2
STORE_BYTES = 4 * MIB
MIX = Mix(
    stored=0.7, readers=0.4, failing=0.03, puts=0.15, gets=0.3, once=0.2, nested=0.3,
    sizes=(120 * KIB, 130_001, 300 * KIB, 700 * KIB, 1 * MIB, 2_500_000),
)  # fmt: skip
CONFIG = load(
    {
        "slab_bytes_min": 64 * KIB,
        "slab_bytes_max": MIB,
        "spill_batch_bytes_min": MIB,
        "spill_stall_ms": 1000,
        "spill_read_ms_max": 3000,
        "spill_file_bytes_max": 2 * MIB,
        "pull_chunk_bytes": 512 * KIB,
        "spill_in_place_bytes_min": 700 * KIB,
    }
)


def run(seed, nodes=1, tasks=40, *, directories=2, faults=0, kinds=DISK_KINDS, mix=MIX, limit_s=900.0):
    cluster = Cluster(
        seed, nodes, cpus=2, config=CONFIG, steady=False, store_bytes=STORE_BYTES, directories=directories,
        watches_bytes=True,
    )  # fmt: skip
    cluster.checked_every = 3
    return checks.play(
        cluster, mix, tasks, drivers=2, window=8, trouble=Faults(cluster, survivors=2, kinds=kinds), faults=faults,
        within_s=20.0, limit_s=limit_s,
    )  # fmt: skip


HEALTHY = {"finished", "put", "get done", "the function raised", "dependent"}


@pytest.mark.parametrize("seed", range(SEEDS))
def test_a_store_that_is_too_small_finishes_everything(seed):
    cluster = run(seed)
    assert cluster.outcomes.keys() <= HEALTHY


@pytest.mark.parametrize("seed", range(SEEDS // 2))
def test_several_nodes_that_are_too_small(seed):
    # A task whose arguments never fit together reads some of them in files, also those that come from the other node.
    cluster = run(seed, nodes=2, tasks=25)
    assert cluster.outcomes.keys() <= HEALTHY


@pytest.mark.parametrize("seed", range(SEEDS))
def test_without_spilling_what_does_not_fit_says_so(seed):
    cluster = run(seed, directories=0)
    assert cluster.outcomes.keys() <= HEALTHY | {"full"}


@pytest.mark.parametrize("seed", range(2 * SEEDS))
def test_disks_with_faults(seed):
    run(seed, faults=15)


@pytest.mark.parametrize("seed", [*range(SEEDS), 435, 460])
def test_disks_machines_and_connections_with_faults(seed):
    run(seed, nodes=2 + seed % 2, tasks=15, faults=20, kinds=KINDS | DISK_KINDS)


# --- canaries: a rule that is broken on purpose is noticed ---


def caught(seen, **options):
    """Whether some seed fails as expected."""
    for seed in range(12):
        try:
            run(seed, **options)
        except AssertionError as error:
            if re.search(seen, str(error)):
                return True
    return False


@pytest.mark.parametrize(
    ("owner", "method", "broken", "seen"),
    [
        # Damaged bytes are believed; files stay; primary copies are dropped though nobody else has them; bytes get lost.
        (Spills, "read_failed", lambda spills, transfer, why: spills.read_done(transfer, 1.0), "instead of"),
        (Spills, "_remove", lambda spills, file, **_: spills.files.pop(file.number), "keeps files"),
        (Eviction, "expendable", lambda eviction, obj: True, "was freed|cannot be read"),
        (Ledger, "drop_memory", lambda ledger, obj: setattr(obj, "offset", -1), "two users, or none"),
    ],
)
def test_a_broken_rule_is_noticed(owner, method, broken, seen, monkeypatch):
    monkeypatch.setattr(owner, method, broken)
    monkeypatch.setattr(Cluster, "validate", lambda cluster: None)  # the cores would see some of it, too
    assert caught(seen, faults=15)


def test_a_reader_that_is_not_answered_is_noticed(monkeypatch):
    # Other nodes are not told of what they are to read in a file.
    monkeypatch.setattr(ServeCore, "_in_file", lambda *args: None)
    assert caught("nothing ends any more", nodes=2, limit_s=60.0)

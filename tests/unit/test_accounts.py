"""The check at the end of each test notices every kind of mistake that it looks for."""

import pytest

from accounts import discrepancies
from shoal.config import Config
from shoal.wire import messages as m
from shoald.store.core import StoreCore

PROC = b"P" * 8


@pytest.fixture
def answer():
    core = StoreCore(1024 * 1024, Config())
    core.register(PROC, {"pid": 1, "kind": "driver", "job_id": "j"})
    for number, flags in enumerate((m.SEAL_PRIMARY | m.SEAL_PINNED, 0)):
        core.handle(PROC, [m.ALLOC, number, 4096, 8192], 0.0)
        offset = core.outbox[-1][1][2]
        object_id = bytes([number]) * 16
        core.handle(PROC, [m.SEAL, object_id, offset, 1000, b"", flags, PROC, "here", b""], 0.0)
    return {"node_id": "n" * 32, "stats": core.stats(), "rows": core.rows(0.0), "left_out": 0}


def test_a_store_as_it_is_adds_up(answer):
    assert discrepancies(answer) == []
    assert answer["stats"]["leased"] > 0


@pytest.mark.parametrize(
    "figure",
    [
        "used",
        "free",
        "sealed",
        "leased",
        "duplicates",
        "restoring",
        "primary",
        "secondary",
        "disk_live",
        "pinned",
        "cached",
        "largest_free",
    ],
)
def test_a_wrong_figure_is_noticed(answer, figure):
    answer["stats"][figure] += 2**21
    assert discrepancies(answer)


@pytest.mark.parametrize("figure", ["allocated_bytes", "disk_bytes"])
def test_a_wrong_row_is_noticed(answer, figure):
    answer["rows"][0][figure] += 64
    assert discrepancies(answer)


def test_rows_that_were_left_out_are_not_missed(answer):
    answer["rows"].pop()
    assert discrepancies(answer)
    answer["left_out"] = 1
    assert discrepancies(answer) == []

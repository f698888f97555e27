"""What a node keeps of the rings of ended workers."""

import pytest

from shoal.wire import messages as m
from shoald.node.timelines import Timelines
from shoald.store.errors import ProtocolError

SPACE = 3000  # for two that a process hands over, with what is remembered of it
ROW = ["f", "00" * 16, 1_700_000_000_000_000, 12.5, True]


def test_rows_come_back_as_they_came_and_the_oldest_go_first():
    kept = Timelines("node", SPACE)
    for pid in (1, 2, 3, 4):
        kept.handed_over(f"worker {pid}", bytes(8), [m.TIMELINE, pid, [ROW, ROW, ROW]])
    rows = kept.rows()
    assert [row["pid"] for row in rows] == [3, 4]
    assert rows[0] == {
        "process": "worker 3", "proc": "00" * 8, "node_id": "node", "pid": 3, "events": [ROW, ROW, ROW],
    }  # fmt: skip


@pytest.mark.parametrize(
    "message",
    [[], [1], ["1", []], [1, {}], [1, [1]], [1, [ROW[:4]]], [1, [[*ROW[:3], "x", True]]], [1, [ROW], 2]],
)
def test_what_makes_no_sense_is_refused(message):
    kept = Timelines("node", SPACE)
    with pytest.raises(ProtocolError):
        kept.handed_over("worker", bytes(8), [m.TIMELINE, *message])
    assert kept.rows() == []


def test_many_that_say_little_are_bounded_too():
    kept = Timelines("node", SPACE)
    for pid in range(1000):
        kept.handed_over(f"worker {pid}", bytes(8), [m.TIMELINE, pid, [ROW] if pid % 2 else []])
    assert [row["pid"] for row in kept.rows()] == [997, 999]

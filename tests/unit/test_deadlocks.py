"""Which waits are a deadlock: not those that somebody who runs may end."""

import pytest

from shoal import deadlocks


def waits(task, *needs, turn=False):
    return [{"waits": task, "running": need, "turn": turn, "names": {task: task.upper()}} for need in needs]


@pytest.mark.parametrize(
    ("rows", "ring"),
    [
        ([], []),
        (waits("a", "b"), []),
        ([*waits("a", "b"), *waits("b", "a")], ["a", "b"]),
        ([*waits("a", "b"), *waits("b", "a", turn=True)], ["a", "b"]),
        # One of the calls ahead runs, and makes room for b.
        ([*waits("a", "b"), *waits("b", "a", "c", turn=True)], []),
        ([*waits("a", "b"), *waits("b", "a", "c", turn=True), *waits("c", "d")], []),
        ([*waits("a", "b"), *waits("b", "a", "c", turn=True), *waits("c", "b")], ["a", "b"]),
        # `wait` for one of two.
        ([{**row, "any": True} for row in waits("a", "b", "c")] + waits("b", "a"), []),
        (
            [{**row, "any": True} for row in waits("a", "b", "c")] + waits("b", "a") + waits("c", "a"),
            ["a", "b"],
        ),
        ([*waits("a", "b"), {"waits": "a", "any": True}, *waits("b", "a")], []),
        # Who needs several needs all of them.
        ([*waits("a", "d", "b"), *waits("b", "a")], ["a", "b"]),
        # What only leads there is not a part of it.
        ([*waits("a", "b"), *waits("b", "c"), *waits("c", "b")], ["b", "c"]),
        ([{"waits": "a"}, {"waits": "b", "running": None}, {"lines": []}], []),
    ],
)
def test_the_ring_is_found(rows, ring):
    assert deadlocks.find(rows) == ring


def test_people_are_told_who_waits_for_whom():
    rows = [*waits("b", "a", turn=True), *waits("c", "b"), *waits("a", "c")]
    assert (
        deadlocks.sentence(rows)
        == "this is a deadlock: A waits for C, which waits for B, which cannot begin before the end of A"
    )
    assert not deadlocks.sentence(waits("a", "b"))
    turns = [*waits("a", "b", turn=True), *waits("b", "a", turn=True)]  # of two moments
    assert "A cannot begin before the end of B" in deadlocks.sentence(turns)

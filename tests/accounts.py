"""Whether what a daemon says of its store adds up: every byte of the region and of the spill files has one use.

Asked of every daemon of this run that answers, at the end of each test that starts processes (see conftest): one request
each. All of an answer is of one moment, so nothing is waited for.
"""

import os

from shoal.control import ControlError, request
from shoal.sessions import SessionError, find_sessions

ANSWER_S = 30.0


def ledgers_that_do_not_add_up():
    """A line for each sum that is wrong; empty if all are right, or no daemon runs."""
    lines = []
    for found in find_sessions():
        socket = os.path.join(found.directory, "node.sock")
        if not found.live or not os.path.exists(socket):
            continue
        try:
            answer = request(socket, found.secret, "memory", {"scope": "node"}, ANSWER_S)
        except (ControlError, SessionError):
            continue  # it is stopping, or the test has stopped it: nothing is said, so nothing is wrong
        lines += [f"node {answer['node_id'][:8]}: {line}" for line in discrepancies(answer)]
    return lines


def discrepancies(answer):
    """What does not add up in one daemon's answer to "memory"."""
    stats, rows = answer["stats"], answer["rows"]
    in_rows = sum(row["allocated_bytes"] for row in rows)
    on_disk = sum(row["disk_bytes"] for row in rows)
    sums = {
        "used and free": (stats["used"] + stats["free"], stats["capacity"]),
        "objects, duplicates, leased and restoring": (
            stats["sealed"] + stats["duplicates"] + stats["leased"] + stats["restoring"],
            stats["used"],
        ),
        "primary and secondary copies": (stats["primary"] + stats["secondary"], stats["sealed"]),
    }
    if not answer["left_out"]:
        sums["rows"] = (in_rows, stats["sealed"] + stats["duplicates"])
        sums["rows on disk"] = (on_disk, stats["disk_live"])
    lines = [f"{what} are {got} B, not {due}" for what, (got, due) in sums.items() if got != due]
    limits = (
        ("pinned", "sealed"),
        ("cached", "sealed"),
        ("largest_free", "free"),
        ("disk_live", "disk"),
        ("used", "capacity"),
        ("high_water", "capacity"),
    )
    return lines + [
        f"{less} is {stats[less]} B, more than {more} with {stats[more]}"
        for less, more in limits
        if not 0 <= stats[less] <= stats[more]
    ]

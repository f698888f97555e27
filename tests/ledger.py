"""What the store's ledger says: whether everything has come back, and if not, who keeps it."""

import gc

import shoal
from marks import until
from shoal import session

SHOWN_MAX = 20


def rows():
    """One row per stored object (see `StoreCore.rows`)."""
    return session.runtime().request("memory", {})["rows"]


def bytes_of_objects():
    """Bytes that objects take in this node's store."""
    return shoal.memory_summary()["sealed"]


def everything_came_back(limit_s=60.0):
    """Wait until no object is left in the store, nor in any process's table of objects; says what is left and who keeps it."""

    def is_empty():
        gc.collect()
        summary = shoal.memory_summary()
        return (
            not summary["objects"]
            and not summary["sealed"]
            and not summary["duplicates"]
            and not summary["disk"]
            and not known_objects()
        )

    try:
        until(is_empty, limit_s)
    except AssertionError:
        lines = [
            f"{row['id']} {row['size_bytes']} B {row['state']} {row['callsite']}: "
            + ", ".join(
                f"{who['role']} {who['pid']} {who['proc']} {who['kind']} x{who['count']}"
                for who in row["holders"]
            )
            for row in rows()
        ]
        raise AssertionError(
            "\n".join(["left behind:", *lines[:SHOWN_MAX], *map(str, known_objects()[:SHOWN_MAX])])
        ) from None


def known_objects():
    """The objects in the tables of all processes that somebody there still uses."""
    return session.runtime().request("objects", {})["rows"]

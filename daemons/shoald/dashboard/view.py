"""What the page is told of a cluster, from what its daemons answer to people's questions. Pure.

The page itself makes rates of the sums, from one state to the next. What can be many is bounded; how much was left out is said.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from shoal.figures import disk_states, store_states

Row = Mapping[str, Any]
_STATES = {"ALIVE": 0, "SUSPECTED": 1, "DEAD": 2}
_OF_A_NODE = ("node_id", "name", "hostname", "pid", "state", "reason", "draining", "silent_ms")


def state_of(answers: Mapping[str, Any], at_s: float, rows_max: int) -> dict[str, Any]:
    """The state of a cluster.

    Args:
        answers: to "status", "figures", "jobs", and "actors" (None if there are too many), of all nodes.
        at_s: when they were asked, on a clock that never jumps.
        rows_max: of each table but that of nodes.
    """
    status, figures = answers["status"], answers["figures"]["rows"]
    by_node = {row["node_id"]: row for row in figures}
    nodes = [_node(row, by_node.get(row["node_id"])) for row in status["nodes"]]
    nodes.sort(
        key=lambda node: (_STATES.get(node["state"], 0), node["name"] or node["hostname"], node["node_id"])
    )
    pending = _pending(status)
    actors = answers["actors"]
    return {
        "at_s": at_s,
        "address": status["head"]["address"],
        "trouble": status["head"]["trouble"],
        "nodes": nodes,
        "tasks": _sum(row["tasks"] for row in figures),
        "sums": _sum(row["sums"] for row in figures),
        "pending": _cut(pending, rows_max),
        "actor_states": _sum(row["actors"] for row in figures),
        "actors": None
        if actors is None
        else _cut([_actor(row) for row in actors["rows"]], rows_max, actors.get("left_out", 0)),
        "jobs": _cut(answers["jobs"]["rows"], rows_max, answers["jobs"].get("left_out", 0)),
        "silent": answers["figures"]["silent"],
    }


def _cut(rows: list[Any], limit: int, left_out: int = 0) -> dict[str, Any]:
    """``left_out``: how many the answer had no room for."""
    return {"rows": rows[:limit], "left_out": left_out + max(0, len(rows) - limit)}


def _sum(counts: Iterable[Mapping[str, float]]) -> dict[str, float]:
    total: Counter[str] = Counter()
    for each in counts:
        total.update(each)
    return dict(total)


def _node(row: Row, figures: Row | None) -> dict[str, Any]:
    """A node of the head's table, with its figures if it has answered."""
    node = {key: row.get(key) for key in _OF_A_NODE}
    if figures is None or row["state"] == "DEAD":
        return {**node, "figures": None}
    store = figures["store"]
    return {
        **node,
        "figures": {
            **{
                key: figures[key]
                for key in ("uptime_s", "resources", "available", "workers", "tasks", "sums")
            },
            "cpu": figures["cpu"],
            "memory": figures["memory"],
            "waiting": figures["waiting"],
            "store": {
                **{key: store[key] for key in ("capacity", "used", "objects", "pinned", "evictions")},
                **{key: store[key] for key in ("spilled", "restored", "fetched_bytes", "served_bytes")},
                "states": store_states(figures),
                "disk": disk_states(figures),
                "fetching": store.get("fetching", 0),
            },
        },
    }


def _pending(status: Row) -> list[dict[str, Any]]:
    """What waits for resources and why, oldest first; of other nodes, as they told the head."""
    rows = [
        {
            "name": row["name"],
            "count": row["backlog"],
            "resources": row["resources"],
            "waiting_s": row["waiting_s"],
            "by": row["submitter"],
            "reason": row["reason"],
        }
        for row in status["pending"]
    ]
    rows.sort(key=lambda row: -row["waiting_s"])
    for node in status["nodes"]:
        if node["node_id"] == status["node_id"] or node["state"] != "ALIVE":
            continue
        rows += [
            {
                "name": "",
                "count": demand["count"],
                "resources": demand["resources"],
                "waiting_s": None,
                "by": f"node {node['name'] or node['node_id'][:8]}",
                "reason": demand["reason"],
            }
            for demand in node["pending"]
        ]
    rows += [
        {
            "name": f"placement group {group['name'] or group['group_id'][:8]}",
            "count": len(group["bundles"]),
            "resources": {},
            "waiting_s": None,
            "by": "",
            "reason": group["reason"],
        }
        for group in status["groups"]
        if group["state"] not in ("CREATED", "REMOVED")
    ]
    return rows


def _actor(row: Row) -> dict[str, Any]:
    keys = (
        "actor_id",
        "class",
        "name",
        "namespace",
        "state",
        "pid",
        "node_id",
        "restarts",
        "reason",
        "since_s",
    )
    return {key: row[key] for key in keys}

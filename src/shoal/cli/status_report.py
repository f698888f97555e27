"""What `shoal status` and `shoal list` say, computed from a daemon's answers. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from shoal.cli.format import Table, age_text, resources_text, shorten, usage_text
from shoal.cli.memory_report import holders_text
from shoal.sizes import bytes_text

Row = Mapping[str, Any]
_ID_LENGTH = 8


def nodes_table(nodes: Iterable[Row]) -> Table:
    """The node table: live nodes first, then dead ones with the reason."""
    rows = []
    for node in sorted(nodes, key=lambda node: (node.get("state") == "DEAD", node["node_id"])):
        dead = node.get("state") == "DEAD"
        state = str(node.get("state", "")) + (" draining" if node.get("draining") else "")
        capacity = node.get("store_capacity_bytes", 0)
        store = (
            f"{bytes_text(node.get('store_used_bytes', 0))} of {bytes_text(capacity)}" if capacity else "-"
        )
        rows.append(
            (
                node["node_id"][:_ID_LENGTH],
                node.get("name") or node.get("hostname") or "-",
                str(node.get("pid") or "-"),
                state,
                "-" if dead else usage_text(node.get("available", {}), node.get("resources", {})),
                "-" if dead else store,
                str(node.get("reason") or "-") if dead or state != "ALIVE" else "-",
            )
        )
    columns = ("NODE", "NAME", ">PID", "STATE", "USED", "STORE", "WHY")
    return Table(columns, rows, "Nodes", details=("WHY", "NAME"))


def fresh_nodes(status: Row) -> list[Row]:
    """The head's node table, with what this node knows of itself: its last report may be seconds old."""
    store = status.get("store", {})
    own = {"available": status.get("available", {}), "store_used_bytes": store.get("used", 0)}
    return [
        {**node, **own} if node["node_id"] == status.get("node_id") else node
        for node in status.get("nodes", ())
    ]


def pending_table(status: Row) -> Table | None:
    """What waits for resources: this node's demands, and those that other nodes told the head."""
    rows = [
        (
            row.get("name") or "-",
            str(row.get("backlog", "")),
            resources_text(row["resources"]),
            age_text(row.get("waiting_s", 0.0)),
            row.get("submitter") or "-",
            row.get("reason") or "-",
        )
        for row in status.get("pending", ())
    ]
    for node in status.get("nodes", ()):
        if node["node_id"] == status.get("node_id") or node.get("state") != "ALIVE":
            continue
        rows += [
            (
                "-",
                str(demand.get("count", "")),
                resources_text(demand["resources"]),
                "-",
                f"node {node['node_id'][:_ID_LENGTH]}",
                demand.get("reason") or "-",
            )
            for demand in node.get("pending", ())
        ]
    if not rows:
        return None
    columns = ("FUNCTION", ">TASKS", "NEEDS", ">SINCE", "FOR", "BECAUSE")
    return Table(columns, rows, "Waiting for resources", details=("BECAUSE", "FOR"))


def status_lines(status: Row) -> list[str]:
    """The cluster in a few lines."""
    head = status.get("head", {})
    nodes = list(status.get("nodes", ()))
    states = [node.get("state") for node in nodes]
    counts = ", ".join(f"{states.count(state)} {str(state).lower()}" for state in dict.fromkeys(states))
    lines = [f"head      {head.get('address') or 'none'}"]
    if head.get("trouble"):
        lines.append(f"          no connection: {head['trouble']}; what runs goes on")
    lines.append(f"nodes     {len(nodes)} ({counts})" if nodes else "nodes     unknown")
    lines.append(f"resources {usage_text(*_cluster(status))} in use")
    workers = status.get("workers", {})
    shown = ", ".join(f"{count} {state.lower()}" for state, count in workers.items() if count) or "none"
    lines.append(f"workers   {shown} (on this node)")
    store = status.get("store", {})
    if store:
        lines.append(
            f"store     {bytes_text(store.get('used', 0))} of {bytes_text(store.get('capacity', 0))} used, "
            f"{store.get('objects', 0)} objects, {bytes_text(store.get('pinned', 0))} pinned (on this node)"
        )
    jobs = status.get("jobs", ())
    lines.append(f"jobs      {len(jobs)} here" + "".join(f"; {_job(job)}" for job in jobs))
    groups = status.get("groups", ())
    if groups:
        states = [group["state"] for group in groups]
        counts = ", ".join(f"{states.count(state)} {state.lower()}" for state in dict.fromkeys(states))
        lines.append(f"groups    {counts} (made on this node)")
        lines += [
            f"          {group['group_id']}: {group['reason']}"
            for group in groups
            if group["state"] != "CREATED"
        ]
    lines += [f"installs  {text}" for text in status.get("installing", ())]
    lines.append("waiting   nothing" if pending_table(status) is None else "waiting   see below")
    return lines


def _cluster(status: Row) -> tuple[dict[str, float], dict[str, float]]:
    """(available, total) over live nodes; this node's own figures are the freshest."""
    available: dict[str, float] = {}
    total: dict[str, float] = {}
    for node in status.get("nodes", ()):
        if node.get("state") == "DEAD":
            continue
        own = node["node_id"] == status.get("node_id")
        free = status["available"] if own else node.get("available", {})
        for name, amount in (status["resources"] if own else node.get("resources", {})).items():
            total[name] = total.get(name, 0.0) + amount
            available[name] = available.get(name, 0.0) + free.get(name, 0.0)
    return available, total


def _job(job: Row) -> str:
    return f"{job.get('job_id')} {job.get('entrypoint') or ''} (pid {job.get('pid')})"


def list_table(kind: str, rows: Sequence[Row], now_s: float) -> Table:
    """`shoal list KIND`, as `shoal.cli.lists` names kinds, at ``now_s`` (Unix seconds)."""
    if kind == "jobs":
        return _jobs_table(rows, now_s)
    tables = {
        "nodes": nodes_table,
        "workers": _workers_table,
        "tasks": _tasks_table,
        "actors": _actors_table,
        "objects": _objects_table,
        "placement-groups": _groups_table,
    }
    return tables[kind](rows)


def _workers_table(rows: Sequence[Row]) -> Table:
    columns = (">PID", "STATE", ">SINCE", "NODE", "USES", "FOR", "DOING")
    lines = [
        (
            str(row["pid"]),
            row["state"],
            age_text(row["since_s"]),
            row["node_id"][:_ID_LENGTH],
            resources_text(row["resources"]),
            row["submitter"] or row["job"] or "-",
            _doing(row),
        )
        for row in rows
    ]
    return Table(columns, lines, "Workers", details=("DOING", "FOR"))


def _doing(row: Row) -> str:
    if row.get("installing"):
        return str(row["installing"])
    task = str(row.get("task_id") or "").strip("0")
    return f"task {row['task_id']}" if task else row.get("reason") or "-"


def _tasks_table(rows: Sequence[Row]) -> Table:
    lines = [
        (
            row["id"],
            row["name"] or "-",
            row["state"],
            str(row.get("worker_pid") or "-"),
            str(row.get("worker_node") or "-")[:_ID_LENGTH],
            "-" if row.get("retries_left") is None else _retries(row["retries_left"]),
            row.get("process") or "-",
        )
        for row in rows
    ]
    columns = ("TASK", "FUNCTION", "STATE", ">WORKER", "NODE", "RETRIES LEFT", "OWNER")
    return Table(columns, lines, "Tasks", details=("RETRIES LEFT", "OWNER", "NODE"))


def _retries(left: int) -> str:
    return "any" if left < 0 else str(left)


def _actors_table(rows: Sequence[Row]) -> Table:
    columns = ("ACTOR", "CLASS", "NAME", "STATE", ">SINCE", ">PID", ">RESTARTS", ">CALLERS", "NODE", "WHY")
    lines = [
        (
            row["actor_id"],
            row["class"],
            _actor_name(row),
            row["state"],
            age_text(row["since_s"]),
            str(row["pid"] or "-"),
            str(row["restarts"]),
            str(row["callers"]),
            row["node_id"][:_ID_LENGTH],
            _reason(row),
        )
        for row in rows
    ]
    return Table(columns, lines, "Actors", details=("WHY", "CALLERS", "RESTARTS", "NODE", "SINCE"))


def _reason(row: Row) -> str:
    """All of it, in one line."""
    return " ".join(str(row["reason"]).split()) or "-"


def _actor_name(row: Row) -> str:
    if not row["name"]:
        return "-"
    about = ", ".join(filter(None, (row["namespace"], "detached" if row["detached"] else "")))
    return f"{row['name']} ({about})" if about else row["name"]


def _objects_table(rows: Sequence[Row]) -> Table:
    lines = [
        (
            row["id"],
            row["state"],
            bytes_text(row["size_bytes"]) if row["size_bytes"] else "-",
            str(row["references"]),
            shorten(row.get("callsite") or row.get("function") or "-", 40),
            row.get("process") or "-",
        )
        for row in rows
    ]
    columns = ("OBJECT", "STATE", ">SIZE", ">REFS", "CALL SITE", "PROCESS")
    title = "Objects, as each process that has a reference knows them"
    return Table(columns, lines, title, details=("PROCESS", "CALL SITE"))


def _groups_table(rows: Sequence[Row]) -> Table:
    lines = [
        (
            row["group_id"],
            (row["name"] or "-") + (" (detached)" if row["detached"] else ""),
            row["strategy"],
            row["state"],
            shorten("; ".join(_bundle_text(row, index) for index in range(len(row["bundles"]))), 80),
            row["job_id"] or "-",
            _reason(row),
        )
        for row in rows
    ]
    columns = ("GROUP", "NAME", "STRATEGY", "STATE", "BUNDLES", "JOB", "WHY")
    return Table(columns, lines, "Placement groups", details=("WHY", "JOB", "BUNDLES"))


def _bundle_text(row: Row, index: int) -> str:
    """Like 1 CPU, 2 disk on 1a2b3c4d."""
    node_id = row["nodes"][index] if index < len(row["nodes"]) else ""
    return resources_text(row["bundles"][index]) + (f" on {node_id[:_ID_LENGTH]}" if node_id else "")


def _jobs_table(rows: Sequence[Row], now_s: float) -> Table:
    lines = [
        (
            row["job_id"],
            str(row["pid"]),
            row["node_id"][:_ID_LENGTH],
            row.get("entrypoint") or "-",
            row.get("namespace") or "-",
            age_text(max(0.0, now_s - row["started_s"])),
            str(row.get("workers", "-")),
        )
        for row in rows
    ]
    columns = ("JOB", ">PID", "NODE", "SCRIPT", "NAMESPACE", ">RUNNING", ">WORKERS")
    return Table(columns, lines, "Jobs", details=("NAMESPACE", "NODE"))


def silent_notes(silent: Sequence[str]) -> list[str]:
    """A line about processes that did not answer: they are busy in code that never returns to Python."""
    if not silent:
        return []
    return [f"no answer from {', '.join(silent)} in time: what only they know is missing"]


def why_lines(wanted: str, answer: Row) -> list[str]:
    """What each process knows about ``wanted``; lines of one process are indented under its name."""
    lines: list[str] = []
    last = None
    for row in answer.get("rows", ()):
        process = row.get("process", "?")
        if process != last:
            lines.append(f"{process}:")
            last = process
        said = [_stored_line(row)] if "object" in row else row.get("lines", ())
        lines += [f"  {line}" for line in said]
    if not lines:
        lines = [
            f"nobody here knows {wanted}: it was freed, has never existed, or belongs to another machine"
        ]
    return [*lines, *silent_notes(answer.get("silent", ()))]


def _stored_line(row: Row) -> str:
    stored = row["object"]
    size, age = bytes_text(stored["allocated_bytes"]), age_text(stored["age_s"])
    return (
        f"object {stored['id']} is there, on node {row['node_id'][:_ID_LENGTH]} ({size}, {stored['state']}, {age} old); "
        f"call site: {stored.get('callsite') or '-'}; held by: {holders_text(stored['holders'])}"
    )

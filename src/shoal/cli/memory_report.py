"""What `shoal memory` says, computed from rows and figures of the nodes. Pure.

A row is an object (or a second copy of one) as the store describes it: id, size_bytes, allocated_bytes,
disk_bytes, state, holders, callsite, age_s, and here also node_id. Sizes shown are allocated bytes, what the object takes
out of the store; so rows, and what is leased to writers ahead of need or being read back from disk, add up to what is used,
and the line under the table does that sum. What is on disk has a column of its own, which adds up to what lives there.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from shoal.cli.format import Table, age_text, shorten
from shoal.sizes import bytes_text

Row = Mapping[str, Any]
Node = Mapping[str, Any]  # what one daemon answers: node_id, stats, rows, left_out
Stats = Mapping[str, Any]
_CALLSITE_LENGTH = 40
_NO_PID = 2**63
# Bytes in the table of figures: key, what it is.
_BYTES = (
    ("capacity", "capacity"),
    ("used", "used"),
    ("sealed", "  by objects"),
    ("leased", "  leased to writers ahead of need"),
    ("duplicates", "  by duplicates that are still read"),
    ("restoring", "  by objects on their way back from disk"),
    ("high_water", "used at most"),
    ("free", "free"),
    ("largest_free", "  longest piece"),
    ("primary", "primary copies"),
    ("secondary", "secondary copies"),
    ("pinned", "pinned by processes"),
    ("cached", "  and referred to by nobody"),
    ("disk", "on disk, in spill files"),
    ("disk_live", "  of objects that are alive"),
    ("disk_spare", "and in files that are kept a moment to be written over"),
    ("disk_removed", "and in removed files that are still looked at"),
    ("fetched_bytes", "came from other nodes, in all"),
    ("served_bytes", "went to other nodes, in all"),
)
# What happened since the start: key, what it is.
_COUNTS = (
    ("seals", "objects made"),
    ("frees", "objects freed"),
    ("dedups", "copies saved: the same bytes were there"),
    ("pins", "pins granted"),
    ("allocs", "leases to writers"),
    ("evictions", "copies evicted"),
    ("spilled", "spilled to disk"),
    ("spilled_objects", "  objects"),
    ("spill_rate", "  a second, while there was something to write"),
    ("restored", "restored from disk"),
    ("restored_objects", "  objects"),
    ("restore_rate", "  a second, while there was something to read"),
    ("written_in_files", "objects written to files by who made them, for lack of room"),
    ("read_in_files", "objects read where they were spilled, for lack of room"),
    ("lost", "objects lost, their spill file being damaged"),
    ("fetching", "being fetched from other nodes now"),
    ("fetches", "fetched from other nodes"),
    ("fetch_joins", "reads that joined one of these"),
    ("fetch_retries", "sources replaced meanwhile"),
    ("fetched_from_relays", "parts that came from other readers"),
    ("fetched_into_files", "received into files, for lack of room"),
)


def rows_of(nodes: Iterable[Node]) -> list[dict[str, Any]]:
    """The rows of all nodes, each with its node."""
    return [{**row, "node_id": node["node_id"]} for node in nodes for row in node.get("rows", ())]


def sort_rows(rows: Iterable[Row], by: str) -> list[Row]:
    """Largest, oldest, or lowest pid of a holder first; ties by id, so that the order is stable."""
    if by == "pid":
        return sorted(rows, key=lambda row: (min(_pids(row), default=_NO_PID), row["id"]))
    if by == "size":
        return sorted(rows, key=lambda row: (-max(row["allocated_bytes"], _disk(row)), row["id"]))
    return sorted(rows, key=lambda row: (-row["age_s"], row["id"]))


def _disk(row: Row) -> int:
    return int(row.get("disk_bytes", 0))


def _pids(row: Row) -> list[int]:
    return [holder["pid"] for holder in row["holders"] if holder.get("pid")]


def with_tasks(nodes: Iterable[Node], tasks: Iterable[Row]) -> list[Node]:
    """The answers of ``nodes``, with the name of the task that each worker among the holders runs."""
    running: dict[tuple[str, int], str] = {}
    for task in tasks:
        if task["state"] == "RUNNING" and task.get("worker_pid"):
            running.setdefault((task["worker_node"], task["worker_pid"]), task["name"])

    def named(holder: Mapping[str, Any], node_id: str) -> dict[str, Any]:
        task = running.get((node_id, holder.get("pid") or 0)) if holder.get("role") == "worker" else None
        return {**holder, "task": task} if task else dict(holder)

    def row_named(row: Row, node_id: str) -> dict[str, Any]:
        return {**row, "holders": [named(holder, node_id) for holder in row["holders"]]}

    return [
        {**node, "rows": [row_named(row, node["node_id"]) for row in node.get("rows", ())]} for node in nodes
    ]


def holders_text(holders: Iterable[Mapping[str, Any]]) -> str:
    """Who, and by which kinds of hold: "driver 12 (hold ×2, pin), worker 13 in f (pin), object 9f (contains it)"."""
    kinds: dict[str, list[str]] = {}
    for holder in holders:
        count = holder.get("count", 1)
        kind = "contains it" if holder["kind"] == "container" else str(holder["kind"])
        kinds.setdefault(_who(holder), []).append(kind + (f" ×{count}" if count != 1 else ""))
    return ", ".join(f"{who} ({', '.join(held)})" for who, held in kinds.items()) or "nobody"


def _who(holder: Mapping[str, Any]) -> str:
    role = holder.get("role") or "process"
    task = f" in {holder['task']}" if holder.get("task") else ""
    if holder.get("name"):
        return f"{holder['name']}{task}"
    if holder.get("pid"):
        return f"{role} {holder['pid']}{task}"
    return f"{role} {holder.get('proc', '?')}"


def objects_table(rows: Sequence[Row], nodes: Sequence[Node], units: str, limit: int | None) -> Table:
    """A row per object, at most ``limit``, and under it the sum that must come out as what is used."""
    shown = rows if limit is None else rows[:limit]
    several = len(nodes) > 1
    lines = [
        (
            row["id"],
            bytes_text(row["allocated_bytes"], units),
            bytes_text(_disk(row), units) if _disk(row) else "-",
            row["state"],
            age_text(row["age_s"]),
            row["node_id"][:8] if several else "-",
            shorten(row.get("callsite") or "-", _CALLSITE_LENGTH),
            holders_text(row["holders"]),
        )
        for row in shown
    ]
    columns = ("OBJECT", ">SIZE", ">ON DISK", "STATE", ">AGE", "NODE", "CALL SITE", "HELD BY")
    notes = sum_lines(rows, nodes, units, len(shown))
    return Table(columns, lines, "Objects", notes, details=("HELD BY", "CALL SITE", "NODE", "ON DISK"))


def sum_lines(rows: Sequence[Row], nodes: Sequence[Node], units: str, shown: int) -> list[str]:
    """How the rows add up to what the stores use."""
    totals = add_stats(node["stats"] for node in nodes)
    objects = sum(row["allocated_bytes"] for row in rows)
    used, leased = totals.get("used", 0), totals.get("leased", 0) + totals.get("restoring", 0)
    left_out = sum(node.get("left_out", 0) for node in nodes)
    lines = []
    if left_out:
        hidden = used - leased - objects
        lines.append(
            f"and {left_out} smaller objects with {bytes_text(hidden, units)}, which were not listed"
        )
        objects += hidden
    if shown < len(rows):
        hidden = sum(row["allocated_bytes"] for row in rows[shown:])
        lines.append(f"and {len(rows) - shown} more rows with {bytes_text(hidden, units)} (-n shows more)")
    total = (
        f"{bytes_text(objects, units)} in {len(rows) + left_out} rows "
        f"+ {bytes_text(leased, units)} leased to writers = {bytes_text(objects + leased, units)}"
    )
    if objects + leased == used:
        lines.append(f"{total}, which is all that is used of {bytes_text(totals.get('capacity', 0), units)}")
    else:
        lines.append(f"{total}; the stores say {bytes_text(used, units)}, taken at different moments")
    if totals.get("disk"):
        spilled = bytes_text(sum(_disk(row) for row in rows), units)
        files = f"{totals.get('disk_files', 0)} spill files"
        lines.append(f"{spilled} on disk in these rows, of {bytes_text(totals['disk'], units)} in {files}")
    if totals.get("disk_removed"):
        by = [item for node in nodes for item in node["stats"].get("disk_removed_by", {}).items()]
        who = ", ".join(f"{name} ({bytes_text(size, units)})" for name, size in by)
        size = bytes_text(totals["disk_removed"], units)
        lines.append(f"{size} on disk in files of objects that are gone, at which is still looked: {who}")
    return lines


def group_rows(rows: Iterable[Row], by: str) -> list[dict[str, Any]]:
    """Rows summed by "node", "call-site" or "state": group, objects, bytes, disk_bytes, pinned_bytes; largest first."""
    key = {"node": "node_id", "call-site": "callsite", "state": "state"}[by]
    groups: dict[str, dict[str, Any]] = {}
    for row in rows:
        name = row.get(key) or "-"
        group = groups.setdefault(
            name,
            {"group": name, "objects": 0, "bytes": 0, "disk_bytes": 0, "pinned_bytes": 0, "age_s": 0.0},
        )
        group["disk_bytes"] += _disk(row)
        group["objects"] += 1
        group["bytes"] += row["allocated_bytes"]
        group["age_s"] = max(group["age_s"], row["age_s"])
        if any(holder["kind"] == "pin" for holder in row["holders"]):
            group["pinned_bytes"] += row["allocated_bytes"]
    return sorted(groups.values(), key=lambda group: (-group["bytes"] - group["disk_bytes"], group["group"]))


def groups_table(rows: Sequence[Row], nodes: Sequence[Node], by: str, units: str, limit: int | None) -> Table:
    """`group_rows` as a table, with the same sum under it as a table of objects."""
    groups = group_rows(rows, by)
    lines = [
        (
            shorten(group["group"], 2 * _CALLSITE_LENGTH),
            str(group["objects"]),
            bytes_text(group["bytes"], units),
            bytes_text(group["disk_bytes"], units) if group["disk_bytes"] else "-",
            bytes_text(group["pinned_bytes"], units),
            age_text(group["age_s"]),
        )
        for group in groups[:limit]
    ]
    notes = sum_lines(rows, nodes, units, len(rows))
    if len(lines) < len(groups):
        notes = [f"and {len(groups) - len(lines)} more groups (-n shows more)", *notes]
    columns = (by.upper().replace("-", " "), ">OBJECTS", ">SIZE", ">ON DISK", ">PINNED", ">OLDEST")
    return Table(columns, lines, f"Objects by {by}", notes)


def add_stats(stats: Iterable[Stats]) -> dict[str, Any]:
    """Figures of several stores added up; fragmentation is that of all their free memory."""
    total: dict[str, Any] = {}
    for figures in stats:
        for name, value in figures.items():
            if isinstance(value, int | float) and not isinstance(value, bool):
                total[name] = total.get(name, 0) + value
    if total.get("free"):
        total["fragmentation"] = 1 - total.get("largest_free", 0) / total["free"]
    return total


def stats_tables(nodes: Sequence[Node], units: str) -> list[Table]:
    """Figures, a column per node and one for all: bytes, and what happened since the start."""
    named = [(str(node["node_id"])[:8], node["stats"]) for node in nodes]
    if len(named) != 1:
        named.append(("all", add_stats(stats for _, stats in named)))
    columns = ("", *(f">{name}" for name, _ in named))
    space = [(text, *(bytes_text(stats.get(key, 0), units) for _, stats in named)) for key, text in _BYTES]
    space.append(("fragmented", *(f"{stats.get('fragmentation', 0):.0%}" for _, stats in named)))
    space.append(("objects", *(f"{stats.get('objects', 0):,}" for _, stats in named)))
    space.append(("spill files", *(f"{stats.get('disk_files', 0):,}" for _, stats in named)))
    known = {key for key, _ in (*_BYTES, *_COUNTS)} | {
        "fragmentation",
        "objects",
        "disk_files",
        "disk_removed_by",
    }
    others = dict.fromkeys(key for _, stats in named for key in stats if key not in known)
    counters = [*_COUNTS, *((key, key.replace("_", " ")) for key in others)]
    counts = [(text, *(_count(key, stats, units) for _, stats in named)) for key, text in counters]
    return [Table(columns, space, "Object store"), Table(columns, counts, "Since the start")]


def _count(key: str, stats: Stats, units: str) -> str:
    value = stats.get(key, 0)
    if key.endswith("_bytes") or key in {"spilled", "restored", "spill_rate", "restore_rate"}:
        return bytes_text(int(value), units)
    return f"{value:,g}" if isinstance(value, float) else f"{value:,}"

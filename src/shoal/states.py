"""What people ask of a cluster's state, of the rows that its daemons answer with: one by its id, some of them, sums of them.

Pure; the command line (`shoal get`, `summary`) and `shoal.util.state` ask, and use this. Several processes may know one object:
such rows count once, as the process knows it that knows most.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Row = Mapping[str, Any]
Filter = Sequence[Any]

_NAMED_MAX = 5


class NotOne(LookupError):
    """No row, or (``several``) more than one, is meant by an id; one line that says so."""

    def __init__(self, message: str, several: bool) -> None:
        super().__init__(message)
        self.several = several


@dataclass(frozen=True)
class Kind:
    """What can be listed.

    Attributes:
        plural: as `shoal list` calls it.
        method: the daemon's answer to it.
        key: the field with the id.
    """

    plural: str
    method: str
    key: str


KINDS = {
    "task": Kind("tasks", "tasks", "id"),
    "actor": Kind("actors", "actors", "actor_id"),
    "object": Kind("objects", "objects", "id"),
    "node": Kind("nodes", "nodes", "node_id"),
    "worker": Kind("workers", "workers", "worker_id"),
    "placement-group": Kind("placement-groups", "groups", "group_id"),
    "job": Kind("jobs", "jobs", "job_id"),
}
SUMMARIES = ("tasks", "actors", "objects")


def find(kind: str, rows: Iterable[Row], wanted: str) -> dict[str, Any]:
    """The row of the ``kind`` (of KINDS) whose id is ``wanted``, or alone begins with it; a worker also by its pid.

    An object's row has "known_by": what each process that has a reference says of it.

    Raises NotOne.
    """
    key, plural = KINDS[kind].key, KINDS[kind].plural
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(str(row[key]), []).append(row)
    text = wanted.strip()
    by_pid = [row_id for row_id, same in found.items() if kind == "worker" and str(same[0]["pid"]) == text]
    text = text if text in found else text.lower()
    ids = (
        [text]
        if text in found
        else by_pid or [row_id for row_id in found if text and row_id.startswith(text)]
    )
    if not ids:
        raise NotOne(
            f"no {kind.replace('-', ' ')} {wanted!r} is known; `shoal list {plural}` shows those there are",
            False,
        )
    if len(ids) > 1:
        shown = ", ".join(ids[:_NAMED_MAX]) + (
            f" and {len(ids) - _NAMED_MAX} more" if len(ids) > _NAMED_MAX else ""
        )
        raise NotOne(f"{wanted!r} may be each of {len(ids)} {plural}: {shown}; say more of the id", True)
    same = found[ids[0]]
    if kind == "object":
        return {**_best(same), "known_by": [dict(row) for row in same]}
    return dict(same[0])


def _best(rows: Sequence[Row]) -> Row:
    return max(rows, key=lambda row: (row["state"] != "BORROWED", row.get("size_bytes") or 0))


_TESTS: dict[str, Callable[[str, str], bool]] = {"=": str.__eq__, "!=": str.__ne__}


def matching(rows: Iterable[Row], filters: Sequence[Filter]) -> list[dict[str, Any]]:
    """The rows for which all ``filters`` hold: (field, "=" or "!=", value), compared as text without regard to case.

    Raises ValueError for a filter that is none, or of a field that a row does not have.
    """
    for given in filters:
        if len(given) != 3 or given[1] not in _TESTS:
            raise ValueError(f'{given!r} is no filter: it looks like ("state", "=", "RUNNING"), or "!="')
    kept = []
    for row in rows:
        for name, _, _ in filters:
            if name not in row:
                raise ValueError(f"there is no field {name!r}; there are {', '.join(sorted(row))}")
        if all(_TESTS[how](str(row[name]).lower(), str(value).lower()) for name, how, value in filters):
            kept.append(dict(row))
    return kept


def summarize(plural: str, rows: Iterable[Row]) -> dict[str, Any]:
    """Sums of the rows of "tasks", "actors" or "objects": {"cluster": {"summary": {name: {…, "state_counts"}}, "total_…"}}.

    The names are those of functions, classes, or call sites (of objects without one: of their function); most first.
    """
    if plural == "objects":
        return _summary_of_objects(rows)
    name_field, label = ("name", "func_or_class_name") if plural == "tasks" else ("class", "class_name")
    counts: dict[str, Counter[str]] = {}
    for row in rows:
        counts.setdefault(str(row[name_field] or "-"), Counter())[str(row["state"])] += 1
    ordered = sorted(counts.items(), key=lambda item: (-item[1].total(), item[0]))
    summary = {name: {label: name, "state_counts": dict(states)} for name, states in ordered}
    return {
        "cluster": {"summary": summary, f"total_{plural}": sum(states.total() for states in counts.values())}
    }


def _summary_of_objects(rows: Iterable[Row]) -> dict[str, Any]:
    known: dict[str, list[Row]] = {}
    for row in rows:
        known.setdefault(str(row["id"]), []).append(row)
    sites: dict[str, dict[str, Any]] = {}
    for same in known.values():
        row = _best(same)
        size = row.get("size_bytes") or 0
        callsites = [str(known_as["callsite"]) for known_as in same if known_as.get("callsite")]
        site = callsites[0] if callsites else str(row.get("function") or "-")
        total = sites.setdefault(
            site, {"total_objects": 0, "total_size_bytes": 0, "total_references": 0, "state_counts": {}}
        )
        total["total_objects"] += 1
        total["total_size_bytes"] += size
        total["total_references"] += sum(r["references"] for r in same)
        total["state_counts"][row["state"]] = total["state_counts"].get(row["state"], 0) + 1
    ordered = sorted(
        sites.items(), key=lambda item: (-item[1]["total_size_bytes"], -item[1]["total_objects"], item[0])
    )
    size = sum(site["total_size_bytes"] for site in sites.values())
    return {"cluster": {"summary": dict(ordered), "total_objects": len(known), "total_size_bytes": size}}

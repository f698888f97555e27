"""The runtime's own metrics, from what the nodes of a cluster say of themselves (shoald.node.figures). Pure.

Names are in Prometheus' style: `shoal_`, then what is measured, its unit last; a sum that only grows ends in `_total`. Series are
labelled by `node_id`. The bytes of a store by `state` (of memory: free, leased, …) add up to its capacity; those on disk too,
to what its files take. Tasks are those that processes of the node have submitted, wherever they run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

Row = Mapping[str, Any]
Series = list[list[Any]]  # [tags, [value]] each
Values = Callable[
    [Row], float | Mapping[str, float]
]  # of a node's figures: one value, or one for each value of a tag

_STORE_STATES = {
    "primary": "primary",
    "secondary": "secondary",
    "leased": "leased",
    "duplicate": "duplicates",
    "restoring": "restoring",
    "free": "free",
}
_DISK_STATES = ("live", "dead", "spare")


def _store(key: str) -> Values:
    return lambda node: node["store"].get(key, 0)


def _part(part: str, key: str) -> Values:
    return lambda node: node[part][key]


def store_states(node: Row) -> dict[str, float]:
    """Bytes of a node's store by what they are; they add up to its capacity."""
    return {state: node["store"].get(key, 0) for state, key in _STORE_STATES.items()}


def disk_states(node: Row) -> dict[str, float]:
    """Bytes in spill files by what they are: of objects that live, of dead ones, and in files kept to be written over."""
    store = node["store"]
    live, spare = store.get("disk_live", 0), store.get("disk_spare", 0)
    return dict(zip(_DISK_STATES, (live, max(0, store.get("disk", 0) - live), spare), strict=True))


# Name without "shoal_", help, the tag that its values differ in or "", and how a node's figures give them.
_OF_NODES: tuple[tuple[str, str, str, Values], ...] = (
    ("uptime_seconds", "Since the node's daemon started.", "", lambda node: node["uptime_s"]),
    ("resources", "What the node offers.", "resource", lambda node: node["resources"]),
    ("resources_available", "What of it is free.", "resource", lambda node: node["available"]),
    ("cpus", "Processors of the machine.", "", _part("cpu", "count")),
    ("cpu_busy_seconds_total", "Work of all processors of the machine.", "", _part("cpu", "busy_s")),
    (
        "memory_used_bytes",
        "Memory in use, of the machine or its tightest cgroup.",
        "",
        _part("memory", "used"),
    ),
    ("memory_limit_bytes", "How much of it there is.", "", _part("memory", "limit")),
    ("workers_memory_bytes", "Memory that all workers have for themselves.", "", _part("memory", "workers")),
    ("worker_memory_bytes_max", "The same of the largest one.", "", _part("memory", "largest_worker")),
    ("daemon_memory_bytes", "Memory that the daemon has for itself.", "", _part("memory", "daemon")),
    ("workers", "Worker processes.", "state", lambda node: node["workers"]),
    ("workers_died_total", "Workers that died under a task.", "", _part("leases", "workers_died")),
    ("leases_granted_total", "Workers granted to submitters.", "", _part("leases", "granted")),
    ("leases_returned_total", "Of these, given back.", "", _part("leases", "returned")),
    ("leases_recalled_total", "Leases that were asked back.", "", _part("leases", "recalled")),
    (
        "leases_oversubscribed_total",
        "Tasks that went on after a wait though others had their CPU.",
        "",
        _part("leases", "oversubscribed"),
    ),
    (
        "scheduler_waiting_demands",
        "Demands (shapes of submitters) that wait.",
        "",
        _part("waiting", "demands"),
    ),
    ("scheduler_waiting_leases", "Workers that these could use now.", "", _part("waiting", "leases")),
    ("scheduler_wait_seconds_max", "How long the oldest of them waits.", "", _part("waiting", "oldest_s")),
    ("tasks", "Tasks and calls that are not done, by state.", "state", lambda node: node["tasks"]),
    ("tasks_submitted_total", "Tasks and calls that were submitted.", "", _part("sums", "submitted")),
    ("tasks_finished_total", "Tasks and calls that succeeded.", "", _part("sums", "finished")),
    ("tasks_failed_total", "Tasks and calls that failed.", "", _part("sums", "failed")),
    ("tasks_retried_total", "Attempts after the first.", "", _part("sums", "retried")),
    ("actors", "Actors that the node hosts.", "state", lambda node: node["actors"]),
    ("jobs", "Drivers that are connected.", "", lambda node: node["jobs"]),
    ("object_store_capacity_bytes", "Size of the store.", "", _store("capacity")),
    ("object_store_bytes", "Its memory, by what it is used for.", "state", store_states),
    ("object_store_used_bytes_max", "The most that was in use at once.", "", _store("high_water")),
    ("object_store_pinned_bytes", "Of objects that processes have mapped.", "", _store("pinned")),
    ("object_store_cached_bytes", "Of those, referred to by nobody.", "", _store("cached")),
    ("object_store_free_piece_bytes_max", "The longest free piece.", "", _store("largest_free")),
    ("object_store_objects", "Stored objects.", "", _store("objects")),
    ("object_store_created_total", "Objects made.", "", _store("seals")),
    ("object_store_freed_total", "Objects freed.", "", _store("frees")),
    ("object_store_evictions_total", "Copies evicted.", "", _store("evictions")),
    ("object_store_lost_total", "Objects lost, their spill file being damaged.", "", _store("lost")),
    ("object_store_deduplicated_total", "Copies saved: the same bytes were there.", "", _store("dedups")),
    ("object_store_pins_total", "Pins granted.", "", _store("pins")),
    ("object_store_allocations_total", "Leases of memory to writers.", "", _store("allocs")),
    ("spill_bytes", "In spill files, by what it is.", "state", disk_states),
    ("spill_files", "Spill files.", "", _store("disk_files")),
    ("spilled_bytes_total", "Written to spill files.", "", _store("spilled")),
    ("spilled_objects_total", "Objects spilled.", "", _store("spilled_objects")),
    ("restored_bytes_total", "Read back from spill files.", "", _store("restored")),
    ("restored_objects_total", "Objects restored.", "", _store("restored_objects")),
    ("written_in_files_total", "Objects written to files by who made them.", "", _store("written_in_files")),
    ("read_in_files_total", "Objects read where they were spilled.", "", _store("read_in_files")),
    ("fetching_objects", "Being fetched from other nodes now.", "", _store("fetching")),
    ("fetches_total", "Objects fetched from other nodes.", "", _store("fetches")),
    ("fetch_joins_total", "Reads that joined a fetch.", "", _store("fetch_joins")),
    ("fetch_retries_total", "Sources replaced during a fetch.", "", _store("fetch_retries")),
    ("fetched_bytes_total", "Bytes that came from other nodes.", "", _store("fetched_bytes")),
    ("fetched_into_files_total", "Objects received into files.", "", _store("fetched_into_files")),
    ("served_bytes_total", "Bytes that went to other nodes.", "", _store("served_bytes")),
)
_STATES = ("ALIVE", "SUSPECTED", "DEAD")


def metrics_of(figures: Sequence[Row], nodes: Sequence[Row], silent: int) -> list[dict[str, Any]]:
    """The metrics of a cluster, as `shoal.prometheus` writes them.

    Args:
        figures: a row of each node that answered.
        nodes: the head's node table.
        silent: how many processes and nodes did not answer in time.
    """
    info = [
        [{"node_id": node["node_id"], "name": node["name"], "hostname": node["hostname"]}, [1]]
        for node in figures
    ]
    states = [node["state"] for node in nodes]
    by_state: Series = [[{"state": state}, [states.count(state)]] for state in _STATES]
    silences: Series = [
        [{"node_id": node["node_id"]}, [node.get("silent_ms", 0) / 1000]]
        for node in nodes
        if node["state"] != "DEAD"
    ]
    return [
        _metric("node_info", "Names of nodes.", info),
        _metric("nodes", "Nodes, by what the head thinks of them.", by_state),
        _metric("node_heartbeat_age_seconds", "Since the head heard of the node.", silences),
        _metric(
            "silent", "Processes and nodes that did not answer: their figures are missing.", [[{}, [silent]]]
        ),
        *(_metric(name, text, _of_nodes(figures, tag, values)) for name, text, tag, values in _OF_NODES),
    ]


def _of_nodes(figures: Iterable[Row], tag: str, values: Values) -> Series:
    series: Series = []
    for node in figures:
        place = {"node_id": node["node_id"]}
        found = values(node)
        if isinstance(found, Mapping):
            series += [[{**place, tag: name}, [value]] for name, value in found.items()]
        else:
            series.append([place, [found]])
    return series


def _metric(name: str, description: str, series: Series) -> dict[str, Any]:
    kind = "counter" if name.endswith("_total") else "gauge"
    return {
        "name": f"shoal_{name}",
        "kind": kind,
        "description": description,
        "boundaries": [],
        "series": series,
    }

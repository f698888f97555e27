"""The store, told to people: rows, totals, and who fills it. Reads the ledger and changes nothing."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from shoal.sizes import bytes_text
from shoal.wire import messages as m
from shoald.store.ledger import Ledger
from shoald.store.objects import LOST, ON_DISK, READING, Client, StoredObject

_NAMED_MAX = 3  # processes named in an error message
_AWAY = {ON_DISK: "spilled", READING: "restoring", LOST: "lost"}  # states of what is not in the region


def rows(ledger: Ledger, now: float) -> list[dict[str, Any]]:
    """One row per stored object and per duplicate; see `StoreCore.rows`."""
    holders = _holders(ledger)
    shared = ledger.shared
    result = [
        _row(obj, _state(obj, obj.id in shared), holders.get(obj.id, []), now)
        for obj in ledger.objects.values()
    ]
    seen: set[int] = set()
    for client in (*ledger.clients.values(), *ledger.forks.values()):
        for dups in client.duplicates.values():
            for dup in dups:
                if id(dup) not in seen:
                    seen.add(id(dup))
                    result.append(_row(dup, "duplicate", [], now))
    return result


def totals(ledger: Ledger) -> dict[str, Any]:
    """Figures of the whole store; see `StoreCore.stats`."""
    allocator = ledger.allocator
    return {
        "capacity": allocator.capacity,
        "used": allocator.used_bytes,
        "sealed": ledger.sealed_bytes,
        "leased": ledger.leased_bytes(),
        "duplicates": ledger.duplicate_bytes,
        "restoring": ledger.restoring_bytes,
        "primary": ledger.sealed_bytes - ledger.secondary_bytes,
        "secondary": ledger.secondary_bytes,
        "pinned": ledger.pinned_bytes,
        "cached": ledger.cached_bytes,
        "free": allocator.free_bytes,
        "largest_free": allocator.largest_free,
        "fragmentation": allocator.fragmentation,
        "high_water": allocator.high_water,
        "objects": len(ledger.objects),
        **ledger.counters,
    }


_IN_PIECES = "What is free lies in pieces, between values that have to stay where they are. "


def full_message(ledger: Ledger, size: int, trouble: str = "") -> str:
    """Why there was no room for ``size`` bytes: who keeps what, and what to do; ``trouble``: of the disks."""
    allocator = ledger.allocator
    by_client: dict[Client, list[int]] = defaultdict(lambda: [0, 0, 0, 0])  # pinned, held: objects and bytes
    for client in (*ledger.clients.values(), *ledger.forks.values()):
        tally = by_client[client]
        for column, ids in ((0, client.pins), (2, client.holds)):
            found = [ledger.objects[i] for i in ids if i in ledger.objects]
            stored = [obj.allocated for obj in found if obj.offset >= 0]
            tally[column] = len(stored)
            tally[column + 1] = sum(stored)
    largest = sorted(by_client.items(), key=lambda item: max(item[1][1], item[1][3]), reverse=True)
    named = [
        f"{client.name} holds {held} objects ({bytes_text(held_bytes)}) and pins {pinned} ({bytes_text(pinned_bytes)})"
        for client, (pinned, pinned_bytes, held, held_bytes) in largest[:_NAMED_MAX]
        if held or pinned
    ]
    where = f" of node {ledger.node_id.hex()[:8]}" if ledger.clustered else ""
    return (
        f"no room for {bytes_text(size)} in the object store{where}: of {bytes_text(allocator.capacity)}, "
        f"{bytes_text(ledger.sealed_bytes)} are objects, {bytes_text(ledger.leased_bytes())} leased to writers, "
        f"{bytes_text(allocator.free_bytes)} free (longest piece {bytes_text(allocator.largest_free)}). "
        + ("; ".join(named) + ". " if named else "")
        + (_IN_PIECES if allocator.free_bytes >= size else "")
        + trouble
    ).rstrip()


def _holders(ledger: Ledger) -> dict[bytes, list[dict[str, Any]]]:
    holders: dict[bytes, list[dict[str, Any]]] = defaultdict(list)
    for client in ledger.clients.values():
        who = _who(client)
        for object_id, count in client.holds.items():
            if count > 0:
                holders[object_id].append({**who, "kind": "hold", "count": count})
    for obj in ledger.objects.values():
        for client, count in (obj.pins or {}).items():
            holders[obj.id].append({**_who(client), "kind": "pin", "count": count})
        container = {"proc": obj.id.hex(), "pid": None, "role": "object", "kind": "container", "count": 1}
        for inner in obj.contained:
            holders[inner].append(container)
    return holders


def _who(client: Client) -> dict[str, Any]:
    get = client.info.get
    who = {"proc": client.proc.hex(), "pid": get("pid"), "role": get("kind"), "job_id": get("job_id")}
    if who["role"] == "node":
        who["node_id"] = get("node_id")
    return who


def _state(obj: StoredObject, shared: bool) -> str:
    if obj.offset < 0 and obj.disk is not None:
        return _AWAY[obj.disk.state]
    if obj.recalled:
        return "unreferenced"
    if shared and not obj.holders:
        return "held elsewhere"
    return "error" if obj.flags & m.SEAL_ERROR else "sealed"


def _row(obj: StoredObject, state: str, holders: list[dict[str, Any]], now: float) -> dict[str, Any]:
    return {
        "id": obj.id.hex(),
        "size_bytes": obj.size,
        "allocated_bytes": obj.allocated if obj.offset >= 0 else 0,
        "disk_bytes": obj.allocated if obj.disk is not None and obj.disk.state != LOST else 0,
        "state": state,
        "holders": holders,
        "callsite": obj.callsite,
        "age_s": max(0.0, now - obj.sealed_at),
        "flags": obj.flags,
    }

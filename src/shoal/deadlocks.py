"""Which tasks wait for each other, so that none of them ever goes on. Pure.

Rows as `shoal why` gathers them: {"waits": a task, "running": one that it waits for}, ids in hexadecimal, and "names": id → name.
A task needs all that it waits for, or ("any" in its rows) one of that. A call of an actor that waits for its turn ("turn") needs
any one of those that run there to end. What has no such row goes on by itself, as far as anybody knows: so what is called a
deadlock is one, unless a wait in it has a timeout.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable

NEXT_STEP = "return the ref from the method unread, await it in an async method, or give the actor more max_concurrency"

_WHO_KNOWS = ""  # no task: something that may come


def find(rows: Iterable[dict[str, Any]]) -> list[str]:
    """Tasks of which each waits for the next one, and the last one for the first; [] if there are none."""
    needs, choices, _ = _edges(rows)
    stuck = set(needs)
    changed = True
    while changed:
        going = {
            task for task in stuck if (any if task in choices else all)(n not in stuck for n in needs[task])
        }
        stuck -= going
        changed = bool(going)
    if not stuck:
        return []
    way = [min(stuck)]
    while (following := next(need for need in needs[way[-1]] if need in stuck)) not in way:
        way.append(following)
    return way[way.index(following) :]


def sentence(rows: Iterable[dict[str, Any]]) -> str:
    """What to tell people of a deadlock in these rows; "" if there is none."""
    rows = list(rows)
    ring = find(rows)
    if not ring:
        return ""
    turns = _edges(rows)[2]
    names: dict[str, str] = {}
    for row in rows:
        names |= row.get("names", {})
    start = next((place for place, task in enumerate(ring) if task not in turns), 0)
    ring = ring[start:] + ring[:start]
    parts = [names.get(ring[0], ring[0])]
    for task, following in zip(ring, [*ring[1:], ring[0]], strict=True):
        verb = "cannot begin before the end of" if task in turns else "waits for"
        parts.append(f"{verb} {names.get(following, following)}")
    return f"this is a deadlock: {parts[0]} " + ", which ".join(parts[1:])


def _edges(rows: Iterable[dict[str, Any]]) -> tuple[dict[str, list[str]], set[str], set[str]]:
    """What each task needs, those of which one is enough, and those that wait for their turn."""
    needs: dict[str, list[str]] = {}
    choices, turns = set(), set()
    for row in rows:
        waits, running = row.get("waits"), row.get("running")
        known = type(running) is str
        if type(waits) is str and (known or row.get("any")):
            needs.setdefault(waits, []).append(str(running) if known else _WHO_KNOWS)
            if row.get("turn"):
                turns.add(waits)
            if row.get("turn") or row.get("any"):
                choices.add(waits)
    return needs, choices, turns

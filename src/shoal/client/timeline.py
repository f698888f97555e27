"""What ran in this process, and when: a ring of the newest tasks and calls, and what people get to see of it.

Recording is one append of what is at hand anyway (0.04 µs; a task takes its worker 4 at least), so it is always on. Times are of
the monotonic clock; wall-clock time is worked out when somebody asks, by one offset per process. A process that ends in order
hands its ring over to the node daemon, which keeps a bounded number of bytes of those; of one that is killed it is lost.

    (name, or the function field of a call of an actor; task id; start, end in s; whether it succeeded)
"""

from __future__ import annotations

import time
from collections import deque
from typing import TYPE_CHECKING, Any

from shoal.wire import messages as m

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from shoal.client.runtime import Runtime

Record = tuple[Any, bytes, float, float, bool]
_HAND_OVER_S = 0.2
_PAUSE_S = 0.0005
_LOOKS = 5


class Timeline:
    """The ring of one process.

    Attributes:
        record: takes one `Record`; safe on any thread.
        name_of: the name of a function field, in an actor.
    """

    def __init__(self, limit: int) -> None:
        self._ring: deque[Record] = deque(maxlen=limit)
        self._since_1970 = _clock_offset()
        self.record = self._ring.append
        self.name_of: Callable[[Any], str] = repr

    def rows(self) -> list[list[Any]]:
        """[name, task id in hex, start in µs since 1970, duration in µs, whether it succeeded] of each."""
        since_1970 = self._since_1970
        return [
            [
                name if type(name) is str else self.name_of(name),
                task_id.hex(),
                round((since_1970 + started) * 1e6),
                round((ended - started) * 1e6, 1),
                good,
            ]
            for name, task_id, started, ended, good in self._ring.copy()
        ]


def _clock_offset() -> float:
    """What to add to the monotonic clock for the time since 1970, in s: the best of some looks, as others may run meanwhile."""
    looks = []
    for _ in range(_LOOKS):
        before, now, after = time.perf_counter(), time.time(), time.perf_counter()
        looks.append((after - before, now - (before + after) / 2))
    return min(looks)[1]


def hand_over(runtime: Runtime) -> None:
    """This process is about to end: the daemon gets its ring and its counts, unless it is gone, within a short time."""
    connection = runtime.node.connection
    rows = runtime.timeline.rows()
    counts = dict(runtime.dispatch.counters)
    if connection.closed or not (rows or any(counts.values())):
        return
    deadline = time.monotonic() + _HAND_OVER_S
    with runtime.lock:
        if rows:
            runtime.table.to_node([m.TIMELINE, runtime.pid, rows])
        runtime.table.to_node([m.COUNTED, counts])
        runtime.flush_seals()
        while connection.out_bytes and time.monotonic() < deadline:
            connection.writable()
            time.sleep(_PAUSE_S)


def chrome_events(rows: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The events of a Chrome trace, in order of time: for each process {"node_id", "pid", "process", "events": rows of its ring}.

    A node is a process of the trace, a worker a thread of it. `ts` and `dur` are in µs.
    """
    nodes: dict[str, int] = {}
    threads: dict[tuple[int, int], str] = {}
    events: list[dict[str, Any]] = []
    for row in rows:
        node = nodes.setdefault(row["node_id"], len(nodes) + 1)
        place = {"pid": node, "tid": row["pid"]}
        if row["events"]:
            threads[node, row["pid"]] = row["process"]
        for name, task_id, started_us, took_us, good in row["events"]:
            about = {"task_id": task_id, "state": "FINISHED" if good else "FAILED"}
            event = {"name": name, "cat": "task", "ph": "X", "ts": started_us, "dur": took_us}
            events.append({**event, **place, "args": about})
    names: list[dict[str, Any]] = [
        {"name": "process_name", "ph": "M", "pid": node, "tid": 0, "args": {"name": f"node {node_id[:8]}"}}
        for node_id, node in nodes.items()
    ]
    names += [
        {"name": "thread_name", "ph": "M", "pid": node, "tid": tid, "args": {"name": name}}
        for (node, tid), name in threads.items()
    ]
    return names + sorted(events, key=lambda event: event["ts"])

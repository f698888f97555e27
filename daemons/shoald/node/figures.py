"""A node in figures, for `shoal metrics` and the dashboard: one row of what the daemon and its processes count anyway.

Nothing is counted for this: asking reads counters, and asks each process for its own, which takes it microseconds however many
tasks it has. Figures of the machine are read when they are asked for. Of a process that does not answer in time, the sums are
those that it said last, and its tasks under way are missing; it is among the silent.

The row: node_id, name, hostname, pid, uptime_s; resources, available; store (StoreCore.stats, and `fetching`); workers
{state: count}, leases (counters of the scheduler), waiting {"demands", "leases", "oldest_s"}; tasks {state: count}, sums (see
tallies); actors {state: count} that are hosted here; jobs; memory {"used", "limit", "workers", "largest_worker", "daemon"} in
bytes; cpu {"busy_s", "count"} of the machine.
"""

from __future__ import annotations

import os
import socket
from collections import Counter
from typing import TYPE_CHECKING, Any

from shoald.node.leases import floats
from shoald.node.tallies import Tallies
from shoald.store.errors import ProtocolError
from shoald.store.memory import cpu_busy_s, memory_in_use, own_bytes

if TYPE_CHECKING:
    from collections.abc import Callable

    from shoald.node.daemon import NodeDaemon

    Reply = Callable[[bool, Any], None]
    AskAll = Callable[[str, dict[str, Any], Reply], None]


class Figures:
    """The figures of one node.

    Args:
        ask_all: puts a question to all processes of this node.
    """

    def __init__(self, daemon: NodeDaemon, ask_all: AskAll) -> None:
        self._daemon = daemon
        self._ask_all = ask_all
        self.tallies = Tallies()

    def answer(self, params: dict[str, Any], reply: Reply) -> None:
        """One row, of this node."""

        def heard(ok: bool, data: Any) -> None:
            reply(ok, {**data, "rows": [self._row(data["rows"])]} if ok else data)

        self._ask_all("figures", params, heard)

    def _row(self, said: list[dict[str, Any]]) -> dict[str, Any]:
        daemon = self._daemon
        tasks: Counter[str] = Counter()
        for process in said:
            try:
                proc = bytes.fromhex(process["proc"])
                if proc in daemon.clients:  # else it has gone meanwhile, and its sums are added up
                    self.tallies.said(proc, process.get("sums"))
                tasks.update(counts(process.get("tasks")))
            except ProtocolError as error:
                daemon.log.line(f"{process['process']} said figures that make no sense: {error}")
        return {
            "node_id": daemon.node_id,
            "name": daemon.options.name,
            "hostname": socket.gethostname(),
            "pid": os.getpid(),
            "uptime_s": daemon.loop.now() - daemon.started,
            **self._of_the_scheduler(),
            "store": {**daemon.store.stats(), **(daemon.objects.stats() if daemon.objects else {})},
            "tasks": dict(tasks),
            "sums": self.tallies.totals(),
            "actors": Counter(record.state for record in daemon.actors.core.actors.values()),
            "jobs": len(daemon.jobs),
            **self._of_the_machine(),
        }

    def _of_the_scheduler(self) -> dict[str, Any]:
        scheduler = self._daemon.scheduler
        waiting = list(scheduler.waiting)
        oldest = min((demand.since for demand in waiting), default=None)
        return {
            "resources": floats(scheduler.ledger.total),
            "available": floats(scheduler.available()),
            "workers": scheduler.pool.counts(),
            "leases": dict(scheduler.counters),
            "waiting": {
                "demands": len(waiting),
                "leases": sum(demand.backlog for demand in waiting),
                "oldest_s": 0.0 if oldest is None else self._daemon.loop.now() - oldest,
            },
        }

    def _of_the_machine(self) -> dict[str, Any]:
        workers = [
            own_bytes(worker.pid) for worker in self._daemon.scheduler.pool.workers.values() if worker.pid
        ]
        used, limit, _ = memory_in_use()
        memory = {
            "used": used,
            "limit": limit,
            "workers": sum(workers),
            "largest_worker": max(workers, default=0),
            "daemon": own_bytes(os.getpid()),
        }
        return {"memory": memory, "cpu": {"busy_s": cpu_busy_s(), "count": os.cpu_count() or 1}}


def counts(tasks: Any) -> dict[str, int]:
    """What a process says of its tasks; raises ProtocolError if that makes no sense."""
    if type(tasks) is not dict or not all(
        type(state) is str and type(count) is int for state, count in tasks.items()
    ):
        raise ProtocolError("tasks are counted by state")
    return tasks

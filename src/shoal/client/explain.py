"""What this process knows about why something is not there yet (R8): for errors, warnings and `shoal why`."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from shoal.owner.objects import BORROWED, PENDING, STATE_NAMES
from shoal.owner.tasks import QUEUED, SENT, WAITING

if TYPE_CHECKING:
    from shoal.client.runtime import Runtime
    from shoal.owner.objects import Entry
    from shoal.owner.tasks import TaskRecord

_SHOWN_MAX = 3
_DEPTH_MAX = 20
_ROWS_MAX = 10_000


class Explain:
    """Answers questions about one process's objects and tasks; reads the tables with the lock held by the caller."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime

    def timeout(self, entries: list[Entry]) -> str:
        """The message of a GetTimeoutError."""
        missing = self._missing(entries)
        return f"{len(missing)} of {len(entries)} object(s) did not arrive in time: {self._reasons(missing)}"

    def waiting(self, entries: list[Entry]) -> str:
        """What a get that has waited long says once."""
        missing = self._missing(entries)
        seconds = self._runtime.config.get_warning_s
        return (
            f"get has waited {seconds:g} s for {len(missing)} object(s): {self._reasons(missing)} "
            "(`shoal why ID` shows more)"
        )

    @staticmethod
    def _missing(entries: list[Entry]) -> list[Entry]:
        return [entry for entry in entries if entry.state in (PENDING, BORROWED)] or entries

    def _reasons(self, missing: list[Entry]) -> str:
        parts = [f"{entry.id.hex()} {self.chain(entry)[-1]}" for entry in missing[:_SHOWN_MAX]]
        if len(missing) > _SHOWN_MAX:
            parts.append(f"and {len(missing) - _SHOWN_MAX} more")
        return "; ".join(parts)

    def chain(self, entry: Entry) -> list[str]:
        """The waits from ``entry`` down to its cause, one line each."""
        lines: list[str] = []
        for _ in range(_DEPTH_MAX):
            task = entry.task
            if task is None:
                lines.append(self._without_task(entry))
                break
            lines.append(self._task_line(task))
            blocker = next((needed for _, needed in task.lifted if needed.state in (PENDING, BORROWED)), None)
            if task.state != WAITING or blocker is None:
                break
            entry = blocker
        return lines

    @staticmethod
    def _without_task(entry: Entry) -> str:
        if entry.state == BORROWED:
            return "is borrowed: its owner has not delivered it to the node yet"
        return f"is {STATE_NAMES[entry.state]}"

    def _task_line(self, task: TaskRecord) -> str:
        if task.state == SENT:
            where = f"at worker pid {task.lease.pid}" if task.lease is not None else "in this process"
            position = list(task.lease.inflight).index(task.id) if task.lease is not None else 0
            ahead = f", {position} task(s) ahead of it" if position else ", running"
            return f"is made by task {task.name!r} {where}{ahead}"
        actor = self._runtime.actors.describe_wait(task)
        if actor is not None:
            return f"is made by call {task.name!r}, which {actor}"
        if task.state == QUEUED:
            queue = task.queue
            needs = {name: units / 10_000 for name, units in queue.resources.items()}
            reason = queue.infeasible or f"{len(queue.leases)} worker(s) leased, all busy"
            return f"is made by task {task.name!r}, which waits for a worker with {needs}: {reason}"
        return f"is made by task {task.name!r}, which waits for {task.unresolved} argument(s)"

    # --- questions of the daemon (lock held) ---

    def answer(self, what: str, params: dict[str, Any]) -> Any:
        """The answer to a QUERY: rows of plain values."""
        runtime = self._runtime
        if what == "tasks":
            return runtime.dispatch.describe()[:_ROWS_MAX]
        if what == "objects":
            entries = list(runtime.table.entries.values())[:_ROWS_MAX]
            return [runtime.table.describe(entry) for entry in entries]
        if what == "why":
            return self._why(str(params.get("id", "")))
        if what == "ping":
            return time.time()
        return None

    def _why(self, prefix: str) -> list[str]:
        runtime = self._runtime
        lines = []
        for object_id, entry in list(runtime.table.entries.items()):
            if object_id.hex().startswith(prefix):
                lines.append(
                    f"object {object_id.hex()} is {STATE_NAMES[entry.state]} in process {runtime.pid}"
                )
                if entry.state in (PENDING, BORROWED):
                    lines += self.chain(entry)
            if len(lines) > _ROWS_MAX:
                break
        return lines

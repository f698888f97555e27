"""What this process knows about why something is not there yet (R8): for errors, warnings and `shoal why`.

A chain leads from an object to what everything behind it waits for: object, its task, the argument that the task waits
for, and so on. Where it leaves this process (a task runs elsewhere, or waits for a worker) the answer to a question of the
daemon says so in data, and the daemon goes on from there (node.why).
"""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Any, Protocol

from shoal import deadlocks
from shoal.client.stacks import stack_rows
from shoal.context import current_task
from shoal.ids import OBJECT_ID_SIZE
from shoal.owner.objects import BORROWED, FAILED, INLINE, PENDING, RESULT_OF, STORED, Entry
from shoal.owner.rows import counts_of, queued_behind, rows_of
from shoal.owner.tasks import QUEUED, SENT, WAITING
from shoal.sizes import bytes_text

if TYPE_CHECKING:
    from shoal.client.runtime import Runtime
    from shoal.client.waiting import WaitState
    from shoal.context import TaskContext
    from shoal.owner.tasks import TaskRecord
    from shoal.refs import ObjectRef

    Waited = list[Entry] | WaitState  # for all of these, or for some of its refs

_SHOWN_MAX = 3
_DEPTH_MAX = 20
_ROWS_MAX = 10_000
_TASK_BYTES = 12  # of an object's id: all but the index of a result
_HEX_DIGITS = frozenset("0123456789abcdef")
_OBJECTS_MAX = 100  # that one question is answered for: `why` of a short prefix


class Actor(Protocol):
    """What an actor's process knows of it (lock held); see shoald.worker.selfview."""

    actor_id: str

    def describe(self) -> str: ...
    def ahead_of(self, call: bytes) -> list[bytes]: ...


class Explain:
    """Answers questions about one process's objects and tasks."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        # By token of the wait: who waits (None: no task), for what, and since when on the monotonic clock.
        self._waits: dict[object, tuple[TaskContext | None, Waited, float]] = {}
        # The same of threads that wait for room to write a value.
        self._room_waits: dict[object, tuple[TaskContext | None, str, float]] = {}
        # In a worker: the task or actor that waits for what is being installed, what that is, since when (lock held).
        self.installing: tuple[str, str, float] | None = None
        self.actor: Actor | None = None  # in an actor: what it says of itself

    # --- for errors and warnings (lock not held) ---

    def timeout(self, entries: list[Entry]) -> str:
        """The message of a GetTimeoutError."""
        with self._runtime.lock:
            missing = self._missing(entries)
            reasons = self._reasons(missing) + self._deadlock(entries)
        what = "the object" if len(entries) == 1 else f"{len(missing)} of {len(entries)} objects"
        return f"{what} did not arrive in time: {reasons}"

    def waiting(self, entries: list[Entry]) -> str:
        """What a get that has waited long says once."""
        with self._runtime.lock:
            missing = self._missing(entries)
            reasons = self._reasons(missing) + self._deadlock(entries)
        seconds = self._runtime.config.get_warning_s
        what = "an object" if len(missing) == 1 else f"{len(missing)} objects"
        return f"get has waited {seconds:g} s for {what}: {reasons} (`shoal why ID` shows more)"

    def say(self, refs: list[ObjectRef[Any]]) -> None:
        """The same of refs that something else than `get` waits for."""
        entries = [ref._entry for ref in refs if ref._entry is not None]
        if entries:
            self._runtime.report(self.waiting(entries))

    @staticmethod
    def _missing(entries: list[Entry]) -> list[Entry]:
        return [entry for entry in entries if entry.state in (PENDING, BORROWED)] or entries

    def _reasons(self, missing: list[Entry]) -> str:
        parts = [self._in_words(entry) for entry in missing[:_SHOWN_MAX]]
        if len(missing) > _SHOWN_MAX:
            parts.append(f"and {len(missing) - _SHOWN_MAX} more")
        return "; ".join(parts)

    def _deadlock(self, entries: list[Entry]) -> str:
        """What is to be added of a wait of the calling thread if it is one of this actor's calls for itself (lock held)."""
        context = current_task.get()
        if self.actor is None or context is None:
            return ""
        rows = [*self._wait_rows(context, entries, 0.0), *self._running("")]
        calls = {row["running"] for row in rows if "running" in row}
        for call in calls if len(calls) <= _OBJECTS_MAX else ():
            rows += self._waits_for_turn(call)
        told = deadlocks.sentence(rows)
        return f"; {told} (Next: {deadlocks.NEXT_STEP})" if told else ""

    # --- waits under way, by whoever blocks (lock held) ---

    def wait_begins(self, token: object, entries: Waited, context: TaskContext | None = None) -> None:
        """The calling thread blocks until ``entries`` are there; ``context``: for a task that has not begun."""
        self._waits[token] = (context or current_task.get(), entries, time.monotonic())

    def wait_ends(self, token: object) -> None:
        """It goes on; nothing if it has never begun."""
        self._waits.pop(token, None)

    def room_wait_begins(self, token: object, what: str) -> None:
        """The calling thread blocks until it has room for a value."""
        self._room_waits[token] = (current_task.get(), what, time.monotonic())

    def room_wait_ends(self, token: object) -> None:
        """It goes on."""
        del self._room_waits[token]

    # --- chains (lock held) ---

    def _in_words(self, entry: Entry) -> str:
        """The waits from ``entry`` down to its cause."""
        first, *others = self._links(entry)
        parts = [f"{first.id.hex()} {self._phrase(first)}"]
        parts += [f"{link.id.hex()}{self._clause(link)}" for link in others]
        return ", namely ".join(parts)

    def _clause(self, entry: Entry) -> str:
        """The phrase as what follows "waits for object ID" in the same sentence."""
        phrase = self._phrase(entry)
        return f" {phrase}" if phrase.startswith("of ") else f", which {phrase}"

    @staticmethod
    def _links(entry: Entry) -> list[Entry]:
        """``entry``, the argument that its task waits for, the argument that that one's task waits for, …"""
        links = [entry]
        while len(links) < _DEPTH_MAX:
            task = links[-1].task
            if task is None or task.state != WAITING:
                break
            blocker = next((needed for needed in task.lifted if needed.state in (PENDING, BORROWED)), None)
            if blocker is None:
                break
            links.append(blocker)
        return links

    def _phrase(self, entry: Entry) -> str:
        task = entry.task
        if task is not None and entry.state == PENDING:
            return f"of task {task.name!r}, which {self._task_phrase(task)}"
        if entry.state == PENDING:
            return self._runtime.groups.describe(entry) or "has not been made yet"
        if entry.state == BORROWED:
            return f"is borrowed from a process of {self._home(entry)}, and has not come from there yet"
        if entry.state == FAILED:
            return "has failed: get raises its error"
        if entry.state == INLINE:
            return "is there, in the memory of this process"
        pinned = self._runtime.store.pins.lookup(entry.id) is not None
        return "is there, in the store" + ("" if pinned else f" of {self._home(entry)}")

    def _home(self, entry: Entry) -> str:
        """Where an object was sealed, or is going to be, as far as this process knows."""
        table = self._runtime.table
        return f"node {table.home_of(entry).hex()}…" if table.is_away(entry) else "this node"

    def _task_phrase(self, task: TaskRecord) -> str:
        lease = task.lease
        if task.state == SENT:
            if lease is None:
                return "runs in this process"
            actor = self._runtime.actors.describe_sent(task)
            if actor is not None:
                return actor
            ahead = queued_behind(task)
            return (
                f"waits behind {_count(ahead, 'task')} at worker {lease.pid}"
                if ahead
                else f"runs at worker {lease.pid}"
            )
        unsent = self._runtime.actors.describe_wait(task)
        if unsent is not None:
            return unsent
        if task.state == QUEUED:
            queue = task.queue
            if queue.infeasible:
                return f"cannot run now: {queue.infeasible}"
            needs = (
                ", ".join(_amount(units, name) for name, units in queue.resources.items()) or "no resources"
            )
            leased = (
                f"{_count(len(queue.leases), 'worker')} leased, all busy"
                if queue.leases
                else "none leased yet"
            )
            return f"waits for a worker with {needs} ({leased})"
        return f"waits for {_count(task.unresolved, 'argument')}"

    # --- questions of the daemon (lock held) ---

    def answer(self, what: str, params: dict[str, Any]) -> Any:
        """The answer to a QUERY: rows of plain values."""
        runtime = self._runtime
        if what == "tasks":
            return rows_of(runtime.dispatch)[:_ROWS_MAX]
        if what == "objects":
            names = {task_id[:_TASK_BYTES]: name for task_id, name, _ in runtime.dispatch.finished}
            found = [
                runtime.table.describe(entry) for entry in list(runtime.table.entries.values())[:_ROWS_MAX]
            ]
            for row in found:
                name = names.get(bytes.fromhex(row["id"])[:_TASK_BYTES])
                if name and not row["callsite"]:
                    row["callsite"] = RESULT_OF + name
            return found
        if what == "why":
            wanted = str(params.get("id", ""))
            return self._running(wanted) if params.get("running") else self._known(wanted)
        if what == "timeline":
            return [{"pid": runtime.pid, "events": runtime.timeline.rows()}]
        if what == "stack":
            return [{"pid": runtime.pid, "threads": stack_rows()}]
        if what == "metrics":
            metrics = sys.modules.get("shoal.util.metrics")  # loaded by who has any
            return [{"pid": runtime.pid, "metrics": metrics.rows()}] if metrics is not None else []
        if what == "figures":
            connections = [calls.lease for calls in runtime.actors.calls.values() if calls.lease is not None]
            tasks = counts_of(runtime.dispatch, connections)
            return [{"pid": runtime.pid, "tasks": tasks, "sums": dict(runtime.dispatch.counters)}]
        if what == "ping":
            return time.time()
        return None

    def _known(self, prefix: str) -> list[dict[str, Any]]:
        """A row for each object or finished task that ``prefix`` names: lines, and where its chain leaves this process."""
        runtime = self._runtime
        rows: list[dict[str, Any]] = []
        for object_id, entry in list(runtime.table.entries.items()):
            if object_id.hex().startswith(prefix):
                rows.append(self._row(entry, f"object {object_id.hex()} {self._phrase(entry)}"))
                if len(rows) >= _OBJECTS_MAX:
                    return rows
        known = {object_id.hex() for object_id in runtime.table.entries}
        for task_id, name, outcome in runtime.dispatch.finished:
            if task_id.hex().startswith(prefix) and task_id.hex() not in known:
                rows.append(
                    {
                        "lines": [
                            f"task {task_id.hex()} {name!r} has {outcome}; nobody here refers to its result"
                        ]
                    }
                )
        return rows[:_OBJECTS_MAX] + self._of_actor(prefix) + self._running(prefix)

    def _of_actor(self, prefix: str) -> list[dict[str, Any]]:
        """What the actor that this process is does, and what each of its calls waits for, if ``prefix`` names it."""
        if self.actor is None or not self.actor.actor_id.startswith(prefix):
            return []
        return [{"lines": [self.actor.describe()]}, *self._running("")]

    def _row(self, entry: Entry, first: str) -> dict[str, Any]:
        """The chain of ``entry``, of which ``first`` is the first line."""
        links = self._links(entry)
        lines = [first]
        lines += [
            f"{'  ' * depth}object {link.id.hex()} {self._phrase(link)}"
            for depth, link in enumerate(links[1:], 1)
        ]
        row: dict[str, Any] = {"lines": lines}
        if links[-1].state in (BORROWED, STORED):
            row["wanted"] = links[-1].id.hex()
        task = links[-1].task
        if task is not None and links[-1].state == PENDING:
            if task.state == SENT and task.lease is not None and not queued_behind(task):
                row["running"] = task.id.hex()
                row["at"] = task.lease.proc.hex()
                row["names"] = {task.id.hex(): task.name}
            elif task.state == QUEUED and getattr(task.queue, "shape_id", None):
                row["shape"] = task.queue.shape_id
            elif task.state == WAITING and (actor_id := self._runtime.actors.waits_for_process(task)):
                row["actor"] = actor_id.hex()
        return row

    def _running(self, prefix: str) -> list[dict[str, Any]]:
        """A row for each wait of a task that runs here and that ``prefix`` names."""
        rows: list[dict[str, Any]] = []
        now = time.monotonic()
        for context, waited, since in self._waits.values():
            if context is not None and context.task_id.hex().startswith(prefix):
                rows += self._wait_rows(context, waited, now - since)
        rows += self._waits_for_turn(prefix)
        if self.installing is not None and self.installing[0].startswith(prefix):
            task_id, what, since = self.installing
            line = f"task {task_id} waits here: {what} is being installed for {now - since:.0f} s"
            rows.append({"lines": [line], "waits": task_id})
        for context, what, since in self._room_waits.values():
            if context is not None and context.task_id.hex().startswith(prefix):
                head = f"task {context.task_id.hex()} {context.name!r} has waited {now - since:.1f} s here for {what}"
                rows.append({"lines": [head], "waits": context.task_id.hex(), "room": True})
        return rows

    def _wait_rows(self, context: TaskContext, waited: Waited, waited_s: float) -> list[dict[str, Any]]:
        """Of one wait of a task that runs here."""
        task_id = context.task_id.hex()
        head = f"task {task_id} {context.name!r} has waited {waited_s:.1f} s here"
        if isinstance(waited, list):
            missing, others, is_choice = self._missing(waited), False, False
        else:
            (missing, others), is_choice = waited.missing(), waited.is_choice
        if not missing:
            return [{"lines": [head], "waits": task_id}]
        rows = []
        for entry in missing[:_SHOWN_MAX]:
            row = self._row(entry, f"{head} for object {entry.id.hex()}{self._clause(entry)}")
            names = {**row.get("names", {}), task_id: context.name}
            rows.append({**row, "waits": task_id, "names": names, "any": is_choice})
        if is_choice and (others or len(missing) > _SHOWN_MAX):
            # One that is not shown may come.
            rows.append({"lines": [], "waits": task_id, "any": True})
        return rows

    def _waits_for_turn(self, call: str) -> list[dict[str, Any]]:
        """Rows of a call of the actor that this process is, if it has not begun; ``call``: its whole id, else there are none."""
        if self.actor is None or len(call) != 2 * OBJECT_ID_SIZE or not set(call) <= _HEX_DIGITS:
            return []
        ahead = self.actor.ahead_of(bytes.fromhex(call))
        rows: list[dict[str, Any]] = [
            {
                "lines": [],
                "waits": call,
                "running": task_id.hex(),
                "at": self._runtime.table.proc.hex(),
                "turn": True,
            }
            for task_id in ahead
        ]
        if rows:
            these = ", ".join(row["running"] for row in rows[:_SHOWN_MAX])
            more = f" and {len(rows) - _SHOWN_MAX} more" if len(rows) > _SHOWN_MAX else ""
            rows[0]["lines"] = [f"task {call} waits here for its turn, behind {these}{more}"]
        return rows


def _amount(units: int, name: str) -> str:
    return f"{bytes_text(units / 10_000)} {name}" if name == "memory" else f"{units / 10_000:g} {name}"


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"

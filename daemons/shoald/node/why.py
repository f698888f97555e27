"""`shoal why ID`: what a task or object waits for, followed from process to process.

Every process is asked first what it knows of the id (shoal.client.explain). Where its answer ends with a task that
runs in a worker, that worker is asked what the task waits for, and so on; where it ends with a task that waits for a
worker, the scheduler's reason is added. Other nodes do the same for their processes; a task that runs at none of this node's
is looked for there. At most `FOLLOWED_MAX` steps are followed, and none through a process that does not answer.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

from shoal import deadlocks
from shoal.sizes import bytes_text
from shoald.objects.pull import WAITS_FOR_ROOM

if TYPE_CHECKING:
    from collections.abc import Callable

    from shoald.node.daemon import NodeDaemon
    from shoald.node.questions import Questions

    Reply = Callable[[bool, Any], None]
    # (processes, what, parameters, reply): ask processes, and gather what they answer
    Ask = Callable[[list[bytes], str, dict[str, Any], Reply], None]

FOLLOWED_MAX = 20
_STORIES_MAX = 20
_NOTHING: dict[str, Any] = {"rows": [], "silent": []}


class Why:
    """Answers for one daemon.

    Args:
        ask: puts a question to some processes; see `Requests.ask`.
        questions: asks other nodes; None if another node is who asks.
    """

    def __init__(self, daemon: NodeDaemon, ask: Ask, questions: Questions | None) -> None:
        self._daemon = daemon
        self._ask = ask
        self._questions = questions

    def answer(self, params: dict[str, Any], reply: Reply) -> None:
        """{"rows", "silent"} for the id, or its beginning, in ``params``; rows have a process, and lines or an object."""
        wanted = params.get("id")
        if type(wanted) is not str or not wanted:
            reply(False, "why needs an id, or its beginning")
            return
        daemon = self._daemon
        if params.get("running"):  # another node looks for the process that runs this task
            _Inquiry(daemon, self._ask, None, reply, [], params).follow(wanted, params.get("at"))
            return
        everybody = [proc for proc, client in daemon.clients.items() if client.kind != "cli"]
        rows = [*daemon.actors.why(wanted), *daemon.groups.why(wanted)]
        rows += [*self._stored(wanted), *self._fetched(wanted)]
        _Inquiry(daemon, self._ask, self._questions, reply, rows, params).start(everybody, wanted)

    def _stored(self, wanted: str) -> list[dict[str, Any]]:
        daemon = self._daemon
        found = [row for row in daemon.store.rows(daemon.loop.now()) if row["id"].startswith(wanted)]
        for row in found:
            daemon.name_holders(row)
        return [{"process": "store", "node_id": daemon.node_id, "object": row} for row in found]

    def _fetched(self, wanted: str) -> list[dict[str, Any]]:
        daemon = self._daemon
        lines = _story(daemon, wanted)
        return [{"process": "object manager", "node_id": daemon.node_id, "lines": lines}] if lines else []


class _Inquiry:
    """One question on its way through the processes."""

    def __init__(
        self,
        daemon: NodeDaemon,
        ask: Ask,
        questions: Questions | None,
        reply: Reply,
        rows: list[dict[str, Any]],
        params: dict[str, Any],
    ) -> None:
        self._daemon = daemon
        self._ask = ask
        self._questions = questions
        self._limits = {"limits": params["limits"]} if "limits" in params else {}
        self._reply = reply
        self._rows = rows
        self._silent: list[str] = []
        self._to_follow: deque[str] = deque()
        self._followed: set[str] = set()
        self._places: dict[str, Any] = {}  # task → the process that its submitter sent it to

    def start(self, everybody: list[bytes], wanted: str) -> None:
        self._ask(everybody, "why", {"id": wanted, **self._limits}, self._answered_first(wanted))

    def follow(self, task: str, place: Any) -> None:
        """Only what the process that runs ``task``, if that is here, waits for; ``place``: where it was sent to."""
        self._places[task] = place
        self._to_follow.append(task)
        self._follow()

    def _answered_first(self, wanted: str) -> Reply:
        def answered(ok: bool, answer: dict[str, Any]) -> None:
            if self._questions is None:
                self._answered(ok, answer)
            else:
                self._questions.others("why here", {"id": wanted}, lambda *heard: self._heard(answer, *heard))

        return answered

    def _heard(self, own: dict[str, Any], answers: list[tuple[str, Any]], silent: list[str]) -> None:
        """What this node's processes and the other nodes answered; these have followed their own already."""
        self._silent += silent
        for _, answer in answers:
            self._silent += answer["silent"]
            self._rows += answer["rows"]
            for row in answer["rows"]:
                if type(row.get("waits")) is str:
                    self._followed.add(row["waits"])
                if type(row.get("running")) is str:
                    self._to_follow.append(row["running"])
                    self._note_place(row)
        self._answered(True, own)

    def _answered(self, _ok: bool, answer: dict[str, Any]) -> None:
        self._silent += answer["silent"]
        for row in answer["rows"]:
            if "shape" in row:
                self._add_reason(row)
            if type(row.get("actor")) is str and isinstance(row.get("lines"), list):
                lines = row["lines"]
                lines += [f"{'  ' * len(lines)}{line}" for line in self._daemon.actors.placing(row["actor"])]
            if row.get("room") is True and isinstance(row.get("lines"), list):
                daemon = self._daemon
                shortage = daemon.store.shortage_lines(daemon.loop.now())
                row["lines"] += [f"  node {daemon.node_id[:8]}: {line}" for line in shortage]
            if type(row.get("wanted")) is str:
                self._add_way(row)
            task = row.get("running")
            if type(task) is str:
                self._to_follow.append(task)
                self._note_place(row)
                self._add_place(row)
            if type(row.get("waits")) is str:  # its worker knew it by itself
                self._followed.add(row["waits"])
            self._rows.append(row)
        self._follow()

    def _note_place(self, row: dict[str, Any]) -> None:
        self._places[row["running"]] = row.get("at")

    def _add_place(self, row: dict[str, Any]) -> None:
        """Why the task that the row's chain ends with runs where it does."""
        scheduler, at = self._daemon.scheduler, row.get("at")
        here = [
            (self._daemon.node_id, lease.why)
            for lease in scheduler.leases.values()
            if scheduler.pool.workers[lease.worker_id].proc.hex() == at
        ]
        away = [
            (each.node_id, each.why)
            for each in self._daemon.lease_side.away.leases.values()
            if each.worker.hex() == at
        ]
        lines = row.get("lines")
        for node_id, why in [*here, *away]:
            if why and isinstance(lines, list):
                lines.append(f"{'  ' * len(lines)}on node {node_id[:8]}: {why}")

    def _add_way(self, row: dict[str, Any]) -> None:
        """How far the object has come that a process of this node waits for, if it comes from another node or from disk."""
        daemon, lines = self._daemon, row.get("lines")
        if isinstance(lines, list):
            said = {line for other in self._rows for line in other.get("lines", ())}
            story = [each for each in _story(daemon, row["wanted"]) if each not in said]
            lines += [f"{'  ' * len(lines)}node {daemon.node_id[:8]}: {each}" for each in story]

    def _add_reason(self, row: dict[str, Any]) -> None:
        """What the scheduler says of the demand that the row's chain ends with."""
        lines = row.get("lines")
        if not isinstance(lines, list):
            return
        for demand in self._daemon.scheduler.pending(self._daemon.loop.now()):
            if (demand["proc"].hex(), demand["shape_id"]) == (row["proc"], row["shape"]):
                reason = demand["reason"]
                if not any(reason in str(line) for line in lines):
                    lines.append(f"{'  ' * len(lines)}node {self._daemon.node_id[:8]}: {reason}")

    def _follow(self) -> None:
        while self._to_follow and len(self._followed) < FOLLOWED_MAX:
            task = self._to_follow.popleft()
            if task in self._followed:
                continue
            self._followed.add(task)
            proc = self._process_of(task)
            if proc:
                self._ask([proc], "why", {"id": task, "running": True, **self._limits}, self._answered)
                return
            if self._questions is not None and self._daemon.cluster.live:
                question = {"id": task, "running": True, "at": self._places.get(task)}
                self._questions.others("why here", question, lambda *heard: self._heard(_NOTHING, *heard))
                return
        if self._questions is not None and (told := deadlocks.sentence(self._rows)):
            lines = [told, f"next: {deadlocks.NEXT_STEP}"]
            self._rows.append({"process": "all of these", "lines": lines})
        self._reply(True, {"rows": self._rows, "silent": sorted(set(self._silent))})

    def _process_of(self, task: str) -> bytes:
        """The worker that has started this task last, or the actor that it was sent to; b"" if it is not here."""
        daemon = self._daemon
        place = self._places.get(task)
        for proc in daemon.clients:
            if proc.hex() == place and daemon.actors.is_actor(daemon.clients[proc]):
                return proc
        for worker in daemon.scheduler.pool.workers.values():
            if worker.proc in daemon.clients and daemon.board.current(worker.slot).hex() == task:
                return worker.proc
        return b""


def _story(daemon: NodeDaemon, wanted: str) -> list[str]:
    """How far objects have come that are fetched to this node, for people; and how full it is, if they wait for room."""
    story = daemon.objects.core.pulls.story(wanted)[:_STORIES_MAX] if daemon.objects is not None else []
    if any(WAITS_FOR_ROOM in each for each in story):
        stats = daemon.store.stats()
        free, capacity, pinned = (bytes_text(stats[name]) for name in ("free", "capacity", "pinned"))
        story.append(
            f"{free} of its {capacity} are free, {pinned} are in use by readers (`shoal memory` shows whose)"
        )
    return story

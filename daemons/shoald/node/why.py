"""`shoal why ID`: what a task or object waits for, followed from process to process.

Every process is asked first what it knows of the id (shoal.client.explain). Where its answer ends with a task that
runs in a worker, that worker is asked what the task waits for, and so on; where it ends with a task that waits for a
worker, the scheduler's reason is added. At most `FOLLOWED_MAX` steps are followed, and none through a process that does
not answer.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from shoald.node.daemon import NodeDaemon

    Reply = Callable[[bool, Any], None]
    # (processes, what, parameters, reply): ask processes, and gather what they answer
    Ask = Callable[[list[bytes], str, dict[str, Any], Reply], None]

FOLLOWED_MAX = 20


class Why:
    """Answers for one daemon.

    Args:
        ask: puts a question to some processes; see `Requests.ask`.
    """

    def __init__(self, daemon: NodeDaemon, ask: Ask) -> None:
        self._daemon = daemon
        self._ask = ask

    def answer(self, params: dict[str, Any], reply: Reply) -> None:
        """{"rows", "silent"} for the id, or its beginning, in ``params``; rows have a process, and lines or an object."""
        wanted = params.get("id")
        if type(wanted) is not str or not wanted:
            reply(False, "why needs an id, or its beginning")
            return
        daemon = self._daemon
        everybody = [proc for proc, client in daemon.clients.items() if client.kind != "cli"]
        rows = [*daemon.actors.why(wanted), *self._stored(wanted)]
        _Inquiry(self._daemon, self._ask, reply, rows).start(everybody, wanted)

    def _stored(self, wanted: str) -> list[dict[str, Any]]:
        daemon = self._daemon
        found = [row for row in daemon.store.rows(daemon.loop.now()) if row["id"].startswith(wanted)]
        for row in found:
            daemon.name_holders(row)
        return [{"process": "store", "node_id": daemon.node_id, "object": row} for row in found]


class _Inquiry:
    """One question on its way through the processes."""

    def __init__(self, daemon: NodeDaemon, ask: Ask, reply: Reply, rows: list[dict[str, Any]]) -> None:
        self._daemon = daemon
        self._ask = ask
        self._reply = reply
        self._rows = rows
        self._silent: list[str] = []
        self._to_follow: deque[str] = deque()
        self._followed: set[str] = set()

    def start(self, everybody: list[bytes], wanted: str) -> None:
        self._ask(everybody, "why", {"id": wanted}, self._answered)

    def _answered(self, _ok: bool, answer: dict[str, Any]) -> None:
        self._silent += answer["silent"]
        for row in answer["rows"]:
            if "shape" in row:
                self._add_reason(row)
            task = row.get("running")
            if type(task) is str:
                self._to_follow.append(task)
            if type(row.get("waits")) is str:  # its worker knew it by itself
                self._followed.add(row["waits"])
            self._rows.append(row)
        self._follow()

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
            proc = self._process_of(task)
            if task not in self._followed and proc:
                self._followed.add(task)
                self._ask([proc], "why", {"id": task, "running": True}, self._answered)
                return
        self._reply(True, {"rows": self._rows, "silent": sorted(set(self._silent))})

    def _process_of(self, task: str) -> bytes:
        """The worker that has started this task last; b"" if none has."""
        daemon = self._daemon
        for worker in daemon.scheduler.pool.workers.values():
            if worker.proc in daemon.clients and daemon.board.current(worker.slot).hex() == task:
                return worker.proc
        return b""

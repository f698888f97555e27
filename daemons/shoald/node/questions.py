"""Questions of people to all nodes: this daemon asks the others (P_QUERY → P_ANSWER) and joins what they say.

Each answers for itself, as if it had been asked by its own people. Whoever does not within `query_ms_max` is named among
the silent; its own processes have three quarters of that, so that one of them that is busy does not silence its node. What
all nodes together answer is bounded by `rows_max`.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

from shoal.wire import messages as m
from shoald.node.fields import checked

if TYPE_CHECKING:
    from collections.abc import Callable

    from shoald.node.daemon import NodeDaemon
    from shoald.shell.loop import Timer

    Reply = Callable[[bool, Any], None]
    Answers = list[tuple[str, Any]]  # (node id, its answer)
    Local = Callable[[str, dict[str, Any], Reply], None]

_PROCESSES_SHARE = 0.75  # of the time that nodes have, for their processes


class _Round:
    """A question under way to some nodes."""

    __slots__ = ("answers", "refused", "then", "timer", "waiting")

    def __init__(self, waiting: dict[str, str], then: Callable[[Answers, list[str]], None]) -> None:
        self.waiting = waiting  # node id → what to call it
        self.refused: list[str] = []  # names of those that cannot answer, and why
        self.answers: Answers = []
        self.then = then
        self.timer: Timer | None = None


class Questions:
    """Asks other nodes, and answers them, for one daemon.

    Args:
        local: answers a question as far as this node can.
    """

    def __init__(self, daemon: NodeDaemon, local: Local) -> None:
        self._daemon = daemon
        self._local = local
        self._rounds: dict[int, _Round] = {}
        self._number = itertools.count(1).__next__
        daemon.peers.on(m.P_QUERY, self._queried)
        daemon.peers.on(m.P_ANSWER, self._answered)
        daemon.on_node_dead.append(self._node_died)

    def everywhere(self, method: str, params: dict[str, Any], reply: Reply) -> None:
        """Ask this node and all others. The answer has "nodes": [each one's], or for rows {"rows", "silent", "left_out"}."""

        def asked_here(ok: bool, own: Any) -> None:
            if not ok:
                reply(False, own)
                return

            def heard(answers: Answers, silent: list[str]) -> None:
                everything = [own, *(answer for _, answer in answers)]
                if method in ("memory", "node"):
                    reply(True, {"nodes": everything, "silent": silent})
                else:
                    reply(True, join_rows(everything, silent, self._daemon.config.rows_max))

            self.others(method, params, heard)

        self._local(method, params, asked_here)

    def others(self, method: str, params: dict[str, Any], then: Callable[[Answers, list[str]], None]) -> None:
        """Ask all other nodes; ``then`` gets what they answered, and what to call those that did not."""
        daemon = self._daemon
        waiting = {node_id: str(node) for node_id, node in daemon.cluster.live.items()}
        if not waiting:
            then([], [])
            return
        number = self._number()
        asked = self._rounds[number] = _Round(waiting, then)
        limit_s = daemon.config.query_ms_max / 1000
        asked.timer = daemon.loop.call_later(limit_s, lambda: self._finish(number))
        limits = {"rows": daemon.config.rows_max // (len(waiting) + 1), "wait_s": limit_s * _PROCESSES_SHARE}
        for node_id in list(waiting):
            daemon.peers.send(node_id, [m.P_QUERY, number, method, {**params, "limits": limits}])

    def _finish(self, number: int) -> None:
        asked = self._rounds.pop(number, None)
        if asked is not None:
            if asked.timer is not None:
                asked.timer.cancel()
            asked.then(asked.answers, sorted([*asked.refused, *asked.waiting.values()]))

    # --- messages of other nodes ---

    def _queried(self, node_id: str, message: list[Any]) -> None:
        _, number, method, params = checked(message, int, int, str, dict)
        limits = params.get("limits")
        rows, _ = checked(
            [limits.get("rows"), limits.get("wait_s")] if type(limits) is dict else [], int, float
        )

        def reply(ok: bool, data: Any) -> None:
            if ok and "rows" in data:
                data = cut_rows(with_place(data, str(self._daemon.node_id)), rows)
            self._daemon.peers.send(node_id, [m.P_ANSWER, number, ok, data])

        self._local(method, params, reply)

    def _answered(self, node_id: str, message: list[Any]) -> None:
        _, number, ok, data = checked(message, int, int, bool, object)
        asked = self._rounds.get(number)
        if asked is None or node_id not in asked.waiting:
            return  # too late
        name = asked.waiting.pop(node_id)
        if ok:
            asked.answers.append((node_id, data))
        else:
            asked.refused.append(f"{name} ({data})")
        if not asked.waiting:
            self._finish(number)

    def _node_died(self, node_id: str, _reason: str) -> None:
        for number, asked in list(self._rounds.items()):
            if asked.waiting.pop(node_id, None) is not None and not asked.waiting:
                self._finish(number)


def with_place(answer: dict[str, Any], node_id: str) -> dict[str, Any]:
    """An answer whose processes are named as people of another node need it."""
    place = f" on node {node_id[:8]}"
    rows = [
        {**row, "process": f"{row['process']}{place}"} if "process" in row else row for row in answer["rows"]
    ]
    placed = {**answer, "rows": rows}
    if "silent" in answer:
        placed["silent"] = [f"{name}{place}" for name in answer["silent"]]
    return placed


def cut_rows(answer: dict[str, Any], limit: int) -> dict[str, Any]:
    """At most ``limit`` rows of an answer; the largest objects, where rows have a size."""
    rows = answer["rows"]
    extra = len(rows) - limit
    if extra <= 0:
        return answer
    if rows and "size_bytes" in rows[0]:
        rows = sorted(rows, key=lambda row: -row["size_bytes"])
    return {**answer, "rows": rows[:limit], "left_out": answer.get("left_out", 0) + extra}


def join_rows(answers: list[dict[str, Any]], silent: list[str], rows_max: int) -> dict[str, Any]:
    """The rows of several nodes as one answer."""
    rows = [row for answer in answers for row in answer["rows"]]
    left_out = sum(answer.get("left_out", 0) for answer in answers) + max(0, len(rows) - rows_max)
    names = {name for answer in answers for name in answer.get("silent", ())}
    return {"rows": rows[:rows_max], "silent": sorted(names) + silent, "left_out": left_out}

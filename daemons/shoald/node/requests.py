"""Questions of people (REQUEST → RESPONSE), answered from the daemon's tables or by asking all processes
(QUERY → ANSWER).

- status: this node: resources, workers, demands that wait and why, jobs, store; the head and its nodes
- nodes: the node table (the head's, or this node alone)
- memory: {"stats", "rows", "left_out"}: what the store holds, and who holds it
- workers, jobs, actors: a row for each
- tasks, objects: a row for each, as its owner knows it
- metrics: {"pid", "metrics"} of each process that has any (shoal.util.metrics)
- stack: {"pid", "threads"} of each process (shoal.client.stacks)
- figures: a row of what this node counts (node.figures)
- ping: {"rows": [{"node_id"}…], "silent": [node ids]}: which other nodes answer over their links
- why {"id": hex}: what a task or object waits for (node.why)
- groups: a row for each placement group of the cluster; group {"name", "namespace"}: the row of that name
- cluster_resources, available_resources: {name: amount}, as floats
- logs_dir: where worker output is kept; job_folders: where "records" and "logs" of submitted jobs are, on the head's node
- drain {"node": id, its beginning, or name}: the head takes that node out of scheduling
- stop: end this daemon

Answers to tasks, objects, metrics, figures, stack and why: {"rows": […], "silent": [processes that did not answer within
query_ms_max]}. With the parameter {"cluster": true} these, memory, workers, jobs, actors and status are about all nodes
(node.questions): rows are joined, memory has {"nodes": [an answer of each], "silent"}; why always is.
"""

from __future__ import annotations

import itertools
import os
from typing import TYPE_CHECKING, Any

from shoal.ids import OBJECT_ID_SIZE
from shoal.wire import messages as m
from shoald.node.figures import Figures
from shoald.node.leases import floats
from shoald.node.pool import LEASED, Worker
from shoald.node.questions import Questions
from shoald.node.timelines import Timelines
from shoald.node.why import Why
from shoald.store.errors import ProtocolError

if TYPE_CHECKING:
    from collections.abc import Callable

    from shoald.node.clients import Client
    from shoald.node.daemon import NodeDaemon
    from shoald.shell.loop import Timer

    Answerer = Callable[[dict[str, Any], "Reply"], None]

Reply = Any  # Callable[[bool, Any], None]: whether it could be answered, and the answer or why not


_EVERYWHERE = (
    "memory",
    "workers",
    "jobs",
    "actors",
    "tasks",
    "objects",
    "timeline",
    "stack",
    "metrics",
    "figures",
)


class _Query:
    """A question under way to all processes."""

    __slots__ = ("pending", "reply", "rows", "timer")

    def __init__(self, pending: dict[bytes, str], reply: Reply) -> None:
        self.pending = pending
        self.rows: list[dict[str, Any]] = []
        self.reply = reply
        self.timer: Timer | None = None


class Requests:
    """Answers for one daemon."""

    def __init__(self, daemon: NodeDaemon) -> None:
        self._daemon = daemon
        self._queries: dict[int, _Query] = {}
        self._number = itertools.count(1).__next__
        self.questions = Questions(daemon, self._answer_here)
        self.timelines = Timelines(daemon.node_id, daemon.config.timeline_kept_bytes_max)
        self.figures = Figures(daemon, self._ask_all)
        self._methods: dict[str, Answerer] = {
            "status": self._status,
            "nodes": self._nodes,
            "memory": self._memory,
            "workers": lambda _, reply: reply(True, {"rows": self._worker_rows()}),
            "jobs": lambda _, reply: reply(True, {"rows": self._job_rows()}),
            "tasks": lambda params, reply: self._ask_all("tasks", params, reply),
            "objects": lambda params, reply: self._ask_all("objects", params, reply),
            "timeline": self._timeline,
            "metrics": lambda params, reply: self._ask_all("metrics", params, reply),
            "figures": self.figures.answer,
            "stack": lambda params, reply: self._ask_all("stack", params, reply),
            "shortage": lambda _, reply: reply(
                True, {"lines": daemon.store.shortage_lines(daemon.loop.now())}
            ),
            "why": Why(daemon, self.ask, self.questions).answer,
            "why here": Why(daemon, self.ask, None).answer,
            "node": lambda _, reply: reply(True, self._own_row()),
            "actors": lambda _, reply: reply(True, {"rows": self._actor_rows()}),
            "groups": lambda _, reply: daemon.groups.rows(reply),
            "cluster_resources": lambda _, reply: self._resources("resources", reply),
            "available_resources": lambda _, reply: self._resources("available", reply),
            "logs_dir": lambda _, reply: reply(True, daemon.session.logs_dir),
            "job_folders": lambda _, reply: reply(True, self._job_folders()),
            "ping": self._ping,
            "drain": self._drain,
            "stop": self._stop,
        }

    def handle(self, client: Client, message: list[Any]) -> None:
        """A REQUEST; raises ProtocolError if it is none."""
        if len(message) != 4 or type(message[1]) is not int or type(message[3]) is not dict:
            raise ProtocolError("a request needs a number, a method and parameters")
        _, number, method, params = message
        answer = self._methods.get(method) if type(method) is str else None

        def reply(ok: bool, data: Any) -> None:
            client.sock.send([m.RESPONSE, number, ok, data])

        if method == "named_actor" and client.proc:  # these two depend on who asks
            self._daemon.actors.named(client, params, reply)
        elif method == "named_actors" and client.proc:
            self._daemon.actors.list_named(client, params, reply)
        elif method == "group" and client.proc:
            self._daemon.groups.find(client, params, reply)
        elif answer is None:
            known = ", ".join(sorted(self._methods))
            reply(False, f"this daemon has no method {method!r}; it has {known}")
        elif params.get("cluster") and method in _EVERYWHERE:
            self.questions.everywhere(method, params, reply)
        else:
            answer(params, reply)

    def _answer_here(self, method: str, params: dict[str, Any], reply: Reply) -> None:
        """A question that is put to all nodes, as far as this one can answer it."""
        if method in _EVERYWHERE or method in ("why here", "node"):
            self._methods[method](params, reply)
        else:
            reply(False, f"{method!r} is not asked of other nodes")

    # --- this node ---

    def _status(self, params: dict[str, Any], reply: Reply) -> None:
        daemon = self._daemon
        pool, scheduler = daemon.scheduler.pool, daemon.scheduler
        status = {
            **daemon.facts(),
            "uptime_s": daemon.loop.now() - daemon.started,
            "resources": floats(scheduler.ledger.total),
            "available": floats(scheduler.available()),
            "oversubscribed": floats(scheduler.ledger.oversubscribed()),
            "workers": pool.counts(),
            "pending": self._pending_rows(),
            "jobs": self._job_rows(),
            "groups": daemon.groups.core.rows(daemon.loop.now())[: daemon.config.rows_max],
            "installing": self._installing(),
            "counters": dict(scheduler.counters),
            "store": daemon.store.stats(),
            "head": {"address": daemon.address, "trouble": daemon.head_trouble},
        }

        def with_nodes(nodes: list[Any]) -> None:
            if not params.get("cluster"):
                reply(True, {**status, "nodes": nodes})
                return

            def heard(answers: list[tuple[str, Any]], silent: list[str]) -> None:
                fresh = {
                    daemon.node_id: self._own_row(),
                    **dict(answers),
                }  # the head's are as of their last reports
                table = [{**row, **fresh.get(row["node_id"], {}), **_states(row)} for row in nodes]
                reply(True, {**status, "nodes": table, "silent": silent})

            self.questions.others("node", {}, heard)

        self._node_table(with_nodes)

    def _pending_rows(self) -> list[dict[str, Any]]:
        rows = self._daemon.scheduler.pending(self._daemon.loop.now())
        for row in rows:
            row["resources"] = floats(row["resources"])
            row["submitter"] = self._daemon.name_of(row.pop("proc"))
        return rows[: self._daemon.config.rows_max]

    def _actor_rows(self) -> list[dict[str, Any]]:
        daemon = self._daemon
        return daemon.actors.core.rows(daemon.loop.now())[: daemon.config.rows_max]

    def _job_folders(self) -> dict[str, str]:
        """Where records and logs of submitted jobs lie: with the head's state, if that outlives it."""
        daemon = self._daemon
        if daemon.options.data_dir:
            durable = os.path.join(daemon.options.data_dir, "jobs")
            return {"records": durable, "logs": durable}
        return {"records": os.path.join(daemon.session.path, "jobs"), "logs": daemon.session.logs_dir}

    def _installing(self) -> list[str]:
        """What tasks that have a worker wait for there, once for each environment."""
        now = self._daemon.loop.now()
        found = {
            (worker.job, worker.env): f"{worker.installing(now)} (worker {worker.pid})"
            for worker in self._daemon.scheduler.pool.in_state(LEASED)
            if worker.note.get("installing")
        }
        return list(found.values())

    def _worker_rows(self) -> list[dict[str, Any]]:
        return [self._worker_row(worker) for worker in self._daemon.scheduler.pool.workers.values()]

    def _worker_row(self, worker: Worker) -> dict[str, Any]:
        daemon = self._daemon
        lease = daemon.scheduler.leases.get(worker.lease_id)
        current = daemon.board.current(worker.slot)
        if daemon.actors.is_itself(worker.worker_id, current):
            current = bytes(OBJECT_ID_SIZE)
        return {
            "worker_id": worker.worker_id.hex(),
            "pid": worker.pid,
            "node_id": daemon.node_id,
            "state": worker.state,
            "since_s": daemon.loop.now() - worker.since,
            "job": worker.job,
            "lease": worker.lease_id,
            "submitter": daemon.name_of(lease.demand.client.proc) if lease is not None else "",
            "resources": floats(lease.demand.resources) if lease is not None else {},
            "reason": worker.reason,
            "why": lease.why if lease is not None else "",
            "task_id": current.hex(),
            "note": worker.note,
            "installing": worker.installing(daemon.loop.now()),
        }

    def _job_rows(self) -> list[dict[str, Any]]:
        return [
            {
                "job_id": job.job_id,
                "pid": job.driver.pid,
                "node_id": self._daemon.node_id,
                "entrypoint": str(job.info.get("argv0") or ""),
                "namespace": job.namespace,
                "started_s": job.started_s,
                "workers": len(self._daemon.scheduler.pool.of_job(job.job_id)),
            }
            for job in self._daemon.jobs.values()
        ]

    def _memory(self, params: dict[str, Any], reply: Reply) -> None:
        daemon = self._daemon
        rows = daemon.store.rows(daemon.loop.now()) if params.get("rows", True) else []
        bound = daemon.config.rows_max
        left_out = max(0, len(rows) - bound)
        if left_out:
            rows = sorted(rows, key=lambda row: -row["size_bytes"])[:bound]
        for row in rows:
            daemon.name_holders(row)
        answer = {
            "node_id": daemon.node_id,
            "stats": {**daemon.store.stats(), **(daemon.objects.stats() if daemon.objects else {})},
            "rows": rows,
            "left_out": left_out,
        }
        reply(True, answer)

    def _stop(self, _params: dict[str, Any], reply: Reply) -> None:
        reply(True, "stopping")
        self._daemon.log.line("asked to stop")
        self._daemon.loop.call_later(0, self._daemon.stop)

    # --- the cluster ---

    def _node_table(self, then: Callable[[list[Any]], None]) -> None:
        """The head's node table, or if it does not answer, this node alone."""
        own = self._own_row()
        if not self._daemon.address or self._daemon.head_trouble or self._daemon.head.rests:
            then([own])
            return
        waits = True

        def answered(ok: bool, data: Any) -> None:
            nonlocal waits
            if waits:
                waits = False
                timer.cancel()
                then([plain(row) for row in data.get("nodes", [])] if ok else [own])

        # A link waits longer for its head than people wait for an answer.
        timer = self._daemon.loop.call_later(
            self._daemon.config.query_ms_max / 1000, lambda: answered(False, None)
        )
        self._daemon.head.call("GetCluster", {}, answered)

    def _own_row(self) -> dict[str, Any]:
        daemon = self._daemon
        row = {"node_id": daemon.node_id, "state": "ALIVE", "reason": "", "draining": False}
        row["hosts_head"] = daemon.options.head
        return plain({**row, **daemon.registration(), **daemon.gauges()})

    def _nodes(self, _params: dict[str, Any], reply: Reply) -> None:
        self._node_table(lambda nodes: reply(True, {"rows": nodes}))

    def _resources(self, which: str, reply: Reply) -> None:
        def add_up(nodes: list[Any]) -> None:
            total: dict[str, float] = {}
            for node in nodes:
                amounts = node[which]
                if node["node_id"] == self._daemon.node_id:  # its own figures are fresher than the head's
                    scheduler = self._daemon.scheduler
                    amounts = floats(
                        scheduler.ledger.total if which == "resources" else scheduler.available()
                    )
                if node["state"] == "ALIVE":
                    for name, amount in amounts.items():
                        total[name] = total.get(name, 0.0) + amount
            reply(True, total)

        self._node_table(add_up)

    def _ping(self, _params: dict[str, Any], reply: Reply) -> None:
        """Ask every other node for a sign of life, through this node's link to it and its link back."""
        daemon = self._daemon
        waiting = set(daemon.cluster.live)
        rows: list[dict[str, Any]] = []
        began = daemon.loop.now()

        def finish() -> None:
            timer.cancel()
            reply(True, {"rows": rows, "silent": sorted(waiting)})

        def answered(node_id: str) -> None:
            if node_id in waiting:
                waiting.discard(node_id)
                rows.append({"node_id": node_id, "ms": 1000 * (daemon.loop.now() - began)})
                if not waiting:
                    finish()

        timer = daemon.loop.call_later(daemon.config.query_ms_max / 1000, finish)
        for node_id in list(waiting):
            daemon.peers.ping(node_id, answered)
        if not waiting:
            finish()

    def _drain(self, params: dict[str, Any], reply: Reply) -> None:
        wanted = str(params.get("node") or "")

        def chosen(nodes: list[Any]) -> None:
            living = [node for node in nodes if node["state"] != "DEAD"]
            found = [
                node
                for node in living
                if wanted and (node["node_id"].startswith(wanted) or node["name"] == wanted)
            ]
            if len(found) != 1:
                what = "several nodes are" if found else "no node is"
                reply(
                    False,
                    f"{what} called {wanted!r}: say the beginning of an id, or a name, of `shoal list nodes`",
                )
                return
            node_id = found[0]["node_id"]
            question = {"node_id": node_id, "reason": "an operator drains it"}
            self._daemon.head.call(
                "DrainNode", question, lambda ok, answer: reply(ok, node_id if ok else answer)
            )

        self._node_table(chosen)

    # --- all processes ---

    def ask(self, procs: list[bytes], what: str, params: dict[str, Any], reply: Reply) -> None:
        """Put a QUERY to some connected processes; ``reply`` gets what they answer within query_ms_max, or what another node
        that asks has left of it.
        """
        daemon = self._daemon
        wait_s = params.get("limits", {}).get("wait_s", daemon.config.query_ms_max / 1000)
        number = self._number()
        query = self._queries[number] = _Query({proc: daemon.name_of(proc) for proc in procs}, reply)
        for proc in procs:
            daemon.clients[proc].sock.send([m.QUERY, number, what, params])
        query.timer = daemon.loop.call_later(wait_s, lambda: self._finish(number))
        if not procs:
            self._finish(number)

    def _ask_all(self, what: str, params: dict[str, Any], reply: Reply) -> None:
        clients = self._daemon.clients
        self.ask([proc for proc, client in clients.items() if client.kind != "cli"], what, params, reply)

    def _timeline(self, params: dict[str, Any], reply: Reply) -> None:
        """What ran on this node, of processes that have ended too."""

        def joined(ok: bool, data: Any) -> None:
            reply(ok, {**data, "rows": self.timelines.rows() + data["rows"]} if ok else data)

        self._ask_all("timeline", params, joined)

    def answered(self, client: Client, message: list[Any]) -> None:
        """An ANSWER; one that comes too late is dropped."""
        if len(message) != 3:
            raise ProtocolError("an answer needs a number and data")
        query = self._queries.get(message[1]) if type(message[1]) is int else None
        if query is None or client.proc not in query.pending:
            return
        name, data = query.pending.pop(client.proc), message[2]
        given = data if isinstance(data, list) else []
        where = {"process": name, "proc": client.proc.hex(), "node_id": self._daemon.node_id}
        rows = [{**row, **where} for row in given if isinstance(row, dict)]
        query.rows += rows[: max(0, self._daemon.config.rows_max - len(query.rows))]
        if not query.pending:
            self._finish(message[1])

    def client_left(self, proc: bytes) -> None:
        """A process is gone: nobody waits for its answers, and what it has counted stays."""
        self.figures.tallies.gone(proc)
        for number, query in list(self._queries.items()):
            if query.pending.pop(proc, None) is not None and not query.pending:
                self._finish(number)

    def _finish(self, number: int) -> None:
        query = self._queries.pop(number, None)
        if query is not None:
            if query.timer is not None:
                query.timer.cancel()
            query.reply(True, {"rows": query.rows, "silent": sorted(query.pending.values())})


def _states(row: dict[str, Any]) -> dict[str, Any]:
    """What the head alone knows of a node."""
    return {key: row[key] for key in ("state", "reason", "draining") if key in row}


def plain(row: dict[str, Any]) -> dict[str, Any]:
    """A node as the head's table has it (codec.node_dict), with resources as people write them."""
    pending = [{**demand, "resources": floats(demand["resources"])} for demand in row["pending"]]
    return {
        **row,
        "resources": floats(row["resources"]),
        "available": floats(row["available"]),
        "pending": pending,
    }

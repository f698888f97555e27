"""Placement groups as the daemon's shell handles them: messages to the core, its effects to sockets and to the head. Decides
nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from shoal.option_checks import UNITS
from shoal.wire import messages as m
from shoald.node.groups import GroupCore
from shoald.shell.carrying import carry_out
from shoald.store.errors import ProtocolError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from shoald.node.clients import Client
    from shoald.node.daemon import NodeDaemon
    from shoald.node.requests import Reply


class GroupSide:
    """The placement groups of one daemon."""

    def __init__(self, daemon: NodeDaemon) -> None:
        self._daemon = daemon
        options = daemon.options
        has_head = options.head or bool(options.head_address)
        self.core = GroupCore(daemon.scheduler, daemon.config, daemon.node_id, has_head)

    # --- messages of processes ---

    def handle(self, client: Client, message: list[Any], now: float) -> None:
        """A message about placement groups; raises ProtocolError if it makes no sense."""
        try:
            if message[0] == m.CREATE_GROUP:
                _, req, group_id, info = message
                if type(req) is not int or type(info) is not dict:
                    raise ProtocolError("a placement group is described by a dictionary")
                info["namespace"] = info.get("namespace") or self._daemon.actors.namespace_of(client)
                self.core.create(client.proc, client.job_id, group_id, info, req, now)
            elif message[0] == m.REMOVE_GROUP:
                _, group_id = message
                self.core.remove(group_id, now)
            else:
                _, group_id = message
                self.core.watch(client.proc, group_id, now)
        except (TypeError, ValueError) as error:
            raise ProtocolError(f"message {message[0]} has wrong fields: {error}") from None

    # --- events of the daemon ---

    def turn(self, now: float) -> float | None:
        """Before each round of decisions. Returns when to look again."""
        return self.core.turn(now)

    def head_says(self, message: dict[str, Any]) -> None:
        """A "registered", "disconnected" or "groups" of the link."""
        now = self._daemon.loop.now()
        if message["kind"] == "registered":
            self.core.connected(now)
        elif message["kind"] == "groups":
            self.core.ordered(message["orders"], now)
            self.core.states(message["states"], now)
        else:
            self.core.disconnected()
        self.flush()

    def flush(self) -> None:
        """Carry out what the core has decided."""
        if self.core.outbox:
            carry_out(self.core.outbox, self._carry_out)

    def _carry_out(self, effect: tuple[Any, ...]) -> None:
        daemon = self._daemon
        if effect[0] == "news":
            daemon.head.tell_groups(effect[1])
        elif effect[0] == "head":
            daemon.head.wake()
        elif effect[0] == "end":
            daemon.actors.end_for_good(effect[1], effect[2])
        else:
            client = daemon.clients.get(effect[1])
            if client is not None:
                client.sock.send(effect[2])

    # --- questions ---

    def rows(self, reply: Reply) -> None:
        """{"rows"} of all groups: the head's, with what this node knows better."""
        own = {row["group_id"]: row for row in self._own_rows()}

        def answered(ok: bool, data: Any) -> None:
            rows = dict(own)
            for state in data["groups"] if ok else ():
                row = _row(state)
                known = rows.get(row["group_id"])
                if known is None and bytes.fromhex(row["group_id"]) in self.core.gone:
                    row["state"] = "REMOVED"
                if known is None or known["state"] == row["state"]:
                    rows[row["group_id"]] = row
            reply(True, {"rows": list(rows.values())[: self._daemon.config.rows_max]})

        self._ask("ListGroups", {}, answered)

    def _own_rows(self) -> list[dict[str, Any]]:
        """Rows of what this node knows, with amounts as people give them."""
        rows = self.core.rows(self._daemon.loop.now())
        return [{**row, "bundles": [_plain(amounts) for amounts in row["bundles"]]} for row in rows]

    def find(self, client: Client, params: dict[str, Any], reply: Reply) -> None:
        """The group of a name."""
        name = str(params.get("name"))
        namespace = str(params.get("namespace") or self._daemon.actors.namespace_of(client))
        for row in self._own_rows():
            if (row["name"], row["namespace"]) == (name, namespace):
                reply(True, row)
                return

        def answered(ok: bool, data: Any) -> None:
            if ok and data["known"]:
                reply(True, _row(data["group"]))
            else:
                reason = "" if ok else f" ({data})"
                reply(False, f"there is no placement group named {name!r} in namespace {namespace!r}{reason}")

        self._ask("FindGroup", {"name": name, "namespace": namespace}, answered)

    def _ask(self, method: str, params: dict[str, Any], answered: Any) -> None:
        daemon = self._daemon
        if not daemon.address or daemon.head_trouble:
            answered(False, daemon.head_trouble or "no head")
        else:
            daemon.head.call(method, params, answered)

    def why(self, wanted: str) -> list[dict[str, Any]]:
        """What `why` says of groups whose id begins like this."""
        found = []
        for row in self.core.rows(self._daemon.loop.now()):
            if row["group_id"].startswith(wanted):
                line = f"placement group {row['group_id']} ({row['strategy']}) is {row['state']}"
                line += f": {row['reason']}" if row["reason"] else ""
                nodes = ", ".join(node_id[:8] or "-" for node_id in row["nodes"])
                lines = [line, f"  bundles on nodes {nodes}"]
                found.append({"process": "placement groups", "node_id": self._daemon.node_id, "lines": lines})
        return found


def _plain(amounts: Mapping[str, int]) -> dict[str, float]:
    """Amounts in units of 1/10,000 as they were asked for: 2, or 0.5."""
    return {name: units / UNITS if units % UNITS else units // UNITS for name, units in amounts.items()}


def _row(state: dict[str, Any]) -> dict[str, Any]:
    """A GroupState of the head as a row of `GroupCore.rows`."""
    group = state["group"]
    return {
        "group_id": group["group_id"].hex(),
        **{key: group[key] for key in ("name", "namespace", "strategy", "detached", "job_id")},
        "bundles": [_plain(bundle["resources"]) for bundle in group["bundles"]],
        "nodes": list(state["nodes"]),
        "state": state["state"],
        "reason": state["reason"],
        "since_s": 0.0,
    }

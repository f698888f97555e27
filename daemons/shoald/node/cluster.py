"""The other nodes of the cluster, as the head tells of them. Pure.

    (unknown) → ALIVE ⇄ SUSPECTED → DEAD

This node is not in the view, and the head alone decides who is dead. What the view knows may be old: whoever acts on it
must do without.

Invariants: a node id has one entry, of its newest incarnation; a dead one never lives again; `live` has the entries that
are not dead. At most `dead_nodes_max` dead ones are remembered. Who may be given something new is asked at every decision, and
changes rarely: the answer is kept until it does, so that a node among thousands does not look at all of them each time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from shoal.ids import node_tag

if TYPE_CHECKING:
    from collections.abc import Iterable

ALIVE, SUSPECTED, DEAD = "ALIVE", "SUSPECTED", "DEAD"
# What `update` says of a node.
JOINED, DIED, CHANGED = "joined", "dead", "changed"


class Node:
    """Another node.

    Attributes:
        address: "host:port" of its data listener, the host as a number; "" if it has none.
        resources, available: in units of 1/10,000; in all, and free as of the last gauges.
        pending: its waiting demands, as codec.node_dict has them; `waiting`: leases that they wait for, newer.
        avoided: this node asks nothing of it for now.
    """

    __slots__ = (
        "address", "available", "avoided", "draining", "hostname", "incarnation", "labels", "name", "node_id", "pending",
        "reason", "resources", "state", "store_capacity", "store_used", "tag", "waiting",
    )  # fmt: skip

    def __init__(self, row: dict[str, Any]) -> None:
        self.node_id: str = row["node_id"]
        self.tag = node_tag(self.node_id)
        self.incarnation: str = row["incarnation"]
        self.avoided = False
        self.take(row)

    def take(self, row: dict[str, Any]) -> None:
        """What the head says now."""
        self.address: str = row.get("address", "")
        self.hostname: str = row.get("hostname", "")
        self.name: str = row.get("name", "")
        self.state: str = row["state"]
        self.reason: str = row.get("reason", "")
        self.draining: bool = bool(row.get("draining"))
        self.labels: dict[str, str] = row.get("labels", {})
        self.resources: dict[str, int] = row.get("resources", {})
        self.take_gauges(row)

    def take_gauges(self, row: dict[str, Any]) -> None:
        """How it is now."""
        self.available: dict[str, int] = row.get("available", {})
        self.store_used: int = row.get("store_used_bytes", 0)
        self.store_capacity: int = row.get("store_capacity_bytes", 0)
        self.pending: list[dict[str, Any]] = row.get("pending", [])
        self.waiting: int = sum(demand["count"] for demand in self.pending)

    def __str__(self) -> str:
        """For people."""
        where = self.name or self.hostname
        return f"node {self.node_id[:8]}" + (f" ({where})" if where else "")

    def __repr__(self) -> str:
        return f"<node {self.node_id} {self.state} at {self.address}>"


class ClusterView:
    """The nodes beside this one.

    Attributes:
        nodes: all that are known, by node id; remembered dead ones too.
        live: those that are not dead. Empty for a node that is alone.
    """

    def __init__(self, own_node_id: str, dead_nodes_max: int) -> None:
        self.own_node_id = own_node_id
        self.nodes: dict[str, Node] = {}
        self.live: dict[str, Node] = {}
        self._dead_max = dead_nodes_max
        self._dead: dict[str, None] = {}  # in the order of their deaths
        self._by_tag: dict[bytes, dict[str, Node]] = {}
        self._alive: list[Node] | None = None  # what `alive` says; None after a change

    def alive(self) -> list[Node]:
        """The nodes that may be given something new. The list is the view's own: nobody changes it."""
        if self._alive is None:
            self._alive = [
                node
                for node in self.live.values()
                if node.state == ALIVE and not node.draining and not node.avoided
            ]
        return self._alive

    def avoid(self, node: Node, yes: bool) -> None:
        """Whether this node asks nothing of another one for now."""
        node.avoided = yes
        self._alive = None

    def by_tag(self, tag: bytes) -> list[Node]:
        """The living nodes with this tag; mostly one, or none."""
        return list(self._by_tag[tag].values()) if tag in self._by_tag else []

    def named(self, tag: bytes) -> list[str]:
        """Their ids."""
        return list(self._by_tag.get(tag, ()))

    def died(self, tag: bytes) -> Node | None:
        """A node with this tag that is known to be dead, if no living one has it."""
        if tag in self._by_tag:
            return None
        return next((self.nodes[node_id] for node_id in self._dead if self.nodes[node_id].tag == tag), None)

    def update(self, rows: Iterable[dict[str, Any]]) -> list[tuple[Node, str]]:
        """Take in nodes as the head sends them (codec.node_dict). Returns what became of which, in order."""
        changes: list[tuple[Node, str]] = []
        self._alive = None
        for row in rows:
            if row["node_id"] != self.own_node_id:
                self._take(row, changes)
        return changes

    def update_gauges(self, rows: Iterable[dict[str, Any]]) -> None:
        """Take in what nodes have free (NodeGauges in head.proto); those that are not known, or dead, are passed over."""
        for row in rows:
            node = self.live.get(row["node_id"])
            if node is not None:
                node.available = row["available"]
                node.store_used = row["store_used_bytes"]
                node.waiting = row["waiting"]

    def _take(self, row: dict[str, Any], changes: list[tuple[Node, str]]) -> None:
        node = self.nodes.get(row["node_id"])
        if node is not None and node.incarnation != row["incarnation"]:
            if row["state"] == DEAD:
                return  # an older life of a node that has begun another
            if node.state != DEAD:
                self.bury(node, "replaced by a newer daemon")
                changes.append((node, DIED))
            self._dead.pop(node.node_id, None)
            node = None
        if node is None:
            self._add(Node(row), changes)
        elif node.state == DEAD:
            return
        elif row["state"] == DEAD:
            self.bury(node, row.get("reason", ""))
            changes.append((node, DIED))
        else:
            node.take(row)
            changes.append((node, CHANGED))

    def _add(self, node: Node, changes: list[tuple[Node, str]]) -> None:
        self.nodes[node.node_id] = node
        if node.state == DEAD:  # before this node came
            self._remember(node)
            return
        self.live[node.node_id] = node
        self._by_tag.setdefault(node.tag, {})[node.node_id] = node
        changes.append((node, JOINED))

    def bury(self, node: Node, reason: str) -> None:
        """A living node is dead."""
        node.state, node.reason = DEAD, reason
        self._alive = None
        node.available, node.pending, node.waiting = {}, [], 0
        del self.live[node.node_id]
        same = self._by_tag[node.tag]
        del same[node.node_id]
        if not same:
            del self._by_tag[node.tag]
        self._remember(node)

    def _remember(self, node: Node) -> None:
        self._dead[node.node_id] = None
        while len(self._dead) > self._dead_max:
            oldest = next(iter(self._dead))
            del self._dead[oldest]
            del self.nodes[oldest]

    def validate(self) -> None:
        """Raise AssertionError if an invariant is broken."""
        assert self.own_node_id not in self.nodes
        assert self.live.keys() | self._dead.keys() == self.nodes.keys(), (self.live, self._dead)
        assert not self.live.keys() & self._dead.keys()
        assert len(self._dead) <= self._dead_max
        known, self._alive = self._alive, None
        assert known in (None, self.alive()), known
        for node_id, node in self.nodes.items():
            assert node.node_id == node_id
            assert (node.state == DEAD) == (node_id in self._dead), node
        tagged = {node_id: node for same in self._by_tag.values() for node_id, node in same.items()}
        assert tagged == self.live, (tagged, self.live)

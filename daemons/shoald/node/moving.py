"""What a node that leaves has the only copy of goes to other nodes first.

It names the objects, each to the node with most room (P_TAKE). That one fetches them like any reader does, keeps its copies as
primary ones, and says so as soon as the head knows of them (P_TAKEN): only then may the leaving node go, or the head would take
them for lost. Objects that other nodes know nothing of go with the processes that hold them. What cannot be fetched is
told as taken too, with a log line: there is nothing to wait for. What a node has taken, or was to take, when it dies
goes to the others, for as long as this node lives: it keeps its own copies to the end. Bounded by whoever waits (`drain_ms_max`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from shoal.ids import PROCESS_ID_SIZE, split_ids
from shoal.wire import messages as m
from shoald.node.fields import checked

if TYPE_CHECKING:
    from shoald.node.daemon import NodeDaemon

# The process, for the store, that has objects of leaving nodes fetched. Not with a zero in front: those are the object manager's.
KEEPER = b"!moving!"
assert len(KEEPER) == PROCESS_ID_SIZE
_IDS_MAX = 16_384  # in one message


class Moving:
    """Objects on their way out of one node, and into it.

    Attributes:
        given_at: when objects were last given to others; 0.0 before.
    """

    def __init__(self, daemon: NodeDaemon) -> None:
        self._daemon = daemon
        self._away: dict[str, dict[bytes, int]] = {}  # by node: what it has not taken yet, and its size
        self._takers: dict[bytes, str] = {}  # what was taken, and by which node
        self._begun = False
        self.given_at = 0.0
        self._coming: dict[bytes, str] = {}  # id → the node that leaves
        daemon.store.register(KEEPER, {"pid": 0, "kind": "objects of leaving nodes", "job_id": ""})
        daemon.peers.on(m.P_TAKE, self._take)
        daemon.peers.on(m.P_TAKEN, self._taken)
        daemon.on_node_dead.append(self._node_died)

    # --- out ---

    def begin(self) -> None:
        """Give away what only this node has."""
        self._begun = True
        self._give()

    @property
    def over(self) -> bool:
        """Whether all that was given away was taken, or nobody is left to take it."""
        return not any(self._away.values())

    def _give(self) -> None:
        """All that no other node has, and none was asked to take, goes to those with most room."""
        daemon = self._daemon
        asked = set().union(*self._away.values())
        room = {
            node.node_id: node.store_capacity
            - node.store_used
            - sum(self._away.get(node.node_id, {}).values())
            for node in daemon.cluster.alive()
        }
        given: dict[str, list[bytes]] = {}
        for object_id, size in daemon.store.known_elsewhere() if room else ():
            if object_id in asked or object_id in self._takers:
                continue
            node_id = max(room, key=lambda each: room[each])
            room[node_id] -= size
            given.setdefault(node_id, []).append(object_id)
            self._away.setdefault(node_id, {})[object_id] = size
        if given:
            self.given_at = daemon.loop.now()
        for node_id, ids in given.items():
            daemon.log.line(f"{len(ids)} objects go to node {node_id[:8]}")
            for start in range(0, len(ids), _IDS_MAX):
                daemon.peers.send(node_id, [m.P_TAKE, b"".join(ids[start : start + _IDS_MAX])])

    def _taken(self, node_id: str, message: list[Any]) -> None:
        _, ids = checked(message, int, bytes)
        away = self._away.get(node_id, {})
        for object_id in split_ids(ids):
            if away.pop(object_id, None) is not None:
                self._takers[object_id] = node_id

    def _node_died(self, node_id: str, _reason: str) -> None:
        self._away.pop(node_id, None)
        for object_id in [each for each, giver in self._coming.items() if giver == node_id]:
            del self._coming[object_id]
        for object_id in [each for each, taker in self._takers.items() if taker == node_id]:
            del self._takers[object_id]
        if self._begun:
            self._give()  # what it had taken, or was to take, is for the others

    # --- in ---

    def _take(self, node_id: str, message: list[Any]) -> None:
        """P_TAKE: another node leaves."""
        _, ids = checked(message, int, bytes)
        store, now = self._daemon.store, self._daemon.loop.now()
        for object_id in split_ids(ids):
            self._coming[object_id] = node_id
            store.hint(object_id, node_id)
            store.handle(KEEPER, [m.WATCH, object_id, b"", 0, m.PRIORITY_WAIT], now)

    def told(self, message: list[Any]) -> None:
        """AVAILABLE for the keeper: a copy is here, or there will be none."""
        _, object_id, _, _, problem = message
        node_id = self._coming.pop(object_id, "")
        if problem:
            self._daemon.log.line(
                f"an object of node {node_id[:8]}, which leaves, was not taken over: {problem}"
            )
        self._daemon.store.promote(object_id)
        refs = self._daemon.refs
        if refs is not None and node_id:
            refs.when_known(lambda: self._daemon.peers.send(node_id, [m.P_TAKEN, object_id]))

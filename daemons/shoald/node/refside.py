"""References across nodes, as the daemon's shell handles them: between `ClusterRefs`, the links to other nodes, and the head."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from shoal.wire import messages as m
from shoald.objects.cluster_refs import ClusterRefs

if TYPE_CHECKING:
    from collections.abc import Callable

    from shoald.node.cluster import Node
    from shoald.node.daemon import NodeDaemon


class RefSide:
    """One daemon's side of references that other nodes have to do with; a node that is alone has none."""

    def __init__(self, daemon: NodeDaemon) -> None:
        self._daemon = daemon
        self._core = ClusterRefs(daemon.store)
        for tag in (m.P_HOLD, m.P_SEALED, m.P_HELD):
            daemon.peers.on(tag, self._from_node)
        daemon.peers.before_send = self._hand_over
        daemon.on_node_dead.append(self._node_dead)

    def joined(self, node: Node) -> None:
        """There is another node; called before anything of it is heard."""
        self._core.joined(node.node_id)

    def _from_node(self, node_id: str, message: list[Any]) -> None:
        self._core.handle(node_id, message)
        located, self._core.located = self._core.located, []
        for object_id, where, size, flags in located:
            self._daemon.store.located(object_id, where, size, flags)

    def _node_dead(self, node_id: str, _reason: str) -> None:
        daemon = self._daemon
        self._core.died(node_id)
        daemon.loop.call_later(daemon.config.directory_grace_ms / 1000, lambda: self._forget(node_id))
        for client in daemon.clients.values():
            if client.kind != "cli":
                client.sock.send([m.NODE_DIED, node_id])

    def _forget(self, node_id: str) -> None:
        self._core.forget(node_id, self._daemon.loop.now())

    def turn(self) -> None:
        """The end of a turn of the daemon."""
        core, daemon = self._core, self._daemon
        changes = core.turn()
        if changes:
            number = core.reported
            daemon.head.report({"changes": changes}, lambda: core.confirmed(number))
        self._send()

    def _hand_over(self) -> None:
        """No message overtakes the holds of what was handed over before it: not the answer that it is there, nor a death."""
        if self._core.has_news:
            self._core.hand_over()
            self._send()

    def _send(self) -> None:
        outbox = self._core.outbox
        if outbox:
            self._core.outbox = []
            for node_id, message in outbox:
                self._daemon.peers.send(node_id, message)

    def when_known(self, then: Callable[[], None]) -> None:
        """See `ClusterRefs.when_known`."""
        self._core.when_known(then)

    # --- the head ---

    def snapshot(self) -> dict[str, Any]:
        """What of a report is about objects, when it is all there is."""
        return self._core.snapshot()

    def free(self, object_ids: list[bytes]) -> None:
        """The head knows of nobody who holds these."""
        self._core.free(object_ids)

    def lost(self, object_ids: list[bytes]) -> None:
        """The head knows of no copy of these, and that this node holds them."""
        self._daemon.store.lost(object_ids)

"""What nodes have free, passed on to all nodes: in batches, so that the head's messages a second are bounded. Pure.

With n nodes there is a batch at most every max(view_ms, n · view_ms_per_node), one message to each node: never more than
1000 / view_ms_per_node messages a second, however many nodes there are and however often they change. A batch has the newest
figures of up to view_rows_max nodes that changed, those that wait longest first; the others follow in the next.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from shoal.config import Config


@dataclass(frozen=True, slots=True)
class NodeGauges:
    """What a node has free, in units of 1/10,000; `waiting`: leases that its demands wait for."""

    node_id: str
    available: Mapping[str, int]
    store_used_bytes: int = 0
    waiting: int = 0


class GaugeBatches:
    """The figures that are to be passed on."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._changed: dict[str, NodeGauges] = {}  # in the order of their first change
        self._sent_at = float("-inf")

    def changed(self, gauges: NodeGauges) -> None:
        """A node said how it is now."""
        self._changed[gauges.node_id] = gauges

    def forget(self, node_id: str) -> None:
        """A node is gone."""
        self._changed.pop(node_id, None)

    def next_deadline(self, nodes: int) -> float | None:
        """When the next batch is due in a cluster of so many nodes; None while there is nothing to tell, or nobody."""
        if not self._changed or nodes < 2:
            return None
        return self._sent_at + max(self._config.view_ms, nodes * self._config.view_ms_per_node) / 1000

    def take(self, nodes: int, now: float) -> tuple[NodeGauges, ...]:
        """The batch that is due; empty if none is."""
        due = self.next_deadline(nodes)
        if due is None or now < due:
            return ()
        self._sent_at = now
        rows = list(self._changed)[: self._config.view_rows_max]
        return tuple(self._changed.pop(node_id) for node_id in rows)

"""What became of nodes, passed on to all nodes: at once while little happens, else in batches. Pure.

A thousand nodes that join together would be a million messages, if each was announced to each by itself. So after a batch the
next one waits for view_ms_per_node for each node of the cluster: never more than 1000 / view_ms_per_node messages a second. A
death waits for nothing, since tasks wait for it, and takes along what is to be told. A batch says how each node is then, so
what a node has heard by its registration, or twice, makes no difference.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from shoald.head.events import DEAD

if TYPE_CHECKING:
    from shoal.config import Config
    from shoald.head.nodes import NodeRecord


class NodeNews:
    """The nodes that all nodes are to be told of."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._records: dict[NodeRecord, None] = {}  # in the order of their first change
        self._urgent = False
        self._sent_at = float("-inf")

    def add(self, record: NodeRecord) -> None:
        """A node came, or is in another state."""
        self._records[record] = None
        self._urgent = self._urgent or record.state == DEAD

    def next_deadline(self, nodes: int) -> float | None:
        """When the next batch is due in a cluster of so many nodes; None while there is nothing to tell."""
        if not self._records:
            return None
        if self._urgent:
            return float("-inf")
        return self._sent_at + nodes * self._config.view_ms_per_node / 1000

    def due(self, nodes: int, now: float) -> bool:
        """Whether a batch is due."""
        deadline = self.next_deadline(nodes)
        return deadline is not None and deadline <= now

    def take(self, nodes: int, now: float) -> list[NodeRecord]:
        """All that there is to tell, whether it is due or not."""
        if not self._records:
            return []
        records = list(self._records)
        self._records.clear()
        self._urgent = False
        if nodes > 1:  # else there is nobody to tell
            self._sent_at = now
        return records

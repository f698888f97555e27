"""The object directory: which nodes have copies of an object, and which nodes hold references to it.

Only objects that are known on more than one node, or are about to be, are ever mentioned here. The head
counts nodes, never processes: a node says when its first process takes a reference and when its last one
drops it. Consequences are drawn after a whole batch, so that what is born and held in one batch never looks
unreferenced in between.

An object without holders is *free*: its copies may go (a proposal, since a node may just be taking a new
reference). An object with holders but without copies is *lost*, if a copy was ever known.

Invariants: an entry has a holder or a copy; both indexes (by object, by node) say the same.
"""

from __future__ import annotations

from shoald.head.events import ObjectBatch


class Entry:
    """One object: its size in bytes (0 while no copy is known), and node ids."""

    __slots__ = ("copies", "holders", "size_bytes")

    def __init__(self) -> None:
        self.size_bytes = 0
        self.copies: set[str] = set()
        self.holders: set[str] = set()


class Directory:
    """Objects that more than one node knows of."""

    def __init__(self) -> None:
        self._entries: dict[bytes, Entry] = {}
        self._by_node: dict[str, set[bytes]] = {}
        self._unheld: set[bytes] = set()  # copies without a holder: proposed to be freed, or about to be

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, object_id: bytes) -> Entry | None:
        return self._entries.get(object_id)

    @property
    def unheld(self) -> frozenset[bytes]:
        """Objects that have copies and no holder."""
        return frozenset(self._unheld)

    def apply(self, node_id: str, batch: ObjectBatch) -> tuple[list[bytes], list[bytes]]:
        """Take in what a node reports; idempotent.

        Returns:
            (objects that have copies and no holder any more, objects that are held and lost their last copy),
            among those that the batch touched.
        """
        had_copies: set[bytes] = set()
        touched: dict[bytes, None] = {}
        for object_id, size in batch.born:
            entry = self._entry(object_id, node_id)
            entry.copies.add(node_id)
            entry.size_bytes = size
            touched[object_id] = None
        for object_id in batch.hold:
            self._entry(object_id, node_id).holders.add(node_id)
            touched[object_id] = None
        for object_id in batch.release:
            if (known := self._entries.get(object_id)) is not None:
                known.holders.discard(node_id)
                touched[object_id] = None
        for object_id in batch.freed:
            if (known := self._entries.get(object_id)) is not None and node_id in known.copies:
                known.copies.discard(node_id)
                had_copies.add(object_id)
                touched[object_id] = None
        return self._settle(touched, had_copies, (node_id,))

    def replace(self, node_id: str, batch: ObjectBatch) -> tuple[list[bytes], list[bytes]]:
        """A snapshot: what was known of the node is forgotten, then the batch applies. Returns as `apply`."""
        held, copied = set(batch.hold), {object_id for object_id, _ in batch.born}
        before = self._by_node.get(node_id, set())
        gone = ObjectBatch(
            born=batch.born,
            hold=batch.hold,
            release=tuple(object_id for object_id in before if object_id not in held),
            freed=tuple(object_id for object_id in before if object_id not in copied),
        )
        return self.apply(node_id, gone)

    def forget_node(self, node_id: str) -> tuple[list[bytes], list[bytes]]:
        """The node is dead: its copies and holds are gone. Returns as `apply`."""
        return self.replace(node_id, ObjectBatch())

    def _entry(self, object_id: bytes, node_id: str) -> Entry:
        entry = self._entries.get(object_id)
        if entry is None:
            entry = self._entries[object_id] = Entry()
        self._by_node.setdefault(node_id, set()).add(object_id)
        return entry

    def _settle(
        self, touched: dict[bytes, None], had_copies: set[bytes], nodes: tuple[str, ...]
    ) -> tuple[list[bytes], list[bytes]]:
        free, lost = [], []
        for object_id in touched:
            entry = self._entries[object_id]
            for node_id in nodes:
                if node_id not in entry.copies and node_id not in entry.holders:
                    self._unindex(node_id, object_id)
            self._unheld.discard(object_id)
            if not entry.copies and not entry.holders:
                del self._entries[object_id]
            elif not entry.holders:
                self._unheld.add(object_id)
                free.append(object_id)
            elif not entry.copies and object_id in had_copies:
                lost.append(object_id)
        return free, lost

    def _unindex(self, node_id: str, object_id: bytes) -> None:
        known = self._by_node.get(node_id)
        if known is not None:
            known.discard(object_id)
            if not known:
                del self._by_node[node_id]

    def validate(self, live_nodes: set[str]) -> None:
        """Check every invariant; raises AssertionError."""
        for object_id, entry in self._entries.items():
            nodes = entry.copies | entry.holders
            assert nodes, f"{object_id.hex()} is nowhere"
            assert nodes <= live_nodes, f"{object_id.hex()} is on unknown nodes {nodes - live_nodes}"
            for node_id in nodes:
                assert object_id in self._by_node[node_id]
            assert (object_id in self._unheld) == (not entry.holders)
        for node_id, objects in self._by_node.items():
            assert objects, f"empty index of {node_id}"
            for object_id in objects:
                entry = self._entries[object_id]
                assert node_id in entry.copies or node_id in entry.holders

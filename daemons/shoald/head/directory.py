"""The object directory: which nodes have copies of an object, and which nodes hold references to it.

Only objects that are known on more than one node, or are about to be, are ever mentioned here. The head
counts nodes, never processes: a node says when its first process takes a reference and when its last one
drops it. Consequences are drawn after a whole batch, so that what is born and held in one batch never looks
unreferenced in between.

An object without holders is *free*: its copies may go (a proposal, since a node may just be taking a new
reference). One that never had a holder is *young* for a while first: of two nodes' reports the one about a copy may
be faster than the one about the hold. So is an *orphan*, one that a node held which died a moment ago: others may have
referred to it by way of that node, and have this time to say so, whoever lets go of it meanwhile. An object with holders
but without copies is *lost*, if a copy was ever known.

Invariants: an entry has a holder or a copy; both indexes (by object, by node) say the same; a young entry has copies only.
"""

from __future__ import annotations

from itertools import takewhile

from shoald.head.events import ObjectBatch


class Entry:
    """One object: its size in bytes (0 while no copy is known), node ids, and whether it was ever held."""

    __slots__ = ("copies", "held", "holders", "size_bytes")

    def __init__(self) -> None:
        self.size_bytes = 0
        self.held = False
        self.copies: set[str] = set()
        self.holders: set[str] = set()


class Directory:
    """Objects that more than one node knows of; one that was never held is free after ``grace_s`` seconds."""

    def __init__(self, grace_s: float) -> None:
        self._grace_s = grace_s
        self._young: dict[bytes, float] = {}  # id → until when, the earliest first
        self._orphans: dict[bytes, float] = {}  # the same, of what dead nodes held
        self._entries: dict[bytes, Entry] = {}
        self._by_node: dict[str, dict[bytes, None]] = {}
        self._unheld: set[bytes] = set()  # copies without a holder: proposed to be freed, or about to be

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, object_id: bytes) -> Entry | None:
        return self._entries.get(object_id)

    @property
    def unheld(self) -> frozenset[bytes]:
        """Objects that have copies and no holder."""
        return frozenset(self._unheld)

    def next_deadline(self) -> float | None:
        """When `ripe` has something to do; None if there is nothing young."""
        first = [next(iter(table.values())) for table in (self._young, self._orphans) if table]
        return min(first, default=None)

    def ripe(self, now: float) -> list[bytes]:
        """Objects that nobody has held in the time they had; told once."""
        ripe = []
        for object_id, until in self._young.items():
            if until > now:
                break
            ripe.append(object_id)
        for object_id in ripe:
            del self._young[object_id]
        grown = list(takewhile(lambda orphan: orphan[1] <= now, self._orphans.items()))
        for object_id, _ in grown:
            del self._orphans[object_id]
        return ripe

    def apply(self, node_id: str, batch: ObjectBatch, now: float) -> tuple[list[bytes], list[bytes]]:
        """Take in what a node reports; idempotent.

        Returns:
            (objects that have copies and no holder any more, objects that are held and lost their last copy),
            among those that the batch touched.
        """
        had_copies: set[bytes] = set()
        touched: dict[
            bytes, None
        ] = {}  # of which consequences are to be drawn: not what is held and was before
        entries, unheld = self._entries, self._unheld
        of_node = self._by_node.setdefault(node_id, {}) if batch.born or batch.hold else {}
        for object_id, size in batch.born:
            entry = entries.get(object_id)
            if entry is None:
                entry = entries[object_id] = Entry()
            entry.copies.add(node_id)
            entry.size_bytes = size
            of_node[object_id] = None
        for object_id in batch.hold:
            entry = entries.get(object_id)
            if entry is None:
                entry = entries[object_id] = Entry()
            entry.holders.add(node_id)
            entry.held = True
            of_node[object_id] = None
            if object_id in unheld:
                touched[object_id] = None
        for object_id, _ in batch.born:
            if not entries[object_id].holders:
                touched[object_id] = None
        orphans = self._orphans
        for object_id in batch.release:
            if (known := entries.get(object_id)) is not None:
                known.holders.discard(node_id)
                known.held = object_id not in orphans
                touched[object_id] = None
        for object_id in batch.freed:
            if (known := entries.get(object_id)) is not None and node_id in known.copies:
                known.copies.discard(node_id)
                had_copies.add(object_id)
                touched[object_id] = None
        return self._settle(touched, had_copies, node_id, now)

    def replace(self, node_id: str, batch: ObjectBatch, now: float) -> tuple[list[bytes], list[bytes]]:
        """A snapshot: what was known of the node is forgotten, then the batch applies. Returns as `apply`."""
        held, copied = set(batch.hold), {object_id for object_id, _ in batch.born}
        before = self._by_node.get(node_id, {})
        gone = ObjectBatch(
            born=batch.born,
            hold=batch.hold,
            release=tuple(
                object_id
                for object_id in before
                if object_id not in held and node_id in self._entries[object_id].holders
            ),
            freed=tuple(object_id for object_id in before if object_id not in copied),
        )
        return self.apply(node_id, gone, now)

    def forget_node(self, node_id: str, now: float) -> tuple[list[bytes], list[bytes]]:
        """The node is dead: its copies and holds are gone. Returns as `apply`, but nothing is free yet.

        What only a copy on that node held, a process elsewhere may still refer to: its node has time to say so.
        """
        for object_id in self._by_node.get(node_id, ()):
            if node_id in self._entries[object_id].holders:
                self._orphans.pop(object_id, None)
                self._orphans[object_id] = now + self._grace_s
        _, lost = self.replace(node_id, ObjectBatch(), now)
        return [], lost

    def _settle(
        self, touched: dict[bytes, None], had_copies: set[bytes], node_id: str, now: float
    ) -> tuple[list[bytes], list[bytes]]:
        free, lost = [], []
        entries, young, unheld = self._entries, self._young, self._unheld
        of_node = self._by_node.get(node_id, {})
        for object_id in touched:
            entry = entries[object_id]
            copies, holders = entry.copies, entry.holders
            if node_id not in copies and node_id not in holders:
                of_node.pop(object_id, None)
            if unheld:
                unheld.discard(object_id)
            if young and (holders or entry.held or not copies):
                young.pop(object_id, None)
            if holders:
                if not copies and object_id in had_copies:
                    lost.append(object_id)
            elif not copies:
                del entries[object_id]
            else:
                unheld.add(object_id)
                if entry.held:
                    free.append(object_id)
                else:
                    young.setdefault(object_id, now + self._grace_s)
        if not of_node:
            self._by_node.pop(node_id, None)
        return free, lost

    def validate(self, live_nodes: set[str]) -> None:
        """Check every invariant; raises AssertionError."""
        for object_id, entry in self._entries.items():
            nodes = entry.copies | entry.holders
            assert nodes, f"{object_id.hex()} is nowhere"
            assert nodes <= live_nodes, f"{object_id.hex()} is on unknown nodes {nodes - live_nodes}"
            for node_id in nodes:
                assert object_id in self._by_node[node_id]
            assert (object_id in self._unheld) == (not entry.holders)
            assert object_id not in self._young or not (entry.held or entry.holders), object_id.hex()
        assert self._young.keys() <= self._entries.keys()
        assert list(self._orphans.values()) == sorted(self._orphans.values())
        for node_id, objects in self._by_node.items():
            assert objects, f"empty index of {node_id}"
            for object_id in objects:
                entry = self._entries[object_id]
                assert node_id in entry.copies or node_id in entry.holders

"""Sharing: which of this node's ids other nodes may know of, and what the head has to hear of them. Pure.

An id is *shared* here from the moment it leaves this node or comes from another one: it was handed to, or received from, a
process elsewhere; it was served to, or pulled from, a node; a shared object that is here contains it; or somebody here holds it
though this store has never heard of it. The last rule is the safe side of a doubt: a hold can overtake the seal on this
node as well, and then the head hears of an object in vain. An id that is not shared costs a truth test.

Of a shared id the store tells four things, in order (`Ledger.changes`): its first holder here came, its last one went, a copy
is here, the copy is gone. A copy whose last holder here went stays: somebody elsewhere may hold the id, and the head alone
knows. It proposes to free the copy (`Sharing.free`), and the store refuses when there is a holder again.

**Transit holds.** Whoever hands a ref to a process of another node keeps a hold until that node's hold is known to the head.
The giver is the store itself here: a client of its own per other node that something was ever handed to, which holds what is on
its way there, and is a holder like any other. It is released when the other node says so, or has been dead for a while.

Invariants: a shared id has a copy or a holder here, or somebody here has announced that he will seal it. What this node has
handed out is held by a transit client until it is answered.
"""

from __future__ import annotations

from shoal.ids import node_tag, split_ids, tag_of
from shoal.wire import messages as m
from shoald.store.holds import Holds
from shoald.store.ledger import BORN, FREED, HELD, Ledger
from shoald.store.objects import Client, StoredObject

_TRANSIT_PREFIX = (
    b"\0T"  # no process id starts with it but by a chance of 2**-16, and then its node is another one's
)


def transit_client_id(node_id: str) -> bytes:
    """The store's client for what is on its way to a node."""
    return _TRANSIT_PREFIX + bytes.fromhex(node_id)[:6]


class Sharing:
    """Marks, transit holds, and the head's word about shared objects, for one store.

    Attributes:
        handed: (node id, receiving process, object id, (size, flags) of a seal or None), in order; the shell empties it.
    """

    __slots__ = ("_holds", "_ledger", "_nodes", "handed")

    def __init__(self, ledger: Ledger, holds: Holds) -> None:
        self._ledger = ledger
        self._holds = holds
        # tag → node id → transit client, made when it is first needed: most nodes of a large cluster never meet
        self._nodes: dict[bytes, dict[str, Client | None]] = {}
        self.handed: list[tuple[str, bytes, bytes, tuple[int, int] | None]] = []

    # --- other nodes ---

    def joined(self, node_id: str) -> None:
        """There is another node. A second time changes nothing."""
        self._ledger.clustered = True
        self._nodes.setdefault(node_tag(node_id), {}).setdefault(node_id, None)

    def _transit(self, tag: bytes) -> list[tuple[str, Client]]:
        """(node id, transit client) of the nodes with this tag; mostly one."""
        nodes = self._nodes.get(tag)
        if not nodes:
            return []
        for node_id in [node_id for node_id, client in nodes.items() if client is None]:
            proc = transit_client_id(node_id)
            client = Client(proc, {"kind": "node", "pid": None, "node_id": node_id})
            client.connected = False
            nodes[node_id] = self._ledger.clients[proc] = client
        return [(node_id, client) for node_id, client in nodes.items() if client is not None]

    def died(self, node_id: str) -> None:
        """A node is dead: nothing is handed to it any more; its transit client stays until it is dropped."""
        nodes = self._nodes.get(node_tag(node_id), {})
        nodes.pop(node_id, None)
        if not nodes:
            self._nodes.pop(node_tag(node_id), None)

    # --- refs leave ---

    def hand(self, holder: bytes, ids: bytes) -> None:
        """Refs are handed to a process that is not of this node: hold them until its node does."""
        for node_id, client in self._transit(tag_of(holder)):
            for object_id in split_ids(ids):
                self.share(object_id)
                self._holds.add(client, object_id)
                self.handed.append((node_id, holder, object_id, None))

    def hand_sealed(self, holder: bytes, object_id: bytes, size: int, flags: int) -> None:
        """An object is being sealed for a process that is not of this node."""
        for node_id, client in self._transit(tag_of(holder)):
            self.share(object_id)
            self._holds.add(client, object_id)
            self.handed.append((node_id, holder, object_id, (size, flags)))

    def arrived(self, node_id: str, ids: list[bytes]) -> None:
        """The other node holds these, and the head knows it (an id once for each time it was handed over)."""
        client = self._ledger.clients.get(transit_client_id(node_id))
        if client is not None:
            self._holds.release(client, [m.RELEASE, b"".join(ids)], 0.0)

    # --- refs come ---

    def receive(self, holder: bytes, ids: bytes) -> None:
        """Another node has handed refs to a process here, which may be dead."""
        client = self._ledger.clients.get(holder)
        for object_id in split_ids(ids):
            self.share(object_id)
            if client is not None:
                self._holds.add(client, object_id)
            self._ledger.unshare_if_gone(object_id)

    def receive_sealed(self, holder: bytes, object_id: bytes) -> None:
        """Another node has sealed an object for a process here: a hold, unless it still has that of an earlier run."""
        ledger = self._ledger
        self.share(object_id)
        client = ledger.clients.get(holder)
        if client is not None:
            again = object_id in ledger.objects or ledger.given.get(object_id) == holder
            if not again or client.holds.get(object_id, 0) <= 0:
                self._holds.add(client, object_id)
            if client.holds.get(object_id, 0) > 0:
                ledger.given[object_id] = holder
            if object_id in ledger.shared:
                ledger.sealed_elsewhere.add(object_id)
        ledger.unshare_if_gone(object_id)

    # --- marks ---

    def share(self, object_id: bytes) -> None:
        """Other nodes may know of this id, and of all that it contains. What only pins keep here stays on its way out."""
        ledger = self._ledger
        if object_id in ledger.shared:
            return
        todo = [object_id]
        while todo:
            object_id = todo.pop()
            obj = ledger.objects.get(object_id)
            if object_id in ledger.shared or (obj is not None and obj.recalled):
                continue
            ledger.shared[object_id] = None
            if obj is not None:
                ledger.changes.append((BORN, object_id, obj.size))
                todo += obj.contained
            if object_id in ledger.early or (obj is not None and obj.holders):
                ledger.changes.append((HELD, object_id, 0))

    # --- the head ---

    def free(self, ids: list[bytes]) -> None:
        """Nobody in the cluster holds these, as far as the head knows: free them, or say that somebody does."""
        ledger = self._ledger
        objects, early, shared, tell = ledger.objects, ledger.early, ledger.shared, ledger.changes.append
        gone: list[StoredObject] = []
        for object_id in ids:
            obj = objects.get(object_id)
            if object_id in early or (obj is not None and obj.holders):
                if object_id in shared:
                    tell((HELD, object_id, 0))
                    continue
            elif object_id in shared and obj is not None:
                ledger.unshare(object_id)
                tell((FREED, object_id, 0))
                if obj.pins is None and not obj.contained:
                    gone.append(obj)  # together; what held others goes at once, since these may be next
                else:
                    ledger.unheld(obj)
                continue
            tell((FREED, object_id, 0))  # it is gone already, or was never told of
        if gone:
            ledger.free(gone)

    def take_changes(self) -> list[tuple[str, bytes, int]]:
        """What the head has to hear, since the last call."""
        ledger = self._ledger
        changes, ledger.changes = ledger.changes, []
        return changes

    def snapshot(self) -> tuple[list[tuple[bytes, int]], list[bytes]]:
        """(copies with their sizes, held ids) of everything shared; changes that were not taken yet are in it."""
        ledger = self._ledger
        ledger.changes.clear()
        born, held = [], []
        for object_id in ledger.shared:
            obj = ledger.objects.get(object_id)
            if obj is not None:
                born.append((object_id, obj.size))
            if object_id in ledger.early or (obj is not None and obj.holders):
                held.append(object_id)
        return born, held

    def in_transit(self, node_id: str) -> dict[bytes, int]:
        """What is held for a node until it answers: id → how often."""
        client = self._ledger.clients.get(transit_client_id(node_id))
        return client.holds if client is not None else {}

    def validate(self) -> None:
        """Raise AssertionError if an invariant is broken."""
        ledger = self._ledger
        for object_id in ledger.shared:
            obj = ledger.objects.get(object_id)
            kept = obj is not None or object_id in ledger.early or object_id in ledger.expected
            assert kept, f"{object_id.hex()} is shared, and not here"
            for inner in obj.contained if obj is not None and not obj.recalled else ():
                there = ledger.objects.get(inner)
                assert inner in ledger.shared or (there is not None and there.recalled), inner.hex()
        assert ledger.sealed_elsewhere <= ledger.shared.keys()
        for object_id, holder in ledger.given.items():
            assert ledger.clients[holder].holds[object_id] > 0, object_id.hex()
        for nodes in self._nodes.values():
            for node_id, client in nodes.items():
                if client is None:
                    assert transit_client_id(node_id) not in ledger.clients, node_id
                    continue
                assert ledger.clients[transit_client_id(node_id)] is client
                assert min(client.holds.values(), default=1) > 0, "more arrived than was handed over"

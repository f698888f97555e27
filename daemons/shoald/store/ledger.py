"""What the store knows, and the one way out of it: the state that holds, pins, readers and extents share.

Every byte of the region that the allocator calls used is in exactly one of: a stored object, a duplicate
(an extent sealed for an object that existed already, still pinned), the unused part of a leased extent, or
the extent that a spilled object is being read into. `check_accounts` adds them up.

An object is freed here and nowhere else, when its last holder is gone and nobody pins it; what it
contained follows, iteratively, however deep. Objects that contain each other in a circle are not found: a
value can only contain refs that existed before it, so a circle takes refs of pending results, nested into
each other on purpose.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

from shoal.config import Config
from shoal.ids import OBJECT_ID_SIZE, PROCESS_ID_SIZE, tag_of
from shoal.wire import messages as m
from shoald.store.allocator import Allocator
from shoald.store.errors import ProtocolError
from shoald.store.objects import Client, StoredObject, Tombstones

# What becomes of a shared id here (`Ledger.changes`), as the head calls it.
HELD, UNHELD, BORN, FREED = "hold", "release", "born", "freed"
COUNTERS = (
    *("allocs", "seals", "frees", "pins", "dedups", "evictions"),
    *("spilled", "spilled_objects", "restored", "restored_objects"),
    *("written_in_files", "read_in_files", "lost"),
    *("fetches", "fetch_joins", "fetch_retries", "fetched_bytes", "fetched_from_relays"),
    *("fetched_into_files", "served_bytes"),
)


class Ledger:
    """State, accounts and freeing; decisions are in the modules around it.

    Attributes:
        objects: the sealed objects by id.
        clients: registered processes by their 8 bytes.
        forks: forked children by the shell's token; they only pin.
        early: id → how many holders an object has that is not sealed yet.
        expected: id → processes that announced that they will seal it.
        shared: ids that other nodes may know of, in a fixed order.
        changes: (what, id, size) of shared ids, for the head; the shell empties it.
        sealed_elsewhere: shared ids that another node has sealed, with a hold for a process here; not those that are lost.
        given: id → the process here that has the hold that came with a seal of it, though there may be no copy here (any more):
            if its task runs again, the result is sealed again, and no second hold comes with that. Until it gives all back.
        forsaken: ids whose last early holder has gone; readers that relied on it are told (see readers).
        by_hash: content hash → id of an object with that content.
        freed: ids of objects that were freed recently.
        unbacked: ids that may be held though their last copy is lost (`lose`).
        dead: processes that ended recently.
        outbox: messages for clients, in order: (proc, message).
        watched: ids that somebody in the daemon wants to be told of when nobody holds them any more (actors).
        unheld_watched: those of them that this happened to; the shell empties it.
        returning: objects whose copy counts as lost while a read of it may still end; they hold what they contain, though
            their records may have gone (`abandon`).
        clustered: there were ever other nodes; only then is anything shared (see sharing) or looked for elsewhere.
        node_id: of this node, 16 bytes; node_tag: its first bytes, which ids of its processes begin with.
        hints: id → nodes that have it, as peers said; of ids that nobody here refers to any more, `last_seen` has the newest:
            a ref may come back in a container, of which this node is told nothing, and before the head knows of the copy.
        wants: (id, stamp proc, number, priority) for the object manager, in order; priority None: nobody waits any more.
        recalls: proc → ids whose pins are wanted back; becomes one message per call of the core.
        returned: objects whose pins were asked for and have all come back; see eviction.
        forget_copy: called with an object that has a copy on disk when it is freed; set by the core.
        arrivals: requests for room that could not be met at once, since the start.
        restoring_bytes: extents that spilled objects are being read into.
        secondary_bytes, pinned_bytes, cached_bytes, duplicate_bytes: see `StoreCore.stats`.
    """

    __slots__ = (
        "allocator",
        "arrivals",
        "by_hash",
        "cached_bytes",
        "changes",
        "clients",
        "clustered",
        "config",
        "counters",
        "dead",
        "duplicate_bytes",
        "early",
        "expected",
        "forget_copy",
        "forks",
        "forsaken",
        "freed",
        "given",
        "hints",
        "last_seen",
        "node_id",
        "node_tag",
        "objects",
        "outbox",
        "pinned_bytes",
        "recalls",
        "restoring_bytes",
        "returned",
        "returning",
        "sealed_bytes",
        "sealed_elsewhere",
        "shared",
        "secondary_bytes",
        "unbacked",
        "unheld_watched",
        "wants",
        "watched",
    )

    def __init__(self, capacity: int, config: Config, node_id: bytes) -> None:
        self.node_id = node_id
        self.node_tag = tag_of(node_id)
        self.clustered = False
        self.hints: dict[bytes, dict[str, None]] = {}
        self.last_seen: dict[bytes, str] = {}
        self.wants: deque[tuple[bytes, bytes, int, int | None]] = deque()
        self.allocator = Allocator(capacity)
        self.config = config
        self.objects: dict[bytes, StoredObject] = {}
        self.clients: dict[bytes, Client] = {}
        self.forks: dict[bytes | int, Client] = {}
        self.early: dict[bytes, int] = {}
        self.expected: dict[bytes, dict[Client, None]] = {}
        self.shared: dict[bytes, None] = {}
        self.changes: list[tuple[str, bytes, int]] = []
        self.sealed_elsewhere: set[bytes] = set()
        self.given: dict[bytes, bytes] = {}
        self.forsaken: list[bytes] = []
        self.by_hash: dict[bytes, bytes] = {}
        self.freed = Tombstones(config.store_freed_ids_max)
        self.unbacked: dict[bytes, None] = {}
        self.dead = Tombstones(config.store_freed_ids_max)
        self.outbox: list[tuple[bytes, list[Any]]] = []
        self.recalls: dict[bytes, list[bytes]] = {}
        self.returned: list[StoredObject] = []
        self.returning: set[StoredObject] = set()
        self.forget_copy: Callable[[StoredObject], None]
        self.watched: set[bytes] = set()
        self.unheld_watched: list[bytes] = []
        self.counters = dict.fromkeys(COUNTERS, 0)
        self.sealed_bytes = 0
        self.arrivals = 0
        self.restoring_bytes = 0
        self.secondary_bytes = 0
        self.pinned_bytes = 0
        self.cached_bytes = 0
        self.duplicate_bytes = 0

    def send(self, client: Client, message: list[Any]) -> None:
        """Queue a message to a connected client."""
        assert client.connected, client
        self.outbox.append((client.proc, message))

    def recall_extents(self) -> None:
        """Ask every client for the leased memory that it does not use."""
        for client in self.clients.values():
            if client.leased.size:
                self.send(client, [m.EXTENT_RECALL])

    def flush_recalls(self) -> None:
        """Turn the collected recalls into one message per client."""
        for proc, ids in self.recalls.items():
            self.outbox.append((proc, [m.UNPIN_RECALL, b"".join(ids)]))
        self.recalls.clear()

    def unheld(self, obj: StoredObject) -> None:
        """The object has no holder here any more: free it, or ask for the pins that keep it; a shared one stays."""
        if self.shared and obj.id in self.shared:
            self.changes.append((UNHELD, obj.id, 0))
        elif obj.pins is None:
            self.free([obj])
        else:
            self.recall(obj)

    def recall(self, obj: StoredObject) -> None:
        """Ask every process that pins an unheld object to let go of it."""
        assert not obj.recalled, obj
        obj.recalled = True
        if obj.id in self.watched:
            self.unheld_watched.append(obj.id)
        self.cached_bytes += obj.allocated
        for client in obj.pins or ():
            if client.connected:
                self.recalls.setdefault(client.proc, []).append(obj.id)

    def held_again(self, obj: StoredObject) -> None:
        """An object that only pins kept has a holder once more."""
        obj.recalled = False
        self.cached_bytes -= obj.allocated

    def early_less(self, object_id: bytes) -> None:
        """One holder less for an object that is not sealed yet."""
        count = self.early[object_id] - 1
        if count:
            self.early[object_id] = count
        else:
            del self.early[object_id]
            self.forsaken.append(object_id)
            if self.shared and object_id in self.shared:
                self.changes.append((UNHELD, object_id, 0))
                self.unshare_if_gone(object_id)

    def first_holder(self, object_id: bytes, obj: StoredObject | None) -> None:
        """An id has a holder here since now; called when there are other nodes."""
        if object_id not in self.shared:
            if obj is not None or object_id in self.expected:
                return
            self.shared[object_id] = None  # unheard of: it may come from elsewhere
        self.changes.append((HELD, object_id, 0))

    def lose(self, object_id: bytes) -> None:
        """No copy of this is left, and no hold promises one. At the bound the oldest is forgotten."""
        self.unbacked[object_id] = None
        self.sealed_elsewhere.discard(object_id)
        self.hints.pop(object_id, None)
        self.last_seen.pop(object_id, None)
        if len(self.unbacked) > self.config.store_freed_ids_max:
            del self.unbacked[next(iter(self.unbacked))]

    def unshare(self, object_id: bytes) -> None:
        """No other node knows of this id any more, as far as this one knows."""
        self.shared.pop(object_id, None)
        self.sealed_elsewhere.discard(object_id)
        nodes = self.hints.pop(object_id, None)
        if nodes:
            self.last_seen[object_id] = next(reversed(nodes))
            if len(self.last_seen) > self.config.last_seen_max:
                del self.last_seen[next(iter(self.last_seen))]

    def told_of(self, object_id: bytes) -> bool:
        """Whether a peer has said where this is, or was."""
        return object_id in self.hints or object_id in self.last_seen

    def unshare_if_gone(self, object_id: bytes) -> None:
        """Forget that an id is shared, unless something of it is here, or will be."""
        if object_id not in self.objects and object_id not in self.early and object_id not in self.expected:
            self.unshare(object_id)

    def free(self, todo: list[StoredObject]) -> None:
        """Free objects that nobody holds or pins, and whatever only they held; what is shared only loses a holder.

        ``todo`` is empty afterwards. Neighbours in it that are neighbours in the region too are one extent to the allocator.
        """
        objects, freed, by_hash, watched = self.objects, self.freed, self.by_hash, self.watched
        free_extent = self.allocator.free
        start = end = -1  # the extent to be freed next, if it is one
        count = 0
        while todo:
            obj = todo.pop()
            assert obj.pins is None, obj
            del objects[obj.id]
            freed.add(obj.id)
            if obj.id in watched:
                self.unheld_watched.append(obj.id)
            if obj.disk is not None:
                self.forget_copy(obj)
            offset = obj.offset
            if offset >= 0:
                allocated = obj.allocated
                if offset + allocated == start:
                    start = offset
                elif offset == end:
                    end += allocated
                else:
                    if start >= 0:
                        free_extent(start, end - start)
                    start, end = offset, offset + allocated
                self.sealed_bytes -= allocated
                if not obj.flags & m.SEAL_PRIMARY:
                    self.secondary_bytes -= allocated
            count += 1
            if obj.recalled:
                self.cached_bytes -= obj.allocated
            if obj.content_hash and by_hash.get(obj.content_hash) == obj.id:
                del by_hash[obj.content_hash]
            if obj.contained:
                self._release_contained(obj, todo)
        if start >= 0:
            free_extent(start, end - start)
        self.counters["frees"] += count

    def _release_contained(self, obj: StoredObject, todo: list[StoredObject]) -> None:
        """What ``obj`` contained has one holder less; what is to be freed now goes into ``todo``."""
        shared = self.shared
        for inner_id in obj.contained:
            inner = self.objects.get(inner_id)
            if inner is None:
                self.early_less(inner_id)
                continue
            inner.holders -= 1
            if inner.holders:
                continue
            if shared and inner_id in shared:
                self.changes.append((UNHELD, inner_id, 0))
            elif inner.pins is None:
                todo.append(inner)
            else:
                self.recall(inner)

    def release_contained(self, obj: StoredObject) -> None:
        """A record was replaced: what the old one contained has one holder less."""
        todo: list[StoredObject] = []
        self._release_contained(obj, todo)
        self.free(todo)

    def drop_memory(self, obj: StoredObject) -> None:
        """The object's extent goes; its copy on disk, or on another node, is what is left of it."""
        assert obj.pins is None, obj
        self.allocator.free(obj.offset, obj.allocated)
        obj.offset = -1
        self.sealed_bytes -= obj.allocated
        if not obj.flags & m.SEAL_PRIMARY:
            self.secondary_bytes -= obj.allocated
        self.counters["evictions"] += 1

    def back_in_memory(self, obj: StoredObject, offset: int) -> None:
        """The object lies in the region again."""
        obj.offset = offset
        self.sealed_bytes += obj.allocated
        if not obj.flags & m.SEAL_PRIMARY:
            self.secondary_bytes += obj.allocated

    def promote(self, obj: StoredObject) -> None:
        """A secondary copy becomes a primary one."""
        if not obj.flags & m.SEAL_PRIMARY:
            obj.flags |= m.SEAL_PRIMARY
            if obj.offset >= 0:
                self.secondary_bytes -= obj.allocated

    def evict(self, obj: StoredObject) -> None:
        """Drop a secondary copy that contains nothing; its holders wait for it like for one that never came."""
        assert not obj.contained, obj
        if obj.offset >= 0:
            self.drop_memory(obj)
        if obj.disk is not None:
            self.forget_copy(obj)
        self._forget_record(obj)

    def abandon(self, obj: StoredObject) -> None:
        """The record of an object whose only copy was damaged goes: its holders wait for it like for one that never came."""
        assert obj.offset < 0, obj
        owner = self.clients.get(obj.id[:PROCESS_ID_SIZE])
        if owner is not None and owner.holds.get(obj.id, 0) > 0:
            self.given[obj.id] = owner.proc
        self._forget_record(obj)
        if obj.contained and obj not in self.returning:
            self.release_contained(obj)

    def is_missed(self, obj: StoredObject) -> bool:
        """Whether an object that is `returning` has not been made again, and is not about to be."""
        known = self.objects.get(obj.id)
        return known is obj or (known is None and obj.id not in self.expected)

    def returns_no_more(self, obj: StoredObject | None) -> None:
        """The read of an object has ended in vain, or brought what is not missed; nothing if it was not `returning`."""
        if obj is not None and obj in self.returning:
            self.returning.discard(obj)
            if self.objects.get(obj.id) is not obj:
                self.release_contained(obj)

    def _forget_record(self, obj: StoredObject) -> None:
        """There is no copy here any more, but there may be holders."""
        del self.objects[obj.id]
        if obj.holders:
            self.early[obj.id] = obj.holders
        if obj.content_hash and self.by_hash.get(obj.content_hash) == obj.id:
            del self.by_hash[obj.content_hash]
        if obj.id in self.shared:
            self.changes.append((FREED, obj.id, 0))
            self.unshare_if_gone(obj.id)

    def marks(self) -> tuple[int, int, int]:
        """Counters that grow when relief makes progress."""
        counters = self.counters
        return counters["evictions"], counters["spilled_objects"], counters["restored_objects"]

    def leased_bytes(self) -> int:
        """Bytes that clients have leased and not used yet."""
        return sum(client.leased.size for client in self.clients.values())

    def check_accounts(self, restoring: list[tuple[int, int]]) -> None:
        """Raises AssertionError unless objects, duplicates, leased parts and the extents that are being read
        into (offset, size) tile exactly the used bytes.
        """
        duplicates = {
            id(dup): dup
            for client in (*self.clients.values(), *self.forks.values())
            for dups in client.duplicates.values()
            for dup in dups
        }
        stored = [obj for obj in self.objects.values() if obj.offset >= 0]
        taken = [(obj.offset, obj.allocated) for obj in (*stored, *duplicates.values())] + restoring
        for client in self.clients.values():
            assert client.leased.size == sum(size for _, size in client.leased.ranges()), client
            taken += client.leased.ranges()
        end = 0
        for offset, size in sorted(taken + self.allocator.free_extents()):
            assert offset == end, f"[{min(offset, end)}, {max(offset, end)}) has two users, or none"
            end = offset + size
        assert end == self.allocator.capacity, "the end of the region has no user"
        assert self.restoring_bytes == sum(size for _, size in restoring)
        assert self.sealed_bytes == sum(obj.allocated for obj in stored)
        assert self.duplicate_bytes == sum(dup.allocated for dup in duplicates.values())
        assert self.cached_bytes == sum(obj.allocated for obj in stored if obj.recalled)
        assert self.pinned_bytes == sum(obj.allocated for obj in stored if obj.pins)
        assert self.secondary_bytes == sum(o.allocated for o in stored if not o.flags & m.SEAL_PRIMARY)
        others = self.duplicate_bytes + self.leased_bytes() + self.restoring_bytes
        assert self.allocator.used_bytes == self.sealed_bytes + others


def checked_ids(joined: object) -> bytes:
    """``joined`` if it is a concatenation of object ids; raises ProtocolError otherwise."""
    if type(joined) is not bytes or len(joined) % OBJECT_ID_SIZE:
        raise ProtocolError("ids are not a whole number of 16-byte ids")
    return joined


def checked_id(object_id: object) -> bytes:
    """``object_id`` if it is one; raises ProtocolError otherwise."""
    if type(object_id) is not bytes or len(object_id) != OBJECT_ID_SIZE:
        raise ProtocolError("an object id has 16 bytes")
    return object_id


def checked_size(number: object) -> int:
    """``number`` if it is an int of at least 0 (a size, an offset, a number); else ProtocolError."""
    if type(number) is not int or number < 0:
        raise ProtocolError(f"{number!r:.40} is no size, offset or number")
    return number


def fields(message: list[Any], count: int) -> list[Any]:
    """The fields after the tag; raises ProtocolError unless there are ``count`` of them."""
    if len(message) != count + 1:
        raise ProtocolError(f"message {message[0]} has {len(message) - 1} fields, not {count}")
    return message[1:]

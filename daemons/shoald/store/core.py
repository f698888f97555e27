"""The store's core: messages of clients in, messages to clients out. No I/O, no clock.

What happens to a byte of the region: free → leased to a client (ALLOC, EXTENT) → an object (SEAL) → free
again when the object has no holder and no pin, or straight back (EXTENT_RETURN, death). What may not happen:
an object that somebody holds or pins is freed; one that nobody does is kept; a byte has two users.
When room is wanted, objects that somebody holds may leave the region: to disk, or because another node has them.
The nouns are in modules of their own: extents, seals, holds, pins, readers, and for what leaves the region
eviction, spills, restores and relief, all over one ledger.

Whoever lives in the daemon and needs objects or room (another node's reads, copies that are pulled) is a client
too: it registers under an id of its own, sends ALLOC, SEAL, PIN and UNPIN by `handle`, and finds the answers
in `outbox`. So it waits like others do, what is on disk comes back for it, and its pins and extents count.

The core never touches the region's bytes, and trusts no client: a message that breaks the
protocol raises ProtocolError, the shell closes that connection and calls `drop`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from shoal.config import Config
from shoal.ids import OBJECT_ID_SIZE
from shoal.wire import messages as m
from shoald.store.errors import ProtocolError
from shoald.store.extents import Extents
from shoald.store.holds import Holds
from shoald.store.ledger import Ledger, fields
from shoald.store.objects import ORIGIN_SIZE, Client, StoredObject
from shoald.store.pins import Pins
from shoald.store.readers import Readers
from shoald.store.relief import Relief
from shoald.store.report import rows, totals
from shoald.store.restores import Restores
from shoald.store.seals import Seals
from shoald.store.sharing import Sharing
from shoald.store.spills import Spills

_Handler = Callable[[Client, list[Any], float], None]


class StoreCore:
    """The objects of one node, who holds and pins them, and the memory they lie in.

    Args:
        directories: how many directories there are to spill to; 0: no spilling.

    Attributes:
        outbox: (proc, message) for clients; the shell sends and clears it after each call.
        sharing: what other nodes have to do with this one's objects; whoever changes something by it calls `settle`.
        spills: what is on disk. Its outbox has effects for the shell, which answers them by the spills' `wrote`,
            `rewrote`, `made`, `write_failed`, `read_done` and `read_failed`, and then calls `relieve`.
    """

    __slots__ = (
        "_copies",
        "_extents",
        "_handlers",
        "_holds",
        "_ledger",
        "_pins",
        "_readers",
        "_relief",
        "_restores",
        "_seals",
        "outbox",
        "sharing",
        "spills",
    )

    def __init__(
        self, capacity: int, config: Config, node_id: bytes = bytes(OBJECT_ID_SIZE), directories: int = 0
    ) -> None:
        self._ledger = ledger = Ledger(capacity, config, node_id)
        self._copies = 0
        self.outbox = ledger.outbox
        self._holds = Holds(ledger)
        self.sharing = self._holds.sharing = Sharing(ledger, self._holds)
        self._pins = Pins(ledger)
        self.spills = Spills(ledger, directories)
        self._restores = Restores(ledger, self._pins, self.spills)
        self._readers = Readers(ledger, self._pins, self._restores)
        self._extents = Extents(ledger)
        self._relief = Relief(ledger, self._extents, self._restores, self.spills)
        self._seals = seals = Seals(ledger, self._holds, self._pins, self._readers, self.spills)
        self.spills.on_found = seals.found
        self._handlers: dict[int, _Handler] = {
            m.ALLOC: self._extents.alloc,
            m.EXTENT_RETURN: self._extents.give_back,
            m.SEAL: seals.seal,
            m.SEAL_RUN: seals.seal_run,
            m.HOLD: self._holds.hold,
            m.RELEASE: self._holds.release,
            m.PIN: self._readers.pin,
            m.ALLOC_FILE: seals.alloc_file,
            m.FILE_RETURN: seals.file_return,
            m.SEAL_IN_FILE: seals.seal_in_file,
            m.PIN_TOGETHER: self._readers.pin_together,
            m.UNPIN: self._pins.unpin,
            m.WATCH: self._readers.watch,
            m.EXPECT: self._readers.expect,
            m.UNEXPECT: self._readers.unexpect,
            m.FILE_STALLED: seals.file_stalled,
            m.FILE_DAMAGED: self._restores.damaged,
            m.DEDUP: seals.dedup,
            m.UNRECOVERABLE: self._readers.unrecoverable,
            m.FORK: _fork,
        }

    def call(self, proc: bytes, name: str) -> None:
        """What people are told that a client is, from now on."""
        client = self._ledger.clients.get(proc)
        if client is not None:
            client.info["name"] = name

    def register(self, proc: bytes, info: dict[str, Any]) -> None:
        """A client said HELLO. ``info``: pid, kind, job_id. A second time only replaces ``info``."""
        client = self._ledger.clients.get(proc)
        if client is None:
            self._ledger.clients[proc] = Client(proc, dict(info))
        else:
            client.info = dict(info)

    def handle(self, proc: bytes, message: list[Any], now: float) -> None:
        """One message with a tag of 10 to 29; raises ProtocolError, after which the client must be dropped.

        FORK is only checked here: the child is known by the descriptor that came with it, so the shell
        calls `forked`.
        """
        ledger = self._ledger
        client = ledger.clients.get(proc)
        handler = self._handlers.get(message[0])
        if client is None or handler is None:
            raise ProtocolError(f"message {message[0]!r} is not for the store, or came before HELLO")
        handler(client, message, now)
        if ledger.recalls or ledger.forsaken or self._extents.waiting:
            self.settle()

    def advanced(self, proc: bytes, number: int, now: float) -> None:
        """The client's stream is processed up to message ``number``: release what waited for that."""
        client = self._ledger.clients.get(proc)
        if client is None:
            return
        if client.stamped:
            self._readers.advanced(client, number)
        else:
            client.processed = max(client.processed, number)

    def drop(self, proc: bytes, now: float) -> None:
        """Confirmed death or orderly end: everything of this client goes. Unknown clients are ignored."""
        client = self._ledger.clients.pop(proc, None)
        if client is None:
            return
        self._ledger.dead.add(proc)
        self._extents.drop(client)
        self.spills.drop(client)
        self._readers.drop(client)
        self._restores.drop(client)
        self._pins.drop(client)
        self._holds.drop(client)
        self._ledger.recalls.pop(proc, None)
        self.settle()

    def watch(self, object_id: bytes) -> bool:
        """Have `take_unheld` tell when nobody holds this object any more; False if there is no such object."""
        if object_id not in self._ledger.objects:
            return False
        self._ledger.watched.add(object_id)
        return True

    def take_unheld(self) -> list[bytes]:
        """The watched objects that nobody holds any more, since the last call; they are watched no longer."""
        ledger = self._ledger
        unheld = ledger.unheld_watched
        if unheld:
            ledger.unheld_watched = []
            ledger.watched.difference_update(unheld)
        return unheld

    # --- for the object manager ---

    def clustered(self) -> None:
        """There is another node: what is not here may be there."""
        self._ledger.clustered = True

    def take_wants(self, limit: int) -> list[tuple[bytes, bytes, int, int | None]]:
        """What is to be fetched, in order, ``limit`` at most: (id, stamp proc, number, priority); priority None: not any more."""
        wants = self._ledger.wants
        return [wants.popleft() for _ in range(min(limit, len(wants)))]

    @property
    def wants(self) -> int:
        """How many `take_wants` has still to tell."""
        return len(self._ledger.wants)

    def shortage(self) -> int:
        """Bytes that the first of those who wait for room waits for; 0 if nobody does."""
        waiting = self._extents.waiting
        return waiting[0].least if waiting else 0

    def shortage_lines(self, now: float) -> list[str]:
        """For people: who waits for room here, and which directories hang."""
        lines = [*self._extents.describe(now), *self.spills.describe(now)]
        if self.spills.trouble:
            lines.append(f"spilling failed: {self.spills.trouble}")
        return lines

    def known_elsewhere(self) -> list[tuple[bytes, int]]:
        """(id, size) of the primary copies here that other nodes may know of."""
        objects = self._ledger.objects
        found = [objects[object_id] for object_id in self._ledger.shared if object_id in objects]
        return [(obj.id, obj.size) for obj in found if obj.flags & m.SEAL_PRIMARY]

    def promote(self, object_id: bytes) -> None:
        """The copy here may be the last one: it is a primary one from now on, and is spilled instead of dropped."""
        obj = self._ledger.objects.get(object_id)
        if obj is not None:
            self._ledger.promote(obj)

    def origin_died(self, node_id: str) -> None:
        """A node is dead, and with it the primary copies that it made: copies of those that are here take their place."""
        origin = bytes.fromhex(node_id)[:ORIGIN_SIZE]
        for obj in self._ledger.objects.values():
            if not obj.flags & m.SEAL_PRIMARY and obj.copy.startswith(origin):
                self._ledger.promote(obj)

    def told(self, object_ids: list[bytes], sizes: list[int], flags: int) -> None:
        """Another node has wanted objects."""
        told = self._readers.told
        for object_id, size in zip(object_ids, sizes, strict=True):
            told(object_id, size, flags)

    def fetch_failed(self, object_id: bytes, kind: str, text: str) -> None:
        """A wanted object cannot be fetched; ``kind`` and ``text`` are for its readers."""
        self._readers.fetch_failed(object_id, kind, text)

    def hint(self, object_id: bytes, node_id: str) -> None:
        """A peer says that node ``node_id`` has, or had, this object. At the bound the oldest hint is forgotten."""
        hints = self._ledger.hints
        hints.setdefault(object_id, {})[node_id] = None
        if len(hints) > self._ledger.config.location_hints_max:
            del hints[next(iter(hints))]
        self._readers.hint(object_id)

    def located(self, object_id: bytes, node_id: str, size: int, flags: int) -> None:
        """Another node has sealed this for a process here: nobody here will any more, and whoever waits learns of it."""
        ledger = self._ledger
        if object_id in ledger.objects:
            return
        for client in ledger.expected.pop(object_id, ()):
            client.expects.discard(object_id)
        ledger.unshare_if_gone(object_id)
        self._readers.told(object_id, size, flags)
        # The process may have let go of it already; others may wait here all the same.
        if object_id in ledger.shared or self._readers.is_waited_for(object_id):
            self.hint(object_id, node_id)

    def lost(self, object_ids: list[bytes]) -> None:
        """No node has a copy of these any more: readers that nothing else will answer learn of it."""
        for object_id in object_ids:
            if object_id not in self._ledger.objects:
                self._ledger.lose(object_id)
                self._readers.lost(object_id)

    def hinted(self, object_id: bytes) -> list[str]:
        """Nodes that may have it, as peers said; the newest first."""
        ledger = self._ledger
        last_seen = ledger.last_seen.get(object_id)
        nodes = list(ledger.hints.get(object_id, ()))[::-1]
        return nodes if last_seen is None or last_seen in nodes else [*nodes, last_seen]

    def described(self, object_id: bytes, copy: bytes = b"") -> StoredObject | None:
        """An object that is here, with a stamp that names its bytes: ``copy`` if it has none yet, else one of this node's."""
        obj = self._ledger.objects.get(object_id)
        if obj is not None and not obj.copy:
            self._copies += 1
            obj.copy = copy or self._ledger.node_id[:ORIGIN_SIZE] + self._copies.to_bytes(8, "big")
        return obj

    def pin_small(
        self, proc: bytes, ids: list[bytes], bytes_max: int, now: float
    ) -> list[tuple[int, StoredObject]]:
        """Pin, for client ``proc``, which is another node, those of ``ids`` that are here, small, and contain nothing.

        Returns (position in ``ids``, object with a stamp) of each; they are shared from now on.
        """
        found = self._pins.add_small(self._ledger.clients[proc], ids, bytes_max, now)
        shared, share = self._ledger.shared, self.sharing.share
        origin, copies = self._ledger.node_id[:ORIGIN_SIZE], self._copies
        for _, obj in found:
            if not obj.copy:
                copies += 1
                obj.copy = origin + copies.to_bytes(8, "big")
            if obj.id not in shared:
                share(obj.id)
        self._copies = copies
        return found

    def seal_parcel(
        self,
        proc: bytes,
        offset: int,
        ids: list[bytes],
        sizes: list[int],
        stamps: bytes,
        callsites: list[str],
        now: float,
    ) -> list[StoredObject]:
        """As `seal_copy`, of many that lie one after the other from ``offset`` on, and contain nothing.

        Returns those that are the object now. Raises ProtocolError.
        """
        client = self._ledger.clients[proc]
        sealed = self._seals.seal_parcel(client, offset, ids, sizes, stamps, callsites, now)
        if self._ledger.recalls or self._ledger.forsaken or self._extents.waiting:
            self.settle()
        return sealed

    def seal_copy(
        self, proc: bytes, stamp: bytes, seal: list[Any], now: float, in_file: tuple[int, int] | None = None
    ) -> bool:
        """Client ``proc`` of this daemon has had the copy ``stamp`` written into its room: make it an object that nobody holds.

        ``seal``: id, offset, size, contained ids, flags, call site, content hash. ``in_file``: (number of a file that it was
        lent, checksum), where the copy is instead. Returns whether it is the object now; if not, there was one already.
        Raises ProtocolError.
        """
        obj = self._seals.seal_copy(self._ledger.clients[proc], stamp, seal, now, in_file)
        if self._ledger.recalls or self._ledger.forsaken or self._extents.waiting:
            self.settle()
        return self._ledger.objects.get(obj.id) is obj

    def forked(self, proc: bytes, token: bytes | int) -> None:
        """A child of ``proc`` keeps what that pins now, until `fork_ended`. Raises ProtocolError."""
        client = self._ledger.clients.get(proc)
        if client is None:
            raise ProtocolError(f"fork of {proc.hex()} before HELLO")
        self.spills.readers.forked(client, self._pins.forked(client, token))

    def fork_ended(self, token: bytes | int) -> None:
        """The forked child is gone; unknown tokens are ignored."""
        child = self._pins.fork_ended(token)
        if child is not None:
            self.spills.readers.drop(child)
        self.settle()

    def next_deadline(self) -> float | None:
        """When `relieve` has something to do, whatever else happens; None if there is nothing."""
        deadlines = (self._relief.next_deadline(), self.spills.next_deadline())
        return min((at for at in deadlines if at is not None), default=None)

    def relieve(self, now: float) -> None:
        """Make room for who waits, and refuse who has waited for too long. Once a turn, and when it is due.

        Also sends what a read from disk asked back: it ends between the calls of the core. Cheap when nobody waits
        and the region is not nearly full.
        """
        self.spills.check_disks(now)
        if self._relief.wanted:
            self._relief.work(now)
        ledger = self._ledger
        if ledger.recalls or ledger.forsaken or self._extents.waiting:
            self.settle()

    @property
    def counters(self) -> dict[str, int]:
        """What happened since the start; the object manager counts fetches here."""
        return self._ledger.counters

    @property
    def high_water(self) -> int:
        """No byte at or beyond this offset was ever leased; pages are populated from here on."""
        return self._ledger.allocator.high_water

    def rows(self, now: float) -> list[dict[str, Any]]:
        """One row per stored object, for `shoal memory`.

        Keys: id (hex), size_bytes, allocated_bytes, disk_bytes, state ("sealed", "error", "held elsewhere": by other
        nodes, or by nobody and the head will say so, "unreferenced": only pins keep it, "duplicate": a second copy
        that its writer still looks at, "spilled", "restoring", "lost"), holders, callsite, age_s, flags. A holder has
        proc (hex), pid, role, kind ("hold", "pin" or "container"), count, and node_id if its role is "node".
        The allocated bytes of all rows, `stats()["leased"]` and `stats()["restoring"]` add
        up to `stats()["used"]`, and the disk bytes to `stats()["disk_live"]`.
        """
        return rows(self._ledger, now)

    def stats(self) -> dict[str, Any]:
        """Bytes: capacity, used = sealed + leased + duplicates + restoring, free, largest_free, high_water.

        Of sealed: primary and secondary copies, pinned (by anybody), cached (kept by pins alone). On disk: disk
        (in files), disk_live (of objects that live), disk_spare (in files kept to be
        written over), disk_removed (in files that were removed, but are still looked at), disk_removed_by (who does, and at
        how much: several may look at the same), disk_files. Also fragmentation (0 to 1), the number of
        objects, and counters since the start: allocs, seals, frees, pins, dedups, evictions, spilled and
        restored (bytes, and with _objects), written_in_files and read_in_files (objects), lost; fetches (objects that
        came from other nodes), fetch_joins (reads that joined one), fetch_retries (sources replaced), fetched_bytes,
        fetched_from_relays (chunks), fetched_into_files, served_bytes. spill_rate and restore_rate are bytes a second
        while there was something to write or read.
        """
        return {**totals(self._ledger), **self.spills.totals()}

    def validate(self) -> None:
        """Check every invariant; raises AssertionError."""
        ledger = self._ledger
        ledger.allocator.validate()
        ledger.check_accounts(self.spills.extents())
        self.spills.validate()
        self._restores.validate()
        self._pins.validate()
        self._readers.validate()
        self.sharing.validate()
        counts: dict[bytes, int] = {}
        for client in ledger.clients.values():
            assert 0 not in client.holds.values(), client
            assert sum(1 for n in client.holds.values() if n < 0) <= client.debts, client
            for object_id, count in client.holds.items():
                counts[object_id] = counts.get(object_id, 0) + (count > 0)
        for obj in {*ledger.objects.values(), *ledger.returning}:
            for inner in obj.contained:
                counts[inner] = counts.get(inner, 0) + 1
        for obj in ledger.objects.values():
            assert obj.holders == counts.pop(obj.id, 0), obj
            shared = obj.id in ledger.shared
            assert obj.holders or obj.pins or shared, f"{obj} is kept by nobody"
            assert obj.recalled == (not obj.holders and not shared), obj
        assert {i: n for i, n in counts.items() if n} == ledger.early, "holds of objects to come"
        for content_hash, object_id in ledger.by_hash.items():
            assert ledger.objects[object_id].content_hash == content_hash
        assert not ledger.recalls, "recalls that were not sent"
        assert not ledger.forsaken, "readers that were not told"

    def settle(self) -> None:
        """What every call ends with: recalls go out, and freed memory to whoever waits for it."""
        ledger = self._ledger
        if ledger.forsaken:
            ids, ledger.forsaken = ledger.forsaken, []
            self._readers.forsaken(ids)
        if ledger.recalls:
            ledger.flush_recalls()
        if self._extents.waiting:
            self._extents.serve()


def _fork(_client: Client, message: list[Any], _now: float) -> None:
    fields(message, 0)

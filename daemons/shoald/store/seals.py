"""Seals: an extent becomes an object; and finding an object by its content.

A second seal of an id changes nothing: the first copy stays, the second's extent is freed, and a holder that still has the hold
of the first is not counted again (its task ran twice, it holds one ref). Of an object whose only copy was damaged, the second
seal is a new first one; its holders stay as they are.
"""

from __future__ import annotations

from sys import intern
from typing import Any

from shoal.ids import NO_PROCESS, split_ids
from shoal.wire import messages as m
from shoald.store.errors import ProtocolError
from shoald.store.holds import Holds
from shoald.store.ledger import BORN, HELD, Ledger, checked_ids, checked_size, fields
from shoald.store.objects import LOST, Client, StoredObject
from shoald.store.pins import Pins
from shoald.store.readers import Readers
from shoald.store.spills import Spills

_HASH_SIZE = 16
_RETURN_OF_READER = 3  # fields of a FILE_RETURN by one who has read it


class Seals:
    """Turns leased memory into objects."""

    __slots__ = ("_holds", "_ledger", "_parked", "_pins", "_readers", "_spills", "_wanted")

    def __init__(self, ledger: Ledger, holds: Holds, pins: Pins, readers: Readers, spills: Spills) -> None:
        self._ledger = ledger
        self._holds = holds
        self._pins = pins
        self._readers = readers
        self._spills = spills
        self._parked, self._wanted = readers.tables

    def seal(
        self,
        client: Client,
        message: list[Any],
        now: float,
        in_file: tuple[int, int] | None = None,
        made: tuple[StoredObject, bytes] | None = None,
        taken: bool = False,
    ) -> None:
        """SEAL: the object is there, and whoever waited for it is answered.

        ``in_file``: (number of a lent file, proof), and the message's offset means nothing. ``made``: an object and who is to
        hold it, instead of a message; ``taken``: its memory is no longer leased to the client.
        """
        ledger = self._ledger
        obj, holder_proc = _parse(message, now) if made is None else made
        object_id = obj.id
        if in_file is not None:
            self._spills.seal_in(client, obj, *in_file)
        elif not taken and not client.leased.take(obj.offset, obj.allocated):
            raise ProtocolError(f"[{obj.offset}, {obj.offset + obj.allocated}) is not leased to this client")
        ledger.counters["seals"] += 1
        objects = ledger.objects
        known = objects.get(object_id)
        if known is not None:
            if known.disk is None or known.disk.state != LOST:
                self._duplicate(client, obj, holder_proc)
                return
            obj.holders, holder = known.holders, None
            before = obj.holders
        else:
            obj.holders = before = ledger.early.pop(object_id, 0) if ledger.early else 0
            holder = ledger.clients.get(holder_proc)
            if ledger.given and ledger.given.get(object_id) == holder_proc:
                holder = None  # the hold came with a copy that another node has sealed, or that was here and is lost
        if holder is not None:
            self._hold_new(holder, obj)
        objects[object_id] = obj
        if in_file is None:
            ledger.sealed_bytes += obj.allocated
            if not obj.flags & m.SEAL_PRIMARY:
                ledger.secondary_bytes += obj.allocated
        if obj.content_hash and not obj.flags & m.SEAL_ERROR:
            ledger.by_hash.setdefault(obj.content_hash, object_id)
        for inner in obj.contained:
            self._contain(inner)
        if known is not None:
            ledger.returning.discard(known)
            ledger.release_contained(known)
        if ledger.clustered:
            self._share(obj, before, holder_proc)
        if obj.flags & m.SEAL_PINNED:
            obj.pins = {client: 1}
            client.pins.add(object_id)
            ledger.pinned_bytes += obj.allocated
        if self._parked or self._wanted or ledger.expected:
            self._readers.sealed(obj)
        if not obj.holders and object_id not in ledger.shared:
            ledger.unheld(obj)

    def found(self, obj: StoredObject) -> None:
        """What a directory that had been given up has brought is in the region: it is the object of its id (again)."""
        ledger = self._ledger
        ledger.returning.discard(obj)
        resumes = ledger.objects.get(obj.id) is not obj
        if resumes:
            self._resume(obj)
        self._readers.sealed(obj)
        if resumes and not obj.holders and obj.id not in ledger.shared:
            ledger.unheld(obj)

    def _resume(self, obj: StoredObject) -> None:
        """An abandoned record takes its place again: it has the holders that its id has now, and other nodes hear of the copy."""
        ledger = self._ledger
        obj.holders = before = ledger.early.pop(obj.id, 0)
        ledger.objects[obj.id] = obj
        if obj.content_hash and not obj.flags & m.SEAL_ERROR:
            ledger.by_hash.setdefault(obj.content_hash, obj.id)
        if obj.id in ledger.shared:
            self._share(obj, before, NO_PROCESS)
        elif ledger.clustered:
            self._holds.sharing.share(obj.id)  # processes elsewhere may hold it: the head knows

    def seal_copy(
        self,
        client: Client,
        stamp: bytes,
        seal: list[Any],
        now: float,
        in_file: tuple[int, int] | None = None,
    ) -> StoredObject:
        """See `StoreCore.seal_copy`."""
        object_id, offset, size, contained, flags, callsite, content_hash = seal
        inner = _inner(object_id, contained) if contained else ()
        allocated = (size + 63) & -64 or 64
        obj = StoredObject(
            object_id, offset, size, allocated, inner, flags, intern(callsite), content_hash, now
        )
        obj.copy = stamp
        self.seal(client, [], now, in_file, made=(obj, NO_PROCESS))
        return obj

    def seal_parcel(
        self,
        client: Client,
        offset: int,
        ids: list[bytes],
        sizes: list[int],
        stamps: bytes,
        callsites: list[str],
        now: float,
    ) -> list[StoredObject]:
        """See `StoreCore.seal_parcel`."""
        made = _line_up(ids, offset, sizes, 0, callsites, now)
        for index, obj in enumerate(made):
            obj.copy = stamps[16 * index : 16 * index + 16]
        return self._seal_together(client, made, NO_PROCESS, now)

    def seal_run(self, client: Client, message: list[Any], now: float) -> None:
        """SEAL_RUN: as many SEALs of what contains nothing."""
        joined, offset, sizes, flags, holder_proc, callsites = fields(message, 6)
        ids = split_ids(checked_ids(joined))
        checked_size(flags)
        if not (
            type(sizes) is type(callsites) is list
            and len(sizes) == len(callsites) == len(ids) > 0
            and type(holder_proc) is bytes
            and not checked_size(offset) & 63
            and not flags & m.SEAL_PINNED
            and all(type(where) is str for where in callsites)
        ):
            raise ProtocolError("malformed SEAL_RUN")
        for size in sizes:
            checked_size(size)
        made = _line_up(ids, offset, sizes, flags, callsites, now)
        self._seal_together(client, made, holder_proc, now)

    def _seal_together(
        self, client: Client, made: list[StoredObject], holder_proc: bytes, now: float
    ) -> list[StoredObject]:
        """As `seal`, of objects that lie one after the other, contain nothing, and are not pinned; returns those that are new."""
        begin, end = made[0].offset, made[-1].offset + made[-1].allocated
        if not client.leased.take(begin, end - begin):
            raise ProtocolError(f"[{begin}, {end}) is not leased to this client")
        ledger = self._ledger
        objects, early, clustered, shared = ledger.objects, ledger.early, ledger.clustered, ledger.shared
        holder = ledger.clients.get(holder_proc)
        singly = bool(ledger.given) or (holder is None and holder_proc != NO_PROCESS)
        fresh = []
        taken = 0
        for obj in made:
            object_id = obj.id
            if singly or object_id in objects:
                self.seal(client, [], now, made=(obj, holder_proc), taken=True)
                continue
            obj.holders = before = early.pop(object_id, 0) if early else 0
            if holder is not None:
                self._hold_new(holder, obj)
            objects[object_id] = obj
            taken += obj.allocated
            if clustered:
                self._share(obj, before, holder_proc)
            fresh.append(obj)
        ledger.counters["seals"] += len(fresh)
        ledger.sealed_bytes += taken
        if not made[0].flags & m.SEAL_PRIMARY:
            ledger.secondary_bytes += taken
        if self._parked or self._wanted or ledger.expected:
            self._readers.sealed_together(fresh)
        for obj in fresh:
            if not obj.holders and obj.id not in shared:
                ledger.unheld(obj)
        return fresh

    @staticmethod
    def _hold_new(holder: Client, obj: StoredObject) -> None:
        """The hold that comes with a first copy."""
        count = holder.holds.get(obj.id, 0) + 1
        if count:
            holder.holds[obj.id] = count
            if count == 1:
                obj.holders += 1
        else:
            del holder.holds[obj.id]

    def seal_in_file(self, client: Client, message: list[Any], now: float) -> None:
        """SEAL_IN_FILE: an object is there, in a file that was lent to its creator."""
        number, proof, object_id, size, contained, flags, *rest = fields(message, 9)
        checked_size(number)
        if type(proof) is not int:
            raise ProtocolError("a proof is a number")
        unpinned = flags & ~m.SEAL_PINNED if type(flags) is int else flags
        self.seal(client, [m.SEAL, object_id, 0, size, contained, unpinned, *rest], now, (number, proof))
        self._ledger.counters["written_in_files"] += 1

    def alloc_file(self, client: Client, message: list[Any], now: float) -> None:
        """ALLOC_FILE: FILE_LENT, when the file is there, or ALLOC_FAILED."""
        req, size = fields(message, 2)
        if len(client.files) >= self._ledger.config.spill_lent_files_max:
            raise ProtocolError(f"{len(client.files)} files lent to one client")
        self._spills.lend(client, checked_size(req), checked_size(size), now)

    def file_return(self, client: Client, message: list[Any], _now: float) -> None:
        """FILE_RETURN: a lent file will not be used, or one is not looked at any more."""
        if len(message) == _RETURN_OF_READER:
            _, number, times = message
            self._spills.readers.closed(client, checked_size(number), checked_size(times))
            return
        (number,) = fields(message, 1)
        self._spills.take_back(client, checked_size(number))

    def file_stalled(self, client: Client, message: list[Any], now: float) -> None:
        """FILE_STALLED: a write to a lent file hangs; FILE_RETURN follows, should it end."""
        number, waited_ms = fields(message, 2)
        self._spills.stalled(client, checked_size(number), now - checked_size(waited_ms) / 1000)

    def dedup(self, client: Client, message: list[Any], _now: float) -> None:
        """DEDUP: answer DEDUP_FOUND, with a hold and a pin for the sender if there is such an object."""
        ledger = self._ledger
        req, content_hash, size = fields(message, 3)
        checked_size(req)
        checked_size(size)
        if type(content_hash) is not bytes or len(content_hash) != _HASH_SIZE:
            raise ProtocolError(f"a content hash has {_HASH_SIZE} bytes")
        obj = ledger.objects.get(ledger.by_hash.get(content_hash, b""))
        if obj is None or obj.size != size or obj.offset < 0:
            ledger.send(client, [m.DEDUP_FOUND, req, b"", 0, 0])
            return
        self._holds.add(client, obj.id)
        self._pins.add(client, obj)
        ledger.counters["dedups"] += 1
        ledger.send(client, [m.DEDUP_FOUND, req, obj.id, obj.offset, obj.size])

    def _contain(self, inner_id: bytes) -> None:
        """A container's hold on what it contains, sealed or not."""
        ledger = self._ledger
        inner = ledger.objects.get(inner_id)
        if inner is None:
            others = ledger.early.get(inner_id, 0)
            ledger.early[inner_id] = others + 1
        else:
            others = inner.holders
            inner.holders += 1
            if inner.recalled:
                ledger.held_again(inner)
        if ledger.clustered and not others:
            ledger.first_holder(inner_id, inner)

    def _share(self, obj: StoredObject, before: int, holder_proc: bytes) -> None:
        """What other nodes have to do with a new object: they know its id, have its bytes, or are to hold it."""
        ledger, sharing = self._ledger, self._holds.sharing
        if obj.id in ledger.shared:
            ledger.changes.append((BORN, obj.id, obj.size))
            if obj.holders and not before:
                ledger.changes.append((HELD, obj.id, 0))
            for inner_id in obj.contained:
                sharing.share(inner_id)
        elif not obj.flags & m.SEAL_PRIMARY:
            sharing.share(obj.id)
        if holder_proc not in ledger.clients:
            sharing.hand_sealed(holder_proc, obj.id, obj.size, obj.flags)

    def _duplicate(self, client: Client, obj: StoredObject, holder_proc: bytes) -> None:
        holder = self._ledger.clients.get(holder_proc)
        if holder is None:
            if self._ledger.clustered:  # its node knows whether it has the hold of the first copy
                self._holds.sharing.hand_sealed(holder_proc, obj.id, obj.size, obj.flags)
        elif holder.holds.get(obj.id, 0) <= 0:
            self._holds.add(holder, obj.id)
        if obj.flags & m.SEAL_PINNED:
            self._pins.add_duplicate(client, obj)
        elif obj.disk is not None:
            self._ledger.forget_copy(obj)
        else:
            self._ledger.allocator.free(obj.offset, obj.allocated)


def _line_up(
    ids: list[bytes], offset: int, sizes: list[int], flags: int, callsites: list[str], now: float
) -> list[StoredObject]:
    """Objects that contain nothing, one after the other from ``offset`` on."""
    made = []
    for object_id, size, where in zip(ids, sizes, callsites, strict=True):
        allocated = (size + 63) & -64 or 64
        made.append(StoredObject(object_id, offset, size, allocated, (), flags, intern(where), b"", now))
        offset += allocated
    return made


def _parse(message: list[Any], now: float) -> tuple[StoredObject, bytes]:
    """The object that a SEAL describes and the holder it names; raises ProtocolError if it makes no sense."""
    if len(message) != 9:
        fields(message, 8)
    _, object_id, offset, size, contained, flags, holder, callsite, content_hash = message
    if not (
        type(object_id) is bytes
        and len(object_id) == 16
        and type(offset) is int
        and offset >= 0
        and not offset & 63
        and type(size) is int
        and size >= 0
        and type(flags) is int
        and type(holder) is bytes
        and type(callsite) is str
        and type(content_hash) is bytes
        and type(contained) is bytes
    ):
        raise ProtocolError("malformed SEAL")
    inner = _inner(object_id, contained) if contained else ()
    if content_hash and len(content_hash) != _HASH_SIZE:
        raise ProtocolError(f"a content hash has {_HASH_SIZE} bytes")
    allocated = (size + 63) & -64 or 64
    obj = StoredObject(object_id, offset, size, allocated, inner, flags, intern(callsite), content_hash, now)
    return obj, holder


def _inner(object_id: bytes, contained: bytes) -> tuple[bytes, ...]:
    if len(contained) % 16:
        raise ProtocolError("contained ids are not a whole number of ids")
    ids = dict.fromkeys(split_ids(contained))
    ids.pop(object_id, None)  # a hold on itself would keep it for ever
    return tuple(ids)

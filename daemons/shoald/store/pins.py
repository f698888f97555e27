"""Pins: what processes have mapped views into. A pinned object stays where it is, whoever else lets go.

Pins are counted per (object, process), one for every PINNED, DEDUP_FOUND and SEAL_PINNED; an UNPIN names
the id once for each that it gives back. So an answer that is still on its way to the client stays a pin when
an older one is given back. A pin goes by UNPIN or by the confirmed death of its process, never by a timeout.

A forked child has its parent's mappings: it pins the same objects, under a token, until its end is seen.

A *duplicate* is an extent that a client sealed and pinned for an object that existed already (a task that
ran twice). The first copy is the object; the second stays, unseen by others, while the client has views
into it.
"""

from __future__ import annotations

from typing import Any

from shoal.ids import split_ids
from shoal.wire import messages as m
from shoald.store.errors import ProtocolError
from shoald.store.ledger import Ledger, checked_ids, fields
from shoald.store.objects import Client, StoredObject


class Pins:
    """Adds pins, takes them back, and frees what only they kept."""

    __slots__ = ("_ledger",)

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    def add(self, client: Client, obj: StoredObject) -> None:
        """One more pin of an object by a client."""
        pins = obj.pins
        if pins is None:
            obj.pins = {client: 1}
            self._ledger.pinned_bytes += obj.allocated
        else:
            pins[client] = pins.get(client, 0) + 1
        client.pins.add(obj.id)

    def answer(self, client: Client, req: int, obj: StoredObject) -> None:
        """Pin for a PIN request and say so; an object that nobody holds is asked back at once."""
        ledger = self._ledger
        pins = obj.pins  # as in `add` and `tell`, inline: this is the hot path of every read
        if pins is None:
            obj.pins = {client: 1}
            ledger.pinned_bytes += obj.allocated
        else:
            pins[client] = pins.get(client, 0) + 1
        object_id = obj.id
        client.pins.add(object_id)
        ledger.counters["pins"] += 1
        obj.asked = False  # of this pin it was not
        ledger.outbox.append((client.proc, [m.PINNED, req, object_id, obj.offset, obj.size, obj.flags]))
        if obj.recalled:
            ledger.recalls.setdefault(client.proc, []).append(object_id)

    def answer_many(self, client: Client, objects: list[StoredObject]) -> None:
        """As `answer`, for several requests with number 0."""
        ledger = self._ledger
        for obj in objects:
            self.add(client, obj)
            obj.asked = False
            if obj.recalled:
                ledger.recalls.setdefault(client.proc, []).append(obj.id)
        ledger.counters["pins"] += len(objects)
        ids = b"".join([obj.id for obj in objects])
        offsets, sizes = [obj.offset for obj in objects], [obj.size for obj in objects]
        ledger.send(client, [m.PINNED_MANY, ids, offsets, sizes, [obj.flags for obj in objects]])

    def add_small(
        self, client: Client, ids: list[bytes], bytes_max: int, now: float
    ) -> list[tuple[int, StoredObject]]:
        """Pin, for another node, those of ``ids`` that are in the region and nothing but up to so many bytes.

        Returns (position in ``ids``, object) of each; nothing is told to the client.
        """
        ledger = self._ledger
        objects, mine = ledger.objects, client.pins
        found = []
        pinned_bytes = 0
        for position, object_id in enumerate(ids):
            obj = objects.get(object_id)
            if obj is None or obj.offset < 0 or obj.allocated > bytes_max:
                continue
            if obj.contained or obj.content_hash or obj.recalled or obj.flags & m.SEAL_ERROR:
                continue
            pins = obj.pins
            if pins is None:
                obj.pins = {client: 1}
                pinned_bytes += obj.allocated
            else:
                pins[client] = pins.get(client, 0) + 1
            mine.add(object_id)
            obj.asked = False
            obj.used_at = now
            found.append((position, obj))
        ledger.pinned_bytes += pinned_bytes
        ledger.counters["pins"] += len(found)
        return found

    def refuse(self, client: Client, req: int, obj: StoredObject, kind: str, why: str) -> None:
        """Say that an object cannot be pinned."""
        message = f"object {obj.id.hex()} cannot be read: {why}"
        self._ledger.send(client, [m.PIN_FAILED, req, obj.id, kind, message])

    def tell(self, client: Client, req: int, obj: StoredObject) -> None:
        """Say that an object is pinned for a PIN request: it was before, by `add`."""
        ledger = self._ledger
        ledger.counters["pins"] += 1
        obj.asked = False  # of this pin it was not
        ledger.send(client, [m.PINNED, req, obj.id, obj.offset, obj.size, obj.flags])
        if obj.recalled:
            ledger.recalls.setdefault(client.proc, []).append(obj.id)

    def unpin(self, client: Client, message: list[Any], _now: float) -> None:
        """UNPIN: one pin less for each id (an id may be repeated); unknown ones are ignored."""
        if len(message) != 2:
            fields(message, 1)
        ids = checked_ids(message[1])
        ledger = self._ledger
        objects, mine = ledger.objects, client.pins
        gone: list[StoredObject] = []
        for object_id in split_ids(ids):
            if client.duplicates and object_id in client.duplicates:
                self._unpin_duplicate(client, object_id)
                continue
            obj = objects.get(object_id)
            pins = obj.pins if obj is not None else None
            if obj is None or pins is None or client not in pins:
                continue
            if len(pins) > 1 or pins[client] > 1:
                self._less(client, obj, gone)
                continue
            obj.pins = None  # as `_less`, inline: the common case
            mine.discard(object_id)
            ledger.pinned_bytes -= obj.allocated
            if obj.recalled:
                gone.append(obj)
            elif obj.asked:
                ledger.returned.append(obj)
        if gone:
            ledger.free(gone)

    def add_duplicate(self, client: Client, obj: StoredObject) -> None:
        """Keep the second copy that a client sealed and pinned, and ask for it."""
        obj.pins = {client: 1}
        client.duplicates.setdefault(obj.id, []).append(obj)
        self._ledger.duplicate_bytes += obj.allocated
        self._ledger.recalls.setdefault(client.proc, []).append(obj.id)

    def forked(self, client: Client, token: bytes | int) -> Client:
        """A child of the client, which pins what the client pins now.

        Raises ProtocolError for a token in use.
        """
        ledger = self._ledger
        if token in ledger.forks:
            raise ProtocolError(f"fork token {token!r} is in use")
        child = Client(b"", {**client.info, "kind": f"fork of {client.info.get('kind', 'process')}"})
        ledger.forks[token] = child
        for object_id in client.pins:
            self.add(child, ledger.objects[object_id])
        for object_id, dups in client.duplicates.items():
            child.duplicates[object_id] = list(dups)
            for dup in dups:
                assert dup.pins is not None
                dup.pins[child] = 1
        return child

    def fork_ended(self, token: bytes | int) -> Client | None:
        """The child, which is gone. Unknown tokens are ignored: the end may be seen twice."""
        child = self._ledger.forks.pop(token, None)
        if child is not None:
            self.drop(child)
        return child

    def drop(self, client: Client) -> None:
        """The client is gone, and its pins with it."""
        for object_id in list(client.duplicates):
            while object_id in client.duplicates:
                self._unpin_duplicate(client, object_id)
        gone: list[StoredObject] = []
        for object_id in list(client.pins):
            obj = self._ledger.objects[object_id]
            assert obj.pins is not None
            obj.pins[client] = 1
            self._less(client, obj, gone)
        if gone:
            self._ledger.free(gone)

    def _less(self, client: Client, obj: StoredObject, gone: list[StoredObject]) -> None:
        """One pin less; what nothing keeps any more goes into ``gone``."""
        pins = obj.pins
        assert pins is not None
        if pins[client] > 1:
            pins[client] -= 1
            return
        del pins[client]
        client.pins.discard(obj.id)
        if not pins:
            obj.pins = None
            self._ledger.pinned_bytes -= obj.allocated
            if obj.recalled:
                gone.append(obj)
            elif obj.asked:
                self._ledger.returned.append(obj)

    def _unpin_duplicate(self, client: Client, object_id: bytes) -> None:
        dups = client.duplicates[object_id]
        dup = dups.pop()
        if not dups:
            del client.duplicates[object_id]
        assert dup.pins is not None
        del dup.pins[client]
        if not dup.pins:
            self._ledger.duplicate_bytes -= dup.allocated
            self._ledger.allocator.free(dup.offset, dup.allocated)

    def validate(self) -> None:
        """Raises AssertionError unless objects and clients agree about who pins what."""
        ledger = self._ledger
        pinned = {(client, obj.id) for obj in ledger.objects.values() for client in obj.pins or ()}
        everyone = [*ledger.clients.values(), *ledger.forks.values()]
        assert pinned == {(client, object_id) for client in everyone for object_id in client.pins}
        for obj in ledger.objects.values():
            assert obj.pins is None or (obj.pins and min(obj.pins.values()) > 0), obj
            assert obj.pins is None or obj.offset >= 0, f"{obj} is pinned, and not in the region"
        for client in everyone:
            for dups in client.duplicates.values():
                assert dups, f"empty list of duplicates at {client}"
                assert all(dup.pins and dup.pins[client] == 1 for dup in dups), client

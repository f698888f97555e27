"""Readers of objects that are not here yet: parked PIN and WATCH requests, and what they wait for.

A reader of an unknown id waits for one of three things, and is answered the moment none is left:
- the stream its stamp names, until that is processed as far as the stamp says, or has ended;
- a process that announced (EXPECT) that it will seal the id, until it seals it or dies;
- somebody (a process or a container) who holds the id, while its owner lives: whoever is given a ref can only have
  it after the seal or the announcement was sent, so one of these is on its way in another stream.
A seal answers every reader of its id, whatever they wait for.

Bounds: requests parked and ids announced per client (config.parked_reads_max); beyond, the connection closes.
"""

from __future__ import annotations

from heapq import heappop, heappush
from itertools import count
from typing import Any

from shoal.ids import PROCESS_ID_SIZE
from shoal.wire import messages as m
from shoald.store.errors import ProtocolError
from shoald.store.ledger import Ledger, checked_id, checked_ids, checked_size, fields
from shoald.store.objects import Client, Read, StoredObject
from shoald.store.pins import Pins


class Readers:
    """Answers reads, or parks them."""

    __slots__ = ("_expected", "_ledger", "_parked", "_pins", "_sequence")

    def __init__(self, ledger: Ledger, pins: Pins) -> None:
        self._ledger = ledger
        self._pins = pins
        self._parked: dict[bytes, dict[Read, None]] = {}
        self._expected: dict[bytes, dict[Client, None]] = {}
        self._sequence = count()

    def pin(self, client: Client, message: list[Any], _now: float) -> None:
        """PIN: PINNED now, or later, or PIN_FAILED."""
        req, object_id, proc, number, priority = fields(message, 5)
        checked_size(priority)
        obj = self._ledger.objects.get(checked_id(object_id))
        if obj is not None:
            self._pins.answer(client, checked_size(req), obj)
        else:
            self._park(Read(client, checked_size(req), object_id), proc, checked_size(number))

    def watch(self, client: Client, message: list[Any], _now: float) -> None:
        """WATCH: AVAILABLE now or later."""
        object_id, proc, number = fields(message, 3)
        obj = self._ledger.objects.get(checked_id(object_id))
        if obj is not None:
            self._ledger.send(client, [m.AVAILABLE, obj.id, obj.size, obj.flags, ""])
        else:
            self._park(Read(client, None, object_id), proc, checked_size(number))

    def expect(self, client: Client, message: list[Any], _now: float) -> None:
        """EXPECT: the client will seal these; ids that are sealed already are ignored."""
        ids = checked_ids(*fields(message, 1))
        for start in range(0, len(ids), 16):
            object_id = ids[start : start + 16]
            if object_id not in self._ledger.objects:
                self._expected.setdefault(object_id, {})[client] = None
                client.expects.add(object_id)
        if len(client.expects) > self._ledger.config.parked_reads_max:
            raise ProtocolError(f"{len(client.expects)} objects expected of one client")

    def sealed(self, obj: StoredObject) -> None:
        """Answer everybody who waits for this object."""
        if self._expected:
            for client in self._expected.pop(obj.id, ()):
                client.expects.discard(obj.id)
        for read in self._parked.pop(obj.id, ()):
            del read.client.reads[read]
            if read.req is None:
                self._ledger.send(read.client, [m.AVAILABLE, obj.id, obj.size, obj.flags, ""])
            else:
                self._pins.answer(read.client, read.req, obj)

    def advanced(self, client: Client, number: int) -> None:
        """The client's stream is processed up to ``number``: settle the reads that waited for that."""
        client.processed = max(client.processed, number)
        stamped = client.stamped
        while stamped and stamped[0][0] <= number:
            read = heappop(stamped)[2]
            read.stamped = False
            if read in read.client.reads and not self._promised(read.id):
                self._fail(read, "")

    def forsaken(self, ids: list[bytes]) -> None:
        """The last holds of these ids went before they were sealed."""
        for object_id in ids:
            if object_id in self._parked:
                self._fail_hopeless(object_id, "")

    def drop(self, client: Client) -> None:
        """The client is gone: its own reads, what it announced, and its stream."""
        for read in client.reads:
            waiting = self._parked[read.id]
            del waiting[read]
            if not waiting:
                del self._parked[read.id]
        client.reads.clear()
        for object_id in client.expects:
            promisers = self._expected[object_id]
            del promisers[client]
            if not promisers:
                del self._expected[object_id]
        # A stream that ended is processed as far as it will ever be.
        stamped, client.stamped = client.stamped, []
        for _, _, read in stamped:
            read.stamped = False
        hopeless = {read.id for _, _, read in stamped if read in read.client.reads}
        hopeless.update(object_id for object_id in client.expects if object_id in self._parked)
        hopeless.update(object_id for object_id in self._parked if object_id[:PROCESS_ID_SIZE] == client.proc)
        client.expects = set()
        for object_id in sorted(hopeless):
            self._fail_hopeless(object_id, client.name)

    def _promised(self, object_id: bytes) -> bool:
        """Whether the seal of an unknown id is announced, or on its way in some stream."""
        if object_id in self._expected:
            return True
        ledger = self._ledger
        return object_id in ledger.early and object_id[:PROCESS_ID_SIZE] in ledger.clients

    def _fail_hopeless(self, object_id: bytes, dead: str) -> None:
        """Fail the readers of an id that have nothing left to wait for."""
        if not self._promised(object_id):
            for read in [read for read in self._parked.get(object_id, ()) if not read.stamped]:
                self._fail(read, dead)

    def _park(self, read: Read, proc: object, number: int) -> None:
        ledger = self._ledger
        stream = ledger.clients.get(proc) if type(proc) is bytes else None
        waits = stream is not None and stream.processed < number
        if not waits and not self._promised(read.id):
            dead = type(proc) is bytes and proc in ledger.dead
            self._answer_failed(read, "the process" if dead else "")
            return
        reads = read.client.reads
        if len(reads) >= ledger.config.parked_reads_max:
            raise ProtocolError(f"{len(reads)} reads of one client wait for objects")
        reads[read] = None
        self._parked.setdefault(read.id, {})[read] = None
        if stream is not None and waits:
            read.stamped = True
            heappush(stream.stamped, (number, next(self._sequence), read))

    def _fail(self, read: Read, dead: str) -> None:
        """Answer a parked read that nothing will fulfil any more; ``dead`` is who ended, if somebody did."""
        del read.client.reads[read]
        waiting = self._parked[read.id]
        del waiting[read]
        if not waiting:
            del self._parked[read.id]
        self._answer_failed(read, dead)

    def _answer_failed(self, read: Read, dead: str) -> None:
        ledger = self._ledger
        if read.id in ledger.freed:
            kind, why = "freed", "it was freed: no process held a reference any more"
        elif dead:
            kind, why = "owner_died", f"{dead}, which was to make it, ended before it did"
        else:
            kind, why = "lost", "this node's store does not have it, and no process here is about to make it"
        message = f"object {read.id.hex()} cannot be read: {why}"
        if read.req is None:
            ledger.send(read.client, [m.AVAILABLE, read.id, 0, 0, message])
        else:
            ledger.send(read.client, [m.PIN_FAILED, read.req, read.id, kind, message])

    def validate(self) -> None:
        """Raises AssertionError unless every parked read still has something to wait for."""
        clients = self._ledger.clients.values()
        stamped = {entry[2] for client in clients for entry in client.stamped}
        for client in clients:
            assert all(entry[0] > client.processed for entry in client.stamped), f"{client} was not heard"
        for object_id, waiting in self._parked.items():
            assert waiting, object_id.hex()
            assert object_id not in self._ledger.objects, object_id.hex()
            for read in waiting:
                assert read in read.client.reads
                assert read.stamped == (read in stamped)
                assert read.stamped or self._promised(object_id), f"{object_id.hex()} waits for nothing"
        assert sum(len(w) for w in self._parked.values()) == sum(len(c.reads) for c in clients)
        for object_id, promisers in self._expected.items():
            assert promisers, object_id.hex()
            assert object_id not in self._ledger.objects, object_id.hex()
            assert all(object_id in client.expects for client in promisers)
        assert sum(len(p) for p in self._expected.values()) == sum(len(c.expects) for c in clients)

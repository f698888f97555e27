"""Readers of objects that are not here yet: parked PIN and WATCH requests, and what they wait for.

A reader of an unknown id waits for one of three things, and is answered the moment none is left:
- the stream its stamp names, until that is processed as far as the stamp says, or has ended;
- a process that announced (EXPECT) that it will seal the id, until it seals it or dies;
- somebody (a process or a container) who holds the id, while its owner lives: whoever is given a ref can only have
  it after the seal or the announcement was sent, so one of these is on its way in another stream.
A seal answers every reader of its id, whatever they wait for. Readers of what is here, but on disk, wait in
`restores`.

In a cluster (`Ledger.clustered`) a reader of what is not here may wait for a fourth thing: that it is fetched from another
node. It is *wanted* when its stamp, the id (its owner) or a peer (`Ledger.hints`) says that it is elsewhere and nothing
above is left to wait for; the object manager hears of it through `Ledger.wants`, and ends the wait by sealing a copy, or by
`fetch_failed`. Other nodes' readers do not have it fetched to here: they are told where to ask (kind "elsewhere").

Before a reader is told that an object is lost, the process that owns it is asked (RECOVER): it has the object made again, and
says so (EXPECT), or says why not (UNRECOVERABLE). Of what has no copy any more (`Ledger.unbacked`) a hold promises nothing.

Bounds: requests parked and ids announced per client (config.parked_reads_max); beyond, the connection closes.
"""

from __future__ import annotations

from heapq import heappop, heappush
from itertools import count
from typing import Any

from shoal.ids import PROCESS_ID_SIZE, split_ids, tag_of
from shoal.wire import messages as m
from shoald.store.errors import ProtocolError
from shoald.store.ledger import Ledger, checked_id, checked_ids, checked_size, fields
from shoald.store.objects import LOST, Client, Read, StoredObject
from shoald.store.pins import Pins
from shoald.store.restores import Restores, lost_text

_LOST_KINDS = ("lost", "unrecoverable")
_NO_TASK = bytes(4)  # a task counter that is not used: such an id is asked for to learn how far a stream is


class Readers:
    """Answers reads, or parks them.

    Attributes:
        tables: if all of them are empty, `sealed` has nothing to do.
    """

    __slots__ = (
        "_asked",
        "_asks",
        "_ledger",
        "_parked",
        "_pins",
        "_restores",
        "_sequence",
        "_wanted",
        "tables",
    )

    def __init__(self, ledger: Ledger, pins: Pins, restores: Restores) -> None:
        self._ledger = ledger
        self._pins = pins
        self._restores = restores
        restores.on_lost = self._lost_here
        self._parked: dict[bytes, dict[Read, None]] = {}
        self._sequence = count()
        self._wanted: dict[bytes, int] = {}  # id → the most urgent priority
        self._asks = False  # somebody may only want to know whether something is there
        # id → its owner, who was asked to have it made again, and how it was lost, if that is known
        self._asked: dict[bytes, tuple[Client, str]] = {}
        # Whoever seals asks this first: a call of `sealed` costs 5 % of a seal.
        self.tables = (self._parked, self._wanted)

    def pin(self, client: Client, message: list[Any], now: float) -> None:
        """PIN: PINNED now, or later, or PIN_FAILED."""
        if len(message) != 6:
            fields(message, 5)
        _, req, object_id, proc, number, priority = message
        if type(object_id) is not bytes or type(req) is not int or req < 0:
            checked_id(object_id)
            checked_size(req)
        obj = self._ledger.objects.get(object_id)
        if obj is None:
            checked_id(object_id)
            read = Read(client, req, object_id, checked_size(priority))
            self._park(read, proc, checked_size(number))
        elif obj.offset >= 0:
            obj.used_at = now
            self._pins.answer(client, req, obj)
        else:
            self._restores.request(client, [(req, obj)], checked_size(priority), now)

    def pin_together(self, client: Client, message: list[Any], now: float) -> None:
        """PIN_TOGETHER: PINNED or PIN_FAILED for each; for those that are here, when all of them can be read."""
        wanted, priority = fields(message, 2)
        checked_size(priority)
        if type(wanted) is not list or len(wanted) % 3:
            raise ProtocolError("a PIN_TOGETHER needs an id and a stamp for each object")
        objects = self._ledger.objects
        here: list[tuple[int, StoredObject]] = []
        for at in range(0, len(wanted), 3):
            object_id, number = checked_id(wanted[at]), checked_size(wanted[at + 2])
            obj = objects.get(object_id)
            if obj is None:
                self._park(Read(client, 0, object_id, priority), wanted[at + 1], number)
            else:
                here.append((0, obj))
        if all(obj.offset >= 0 for _, obj in here):
            for req, obj in here:
                obj.used_at = now
                self._pins.answer(client, req, obj)
        else:
            self._restores.request(client, here, priority, now)

    def watch(self, client: Client, message: list[Any], _now: float) -> None:
        """WATCH: AVAILABLE now or later."""
        if len(message) == 4:
            message = [*message, m.PRIORITY_ASK]
        object_id, proc, number, priority = fields(message, 4)
        obj = self._ledger.objects.get(checked_id(object_id))
        if obj is not None:
            lost = obj.disk is not None and obj.disk.state == LOST
            if lost and self._lost_here(client, None, obj):
                return
            why = f"object {obj.id.hex()} is lost: {lost_text(obj)}" if lost else ""
            self._ledger.send(client, [m.AVAILABLE, obj.id, obj.size, obj.flags, why])
        else:
            self._park(Read(client, None, object_id, checked_size(priority)), proc, checked_size(number))

    def expect(self, client: Client, message: list[Any], _now: float) -> None:
        """EXPECT: the client will seal these; ids that are sealed already are ignored."""
        ids = checked_ids(*fields(message, 1))
        for object_id in split_ids(ids):
            self._asked.pop(object_id, None)
            if object_id in self._ledger.unbacked:
                self._recovers(object_id)
            obj = self._ledger.objects.get(object_id)
            if obj is not None and obj.disk is not None and obj.disk.state == LOST:
                self._ledger.abandon(obj)
            if object_id not in self._ledger.objects and object_id not in self._ledger.sealed_elsewhere:
                self._ledger.expected.setdefault(object_id, {})[client] = None
                client.expects.add(object_id)
        if len(client.expects) > self._ledger.config.parked_reads_max:
            raise ProtocolError(f"{len(client.expects)} objects expected of one client")

    def unexpect(self, client: Client, message: list[Any], _now: float) -> None:
        """UNEXPECT: what the client announced died with a node; readers that waited for it look elsewhere, and ask its owner."""
        ids = checked_ids(*fields(message, 1))
        for object_id in split_ids(ids):
            if object_id not in client.expects:
                continue  # it has come
            client.expects.discard(object_id)
            promisers = self._ledger.expected[object_id]
            del promisers[client]
            if promisers:
                continue
            del self._ledger.expected[object_id]
            self._ledger.unshare_if_gone(object_id)
            for read in [read for read in self._parked.get(object_id, ()) if not read.stamped]:
                self._want_for(read, b"", 0)

    def _recovers(self, object_id: bytes) -> None:
        """What was lost is being made again; on a cluster it is others who may hold it, though this node forgot about that."""
        ledger = self._ledger
        del ledger.unbacked[object_id]
        if ledger.clustered and object_id not in ledger.objects:
            ledger.shared.setdefault(object_id)

    def sealed(self, obj: StoredObject) -> None:
        """Answer everybody who waits for this object."""
        if self._asked:
            self._asked.pop(obj.id, None)
        if self._ledger.unbacked:
            self._ledger.unbacked.pop(obj.id, None)
        if self._ledger.expected:
            for client in self._ledger.expected.pop(obj.id, ()):
                client.expects.discard(obj.id)
        if self._wanted:
            self._unwant(obj.id)
        for read in self._parked.pop(obj.id, ()):
            del read.client.reads[read]
            if read.req is None:
                self._ledger.send(read.client, [m.AVAILABLE, obj.id, obj.size, obj.flags, ""])
            elif obj.offset >= 0:
                self._pins.answer(read.client, read.req, obj)
            else:
                self._restores.request(read.client, [(read.req, obj)], read.priority, obj.sealed_at)

    def sealed_together(self, objects: list[StoredObject]) -> None:
        """As `sealed`, of many that are in the region."""
        ledger, wanted, parked, expected = self._ledger, self._wanted, self._parked, self._ledger.expected
        if self._asked or ledger.unbacked:
            for obj in objects:
                self.sealed(obj)
            return
        answer = self._pins.answer
        together: dict[Client, list[StoredObject]] = {}  # what was asked for with others
        for obj in objects:
            object_id = obj.id
            if expected and object_id in expected:
                for client in expected.pop(object_id):
                    client.expects.discard(object_id)
            if object_id not in parked:
                continue
            if object_id in wanted:
                del wanted[object_id]
                if not obj.copy:  # else it is what was fetched
                    ledger.wants.append((object_id, b"", 0, None))
            for read in parked.pop(object_id):
                del read.client.reads[read]
                if read.req is None:
                    ledger.send(read.client, [m.AVAILABLE, object_id, obj.size, obj.flags, ""])
                elif read.req:
                    answer(read.client, read.req, obj)
                elif read.client in together:
                    together[read.client].append(obj)
                else:
                    together[read.client] = [obj]
        for reader, pinned in together.items():
            self._pins.answer_many(reader, pinned)

    def advanced(self, client: Client, number: int) -> None:
        """The client's stream is processed up to ``number``: settle the reads that waited for that."""
        client.processed = max(client.processed, number)
        stamped = client.stamped
        while stamped and stamped[0][0] <= number:
            read = heappop(stamped)[2]
            read.stamped = False
            if read not in read.client.reads:
                continue
            ledger = self._ledger
            if ledger.clustered and read.id not in ledger.expected and self._elsewhere(read.id, b""):
                self._want_for(read, b"", 0)
            elif not self._promised(read.id):
                if self._perhaps_elsewhere(read.id, client.proc):
                    self._want_for(read, client.proc, number)
                else:
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
                self._unwant(read.id)
        client.reads.clear()
        for object_id in client.expects:
            promisers = self._ledger.expected[object_id]
            del promisers[client]
            if not promisers:
                del self._ledger.expected[object_id]
                self._ledger.unshare_if_gone(object_id)
        # A stream that ended is processed as far as it will ever be.
        stamped, client.stamped = client.stamped, []
        for _, _, read in stamped:
            read.stamped = False
        hopeless = {read.id for _, _, read in stamped if read in read.client.reads}
        hopeless.update(object_id for object_id in client.expects if object_id in self._parked)
        hopeless.update(object_id for object_id in self._parked if object_id[:PROCESS_ID_SIZE] == client.proc)
        client.expects = set()
        for object_id in [object_id for object_id, (owner, _) in self._asked.items() if owner is client]:
            del self._asked[object_id]
        for object_id in sorted(hopeless):
            self._fail_hopeless(object_id, client.name)

    def _promised(self, object_id: bytes) -> bool:
        """Whether the seal of an unknown id is announced, or on its way in some stream."""
        ledger = self._ledger
        if object_id in ledger.expected or object_id in self._wanted or object_id in self._asked:
            return True
        held = object_id in ledger.early and object_id[:PROCESS_ID_SIZE] in ledger.clients
        return held and object_id not in ledger.unbacked

    def _fail_hopeless(self, object_id: bytes, dead: str) -> None:
        """Fail the readers of an id that have nothing left to wait for."""
        if not self._promised(object_id):
            for read in [read for read in self._parked.get(object_id, ()) if not read.stamped]:
                if self._ledger.told_of(object_id):
                    self._want_for(read, b"", 0)
                else:
                    self._fail(read, dead)

    # --- what is on other nodes ---

    def is_waited_for(self, object_id: bytes) -> bool:
        """Whether somebody waits for this id, which is not here."""
        return object_id in self._parked

    def hint(self, object_id: bytes) -> None:
        """`Ledger.hints` says now that another node has this: it is fetched for those who wait, unless it is announced here."""
        if object_id in self._ledger.expected:
            return
        for read in [read for read in self._parked.get(object_id, ()) if not read.stamped]:
            self._want_for(read, b"", 0)

    def told(self, object_id: bytes, size: int, flags: int) -> None:
        """Another node has it: answer those who only wanted to know."""
        if not self._asks:
            return
        for read in [
            read
            for read in self._parked.get(object_id, ())
            if read.req is None and not read.stamped and read.priority == m.PRIORITY_ASK
        ]:
            self._take_out(read)
            self._ledger.send(read.client, [m.AVAILABLE, object_id, size, flags, ""])

    def fetch_failed(self, object_id: bytes, kind: str, text: str) -> None:
        """A wanted object cannot be fetched: answer those who have nothing else to wait for.

        That somebody holds it is nothing to wait for: by now a seal that was on its way here would have come.
        """
        if self._wanted.pop(object_id, None) is not None:
            self._missed(object_id, kind, text)

    def lost(self, object_id: bytes) -> None:
        """No node has it any more. What is being fetched, or announced, ends by itself."""
        if object_id not in self._wanted:
            self._missed(object_id, "lost", f"object {object_id.hex()} is lost: the nodes that had it died")

    def _missed(self, object_id: bytes, kind: str, text: str) -> None:
        """No other node has it: unless it is announced, or its owner can help, those who wait for it are told so.

        Of kind "full" or "disk" it is not lost: there is no room for it here, whoever makes it.
        """
        waiting = [read for read in self._parked.get(object_id, ()) if not read.stamped]
        if not waiting or object_id in self._ledger.expected or object_id in self._asked:
            return
        if kind in ("freed", "full", "disk") or not self._ask_owner(object_id, text):
            if kind == "lost" and object_id[:PROCESS_ID_SIZE] in self._ledger.dead:
                kind, text = "owner_died", f"{text}; the process that owned it has ended"
            for read in waiting:
                self._take_out(read)
                self._refuse(read, kind, text)

    # --- what is lost ---

    def _ask_owner(self, object_id: bytes, loss: str = "") -> bool:
        """Ask the owner of a lost object to have it made again; False if it is not a process of this node. ``loss``: how it was
        lost, for its readers, if that is known.
        """
        ledger = self._ledger
        owner = ledger.clients.get(object_id[:PROCESS_ID_SIZE])
        if owner is None or not owner.connected or object_id[PROCESS_ID_SIZE:].startswith(_NO_TASK):
            return False
        ledger.lose(object_id)
        if object_id not in self._asked:
            self._asked[object_id] = owner, loss
            ledger.send(owner, [m.RECOVER, object_id])
        return True

    def _lost_here(self, client: Client, req: int | None, obj: StoredObject) -> bool:
        """Park a read of an object whose copy here is damaged or gone, if another node or its owner may help; False if not."""
        ledger = self._ledger
        read = Read(client, req, obj.id, m.PRIORITY_GET)
        again = ledger.objects.get(obj.id)
        if again is not None and again is not obj and req is not None:
            self._restores.request(client, [(req, again)], m.PRIORITY_GET, obj.used_at)
            return True
        if ledger.objects.get(obj.id) is obj and obj.id in ledger.shared:
            ledger.abandon(obj)
        if ledger.objects.get(obj.id) is not obj:
            self._park(read, b"", 0)
            return True
        if not self._ask_owner(obj.id):
            return False
        self._keep(read)
        return True

    def unrecoverable(self, client: Client, message: list[Any], _now: float) -> None:
        """UNRECOVERABLE: the owner's word on a lost object, if it was asked; or on those that it finds no room for."""
        object_id, kind, why = fields(message, 3)
        if kind == "full" and type(why) is str:
            for each in split_ids(checked_ids(object_id)):
                self._find_no_room(client, each, why)
            return
        if kind not in _LOST_KINDS or type(why) is not str:
            raise ProtocolError("an object is unrecoverable for a reason")
        owner, loss = self._asked.get(checked_id(object_id), (None, ""))
        if owner is not client:
            return
        del self._asked[object_id]
        if self._promised(object_id):
            return
        for read in [read for read in self._parked.get(object_id, ()) if not read.stamped]:
            self._take_out(read)
            obj = self._ledger.objects.get(object_id)
            how = loss or f"object {object_id.hex()} is lost"
            if obj is not None and obj.disk is not None:
                how = f"object {object_id.hex()} is lost: {lost_text(obj)}"
            self._refuse(read, kind, f"{how}{'; ' if ': ' in how else ': '}{why}")

    def _find_no_room(self, client: Client, object_id: bytes, why: str) -> None:
        if object_id[:PROCESS_ID_SIZE] == client.proc and object_id not in self._ledger.objects:
            for read in list(self._parked.get(object_id, ())):
                self._take_out(read)
                self._refuse(read, "full", why)

    def _elsewhere(self, object_id: bytes, proc: object) -> bool:
        """Whether another node has it, or should know; ``proc`` is of the stamp."""
        ledger = self._ledger
        # Where it was sealed is asked first, though it is said to be lost: that may have been said before the head had heard
        # of the copy there.
        if type(proc) is bytes and proc and proc not in ledger.clients and tag_of(proc) != ledger.node_tag:
            return True
        if object_id in ledger.unbacked and object_id[:PROCESS_ID_SIZE] in ledger.clients:
            return False  # its owner will know
        if object_id in ledger.shared or ledger.told_of(object_id):
            return True
        return tag_of(object_id) != ledger.node_tag

    def _perhaps_elsewhere(self, object_id: bytes, proc: object) -> bool:
        """Whether only the head knows if another node has it: its owner is of this node and has let go of it, or it came out of
        a container, with whose stamp it is asked for.
        """
        ledger = self._ledger
        told_of = type(proc) is bytes and bool(proc) and not object_id[PROCESS_ID_SIZE:].startswith(_NO_TASK)
        return (
            ledger.clustered
            and told_of
            and object_id not in ledger.unbacked
            and object_id not in ledger.freed
        )

    def _want_for(self, read: Read, proc: bytes, number: int) -> None:
        """Have it fetched for a reader; a reader that is another node is told where to ask."""
        ledger = self._ledger
        if read.client.info.get("kind") == "node":
            if read in read.client.reads:
                self._take_out(read)
            self._refuse(read, "elsewhere", "it was sealed on another node")
            return
        urgent = self._wanted.get(read.id)
        if urgent is not None and read.req is not None:
            ledger.counters["fetch_joins"] += 1
        if urgent is None or read.priority < urgent:
            self._wanted[read.id] = read.priority
            ledger.wants.append((read.id, proc, number, read.priority))
        if read not in read.client.reads:
            self._keep(read)

    def _unwant(self, object_id: bytes) -> None:
        """Nobody waits for it any more."""
        self._asked.pop(object_id, None)
        if self._wanted.pop(object_id, None) is not None:
            self._ledger.wants.append((object_id, b"", 0, None))

    def _park(self, read: Read, proc: object, number: int) -> None:
        ledger = self._ledger
        stream = ledger.clients.get(proc) if type(proc) is bytes else None
        waits = stream is not None and stream.processed < number
        if number == m.NOWHERE and not proc and read.id not in ledger.expected:
            ledger.lose(read.id)
        if (
            not waits
            and ledger.clustered
            and read.id not in self._ledger.expected
            and self._elsewhere(read.id, proc)
        ):
            self._want_for(read, proc if type(proc) is bytes else b"", number)
            return
        if not waits and not self._promised(read.id):
            if self._perhaps_elsewhere(read.id, proc):
                self._want_for(read, proc if type(proc) is bytes else b"", number)
                return
            dead = type(proc) is bytes and proc in ledger.dead
            self._answer_failed(read, "the process" if dead else "")
            return
        self._keep(read)
        if stream is not None and waits:
            read.stamped = True
            heappush(stream.stamped, (number, next(self._sequence), read))

    def _keep(self, read: Read) -> None:
        reads = read.client.reads
        if len(reads) >= self._ledger.config.parked_reads_max:
            raise ProtocolError(f"{len(reads)} reads of one client wait for objects")
        reads[read] = None
        if read.priority == m.PRIORITY_ASK:
            self._asks = True
        elif not self._parked:
            self._asks = False
        self._parked.setdefault(read.id, {})[read] = None

    def _take_out(self, read: Read) -> None:
        del read.client.reads[read]
        waiting = self._parked[read.id]
        del waiting[read]
        if not waiting:
            del self._parked[read.id]
            self._unwant(read.id)

    def _fail(self, read: Read, dead: str) -> None:
        """Answer a parked read that nothing will fulfil any more; ``dead`` is who ended, if somebody did."""
        self._take_out(read)
        self._answer_failed(read, dead)

    def _answer_failed(self, read: Read, dead: str) -> None:
        """Answer a read that is not parked; or park it again while its owner is asked."""
        ledger = self._ledger
        if read.id not in ledger.freed and self._ask_owner(read.id):
            self._keep(read)
            return
        if read.id in ledger.freed:
            kind, why = "freed", "it was freed: no process held a reference any more"
        elif dead:
            kind, why = "owner_died", f"{dead}, which was to make it, ended before it did"
        else:
            kind, why = "lost", "this node's store does not have it, and no process here is about to make it"
        self._refuse(read, kind, f"object {read.id.hex()} cannot be read: {why}")

    def _refuse(self, read: Read, kind: str, message: str) -> None:
        if read.req is None:
            self._ledger.send(read.client, [m.AVAILABLE, read.id, 0, 0, message])
        else:
            self._ledger.send(read.client, [m.PIN_FAILED, read.req, read.id, kind, message])

    def validate(self) -> None:
        """Raises AssertionError unless every parked read still has something to wait for."""
        clients = self._ledger.clients.values()
        stamped = {entry[2] for client in clients for entry in client.stamped}
        for client in clients:
            assert all(entry[0] > client.processed for entry in client.stamped), f"{client} was not heard"
        for object_id, waiting in self._parked.items():
            assert waiting, object_id.hex()
            there = self._ledger.objects.get(object_id)
            assert there is None or (there.disk is not None and there.disk.state == LOST), object_id.hex()
            for read in waiting:
                assert read in read.client.reads
                assert read.stamped == (read in stamped)
                assert read.stamped or self._promised(object_id), f"{object_id.hex()} waits for nothing"
        assert self._wanted.keys() <= self._parked.keys(), "somebody wants what nobody waits for"
        assert self._asked.keys() <= self._parked.keys(), "an owner was asked for what nobody waits for"
        assert sum(len(w) for w in self._parked.values()) == sum(len(c.reads) for c in clients)
        for object_id, promisers in self._ledger.expected.items():
            assert promisers, object_id.hex()
            assert object_id not in self._ledger.objects, object_id.hex()
            assert all(object_id in client.expects for client in promisers)
        assert sum(len(p) for p in self._ledger.expected.values()) == sum(len(c.expects) for c in clients)

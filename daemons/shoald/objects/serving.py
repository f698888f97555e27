"""The source's side of fetches: what is here is pinned for a reader, and told; what is not, is told too. Pure.

To the store a reading node is a client (`node_client`), whose PINs are parked by the same rules as those of processes, so
that a question waits while the object is pending. What is asked for by the stamp of its copy is only looked up: complete
here, or a part that is on its way here; a part serves the chunks that it has announced.

    P_FETCH → PIN … PINNED → P_FETCHED … P_FETCH_DONE → UNPIN
                    PINNED_IN_FILE → P_FETCHED … P_FETCH_DONE

What of several ids is here and small is pinned at once, and told and served as one copy, a parcel: P_PARCEL instead of a
P_FETCHED for each, and one P_FETCH_DONE.

Threads that serve chunks look into `tickets`: (node, its number) → the copy it may read. A ticket goes when the reader
says so or is dead; a thread that is still sending then sends to a reader that does not listen any more. A part that is
given up takes its tickets along: what a thread sends meanwhile does not fit its checksum, which came with the chunk.

Bounds: tickets by what the readers' processes may wait for; copies remembered without a ticket by served_copies_max.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from shoal.ids import PROCESS_ID_SIZE, split_ids
from shoal.wire import messages as m
from shoald.objects.copies import Copy, chunk_bytes, pack_bits
from shoald.objects.effects import Effect, Tell, ToStore
from shoald.store.errors import ProtocolError
from shoald.store.ledger import checked_ids, checked_size

if TYPE_CHECKING:
    from collections.abc import Callable

    from shoal.config import Config
    from shoald.objects.pull import Facts
    from shoald.store.objects import StoredObject

    PinSmall = Callable[[bytes, list[bytes], int, float], list[tuple[int, StoredObject]]]

_FETCH_FIELDS = 7


def node_client(node_id: str) -> bytes:
    """The id of a reading node as a client of this node's store; no process has one like it."""
    return b"\0N" + bytes.fromhex(node_id)[: PROCESS_ID_SIZE - 2]


class Ticket:
    """What a reader may ask chunks of.

    Attributes:
        id: of the object; of a parcel all ids, joined.
        copy: None until the object is there.
        pinned: how many pins the store counts for it.
    """

    __slots__ = ("copy", "id", "node", "pinned", "req")

    def __init__(self, node: str, req: int, object_id: bytes) -> None:
        self.node = node
        self.req = req
        self.id = object_id
        self.copy: Copy | None = None
        self.pinned = 0


class ServeCore:
    """Answers the fetches of other nodes.

    Args:
        stored: gives an object of the store by its id, with the stamp of its copy.
        elsewhere: gives the nodes that have an object, as far as this one knows.
        pin_small: see `StoreCore.pin_small`.
        part: gives a copy that is on its way here, by object id and stamp.
        outbox: gets the effects, in order.

    Attributes:
        tickets: by (node, its number); read by threads.
    """

    def __init__(
        self,
        config: Config,
        stored: Callable[[bytes], StoredObject | None],
        elsewhere: Callable[[bytes], list[str]],
        pin_small: PinSmall,
        part: Callable[[bytes, bytes], tuple[Copy, Facts] | None],
        outbox: list[Effect],
    ) -> None:
        self._config = config
        self._stored = stored
        self._elsewhere = elsewhere
        self._pin_small = pin_small
        self._part = part
        self.tickets: dict[tuple[str, int], Ticket] = {}
        self._copies: dict[bytes, Copy] = {}
        self._asks: dict[tuple[str, bytes], list[int]] = {}
        self._clients: dict[str, bytes] = {}  # node → its client of the store
        self._nodes: dict[bytes, str] = {}  # and back
        self.outbox = outbox

    # --- what readers say ---

    def knows(self, node: str) -> bool:
        """Whether the node has asked for something before."""
        return node in self._clients

    def fetch(self, node: str, message: list[Any], now: float) -> None:
        """P_FETCH. Raises ProtocolError."""
        if len(message) != _FETCH_FIELDS:
            raise ProtocolError("malformed P_FETCH")
        _, first, joined, procs, numbers, priority, stamp = message
        ids = split_ids(checked_ids(joined))
        if not (type(procs) is type(numbers) is list and len(procs) == len(numbers) == len(ids) > 0):
            raise ProtocolError("P_FETCH with columns of different lengths")
        for each in (first, priority, *numbers):
            checked_size(each)
        if type(stamp) is not bytes or any(type(proc) is not bytes for proc in procs):
            raise ProtocolError("P_FETCH with a stamp that is none")
        client = self._clients.get(node)
        if client is None:
            client = self._clients[node] = node_client(node)
            self._nodes[client] = node
        tickets = self.tickets
        if any((node, req) in tickets for req in range(first, first + len(ids))):
            raise ProtocolError(f"fetch {first} a second time")
        known: set[int] = set()
        if len(ids) > 1 and not stamp and priority != m.PRIORITY_ASK:
            known = self._parcel(node, client, first, ids, now)
        for position, object_id in enumerate(ids):
            if position not in known:
                read = (object_id, procs[position], numbers[position], priority)
                self._fetch(node, client, first + position, read, stamp)

    def _parcel(self, node: str, client: bytes, first: int, ids: list[bytes], now: float) -> set[int]:
        """Tell what of ``ids`` is here and small, in parcels of one chunk; returns their positions."""
        config = self._config
        found = self._pin_small(client, ids, config.parcel_object_bytes_max, now)
        start = 0
        while start < len(found) or not start:
            stop, room = start, 0
            while stop < len(found) and (
                stop == start or room + found[stop][1].allocated <= config.pull_chunk_bytes
            ):
                room += found[stop][1].allocated
                stop += 1
            self._send_parcel(node, first, found[start:stop], room, last=stop == len(found))
            start = stop or 1
        return {position for position, _ in found}

    def _send_parcel(
        self, node: str, first: int, found: list[tuple[int, StoredObject]], room: int, *, last: bool
    ) -> None:
        if found:
            ticket = Ticket(node, first + found[0][0], b"".join([obj.id for _, obj in found]))
            self.tickets[node, ticket.req] = ticket
            ticket.pinned = 1
            ticket.copy = copy = Copy(b"", b"", room, room)
            copy.spans = [(obj.offset, obj.allocated) for _, obj in found]
            copy.have = copy.all
        message = [m.P_PARCEL, first, [position for position, _ in found], [obj.size for _, obj in found]]
        message += [b"".join([obj.copy for _, obj in found]), [obj.callsite for _, obj in found], last]
        self.outbox.append(Tell(node, message))

    def _fetch(
        self, node: str, client: bytes, req: int, read: tuple[bytes, bytes, int, int], stamp: bytes
    ) -> None:
        object_id, proc, number, priority = read
        if priority == m.PRIORITY_ASK:
            self._asks.setdefault((node, object_id), []).append(req)
            self.outbox.append(ToStore(client, [m.WATCH, object_id, proc, number]))
            return
        ticket = self.tickets[node, req] = Ticket(node, req, object_id)
        obj = self._stored(object_id) if stamp else None
        if not stamp or (obj is not None and obj.copy == stamp):
            self.outbox.append(ToStore(client, [m.PIN, req, object_id, proc, number, priority]))
            return
        found = self._part(object_id, stamp)
        if found is None:
            self._refuse(ticket, "elsewhere", "that copy is not here")
        else:
            self._grant(ticket, *found)

    def done(self, node: str, message: list[Any]) -> None:
        """P_FETCH_DONE; of what is unknown here nothing is said. Raises ProtocolError."""
        _, reqs, complete = message
        if type(reqs) is not list or any(type(req) is not int for req in reqs):
            raise ProtocolError("malformed P_FETCH_DONE")
        unpinned = []
        for req in reqs:
            ticket = self.tickets.pop((node, req), None)
            if ticket is not None:
                self._forget(ticket, complete)
                unpinned += [ticket.id] * ticket.pinned
        if unpinned:
            self.outbox.append(ToStore(self._clients[node], [m.UNPIN, b"".join(unpinned)]))

    def node_dead(self, node: str) -> None:
        """The reader is dead; the store has dropped its client."""
        for key in [key for key in self.tickets if key[0] == node]:
            self._forget(self.tickets.pop(key), complete=False)
        for asked in [asked for asked in self._asks if asked[0] == node]:
            del self._asks[asked]
        for copy in self._copies.values():
            copy.holders.pop(node, None)
        self._nodes.pop(self._clients.pop(node, b""), None)

    def _forget(self, ticket: Ticket, complete: bool) -> None:
        copy = ticket.copy
        if copy is None:
            return
        if copy.readers.get(ticket.node) == ticket.req:
            del copy.readers[ticket.node]
        if complete:
            copy.holders[ticket.node] = None

    # --- what the store says to the nodes that are its clients ---

    def told(self, client: bytes, message: list[Any]) -> None:
        """A message of the store to a node."""
        node = self._nodes.get(client)
        if node is None:
            return
        if message[0] == m.PINNED:
            self._pinned(node, message)
        elif message[0] == m.PINNED_IN_FILE:
            self._in_file(node, message)
        elif message[0] == m.PIN_FAILED:
            _, req, _, kind, text = message
            ticket = self.tickets.get((node, req))
            if ticket is not None:
                self._refuse(ticket, kind, text)
        elif message[0] == m.AVAILABLE:
            self._answer_asks(node, message)

    def _pinned(self, node: str, message: list[Any]) -> None:
        _, req, object_id, offset, size, _ = message
        ticket = self.tickets.get((node, req))
        if ticket is None:  # the reader has lost interest meanwhile
            self.outbox.append(ToStore(self._clients[node], [m.UNPIN, object_id]))
            return
        ticket.pinned += 1
        if ticket.copy is not None:
            return  # the part that it reads has become an object
        obj = self._stored(object_id)
        assert obj is not None
        copy = self._copies.get(obj.copy)
        if copy is None:
            copy = Copy(object_id, obj.copy, size, chunk_bytes(size, self._config))
            self._remember(copy)
        copy.offset = offset
        copy.have = copy.all
        self._grant(ticket, copy, obj)

    def _in_file(self, node: str, message: list[Any]) -> None:
        """No room can be made for it: this reader gets it out of the file. Nothing is pinned; a file that is rewritten before
        it was opened is not there, and the reader asks again.
        """
        _, req, object_id, path, offset, size, _, proof, _ = message
        ticket = self.tickets.get((node, req))
        obj = self._stored(object_id)
        if ticket is None or ticket.copy is not None or obj is None:
            return
        copy = Copy(object_id, obj.copy, size, chunk_bytes(size, self._config), 0)
        copy.file = path, offset, proof
        copy.have = copy.all
        self._grant(ticket, copy, obj)

    def damaged(self, copy: Copy, why: str) -> None:
        """The file of a copy is not what was written: the store hears of it before its readers ask again."""
        node = next(iter(copy.readers), None)
        if node is not None and copy.file is not None:
            self.outbox.append(ToStore(self._clients[node], [m.FILE_DAMAGED, copy.id, copy.file[0], why]))

    def _answer_asks(self, node: str, message: list[Any]) -> None:
        _, object_id, size, flags, error = message
        for req in self._asks.pop((node, object_id), ()):
            if error:
                failed = [m.P_FETCH_FAILED, req, "lost", error, self._elsewhere(object_id)]
                self.outbox.append(Tell(node, failed))
            else:
                self.outbox.append(Tell(node, _told_only(req, size, flags)))

    def _grant(self, ticket: Ticket, copy: Copy, facts: Facts | StoredObject) -> None:
        ticket.copy = copy
        others: list[str] = []
        if copy.size >= self._config.relay_bytes_min:
            newest = [*copy.readers, *copy.holders][::-1]
            others = [node for node in newest if node != ticket.node][: self._config.pull_sources_max]
        contained = facts.contained if isinstance(facts.contained, bytes) else b"".join(facts.contained)
        have = b"" if copy.have == copy.all else pack_bits(copy.have, copy.chunks)
        seal_flags = facts.flags & m.SEAL_ERROR
        answer = [m.P_FETCHED, ticket.req, copy.size, seal_flags, contained, copy.stamp, facts.callsite]
        answer += [facts.content_hash, copy.chunk, have, copy.grants, others]
        self.outbox.append(Tell(ticket.node, answer))
        for node, req in copy.readers.items():
            if node in others:
                self.outbox.append(Tell(node, [m.P_HOLDERS, req, [ticket.node]]))
        copy.grants += 1
        copy.readers[ticket.node] = ticket.req

    def _refuse(self, ticket: Ticket, kind: str, text: str) -> None:
        self.tickets.pop((ticket.node, ticket.req), None)
        self._forget(ticket, complete=False)
        nodes = self._elsewhere(ticket.id)
        self.outbox.append(Tell(ticket.node, [m.P_FETCH_FAILED, ticket.req, kind, text, nodes]))

    def _remember(self, copy: Copy) -> None:
        """Readers of something large learn of each other, and share its checksums."""
        if copy.size < self._config.relay_bytes_min:
            return
        self._copies[copy.stamp] = copy
        if len(self._copies) > self._config.served_copies_max:
            idle = next((stamp for stamp, copy in self._copies.items() if not copy.readers), None)
            if idle is not None:
                del self._copies[idle]

    # --- parts: what is on its way here ---

    def grown(self, copy: Copy) -> None:
        """More of a part has come: its readers may ask for it."""
        have = pack_bits(copy.have, copy.chunks)
        for node, req in copy.readers.items():
            self.outbox.append(Tell(node, [m.P_CHUNKS, req, have]))

    def sealed(self, copy: Copy, is_object: bool) -> None:
        """All of a part has come, and it is an object now; or it is not, because there was one already."""
        if not is_object:
            self.broken(copy)
            return
        self._remember(copy)
        for node, req in copy.readers.items():
            # The store answers at once: the object is there.
            self.outbox.append(ToStore(self._clients[node], [m.PIN, req, copy.id, bytes(8), 0, 0]))
        self.grown(copy)

    def broken(self, copy: Copy) -> None:
        """A part is given up."""
        for node, req in list(copy.readers.items()):
            ticket = self.tickets.get((node, req))
            if ticket is not None:
                self._refuse(ticket, "elsewhere", "it is no longer on its way here")

    def validate(self) -> None:
        """Check every invariant; raises AssertionError."""
        for (node, req), ticket in self.tickets.items():
            assert (ticket.node, ticket.req) == (node, req)
            assert ticket.pinned <= 1 or ticket.copy is not None
        for copy in self._copies.values():
            for node, req in copy.readers.items():
                assert self.tickets[node, req].copy is copy


def _told_only(req: int, size: int, flags: int) -> list[Any]:
    return [m.P_FETCHED, req, size, flags & m.SEAL_ERROR, b"", b"", "", b"", 0, b"", 0, []]

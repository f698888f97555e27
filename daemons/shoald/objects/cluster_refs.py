"""References across nodes: what this node tells others and the head of them. Pure; `store.sharing` keeps the books.

Events: refs were handed to a process elsewhere (`Sharing.handed`) or came from there (P_HOLD, P_SEALED), another node holds what
was handed to it (P_HELD), shared ids changed here (`Ledger.changes`), the head confirmed reports or proposes to free objects,
nodes come and die. Effects: messages to nodes (`outbox`), and reports to the head (what `turn` returns).

**Whoever hands a ref over keeps a hold until the other node's hold is known to the head.** So the receiver answers a P_HOLD only
when the head has confirmed everything that this node reported until then: its hold is there, or already gone again, because the
process that got the ref let go of it, or passed it on and so made this node the giver.

When a node dies, others may refer to what was handed to it: a result made there, which its owner has read, contains the refs, and
its owner takes holds of its own when it hears of the death. So what was handed to the dead node stays held as long as the head
keeps what the dead are known to have held (`head.directory`, its orphans).

Invariants: what was handed over and not answered is held by the store's transit client for that node; an answer is given once,
after everything that was handed over before it in the same stream.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

from shoal.ids import PROCESS_ID_SIZE
from shoal.wire import messages as m
from shoald.store.errors import ProtocolError
from shoald.store.ledger import checked_id, checked_ids, checked_size
from shoald.store.sharing import transit_client_id

if TYPE_CHECKING:
    from collections.abc import Callable

    from shoald.store.core import StoreCore

_IDS_MAX = 16_384  # in one message
_SEALED_FIELDS = 3

Change = tuple[str, bytes, int]
Handed = tuple[bytes, bool, list[Any]]


class ClusterRefs:
    """The references of one node's processes and objects that other nodes have to do with.

    Attributes:
        outbox: (node id, message) for other nodes, in order; the shell sends and clears it.
        located: (object id, node id, size, flags): another node has sealed an object for a process here; the shell empties it.
    """

    def __init__(self, store: StoreCore) -> None:
        self._store = store
        self._sharing = store.sharing
        self._living: set[str] = set()
        # node id → (sequence, ids), not yet answered; only of nodes that something was handed to
        self._handed: dict[str, deque[tuple[int, list[bytes]]]] = {}
        self._sequences: dict[str, int] = {}
        self._reported = self._confirmed = 0
        self._new: list[Callable[[], None]] = []  # wait for what the next turn reports
        self._waiting: deque[tuple[int, Callable[[], None]]] = deque()
        self._owed: dict[str, int] = {}  # node id → the last sequence of this turn
        self.outbox: list[tuple[str, list[Any]]] = []
        self.located: list[tuple[bytes, str, int, int]] = []

    # --- nodes ---

    def joined(self, node_id: str) -> None:
        """There is another node."""
        self._sharing.joined(node_id)
        self._living.add(node_id)

    def died(self, node_id: str) -> None:
        """A node is dead, and with it everybody that something was handed to there; `forget` is due a grace later."""
        self._living.discard(node_id)
        self._handed.pop(node_id, None)
        self._sequences.pop(node_id, None)
        self._owed.pop(node_id, None)
        self._sharing.died(node_id)

    def forget(self, node_id: str, now: float) -> None:
        """Who referred to something by way of the dead node has had the time to say so: what was handed to it is let go of."""
        self._store.drop(transit_client_id(node_id), now)

    def handle(self, node_id: str, message: list[Any]) -> None:
        """P_HOLD, P_SEALED or P_HELD of another node; raises ProtocolError for one that makes no sense."""
        if message[0] == m.P_HELD:
            self._held(node_id, message)
            return
        if len(message) != 4 or type(message[2]) is not bytes or len(message[2]) != PROCESS_ID_SIZE:
            raise ProtocolError(f"message {message[0]} needs a number, a process and ids")
        _, number, holder, what = message
        checked_size(number)
        if message[0] == m.P_HOLD:
            self._sharing.receive(holder, checked_ids(what))
        else:
            self._sealed(node_id, holder, what)
        self._owed[node_id] = number
        self._store.settle()

    def _sealed(self, node_id: str, holder: bytes, objects: Any) -> None:
        if type(objects) is not list or len(objects) % _SEALED_FIELDS:
            raise ProtocolError("a list of id, size, flags is needed")
        for start in range(0, len(objects), _SEALED_FIELDS):
            object_id, size, flags = objects[start : start + _SEALED_FIELDS]
            self._sharing.receive_sealed(holder, checked_id(object_id))
            self.located.append((object_id, node_id, checked_size(size), checked_size(flags)))

    def _held(self, node_id: str, message: list[Any]) -> None:
        handed = self._handed.get(node_id)
        if (
            handed is None
            or len(message) != 2
            or not 0 < checked_size(message[1]) <= self._sequences.get(node_id, 0)
        ):
            raise ProtocolError("an answer to what was not handed over")
        while handed and handed[0][0] <= message[1]:
            self._sharing.arrived(node_id, handed.popleft()[1])
        self._store.settle()

    # --- the turn ---

    def turn(self) -> list[Change]:
        """What was handed over goes to its node. Returns what is to be reported to the head, in order.

        If that is not empty, `confirmed` is due with `reported` when the head has it.
        """
        self.hand_over()
        changes = self._sharing.take_changes()
        if changes:
            self._reported += 1
        if self._owed:
            for node_id, number in self._owed.items():
                self._new.append(self._answer(node_id, number))
            self._owed = {}
        if self._new:
            new, self._new = self._new, []
            self._waiting.extend((self._reported, then) for then in new)
            self._settle()
        return changes

    @property
    def reported(self) -> int:
        """How many turns had something to report."""
        return self._reported

    def when_known(self, then: Callable[[], None]) -> None:
        """Call ``then`` when the head knows everything that has happened to shared ids here until now; at the turn's end at once
        if there is nothing that it does not know.
        """
        self._new.append(then)

    @property
    def has_news(self) -> bool:
        """Whether there is something to `hand_over`, or in the outbox."""
        return bool(self._sharing.handed or self.outbox)

    def hand_over(self) -> None:
        """Queue what was handed over and is not queued yet; before anything else is sent to a node."""
        if not self._sharing.handed:
            return
        handed, self._sharing.handed = self._sharing.handed, []
        batches: dict[str, list[Handed]] = {}
        for node_id, holder, object_id, sealed in handed:
            batch = batches.setdefault(node_id, [])
            is_seal = sealed is not None
            if not batch or batch[-1][:2] != (holder, is_seal) or len(batch[-1][2]) >= _IDS_MAX:
                batch.append((holder, is_seal, []))
            batch[-1][2].append((object_id, *sealed) if sealed is not None else object_id)
        for node_id, batch in batches.items():
            if node_id in self._living:
                for holder, is_seal, items in batch:
                    self._send(node_id, holder, is_seal, items)

    def _send(self, node_id: str, holder: bytes, is_seal: bool, items: list[Any]) -> None:
        number = self._sequences[node_id] = self._sequences.get(node_id, 0) + 1
        if is_seal:
            flat = [field for item in items for field in item]
            self.outbox.append((node_id, [m.P_SEALED, number, holder, flat]))
            items = [item[0] for item in items]
        else:
            self.outbox.append((node_id, [m.P_HOLD, number, holder, b"".join(items)]))
        self._handed.setdefault(node_id, deque()).append((number, items))

    def _answer(self, node_id: str, number: int) -> Callable[[], None]:
        def answer() -> None:
            if node_id in self._living:
                self.outbox.append((node_id, [m.P_HELD, number]))

        return answer

    # --- the head ---

    def confirmed(self, number: int) -> None:
        """The head knows what was reported until `reported` was ``number``."""
        self._confirmed = max(self._confirmed, number)
        self._settle()

    def _settle(self) -> None:
        while self._waiting and self._waiting[0][0] <= self._confirmed:
            self._waiting.popleft()[1]()

    def free(self, object_ids: list[bytes]) -> None:
        """The head proposes to free these."""
        self._sharing.free(object_ids)
        self._store.settle()

    def snapshot(self) -> dict[str, Any]:
        """The parts of a report that is all there is. `confirmed` is due with `reported` when the head has it."""
        born, held = self._sharing.snapshot()
        return {"born": born, "hold": held}

    def validate(self) -> None:
        """Raise AssertionError if an invariant is broken."""
        assert self._confirmed <= self._reported
        assert self._handed.keys() <= self._living
        for node_id, handed in self._handed.items():
            counts: dict[bytes, int] = {}
            for _, ids in handed:
                for object_id in ids:
                    counts[object_id] = counts.get(object_id, 0) + 1
            for receiver, _, object_id, _ in self._sharing.handed:
                if receiver == node_id:
                    counts[object_id] = counts.get(object_id, 0) + 1
            assert self._sharing.in_transit(node_id) == counts, node_id

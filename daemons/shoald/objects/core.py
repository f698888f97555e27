"""The object manager of one node: its pulls and what it serves, between the store and the other nodes. Pure.

    store: what readers want ──→ PullCore ──→ room, seal ──→ store
    other nodes' messages   ──→ PullCore, ServeCore ──→ messages, chunks to receive
    store: answers to nodes  ──→ ServeCore ──→ PIN, UNPIN ──→ store

In the store the pulls are a client of their own (`proc`), which leases room and seals, and reading nodes are others.
`turn` goes on until nothing is left to do, and leaves what only the shell can do: `Tell`, `Receive`, `Locate`, `Note`. But
of what is newly wanted it takes no more than `pull_wants_max`, so that the first questions are on their way while the rest are
put: the other nodes work meanwhile.

What was pulled stays when its readers are gone: the next ones find it here. It goes when the head says that nobody holds it,
or when somebody waits for room in the store (store.relief), which may be a pull.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from shoal.ids import PROCESS_ID_SIZE
from shoal.wire import messages as m
from shoald.objects.effects import (
    Broken,
    Effect,
    Failed,
    Grown,
    Note,
    Seal,
    SealParcel,
    Tell,
    Told,
    ToStore,
)
from shoald.objects.pulls import PullCore
from shoald.objects.serving import ServeCore, node_client
from shoald.store.errors import ProtocolError
from shoald.store.objects import ORIGIN_SIZE

if TYPE_CHECKING:
    from collections.abc import Callable

    from shoal.config import Config
    from shoald.objects.parcels import Parcel
    from shoald.objects.surroundings import Cluster
    from shoald.store.core import StoreCore

INTERNAL = b"\0"  # what ids of the store's clients in this daemon begin with
_PULLS = b"\0P"
_STAMP_SIZE = 16


class ObjectCore:
    """What goes on between the store of one node and the others.

    Args:
        cluster: see `PullCore`.

    Attributes:
        pulls, serving: the two sides.
        outbox: effects for the shell, which clears it.
    """

    def __init__(
        self,
        node_id: str,
        store: StoreCore,
        capacity: int,
        config: Config,
        cluster: Cluster,
    ) -> None:
        self._store = store
        self._config = config
        self._cluster = cluster
        self._effects: list[Effect] = []
        self.proc = _PULLS + bytes.fromhex(node_id)[: PROCESS_ID_SIZE - len(_PULLS)]
        budget = capacity * config.pull_memory_percent // 100
        self.pulls = PullCore(self.proc, budget, config, store.counters, self._effects, cluster)
        self.serving = ServeCore(
            config, store.described, store.hinted, store.pin_small, self.pulls.part, self._effects
        )
        self.outbox: list[Effect] = []
        self._origins: dict[bytes, bool] = {}  # of copies, in this turn: whether they live
        self._handlers: dict[int, Callable[[str, list[Any], float], None]] = {
            m.P_FETCH: self._fetch,
            m.P_PARCEL: self.pulls.parcelled,
            m.P_FETCHED: self.pulls.fetched,
            m.P_FETCH_FAILED: self.pulls.failed,
            m.P_FETCH_DONE: lambda node, message, _: self.serving.done(node, message),
            m.P_CHUNKS: lambda node, message, _: self.pulls.chunks(node, message),
            m.P_HOLDERS: lambda node, message, _: self.pulls.holders(node, message),
        }
        store.register(self.proc, {"pid": None, "kind": "object manager", "job_id": ""})
        store.clustered()

    @property
    def tags(self) -> tuple[int, ...]:
        """The messages of other nodes that are for this."""
        return tuple(self._handlers)

    def from_node(self, node: str, message: list[Any], now: float) -> None:
        """A message of another node. Raises ProtocolError."""
        try:
            self._handlers[message[0]](node, message, now)
        except (ValueError, TypeError, IndexError) as error:
            raise ProtocolError(f"malformed message {message[0]}: {error}") from error

    def _fetch(self, node: str, message: list[Any], now: float) -> None:
        if not self.serving.knows(node):
            client = {"pid": None, "kind": "node", "job_id": "", "node_id": node}
            self._store.register(node_client(node), client)
        self.serving.fetch(node, message, now)

    def node_dead(self, node: str, now: float) -> None:
        """A node is dead: it reads nothing any more, and nothing comes from it."""
        self._store.drop(node_client(node), now)
        self._store.origin_died(node)
        self.serving.node_dead(node)
        self.pulls.node_dead(node, now)

    def next_deadline(self) -> float | None:
        """When `turn` has something to do by itself; 0 (at once) when it left some of what is wanted for the next one."""
        return 0.0 if self._store.wants else self.pulls.next_deadline()

    def turn(self, now: float) -> None:
        """Carry out everything that has come up."""
        deadline = self.pulls.next_deadline()
        if deadline is not None and deadline <= now:
            self.pulls.tick(now)
        self._origins.clear()
        self._answers(0, now)
        effects = self._effects
        room = self._config.pull_wants_max
        while True:
            wants = self._store.take_wants(room)
            room -= len(wants)
            if wants:
                self.pulls.want_all(wants, now)
            if effects:
                self._carry_out_all(effects, now)
                continue
            self.pulls.settle()
            if not effects and not self._relieved(now):
                return

    def _carry_out_all(self, effects: list[Effect], now: float) -> None:
        """By their exact types, the frequent ones first."""
        todo = effects[:]
        effects.clear()
        store, said = self._store, self._store.outbox
        for effect in todo:
            kind = type(effect)
            if kind is Tell:
                self.outbox.append(effect)
                continue
            mark = len(said)
            if kind is ToStore:
                store.handle(effect.proc, effect.message, now)  # type: ignore[union-attr]
            elif kind is Seal:
                self._seal(effect, now)  # type: ignore[arg-type]
            elif kind is SealParcel:
                self._seal_parcel(effect.parcel, now)  # type: ignore[union-attr]
            else:
                self._carry_out(effect)
            if len(said) != mark:
                self._answers(mark, now)

    def _carry_out(self, effect: Effect) -> None:
        store = self._store
        if isinstance(effect, Told):
            store.told(effect.object_ids, effect.sizes, effect.flags)
        elif isinstance(effect, Grown):
            self.serving.grown(effect.copy)
        elif isinstance(effect, Broken):
            self.serving.broken(effect.copy)
        elif isinstance(effect, Failed):
            store.fetch_failed(effect.object_id, effect.kind, effect.text)
        else:
            self.outbox.append(effect)

    def _answers(self, mark: int, now: float) -> bool:
        """Take what the store says to this daemon itself out of its outbox, from position ``mark`` on; whether it says any."""
        outbox = self._store.outbox
        if len(outbox) == mark:
            return False
        fresh = outbox[mark:]
        mine = [entry for entry in fresh if not entry[0][0]]
        if not mine:
            return False
        outbox[mark:] = [entry for entry in fresh if entry[0][0]]
        for proc, message in mine:
            if proc == self.proc:
                self._answer(message, now)
            else:
                if message[0] == m.PINNED:
                    # A node that has it, or a part of it, holds what it contains.
                    self._store.sharing.share(message[2])
                self.serving.told(proc, message)
        return True

    def _answer(self, message: list[Any], now: float) -> None:
        if message[0] == m.EXTENT:
            _, number, offset, size = message
            self.pulls.room(number, offset, size, now)
        elif message[0] == m.ALLOC_FAILED:
            _, number, kind, text = message
            self.pulls.no_room(number, kind, text, now)
        elif message[0] == m.FILE_LENT:
            _, number, file, path = message
            self.pulls.lent(number, file, path, now)

    def _seal(self, effect: Seal, now: float) -> None:
        copy = effect.copy
        pin = m.SEAL_PINNED if copy.readers else 0
        is_object = self._store.seal_copy(
            self.proc,
            copy.stamp,
            [
                copy.id,
                copy.offset,
                copy.size,
                effect.contained,
                pin | effect.flags & m.SEAL_ERROR,
                effect.callsite,
                effect.content_hash,
            ],
            now,
            effect.in_file,
        )
        if is_object and not self._origin_lives(copy.stamp):
            self._store.promote(copy.id)
        if effect.in_file is None and (copy.readers or copy.size >= self._config.relay_bytes_min):
            self.serving.sealed(copy, is_object)
        if pin:  # its readers have pinned it by then
            self._effects.append(ToStore(self.proc, [m.UNPIN, copy.id]))

    def _seal_parcel(self, parcel: Parcel, now: float) -> None:
        copy, stamps = parcel.copy, parcel.stamps
        assert copy is not None
        sealed = self._store.seal_parcel(
            self.proc, copy.offset, parcel.ids, parcel.sizes, stamps, parcel.callsites, now
        )
        origins = {stamps[start : start + ORIGIN_SIZE] for start in range(0, len(stamps), _STAMP_SIZE)}
        if not all(self._origin_lives(origin) for origin in origins):
            for obj in sealed:
                if not self._origin_lives(obj.copy):
                    self._store.promote(obj.id)

    def _origin_lives(self, stamp: bytes) -> bool:
        """Asked once a turn: in a turn no node dies."""
        origin = stamp[:ORIGIN_SIZE]
        lives = self._origins.get(origin)
        if lives is None:
            lives = self._origins[origin] = self._cluster.origin_lives(stamp)
        return lives

    def _relieved(self, now: float) -> bool:
        """A pull may wait for room that can be made at once; whether something has come of it."""
        if not self._store.shortage():
            return False
        mark = len(self._store.outbox)
        self._store.relieve(now)
        return self._answers(mark, now)

    def note(self, text: str) -> None:
        """A line for the log."""
        self.outbox.append(Note(text))

    def validate(self) -> None:
        """Check every invariant; raises AssertionError."""
        self.pulls.validate()
        self.serving.validate()
        assert not self._effects, "a turn left something to do"

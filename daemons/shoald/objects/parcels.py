"""Parcels: small objects that are asked for together, and come together. Pure.

    gather … ask ─ P_FETCH of several ─→ asked ─┬ P_PARCEL ─→ Parcel: one pull of one chunk ─→ as many objects as there are in it
                                                └ neither small nor there yet ─→ a pull of its own, whose question is put

What costs is not the bytes of a small object but what is done for it: so what is wanted in one turn, of one node, with one
priority, is one question; what of it is there, and nothing but a few bytes, is pinned, told, received, checked and sealed in
columns. A parcel is a pull like others: it has its turn, room and a lane by the same rules. Whatever goes wrong with it (its
source is lost, there is no room for all of it), each of its objects goes its own way (`scatter`), as if it had been wanted alone.

Invariants: an object is gathered, in one question, in one parcel, or a pull, and in one of these only; a parcel that nobody
wants anything of any more is given up, and until then all of it comes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from shoal.ids import tag_of
from shoal.wire import messages as m
from shoald.objects.admission import room_for
from shoald.objects.checks import check_parcel
from shoald.objects.copies import Copy
from shoald.objects.effects import Effect, Tell, Told
from shoald.objects.pull import Pull, Source

if TYPE_CHECKING:
    from collections.abc import Callable

    from shoald.objects.surroundings import Cluster

Want = tuple[bytes, int]  # process and number of the stamp that readers quote


class Asked:
    """A question for several objects, not answered yet.

    Attributes:
        left: those that somebody still wants: id → its position among `ids`.
    """

    __slots__ = ("ids", "left", "node", "open", "priority", "req", "wants")

    def __init__(self, node: str, req: int, priority: int, wants: dict[bytes, Want]) -> None:
        self.node = node
        self.req = req
        self.priority = priority
        self.ids = list(wants)
        self.wants = list(wants.values())
        self.left = {object_id: position for position, object_id in enumerate(self.ids)}
        self.open = set(range(len(self.ids)))  # positions that are not in a parcel yet


class Parcel(Pull):
    """Objects on their way here as one chunk of one source.

    Attributes:
        ids, sizes, callsites: of each; stamps: of all, joined.
        left: what of it somebody wants: id → its stamp as readers quote it.
    """

    __slots__ = ("callsites", "ids", "left", "sizes", "stamps")

    def __init__(
        self,
        priority: int,
        order: int,
        ids: list[bytes],
        sizes: list[int],
        stamps: bytes,
        callsites: list[str],
    ) -> None:
        super().__init__(
            b"parcel" + order.to_bytes(8, "big"), b"", 0, priority, order
        )  # no object has such an id
        self.ids = ids
        self.sizes = sizes
        self.stamps = stamps
        self.callsites = callsites
        self.left: dict[bytes, Want] = {}
        size = sum(map(room_for, sizes))
        self.copy = Copy(self.id, b"", size, size)
        self.missing = self.copy.all
        self.located = True


class Parcels:
    """What is asked for, and comes, together.

    Args:
        outbox: gets the effects, in order.
        number: gives the first of so many numbers for questions.
        out_of_reach: nodes that are asked nothing here, since they would not answer soon; the pulls' own.

    Attributes:
        gathered: ids that wait for `ask`.
        members: id → the question or the parcel it is in.
    """

    def __init__(
        self, outbox: list[Effect], cluster: Cluster, number: Callable[[int], int], out_of_reach: set[str]
    ) -> None:
        self._outbox = outbox
        self._cluster = cluster
        self._number = number
        self._out_of_reach = out_of_reach
        self._groups: dict[tuple[str, int], dict[bytes, Want]] = {}
        self.gathered: set[bytes] = set()
        self._nearest: dict[tuple[bytes, bytes], str | None] = {}  # in this turn, in which no node dies
        self._asked: dict[int, Asked] = {}
        self.members: dict[bytes, Asked | Parcel] = {}

    # --- asking ---

    def gather(self, object_id: bytes, proc: bytes, number: int, priority: int) -> bool:
        """Have it asked for by the next `ask`; False if it is not known whom to ask first."""
        key = proc, tag_of(object_id)
        if key in self._nearest:
            node = self._nearest[key]
        else:
            node = self._nearest[key] = self._cluster.nearest(object_id, proc)
        if node is None or node in self._out_of_reach:
            return False
        group = self._groups.get((node, priority))
        if group is None:
            group = self._groups[node, priority] = {}
        group[object_id] = proc, number
        self.gathered.add(object_id)
        return True

    def ask(self) -> list[tuple[bytes, bytes, int, int]]:
        """Put the questions for what was gathered; returns what would be alone in its question, to be wanted by itself."""
        groups, self._groups = self._groups, {}
        self._nearest.clear()
        self.gathered.clear()
        alone: list[tuple[bytes, bytes, int, int]] = []
        for (node, priority), wants in groups.items():
            if len(wants) == 1:
                alone += [(object_id, proc, number, priority) for object_id, (proc, number) in wants.items()]
                continue
            asked = Asked(node, self._number(len(wants)), priority, wants)
            self._asked[asked.req] = asked
            self.members.update(dict.fromkeys(asked.ids, asked))
            procs, numbers = zip(*asked.wants, strict=True)
            message = [m.P_FETCH, asked.req, b"".join(asked.ids), list(procs), list(numbers), priority, b""]
            self._outbox.append(Tell(node, message))
        return alone

    # --- what readers want meanwhile ---

    def want(self, object_id: bytes, priority: int) -> Parcel | None:
        """Somebody else wants a member; returns its parcel if that is more urgent now."""
        group = self.members[object_id]
        before, group.priority = group.priority, min(group.priority, priority)
        return group if isinstance(group, Parcel) and group.priority != before else None

    def unwant(self, object_id: bytes) -> Parcel | None:
        """Nobody wants a member any more; returns its parcel if that is to be given up."""
        group = self.members.pop(object_id)
        del group.left[object_id]
        if group.left:
            return None
        if isinstance(group, Parcel):
            return group
        self._let_go(group)
        return None

    def _let_go(self, asked: Asked) -> None:
        del self._asked[asked.req]
        self._done(asked, asked.open)

    def _done(self, asked: Asked, positions: set[int]) -> None:
        reqs = [asked.req + position for position in sorted(positions)]
        self._outbox.append(Tell(asked.node, [m.P_FETCH_DONE, reqs, False]))

    # --- what nodes say ---

    def answered(self, node: str, message: list[Any], order: int) -> tuple[Parcel | None, list[Pull]]:
        """P_PARCEL: what of a question comes together, and, with the last one, pulls of what does not. Raises ProtocolError."""
        _, req, positions, sizes, stamps, callsites, last = message
        asked = self._asked.get(req)
        if asked is None or asked.node != node:
            return None, []  # it was let go of, and the node has been told
        check_parcel(asked.open, positions, sizes, stamps, callsites)
        asked.open.difference_update(positions)
        parcel = self._parcel(asked, positions, sizes, stamps, callsites, order) if positions else None
        return parcel, self._rest(asked) if last is True else []

    def _parcel(
        self,
        asked: Asked,
        positions: list[int],
        sizes: list[int],
        stamps: bytes,
        callsites: list[str],
        order: int,
    ) -> Parcel:
        ids = [asked.ids[position] for position in positions]
        parcel = Parcel(asked.priority, order, ids, sizes, stamps, callsites)
        left, wants, members = asked.left, asked.wants, self.members
        for object_id, position in zip(ids, positions, strict=True):
            if left.pop(object_id, None) is not None:
                parcel.left[object_id] = wants[position]
                members[object_id] = parcel
        self._outbox.append(Told(ids, sizes, 0))
        source = parcel.sources[asked.node] = Source(asked.node, asked.req + positions[0], False, False)
        source.ready = True
        source.have = 1
        return parcel

    def _rest(self, asked: Asked) -> list[Pull]:
        """What does not come in a parcel: the source answers for each of it, when it is there."""
        del self._asked[asked.req]
        found = []
        for object_id, position in asked.left.items():
            del self.members[object_id]
            pull = Pull(object_id, *asked.wants[position], asked.priority, 0)
            pull.sources[asked.node] = Source(asked.node, asked.req + position, False, False)
            found.append(pull)
        unwanted = asked.open.difference(asked.left.values())
        if unwanted:
            self._done(asked, unwanted)
        return found

    # --- the end ---

    def scatter(self, parcel: Parcel) -> list[Pull]:
        """The parcel does not come: pulls of what of it is wanted, which do not ask again whom it had to do without."""
        pulls = []
        for object_id, want in parcel.left.items():
            pull = Pull(object_id, *want, parcel.priority, 0)
            pull.verdicts = dict(parcel.verdicts)
            pulls.append(pull)
        return pulls

    def ended(self, parcel: Parcel) -> None:
        """It has come, or will not."""
        for object_id in parcel.left:
            self.members.pop(object_id, None)

    def waits_for(self, node: str) -> bool:
        """Whether that node has a question that it has not answered."""
        return any(asked.node == node for asked in self._asked.values())

    def unreachable(self, node: str) -> list[Pull]:
        """Pulls of what that node was asked for and has not answered: each is asked for by itself, there and elsewhere."""
        for asked in self._asked.values():
            if asked.node == node:
                self._done(asked, asked.open)
        return self.node_dead(node)

    def node_dead(self, node: str) -> list[Pull]:
        """Pulls of what that node was asked for and has not answered."""
        pulls = []
        for asked in [asked for asked in self._asked.values() if asked.node == node]:
            del self._asked[asked.req]
            for object_id, position in asked.left.items():
                del self.members[object_id]
                pulls.append(Pull(object_id, *asked.wants[position], asked.priority, 0))
        return pulls

    def story(self, wanted: str) -> list[str]:
        """For people: of those members whose ids (hex) begin with ``wanted``."""
        found = [group for object_id, group in self.members.items() if object_id.hex().startswith(wanted)]
        return [
            group.story() if isinstance(group, Parcel) else f"this node asks node {group.node[:8]} for it"
            for group in found
        ]

    def validate(self, pulls: dict[bytes, Pull]) -> None:
        """Raises AssertionError unless members, questions and parcels agree."""
        assert not self._groups, "gathered, and not asked for"
        assert not self.gathered
        parcels = [pull for pull in pulls.values() if isinstance(pull, Parcel)]
        groups: list[Asked | Parcel] = [*self._asked.values(), *parcels]
        live = {object_id: group for group in groups for object_id in group.left if _counts(group)}
        assert live == self.members, "members that are in no parcel"
        assert not self.members.keys() & pulls.keys(), "pulled twice"
        assert all(group.left for group in groups if _counts(group)), "a parcel that nobody wants"


def _counts(group: Asked | Parcel) -> bool:
    return isinstance(group, Asked) or bool(group.sources)

"""Who is asked for what a node wants to have: the nodes that may have it, one at a time, then the head, then its owner. Pure.

Nodes that the stamp, the id and other nodes point to come first; then those that the head knows. Each node's no is final; one
that sent nothing is asked again in the next round, after a pause. When all have said no, the owner is asked to have it made
again. What one turn has to ask of the head goes together, `locate_ids_max` objects in a question (`_look_up`): of a node that
is out of reach thousands of small objects may be wanted, and each is looked up again in each round.

A node to which no connection can be made (`PullCore.unreachable`) keeps its question, and answers when it is there again;
meanwhile the next one is asked, as if it had said no. But as long as it is not dead nothing is lost, and nothing made again,
for its sake.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from heapq import heappop, heappush
from typing import TYPE_CHECKING

from shoal.wire import messages as m
from shoald.objects.effects import Effect, Locate, Tell
from shoald.objects.pull import TROUBLE, WITHOUT, Pull, Source

if TYPE_CHECKING:
    from shoal.config import Config
    from shoald.objects.surroundings import Cluster


class Seeking(ABC):
    """The questions of a node's pulls.

    Args:
        outbox: gets the effects, in order.
        cluster: what the cluster looks like from here.
    """

    def __init__(self, config: Config, outbox: list[Effect], cluster: Cluster) -> None:
        self._config = config
        self._cluster = cluster
        self.outbox = outbox
        self._pulls: dict[bytes, Pull] = {}
        self._asked: dict[int, tuple[Pull, Source]] = {}
        self._timers: list[tuple[float, int, Pull]] = []
        # (node, complete, known) → reqs to be let go of
        self._done: dict[tuple[str, bool, bool], list[int]] = {}
        self._lookups: dict[bytes, None] = {}  # what the head is to be asked for
        self._order = 0
        self._req = 0
        self._out_of_reach: set[str] = set()  # living nodes to which no connection can be made now

    @abstractmethod
    def _fail(self, pull: Pull, kind: str, text: str) -> None:
        """Nobody has it: its readers are told so."""

    @abstractmethod
    def _disown(self, pull: Pull) -> None:
        """Nobody has the copy that was begun, and its owner was asked for another one."""

    def _seek(self, pull: Pull, now: float) -> None:
        """Nobody who has all of it is left: ask the next node, or the head, or wait, or give up."""
        cluster = self._cluster
        unknown = False
        for node in (*cluster.who(pull.id, pull.proc), *pull.referred):
            if node not in pull.verdicts and node not in pull.sources:
                lives = cluster.lives(node)
                if lives:
                    self._ask(pull, node, b"")
                    if node not in self._out_of_reach:
                        return
                unknown = unknown or lives is None
        death = cluster.death(pull.id, pull.proc)
        hopeless = not any(pull.id[8:12])  # a barrier (owner.table.hold_until): there is no such object
        if pull.located is False and not hopeless:
            pull.located = None
            self._lookups[pull.id] = None
        elif pull.located is True or hopeless:
            # Where no node is known at all, too, this node's view of the cluster is older than the question.
            unknown = unknown or not (pull.verdicts or death)
            troubled = pull.head_silent or unknown or TROUBLE in pull.verdicts.values()
            # Those who have parts may get the rest from each other.
            config = self._config
            here = cluster.is_here(pull.id, pull.proc)
            rounds = config.locate_rounds_max if here or pull.waits else config.pull_rounds_max
            if (troubled or pull.sources) and pull.round < rounds:
                self._pause(pull, now)
            elif not pull.waits and not self._ask_owner(pull):
                self._fail(pull, *pull.why_lost(death))

    def _ask_owner(self, pull: Pull) -> bool:
        """Nobody has it; its owner may have it made again: its node is asked, without the stamp of where it was.

        And again, if the node dies on which it was made again.
        """
        if pull.final or pull.pleas >= self._config.pull_rounds_max:
            return False
        pull.pleas += 1
        pull.proc, pull.number = b"", m.NOWHERE
        for node in self._cluster.who(pull.id, b""):
            if node not in pull.sources and self._cluster.lives(node):
                pull.verdicts.pop(node, None)
                self._ask(pull, node, b"")
                self._disown(pull)
                return True
        return False

    def _pause(self, pull: Pull, now: float) -> None:
        config = self._config
        pause_ms = min(config.reconnect_ms_min * 2**pull.round, config.reconnect_ms_max)
        pull.round += 1
        self._order += 1
        heappush(self._timers, (now + pause_ms / 1000, self._order, pull))

    def next_deadline(self) -> float | None:
        """When `tick` has something to do."""
        return self._timers[0][0] if self._timers else None

    def tick(self, now: float) -> None:
        """Pauses are over: nodes that could not be reached are tried again."""
        while self._timers and self._timers[0][0] <= now:
            pull = heappop(self._timers)[2]
            if self._pulls.get(pull.id) is pull and pull.located and not pull.settled:
                self._seek_anew(pull, now)

    def _seek_anew(self, pull: Pull, now: float) -> None:
        """Ask again: nodes that were in trouble, and the head."""
        pull.verdicts = {node: what for node, what in pull.verdicts.items() if what == WITHOUT}
        pull.located = None if pull.located is None else False
        self._seek(pull, now)

    def _look_up(self) -> None:
        """The end of a turn: ask the head for all that was not found otherwise."""
        if self._lookups:
            ids, most = list(self._lookups), self._config.locate_ids_max
            self._lookups = {}
            self.outbox += [Locate(ids[start : start + most]) for start in range(0, len(ids), most)]

    def located(self, object_id: bytes, nodes: list[str] | None, now: float) -> None:
        """The head's answer: who has copies, as far as it knows; None if it could not be asked."""
        pull = self._pulls.get(object_id)
        if pull is None or pull.located is not None:
            return
        pull.located = True
        pull.head_silent = nodes is None  # nobody can say that it is lost while the head cannot be asked
        pull.referred = [*dict.fromkeys([*pull.referred, *(nodes or ())])]
        if not pull.settled:
            self._seek(pull, now)

    def _number(self, count: int) -> int:
        first = self._req + 1
        self._req += count
        return first

    def _ask(self, pull: Pull, node: str, copy: bytes) -> None:
        req = self._number(1)
        source = pull.sources[node] = Source(node, req, pull.priority == m.PRIORITY_ASK, bool(copy))
        source.out_of_reach = node in self._out_of_reach
        self._asked[req] = (pull, source)
        message = [m.P_FETCH, req, pull.id, [pull.proc], [pull.number], pull.priority, copy]
        self.outbox.append(Tell(node, message))

    def _ask_holders(self, pull: Pull, nodes: list[str]) -> None:
        """Others who have the copy, or part of it, help."""
        assert pull.copy is not None
        if pull.copy.size < self._config.relay_bytes_min:
            return
        for node in nodes:
            if len(pull.sources) >= self._config.pull_sources_max:
                return
            if node not in pull.sources and node not in pull.verdicts and self._cluster.lives(node):
                self._ask(pull, node, pull.copy.stamp)

    def _let_go(self, pull: Pull, source: Source, complete: bool = False) -> None:
        """This source is needed no longer."""
        del pull.sources[source.node]
        del self._asked[source.req]
        if pull.next is not None and pull.next[0] is source:
            pull.next = None
        if not source.ask:
            # A copy holds what it contains. Until that is known, the source's copy does, and may not be dropped.
            known = complete and pull.facts is not None and bool(pull.facts.contained)
            self._done.setdefault((source.node, complete, known), []).append(source.req)

"""Which chunk is asked of whom next: the connections to each source, and the pulls that wait for one. Pure.

A *station* is another node as a source, with `pull_connections` lanes. A lane has up to `pull_requests_max` requests
ahead, so that it never waits for this node to decide. A request is one chunk, or many small objects of one chunk. Whoever
is free takes the next chunk; so a fast source does more than a slow one.

Invariants: a chunk is in the hands of one lane at most, from `Receive` to `landed`, since a late one would write into what
may have been sealed by then. A chunk is asked only of a source that has said that it has it.
"""

from __future__ import annotations

from heapq import heappop, heappush
from typing import TYPE_CHECKING

from shoald.objects.copies import first_from
from shoald.objects.effects import Effect, Receive
from shoald.objects.pull import RUNNING, Pull, Source

if TYPE_CHECKING:
    from shoal.config import Config


class Flight:
    """A request in the hands of a lane."""

    __slots__ = ("lane", "node", "pieces")

    def __init__(self, node: str, lane: int, pieces: list[tuple[Pull, Source, int]]) -> None:
        self.node = node
        self.lane = lane
        self.pieces = pieces


class _Station:
    __slots__ = ("busy", "queue")

    def __init__(self, lanes: int) -> None:
        self.busy = [0] * lanes  # requests in the hands of each lane
        self.queue: list[tuple[int, int, int, Pull, Source]] = []


class Lanes:
    """Hands out chunks.

    Attributes:
        flights: requests that have not landed, by number.

    Nothing is asked before `pump`, at the end of a turn: what came in together leaves together.
    """

    def __init__(self, config: Config, outbox: list[Effect]) -> None:
        self._config = config
        self._outbox = outbox
        self._stations: dict[str, _Station] = {}
        self._number = 0
        self._ready: dict[str, None] = {}
        self.flights: dict[int, Flight] = {}

    def offer(self, pull: Pull, source: Source) -> None:
        """Some of what the pull misses may be had from this source."""
        if source.queued or not pull.missing & source.have:
            return
        station = self._stations.get(source.node)
        if station is None:
            station = self._stations[source.node] = _Station(self._config.pull_connections)
        source.queued = True
        self._ready[source.node] = None
        heappush(station.queue, (pull.priority, pull.order, source.req, pull, source))

    def pump(self) -> None:
        """Keep the lanes of all sources busy."""
        ready, self._ready = self._ready, {}
        for node in ready:
            self._pump(node)

    def _pump(self, node: str) -> None:
        station = self._stations.get(node)
        while station is not None and station.queue:
            lane = min(range(len(station.busy)), key=station.busy.__getitem__)
            if station.busy[lane] >= self._config.pull_requests_max:
                return
            pieces = self._next(station)
            if not pieces:
                return
            self._number += 1
            station.busy[lane] += 1
            self.flights[self._number] = Flight(node, lane, pieces)
            wire = [(source.req, chunk, *_place(pull, chunk)) for pull, source, chunk in pieces]
            first = pieces[0][0]
            self._outbox.append(Receive(node, lane, self._number, wire, first.file, first.path))

    def _next(self, station: _Station) -> list[tuple[Pull, Source, int]]:
        """The pieces of one request: a chunk, or as many small objects as one chunk has room for."""
        pieces: list[tuple[Pull, Source, int]] = []
        size = 0
        while station.queue and len(pieces) < self._config.pull_pieces_max:
            pull, source = station.queue[0][3:]
            able = pull.missing & source.have if pull.sources.get(source.node) is source else 0
            if pull.state != RUNNING or not able:
                heappop(station.queue)
                source.queued = False
                continue
            chunk = first_from(able, pull.start)
            size += _place(pull, chunk)[1]
            if pieces and (pull.file or size > self._config.pull_chunk_bytes):
                break
            pull.missing &= ~(1 << chunk)
            pull.flying += 1
            pieces.append((pull, source, chunk))
            if able.bit_count() == 1:
                heappop(station.queue)
                source.queued = False
            if pull.file:
                break
        return pieces

    def landed(self, number: int) -> Flight:
        """The lane is done with a request, whatever became of it."""
        flight = self.flights.pop(number)
        self._stations[flight.node].busy[flight.lane] -= 1
        self._ready[flight.node] = None
        for pull, _, _ in flight.pieces:
            pull.flying -= 1
        return flight

    def forget(self, node: str) -> None:
        """A node is dead: once its lanes have nothing in their hands, its station goes."""
        station = self._stations.get(node)
        if station is not None and not any(station.busy):
            del self._stations[node]

    def validate(self) -> None:
        """Raises AssertionError unless requests, lanes and pulls agree."""
        flying: dict[Pull, list[int]] = {}
        busy = {node: [0] * len(station.busy) for node, station in self._stations.items()}
        for flight in self.flights.values():
            busy[flight.node][flight.lane] += 1
            for pull, _, chunk in flight.pieces:
                flying.setdefault(pull, []).append(chunk)
        for node, station in self._stations.items():
            assert station.busy == busy[node], node
            assert max(station.busy) <= self._config.pull_requests_max
        for pull, chunks in flying.items():
            assert len(chunks) == len(set(chunks)) == pull.flying, f"{pull} has a chunk in two hands"
            assert pull.copy is not None
            for chunk in chunks:
                assert not (pull.missing | pull.copy.have) >> chunk & 1, (
                    f"chunk {chunk} of {pull} is in two places"
                )


def _place(pull: Pull, chunk: int) -> tuple[int, int]:
    assert pull.copy is not None
    return pull.copy.place(chunk)

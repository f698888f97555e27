"""Chunks on their way between simulated nodes, and what the cluster looks like to the object manager of one of them.

A node's uplink carries one chunk after the other, at a bandwidth of its own. Whoever asks for what is not there, or is not
there any more when it is sent, hears so; what a dead or unreachable node was to send never comes, which is noticed late.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tests.unit.store.fakedisk import checksum_of, fits

from shoal.ids import node_tag, tag_of
from shoald.objects.pulls import GONE, UNREACHED, UNWRITTEN
from shoald.store.objects import ORIGIN_SIZE

if TYPE_CHECKING:
    from tests.sim.daemons import Daemon
    from tests.sim.network import Network

    from shoald.objects.copies import Copy
    from shoald.objects.effects import Receive, Sum

BYTES_PER_S = 1.25e9


class Traffic:
    """One node's transfers (ObjectManager without threads).

    Attributes:
        pulled: object ids on their way here, to see that none is on its way twice.
        requests: number → source, of what has not landed.
    """

    def __init__(self, daemon: Daemon, network: Network) -> None:
        self._daemon = daemon
        self._network = network
        self._free_at = 0.0
        self.requests: dict[int, str] = {}
        self.moved_bytes = 0

    def reach(self, node_id: str) -> None:
        """Whether connections to another node can be made has changed (`Peers.on_reach`)."""
        daemon, network = self._daemon, self._network
        if not daemon.alive or daemon.objects is None or node_id not in daemon.view.live:
            return
        if node_id in network.dead or network.parted(daemon.node_id, node_id):
            daemon.objects.pulls.unreachable(node_id, daemon.now)
        else:
            daemon.objects.pulls.reached(node_id)
        daemon.turn()

    # --- transfers ---

    def receive(self, effect: Receive) -> None:
        """Have a source send."""
        network, source = self._network, self._daemon.cluster.daemons[effect.node]
        self.requests[effect.number] = effect.node
        size = sum(piece[3] for piece in effect.pieces)
        begin = max(network.clock.now + network.latencies_s[0], source.traffic._free_at)
        source.traffic._free_at = end = begin + size / BYTES_PER_S
        wait_s = end + network.latencies_s[0] - network.clock.now
        network.clock.at(wait_s, lambda: self._arrives(effect, source))

    def _arrives(self, effect: Receive, source: Daemon) -> None:
        if effect.number not in self.requests or not self._daemon.alive:
            return
        if not source.alive or self._network.parted(self._daemon.node_id, effect.node):
            stall_s = self._daemon.config.pull_stall_ms / 1000
            lost = [UNREACHED] * len(effect.pieces)
            self._network.clock.at(stall_s, lambda: self._landed(effect.number, lost, "it stands still"))
            return
        assert source.objects is not None
        tickets = source.objects.serving.tickets
        outcomes = []
        disk = self._daemon.disk
        if effect.file and disk.is_full(0):
            self._landed(effect.number, [UNWRITTEN] * len(effect.pieces), "the disk is full")
            return
        for req, chunk, offset, size in effect.pieces:
            ticket = tickets.get((self._daemon.node_id, req))
            copy = ticket.copy if ticket is not None else None
            there = (
                copy is not None
                and copy.have >> chunk & 1
                and self._take(source, copy, chunk, offset, effect)
            )
            self.moved_bytes += size if there else 0
            outcomes.append(1 if there else GONE)
        self._landed(effect.number, outcomes, "it has gone")

    def _take(self, source: Daemon, copy: Copy, chunk: int, offset: int, effect: Receive) -> bool:
        """A chunk lands at ``offset``, if it is there. Of larger objects, only the first chunk says what it is of."""
        region = self._daemon.region
        if region is None or source.region is None:
            return True
        if effect.file:
            token = self._token(source, copy, chunk)
            if not chunk and token is not None:
                self._daemon.disk.files[effect.file] = {0: token}
            return token is not None or bool(chunk)
        if copy.file is None:
            for begin, size in copy.places(chunk):
                region.put(offset, size, source.region.get(begin))
                offset += size
            return True
        size = copy.place(chunk)[1]
        path, at, proof = copy.file
        token = source.disk.files.get(int(path), {}).get(at)
        if not fits(proof, token, source.disk.changes[int(path)]):
            return False
        region.put(offset, size, token if not chunk else None)
        return True

    @staticmethod
    def _token(source: Daemon, copy: Copy, chunk: int) -> Any:
        """What the first chunk of a copy says it is; None if it is not there any more."""
        assert source.region is not None
        if copy.file is None:
            return source.region.get(copy.places(chunk)[0][0])
        path, at, proof = copy.file
        token = source.disk.files.get(int(path), {}).get(at)
        return token if fits(proof, token, source.disk.changes[int(path)]) else None

    def sum(self, effect: Sum) -> None:
        """A file that was received is read through."""
        network = self._network
        network.clock.at(network.latencies_s[0], lambda: self._summed(effect))

    def _summed(self, effect: Sum) -> None:
        daemon = self._daemon
        if not daemon.alive:
            return
        assert daemon.objects is not None
        content = daemon.disk.files.get(effect.file)
        outcome = UNWRITTEN if not content else checksum_of(content[0])
        daemon.objects.pulls.summed(effect.object_id, effect.file, outcome, "it is gone", daemon.now)
        daemon.turn()

    def _landed(self, number: int, outcomes: list[int], reason: str) -> None:
        daemon = self._daemon
        if daemon.alive and self.requests.pop(number, None) is not None:
            assert daemon.objects is not None
            daemon.objects.pulls.landed(number, outcomes, reason, daemon.now)
            daemon.turn()

    def node_died(self, node_id: str) -> None:
        """The connections to a node are closed: what was asked there never comes, and that is noticed at once."""
        assert self._daemon.objects is not None
        flights = self._daemon.objects.pulls._lanes.flights
        for number in [number for number, node in self.requests.items() if node == node_id]:
            lost = [UNREACHED] * len(flights[number].pieces)
            self._network.clock.at(0.0, lambda number=number, lost=lost: self._landed(number, lost, "died"))

    # --- what the cluster looks like (surroundings.Cluster) ---

    def who(self, object_id: bytes, proc: bytes) -> list[str]:
        view = self._daemon.view
        owner_tag = tag_of(object_id)
        tag = tag_of(proc) if proc else owner_tag
        nodes = [node.node_id for node in view.by_tag(tag)]
        if tag != owner_tag:
            nodes += [node.node_id for node in view.by_tag(owner_tag)]
        return nodes + self._daemon.store.hinted(object_id)

    def nearest(self, object_id: bytes, proc: bytes) -> str | None:
        view = self._daemon.view
        nodes = view.by_tag(tag_of(proc)) or view.by_tag(tag_of(object_id))
        return nodes[0].node_id if nodes else None

    def death(self, object_id: bytes, proc: bytes) -> tuple[str, str] | None:
        view = self._daemon.view
        dead = view.died(tag_of(object_id))
        if dead is not None:
            return "owner_died", f"{dead}, on which its owner ran, died"
        dead = view.died(tag_of(proc)) if proc else None
        return ("lost", f"{dead}, on which it was, died") if dead is not None else None

    def is_here(self, object_id: bytes, proc: bytes) -> bool:
        own = node_tag(self._daemon.node_id)
        return tag_of(object_id) == own and (not proc or tag_of(proc) == own)

    def origin_lives(self, copy: bytes) -> bool:
        origin = copy[:ORIGIN_SIZE].hex()
        if self._daemon.node_id.startswith(origin):
            return True
        return any(node.node_id.startswith(origin) for node in self._daemon.view.by_tag(tag_of(copy)))

    def lives(self, node_id: str) -> bool | None:
        view = self._daemon.view
        if node_id in view.live:
            return True
        return False if node_id in view.nodes or node_id == self._daemon.node_id else None

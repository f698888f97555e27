"""The object manager of a daemon: carries events to its core, and what that wants to links, threads and the head.

Made when the first other node is known; a node that is alone has none. Threads read and write the region through a
mapping of the daemon's own, which is made when the first chunk moves.
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any

from shoal.ids import tag_of
from shoal.store.filecopies import THREAD
from shoal.wire import auth
from shoald.objects.core import ObjectCore
from shoald.objects.effects import Effect, Locate, Note, Receive, Sum, Tell
from shoald.objects.landing import sum_file
from shoald.objects.processors import Receivers
from shoald.objects.pulls import UNREACHED, UNWRITTEN
from shoald.objects.receiving import Lane, Request
from shoald.objects.sending import DataServer
from shoald.objects.traffic import Traffic
from shoald.shell.carrying import carry_out
from shoald.store.objects import ORIGIN_SIZE

if TYPE_CHECKING:
    from shoald.node.daemon import NodeDaemon
    from shoald.objects.copies import Copy


class ObjectManager:
    """What one daemon fetches and serves."""

    def __init__(self, daemon: NodeDaemon) -> None:
        self._daemon = daemon
        self._view = daemon.cluster
        self._target = bytes.fromhex(daemon.node_id)
        config = daemon.config
        self.core = ObjectCore(daemon.node_id, daemon.store, daemon.region.capacity, config, self)
        serving = self.core.serving
        self._server = DataServer(serving.tickets, self._memory, config, self._log, self._damaged)
        self._lanes: dict[tuple[str, int], Lane] = {}
        self._mapped: memoryview | None = None
        self._mapping = threading.Lock()
        self._receivers = Receivers()
        self._traffic = Traffic(config.populate_lull_ms / 1000)
        daemon.side.takers[auth.KIND_DATA] = self._server.take
        daemon.on_node_dead.append(self._node_dead)
        daemon.peers.on_broken = self._broken
        daemon.peers.on_reach = self._reach
        for tag in self.core.tags:
            daemon.peers.on(tag, self._from_node)

    def turn(self, now: float) -> float | None:
        """The end of a turn of the daemon; returns when the next one is due at the latest."""
        self.core.turn(now)
        if self.core.outbox:
            carry_out(self.core.outbox, self._carry_out)
        return self.core.next_deadline()

    @property
    def busy(self) -> bool:
        """Whether chunks are on their way, in or out, or were until a moment ago; for the populating thread."""
        server = self._server
        moved = server.sent_bytes + self._daemon.store.counters["fetched_bytes"]
        return self._traffic.goes_on(server.busy or self.core.pulls.receiving, moved, time.monotonic())

    def stats(self) -> dict[str, Any]:
        """Figures beside those of the store."""
        return {"served_bytes": self._server.sent_bytes, "fetching": len(self.core.pulls)}

    def close(self) -> None:
        """The daemon ends: no thread reads or writes the region any more, soon."""
        self._server.close()
        for lane in self._lanes.values():
            lane.close()

    # --- in ---

    def _from_node(self, node_id: str, message: list[Any]) -> None:
        self.core.from_node(node_id, message, self._daemon.loop.now())

    def _node_dead(self, node_id: str, _reason: str) -> None:
        for key in [key for key in self._lanes if key[0] == node_id]:
            self._lanes.pop(key).close()
        self.core.node_dead(node_id, self._daemon.loop.now())

    def _broken(self, node_id: str) -> None:
        """A link is closed. If an answer is awaited, another one is tried, which tells whether the node can be reached."""
        if self.core.pulls.waits_for(node_id):
            self._daemon.peers.ping(node_id, lambda _: None)

    def _reach(self, node_id: str, reached: bool) -> None:
        if reached:
            self.core.pulls.reached(node_id)
        else:
            self.core.pulls.unreachable(node_id, self._daemon.loop.now())

    def _landed(self, number: int, outcomes: list[int], reason: str) -> None:
        loop = self._daemon.loop
        loop.call_soon_threadsafe(lambda: self.core.pulls.landed(number, outcomes, reason, loop.now()))

    def _write_ended(self, file: int) -> None:
        """What hung at a lent file has ended; on a thread."""
        self._daemon.loop.call_soon_threadsafe(lambda: self.core.pulls.write_ended(file))

    # --- out ---

    def _carry_out(self, effect: Effect) -> None:
        daemon = self._daemon
        if isinstance(effect, Tell):
            if effect.known and daemon.refs is not None:
                node, message = effect.node, effect.message
                daemon.refs.when_known(lambda: daemon.peers.send(node, message))
            else:
                daemon.peers.send(effect.node, effect.message)
        elif isinstance(effect, Receive):
            self._receive(effect)
        elif isinstance(effect, Sum):
            self._sum(effect)
        elif isinstance(effect, Locate):
            self._locate(effect.object_ids)
        elif isinstance(effect, Note):
            daemon.log.line(effect.text)

    def _receive(self, effect: Receive) -> None:
        lane = self._lanes.get((effect.node, effect.lane))
        if lane is None:
            node = self._view.live.get(effect.node)
            if node is None:
                self._landed(effect.number, [UNREACHED] * len(effect.pieces), "the node is gone")
                return
            lane = self._lanes[effect.node, effect.lane] = Lane(
                node.address,
                self._daemon.peers.identity,
                self._target,
                self._daemon.config,
                self._memory,
                self._landed,
                self._receivers,
                self._write_ended,
            )
        lane.receive(Request(effect.number, effect.pieces, effect.file, effect.path))

    def _sum(self, effect: Sum) -> None:
        """Have a thread read a file through, in a bounded time."""
        loop, pulls = self._daemon.loop, self.core.pulls
        patience_s = self._daemon.config.pull_stall_ms / 1000

        def run() -> None:
            outcome, reason, hanging = sum_file(effect.path, effect.size, patience_s)
            loop.call_soon_threadsafe(
                lambda: pulls.summed(effect.object_id, effect.file, outcome, reason, loop.now())
            )
            if hanging is not None:
                hanging.then(lambda: self._write_ended(effect.file))

        try:
            threading.Thread(target=run, name=THREAD, daemon=True).start()
        except RuntimeError as error:  # no more threads
            pulls.summed(effect.object_id, effect.file, UNWRITTEN, str(error), loop.now())

    def _locate(self, object_ids: list[bytes]) -> None:
        def answered(ok: bool, answer: Any) -> None:
            now, own, located = self._daemon.loop.now(), self._daemon.node_id, self.core.pulls.located
            if not ok:
                for object_id in object_ids:
                    located(object_id, None, now)
                return
            found = answer["objects"]
            for object_id, each in zip(object_ids, found, strict=False):
                located(object_id, [node for node in each["copies"] if node != own], now)
            if len(found) < len(object_ids):
                self._locate(object_ids[len(found) :])

        self._daemon.head.call("Locate", {"ids": object_ids}, answered)

    def _log(self, text: str) -> None:
        self._daemon.loop.call_soon_threadsafe(lambda: self._daemon.log.line(text))

    def _damaged(self, copy: Copy, why: str) -> None:
        self._daemon.loop.call_soon_threadsafe(lambda: self.core.serving.damaged(copy, why))

    def _memory(self) -> memoryview:
        """The region's bytes; from any thread."""
        if self._mapped is None:
            with self._mapping:
                if self._mapped is None:
                    self._mapped = memoryview(self._daemon.region.map())
        return self._mapped

    # --- what the cluster looks like ---

    def who(self, object_id: bytes, proc: bytes) -> list[str]:
        """Living nodes that may have the object, or know more (surroundings.Cluster)."""
        owner_tag = tag_of(object_id)
        tag = tag_of(proc) if proc else owner_tag
        nodes = self._view.named(tag)
        if tag != owner_tag:
            nodes += self._view.named(owner_tag)
        return nodes + self._daemon.store.hinted(object_id)

    def nearest(self, object_id: bytes, proc: bytes) -> str | None:
        """The first of `who`, if a tag says so (surroundings.Cluster)."""
        nodes = self._view.named(tag_of(proc)) or self._view.named(tag_of(object_id))
        return nodes[0] if nodes else None

    def death(self, object_id: bytes, proc: bytes) -> tuple[str, str] | None:
        """Why nobody has it any more, if a node that had it is dead (surroundings.Cluster)."""
        dead = self._view.died(tag_of(object_id))
        if dead is not None:
            return "owner_died", f"{dead}, on which its owner ran, died: {dead.reason}"
        dead = self._view.died(tag_of(proc)) if proc else None
        return ("lost", f"{dead}, on which it was, died: {dead.reason}") if dead is not None else None

    def is_here(self, object_id: bytes, proc: bytes) -> bool:
        """Whether owner and stamp are of this node (surroundings.Cluster)."""
        own = tag_of(self._target)
        return tag_of(object_id) == own and (not proc or tag_of(proc) == own)

    def origin_lives(self, copy: bytes) -> bool:
        """Whether the node that made the first of these copies does (surroundings.Cluster)."""
        origin = copy[:ORIGIN_SIZE].hex()
        if self._daemon.node_id.startswith(origin):
            return True
        return any(node.node_id.startswith(origin) for node in self._view.by_tag(tag_of(copy)))

    def lives(self, node_id: str) -> bool | None:
        """Whether another node does; None if nothing is known of it yet (surroundings.Cluster)."""
        if node_id in self._view.live:
            return True
        return False if node_id in self._view.nodes or node_id == self._daemon.node_id else None

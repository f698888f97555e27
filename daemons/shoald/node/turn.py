"""The end of a turn of the daemon: decide, carry out, send; in parts that do not depend on each other's success.

A part that raises is reported (`Faults`: with its traceback once, not with every turn), and the parts after it run: what one
core cannot decide must not keep another's messages back. What was taken out of an outbox is not sent twice, and what was not
sent stays there. After a turn in which something failed there is a short pause, however much is due: the next turn may fail
the same way, and the daemon must not spin. What comes in meanwhile is handled at once.

No memory to encode what a socket has to send: it stays there, for the next turn. Any other fault in sending to a client closes
its connection, since its stream cannot go on without that message.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from shoald.node.effects import Effect, Grant
from shoald.node.moving import KEEPER
from shoald.shell.carrying import carry_out

if TYPE_CHECKING:
    from shoald.node.daemon import NodeDaemon
    from shoald.shell.faults import Faults
    from shoald.shell.framesocket import FrameSocket

_EFFECT_ROUNDS_MAX = 8
_PAUSE_S = 0.1  # after a turn in which something failed


class Turn:
    """The end of each turn of one daemon."""

    def __init__(self, daemon: NodeDaemon, faults: Faults) -> None:
        self._daemon = daemon
        self._faults = faults
        self._failed = False
        self._parts = (
            ("the actors", lambda now: daemon.actors.turn(now)),
            ("the placement groups", lambda now: daemon.groups.turn(now)),
            ("forgiving nodes", self._forgive),
            ("the scheduler", lambda now: daemon.scheduler.schedule(now)),
            ("what the scheduler wants done", self._carry_out),
            ("making room", lambda now: daemon.store.relieve(now)),
            ("the object manager", self._move_objects),
            ("the spill files", lambda _now: daemon.spiller.turn()),
            ("the references", self._tell_references),
            ("messages of the store", self._send_store_messages),
            ("when the store is due", lambda _now: daemon.store.next_deadline()),
            ("leases of other nodes", self._lease_elsewhere),
            ("messages about placement groups", lambda _now: daemon.groups.flush()),
            ("links to other nodes", self._flush_peers),
            ("sending to clients", self._flush_clients),
        )

    def end(self, now: float) -> float | None:
        """Decide, carry out, send. Returns when the next turn is due at the latest."""
        self._failed = False
        due: float | None = None
        for name, part in self._parts:
            try:
                wanted = part(now)
            except Exception as error:  # noqa: BLE001 - a boundary that goes on: it is logged with its traceback
                self._met(name, error)
            else:
                if wanted is not None and (due is None or wanted < due):
                    due = wanted
        if self._failed:
            return now + _PAUSE_S
        daemon = self._daemon
        # What closing a socket that does not read has brought about is for the next turn.
        if daemon.scheduler.outbox or daemon.store.outbox or daemon.peers.dirty:
            return now
        return due

    def _met(self, name: str, error: Exception) -> None:
        self._failed = True
        self._faults.met(f"at the end of a turn ({name})", error)

    # --- the parts ---

    def _forgive(self, now: float) -> None:
        """Before the scheduler decides, which may ask such a node again."""
        self._daemon.lease_side.away.forgive(now)

    def _carry_out(self, _now: float) -> None:
        scheduler = self._daemon.scheduler
        for _ in range(_EFFECT_ROUNDS_MAX):
            effects, scheduler.outbox = scheduler.outbox, []
            if not effects:
                break
            try:
                carry_out(effects, self._carry_out_one)
            finally:
                if effects:
                    scheduler.outbox[:0] = effects

    def _carry_out_one(self, effect: Effect) -> None:
        daemon = self._daemon
        try:
            daemon.carry_out(effect)
        except BaseException:
            # A fault of this one, or no memory: a lease that nobody was told of must not stay.
            workers = daemon.scheduler.pool.workers
            worker = workers.get(effect.worker_id) if isinstance(effect, Grant) else None
            if worker is not None:
                daemon.scheduler.end_worker(worker, "its lease could not be granted", daemon.loop.now())
            raise

    def _move_objects(self, now: float) -> float | None:
        objects = self._daemon.objects
        return objects.turn(now) if objects is not None else None

    def _tell_references(self, _now: float) -> None:
        if self._daemon.refs is not None:
            self._daemon.refs.turn()

    def _send_store_messages(self, _now: float) -> None:
        daemon = self._daemon
        outbox = daemon.store.outbox
        if not outbox:
            return
        clients, sent = daemon.clients, 0
        try:
            for proc, message in outbox:
                client = clients.get(proc)
                if client is not None:
                    client.sock.send(message)  # if it raises, it has not taken it
                sent += 1
                if client is None and proc == KEEPER:
                    daemon.moving.told(message)
        finally:
            del outbox[:sent]

    def _lease_elsewhere(self, now: float) -> float | None:
        daemon = self._daemon
        return daemon.lease_side.turn(now) if daemon.cluster.live else None

    def _flush_peers(self, _now: float) -> None:
        if self._daemon.peers.dirty:
            self._daemon.peers.flush()

    def _flush_clients(self, _now: float) -> None:
        to_flush = self._daemon.to_flush
        kept: list[FrameSocket] = []
        while to_flush:
            sock = to_flush.pop()
            try:
                sock.flush()
            except MemoryError as error:
                kept.append(sock)
                self._met("sending to clients", error)
            except Exception as error:  # noqa: BLE001 - a boundary that goes on: it is logged with its traceback
                self._met("sending to clients", error)
                sock.close("a message to it met a fault of the daemon")
        to_flush.update(kept)

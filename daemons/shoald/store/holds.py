"""Holds: counted references of processes to objects, sealed or not.

A count per (holder, id) may be negative for a moment, because a release can overtake the registration of what
it releases. Only a positive count keeps an object: the object counts its positive holders (or `early` does
until it is sealed). So a release that came too early takes nothing from anybody else, and when the late
registration has arrived the two are gone without a trace. A negative count whose registration never comes
(its giver died) is dropped with its client; how many one client may have is bounded.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from shoal.ids import split_ids
from shoal.wire import messages as m
from shoald.store.errors import ProtocolError
from shoald.store.ledger import Ledger, checked_ids, checked_size, fields
from shoald.store.objects import Client

if TYPE_CHECKING:
    from shoald.store.sharing import Sharing


class Holds:
    """Registers, releases and drops the holds of clients."""

    __slots__ = ("_ledger", "sharing")

    sharing: Sharing

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    def hold(self, _client: Client, message: list[Any], _now: float) -> None:
        """HOLD: one more for each id. A holder that is not known here may be of another node; else nothing happens."""
        holder, ids = fields(message, 2)
        checked_ids(ids)
        target = self._ledger.clients.get(holder) if type(holder) is bytes else None
        if target is None:
            if self._ledger.clustered and type(holder) is bytes:
                self.sharing.hand(holder, ids)
            return
        for object_id in split_ids(ids):
            self.add(target, object_id)

    def add(self, holder: Client, object_id: bytes) -> None:
        """One more hold."""
        ledger = self._ledger
        count = holder.holds.get(object_id, 0) + 1
        if not count:
            del holder.holds[object_id]
            return
        holder.holds[object_id] = count
        if count == 1:
            obj = ledger.objects.get(object_id)
            if obj is None:
                others = ledger.early.get(object_id, 0)
                ledger.early[object_id] = others + 1
            else:
                others = obj.holders
                obj.holders += 1
                if obj.recalled:
                    ledger.held_again(obj)
            if ledger.clustered and not others:
                ledger.first_holder(object_id, obj)

    def release(self, client: Client, message: list[Any], _now: float) -> None:
        """RELEASE: one less for each id; frees what has no holder and no pin left."""
        if len(message) != 2:
            self._release_unknown(client, *fields(message, 2))
            return
        ids = checked_ids(message[1])
        ledger = self._ledger
        holds, objects = client.holds, ledger.objects
        for object_id in split_ids(ids):
            count = holds.pop(object_id, 0) - 1
            if not count:
                if ledger.given and ledger.given.get(object_id) == client.proc:
                    del ledger.given[object_id]
                obj = objects.get(object_id)
                if obj is None:
                    ledger.early_less(object_id)
                    continue
                obj.holders -= 1
                if not obj.holders:
                    ledger.unheld(obj)
            elif count > 0:
                holds[object_id] = count
            else:
                self._owe(client, object_id, count)

    def _release_unknown(self, client: Client, ids: bytes, kept: int) -> None:
        """Drop all holds of these but as many as the client knows of."""
        checked_ids(ids)
        checked_size(kept)
        for object_id in split_ids(ids):
            for _ in range(client.holds.get(object_id, 0) - kept):
                self.release(client, [m.RELEASE, object_id], 0.0)

    def drop(self, client: Client) -> None:
        """The client is gone, and its holds with it."""
        ledger = self._ledger
        holds, client.holds = client.holds, {}
        if ledger.given:
            ledger.given = {
                object_id: proc for object_id, proc in ledger.given.items() if proc != client.proc
            }
        for object_id, count in holds.items():
            if count < 0:
                continue
            obj = ledger.objects.get(object_id)
            if obj is None:
                ledger.early_less(object_id)
                continue
            obj.holders -= 1
            if not obj.holders:
                ledger.unheld(obj)

    def _owe(self, client: Client, object_id: bytes, count: int) -> None:
        """Remember a release whose hold has not been registered yet."""
        ledger = self._ledger
        if count == -1 and object_id not in ledger.objects and object_id in ledger.freed:
            return  # freed by the death of whoever would have registered the hold: it never comes
        client.holds[object_id] = count
        client.debts += 1
        limit = ledger.config.store_debts_max
        if client.debts > limit:
            for owed in [i for i, n in client.holds.items() if n < 0 and i not in ledger.objects]:
                del client.holds[owed]
            client.debts = sum(1 for n in client.holds.values() if n < 0)
            if client.debts > limit // 2:
                raise ProtocolError(f"{client.debts} objects released that were never held")

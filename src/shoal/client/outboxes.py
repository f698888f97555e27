"""From outboxes to sockets. What there is no memory to encode stays in its outbox, in its place, for the next flush.

Else a task whose batch met a MemoryError would never be sent, nor a seal, and whoever waits for it would wait for ever. It is
raised all the same: in the thread that flushes, which may have to do with it (or in the backup thread, which reports it).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from shoal.client.node import NodeLink
    from shoal.config import Config
    from shoal.owner.dispatch import Dispatcher
    from shoal.owner.table import ObjectTable

_FRAME_MESSAGES = 32  # task messages in one frame: its reader begins with the first ones soon


def flush_node(table: ObjectTable, node: NodeLink) -> None:
    """Send what is queued for the daemon (lock held)."""
    batch = table.take_node_messages()
    try:
        node.send(batch)
    except MemoryError:
        table.node_out[:0] = batch
        raise


def flush_lease(dispatch: Dispatcher, lease: Any, config: Config) -> None:
    """Send what is queued for a leased worker or an actor (lock held)."""
    outbox = lease.outbox
    if not outbox or lease.broken:
        return
    size, sent = lease.outbox_bytes, 0
    lease.outbox, lease.outbox_bytes = [], 0
    send, bytes_max = lease.connection.send_pickled, config.batch_bytes_max
    try:
        if len(outbox) <= _FRAME_MESSAGES:
            send(outbox, bytes_max)
        else:
            for sent in range(0, len(outbox), _FRAME_MESSAGES):
                send(outbox[sent : sent + _FRAME_MESSAGES], bytes_max)
    except MemoryError:
        lease.outbox[:0] = outbox[sent:]
        lease.outbox_bytes += size
        dispatch.dirty.add(lease)
        raise
    if lease.connection.out_bytes > config.outbox_bytes_max:
        lease.held_back = True

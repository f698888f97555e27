"""Ends: of a session, for those who still wait: whatever has not come will not come any more, and they are told so (R8);
and of another node.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from shoal.exceptions import NodeDiedError
from shoal.ids import node_tag, split_ids
from shoal.owner import streams
from shoal.owner.objects import BORROWED, PENDING
from shoal.serialization import contained_ids, serialize

if TYPE_CHECKING:
    from shoal.client.runtime import Runtime

SHUT_DOWN = "the session has been shut down"


def session_over(reason: str) -> NodeDiedError:
    """The error for whoever needs a session that is over."""
    again = "shoal.init()" if reason == SHUT_DOWN else "shoal.shutdown() and shoal.init()"
    return NodeDiedError(reason, next_step=f"start again with {again}")


def node_died(runtime: Runtime, message: list[Any]) -> None:
    """NODE_DIED: what this process can refer to may still be on other nodes; the head waits a moment for who holds it."""
    tag = node_tag(message[1])
    table = runtime.table
    for entry in table.riding_on(tag):
        table.hold_contents(entry, split_ids(contained_ids(entry.value)))
    table.unexpect(tag)


def fail_everything(runtime: Runtime, reason: str) -> None:
    """Fail all objects that are waited for, and wake whoever waits (lock held)."""
    table = runtime.table
    error = serialize(session_over(reason)).to_bytes()
    for entry in list(table.entries.values()):
        if entry.state == PENDING or (entry.state == BORROWED and entry.waiters):
            table.fail(entry, error)
    for task in list(runtime.dispatch.tasks.values()):
        if task.stream is not None:
            streams.ended_early(task)
    for waiters in list(runtime.store.pin_waiters.values()) if runtime.welcome else ():
        for waiter in waiters:
            waiter.ready = True
    runtime.reactor.wake_ready()

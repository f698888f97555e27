"""What comes with time in one process, and when it wants to look at that next.

While something goes on, and for a while after it, a process looks a few times a second: at what has died, leases and room that
idle, connections that nobody uses. When nothing of that is left it sleeps for long: a wake-up that does nothing was measured at
0.1 ms on one machine, and at 4 to 10 on a virtual one that is shared. What may still happen then without a message (something
dies) rings a bell, see `wakeup`.

Not responsible for what is done: that is its owners'. All of it runs with the runtime's lock held.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from shoal.client.waiting import drop_abandoned_waits
from shoal.generator import abandoned, drop_abandoned
from shoal.owner.tasks import forgotten
from shoal.refs import released
from shoal.wakeup import bells

if TYPE_CHECKING:
    from collections.abc import Callable

    from shoal.client.heap import IdleHeap
    from shoal.client.runtime import Runtime

# So often something is looked at; more rarely when the daemon has got no message for a while, and far more rarely when
# nothing at all has happened for longer, and nothing waits for its time.
ACTIVE_S = 0.2
QUIET_S, QUIET_AFTER_S = 1.0, 2.0
ASLEEP_S, ASLEEP_AFTER_S = 30.0, 5.0


class Ticks:
    """The periodic work of ``runtime``.

    Args:
        heap: freed memory that is kept until the process idles; None: nothing is to be done about that.

    Attributes:
        hook: more of it: given the time in s, says after how many s it wants to run again (None: it does not mind).
    """

    def __init__(self, runtime: Runtime, heap: IdleHeap | None) -> None:
        self._runtime = runtime
        self._heap = heap
        self.hook: Callable[[float], float | None] | None = None
        self._told = (-1, 0.0)  # how many messages the daemon had got, and since when it gets no more
        self._turned = (-1, 0.0)  # the same of turns of the reactor

    def look(self, now: float) -> float:
        """Do what is due at ``now`` (s); after how many s to come back."""
        runtime = self._runtime
        table = runtime.table
        if released or table.node_sequence != self._told[0]:
            table.drain_released()
            self._told = (table.node_sequence, now)
        if runtime.reactor.turns != self._turned[0]:
            self._turned = (runtime.reactor.turns, now)
        if abandoned:
            drop_abandoned(runtime)
        if forgotten:
            runtime.dispatch.forget_functions()
        waits = drop_abandoned_waits()
        waits |= runtime.actors.tick(now)
        if self._heap is not None:
            waits |= self._heap.look(now)
        if runtime.store is not None:
            runtime.store.drain()
            waits |= runtime.packer.drop_recent(now)
            waits |= runtime.store.return_idle(now)
        delay = self._pause(now, waits)
        if runtime.dispatch.leases:
            due = runtime.dispatch.return_idle(now, runtime.config.lease_idle_ms / 1000)
            if due is not None:
                delay = min(delay, max(due - now, 0.001))
        if runtime.deaths.held:
            delay = min(delay, runtime.deaths.tick(now))
        if self.hook is not None:
            wanted = self.hook(now)
            if wanted is not None:
                delay = min(delay, wanted)
        return delay

    def _pause(self, now: float, waits: bool) -> float:
        quiet_s = now - self._told[1]
        if quiet_s <= QUIET_AFTER_S:
            return ACTIVE_S
        if waits or min(quiet_s, now - self._turned[1]) <= ASLEEP_AFTER_S or self._runtime.store is None:
            return QUIET_S
        bell = self._runtime.reactor.ring
        if bell not in bells:
            bells.append(bell)
        # After that, see `wakeup`.
        store = self._runtime.store
        if released or abandoned or forgotten or store.closed_views or store.closed_files:
            return ACTIVE_S
        return ASLEEP_S

    def close(self) -> None:
        """The session ends: nobody is to be woken any more."""
        with contextlib.suppress(ValueError):
            bells.remove(self._runtime.reactor.ring)

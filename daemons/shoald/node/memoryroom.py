"""When tasks like one that was ended for lack of memory may be started again. Pure (R6): readings and the time come in.

As soon as its worker is gone there is memory, but not enough: started at once beside the same neighbours, the task would be ended
again, until it has no attempts left. What it had when it was ended is the least that it needs. So no worker is granted
for tasks of its shape until that much is free below the threshold, or no other task runs on the node (one that waits for tasks
does not count: it may wait for this one); or `memory_room_ms_max` is over, in case what runs there does not end. Neighbours of
the same name may be on their way to where it was, and their tasks take turns, so each counts with what it lacks to that. And
since it may have been ended long before it had all that it needs, the largest neighbour of its name tells more.

Shapes are known by a key of the caller's. Workers that are leased already go on with the next tasks of theirs, one after another.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar

from shoal.sizes import bytes_text

if TYPE_CHECKING:
    from collections.abc import Sequence

    from shoal.config import Config
    from shoald.node.memorywatch import Candidate, Reading

K = TypeVar("K")


@dataclass(slots=True)
class _Ended:
    """The largest task of a shape that was ended: its name and memory, what one like it is known to need, and until when."""

    name: str
    own_bytes: int
    needs_bytes: int
    until: float


class MemoryRoom(Generic[K]):
    """What was ended on one node, by shape."""

    def __init__(self, config: Config) -> None:
        self._share = config.memory_usage_share_max
        self._wait_s = config.memory_room_ms_max / 1000
        self._shapes_max = config.memory_room_shapes_max
        self._ended: dict[K, _Ended] = {}

    def __bool__(self) -> bool:
        return bool(self._ended)

    def ended(self, key: K, victim: Candidate, now: float) -> None:
        """``victim``, a task of this shape, is ended for lack of memory."""
        before = self._ended.pop(key, None)
        own_bytes = max(victim.own_bytes, before.own_bytes if before is not None else 0)
        needs_bytes = max(own_bytes, before.needs_bytes if before is not None else 0)
        self._ended[key] = _Ended(victim.name, own_bytes, needs_bytes, now + self._wait_s)
        if len(self._ended) > self._shapes_max:
            del self._ended[next(iter(self._ended))]

    def lacking(self, reading: Reading, running: Sequence[Candidate], now: float) -> dict[K, str]:
        """The shapes for which there is no room yet beside ``running``, the tasks that do not wait for others; each with what it
        waits for, for people. All others are forgotten.
        """
        most = reading.limit_bytes * self._share
        reasons: dict[K, str] = {}
        for key, each in list(self._ended.items()):
            alike = [other.own_bytes for other in running if other.name == each.name]
            each.needs_bytes = needs = max(each.needs_bytes, *alike, 0)
            wanted = needs + sum(needs - own_bytes for own_bytes in alike)
            if not running or now >= each.until or reading.used_bytes + wanted <= most:
                del self._ended[key]
            else:
                reasons[key] = (
                    f"waits for memory: {each.name} was ended with {bytes_text(each.own_bytes)}, and beside what runs there is "
                    "not as much (memory_room_ms_max)"
                )
        return reasons

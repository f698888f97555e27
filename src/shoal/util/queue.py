"""Queue: a first-in-first-out queue in an actor, for tasks, actors and drivers alike; named after the standard library's.

Waiting happens in the actor, on its event loop: a blocked `get` costs nobody anything.
"""

from __future__ import annotations

import asyncio
import queue
from typing import TYPE_CHECKING, Any

from shoal.actors.method import for_its_caller

if TYPE_CHECKING:
    from collections.abc import Iterable

    from shoal.actors.actor_class import ActorClass
    from shoal.actors.handle import ActorHandle


# Calls at once, most of which wait for an item or for room: the one that they wait for must not have to queue behind them.
_WAITING_MAX = 1_000_000


class Empty(queue.Empty):
    """There was nothing in the queue, in time."""


class Full(queue.Full):
    """There was no room in the queue, in time."""


class Queue:
    """A queue that any process of the cluster can use.

    Args:
        maxsize: items at most; 0: any number.
        actor_options: of the actor that keeps the items, e.g. {"num_cpus": 0, "name": "work"}.
    """

    def __init__(self, maxsize: int = 0, actor_options: dict[str, Any] | None = None) -> None:
        from shoal.api import remote

        self.maxsize = maxsize
        actor_class: ActorClass[Any] = remote(_QueueActor)
        options = {"max_concurrency": _WAITING_MAX, **(actor_options or {})}
        self.actor: ActorHandle = actor_class.options(**options).remote(maxsize)

    def __len__(self) -> int:
        return self.qsize()

    def qsize(self) -> int:
        """How many items there are."""
        return int(_get(self.actor.qsize.remote()))

    def size(self) -> int:
        """How many items there are."""
        return self.qsize()

    def empty(self) -> bool:
        """Whether there are none."""
        return bool(_get(self.actor.empty.remote()))

    def full(self) -> bool:
        """Whether there is no room."""
        return bool(_get(self.actor.full.remote()))

    def put(self, item: Any, block: bool = True, timeout: float | None = None) -> None:
        """Add an item; waits for room if ``block``, up to ``timeout`` seconds. Raises `Full`."""
        if not block:
            timeout = 0.0
        _check_timeout(timeout)
        if not _get(self.actor.put.remote(item, timeout)):
            raise Full

    async def put_async(self, item: Any, block: bool = True, timeout: float | None = None) -> None:  # noqa: ASYNC109  as in Ray
        """The same, to be awaited."""
        if not block:
            timeout = 0.0
        _check_timeout(timeout)
        if not await self.actor.put.remote(item, timeout):
            raise Full

    def get(self, block: bool = True, timeout: float | None = None) -> Any:
        """Take the first item; waits for one if ``block``, up to ``timeout`` seconds. Raises `Empty`."""
        if not block:
            timeout = 0.0
        _check_timeout(timeout)
        return _taken(_get(self.actor.get.remote(timeout)))

    async def get_async(self, block: bool = True, timeout: float | None = None) -> Any:  # noqa: ASYNC109  as in Ray
        """The same, to be awaited."""
        if not block:
            timeout = 0.0
        _check_timeout(timeout)
        return _taken(await self.actor.get.remote(timeout))

    def put_nowait(self, item: Any) -> None:
        """Add an item if there is room; raises `Full`."""
        self.put(item, block=False)

    def get_nowait(self) -> Any:
        """Take the first item if there is one; raises `Empty`."""
        return self.get(block=False)

    def put_nowait_batch(self, items: Iterable[Any]) -> None:
        """Add all items, or none if there is no room for all (`Full`)."""
        items = list(items)
        if not _get(self.actor.put_batch.remote(items)):
            raise Full(
                f"{len(items)} items do not fit in a queue of {self.maxsize}, which has {self.qsize()}"
            )

    def get_nowait_batch(self, num_items: int) -> list[Any]:
        """Take that many items, or none if there are fewer (`Empty`)."""
        if num_items < 0:
            raise ValueError("'num_items' must be nonnegative")
        items = _get(self.actor.get_batch.remote(num_items))
        if items is None:
            raise Empty(f"{num_items} items are not there; the queue has {self.qsize()}")
        return list(items)

    def shutdown(self, force: bool = False, grace_period_s: int = 5) -> None:
        """End the actor; what is in the queue is lost.

        Without ``force``, calls under way may end within ``grace_period_s`` seconds.
        """
        from shoal.actors.api import kill
        from shoal.api import wait

        if not force:
            wait([self.actor.__ray_terminate__.remote()], timeout=grace_period_s)
        kill(self.actor)


def _get(ref: Any) -> Any:
    from shoal.api import get

    return get(ref)


def _taken(answer: tuple[bool, Any]) -> Any:
    found, item = answer
    if not found:
        raise Empty
    return item


def _check_timeout(timeout: float | None) -> None:
    if timeout is not None and timeout < 0:
        raise ValueError("'timeout' must be a non-negative number")


class _QueueActor:
    """Keeps the items."""

    def __init__(self, maxsize: int) -> None:
        self._maxsize = maxsize
        self._queue: asyncio.Queue[Any] = asyncio.Queue(maxsize)

    def qsize(self) -> int:
        return self._queue.qsize()

    def empty(self) -> bool:
        return self._queue.empty()

    def full(self) -> bool:
        return self._queue.full()

    @for_its_caller  # an item that nobody waits to have added any more
    async def put(self, item: Any, timeout: float | None) -> bool:  # noqa: ASYNC109  the caller's
        try:
            if timeout == 0:
                self._queue.put_nowait(item)
            else:
                await asyncio.wait_for(self._queue.put(item), timeout)
        except (TimeoutError, asyncio.QueueFull):
            return False
        return True

    @for_its_caller  # a dead process must not take an item
    async def get(self, timeout: float | None) -> tuple[bool, Any]:  # noqa: ASYNC109  the caller's
        try:
            if timeout == 0:
                return True, self._queue.get_nowait()
            return True, await asyncio.wait_for(self._queue.get(), timeout)
        except (TimeoutError, asyncio.QueueEmpty):
            return False, None

    def put_batch(self, items: list[Any]) -> bool:
        if self._maxsize > 0 and self._queue.qsize() + len(items) > self._maxsize:
            return False
        for item in items:
            self._queue.put_nowait(item)
        return True

    def get_batch(self, count: int) -> list[Any] | None:
        if count > self._queue.qsize():
            return None
        return [self._queue.get_nowait() for _ in range(count)]

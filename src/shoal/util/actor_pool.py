"""ActorPool: work given to whichever of some actors is free, results in order or as they come."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from shoal.actors.handle import ActorHandle
    from shoal.refs import ObjectRef

V = TypeVar("V")


class ActorPool:
    """Calls spread over a fixed set of actors, one at a time each.

    Args:
        actors: handles. The pool does not end them.
    """

    def __init__(self, actors: Iterable[ActorHandle]) -> None:
        self._idle: list[ActorHandle] = list(actors)
        self._actor_of: dict[ObjectRef[Any], tuple[int, ActorHandle]] = {}
        self._ref_of: dict[int, ObjectRef[Any]] = {}
        self._submitted = 0
        self._returned = 0
        self._taken: set[int] = set()  # results that were given out of order
        self._waiting: deque[tuple[Callable[[ActorHandle, Any], ObjectRef[Any]], Any]] = deque()

    def submit(self, fn: Callable[[ActorHandle, V], ObjectRef[Any]], value: V) -> None:
        """Have ``fn(actor, value)`` called with the next idle actor; it returns the ref of the call."""
        if self._idle:
            actor = self._idle.pop()
            try:
                self._start(fn, value, actor)
            except BaseException:  # nothing was begun, and the actor is still the pool's
                self._idle.append(actor)
                raise
        else:
            self._waiting.append((fn, value))

    def _start(
        self, fn: Callable[[ActorHandle, Any], ObjectRef[Any]], value: Any, actor: ActorHandle
    ) -> None:
        ref = fn(actor, value)
        self._actor_of[ref] = (self._submitted, actor)
        self._ref_of[self._submitted] = ref
        self._submitted += 1

    def map(self, fn: Callable[[ActorHandle, V], ObjectRef[Any]], values: Iterable[V]) -> Iterator[Any]:
        """Results in the order of ``values``. What was submitted before and not taken is dropped."""
        self._drop_results()
        for value in values:
            self.submit(fn, value)
        return self._in_order()

    def map_unordered(
        self, fn: Callable[[ActorHandle, V], ObjectRef[Any]], values: Iterable[V]
    ) -> Iterator[Any]:
        """Results as they come. What was submitted before and not taken is dropped."""
        self._drop_results()
        for value in values:
            self.submit(fn, value)
        return self._as_they_come()

    def _drop_results(self) -> None:
        """Nobody asks for what was submitted before. What runs goes on, and later calls wait for it at its actor."""
        self._waiting.clear()
        self._idle += [actor for _, actor in self._actor_of.values()]
        self._actor_of.clear()
        self._ref_of.clear()
        self._taken.clear()
        self._returned = self._submitted

    def _in_order(self) -> Iterator[Any]:
        while self.has_next():
            yield self.get_next()

    def _as_they_come(self) -> Iterator[Any]:
        while self.has_next():
            yield self.get_next_unordered()

    def has_next(self) -> bool:
        """Whether a result is to come."""
        return bool(self._actor_of) or bool(self._waiting)

    def get_next(self, timeout: float | None = None, ignore_if_timedout: bool = False) -> Any:
        """The next result in the order of submission.

        Raises StopIteration if nothing is to come; TimeoutError after ``timeout`` seconds (with ``ignore_if_timedout``
        that result is given up); what the call raised.
        """
        import shoal

        if not self.has_next():
            raise StopIteration("no more results to get")
        while self._returned in self._taken:
            self._taken.discard(self._returned)
            self._returned += 1
        self._check_begun()
        ref = self._ref_of[self._returned]
        if not shoal.wait([ref], timeout=timeout)[0]:  # its actor is free when it is there, not before
            if not ignore_if_timedout:
                raise TimeoutError("the next result did not come in time")
            self._forget(ref, self._returned)
            self._returned += 1
            raise TimeoutError(f"the next result did not come in time, and is given up: {ref}")
        self._forget(ref, self._returned)
        self._returned += 1
        return shoal.get(ref)

    def get_next_unordered(self, timeout: float | None = None, ignore_if_timedout: bool = False) -> Any:
        """Whichever result comes next. Raises as `get_next` does."""
        import shoal

        if not self.has_next():
            raise StopIteration("no more results to get")
        self._check_begun()
        ready, _ = shoal.wait(list(self._actor_of), num_returns=1, timeout=timeout)
        if not ready:
            raise TimeoutError("no result came in time")
        index, _ = self._actor_of[ready[0]]
        self._taken.add(index)
        self._forget(ready[0], index)
        return shoal.get(ready[0])

    def _forget(self, ref: ObjectRef[Any], index: int) -> None:
        """The result is given out: its actor takes the next call."""
        _, actor = self._actor_of.pop(ref)
        del self._ref_of[index]
        self._return(actor)

    def _check_begun(self) -> None:
        if not self._actor_of:
            raise ValueError("no actor of the pool is there to begin what was submitted; push one")

    def _return(self, actor: ActorHandle) -> None:
        if self._waiting:
            self._start(*self._waiting.popleft(), actor)
        else:
            self._idle.append(actor)

    def has_free(self) -> bool:
        """Whether an actor is idle, and nothing waits for one."""
        return bool(self._idle) and not self._waiting

    def pop_idle(self) -> ActorHandle | None:
        """Take an idle actor out of the pool; None if none is."""
        return self._idle.pop() if self.has_free() else None

    def push(self, actor: ActorHandle) -> None:
        """Add an actor. Raises ValueError if it is in the pool already."""
        if actor in self._idle or any(actor == busy for _, busy in self._actor_of.values()):
            raise ValueError("the actor is in the pool already")
        self._return(actor)

"""ObjectRef: the handle to a value that may still be computed, anywhere in the cluster.

A ref counts its object at the smallest scope (DESIGN §3): while it lives, `Entry.count` includes it. Refs that were
read out of a stored container have no entry until they are used; they ride on the container's hold.
`__del__` may run at any point, on any thread, under any lock: it only appends to a queue that the
runtime drains, and rings a bell (a system call) when the runtime sleeps.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from shoal.wakeup import bells, ring

if TYPE_CHECKING:
    import concurrent.futures
    from collections.abc import Callable, Generator

    from shoal.client.runtime import Runtime
    from shoal.owner.objects import Entry

T = TypeVar("T")

# Entries whose ref died; drained by the runtime. Bounded by the number of refs that were alive.
released: deque[Entry] = deque()


class _Session:
    """What refs need of the running session; replaced as a whole by init and shutdown."""

    runtime: Callable[[], Runtime]


session = _Session()


class ObjectRef(Generic[T]):
    """A reference to an object of type ``T``; compare and hash by id.

    Picklable only inside values that go through shoal (arguments, results, `put`). `await ref` and `ref.future()`
    give its value; so does `shoal.get(ref)`.
    """

    __slots__ = ("__weakref__", "_entry", "id")

    id: bytes
    _entry: Entry | None

    def __init__(self, object_id: bytes, entry: Entry | None = None) -> None:
        self._entry = entry
        self.id = object_id

    def __del__(self) -> None:
        try:
            entry = self._entry
        except AttributeError:  # interrupted before __init__ had run
            return
        if entry is not None:
            released.append(entry)
            if bells:
                ring()

    def __hash__(self) -> int:
        return hash(self.id)

    def __eq__(self, other: object) -> bool:
        return type(other) is ObjectRef and other.id == self.id

    def __repr__(self) -> str:
        return f"ObjectRef({self.id.hex()})"

    def __reduce__(self) -> Any:
        raise TypeError(
            "an ObjectRef can only be pickled by shoal itself, as (part of) an argument, a result or a value for put; "
            "to move its value elsewhere, pickle shoal.get(ref)"
        )

    def hex(self) -> str:
        """The id as 32 hexadecimal digits."""
        return self.id.hex()

    def binary(self) -> bytes:
        """The id as 16 bytes."""
        return self.id

    def task_id(self) -> bytes:
        """The 12 bytes that name the task (or put) that makes this object."""
        return self.id[:12]

    def future(self) -> concurrent.futures.Future[T]:
        """A future for the value; it is resolved by a runtime thread, and cancelling it does not cancel the task."""
        future: concurrent.futures.Future[T] = session.runtime().future(self)
        return future

    def __await__(self) -> Generator[Any, None, T]:
        import asyncio

        return asyncio.wrap_future(self.future()).__await__()

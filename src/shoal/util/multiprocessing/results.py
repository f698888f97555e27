"""What a Pool's calls return: results that arrive chunk by chunk, on whichever thread brings them."""

from __future__ import annotations

import multiprocessing
import threading
from typing import TYPE_CHECKING, Any

from shoal.exceptions import TaskError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


def as_pool_error(error: BaseException) -> BaseException:
    """The function's own exception, as the standard library's Pool raises; what it was here is its cause."""
    cause = error.cause if isinstance(error, TaskError) else None
    if cause is None:
        return error
    cause.__cause__ = error
    return cause


class AsyncResult:
    """The result of `apply_async`, `map_async` or `starmap_async`.

    Args:
        chunks: how many parts there are to come.
        single: the result is the one item of the one part.
    """

    def __init__(
        self,
        chunks: int,
        single: bool,
        callback: Callable[[Any], Any] | None,
        error_callback: Callable[[BaseException], Any] | None,
    ) -> None:
        self._event = threading.Event()
        self._parts: list[list[Any]] = [[] for _ in range(chunks)]
        self._missing = chunks
        self._single = single
        self._callback = callback
        self._error_callback = error_callback
        self._error: BaseException | None = None
        self._failed_index = 0
        self._value: Any = None
        if not chunks:
            self._finish()

    def arrived(self, index: int, part: list[Any] | None, error: BaseException | None) -> None:
        """A part is there, or what it raised. Called with the pool's lock released, once per part."""
        self._missing -= 1
        if error is not None:
            if (
                self._error is None or index < self._failed_index
            ):  # of several, the first in order: not that of the fastest
                self._error, self._failed_index = as_pool_error(error), index
        else:
            self._parts[index] = part or []
        if self._missing == 0:
            self._finish()

    def _finish(self) -> None:
        if self._error is None:
            items = [item for part in self._parts for item in part]
            self._value = items[0] if self._single else items
        self._parts = []
        self._event.set()
        if self._error is not None:
            if self._error_callback is not None:
                self._error_callback(self._error)
        elif self._callback is not None:
            self._callback(self._value)

    def ready(self) -> bool:
        """Whether the call has ended."""
        return self._event.is_set()

    def successful(self) -> bool:
        """Whether it raised nothing. Raises ValueError before it has ended."""
        if not self.ready():
            raise ValueError(f"{self!r} not ready")
        return self._error is None

    def wait(self, timeout: float | None = None) -> None:
        """Wait until it has ended, for up to ``timeout`` seconds."""
        self._event.wait(timeout)

    def get(self, timeout: float | None = None) -> Any:
        """The result; raises what the function raised, or multiprocessing.TimeoutError after ``timeout`` seconds."""
        self.wait(timeout)
        if not self.ready():
            raise multiprocessing.TimeoutError
        if self._error is not None:
            raise self._error
        return self._value


class IMapIterator:
    """The results of `imap` (in order) or `imap_unordered` (as they come)."""

    def __init__(self, ordered: bool, feed: Callable[[], None]) -> None:
        self._ordered = ordered
        self._feed = feed
        self._arrival = threading.Condition()
        self._there: dict[int, tuple[list[Any] | None, BaseException | None]] = {}
        self._next_index = 0
        self._items: list[Any] = []
        self.total: int | None = None  # parts, once the input has ended

    def arrived(self, index: int, part: list[Any] | None, error: BaseException | None) -> None:
        """A part is there, or what it raised."""
        with self._arrival:
            self._there[index] = (part, error)
            self._arrival.notify_all()
        self._feed()

    def ended(self, total: int) -> None:
        """There will be ``total`` parts."""
        with self._arrival:
            self.total = total
            self._arrival.notify_all()

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        return self.next()

    def next(self, timeout: float | None = None) -> Any:
        """The next result. Raises what its function call raised, or multiprocessing.TimeoutError after ``timeout`` seconds."""
        while not self._items:
            part, error = self._take(timeout)
            if error is not None:
                raise as_pool_error(error)
            self._items = (part or [])[::-1]
        return self._items.pop()

    def _take(self, timeout: float | None) -> tuple[list[Any] | None, BaseException | None]:
        with self._arrival:
            if not self._arrival.wait_for(self._is_next_there, timeout):
                raise multiprocessing.TimeoutError
            if self.total is not None and self._next_index >= self.total:
                raise StopIteration
            index = self._next_index if self._ordered else next(iter(self._there))
            self._next_index += 1
            return self._there.pop(index)

    def _is_next_there(self) -> bool:
        if self.total is not None and self._next_index >= self.total:
            return True
        return self._next_index in self._there if self._ordered else bool(self._there)

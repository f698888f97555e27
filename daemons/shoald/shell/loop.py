"""The daemon's event loop: readiness of descriptors, timers, work from other threads, and the end of a turn.

A turn is: wait, run what is ready, run what is due, run what other threads handed in, then `on_turn_end`
once. The end of the turn is where cores decide over all that came in together and where each client's
messages leave in one frame; that hook is why this is not asyncio. It is also what starts fastest: importing
asyncio takes 35 ms and uvloop 3 more (measured), a third of what a daemon may take until it is ready; epoll
is there at once.

Level-triggered. A callback that raises is logged with its traceback by `on_error`, and the loop goes on.
Only `call_soon_threadsafe` and `wake` may be used from other threads and signal handlers.
"""

from __future__ import annotations

import heapq
import itertools
import os
import select
import selectors
import time
from collections import deque
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

READ, WRITE = 1, 4  # EPOLLIN, EPOLLOUT
EVENTS_MAX = 256  # descriptors served in one turn; the rest are served in the next


class Timer:
    """A callback at a time; `cancel` makes it do nothing."""

    __slots__ = ("callback", "when")

    def __init__(self, when: float, callback: Callable[[], None]) -> None:
        self.when = when
        self.callback: Callable[[], None] | None = callback

    def cancel(self) -> None:
        """Forget the callback."""
        self.callback = None


class _SelectorPoller:
    """epoll's interface over `selectors`, where there is no epoll."""

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()

    def register(self, fd: int, mask: int) -> None:
        self._selector.register(fd, self._events(mask))

    def modify(self, fd: int, mask: int) -> None:
        self._selector.modify(fd, self._events(mask))

    def unregister(self, fd: int) -> None:
        self._selector.unregister(fd)

    def poll(self, timeout: float, maxevents: int) -> list[tuple[int, int]]:
        ready = self._selector.select(None if timeout < 0 else timeout)
        return [
            (
                key.fd,
                (READ if events & selectors.EVENT_READ else 0)
                | (WRITE if events & selectors.EVENT_WRITE else 0),
            )
            for key, events in ready[:maxevents]
        ]

    def close(self) -> None:
        self._selector.close()

    @staticmethod
    def _events(mask: int) -> int:
        return (selectors.EVENT_READ if mask & READ else 0) | (selectors.EVENT_WRITE if mask & WRITE else 0)


class Loop:
    """One thread's event loop.

    Attributes:
        on_turn_end: called at the end of each turn with the time; returns when it wants the next turn at
            the latest.
        on_error: called with a text for people and the exception when a callback raised.
    """

    def __init__(self, on_error: Callable[[str, BaseException], None]) -> None:
        self.on_error = on_error
        self.on_turn_end: Callable[[float], float | None] = lambda _now: None
        self._poller: Any = select.epoll() if hasattr(select, "epoll") else _SelectorPoller()
        self._readers: dict[int, Callable[[], None]] = {}
        self._writers: dict[int, Callable[[], None]] = {}
        self._timers: list[tuple[float, int, Timer]] = []
        self._order = itertools.count().__next__
        self._handed_in: deque[Callable[[], None]] = deque()
        self._wake_read, self._wake_write = (
            os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC) if hasattr(os, "pipe2") else _pipe()
        )
        self._stopped = False
        self.add_reader(self._wake_read, self._drain_wake)

    @staticmethod
    def now() -> float:
        """Seconds on the monotonic clock that timers and cores use."""
        return time.monotonic()

    # --- descriptors ---

    def add_reader(self, fd: int, callback: Callable[[], None]) -> None:
        """Call ``callback`` in every turn in which ``fd`` is readable or closed by its peer."""
        self._watch(fd, self._readers, callback)

    def add_writer(self, fd: int, callback: Callable[[], None]) -> None:
        """Call ``callback`` in every turn in which ``fd`` takes bytes."""
        self._watch(fd, self._writers, callback)

    def remove_reader(self, fd: int) -> None:
        """Stop reading ``fd``; nothing happens if it was not read."""
        self._unwatch(fd, self._readers)

    def remove_writer(self, fd: int) -> None:
        """Stop writing ``fd``; nothing happens if it was not written."""
        self._unwatch(fd, self._writers)

    def _watch(self, fd: int, table: dict[int, Callable[[], None]], callback: Callable[[], None]) -> None:
        known = fd in self._readers or fd in self._writers
        table[fd] = callback
        mask = self._mask(fd)
        if known:
            self._poller.modify(fd, mask)
        else:
            self._poller.register(fd, mask)

    def _unwatch(self, fd: int, table: dict[int, Callable[[], None]]) -> None:
        if table.pop(fd, None) is None:
            return
        mask = self._mask(fd)
        if mask:
            self._poller.modify(fd, mask)
        else:
            self._poller.unregister(fd)

    def _mask(self, fd: int) -> int:
        return (READ if fd in self._readers else 0) | (WRITE if fd in self._writers else 0)

    # --- time and other threads ---

    def call_later(self, delay_s: float, callback: Callable[[], None]) -> Timer:
        """Call ``callback`` once, ``delay_s`` seconds from now."""
        timer = Timer(time.monotonic() + delay_s, callback)
        heapq.heappush(self._timers, (timer.when, self._order(), timer))
        return timer

    def call_soon_threadsafe(self, callback: Callable[[], None]) -> None:
        """Have the loop's thread call ``callback`` in its next turn; from any thread."""
        self._handed_in.append(callback)
        self.wake()

    def wake(self) -> None:
        """Make the loop take a turn; from any thread or signal handler, any number of times."""
        try:
            os.write(self._wake_write, b"\0")
        except BlockingIOError:
            pass  # the pipe is full of wake-ups: it will wake

    def _drain_wake(self) -> None:
        try:
            os.read(self._wake_read, 4096)
        except BlockingIOError:
            pass  # another wake-up emptied it

    # --- running ---

    def run(self) -> None:
        """Take turns until `stop`, which may have been called before; what the last one decided is carried
        out.
        """
        while not self._stopped:
            self.turn()
        self._guard_turn_end()

    def stop(self) -> None:
        """End `run` after this turn."""
        self._stopped = True
        self.wake()

    def turn(self) -> None:
        """One turn: waits for the first event, or for the next deadline."""
        deadline = self._guard_turn_end()
        if self._timers and (deadline is None or self._timers[0][0] < deadline):
            deadline = self._timers[0][0]
        timeout = -1.0 if deadline is None else max(0.0, deadline - time.monotonic())
        if self._stopped or self._handed_in:
            timeout = 0.0
        for fd, mask in self._poller.poll(timeout, EVENTS_MAX):
            # Looked up now, not before: an earlier callback of this turn may have closed this descriptor.
            if mask & ~WRITE and (reader := self._readers.get(fd)) is not None:
                self._guard(reader)
            if mask & ~READ and (writer := self._writers.get(fd)) is not None:
                self._guard(writer)
        now = time.monotonic()
        while self._timers and self._timers[0][0] <= now:
            callback = heapq.heappop(self._timers)[2].callback
            if callback is not None:
                self._guard(callback)
        for _ in range(len(self._handed_in)):
            self._guard(self._handed_in.popleft())

    def _guard_turn_end(self) -> float | None:
        try:
            return self.on_turn_end(time.monotonic())
        except Exception as error:  # noqa: BLE001 - a boundary that goes on: it is logged with its traceback
            self.on_error("at the end of a turn", error)
            return time.monotonic() + 1.0  # a decision that cannot be made must not make the loop spin

    def _guard(self, callback: Callable[[], None]) -> None:
        try:
            callback()
        except Exception as error:  # noqa: BLE001 - a boundary that goes on: it is logged with its traceback
            self.on_error(f"in {getattr(callback, '__qualname__', callback)}", error)

    def close(self) -> None:
        """Free the loop's descriptors; those it watched belong to others."""
        self._poller.close()
        os.close(self._wake_read)
        os.close(self._wake_write)


def _pipe() -> tuple[int, int]:
    ends = os.pipe()
    for fd in ends:
        os.set_blocking(fd, False)
    return ends

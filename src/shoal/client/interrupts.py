"""Signals while the runtime works: returned from at once, with nothing left half done.

An exception raised by a signal handler in the middle of handling a message would lose that message, or tear a frame. So
while the main thread waits or sends, signals that have a Python handler (Ctrl-C, alarms) only set a flag and ring the bell;
at the next safe point the handler that was there before gets the signal. Outside of that nothing is installed, and
handlers are the user's own.

`_signal` instead of `signal`: the latter turns numbers into enums, 13 µs per wait instead of 1.
"""

from __future__ import annotations

import signal
import sys
import threading
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

# Those whose handlers people write, and let raise.
_SIGNALS = tuple(
    int(getattr(signal, name))
    for name in ("SIGINT", "SIGTERM", "SIGALRM", "SIGUSR1", "SIGUSR2", "SIGHUP")
    if hasattr(signal, name)
)
_c_signal: Any = sys.modules["_signal"]
_get_handler = _c_signal.getsignal
_set_handler = _c_signal.signal
_get_ident = threading.get_ident
_main_ident = threading.main_thread().ident
# True while a caught signal is given to its handler: nothing of the runtime is half done then.
delivering = False


class Interruptible:
    """Context of one wait or flush on the main thread; a no-op on other threads.

    Args:
        wake: called from the signal handler; must be safe there.

    Attributes:
        hits: signals that were caught and not delivered yet.
    """

    __slots__ = ("_previous", "_wake", "hits")

    def __init__(self, wake: Callable[[], None]) -> None:
        self._wake = wake
        self._previous: list[tuple[int, Any]] = []
        self.hits: list[tuple[int, FrameType | None]] = []

    @property
    def active(self) -> bool:
        """Whether any signal is caught."""
        return bool(self._previous)

    def __enter__(self) -> Self:
        if _get_ident() == _main_ident:
            previous = self._previous
            try:
                for number in _SIGNALS:
                    handler = _get_handler(number)
                    if callable(handler):  # ignored, default and foreign (C) handlers stay as they are
                        previous.append((number, handler))
                        _set_handler(number, self._handle)
            except BaseException:  # a handler that was not caught yet has raised
                self._restore()
                raise
        return self

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self.hits.append((number, frame))
        self._wake()

    def __exit__(self, *_: object) -> None:
        if self._previous:
            handlers = dict(self._previous) if self.hits else None
            self._restore()
            if self.hits:
                self._deliver(handlers or {})

    def _restore(self) -> None:
        previous = self._previous
        try:
            while previous:
                _set_handler(*previous[-1])
                previous.pop()
        finally:
            if previous:  # a handler that is back already has raised: the others go back all the same
                self._restore()

    def deliver(self) -> None:
        """Give caught signals to their handlers, which may raise; what comes later is still caught."""
        if self.hits:
            self._deliver(dict(self._previous))

    def _deliver(self, handlers: dict[int, Any]) -> None:
        global delivering
        while self.hits:
            number, frame = self.hits.pop(0)
            handler = handlers.get(number) or _get_handler(number)
            delivering = True
            try:
                if callable(handler):
                    handler(number, frame)
            finally:
                delivering = False


class Cancellable:
    """Context of one wait on a thread that runs an actor's call: `interrupt` ends it with a KeyboardInterrupt.

    To a wait it is what `Interruptible` is.

    Args:
        waits: by thread, those under way (runtime's lock held).
        lock: the runtime's.
    """

    __slots__ = ("_lock", "_outer", "_waits", "hits")

    active = True

    def __init__(self, waits: dict[int, Cancellable], lock: threading.RLock) -> None:
        self._waits = waits
        self._lock = lock
        self._outer: Cancellable | None = None  # a finalizer may wait on top of a wait
        self.hits: list[object] = []

    def __enter__(self) -> Self:
        with self._lock:
            self._outer = self._waits.get(_get_ident())
            self._waits[_get_ident()] = self
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        with self._lock:
            if self._outer is None:
                del self._waits[_get_ident()]
            else:
                self._waits[_get_ident()] = self._outer
        if self.hits and kind is None:
            self.deliver()

    def interrupt(self) -> None:
        """Have the wait raise (lock held); whoever calls this wakes it."""
        self.hits.append(None)

    def deliver(self) -> None:
        """Raise KeyboardInterrupt."""
        self.hits.clear()
        raise KeyboardInterrupt


def nothing() -> None:
    """The `wake` of what does not sleep."""

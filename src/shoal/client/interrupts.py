"""Ctrl-C during a blocking wait: returned at once, with nothing left half done.

A KeyboardInterrupt raised in the middle of handling a message would lose that message. So while the main thread waits,
SIGINT only sets a flag and rings the bell; the wait ends at its next safe point, and then the handler that
was there before gets the signal. Outside of waits nothing is installed.
"""

from __future__ import annotations

import signal
import threading
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

_main_thread = threading.main_thread()
# The C functions: the wrappers of the signal module turn numbers into enums, at 2 µs a call, twice per get.
_get_handler = getattr(signal.getsignal, "__wrapped__", signal.getsignal)
_set_handler = getattr(signal.signal, "__wrapped__", signal.signal)
_SIGINT = int(signal.SIGINT)
# True while a caught signal is given to its handler: nothing of the runtime is half done then.
delivering = False


class Interruptible:
    """Context of one blocking wait on the main thread; a no-op on other threads.

    Args:
        wake: called from the signal handler; must be safe there.
    """

    __slots__ = ("_previous", "_wake", "active", "hit")

    def __init__(self, wake: Callable[[], None]) -> None:
        self._wake = wake
        self.active = False
        self._previous: Any = None
        self.hit: tuple[int, FrameType | None] | None = None

    def __enter__(self) -> Self:
        if threading.current_thread() is _main_thread:
            previous = _get_handler(_SIGINT)
            if callable(previous):  # ignored, default or foreign handlers stay as they are
                self._previous = previous
                self.active = True
                _set_handler(_SIGINT, self._handle)
        return self

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self.hit = (number, frame)
        self._wake()

    def __exit__(self, *_: object) -> None:
        if self.active:
            self.active = False
            _set_handler(_SIGINT, self._previous)

    def deliver(self) -> None:
        """Give a caught signal to the previous handler, which usually raises KeyboardInterrupt."""
        global delivering
        if self.hit is not None:
            hit, self.hit = self.hit, None
            delivering = True
            try:
                self._previous(*hit)
            finally:
                delivering = False

"""How long whoever wants room hopes, when nothing is under way that would make any. Pure.

Then only others can help, by letting go of what they hold. Tasks end soon, or late; who views all of a large working set lets go
of nothing. So the first wait is as long as config.spill_map_after_ms; each that was in vain makes the next one a quarter as long,
down to a bound, and each at whose end there was room makes it twice as long.
"""

from __future__ import annotations

from shoal.config import Config

_LEAST = 1 / 256  # of the longest wait


class Standstill:
    """Whether nothing is under way in one store, and for how long that is borne."""

    __slots__ = ("_most_s", "_patience_s", "_since")

    def __init__(self, config: Config) -> None:
        self._most_s = self._patience_s = config.spill_map_after_ms / 1000
        self._since: float | None = None

    def __bool__(self) -> bool:
        return self._since is not None

    def see(self, is_still: bool, now: float) -> None:
        """What there is to see at the end of a turn: somebody waits, and nothing is under way for them."""
        if not is_still:
            self._since = None
        elif self._since is None:
            self._since = now

    def ends_at(self, since: float) -> float | None:
        """When somebody who waits since then has hoped for long enough; None if there still is hope."""
        return None if self._since is None else max(since, self._since) + self._patience_s

    def is_over(self, since: float, now: float) -> bool:
        """Whether that is so by now."""
        ends_at = self.ends_at(since)
        return ends_at is not None and ends_at <= now

    def ended(self, with_room: bool, now: float) -> None:
        """A wait has ended, with room or without: then the next one's turn is not at once, what was done may help it."""
        if with_room:
            self._patience_s = min(self._most_s, self._patience_s * 2)
        else:
            self._patience_s = max(self._most_s * _LEAST, self._patience_s / 4)
            self._since = now

"""Which worker is ended before the machine runs out of memory. Pure (R6): readings and the time come in.

Above the configured share of the limit nothing new is started, and after `memory_patience_ms` a worker is chosen: one whose task
may run again before one whose task may not, tasks before actors, the one that started last first. So what has worked
longest, and what nobody could repeat, is lost last. One at a time: the next is chosen when the one before is gone
and the readings had time to show it. An ended task is tried again like one whose worker crashed, when there is room.

The kernel's own killer must not come first, and it does not wait: a process fills some GB in a second, which is all of a small
container. So the next reading is taken before half of what is left could be filled (`look_again_s`), and where memory
grows so fast that the limit is near, nobody is given time.

Invariants: nobody is chosen while a chosen worker lives, nor below the threshold; a worker without a task is never chosen.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from shoal.sizes import bytes_text

if TYPE_CHECKING:
    from collections.abc import Sequence

    from shoal.config import Config

_NAMED_MAX = 3
_LOOK_S_MIN = 0.01
_LATELY_S = 3.0  # a process that has many GB is not gone at once


@dataclass(frozen=True, slots=True)
class Reading:
    """Memory in use and its limit, in bytes; ``what``: whose limit it is, for people."""

    used_bytes: int
    limit_bytes: int
    what: str


@dataclass(frozen=True, slots=True)
class Candidate:
    """A worker that runs something.

    Attributes:
        name: of its task or actor, for people.
        own_bytes: memory that only this process has (the store's pages are not its own).
        started_at: when its task began, or the actor was made, monotonic seconds.
        repeatable: what it runs may be run again.
        actor: it is an actor.
    """

    worker_id: bytes
    pid: int
    name: str
    own_bytes: int
    started_at: float
    repeatable: bool
    actor: bool


@dataclass(frozen=True, slots=True)
class Victim:
    """Who is to be ended, and what to say of it."""

    worker_id: bytes
    reason: str
    used_bytes: int
    limit_bytes: int


class MemoryWatch:
    """Watches one node.

    Attributes:
        short: memory is short: nothing new is to be started.
        ended: how many workers were chosen so far.
    """

    def __init__(self, config: Config) -> None:
        self._share = config.memory_usage_share_max
        self._patience_s = config.memory_patience_ms / 1000
        self._settle_s = config.memory_settle_ms / 1000
        self._monitor_s = config.memory_monitor_ms / 1000
        self._fill_per_s = config.memory_fill_bytes_per_s
        self._last: tuple[int, float] | None = None  # of the reading before: bytes in use, and when
        self._kernel_kills: int | None = None
        self._kernel_killed_at: float | None = None
        self._short_since: float | None = None
        self._chosen = b""
        self._not_before = 0.0
        self.ended = 0

    @property
    def short(self) -> bool:
        return self._short_since is not None

    def look_again_s(self, reading: Reading) -> float:
        """Seconds until the next reading, after this one."""
        left = reading.limit_bytes - reading.used_bytes
        return min(self._monitor_s, max(_LOOK_S_MIN, left / self._fill_per_s / 2))

    def is_short(self, reading: Reading, now: float) -> bool:
        """Take a reading in; whether memory is so short, and for so long, that `choose` should be asked."""
        soon = self._left_s(reading, now) <= self._patience_s
        if reading.used_bytes <= reading.limit_bytes * self._share:
            self._short_since = None
            return False
        if self._short_since is None:
            self._short_since = now
        if soon:
            self._not_before = now
        return soon or now >= max(self._short_since + self._patience_s, self._not_before)

    def _left_s(self, reading: Reading, now: float) -> float:
        """Seconds until the limit is reached, if memory goes on to grow as since the last reading."""
        last, self._last = self._last, (reading.used_bytes, now)
        if last is None or reading.used_bytes <= last[0] or now <= last[1]:
            return float("inf")
        return (reading.limit_bytes - reading.used_bytes) / ((reading.used_bytes - last[0]) / (now - last[1]))

    def kernel_kills(self, count: int, now: float) -> bool:
        """Take in how many processes the kernel has ended for lack of memory; whether there was one lately."""
        if self._kernel_kills is not None and count > self._kernel_kills:
            self._kernel_killed_at = now
        self._kernel_kills = count
        return self._kernel_killed_at is not None and now - self._kernel_killed_at <= _LATELY_S

    def choose(self, reading: Reading, candidates: Sequence[Candidate], now: float) -> Victim | None:
        """The worker to end now, if any; the caller has asked `is_short` at the same time."""
        if not self.short or now < self._not_before:
            return None
        if self._chosen:
            if any(each.worker_id == self._chosen for each in candidates):
                return None
            self._chosen = b""
            self._not_before = now + self._settle_s
            return None
        if not candidates:
            return None
        victim = max(candidates, key=lambda each: (not each.actor, each.repeatable, each.started_at))
        self._chosen = victim.worker_id
        self.ended += 1
        return Victim(
            victim.worker_id, _reason(reading, victim, candidates), reading.used_bytes, reading.limit_bytes
        )


def _reason(reading: Reading, victim: Candidate, candidates: Sequence[Candidate]) -> str:
    largest = sorted(candidates, key=lambda each: -each.own_bytes)[:_NAMED_MAX]
    listed = ", ".join(f"{_with_pid(each)} {bytes_text(each.own_bytes)}" for each in largest)
    return (
        f"ended to keep {reading.what} from running out of memory: {bytes_text(reading.used_bytes)} of "
        f"{bytes_text(reading.limit_bytes)} were in use, {bytes_text(victim.own_bytes)} by this process; "
        f"the largest were {listed}"
    )


def _with_pid(worker: Candidate) -> str:
    """Actors have it in their names."""
    return worker.name if worker.name.endswith(f" {worker.pid}") else f"{worker.name} (pid {worker.pid})"

"""Which spill directory gets the next file, and which of them hang. Pure.

Directories take turns; of those that can take a file, one with the least under way is next. So a directory that hangs
(a network file system whose server is gone) keeps what it was given first, and the others go on.

One that fails is left alone for config.spill_retry_ms; one that is full only until something of it was removed, or somebody
new wants room and config.spill_full_retry_ms have passed: others may have made some.

One that has not ended something for config.spill_stall_ms (config.spill_lend_ms_max where a creator waits for a file) *stalls*:
it gets nothing more until that has ended, and what it was given does not count as on its way any more. Nothing is taken back: its
thread may be in the middle of it.
"""

from __future__ import annotations

from collections.abc import Callable

from shoal.config import Config

_FILES_GO_S = 0.05  # until then files that were to be removed are gone
_SLOW_S = 1.0  # what takes longer is worth a word to people who waited for it


class _Job:
    """Something that a directory was given to do.

    Attributes:
        until: when it is late.
        is_late: that was noticed.
    """

    __slots__ = ("directory", "is_late", "since", "until")

    def __init__(self, directory: int, since: float, until: float) -> None:
        self.directory = directory
        self.since = since
        self.until = until
        self.is_late = False


class Disks:
    """The spill directories of one node.

    Args:
        count: how many there are; 0: spilling is off.

    Attributes:
        names: of each, for people; set by the shell.
        gives_back: those on a full disk, of which files were removed just now.
    """

    __slots__ = ("_config", "_failed_at", "_jobs", "_retry_at", "_turn", "gives_back", "names")

    def __init__(self, count: int, config: Config) -> None:
        self._config = config
        self._retry_at = [0.0] * count
        self._failed_at = [0.0] * count
        self._turn = -1
        self.gives_back: set[int] = set()
        self._jobs: dict[int, _Job] = {}
        self.names = [f"spill directory {number}" for number in range(count)]

    def __len__(self) -> int:
        return len(self._retry_at)

    def usable(self, now: float) -> bool:
        """Whether some directory can be written to."""
        return bool(self._taking(now))

    def next(self, now: float) -> int:
        """The directory for the next file; some directory must be usable."""
        taking = self._taking(now)
        busy = [0] * len(self)
        for job in self._jobs.values():
            busy[job.directory] += 1
        least = min(busy[directory] for directory in taking)
        turns = [(self._turn + 1 + step) % len(self) for step in range(len(self))]
        self._turn = next(turn for turn in turns if turn in taking and busy[turn] == least)
        return self._turn

    def _taking(self, now: float) -> set[int]:
        stalled = self._stalled()
        return {
            directory
            for directory, retry_at in enumerate(self._retry_at)
            if retry_at <= now and directory not in stalled
        }

    def _stalled(self) -> set[int]:
        return {job.directory for job in self._jobs.values() if job.is_late}

    def failed(self, directory: int, now: float) -> None:
        """It could not be written to: it is left alone for a while."""
        self._failed_at[directory] = now
        self._retry_at[directory] = now + self._config.spill_retry_ms / 1000

    def try_those_that_give_back(self, now: float) -> None:
        """Those of which files go are tried again as soon as these are gone."""
        for directory in self.gives_back:
            self._retry_at[directory] = min(self._retry_at[directory], now + _FILES_GO_S)
        self.gives_back.clear()

    def try_again(self, now: float) -> None:
        """Somebody new wants room, and disks were full: those that failed a while ago are tried again."""
        pause_s = self._config.spill_full_retry_ms / 1000
        for directory, failed_at in enumerate(self._failed_at):
            if failed_at + pause_s <= now:
                self._retry_at[directory] = min(self._retry_at[directory], now)

    def next_retry(self, now: float) -> float | None:
        """When the first directory that is left alone is tried again."""
        return min((at for at in self._retry_at if at > now), default=None)

    # --- what is under way ---

    def begin(self, job: int, directory: int, now: float, patience_ms: float) -> None:
        """A directory was given something to do; ``job`` names it."""
        self._jobs[job] = _Job(directory, now, now + patience_ms / 1000)

    def stall(self, job: int, directory: int, since: float) -> None:
        """Somebody else found that a directory hangs; ``job`` names what it does not do, as in `begin`."""
        self.begin(job, directory, since, 0.0)
        self._jobs[job].is_late = True

    def end(self, job: int) -> None:
        """That has ended, well or not; unknown ones are ignored."""
        self._jobs.pop(job, None)

    def has(self, job: int) -> bool:
        """Whether that is under way."""
        return job in self._jobs

    def is_late(self, job: int) -> bool:
        """Whether something takes so long that nobody counts on it."""
        found = self._jobs.get(job)
        return found is not None and found.is_late

    def late(self, now: float) -> list[int]:
        """What has become late since the last call."""
        found = [name for name, job in self._jobs.items() if job.until <= now and not job.is_late]
        for name in found:
            self._jobs[name].is_late = True
        return found

    def next_deadline(self) -> float | None:
        """When `late` has something new to say."""
        return min((job.until for job in self._jobs.values() if not job.is_late), default=None)

    def complaints(self, now: float) -> list[str]:
        """What there is to say of directories that hang."""
        return [
            f"{self.names[directory]} has not answered for {now - since:.0f} s (does its file system hang?)"
            for directory, since in self._oldest(lambda job: job.is_late)
        ]

    def slow(self, now: float) -> list[str]:
        """What there is to say of directories that are at something for a second and more, whether they hang or not."""
        return [
            f"{self.names[directory]} has not done for {now - since:.0f} s what it was given then"
            for directory, since in self._oldest(lambda job: now - job.since >= _SLOW_S)
        ]

    def _oldest(self, counts: Callable[[_Job], bool]) -> list[tuple[int, float]]:
        """Each directory with a job that ``counts``, and since when it has the oldest of these."""
        since: dict[int, float] = {}
        for job in self._jobs.values():
            if counts(job):
                since[job.directory] = min(job.since, since.get(job.directory, job.since))
        return sorted(since.items())

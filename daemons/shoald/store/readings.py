"""Reads of objects from disk that are under way, and which of them hang. Pure.

A read is *late* when its directory has not ended it in time (see disks), and is given up when for config.spill_read_ms_max
nothing more has come of that directory either, so that a slow one is waited for; large objects are given the time that they
take at config.spill_bytes_per_s_min.
"""

from __future__ import annotations

from shoal.config import Config
from shoald.store.objects import SpillFile, StoredObject


class Reading:
    """An object on its way back into the region.

    Attributes:
        obj: None once it was freed.
        still_since: nothing has come of its directory since then; counts from when the read is late.
        is_given_up: its readers were told that the copy is lost; it may come all the same.
    """

    __slots__ = ("allocated", "file", "is_given_up", "obj", "still_since", "target")

    def __init__(self, obj: StoredObject, file: SpillFile, target: int) -> None:
        self.obj: StoredObject | None = obj
        self.allocated = obj.allocated
        self.file = file
        self.target = target
        self.still_since = 0.0
        self.is_given_up = False


class LateReads:
    """The reads that hang."""

    __slots__ = ("_config", "_late", "_moved")

    def __init__(self, config: Config) -> None:
        self._config = config
        self._late: dict[int, Reading] = {}
        self._moved: set[int] = set()  # directories of which something has come since the last look

    def add(self, transfer: int, reading: Reading, now: float) -> None:
        """This read is late."""
        reading.still_since = now
        self._late[transfer] = reading

    def ended(self, transfer: int, directory: int) -> None:
        """A read of a directory has ended, late or not."""
        self._late.pop(transfer, None)
        if self._late:
            self._moved.add(directory)

    def take_hopeless(self, now: float) -> list[Reading]:
        """Those that are to be given up; they are not late any more."""
        for reading in self._late.values() if self._moved else ():
            if reading.file.directory in self._moved:
                reading.still_since = now
        self._moved.clear()
        hopeless = [transfer for transfer, reading in self._late.items() if self._until(reading) <= now]
        return [self._late.pop(transfer) for transfer in hopeless]

    def next_deadline(self) -> float | None:
        """When `take_hopeless` may have something."""
        return min(map(self._until, self._late.values()), default=None)

    def _until(self, reading: Reading) -> float:
        config = self._config
        patience_s = config.spill_read_ms_max / 1000 + reading.allocated / config.spill_bytes_per_s_min
        return reading.still_since + patience_s

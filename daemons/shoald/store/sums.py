"""Which spill files are to be summed: objects that their creators wrote there without a checksum (`shoal.store.proofs`). Pure.

Each after config.spill_sum_after_ms, if its object is still there, and one after the other in a directory: nobody waits for it.
"""

from __future__ import annotations

from itertools import takewhile

from shoal.config import Config
from shoald.store.objects import SpillFile
from shoald.store.spilleffects import Sum


class Sums:
    """The files of one node that have no checksum yet."""

    __slots__ = ("_config", "_under_way", "_waiting")

    def __init__(self, config: Config) -> None:
        self._config = config
        self._waiting: dict[SpillFile, tuple[float, int]] = {}  # (when, proof), oldest first
        self._under_way: dict[int, SpillFile] = {}

    def add(self, file: SpillFile, proof: int, now: float) -> None:
        """A file was written just now, and has one object; its time is the proof."""
        self._waiting[file] = now + self._config.spill_sum_after_ms / 1000, proof

    def forget(self, file: SpillFile) -> None:
        """Nobody needs this file any more."""
        self._waiting.pop(file, None)

    def due(self, now: float) -> list[Sum]:
        """What is to be summed now; until `ended` the file is read."""
        effects = []
        busy = {file.directory for file in self._under_way.values()}
        for file, (_, proof) in list(takewhile(lambda each: each[1][0] <= now, self._waiting.items())):
            if file.directory in busy:
                continue
            del self._waiting[file]
            if not file.live:
                continue  # it is read, and goes then
            busy.add(file.directory)
            self._under_way[file.number] = file
            file.reads += 1
            ((obj, _),) = file.live.values()
            effects.append(Sum(file.number, file.directory, obj.size, proof))
        return effects

    def ended(self, number: int) -> SpillFile:
        """A sum is there, or will not be."""
        file = self._under_way.pop(number)
        file.reads -= 1
        return file

    def under_way(self) -> list[SpillFile]:
        """Files that are being summed."""
        return list(self._under_way.values())

    def next_deadline(self) -> float | None:
        """When `due` has something; what waits for its directory is due when that has ended."""
        busy = {file.directory for file in self._under_way.values()}
        return next((at for file, (at, _) in self._waiting.items() if file.directory not in busy), None)

"""The spill files of one node: which there are, and how they go. Pure.

A file that nobody needs is removed, or kept for a while to be written over (`spares`), but only one at which nobody looks
(`filereaders`). Effects for the disks go into `outbox`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from shoald.store.allocator import round_up
from shoald.store.disks import Disks
from shoald.store.filereaders import FileReaders
from shoald.store.objects import SpillFile, StoredObject
from shoald.store.spares import Spares
from shoald.store.spilleffects import Effect, Remove
from shoald.store.sums import Sums

if TYPE_CHECKING:
    from collections.abc import Callable

    from shoal.config import Config


class SpillFiles:
    """The spill files of one node, for `spills`.

    Args:
        directories: how many there are.

    Attributes:
        disks: the directories; readers: who looks at files.
        files: those that are in use, by their numbers.
        full: the last write failed because a disk is full: nothing is kept that is not needed.
        outbox: effects for the shell, which empties it.
        locate: (directory, file) → its path, or "" if clients cannot map it; set by the shell.
    """

    def __init__(self, config: Config, directories: int) -> None:
        self.disks = Disks(directories, config)
        self.readers = FileReaders()
        self._spares = Spares(config, self.readers)
        self._sums = Sums(config)
        self._numbers = 0
        self.files: dict[int, SpillFile] = {}
        self.full = False
        self.outbox: list[Effect] = []
        self.locate: Callable[[int, int], str] = lambda _directory, _file: ""

    def _new_file(self, directory: int, number: int = 0) -> SpillFile:
        """``number``: of the one that was spare until now; 0: it is to be made."""
        self._numbers += not number
        file = self.files[number or self._numbers] = SpillFile(number or self._numbers, directory)
        return file

    @staticmethod
    def _put(file: SpillFile, obj: StoredObject) -> None:
        file.live[obj.id] = obj, file.size
        file.live_bytes += obj.allocated
        file.size += round_up(obj.size)

    @staticmethod
    def _take_out(file: SpillFile, obj: StoredObject) -> None:
        del file.live[obj.id]
        file.live_bytes -= obj.allocated

    def _remove(self, file: SpillFile, gives_back: bool = True) -> None:
        del self.files[file.number]
        self._sums.forget(file)
        if self.full or not self._spares.keep(file):
            self._remove_all([file])
            if self.full and gives_back:
                self.disks.gives_back.add(file.directory)

    def _remove_over(self, file: SpillFile) -> None:
        """That of which this one may not have taken the place yet."""
        if file.over:
            self.outbox.append(Remove(file.over, file.directory))

    def _remove_all(self, files: list[SpillFile]) -> None:
        for file in files:
            self.readers.removed(file.number, file.size)
        self.outbox += [
            Remove(file.number, file.directory, not file.is_told and file.number not in self.readers)
            for file in files
        ]

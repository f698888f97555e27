"""Spill files without live objects that are kept for a while, to be written over. Pure.

A write to pages that the page cache has already takes 10 GB/s (two threads 16); a new file, whose pages have to be found
first, takes 4.5, or 0.4 on a virtual machine that has returned its free memory to the host. So in a job that goes on spilling,
files are reused; when it stops, they go after config.spill_spare_ms. Not at the first pause: to remove 2 GB that the kernel was
just writing to the disk took 0.6 s, for which who wanted a file waited, and then each one was new again (100 MB in 40 instead of
17 ms).

Who writes over one moves it to a new name, which takes two threads and, while another one copies, 0.5 ms. One that is just as
long as what a creator would like to write is lent to it as it is, with its number. If somebody has removed it, the creator
notices, and asks for room.

Only what nobody looks at is written over (`filereaders`): a client that was told of a file may have mapped it. Files that
were written past the page cache gain nothing. At the bound, config.spill_spare_bytes_max, a file is removed as soon as it is
dead; when a disk is full all of them are.
"""

from __future__ import annotations

from shoal.config import Config
from shoald.store.filereaders import FileReaders
from shoald.store.objects import SpillFile


class Spares:
    """The spare files of one node.

    Attributes:
        size: bytes in all.
    """

    __slots__ = ("_config", "_files", "_readers", "size")

    def __init__(self, config: Config, readers: FileReaders) -> None:
        self._config = config
        self._readers = readers
        self._files: dict[SpillFile, float | None] = {}  # since when; None: the time was not known yet
        self.size = 0

    def __len__(self) -> int:
        return len(self._files)

    def keep(self, file: SpillFile) -> bool:
        """Whether this file, which was just removed, is kept."""
        if not file.is_cached or file.is_told or not self._config.spill_spare_ms:
            return False
        if self.size + file.size > self._config.spill_spare_bytes_max:
            return False
        self._files[file] = None
        self.size += file.size
        return True

    def take(self, directory: int, size: int) -> SpillFile | None:
        """A file to write ``size`` bytes over: the one that fits best; None if there is none in that directory."""
        found = [
            file for file in self._files if file.directory == directory and file.number not in self._readers
        ]
        enough = [file for file in found if file.size >= size]
        if not found:
            return None
        best = min(enough, key=_size_of) if enough else max(found, key=_size_of)
        self._forget(best)
        return best

    def expired(self, now: float) -> list[SpillFile]:
        """Files that nobody has needed for long enough; they are spare no more."""
        over = []
        for file, since in self._files.items():
            if since is None:
                self._files[file] = now
            elif since + self._config.spill_spare_ms / 1000 <= now:
                over.append(file)
        for file in over:
            self._forget(file)
        return over

    def clear(self) -> list[SpillFile]:
        """All of them; they are spare no more."""
        files = list(self._files)
        self._files.clear()
        self.size = 0
        return files

    def next_deadline(self) -> float | None:
        """When `expired` is to be called."""
        if not self._files:
            return None
        return min(
            0.0 if since is None else since + self._config.spill_spare_ms / 1000
            for since in self._files.values()
        )

    def _forget(self, file: SpillFile) -> None:
        del self._files[file]
        self.size -= file.size


def _size_of(file: SpillFile) -> int:
    return file.size

"""Objects on their way here that lie in files, since there was no room for them in the store: which file is whose. Pure.

    refused room ─→ queued ─ ALLOC_FILE ─→ FILE_LENT ─→ in use ─ all chunks written, summed ─→ SEAL_IN_FILE
                               │ ALLOC_FAILED             │ given up: FILE_RETURN, when no write to it is under way
                               ↓                          │ a write hangs: FILE_STALLED, and FILE_RETURN when it ends
              asks for room again (patiently), or ends    ↓
                                                        gone

To the store the pulls are a client of their own, and a file is lent to them as to any creator; so the daemon's end, a directory
that is full or hangs, and what is left on a disk are the same thing here and there.

Bound: files asked for or in use, config.pull_files_max; the others wait, by priority. What has to wait for a write that hangs
is in nobody's use: it keeps nobody from a file in another directory.

Invariants: a file is one pull's, and goes back once; never while a thread may still write to it.
"""

from __future__ import annotations

from heapq import heappop, heappush
from typing import TYPE_CHECKING

from shoal.wire import messages as m
from shoald.objects.effects import Effect, ToStore
from shoald.objects.pull import ROOM, Pull

if TYPE_CHECKING:
    from collections.abc import Callable

    from shoal.config import Config


class LentFiles:
    """Asks the store for files, as its client ``proc``; ``number`` gives a number for a request of that client."""

    def __init__(self, proc: bytes, config: Config, outbox: list[Effect], number: Callable[[], int]) -> None:
        self._proc = proc
        self._config = config
        self._outbox = outbox
        self._next_number = number
        self._queue: list[tuple[int, int, Pull]] = []
        self._asked: dict[int, Pull] = {}
        self._users: dict[int, Pull | None] = {}  # of each file that was lent; None: nobody any more
        self._stuck: dict[int, int] = {}  # writes to a file that hang

    def enter(self, pull: Pull) -> None:
        """There was no room for this pull: it wants a file."""
        assert pull.state == ROOM, pull
        heappush(self._queue, (pull.priority, pull.order, pull))

    def ask(self) -> None:
        """Ask for the files of those whose turn it is; at the end of a turn."""
        while self._queue and self._in_use() < self._config.pull_files_max:
            pull = heappop(self._queue)[2]
            if pull.state != ROOM or pull.rooming:
                continue  # nobody wants it any more
            assert pull.copy is not None
            number = self._next_number()
            self._asked[number] = pull
            pull.rooming = True
            self._outbox.append(ToStore(self._proc, [m.ALLOC_FILE, number, pull.copy.size]))

    def _in_use(self) -> int:
        return len(self._asked) + sum(pull is not None for pull in self._users.values())

    def lent(self, number: int, file: int, path: str) -> Pull:
        """FILE_LENT: the pull that has this file now."""
        pull = self._asked.pop(number)
        assert pull.copy is not None
        self._users[file] = pull
        pull.rooming = False
        pull.file, pull.path = file, path
        pull.copy.offset = 0
        return pull

    def refused(self, number: int) -> Pull | None:
        """ALLOC_FAILED: the pull that gets no file; None if no file was asked for with this number."""
        pull = self._asked.pop(number, None)
        if pull is not None:
            pull.rooming = False
        return pull

    def stalled(self, pull: Pull, waited_ms: int) -> None:
        """A write to the pull's file hangs."""
        if not self._stuck.get(pull.file):
            self._outbox.append(ToStore(self._proc, [m.FILE_STALLED, pull.file, waited_ms]))
        self._stuck[pull.file] = self._stuck.get(pull.file, 0) + 1

    def ended(self, file: int) -> None:
        """A write to a file that hung has ended."""
        if file not in self._stuck:
            return  # it was only read, and has gone
        left = self._stuck.pop(file) - 1
        if left:
            self._stuck[file] = left
        elif self._users[file] is None:
            self._return(file)

    def sealed(self, pull: Pull) -> None:
        """The file is an object's now."""
        del self._users[pull.file]
        pull.file, pull.path = 0, ""

    def leave(self, pull: Pull) -> None:
        """The pull gives up its file, if it has one; none of its chunks is in the hands of a connection."""
        if not pull.file:
            return
        self._users[pull.file] = None
        if pull.file not in self._stuck:
            self._return(pull.file)
        pull.file, pull.path = 0, ""

    def _return(self, file: int) -> None:
        del self._users[file]
        self._outbox.append(ToStore(self._proc, [m.FILE_RETURN, file]))

    def validate(self, pulls: list[Pull]) -> None:
        """Raises AssertionError unless files and pulls agree."""
        assert {pull.file: pull for pull in pulls if pull.file} == {
            file: pull for file, pull in self._users.items() if pull is not None
        }
        assert all(pull.rooming for pull in self._asked.values())
        assert self._stuck.keys() <= self._users.keys()
        assert all(pull is not None or file in self._stuck for file, pull in self._users.items())
        assert self._in_use() <= self._config.pull_files_max

"""Which clients may look at spill files: who was told of one, until it says that no part of it is mapped any more. Pure.

A file that is removed stays readable for who has mapped it, but what is written over it shows there. So a file that nobody
needs any more is only written over when nobody looks at it. A client counts as often as it was told, since an answer may be on
its way when it gives an older one back. A forked child has its parent's mappings, until its end is seen.

Of a file that was removed meanwhile the bytes stay on the disk until then, where no directory shows them: they are counted here.
"""

from __future__ import annotations

from collections import Counter

from shoald.store.errors import ProtocolError
from shoald.store.objects import Client


class FileReaders:
    """The readers of the spill files of one node, by their numbers; one that is used again has none."""

    __slots__ = ("_counts", "_removed", "_told")

    def __init__(self) -> None:
        self._removed: dict[int, int] = {}  # bytes of files that have readers, and no name any more
        self._told: dict[Client, Counter[int]] = {}
        self._counts: Counter[int] = Counter()

    def __contains__(self, number: int) -> bool:
        return number in self._counts

    def told(self, client: Client, number: int) -> None:
        """A client was told where this file is."""
        self._told.setdefault(client, Counter())[number] += 1
        self._counts[number] += 1

    def closed(self, client: Client, number: int, times: int) -> None:
        """A client has no use for what it was told so often. Raises ProtocolError if that was less often."""
        told = self._told.get(client, Counter())
        if not 0 < times <= told[number]:
            raise ProtocolError(f"file {number} was not told to this client {times} times")
        self._less(told, number, times)
        if not told:
            del self._told[client]

    def forked(self, client: Client, child: Client) -> None:
        """A child has what its parent has mapped."""
        for number, times in self._told.get(client, Counter()).items():
            for _ in range(times):
                self.told(child, number)

    def drop(self, client: Client) -> None:
        """The client is gone, and its mappings with it."""
        told = self._told.pop(client, Counter())
        for number, times in list(told.items()):
            self._less(told, number, times)

    def removed(self, number: int, size: int) -> None:
        """A file of ``size`` bytes goes."""
        if number in self:
            self._removed[number] = size

    def of_removed(self) -> dict[str, int]:
        """Who looks at files that were removed, and at how many bytes; several may look at the same."""
        found: dict[str, int] = {}
        for client, told in self._told.items() if self._removed else ():
            size = sum(self._removed.get(number, 0) for number in told)
            if size:
                found[client.name] = found.get(client.name, 0) + size
        return found

    @property
    def removed_bytes(self) -> int:
        """Of files that were removed, and that somebody looks at."""
        return sum(self._removed.values())

    def _less(self, told: Counter[int], number: int, times: int) -> None:
        for counts in (told, self._counts):
            counts[number] -= times
            if not counts[number]:
                del counts[number]
        if number not in self:
            self._removed.pop(number, None)

    def validate(self) -> None:
        """Raises AssertionError unless the counts agree."""
        assert all(times > 0 for told in self._told.values() for times in told.values())
        assert all(self._told.values()), "a client without files"
        assert self._counts == sum(self._told.values(), Counter())
        assert self._removed.keys() <= self._counts.keys(), "a file that nobody looks at takes place"

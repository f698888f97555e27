"""Values whose refs were sent away are written to the node's store: promotion.

Who sends a ref does not wait for that; the reactor's flushes do it while there is room at hand, and else ask for more, for as
many values as half a slab holds. If there is no room for so many it is asked for one at a time, until none waits any more; if
there is none for one either, readers get an error (`Runtime.promotions_failed`). A flush costs nothing for what has to wait:
a hundred thousand values may.

Everything here runs with the runtime's lock held.
"""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Any

from shoal.serialization import contained_ids
from shoal.wire import messages as m

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from shoal.owner.objects import Entry
    from shoal.owner.table import ObjectTable
    from shoal.store.extents import ExtentLeases
    from shoal.store.region import Region

FOR_PROMOTION = 1  # the request that asks for room
_RUN_MAX = 4096  # objects in a SEAL_RUN


class Promoter:
    """Writes promotions of one process into its leased extents."""

    __slots__ = ("_asked", "_extents", "_region", "_singly", "_table")

    def __init__(self, table: ObjectTable, region: Region, extents: ExtentLeases) -> None:
        self._table = table
        self._region = region
        self._extents = extents
        self._asked = False
        self._singly = False  # there was no room for several

    def granted(self, offset: int, size: int) -> list[tuple[int, int]]:
        """EXTENT: the room that was asked for; returns ranges to give back."""
        self._asked = False
        return self._extents.add(offset, size)

    def refused(self) -> bool:
        """ALLOC_FAILED: whether there is no room even for one value; else the next flush asks for that."""
        self._asked = False
        hopeless, self._singly = self._singly, True
        return hopeless

    def promote(self, entries: list[Entry], value_of: Callable[[Entry], tuple[bytes, int]]) -> int:
        """Seal inline values, (content, flags) each, in order, while there is room at hand (lock held); returns how many.

        If that is not all of them, room was asked for; or there was no memory for more, and if that was so for the first one,
        MemoryError is raised. Those that have to wait cost nothing: this is called at every flush.
        """
        run: list[
            tuple[bytes, int, str]
        ] = []  # ids, sizes and call sites of what lies one after the other, and has the same flags
        start = end = run_flags = sealed = 0
        lacking: int | None = None
        carved: tuple[int, int] | None = None
        try:
            for at, entry in enumerate(entries):
                content, flags = value_of(entry)
                size = len(content)
                offset = self._extents.carve(size)
                if offset is None:
                    lacking = at
                    break
                carved = offset, size
                self._region.window(offset, size)[:] = memoryview(content)
                contained = contained_ids(content)
                if run and (contained or offset != end or flags != run_flags):
                    sealed += self._seal_run(run, start, run_flags)
                    run = []
                if contained:
                    where = entry.callsite or ""
                    self._table.to_node(
                        [m.SEAL, entry.id, offset, size, contained, flags, self._table.proc, where, b""]
                    )
                    sealed += 1
                else:
                    if not run:
                        start, run_flags = offset, flags
                    run.append((entry.id, size, entry.callsite or ""))
                    end = offset + ((size + 63) & -64 or 64)
                carved = None
            if run:
                sealed += self._seal_run(run, start, run_flags)
        except MemoryError:
            if carved is not None:
                self._give_back(*carved)
            if run:
                self._give_back(start, end - start)
            if not sealed:
                raise
        if lacking is None:
            self._singly = False
        elif not self._asked:  # after the seals: what they fill is leased no more
            self._asked = True
            size = self._wanted_at_once(islice(entries, lacking, None), value_of)
            self._table.to_node([m.ALLOC, FOR_PROMOTION, *self._extents.want(size)])
        return sealed

    def _wanted_at_once(
        self, entries: Iterable[Entry], value_of: Callable[[Entry], tuple[bytes, int]]
    ) -> int:
        """Bytes for as many of these as half a slab holds, for the first at least: if little may be leased ahead of need, a
        request for one value would get no more than that, and each cost a round trip.
        """
        wanted = 0
        for entry in entries:
            size = (len(value_of(entry)[0]) + 63) & -64 or 64
            if wanted and (wanted + size > self._extents.together_max or self._singly):
                break
            wanted += size
        return wanted

    def _seal_run(self, run: list[tuple[bytes, int, str]], offset: int, flags: int) -> int:
        """SEAL_RUN for all of them, or for none if there is no memory for that; how many they are."""
        messages: list[list[Any]] = []
        for first in range(0, len(run), _RUN_MAX):
            ids, sizes, callsites = zip(*run[first : first + _RUN_MAX], strict=True)
            messages.append(
                [m.SEAL_RUN, b"".join(ids), offset, list(sizes), flags, self._table.proc, list(callsites)]
            )
            offset += sum((size + 63) & -64 or 64 for size in sizes)
        for message in messages:
            self._table.to_node(message)
        return len(run)

    def _give_back(self, offset: int, size: int) -> None:
        for at, length in self._extents.give_back(offset, size):
            self._table.to_node([m.EXTENT_RETURN, at, length])

"""What `spills` wants of the disks: effects that the shell (`spiller`) carries out, and answers with one event each. Pure."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Write:
    """Write these (offset, size) of the region into a new file, sizes rounded up to 64; then `wrote`.

    ``over``: the number of a file of which nothing is needed, whose place and name the new one takes; 0: none.
    """

    file: int
    directory: int
    parts: tuple[tuple[int, int], ...]
    over: int = 0


@dataclass(frozen=True, slots=True)
class Read:
    """Read from a file into the region at ``target`` and look at the proof; then `read_done`."""

    transfer: int
    file: int
    directory: int
    offset: int
    size: int
    proof: int
    target: int


@dataclass(frozen=True, slots=True)
class Sum:
    """Make the checksum of the ``size`` bytes that a file begins with, which its time proves; then `summed`."""

    file: int
    directory: int
    size: int
    proof: int


@dataclass(frozen=True, slots=True)
class Rewrite:
    """Copy these (offset, size, checksum) of file ``source`` into a new file in the same directory; then `rewrote`."""

    file: int
    directory: int
    source: int
    parts: tuple[tuple[int, int, int], ...]


@dataclass(frozen=True, slots=True)
class Remove:
    """Nobody needs this file any more; ``emptied``: nor looks at it, so its place is free at once, whoever has it mapped."""

    file: int
    directory: int
    emptied: bool = False


@dataclass(frozen=True, slots=True)
class Lend:
    """Make a file for ``size`` bytes that a client will write; then `made`. It is empty, or what ``over`` was, as for `Write`."""

    file: int
    directory: int
    size: int
    over: int = 0


Effect = Lend | Write | Read | Sum | Rewrite | Remove

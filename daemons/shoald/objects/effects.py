"""What the cores of the object manager want done; the manager carries it out in order. Pure.

Named tuples, since there are several for each object: a frozen dataclass takes three times as long to make.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from shoald.objects.copies import Copy
    from shoald.objects.parcels import Parcel


class Tell(NamedTuple):
    """Send ``message`` to node ``node``, if it lives; ``known``: when the head knows of the references that are here now."""

    node: str
    message: list[Any]
    known: bool = False


class ToStore(NamedTuple):
    """Hand ``message`` to the store, as from its client ``proc``."""

    proc: bytes
    message: list[Any]


class Receive(NamedTuple):
    """Have connection ``lane`` to ``node`` receive ``pieces`` (req, chunk, offset, size), in order, as request ``number``.

    Offsets are of the region; or of the file ``file`` at ``path``, if it is not 0, and then there is one piece.
    The answer is `PullCore.landed`, in any case.
    """

    node: str
    lane: int
    number: int
    pieces: list[tuple[int, int, int, int]]
    file: int = 0
    path: str = ""


class Seal(NamedTuple):
    """All of ``copy`` is there: make it an object of the store."""

    copy: Copy
    flags: int
    contained: bytes
    callsite: str
    content_hash: bytes
    in_file: tuple[int, int] | None = None  # (number of a lent file, checksum of all), if it lies there


class Sum(NamedTuple):
    """Read file ``file`` at ``path`` through, which has all ``size`` bytes of an object; the answer is `PullCore.summed`."""

    object_id: bytes
    file: int
    path: str
    size: int


class SealParcel(NamedTuple):
    """All of ``parcel`` is there: make each of its objects one of the store."""

    parcel: Parcel


class Grown(NamedTuple):
    """More of ``copy``, which is on its way here, can be served to others."""

    copy: Copy


class Broken(NamedTuple):
    """What was on its way here of ``copy`` is given up: it can be served no longer."""

    copy: Copy


class Told(NamedTuple):
    """These objects exist somewhere: answer those who only wanted to know."""

    object_ids: list[bytes]
    sizes: list[int]
    flags: int


class Failed(NamedTuple):
    """Nobody can have the object: ``kind`` and ``text`` as in PIN_FAILED."""

    object_id: bytes
    kind: str
    text: str


class Locate(NamedTuple):
    """Ask the head, in one question, who has these objects; the answer, for each, is `PullCore.located`."""

    object_ids: list[bytes]


class Note(NamedTuple):
    """A line for the log."""

    text: str


Effect = Tell | ToStore | Receive | Seal | SealParcel | Sum | Grown | Broken | Told | Failed | Locate | Note

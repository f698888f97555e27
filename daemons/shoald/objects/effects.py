"""What the cores of the object manager want done; the manager carries it out in order. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from shoald.objects.copies import Copy


@dataclass(frozen=True, slots=True)
class Tell:
    """Send ``message`` to node ``node``, if it lives; ``known``: when the head knows of the references that are here now."""

    node: str
    message: list[Any]
    known: bool = False


@dataclass(frozen=True, slots=True)
class ToStore:
    """Hand ``message`` to the store, as from its client ``proc``."""

    proc: bytes
    message: list[Any]


@dataclass(frozen=True, slots=True)
class Receive:
    """Have connection ``lane`` to ``node`` receive ``pieces`` (req, chunk, offset, size), in order, as request ``number``.

    The answer is `PullCore.landed`, in any case.
    """

    node: str
    lane: int
    number: int
    pieces: list[tuple[int, int, int, int]]


@dataclass(frozen=True, slots=True)
class Seal:
    """All of ``copy`` is there: make it an object of the store."""

    copy: Copy
    flags: int
    contained: bytes
    callsite: str
    content_hash: bytes


@dataclass(frozen=True, slots=True)
class Grown:
    """More of ``copy``, which is on its way here, can be served to others."""

    copy: Copy


@dataclass(frozen=True, slots=True)
class Broken:
    """What was on its way here of ``copy`` is given up: it can be served no longer."""

    copy: Copy


@dataclass(frozen=True, slots=True)
class Told:
    """The object exists somewhere: answer those who only wanted to know."""

    object_id: bytes
    size: int
    flags: int


@dataclass(frozen=True, slots=True)
class Failed:
    """Nobody can have the object: ``kind`` and ``text`` as in PIN_FAILED."""

    object_id: bytes
    kind: str
    text: str


@dataclass(frozen=True, slots=True)
class Locate:
    """Ask the head who has the object; the answer is `PullCore.located`."""

    object_id: bytes


@dataclass(frozen=True, slots=True)
class Note:
    """A line for the log."""

    text: str


Effect = Tell | ToStore | Receive | Seal | Grown | Broken | Told | Failed | Locate | Note

"""Where a demand may be met: the part of its options that placement reads, checked and in one object. Pure.

Most demands have none (`read` returns None): they may go anywhere, and nothing more is asked about them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from shoal.ids import OBJECT_ID_SIZE
from shoal.wire.labels import OPERATORS
from shoald.store.errors import ProtocolError

if TYPE_CHECKING:
    from collections.abc import Mapping

Condition = tuple[str, list[Any]]
_KEYS = ("strategy", "labels", "prefer")


class Constraints:
    """Where a demand wants to be met.

    Attributes:
        spread: on as many nodes as possible.
        affinity: the id of the one node it is for; "" for any. `soft`: elsewhere, if that is gone or too small.
        hard, wished: conditions on labels; of the nodes that meet the first, those that meet the second come first.
        group, bundle: a placement group, and which bundle; b"" and -1 for none, and any.
        capture: what its tasks submit belongs into the group too.
        prefer: the tag of the node that has `prefer_bytes` of its arguments; b"" for none.
    """

    __slots__ = (
        "affinity", "bundle", "capture", "group", "hard", "prefer", "prefer_bytes", "soft", "spread", "wished",
    )  # fmt: skip

    def __init__(self) -> None:
        self.spread = False
        self.affinity = ""
        self.soft = False
        self.hard: tuple[Condition, ...] = ()
        self.wished: tuple[Condition, ...] = ()
        self.group = b""
        self.bundle = -1
        self.capture = False
        self.prefer = b""
        self.prefer_bytes = 0


def read(options: Mapping[str, Any]) -> Constraints | None:
    """The constraints in a demand's options, None if there are none; raises ProtocolError for what makes no sense."""
    if not any(options.get(key) for key in _KEYS):
        return None
    found = Constraints()
    strategy = options.get("strategy")
    try:
        if isinstance(strategy, list | tuple):
            _read_strategy(found, strategy)
        elif strategy == "SPREAD":
            found.spread = True
        elif strategy not in (None, "", "DEFAULT"):
            raise ProtocolError(f"there is no strategy {strategy!r}")
        found.hard += _conditions(options.get("labels") or {})
        found.prefer, found.prefer_bytes = preferred(options)
    except (TypeError, ValueError, AttributeError) as error:
        raise ProtocolError(f"the constraints of a demand make no sense: {error}") from None
    return found


def _read_strategy(found: Constraints, strategy: Any) -> None:
    kind = strategy[0] if strategy else None
    if kind == "affinity":
        _, found.affinity, found.soft = strategy
        if type(found.affinity) is not str or not found.affinity:
            raise ProtocolError("affinity to what is no node id")
    elif kind == "labels":
        _, hard, wished = strategy
        found.hard, found.wished = _conditions(hard), _conditions(wished)
    elif kind == "group":
        _, found.group, found.bundle, capture = strategy
        found.capture = bool(capture)
        if type(found.group) is not bytes or len(found.group) != OBJECT_ID_SIZE:
            raise ProtocolError("a placement group without its id")
        if type(found.bundle) is not int or found.bundle < -1:
            raise ProtocolError("a bundle has a number from 0, or -1 for any")
    else:
        raise ProtocolError(f"there is no strategy {kind!r}")


def _conditions(given: Any) -> tuple[Condition, ...]:
    found = []
    for key, (op, values) in given.items():
        if type(key) is not str or op not in OPERATORS or not isinstance(values, list | tuple):
            raise ProtocolError(f"a condition on label {key!r} makes no sense")
        found.append((key, [op, list(values)]))
    return tuple(found)


def preferred(options: Mapping[str, Any]) -> tuple[bytes, int]:
    prefer, size = options.get("prefer", b""), options.get("prefer_bytes", 0)
    if type(prefer) is not bytes or type(size) is not int or size < 0:
        raise ProtocolError("a preferred node is a tag, with the bytes that are there")
    return prefer, size

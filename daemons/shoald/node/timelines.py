"""What ended workers ran: their rings (shoal.client.timeline), packed, and up to a number of bytes; the oldest go first."""

from __future__ import annotations

from collections import deque
from typing import Any

import msgpack

from shoald.store.errors import ProtocolError

_WHERE_BYTES = 1024  # of what is remembered with each, about


class Timelines:
    """Those of one node."""

    def __init__(self, node_id: str, bytes_max: int) -> None:
        self._node_id = node_id
        self._bytes_max = bytes_max
        self._bytes = 0
        self._kept: deque[tuple[dict[str, Any], bytes]] = deque()

    def handed_over(self, name: str, proc: bytes, message: list[Any]) -> None:
        """A TIMELINE of a process; raises ProtocolError, and keeps nothing, if it makes no sense."""
        if len(message) != 3 or type(message[1]) is not int or type(message[2]) is not list:
            raise ProtocolError("a timeline needs a pid and a list")
        if not all(_makes_sense(row) for row in message[2]):
            raise ProtocolError("rows of a timeline have a name, a task, a start, a duration and a success")
        if not message[2]:
            return
        packed = msgpack.packb(message[2])
        where = {"process": name, "proc": proc.hex(), "node_id": self._node_id, "pid": message[1]}
        self._kept.append((where, packed))
        self._bytes += len(packed) + _WHERE_BYTES
        while self._bytes > self._bytes_max:
            self._bytes -= len(self._kept.popleft()[1]) + _WHERE_BYTES

    def rows(self) -> list[dict[str, Any]]:
        """As processes answer when they are asked (`requests`)."""
        return [{**where, "events": msgpack.unpackb(packed)} for where, packed in self._kept]


def _makes_sense(row: Any) -> bool:
    kinds = (str, str, int, float, bool)
    return type(row) is list and [type(each) for each in row] == list(kinds)

"""Identifiers: 16 bytes that name an object and, in their first half, the process that owns it.

    8 bytes process · 4 bytes task or put counter · 4 bytes return index

A process prefix is random, so ids need no coordination; the counter makes one id cost 0.1 µs.
When the counter is used up, after some hours of nothing but small puts, the process takes a fresh prefix.
"""

from __future__ import annotations

import itertools
import os
import struct

PROCESS_ID_SIZE = 8
OBJECT_ID_SIZE = 16
NO_OBJECT = bytes(OBJECT_ID_SIZE)
NO_PROCESS = bytes(PROCESS_ID_SIZE)
_COUNTER_LIMIT = 2**32 - 1
_pack_pair = struct.Struct(">II").pack
_pack_index = struct.Struct(">I").pack
FIRST_RETURN = _pack_index(0)


class IdSource:
    """Makes the object ids of one process.

    Attributes:
        process_id: 8 random bytes; the owner part of every id made until the counter runs out.
    """

    __slots__ = ("_series", "process_id")

    def __init__(self, process_id: bytes | None = None) -> None:
        self.process_id = process_id or os.urandom(PROCESS_ID_SIZE)
        # A prefix and its counter are replaced together: threads must never pair one with the other's.
        self._series = (self.process_id, itertools.count(1).__next__)

    def next_id(self) -> bytes:
        """The id of return 0 of a new task, or of a new put. From any thread."""
        prefix, advance = self._series
        counter = advance()
        while counter > _COUNTER_LIMIT:
            # Several threads may come here at once: each of their series is good, and the last one stays.
            self._series = prefix, advance = os.urandom(PROCESS_ID_SIZE), itertools.count(1).__next__
            counter = advance()
        return prefix + _pack_pair(counter, 0)


def return_id(task_id: bytes, index: int) -> bytes:
    """The id of return ``index`` of the task whose return 0 is ``task_id``."""
    return task_id[:12] + _pack_index(index)


def split_ids(joined: bytes) -> list[bytes]:
    """Cut a concatenation of object ids into ids; raises ValueError on a torn one."""
    if len(joined) % OBJECT_ID_SIZE:
        raise ValueError(f"{len(joined)} bytes are not a whole number of {OBJECT_ID_SIZE}-byte ids")
    return [joined[i : i + OBJECT_ID_SIZE] for i in range(0, len(joined), OBJECT_ID_SIZE)]

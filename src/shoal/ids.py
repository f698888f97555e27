"""Identifiers: 16 bytes that name an object and, in their first half, the process that owns it.

    3 bytes node tag · 5 bytes process · 4 bytes task or put counter · 4 bytes return index

The rest of a process prefix is random, so ids need no coordination; the counter makes one id cost 0.1 µs.
When the counter is used up, after some hours of nothing but small puts, the process takes a fresh prefix of the same node.

The *tag* says on which node a process runs, and so where to ask about what it owns without asking the head. It is a hint:
the first bytes of the node's random id, which two nodes may share. Its first byte is never 0.
"""

from __future__ import annotations

import itertools
import os
import struct

PROCESS_ID_SIZE = 8
TAG_SIZE = 3
NODE_ID_SIZE = 16
NO_TAG = bytes(TAG_SIZE)
OBJECT_ID_SIZE = 16
NO_OBJECT = bytes(OBJECT_ID_SIZE)
NO_PROCESS = bytes(PROCESS_ID_SIZE)
_COUNTER_LIMIT = 2**32 - 1
_pack_pair = struct.Struct(">II").pack
_pack_index = struct.Struct(">I").pack
FIRST_RETURN = _pack_index(0)
_MANY_IDS = struct.Struct(f"{OBJECT_ID_SIZE}s" * 64)
_INDEXES = tuple(map(_pack_index, range(1024)))  # tasks with many returns need them again and again


def new_node_id() -> str:
    """A fresh node id: 16 bytes in hexadecimal digits, the first of them not 0.

    What the store of a daemon knows as clients of its own (objects.core.INTERNAL) has ids that begin with a zero byte, and
    those of processes begin as their node's.
    """
    while True:
        node_id = os.urandom(NODE_ID_SIZE)
        if node_id[0]:
            return node_id.hex()


def node_tag(node_id: str) -> bytes:
    """The tag of the node with this (hexadecimal) id."""
    return bytes.fromhex(node_id[: 2 * TAG_SIZE])


def tag_of(process_or_object_id: bytes) -> bytes:
    """The tag of the node on which a process runs; of an object, the node of the process that owns it."""
    return process_or_object_id[:TAG_SIZE]


def new_process_id(tag: bytes) -> bytes:
    """A fresh process id on the node with this tag."""
    return tag + os.urandom(PROCESS_ID_SIZE - TAG_SIZE)


class IdSource:
    """Makes the object ids of one process.

    Args:
        process_id: the process; by default a fresh one on the node with ``tag``.

    Attributes:
        process_id: the owner part of every id made until the counter runs out.
    """

    __slots__ = ("_series", "process_id")

    def __init__(self, process_id: bytes | None = None, tag: bytes = NO_TAG) -> None:
        self.process_id = process_id or new_process_id(tag)
        # A prefix and its counter are replaced together: threads must never pair one with the other's.
        self._series = (self.process_id, itertools.count(1).__next__)

    def next_id(self) -> bytes:
        """The id of return 0 of a new task, or of a new put. From any thread."""
        prefix, advance = self._series
        counter = advance()
        while counter > _COUNTER_LIMIT:
            # Several threads may come here at once: each of their series is good, and the last one stays.
            self._series = prefix, advance = new_process_id(tag_of(prefix)), itertools.count(1).__next__
            counter = advance()
        return prefix + _pack_pair(counter, 0)


def return_ids(task_id: bytes, count: int) -> list[bytes]:
    """The ids of the first ``count`` returns of a task."""
    prefix = task_id[:12]
    ids = list(map(prefix.__add__, _INDEXES[:count]))
    ids += [prefix + _pack_index(index) for index in range(len(ids), count)]
    return ids


def return_id(task_id: bytes, index: int) -> bytes:
    """The id of return ``index`` of the task whose return 0 is ``task_id``."""
    return task_id[:12] + _pack_index(index)


def split_ids(joined: bytes) -> list[bytes]:
    """Cut a concatenation of object ids into ids; raises ValueError on a torn one."""
    if len(joined) % OBJECT_ID_SIZE:
        raise ValueError(f"{len(joined)} bytes are not a whole number of {OBJECT_ID_SIZE}-byte ids")
    ids: list[bytes] = []
    whole = len(joined) // _MANY_IDS.size * _MANY_IDS.size
    for start in range(0, whole, _MANY_IDS.size):
        ids += _MANY_IDS.unpack_from(joined, start)  # a fifth of the time of slices
    for start in range(whole, len(joined), OBJECT_ID_SIZE):
        ids.append(joined[start : start + OBJECT_ID_SIZE])
    return ids

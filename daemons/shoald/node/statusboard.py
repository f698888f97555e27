"""Shared memory with a slot per worker: the id and name of the task that it started last, written before each start.

The worker writes without a system call, the daemon reads at the confirmed death: so it is known which task
was running, even after a kill. Freed with the last process that maps it.
"""

from __future__ import annotations

import mmap
import os

from shoald.worker.forkserver import STATUS_SLOT_BYTES

TASK_ID_BYTES = 16


class StatusBoard:
    """The board of one node.

    Args:
        slots: how many workers there can be at once.

    Attributes:
        fd: to hand to the fork server; closed by `close`.
    """

    def __init__(self, slots: int) -> None:
        size = slots * STATUS_SLOT_BYTES
        if hasattr(os, "memfd_create"):
            self.fd = os.memfd_create("shoal-status", os.MFD_CLOEXEC)
        else:
            import tempfile

            self.fd, path = tempfile.mkstemp(prefix="shoal-status-")
            os.unlink(path)
        os.ftruncate(self.fd, size)
        self._map = mmap.mmap(self.fd, size)

    def current(self, slot: int) -> bytes:
        """The id of the task that the worker in ``slot`` started last; zeros if none."""
        start = slot * STATUS_SLOT_BYTES
        return self._map[start : start + TASK_ID_BYTES]

    def repeatable(self, slot: int) -> bool:
        """Whether the task that the worker in ``slot`` started last may be run again."""
        return not self._map[slot * STATUS_SLOT_BYTES + TASK_ID_BYTES]

    def task_name(self, slot: int) -> str:
        """The name of the task that the worker in ``slot`` started last, or the end of a long one; "" if none."""
        start = slot * STATUS_SLOT_BYTES
        name = self._map[start + TASK_ID_BYTES + 1 : start + STATUS_SLOT_BYTES]
        return name.rstrip(b"\0").decode("utf-8", "ignore")

    def clear(self, slot: int) -> None:
        """Forget what the slot's last worker wrote."""
        start = slot * STATUS_SLOT_BYTES
        self._map[start : start + STATUS_SLOT_BYTES] = bytes(STATUS_SLOT_BYTES)

    def close(self) -> None:
        """Unmap and close."""
        self._map.close()
        os.close(self.fd)

"""What a process has to say to its daemon, in order: numbered, and in columns where there is much of a kind. Pure.

What escaped (`announce`) and what was released is collected, and goes ahead of the next message. Readers elsewhere quote a
place in this stream (`stamp_now`), so that they do not overtake what was said until then.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from shoal.wire import messages as m

if TYPE_CHECKING:
    from shoal.owner.objects import Stamp

MESSAGE_IDS_MAX = 65_536  # in one message, 1 MiB: frames stay far below their limit


class NodeStream:
    """The messages of one process to its daemon.

    Attributes:
        proc: the 8-byte id of this process.
        node_out: messages that are not sent yet; `node_sequence` numbers them all.
    """

    def __init__(self, proc: bytes) -> None:
        self.proc = proc
        self.node_out: list[list[Any]] = []
        self.node_sequence = 0
        self._release_ids: list[bytes] = []
        self._announced: list[bytes] = []  # what escaped before its seal, and the daemon has not been told of

    def to_node(self, message: list[Any]) -> None:
        """Queue a message for the daemon; releases that were decided before go first."""
        if self._announced:
            self._queue_announced()
        if self._release_ids:
            self._queue_releases()
        # Counted before it is there: a handler in between may stamp too late a place, but not too early a one.
        self.node_sequence += 1
        self.node_out.append(message)

    def _queue_announced(self) -> None:
        self.node_sequence += 1  # first, as in `to_node`
        ids, self._announced = self._announced, []
        self.node_out.append([m.EXPECT, b"".join(ids)])

    def announce(self, object_id: bytes) -> None:
        """The object will be sealed: the daemon hears of it before anything that is said from now on."""
        self._announced.append(object_id)
        if len(self._announced) >= MESSAGE_IDS_MAX:
            self._queue_announced()

    def _queue_releases(self) -> None:
        ids, self._release_ids = self._release_ids, []
        for start in range(0, len(ids), MESSAGE_IDS_MAX):
            self.node_sequence += 1
            self.node_out.append([m.RELEASE, b"".join(ids[start : start + MESSAGE_IDS_MAX])])

    def take_node_messages(self) -> list[list[Any]]:
        """Everything queued for the daemon; the queue is empty afterwards."""
        if self._announced:
            self._queue_announced()
        if self._release_ids:
            self._queue_releases()
        batch = self.node_out
        self.node_out = []
        return batch

    def has_node_messages(self) -> bool:
        """Whether something waits to be sent to the daemon."""
        return bool(self.node_out or self._release_ids or self._announced)

    def stamp_now(self) -> Stamp:
        """What a reader elsewhere must quote so that it does not overtake what this process has announced so far."""
        ahead = -(-len(self._release_ids) // MESSAGE_IDS_MAX) + (1 if self._announced else 0)
        return self.proc, self.node_sequence + ahead

"""Reads of objects that are not in the region but on disk: who gets how much room when. Pure.

A *group* is what one client wants to read together (the arguments of a task, the refs of one `get`). It is
answered when all of it is in the region, and pinned from then on. Two groups that each hold half of what they need
would wait for each other; so at most one group of a kind gathers at a time: the oldest one. It pins what is in the
region and takes extents for the rest as they become free; those behind it hold nothing. Reads that a running task
waits for go before arguments of tasks that have not started: the running task holds memory already.

A large object that finds no room is read where it was spilled, the first time. If no room comes free for a while, or
there can never be enough, so is the rest of any group: its client maps the files. That pins nothing: a file that is removed
stays readable for those who have it open, and is not written over. A client that finds such a file damaged says so and asks
again: the copy is lost then, as if the daemon had read it.

However many groups want an object, it is read once, and each of them pins it when it arrives.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

from shoal.wire import messages as m
from shoald.store.errors import ProtocolError
from shoald.store.ledger import Ledger, checked_id, fields
from shoald.store.objects import LOST, ON_DISK, READING, Client, StoredObject
from shoald.store.pins import Pins
from shoald.store.report import full_message
from shoald.store.spills import Spills


class Group:
    """Objects that a client wants to read together.

    Attributes:
        reads: (request number, object), in the order of the request.
        gathered: how many of them are pinned for the client, on their way, or answered with an error.
        coming: how many of those are on their way.
        failed: indexes of those that were answered with an error.
        in_files: indexes of those that are read where they were spilled.
        is_too_large: all of it never fits.
        is_short: it found no room at some time.
        since: when it came, seconds.
    """

    __slots__ = (
        "client",
        "coming",
        "failed",
        "gathered",
        "in_files",
        "is_short",
        "is_too_large",
        "reads",
        "since",
    )

    def __init__(self, client: Client, reads: list[tuple[int, StoredObject]], since: float) -> None:
        self.client = client
        self.reads = reads
        self.gathered = self.coming = 0
        self.failed: set[int] = set()
        self.in_files: set[int] = set()
        self.is_too_large = False
        self.is_short = False
        self.since = since


class Restores:
    """Groups that wait for room or for the disk.

    Attributes:
        waiting: groups that are not gathered, oldest first: reads that somebody waits for, and arguments.
        on_lost: told of a read (client, number, object) whose copy is damaged, or was dropped; whether it will be answered
            all the same.
    """

    __slots__ = ("_coming", "_ledger", "_pins", "_spills", "on_lost", "waiting")

    def __init__(self, ledger: Ledger, pins: Pins, spills: Spills) -> None:
        self._ledger = ledger
        self._pins = pins
        self._spills = spills
        self.waiting: tuple[deque[Group], ...] = (deque(), deque())
        self._coming: dict[StoredObject, list[tuple[Group, int]]] = {}
        self.on_lost: Callable[[Client, int, StoredObject], bool] = lambda client, req, obj: False
        spills.on_settled = self._settled

    def request(
        self, client: Client, reads: list[tuple[int, StoredObject]], priority: int, now: float
    ) -> None:
        """Answer these reads when all of them are in the region."""
        self._ledger.arrivals += 1
        group = Group(client, reads, now)
        # The same object twice takes its room once.
        wanted = sum(obj.allocated for obj in {obj for _, obj in reads})
        group.is_too_large = wanted > self._ledger.allocator.capacity
        self.waiting[priority >= m.PRIORITY_ARGUMENT].append(group)

    def gather(self, now: float) -> None:
        """Take what room there is for those whose turn it is."""
        for queue in self.waiting:
            while queue and self._gather(queue[0], now):
                self._answer_if_complete(queue.popleft())

    def lacking(self) -> tuple[int, int]:
        """(bytes that the groups whose turn it is lack, size of the next extent they need)."""
        total = following = 0
        for queue in self.waiting:
            if queue:
                group = queue[0]
                rest = [obj.allocated for _, obj in group.reads[group.gathered :] if obj.offset < 0]
                total += sum(rest)
                following = following or (rest[0] if rest else 0)
        return total, following

    def awaited(self) -> set[StoredObject]:
        """Those that somebody waits for."""
        waiting = {obj for queue in self.waiting for group in queue for _, obj in group.reads}
        return waiting | self._coming.keys()

    def oldest(self) -> list[float]:
        """Since when the oldest groups wait."""
        return [queue[0].since for queue in self.waiting if queue]

    def read_in_files(self, is_due: Callable[[float], bool]) -> bool:
        """Answer groups that are due with where their objects lie on disk, as far as that can be read.

        Whether that was done for one that would fit.
        """
        done = False
        for queue in self.waiting:
            while queue and (is_due(queue[0].since) or queue[0].is_too_large):
                group = queue[0]
                rest = group.reads[group.gathered :]
                if not group.client.connected or not all(self._has_an_answer(obj) for _, obj in rest):
                    break
                done = done or not group.is_too_large
                queue.popleft()
                for _, obj in rest:
                    index = group.gathered
                    if self._is_gone(obj):
                        self._fail(group, index, *self._problem(obj))
                    elif obj.offset >= 0:
                        self._pins.add(group.client, obj)
                    elif obj.disk is not None and obj.disk.state == READING:
                        self._coming.setdefault(obj, []).append((group, index))
                        group.coming += 1
                    else:
                        group.in_files.add(index)
                    group.gathered += 1
                self._answer_if_complete(group)
        return done

    def _is_gone(self, obj: StoredObject) -> bool:
        """Whether there is no copy here (any more): another node's may have been dropped to make room."""
        if obj.offset >= 0:
            return self._ledger.objects.get(obj.id) is not obj
        return obj.disk is None or obj.disk.state == LOST

    def _has_an_answer(self, obj: StoredObject) -> bool:
        """Whether a read can be answered without room for it: from its file, or that it is gone, which somebody else helps."""
        if self._is_gone(obj) or obj.offset >= 0:
            return True
        assert obj.disk is not None
        return obj.disk.state == READING or bool(self._spills.path(obj))

    def damaged(self, _client: Client, message: list[Any], _now: float) -> None:
        """FILE_DAMAGED: the file is a lost copy, if the object is still there; nobody else is sent to it."""
        object_id, path, why = fields(message, 3)
        obj = self._ledger.objects.get(checked_id(object_id))
        if type(path) is not str or type(why) is not str:
            raise ProtocolError("a file is damaged for a reason")
        if obj is not None and path:
            self._spills.damaged(obj, path, why)

    def _tell_where(self, group: Group, index: int) -> None:
        """Answer a read with a place on disk, or with what has become of the object in the meantime."""
        req, obj = group.reads[index]
        copy = obj.disk
        if obj.offset >= 0 and self._ledger.objects.get(obj.id) is obj:
            self._pins.answer(group.client, req, obj)
        elif copy is not None and copy.state in {ON_DISK, READING}:
            path, number = self._spills.tell(obj, group.client)
            place = [path, copy.offset, obj.size, obj.flags, copy.proof, number]
            self._ledger.send(group.client, [m.PINNED_IN_FILE, req, obj.id, *place])
            self._ledger.counters["read_in_files"] += 1
        else:
            self._fail(group, index, *self._problem(obj))

    def refuse(self, is_over: Callable[[float], bool], trouble: str) -> None:
        """Groups that have waited long enough are answered with an error; what they pinned stays pinned."""
        for queue in self.waiting:
            while queue and is_over(queue[0].since):
                group = queue.popleft()
                why = full_message(self._ledger, sum(obj.allocated for _, obj in group.reads), trouble)
                for index in range(group.gathered, len(group.reads)):
                    self._fail(group, index, "full", why)
                group.gathered = len(group.reads)
                self._answer_if_complete(group)

    def drop(self, client: Client) -> None:
        """The client is gone, and its reads with it."""
        for queue in self.waiting:
            for group in [group for group in queue if group.client is client]:
                queue.remove(group)
        for obj, groups in list(self._coming.items()):
            left = [entry for entry in groups if entry[0].client is not client]
            if left:
                self._coming[obj] = left
            else:
                del self._coming[obj]

    def _gather(self, group: Group, now: float) -> bool:
        """Whether all of a group is pinned, on its way or failed now."""
        while group.gathered < len(group.reads):
            obj = group.reads[group.gathered][1]
            obj.used_at = now
            if obj.offset >= 0 and self._ledger.objects.get(obj.id) is obj:
                self._pins.add(group.client, obj)
            elif obj.disk is None or obj.disk.state == LOST:
                self._fail(group, group.gathered, *self._problem(obj))
            elif not self._start(obj, now):
                if self._is_read_in_place(group.client, obj):
                    group.in_files.add(group.gathered)
                    group.gathered += 1
                    continue
                if not group.is_short:
                    group.is_short = True
                    self._ledger.recall_extents()
                return False
            else:
                self._coming.setdefault(obj, []).append((group, group.gathered))
                group.coming += 1
            group.gathered += 1
        return True

    def _start(self, obj: StoredObject, now: float) -> bool:
        """Whether the object is on its way into the region now."""
        assert obj.disk is not None
        if obj.disk.state == READING:
            return True
        if obj.allocated > self._ledger.allocator.free_bytes:
            return False
        target = self._ledger.allocator.allocate(obj.allocated)
        if target is None:
            return False
        self._spills.read(obj, target, now)
        return True

    def _is_read_in_place(self, client: Client, obj: StoredObject) -> bool:
        """Whether a large object is read where the page cache has it, for once, instead of making room for it.

        What is read once costs one copy less so, and nothing in the region; what is read again is worth its room.
        """
        copy = obj.disk
        assert copy is not None
        if obj.allocated < self._ledger.config.spill_in_place_bytes_min or copy.was_read_in_place:
            return False
        if (
            copy.file is None
            or not copy.file.is_cached
            or not client.is_process
            or not self._spills.path(obj)
        ):
            return False
        copy.was_read_in_place = True
        return True

    def _settled(self, obj: StoredObject) -> None:
        """An object has arrived, or never will."""
        for group, index in self._coming.pop(obj, ()):
            group.coming -= 1
            if obj.offset >= 0:
                self._pins.add(group.client, obj)
            else:
                self._fail(group, index, *self._problem(obj))
            if group.gathered == len(group.reads):
                self._answer_if_complete(group)

    def _answer_if_complete(self, group: Group) -> None:
        if group.coming:
            return
        for index, (req, obj) in enumerate(group.reads):
            if index in group.in_files:
                self._tell_where(group, index)
            elif index not in group.failed:
                self._pins.tell(group.client, req, obj)

    def _fail(self, group: Group, index: int, kind: str, why: str) -> None:
        group.failed.add(index)
        req, obj = group.reads[index]
        # A copy that another node has too may have been dropped to make room for the rest of the group.
        is_gone = kind == "lost" or (kind == "freed" and obj.id not in self._ledger.freed)
        if not is_gone or not self.on_lost(group.client, req, obj):
            self._pins.refuse(group.client, req, obj, kind, why)

    @staticmethod
    def _problem(obj: StoredObject) -> tuple[str, str]:
        if obj.disk is not None and obj.disk.state == LOST:
            return "lost", lost_text(obj)
        return "freed", "it was freed: no process held a reference any more"

    def validate(self) -> None:
        """Raises AssertionError unless every group that waits for the disk has something on its way."""
        on_their_way = {reading.obj for reading in self._spills.reading.values()}
        counts: dict[int, int] = {}
        for obj, groups in self._coming.items():
            assert obj in on_their_way, obj
            for group, _ in groups:
                counts[id(group)] = counts.get(id(group), 0) + 1
                assert group.coming > 0
        for queue in self.waiting:
            for group in queue:
                assert group.gathered < len(group.reads)
                assert group.coming == counts.get(id(group), 0)
            assert not any(group.gathered for group in list(queue)[1:]), "two groups gather at a time"


def lost_text(obj: StoredObject) -> str:
    """Why an object whose copy on disk was damaged cannot be read."""
    assert obj.disk is not None
    return f"its only copy was on disk, and {obj.disk.reason}"

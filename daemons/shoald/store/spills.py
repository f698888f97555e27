"""Objects on disk: which file holds which object, and what is being written, read, rewritten or removed. Pure.

An object has a copy in the region, on disk, or both. Sealed bytes never change, so a copy on disk stays good
for as long as the object lives: a restored object that must go again costs no second write.

    in the region only ── write ──> WRITING (both) ── wrote ──> ON_DISK (both) ── drop_memory ──> ON_DISK
                      <── write_failed ──                ^                                          │ read
                                                         └────────── read_done ────────── READING <─┘
                                                                read_failed: LOST (no copy at all)

A read from a directory that hangs is given up after config.spill_read_ms_max: LOST, but if it ends after all the object is back
in the region, also if its record has gone meanwhile (`Ledger.returning`). Its extent stays taken until then.

Effects go into `outbox`: `Lend`, `Write`, `Read`, `Sum`, `Rewrite` and `Remove`; the shell answers all but the last with
one event each, in any order. Objects that die meanwhile are forgotten at once; only the extent that is being read into
stays taken until the shell is done with it.

An object that no room can be made for is written to a file by its creator: the file is lent to that client, and is
an object's with its seal (SEAL_IN_FILE), or removed with the client.

Small objects share a file, up to config.spill_file_bytes_max; a larger one has a file of its own. A file
is of no use when nothing in it is alive, and is rewritten without its dead parts when config.spill_dead_share of it
is dead. What is of no use is removed, or kept for a moment to be written over (spares). Which directory a file goes to, and
which of them hang: see disks. What one that hangs does not write in time is written to another one, and a file to lend that it
does not make in config.spill_lend_ms_max is looked for there; without another one the creator is refused, with the name.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from shoal.sizes import bytes_text
from shoal.wire import messages as m
from shoald.store.allocator import round_up
from shoald.store.errors import ProtocolError
from shoald.store.ledger import Ledger
from shoald.store.objects import LOST, ON_DISK, READING, WRITING, Client, DiskCopy, SpillFile, StoredObject
from shoald.store.readings import LateReads, Reading
from shoald.store.spilleffects import Lend, Read, Remove, Rewrite, Write
from shoald.store.spillfiles import SpillFiles


class Spills(SpillFiles):
    """The copies on disk of one node's objects.

    Args:
        directories: how many there are; 0: spilling is off.

    Attributes:
        written: objects that have a copy on disk since a moment ago; see eviction.
        restored: objects that were read back for the first time a moment ago; see eviction.
        writing_bytes: of the region, that will be on disk soon.
        trouble: why the last write failed; "" after one that was begun later and did not.
        on_settled: called with an object whose read has ended, well or not.
        on_found: called with an object whose copy had counted as lost, and is in the region now; its record may have gone.
    """

    def __init__(self, ledger: Ledger, directories: int) -> None:
        super().__init__(ledger.config, directories)
        self._ledger = ledger
        self._transfers = 0
        # File → to whom, the number of the request, and whether that was for room.
        self._lent: dict[int, tuple[Client, int, bool]] = {}
        self._writing: dict[int, list[StoredObject]] = {}
        self._rewriting: dict[int, tuple[SpillFile, SpillFile, list[StoredObject]]] = {}
        self._late = LateReads(ledger.config)
        self._seconds = {"spill": 0.0, "restore": 0.0}
        self.reading: dict[int, Reading] = {}
        self.written: list[StoredObject] = []
        self.restored: list[StoredObject] = []
        self.writing_bytes = 0
        self.trouble, self._begun_before = "", 0
        self.on_settled: Callable[[StoredObject], None]
        self.on_found: Callable[[StoredObject], None]
        ledger.forget_copy = self.forget

    # --- out of the region ---

    @property
    def enabled(self) -> bool:
        """Whether there is a directory at all."""
        return len(self.disks) > 0

    @property
    def writes(self) -> int:
        """Files that are being written, without those of directories that hang."""
        return sum(not self.disks.is_late(number) for number in self._writing)

    @property
    def coming_bytes(self) -> int:
        """Bytes of the region that will be on disk soon."""
        late = [objects for number, objects in self._writing.items() if self.disks.is_late(number)]
        return self.writing_bytes - sum(obj.allocated for objects in late for obj in objects)

    def usable(self, now: float) -> bool:
        """Whether some directory can be written to."""
        return self.disks.usable(now)

    def write(self, objects: list[StoredObject], now: float, moves: int = 0) -> None:
        """Give these, which are in the region only, a copy on disk. Some directory must be usable.

        ``moves``: from how many directories that hang they come.
        """
        config = self._ledger.config
        file = self._new_file(self.disks.next(now))
        file.moves = moves
        for obj in objects:
            assert obj.disk is None, obj
            obj.disk = DiskCopy(file, file.size)
            self._put(file, obj)
        spare = self._spares.take(file.directory, file.size)
        file.over = spare.number if spare is not None else 0
        self._writing[file.number] = list(objects)
        self.writing_bytes += sum(obj.allocated for obj in objects)
        self.disks.begin(file.number, file.directory, now, config.spill_stall_ms)
        parts = tuple((obj.offset, obj.size) for obj in objects)
        self.outbox.append(Write(file.number, file.directory, parts, file.over))

    def wrote(self, number: int, checksums: list[int], seconds: float, cached: bool = False) -> None:
        """A file was written, through the page cache if ``cached``; one checksum for each part."""
        objects = self._writing.pop(number)
        self.disks.end(number)
        file = self.files[number]
        counters = self._ledger.counters
        for obj, checksum in zip(objects, checksums, strict=True):
            self.writing_bytes -= obj.allocated
            copy = obj.disk
            if copy is None or copy.file is not file:
                continue  # freed meanwhile
            copy.state = ON_DISK
            copy.proof = checksum
            counters["spilled"] += obj.size
            counters["spilled_objects"] += 1
            self.written.append(obj)
        file.ready = True
        file.is_cached = cached
        if number > self._begun_before:
            self.trouble, self.full = "", False
        self._seconds["spill"] += seconds
        self._tidy(file)

    def write_failed(self, number: int, full: bool, why: str, now: float) -> None:
        """A file could not be written: its objects stay where they are."""
        self.disks.end(number)
        file = self.files.get(number)
        if file is None:  # it was lent, and its client has gone
            return
        self.trouble, self.full, self._begun_before = why, full, self._numbers
        if number in self._lent:
            client, req, instead = self._lent[number]
            self.take_back(client, number)
            self._refuse(client, req, "file" if instead else "disk" if full else "full", why)
            return
        self.disks.failed(file.directory, now)
        if full:
            spares = self._spares.clear()
            self._remove_all(spares)
            self.disks.gives_back.update(spare.directory for spare in spares)
        if number in self._rewriting:
            source = self._rewriting.pop(number)[0]
            source.ready = source.shunned = True
            self._remove(file, gives_back=False)
            self._tidy(source)
            return
        for obj in self._writing.pop(number):
            self.writing_bytes -= obj.allocated
            if obj.disk is not None and obj.disk.file is file:
                obj.disk = None
        self._remove(file, gives_back=False)
        self._remove_over(file)

    # --- files for clients ---

    def lend(self, client: Client, req: int, size: int, now: float, instead: bool = False) -> None:
        """A client asks for a file to write an object of ``size`` bytes into; ``instead``: for room, and may get this."""
        if not self.usable(now):
            complaints = self.disks.complaints(now)
            kind = "file" if instead else "disk" if self.full or complaints else "full"
            self._refuse(client, req, kind, "; ".join(complaints) or self.trouble)
            return
        directory, size = self.disks.next(now), round_up(size)
        if not self.locate(directory, 0):
            self._refuse(client, req, "file" if instead else "full", "")
            return
        spare = self._spares.take(directory, size)
        # One that is as long needs nothing of the disk: it is lent as it is, and keeps its name.
        is_there = instead and spare is not None and spare.size == size
        file = self._new_file(directory, spare.number if spare is not None and is_there else 0)
        file.size = size
        file.is_told = True  # until it is sealed: its creator has it mapped
        self._lent[file.number] = client, req, instead
        client.files.add(file.number)
        if is_there:
            self.made(file.number, directory)
            return
        file.over = spare.number if spare is not None else 0
        self.disks.begin(file.number, directory, now, self._ledger.config.spill_lend_ms_max)
        self.outbox.append(Lend(file.number, directory, size, file.over))

    def made(self, number: int, directory: int) -> None:
        """A file to lend is there."""
        self.disks.end(number)
        entry = self._lent.get(number)
        if entry is None:  # its client has gone, and it may have been removed before it was made
            self.outbox.append(Remove(number, directory))
            return
        client, req, _ = entry
        self._ledger.send(
            client, [m.FILE_LENT, req, number, self.locate(self.files[number].directory, number)]
        )

    def check_disks(self, now: float) -> None:
        """Notice directories that hang, find who waits for them another one, remove spare files, have others summed.

        Once a turn.
        """
        for number in self.disks.late(now):
            if -number in self.reading:
                self._late.add(-number, self.reading[-number], now)
            if number in self._writing and self.usable(now):
                self._move(self.files[number], now)
            entry = self._lent.get(number)
            if entry is not None:  # its directory will answer some day, or never: the file goes then
                client, req, instead = entry
                size = self.files[number].size
                client.files.discard(number)
                self._remove_over(self.files[number])
                del self._lent[number], self.files[number]
                self.lend(client, req, size, now, instead)
        for reading in self._late.take_hopeless(now):
            self._give_up(reading, now)
        self.disks.try_those_that_give_back(now)
        self._remove_all(self._spares.expired(now))
        self.outbox += self._sums.due(now)

    def _move(self, file: SpillFile, now: float) -> None:
        """Have what is on its way to a directory that hangs written to another one, but not on and on: all may just be slow."""
        if file.moves < len(self.disks) - 1:
            objects = [obj for obj, _ in file.live.values()]
            for obj in objects:
                self.forget(obj)
            if objects:
                self.write(objects, now, file.moves + 1)

    def next_deadline(self) -> float | None:
        """When `check_disks` has something to do."""
        deadlines = [each.next_deadline() for each in (self.disks, self._spares, self._late, self._sums)]
        return min((at for at in deadlines if at is not None), default=None)

    def describe(self, now: float) -> list[str]:
        """For people: files that are being made for creators, and directories that hang."""
        waiting = [number for number in self._lent if self.disks.has(number)]
        making = [self.files[number] for number in waiting if not self.disks.is_late(number)]
        text = "a file for {} is being made in {}"
        lines = [text.format(bytes_text(file.size), self.disks.names[file.directory]) for file in making]
        return lines + self.disks.complaints(now)

    def take_back(self, client: Client, number: int) -> None:
        """A client does not use a file that it was lent. Raises ProtocolError if it was not."""
        file = self._of(client, number)
        self._remove(file)
        self._remove_over(file)

    def stalled(self, client: Client, number: int, since: float) -> None:
        """A client's write to a lent file hangs: its directory gets nothing more until that has ended.

        Raises ProtocolError if it was not lent.
        """
        if number not in client.files:
            raise ProtocolError(f"file {number} was not lent to this client")
        self.disks.stall(number, self.files[number].directory, since)

    def seal_in(self, client: Client, obj: StoredObject, number: int, proof: int) -> None:
        """A lent file has this object now. Raises ProtocolError unless it was lent to the client, and is as long."""
        if round_up(obj.size) != (self.files[number].size if number in client.files else -1):
            raise ProtocolError(f"file {number} was not lent for {obj.size} bytes to this client")
        file = self._of(client, number)
        file.size = 0
        file.is_told, file.is_cached = False, True
        obj.offset = -1
        obj.disk = DiskCopy(file, 0)
        obj.disk.state = ON_DISK
        obj.disk.proof = proof
        self._put(file, obj)
        file.ready = True
        if proof < 0:
            self._sums.add(file, proof, obj.sealed_at)

    def drop(self, client: Client) -> None:
        """The client is gone: files that it was lent go, and it reads none any more."""
        self.readers.drop(client)
        for number in list(client.files):
            self.take_back(client, number)

    def _of(self, client: Client, number: int) -> SpillFile:
        if number not in client.files:
            raise ProtocolError(f"file {number} was not lent to this client")
        client.files.discard(number)
        del self._lent[number]
        self.disks.end(number)
        return self.files[number]

    def _refuse(self, client: Client, req: int, kind: str, why: str) -> None:
        self._ledger.send(client, [m.ALLOC_FAILED, req, kind, why])

    # --- back ---

    def read(self, obj: StoredObject, target: int, now: float) -> None:
        """Read an object that is only on disk into the extent at ``target``, which is allocated."""
        copy = obj.disk
        assert copy is not None, obj
        assert copy.file is not None, obj
        assert copy.state == ON_DISK, obj
        file = copy.file
        copy.state = READING
        file.reads += 1
        self._transfers += 1
        self.reading[self._transfers] = Reading(obj, file, target)
        self._ledger.restoring_bytes += obj.allocated
        self.disks.begin(-self._transfers, file.directory, now, self._ledger.config.spill_stall_ms)
        effect = Read(self._transfers, file.number, file.directory, copy.offset, obj.size, copy.proof, target)
        self.outbox.append(effect)

    def read_done(self, transfer: int, seconds: float) -> None:
        """An object is in the region again, unchanged."""
        reading = self._end_reading(transfer)
        self._seconds["restore"] += seconds
        obj = reading.obj
        if obj is None or (reading.is_given_up and not self._ledger.is_missed(obj)):
            self._in_vain(reading)
        else:
            self._back(obj, reading)
        self._tidy(reading.file)

    def _back(self, obj: StoredObject, reading: Reading) -> None:
        assert obj.disk is not None
        if reading.is_given_up:
            obj.disk = None  # its part of the file is given up as well
        else:
            obj.disk.state = ON_DISK
            if not obj.disk.has_come_back:
                obj.disk.has_come_back = True
                self.restored.append(obj)
        self._ledger.back_in_memory(obj, reading.target)
        self._ledger.counters["restored"] += obj.size
        self._ledger.counters["restored_objects"] += 1
        (self.on_found if reading.is_given_up else self.on_settled)(obj)

    def _in_vain(self, reading: Reading) -> None:
        self._ledger.allocator.free(reading.target, reading.allocated)
        self._ledger.returns_no_more(reading.obj)

    def read_failed(self, transfer: int, why: str) -> None:
        """The copy on disk is damaged or gone: the object is lost."""
        reading = self._end_reading(transfer)
        self._in_vain(reading)
        if reading.obj is not None and not reading.is_given_up:
            self._lose(reading.obj, why)
            self.on_settled(reading.obj)
        self._tidy(reading.file)

    def _end_reading(self, transfer: int) -> Reading:
        reading = self.reading.pop(transfer)
        self.disks.end(-transfer)
        reading.file.reads -= 1
        self._ledger.restoring_bytes -= reading.allocated
        self._late.ended(transfer, reading.file.directory)
        return reading

    def _give_up(self, reading: Reading, now: float) -> None:
        """A directory hangs: whoever waits for this object is helped as if its copy were damaged.

        The extent stays taken until the shell is done with it; if the object comes and is still missed, it is back.
        """
        reading.is_given_up = True
        if reading.obj is not None:
            file = reading.file
            where = self.locate(file.directory, file.number) or f"file {file.number}"
            why = f"reading {where} was given up: {'; '.join(self.disks.complaints(now))}"
            self._ledger.returning.add(reading.obj)
            self._lose(reading.obj, why)
            self.on_settled(reading.obj)

    def _lose(self, obj: StoredObject, why: str) -> None:
        copy = obj.disk
        assert copy is not None, obj
        assert copy.file is not None, obj
        file = copy.file
        self._take_out(file, obj)
        copy.state, copy.file, copy.reason = LOST, None, why
        self._ledger.counters["lost"] += 1
        self._tidy(file)  # it may be another one than was read: that was rewritten meanwhile

    def damaged(self, obj: StoredObject, path: str, why: str) -> None:
        """A client found the copy in this file damaged. If that is read, or is elsewhere by now, it shows by itself."""
        if self.path(obj) != path or obj.disk is None or obj.disk.state != ON_DISK:
            return
        if obj.offset >= 0:
            self.forget(obj)
        else:
            self._lose(obj, f"that is damaged: {why}")

    def summed(self, number: int, checksum: int | None) -> None:
        """The checksum of the object in a file; None: somebody has changed the file since it was written."""
        file = self._sums.ended(number)
        for obj, _ in list(file.live.values()):
            assert obj.disk is not None
            if checksum is not None:
                obj.disk.proof = checksum
            else:
                self.damaged(obj, self.path(obj), "it was changed after it had been written")
        self._tidy(file)

    def sum_failed(self, number: int, now: float) -> None:
        """A file could not be read: who wants its object will find out why. Tried again later."""
        file = self._sums.ended(number)
        for obj, _ in file.live.values():
            assert obj.disk is not None
            self._sums.add(file, obj.disk.proof, now)
        self._tidy(file)

    def path(self, obj: StoredObject) -> str:
        """Of the file that has a whole copy of the object; "" if clients cannot map it."""
        copy = obj.disk
        if copy is None or copy.file is None or copy.state == WRITING:
            return ""
        return self.locate(copy.file.directory, copy.file.number)

    def tell(self, obj: StoredObject, client: Client) -> tuple[str, int]:
        """The same for a client, which may map the file from now on, and the file's number; ("", 0) if it cannot."""
        path = self.path(obj)
        if not path:
            return "", 0
        assert obj.disk is not None
        assert obj.disk.file is not None
        file = obj.disk.file
        if client.is_process:
            self.readers.told(client, file.number)
        else:
            file.is_told = True
        return path, file.number

    # --- files ---

    def forget(self, obj: StoredObject) -> None:
        """The object was freed, or is about to: its copy on disk is of no use."""
        copy, obj.disk = obj.disk, None
        assert copy is not None
        if copy.state == READING or obj in self._ledger.returning:
            self._ledger.returning.discard(obj)
            for reading in [reading for reading in self.reading.values() if reading.obj is obj]:
                reading.obj = None
        if copy.file is None:
            return
        if copy.state == READING:
            self.on_settled(obj)
        self._take_out(copy.file, obj)
        self._tidy(copy.file)

    def rewrote(self, number: int, intact: list[bool]) -> None:
        """A file was rewritten; for each part, whether its checksum was right."""
        source, file, objects = self._rewriting.pop(number)
        file.ready = source.ready = True
        for obj, good in zip(objects, intact, strict=True):
            copy = obj.disk
            if copy is None or copy.file is not source:
                self._take_out(file, obj)  # freed meanwhile
            elif good:
                copy.offset = file.live[obj.id][1]
                copy.file = file
                self._take_out(source, obj)
            else:
                self._take_out(file, obj)
                source.shunned = True  # what is wrong with it shows when it is read
        for each in list(self.files.values()):
            self._tidy(each)

    def _tidy(self, file: SpillFile) -> None:
        """Remove or rewrite a file if it is time to."""
        if not file.ready or file.reads or file.number not in self.files:
            return
        dead = file.size - file.live_bytes
        if not file.live:
            self._remove(file)
        elif (
            dead > self._ledger.config.spill_dead_share * file.size
            and not file.shunned
            and len(self._rewriting) < self._ledger.config.spill_rewrites_max
        ):
            self._rewrite(file)

    def _rewrite(self, source: SpillFile) -> None:
        file = self._new_file(source.directory)
        objects = [obj for obj, _ in source.live.values()]
        parts = []
        for obj in objects:
            assert obj.disk is not None
            self._put(file, obj)
            parts.append((obj.disk.offset, obj.size, obj.disk.proof))
        source.ready = False
        self._rewriting[file.number] = source, file, objects
        self.outbox.append(Rewrite(file.number, file.directory, source.number, tuple(parts)))

    # --- what there is ---

    def totals(self) -> dict[str, Any]:
        """Bytes in files, of those alive, and in spare files; how many files; bytes a second while there was something to do."""
        counters = self._ledger.counters
        return {
            "disk": sum(file.size for file in self.files.values()),
            # What is being copied from file to file counts once.
            "disk_live": sum(f.live_bytes for f in self.files.values() if f.number not in self._rewriting),
            "disk_files": len(self.files),
            "disk_spare": self._spares.size,
            "disk_removed": self.readers.removed_bytes,
            "disk_removed_by": self.readers.of_removed(),
            "spill_rate": _rate(counters["spilled"], self._seconds["spill"]),
            "restore_rate": _rate(counters["restored"], self._seconds["restore"]),
        }

    def extents(self) -> list[tuple[int, int]]:
        """(offset, size) of the region that are being read into."""
        return [(reading.target, reading.allocated) for reading in self.reading.values()]

    def validate(self) -> None:
        """Raises AssertionError unless objects, files and transfers agree."""
        listed = {(number, obj) for number, file in self.files.items() for obj, _ in file.live.values()}
        for obj in self._ledger.objects.values():
            copy = obj.disk
            if copy is None or copy.file is None:
                assert (obj.offset >= 0) == (copy is None), obj
                continue
            assert self.files[copy.file.number].live[obj.id] == (obj, copy.offset), obj
            assert copy.state != WRITING or obj.offset >= 0, obj
            assert copy.state != READING or obj.offset < 0, obj
            listed.discard((copy.file.number, obj))
        rewriting = {(file.number, obj) for _, file, objects in self._rewriting.values() for obj in objects}
        assert listed <= rewriting, "files hold objects that are not in them"
        for file in self.files.values():
            assert file.live_bytes == sum(obj.allocated for obj, _ in file.live.values())
            assert file.live_bytes <= file.size, file.number
            assert file.live or not file.ready or file.reads, "an empty file is kept"
            assert (file.number in self._lent) <= (not file.ready and not file.live)
            reads = [reading.file for reading in self.reading.values()] + self._sums.under_way()
            assert file.reads == reads.count(file)
        self.readers.validate()
        assert self.writing_bytes == sum(obj.allocated for each in self._writing.values() for obj in each)


def _rate(size: int, seconds: float) -> float:
    return size / seconds if seconds else 0.0

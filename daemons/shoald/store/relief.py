"""Making room: what happens when creators and readers want more of the region than is free. Pure.

`work` runs once a turn. It serves who waits, and while somebody still does, it makes victims go (see eviction): what has
a copy elsewhere is dropped at once; the rest is written to disk in batches, at most config.spill_writes_max
at a time, and dropped when that is done. If enough is free but in pieces, the next victim goes if that leaves one
piece of the size, or else the objects between pieces: those that cost the least. When nothing more can be done now,
whoever waits then waits for writes, pins or frees, for config.store_full_wait_ms after the last progress, and never
longer than config.store_relief_wait_ms in all. If nothing is under way either, whoever can reads what is on disk there, or writes
to a file (see standstill).

Ahead of need: when more than config.spill_threshold of the region is in use, the oldest objects are
written, and stay. So when room is wanted, victims are there that only have to be dropped, and writing overlaps
with the work of the job. When a creator had to wait a moment ago, twice as much is written ahead: else one file is written at a
time while it fills what the last one made room for. And what is free in pieces that are too small for who had to wait is no room.

Without a directory, or when the disk is full, only what has a copy elsewhere can go. From a disk that is full it goes as well:
what was fetched from another node may lie there alone.

With spilling off it can be certain that there will be no room: then the refusal comes at once. An object stays if it is a primary
copy and a process holds it that waits for room itself, with its only thread and no task under way (it says so with its
request): whoever else lets go, that hold remains. Everything else in the region may come free: what other processes hold
(they may drop their refs), cached pins, secondary copies, leased extents. If no gap between the objects that stay is long enough,
the request is hopeless; if only the rest is in its way, it waits as long as any other. That is looked at when somebody new
waits, since only then there is more that stays.
"""

from __future__ import annotations

from shoald.store.eviction import Eviction
from shoald.store.extents import Extents
from shoald.store.ledger import Ledger
from shoald.store.objects import ON_DISK, StoredObject
from shoald.store.restores import Restores
from shoald.store.spills import Spills
from shoald.store.standstill import Standstill

_ROUNDS_MAX = 100  # drop, and serve whoever fits then; the rest is for the next turn


class Relief:
    """Makes room in one store."""

    __slots__ = (
        "_again_at",
        "_changes",
        "_eviction",
        "_extents",
        "_is_crowded",
        "_ledger",
        "_lends",
        "_marks",
        "_piece",
        "_piece_until",
        "_progress_at",
        "_restores",
        "_seen",
        "_spills",
        "_standstill",
        "_was_full",
    )

    def __init__(self, ledger: Ledger, extents: Extents, restores: Restores, spills: Spills) -> None:
        self._ledger = ledger
        self._extents = extents
        self._restores = restores
        self._spills = spills
        self._eviction = Eviction(ledger, spills)
        self._progress_at = -1e9
        self._marks = ledger.marks()
        self._standstill = Standstill(ledger.config)
        self._changes = (0, 0, 0)
        self._again_at: float | None = None
        self._seen = 0
        self._piece = 0  # the size of the last one that had to wait, for a while
        self._piece_until = 0.0
        self._is_crowded = False  # it was a creator, and there was nothing to drop
        self._was_full = False
        self._lends = False  # who wanted room last writes to a file instead

    @property
    def wanted(self) -> bool:
        """Whether `work` has something to do: somebody waits, or the region is so full that writing ahead pays."""
        return self._somebody_waits() or self._behind() > 0

    def _somebody_waits(self) -> bool:
        gets, arguments = self._restores.waiting
        return bool(self._extents.waiting or gets or arguments)

    def next_deadline(self) -> float | None:
        """When `work` is to run, whatever else happens."""
        if not self._somebody_waits():
            return None
        return self._again_at if self._seen == self._ledger.arrivals else 0.0

    def work(self, now: float) -> None:
        """Serve who waits, and make room for who still does."""
        self._again_at = None
        arrived, self._seen = self._seen != self._ledger.arrivals, self._ledger.arrivals
        if arrived and not self._spills.enabled:
            self._extents.refuse_hopeless(self._stays)
        if arrived and self._spills.full:
            self._spills.disks.try_again(now)
        filled, self._was_full = self._spills.full and not self._was_full, self._spills.full
        if filled:
            self._drop_files()
        if now >= self._piece_until:
            self._piece, self._is_crowded = 0, False
        self._eviction.begin(self._somebody_waits(), now)
        waiting = self._count_waiting()
        for _ in range(_ROUNDS_MAX):
            self._serve(now)
            lacking, piece = self._lacking()
            if piece:
                self._piece, self._piece_until = piece, now + self._ledger.config.spill_spare_ms / 1000
            if not piece:
                break
            if lacking > 0 and self._drop(lacking, now):
                continue
            if self._have_written(lacking, now):
                continue
            if lacking > 0 or not self._clear(piece, now):
                self._spill(lacking, now)
                break
        self._write_ahead(now)
        marks = self._ledger.marks()
        if marks != self._marks:
            self._marks = marks
            self._progress_at = now
        self._look_for_standstill(waiting, now)
        self._give_up(now)

    # --- who waits ---

    def _serve(self, now: float) -> None:
        self._restores.gather(now)
        if self._extents.waiting:
            waited_s = now - self._extents.waiting[0].since
            self._extents.no_passing = waited_s >= self._ledger.config.store_full_wait_ms / 1000
            self._extents.serve()

    def _count_waiting(self) -> int:
        return len(self._extents.waiting) + sum(map(len, self._restores.waiting))

    def _lacking(self) -> tuple[int, int]:
        """(bytes that are wanted beyond what is free, size of the first piece that is); piece 0: nobody waits."""
        total, piece = self._restores.lacking()
        wanted, least = self._extents.wanted()
        return total + wanted - self._ledger.allocator.free_bytes, piece or least

    def _stays(self, obj: StoredObject) -> bool:
        return obj.offset >= 0 and obj.disk is None and not self._eviction.expendable(obj)

    # --- victims ---

    def _drop(self, lacking: int, now: float) -> bool:
        """Drop what has a copy elsewhere, in the order of eviction; whether anything went."""
        dropped = 0
        while dropped < lacking:
            obj = self._eviction.next(lacking - dropped, dirty=False, now=now)
            if obj is None:
                break
            self._let_go(obj)
            dropped += obj.allocated
        return dropped > 0

    def _drop_files(self) -> None:
        """A disk is full: what lies there and is on another node as well goes, unless somebody waits for it."""
        awaited = self._restores.awaited()
        for obj in list(self._ledger.objects.values()):
            on_disk = obj.offset < 0 and obj.disk is not None and obj.disk.state == ON_DISK
            if on_disk and self._eviction.expendable(obj) and obj not in awaited:
                self._ledger.evict(obj)

    def _let_go(self, obj: StoredObject) -> None:
        if obj.disk is not None:
            self._ledger.drop_memory(obj)
        else:
            self._ledger.evict(obj)

    def _clear(self, piece: int, now: float) -> bool:
        """Make one piece of what is free and what lies between; whether anything went at once."""
        writes = self._spills.coming_bytes < piece and self._spills.usable(now)
        single = self._eviction.next(piece, dirty=writes, now=now, piece=piece)
        if single is None and self._eviction.coming_bytes >= piece:
            return False  # pins of the next victim are on their way
        victims = [single] if single is not None else self._eviction.hole(piece, now, self._batch_min())
        clean = [obj for obj in victims if obj.disk is None and self._eviction.expendable(obj)]
        clean += [obj for obj in victims if obj.disk is not None and obj.disk.state == ON_DISK]
        for obj in clean:
            self._let_go(obj)
        self._write_with_more([obj for obj in victims if obj.offset >= 0 and obj.disk is None], now)
        return bool(clean)

    def _write_with_more(self, objects: list[StoredObject], now: float) -> None:
        """Write these, and if they are few the next victims with them, which will be wanted soon."""
        lacking = self._batch_min() - sum(obj.allocated for obj in objects)
        if objects and lacking > 0:
            more, size, _ = self._batch(lacking, lacking, now)
            if size < lacking and self._eviction.coming_bytes:
                self._eviction.put_back(more)  # the rest of a batch may be on its way
                return
            objects = list(dict.fromkeys(objects + more))
        self._write(objects, now)

    def _batch_min(self) -> int:
        return min(self._ledger.config.spill_batch_bytes_min, self._ledger.allocator.capacity // 8)

    def _have_written(self, lacking: int, now: float) -> bool:
        """Have a creator write its large value to a file, instead of having others written to make room for it: one copy less.

        Whether one was found. If room comes back unasked, it is waited for.
        """
        if 0 < lacking <= self._eviction.coming_bytes + self._extents.coming_back(now):
            return False
        request = self._extents.would_rather(self._ledger.config.spill_in_place_bytes_min)
        if request is None or not request.client.is_process or not self._can_lend(now):
            return False
        self._extents.take(request)
        self._spills.lend(request.client, request.req, request.least, now, instead=True)
        self._lends = True
        return True

    def _spill(self, lacking: int, now: float) -> None:
        """Have the next victims written, as many as will be enough together with what is on its way."""
        lacking -= self._spills.coming_bytes + self._eviction.coming_bytes + self._extents.coming_back(now)
        self._is_crowded = self._is_crowded or bool(
            self._extents.waiting and not self._extents.coming_back(now)
        )
        self._lends = False  # somebody has to have room
        self._write_victims(lacking, now)

    def _write_victims(self, lacking: int, now: float, ahead: bool = False) -> None:
        config = self._ledger.config
        while lacking > 0 and self._spills.writes < config.spill_writes_max and self._spills.usable(now):
            wanted = min(max(lacking, self._batch_min()), config.spill_file_bytes_max)
            batch, size, kept = self._batch(wanted, lacking, now, ahead)
            lacking -= kept
            if size < wanted and self._eviction.coming_bytes and lacking > 0:
                self._eviction.put_back(batch)  # the rest of a batch may be on its way
                return
            self._write(batch, now)
            lacking -= size
            if not batch:
                return

    def _batch(
        self, wanted: int, lacking: int, now: float, ahead: bool = False
    ) -> tuple[list[StoredObject], int, int]:
        """(the next victims that have to be written, their bytes, bytes of those that have not and were met)."""
        batch: dict[StoredObject, None] = {}  # one that came back may be listed twice
        size = kept = 0
        while size < wanted and kept < lacking:
            obj = self._eviction.next(wanted - size, dirty=True, now=now, behind=ahead)
            if obj is None:
                break
            if obj.disk is not None or self._eviction.expendable(obj):
                self._eviction.keep(obj)
                kept += obj.allocated
            elif batch and size + obj.allocated > self._ledger.config.spill_file_bytes_max:
                self._eviction.put_back([obj])
                break
            elif obj not in batch:
                batch[obj] = None
                size += obj.allocated
        return list(batch), size, kept

    def _write(self, objects: list[StoredObject], now: float) -> None:
        """Write these, in files within their bound."""
        batch: list[StoredObject] = []
        size = 0
        for obj in objects:
            if batch and size + obj.allocated > self._ledger.config.spill_file_bytes_max:
                self._spills.write(batch, now)
                batch, size = [], 0
            batch.append(obj)
            size += obj.allocated
        if batch:
            self._spills.write(batch, now)

    # --- ahead of need ---

    def _behind(self) -> int:
        """Bytes that are to be written ahead of need."""
        ledger = self._ledger
        free = ledger.allocator.free_bytes + ledger.leased_bytes()  # it is taken back first
        share = 1 - ledger.config.spill_threshold
        low = min(1.0, 2 * share if self._is_crowded else share) * ledger.allocator.capacity
        if free >= low or self._lends or not self._spills.enabled:
            return 0
        if self._piece > ledger.allocator.largest_free:
            free = 0  # not for those who had to wait
        # What is being read back can be dropped again.
        ready = self._eviction.ready_bytes() + ledger.restoring_bytes
        return int(low) - free - ready - self._spills.coming_bytes

    def _write_ahead(self, now: float) -> None:
        behind = self._behind() - self._eviction.coming_bytes
        if self._extents.waiting:
            behind -= self._extents.coming_back(now)
        # Beside another one only a whole file: many small ones cost more than they gain.
        if behind > 0 and (not self._spills.writes or behind >= self._batch_min()):
            self._write_victims(behind, now, ahead=True)

    # --- giving up ---

    def _look_for_standstill(self, waiting: int, now: float) -> None:
        """Have what no room comes free for read and written in files; ``waiting``: so many waited at the begin of the turn."""
        standstill = self._standstill
        if standstill and self._count_waiting() < waiting:
            standstill.ended(True, now)
        counters = self._ledger.counters
        changes = counters["frees"], counters["seals"], sum(self._marks)
        is_still = changes == self._changes and self._somebody_waits() and not self._is_under_way(now)
        self._changes = changes
        standstill.see(is_still, now)
        map_after_s = self._ledger.config.spill_map_after_ms / 1000
        done = self._restores.read_in_files(
            lambda since: max(since, self._progress_at) + map_after_s <= now or standstill.is_over(since, now)
        )
        request = self._extents.would_rather()
        if request is not None and standstill.is_over(request.since, now) and self._can_lend(now):
            self._extents.have_written(request)
            done = True
        if standstill and done:
            standstill.ended(False, now)

    def _can_lend(self, now: float) -> bool:
        """Whether a creator would get a file now, for all that is known."""
        spills = self._spills
        return spills.usable(now) and all(spills.locate(number, 0) for number in range(len(spills.disks)))

    def _is_under_way(self, now: float) -> bool:
        """Whether something will make room, if nobody lets go of anything."""
        spills = self._spills
        return bool(
            spills.coming_bytes
            or spills.reading
            or self._eviction.asked_bytes
            or (self._extents.waiting and self._extents.coming_back(now))
        )

    def _give_up(self, now: float) -> None:
        """Refuse whoever has waited long enough, and say when the next one will have."""
        deadlines = [self._deadline(since) for since in (*self._restores.oldest(), *self._extents.oldest())]
        if deadlines and min(deadlines) <= now:
            kind = "disk" if self._spills.full else "full"
            troubles = [f"Spilling failed: {self._spills.trouble}"] if self._spills.trouble else []
            trouble = "".join(f"{text}. " for text in (*troubles, *self._spills.disks.slow(now)))
            self._extents.refuse(lambda since: self._deadline(since) <= now, kind, trouble)
            self._restores.refuse(lambda since: self._deadline(since) <= now, trouble)
            deadlines = [
                self._deadline(since) for since in (*self._restores.oldest(), *self._extents.oldest())
            ]
        if deadlines:
            map_after_s = self._ledger.config.spill_map_after_ms / 1000
            maps_at = [max(since, self._progress_at) + map_after_s for since in self._restores.oldest()]
            request = self._extents.would_rather()
            hoping = [*self._restores.oldest(), *([request.since] if request is not None else [])]
            maps_at += [at for since in hoping if (at := self._standstill.ends_at(since)) is not None]
            due = (self._eviction.again_at, self._spills.disks.next_retry(now))
            again = [at for at in due if at is not None]
            if self._extents.waiting and self._extents.recalled_until > now:
                again.append(self._extents.recalled_until)
            # Who cannot be helped that way is not looked at again for it.
            self._again_at = min([*deadlines, *again, *(at for at in maps_at if at > now)])

    def _deadline(self, since: float) -> float:
        config = self._ledger.config
        patience_s = config.store_full_wait_ms / 1000
        return min(
            max(since, self._progress_at) + patience_s,
            since + max(patience_s, config.store_relief_wait_ms / 1000),
        )

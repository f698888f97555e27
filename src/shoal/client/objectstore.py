"""This process's side of the node's store: writing values into leased extents, and reading pinned objects in place.

A put costs no round trip while a leased slab has room: carve, copy, and a one-way SEAL. A read costs one round trip the
first time (PIN), and none while the pin is cached. Pins go back when the daemon recalls them, or with the object.

Everything that touches tables runs with the runtime's lock held; the copying itself does not.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections import Counter, deque
from typing import TYPE_CHECKING, Any

from shoal.client.filesealing import FileSealer, RatherAFileError
from shoal.client.node import Drained
from shoal.client.promoting import FOR_PROMOTION, Promoter
from shoal.client.roomwaits import CycleSearch, waiting_for_room
from shoal.exceptions import ObjectStoreFullError, OutOfDiskError, ShoalError
from shoal.ids import split_ids
from shoal.owner.nodestream import MESSAGE_IDS_MAX
from shoal.owner.objects import Waiter
from shoal.refs import released
from shoal.sizes import bytes_text
from shoal.store.extents import ExtentLeases
from shoal.store.filecopies import THREAD, FileCopy, FileUse, is_own_limit
from shoal.store.filewrites import windows
from shoal.store.pins import PinTable
from shoal.store.region import Region
from shoal.store.writing import COPY_BYTES_MIN
from shoal.wire import messages as m

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np

    from shoal.client.node import NodeLink
    from shoal.client.runtime import Runtime
    from shoal.owner.objects import Entry
    from shoal.serialization import Serialized

# Requests that no thread waits for; `promoting` has the other; numbers of `NodeLink.ask` start above.
_AHEAD = 0
_IDLE_S = 0.5
_FILES_IDLE_S = 30.0  # as long as spare files are kept
# Times as long as a search for garbage took, before the next one, when a file is to be had; and for young one, when it was lent.
_RESTS, _RESTS_WITH_FILES = 9, 49
_SHARE_OF_FILES = 0.01  # of the time that files took goes into the search for all garbage then
_YOUNG = 1  # generation
_CROWDED_S = 0.003  # room that is there takes a tenth of it
_OWN_THREADS = frozenset({"shoal-backup", "shoal-output", THREAD})  # they run no code of users
_UNCOUNTED: deque[Any] = deque(maxlen=0)  # for views that pin nothing
_PIN_FIELDS = 3  # of an object in a PIN_TOGETHER: id and stamp


_ERRORS: dict[str, type[ShoalError]] = {"disk": OutOfDiskError}
_NEXT_STEPS = {"never": "store the value in parts, or start the node with a larger object_store_memory"}


class PinWaiter(Waiter):
    """Waits until objects are pinned, and keeps each of them pinned until `ClientStore.release`: the daemon may want a
    cached pin back before the views of its reader are open.
    """

    __slots__ = ("guarded", "in_files")

    def __init__(self) -> None:
        super().__init__(0)
        self.ready = False
        self.guarded: list[bytes] = []
        self.in_files: list[bytes] = []

    def one_less(self) -> None:
        """One of the objects is pinned, or cannot be."""
        self.missing -= 1
        if self.missing <= 0:
            self.ready = True


class ClientStore:
    """Reads and writes of one process in the node's region."""

    def __init__(self, runtime: Runtime, node: NodeLink, region: Region) -> None:
        self._runtime = runtime
        self._table = runtime.table
        self._node = node
        self.region = region
        config = runtime.config
        self.pins = PinTable(config.cached_pins_max)
        ahead_max = max(int(config.lease_ahead_share * region.capacity), config.inline_bytes_max)
        self.extents = ExtentLeases(
            config.slab_bytes_min, config.slab_bytes_max, config.slabs_max, ahead_max // 64 * 64
        )
        self.closed_views: deque[bytes] = deque()
        self.pin_waiters: dict[bytes, list[PinWaiter]] = {}
        self.pin_errors: dict[bytes, tuple[str, str]] = {}
        self.file_copies: dict[bytes, FileCopy] = {}
        # Numbers of files that PINNED_IN_FILE named, and that nobody looks at now.
        self.closed_files: deque[int] = deque()
        self._unopened: dict[str, dict[bytes, FileCopy]] = {}  # small ones of `file_copies`, by path and id
        self._readers: set[PinWaiter] = set()
        self._small_max = config.inline_bytes_max
        self._make_view: Callable[..., np.ndarray[Any, Any]] = self._make_first_view
        self.promoter = Promoter(self._table, region, self.extents)
        self._cycles = CycleSearch()
        self.files = FileSealer(runtime, node)
        self._is_crowded = False  # the last request for room had to wait until room was made
        self._files_s = 0.0  # that writing files has taken
        self._written = self._written_seen = 0
        self._idle_since = 0.0

    # --- writing ---

    def seal(
        self,
        object_id: bytes,
        value: Serialized,
        flags: int,
        holder: bytes,
        callsite: str,
        hashed: bool = False,
        again: bool = False,
    ) -> tuple[bytes, bool]:
        """Write ``value`` and tell the daemon; without the lock. Contained refs must have escaped before.

        ``hashed``: also make its content hash; ``again``: such values keep coming, so pages that take longer the first time
        are worth it. Returns the hash, and whether it surely is the copy's: another thread may have changed the value while it
        was hashed and copied, one after the other.

        Raises ObjectStoreFullError, or OutOfDiskError if spilling failed for that, when there is no room within the
        configured time; nothing is left behind then.
        """
        size = value.size
        contained = b"".join([ref.id for ref in value.refs])
        content_hash = b""
        or_file = True
        while True:
            try:
                offset = self._room_for(size, or_file)
                break
            except ObjectStoreFullError as full:
                with self.files.given_back(full):
                    content_hash = content_hash or (value.content_hash() if hashed else b"")
                file = [contained, flags & ~m.SEAL_PINNED, holder, callsite, content_hash]
                began = time.monotonic()
                try:
                    self.files.seal(object_id, value, file, full)
                except (ObjectStoreFullError, OutOfDiskError):
                    if not isinstance(full, RatherAFileError):
                        raise
                    or_file = False
                else:
                    self._written += 1
                    self._files_s += time.monotonic() - began
                    return content_hash, False
        if self._is_crowded and not hashed:
            # The pin would soon be asked for, and this thread is busy with the next copy then, while nothing is written.
            flags &= ~m.SEAL_PINNED
        try:
            content_hash, exact = self._write(value, self.region.window(offset, size), hashed, again)
        except BaseException:
            with self._runtime.lock:
                self._return(self.extents.give_back(offset, size))
            raise
        with self._runtime.lock:
            self._table.to_node(
                [m.SEAL, object_id, offset, size, contained, flags, holder, callsite, content_hash]
            )
            if flags & m.SEAL_PINNED:
                self._unpin(self.pins.pinned(object_id, offset, size, flags))
        return content_hash, exact

    def _write(
        self, value: Serialized, window: np.ndarray[Any, Any], hashed: bool, again: bool
    ) -> tuple[bytes, bool]:
        region = self.region
        if hashed and (again or region.is_mapped(window)):
            region.prepare(window)
            return value.write_hashed(window), True
        if window.size >= COPY_BYTES_MIN and value.is_written_bit_by_bit:
            region.prepare(window)
        value.write_into(window, region.copy)
        return value.content_hash() if hashed else b"", False

    def _room_for(self, size: int, or_file: bool) -> int:
        """The offset of ``size`` leased bytes. Raises ObjectStoreFullError or OutOfDiskError when there is no room in time."""
        try:
            return self._room_at_once(size, or_file)
        except RatherAFileError as error:
            with self.files.given_back(error):
                if error.lent is None:
                    self._cycles.run(_RESTS)
                else:
                    self._cycles.run(_RESTS_WITH_FILES, _YOUNG)
                    self._cycles.run_within(self._files_s * _SHARE_OF_FILES)
            if error.lent is not None or not (released or self.closed_views):
                raise
        except (ObjectStoreFullError, OutOfDiskError):
            self._cycles.run()
            if not (released or self.closed_views):
                raise
        return self._room_at_once(size, or_file)

    def _room_at_once(self, size: int, or_file: bool) -> int:
        runtime = self._runtime
        connection = self._node.connection
        if connection.out_bytes > runtime.config.outbox_bytes_max:
            runtime.wait(Drained(connection, runtime.config.outbox_bytes_max), None)
        if runtime.closed:
            raise runtime.connection_lost()
        with runtime.lock:
            offset = self.extents.carve(size)
            if offset is not None:
                self._ask_ahead()
                return offset
            self.give_back()
            number, answer = self._node.ask()
            ways = m.ALLOC_KEEPS * self._gives_up_nothing() | m.ALLOC_OR_FILE * or_file
            self._table.to_node([m.ALLOC, number, *self.extents.want(size), ways])
        try:
            with waiting_for_room(runtime, f"room for {bytes_text(size)} in the object store") as wait:
                began = time.monotonic()
                wait(answer)
                self._is_crowded = time.monotonic() - began > _CROWDED_S
        except BaseException:
            with runtime.lock:
                if not self._node.forget(number) and answer.message[:1] == [m.EXTENT]:
                    self._return(self.extents.add(*answer.message[2:]))
                elif answer.message[:1] == [m.FILE_LENT]:
                    self.files.give_back(answer.message)
            raise
        message = answer.message
        if not message:
            raise runtime.connection_lost()
        with runtime.lock:
            if message[0] == m.FILE_LENT:
                self.extents.refused()
                raise RatherAFileError(f"no room for {bytes_text(size)} in the object store.", lent=message)
            if message[0] == m.ALLOC_FAILED:
                self.extents.refused()
                if message[2] == "file":
                    raise RatherAFileError(message[3])
                raise _ERRORS.get(message[2], ObjectStoreFullError)(
                    message[3], next_step=_NEXT_STEPS.get(message[2], "")
                )
            self._return(self.extents.add(message[2], message[3]))
            offset = self.extents.carve(size)
            self._ask_ahead()
        if offset is None:  # another thread was faster
            return self._room_at_once(size, or_file)
        return offset

    def _gives_up_nothing(self) -> bool:
        """Whether nothing of what this process refers to can go while the calling thread waits (lock held)."""
        if self._runtime.dispatch.tasks:
            return False  # its arguments go when it is done
        mine = threading.current_thread()
        return all(thread is mine or thread.name in _OWN_THREADS for thread in threading.enumerate())

    def return_idle(self, now: float) -> bool:
        """Nothing was written for a while: room that was leased ahead for large values goes back, later files are unmapped.

        Whether something still waits for its time (lock held).
        """
        if self._written != self._written_seen:
            self._written_seen = self._written
            self._idle_since = now
        elif now - self._idle_since > _IDLE_S:
            self._return(self.extents.idle())
            if now - self._idle_since > _FILES_IDLE_S:
                windows.drop()
        return bool(windows)

    def _ask_ahead(self) -> None:
        self._written += 1
        wanted = self.extents.want_ahead()
        if wanted is not None:
            self._table.to_node([m.ALLOC, _AHEAD, *wanted])

    def extent_granted(self, message: list[Any]) -> None:
        """EXTENT: room was leased."""
        if message[1] == _AHEAD:
            self._return(self.extents.add(message[2], message[3], ahead=True))
        elif message[1] == FOR_PROMOTION:
            self._return(self.promoter.granted(message[2], message[3]))
        elif not self._node.answered(message[1], message):
            self._table.to_node([m.EXTENT_RETURN, message[2], message[3]])

    def extent_refused(self, message: list[Any]) -> None:
        """ALLOC_FAILED: there is no room."""
        if message[1] == _AHEAD:
            self.extents.refused(ahead=True)
        elif message[1] == FOR_PROMOTION:
            if self.promoter.refused():
                self._runtime.promotions_failed(message[3])
        else:
            self._node.answered(message[1], message)

    def return_unused(self) -> None:
        """EXTENT_RECALL: give back unused leased extents, and copies that are only kept in case they are passed again."""
        self._runtime.packer.drop_recent(None)
        self._return(self.extents.unused())

    def _return(self, ranges: list[tuple[int, int]]) -> None:
        for offset, size in ranges:
            self._table.to_node([m.EXTENT_RETURN, offset, size])

    # --- reading ---

    def request(self, entries: list[Entry], priority: int) -> PinWaiter | None:
        """Pin all of ``entries`` for reading (lock held); None if they are, else what to wait for, and to `release`."""
        pins = self.pins
        missing = [entry for entry in entries if pins.lookup(entry.id) is None]
        if not missing:
            return None
        waiter = PinWaiter()
        self._readers.add(waiter)
        for entry in entries:
            if pins.lookup(entry.id) is not None:
                pins.view_opened(entry.id)
                waiter.guarded.append(entry.id)
        asked: list[Any] = []
        for entry in missing:
            waiter.missing += 1
            waiters = self.pin_waiters.get(entry.id)
            if waiters is not None:
                waiters.append(waiter)
                continue
            self.pin_waiters[entry.id] = [waiter]
            self.pin_errors.pop(entry.id, None)
            asked += [entry.id, *self._table.stamp_of(entry)]
        if len(asked) == _PIN_FIELDS:
            self._table.to_node([m.PIN, 0, *asked, priority])
        elif asked:
            self._table.to_node([m.PIN_TOGETHER, asked, priority])
        return waiter

    def release(self, waiter: PinWaiter | None) -> None:
        """The views are open, or will not be; also of what has not come yet."""
        if waiter is None:
            return
        with self._runtime.lock:
            if waiter.missing > 0:
                for waiters in self.pin_waiters.values():
                    while waiter in waiters:
                        waiters.remove(waiter)
            self._readers.discard(waiter)
            self._unpin(self.pins.views_closed(waiter.guarded))
            waiter.guarded = []
            for object_id in waiter.in_files:
                copy = self.file_copies[object_id]
                copy.waiters -= 1
                if not copy.waiters:
                    del self.file_copies[object_id]
                    self._forget_unopened(copy.path, object_id)
            waiter.in_files = []

    def _known_copy(self, object_id: bytes) -> FileCopy | None:
        """What another one is about to take the place of."""
        known = self.file_copies.get(object_id)
        if known is not None:
            self._forget_unopened(known.path, object_id)
        return known

    def _forget_unopened(self, path: str, object_id: bytes) -> None:
        copies = self._unopened.get(path)
        if copies is not None:
            copies.pop(object_id, None)
            if not copies:
                del self._unopened[path]

    def pinned(self, message: list[Any]) -> None:
        """PINNED: an object can be read."""
        self._pinned(*message[2:])

    def pinned_many(self, message: list[Any]) -> None:
        """PINNED_MANY: several can."""
        _, ids, *columns = message
        for object_id, offset, size, flags in zip(split_ids(ids), *columns, strict=True):
            self._pinned(object_id, offset, size, flags)

    def _pinned(self, object_id: bytes, offset: int, size: int, flags: int) -> None:
        waiters = self.pin_waiters.pop(object_id, ())
        # A view for each reader, from now on: a recall may be next in the same batch.
        surplus = self.pins.pinned(object_id, offset, size, flags, len(waiters))
        if surplus:
            self._unpin(surplus)
        entry = self._table.entries.get(object_id)
        if entry is None:
            self._unpin(self.pins.recall([object_id]))
        for waiter in waiters:
            waiter.guarded.append(object_id)
            waiter.one_less()
        if entry is not None:
            self._table.available(object_id, size, None)

    def pinned_in_file(self, message: list[Any]) -> None:
        """PINNED_IN_FILE: an object can be read, though not in the region; by those who have asked."""
        _, _, object_id, path, offset, size, flags, proof, number = message
        use = FileUse(number, self.closed_files)
        waiters = self.pin_waiters.get(object_id, ())
        if waiters:
            known = self._known_copy(object_id)
            small = size <= self._small_max
            copy = self.file_copies[object_id] = FileCopy(path, offset, size, flags, proof, small, use)
            copy.waiters = len(waiters) + (known.waiters if known is not None else 0)
            if small:
                self._unopened.setdefault(path, {})[object_id] = copy
        for waiter in waiters:
            waiter.in_files.append(object_id)
        self._tell(object_id)
        if object_id in self._table.entries:
            self._table.available(object_id, size, None)

    def pin_failed(self, message: list[Any]) -> None:
        """PIN_FAILED: nobody will ever be able to read it."""
        _, _, object_id, kind, text = message
        self.pin_errors[object_id] = (kind, text)
        self._tell(object_id)

    def _tell(self, object_id: bytes) -> None:
        for waiter in self.pin_waiters.pop(object_id, ()):
            waiter.one_less()

    def view(self, object_id: bytes) -> tuple[np.ndarray[Any, Any], int] | None:
        """(read-only bytes, flags) of a pinned object, pinned while any part of the view lives; None if not pinned."""
        with self._runtime.lock:
            pin = self.pins.lookup(object_id)
            if self.region.mapping is None:
                return None
            if pin is not None:
                self.pins.view_opened(object_id)
        if pin is None:
            return self._view_of_file(object_id)
        return self._make_view(self.region, pin.offset, pin.size, object_id, self.closed_views), pin.flags

    def _view_of_file(self, object_id: bytes) -> tuple[np.ndarray[Any, Any], int] | None:
        """The same of an object that is read where it was spilled; None also if it has to be asked for again.

        A file that gives nothing is an error of this read. Of one that is damaged or gone the daemon is told: it knows whether
        the object was copied to another, or has it brought from elsewhere, or made again, or says that it is lost.
        """
        copy = self.file_copies.get(object_id)
        if copy is None or copy.is_damaged:
            return None
        patience_s = self._runtime.config.spill_read_ms_max / 1000
        try:
            opened = copy.mapping is not None or self._open(copy, patience_s)
        except (OSError, ValueError) as error:
            if is_own_limit(error):
                why = f"there is no room for object {object_id.hex()}, and this process cannot open its file: {error}"
                self.pin_errors[object_id] = ("full", why)
                return None
            copy.is_damaged = True
            why = f"{copy.path}: {error.strerror}" if isinstance(error, OSError) else str(error)
            with self._runtime.lock:
                self._table.to_node([m.FILE_DAMAGED, object_id, copy.path, why])
            return None
        if not opened:
            raise OutOfDiskError(
                f"object {object_id.hex()} lies in {copy.path}, which has given nothing for {patience_s:g} s "
                "(does its file system hang?)",
                next_step="get it again when the directory answers: nothing is lost",
            )
        return self._make_view(copy, copy.offset, copy.size, object_id, _UNCOUNTED), copy.flags

    def _open(self, copy: FileCopy, patience_s: float) -> bool:
        with self._runtime.lock:
            others = list(self._unopened.pop(copy.path, {}).values())
        with waiting_for_room(self._runtime, f"{bytes_text(copy.size)} to be read from {copy.path}"):
            return copy.open(patience_s, others)

    def _make_first_view(self, *args: Any) -> np.ndarray[Any, Any]:
        from shoal.store.views import make_view  # loads numpy

        self._make_view = make_view
        return make_view(*args)

    def close(self) -> None:
        """Unmap what can be unmapped."""
        self.region.close()
        windows.drop()

    # --- giving back (lock held) ---

    def give_back(self) -> None:
        """Tell the daemon of every ref and view that has died by now."""
        self.drain()
        self._table.drain_released()
        self.release_freed()

    def drain(self) -> None:
        """Count views that died since the last call; unpin what was recalled."""
        closed = self.closed_views
        if closed:
            ids: list[bytes] = []
            with contextlib.suppress(IndexError):  # a finalizer that ran in between has drained the rest
                ids.extend(closed.popleft() for _ in range(len(closed)))
            self._unpin(self.pins.views_closed(ids))
        if self.closed_files:
            numbers: Counter[int] = Counter()
            with contextlib.suppress(IndexError):
                numbers.update(self.closed_files.popleft() for _ in range(len(self.closed_files)))
            for number, times in numbers.items():
                self._table.to_node([m.FILE_RETURN, number, times])

    def release_freed(self) -> None:
        """Unpin objects that this process has no more use for."""
        freed = self._table.freed
        if freed:
            self._table.freed = []
            self._unpin(self.pins.recall(freed))

    def recalled(self, object_ids: list[bytes]) -> None:
        """UNPIN_RECALL: unpin as soon as no view lives."""
        self.drain()
        given_back = self.pins.recall(object_ids)
        if len(given_back) < len(object_ids) and self._readers:
            given_back += self._keep_copies(object_ids)
        self._unpin(given_back)
        if len(given_back) < len(object_ids):
            self._runtime.garbage_suspected = (
                True  # what still looks at them may be cycles that nobody has collected
            )

    def _keep_copies(self, object_ids: list[bytes]) -> list[bytes]:
        """Copy small objects that are only pinned for reads which wait for more: that may need the room. Returns ids to UNPIN.

        A hundred thousand small values are read together through a store that has room for a part of them.
        """
        pins, mapping = self.pins, self.region.mapping
        found = {object_id: pins.lookup(object_id) for object_id in object_ids}
        small = {each: pin for each, pin in found.items() if pin is not None and pin.size <= self._small_max}
        if not small or mapping is None:
            return []
        guards: Counter[bytes] = Counter()
        for waiter in self._readers:
            guards.update(object_id for object_id in waiter.guarded if object_id in small)
        kept = {object_id for object_id, count in guards.items() if count == small[object_id].views}
        for object_id in kept:
            pin = small[object_id]
            copy = FileCopy.of(mapping[pin.offset : pin.offset + pin.size], pin.flags)
            known = self._known_copy(object_id)
            copy.waiters = guards[object_id] + (known.waiters if known is not None else 0)
            self.file_copies[object_id] = copy
        given_back: list[bytes] = []
        for waiter in self._readers if kept else ():
            moved = [object_id for object_id in waiter.guarded if object_id in kept]
            waiter.in_files += moved
            waiter.guarded = [object_id for object_id in waiter.guarded if object_id not in kept]
            given_back += pins.views_closed(moved)
        return given_back

    def _unpin(self, object_ids: list[bytes]) -> None:
        for start in range(0, len(object_ids), MESSAGE_IDS_MAX):
            self._table.to_node([m.UNPIN, b"".join(object_ids[start : start + MESSAGE_IDS_MAX])])

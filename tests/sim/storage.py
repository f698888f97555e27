"""A simulated process's side of its node's store: `ClientStore` without threads and bytes.

What is written takes leased room, or a file if there is none; what is read is pinned, together with what is read with it, or
read where it was spilled. Pins stay cached until they are recalled. Whoever writes or reads is called when that is done, with
an error if it failed. Readers see whether they were given the bytes that they wanted.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tests.unit.store.fakedisk import checksum_of, fits, time_proof

from shoal.ids import split_ids
from shoal.store.extents import ExtentLeases
from shoal.store.pins import PinTable
from shoal.wire import messages as m

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from tests.sim.workers import Process

    from shoal.owner.objects import Stamp

_AHEAD = 0
_IDLE_S = 0.5


class Writing:
    """A value on its way into the store; ``or_file``: rather into a file than to wait for long."""

    __slots__ = ("contained", "flags", "full", "holder", "id", "or_file", "size", "then")

    def __init__(
        self,
        object_id: bytes,
        size: int,
        flags: int,
        holder: bytes,
        then: Callable[[str], None],
        contained: tuple[bytes, ...],
    ) -> None:
        self.id = object_id
        self.contained = contained
        self.size = size
        self.flags = flags
        self.holder = holder
        self.then = then
        self.full = ""
        self.or_file = True

    @property
    def token(self) -> Any:
        """What its bytes are in the simulated region: two runs of a task may have made values with different refs."""
        return (self.id, *self.contained) if self.contained else self.id


class Reading:
    """Objects that are read together.

    Attributes:
        missing: how many are not there yet; guarded: those that are pinned for this.
        error: why it failed, if it did.
        inner: what is contained in the copies that are read.
    """

    __slots__ = ("error", "guarded", "inner", "missing", "then")

    def __init__(self, then: Callable[[Reading], None]) -> None:
        self.then = then
        self.missing = 0
        self.guarded: list[bytes] = []
        self.inner: list[bytes] = []
        self.error = ""


class Storage:
    """Reads and writes of one process."""

    def __init__(self, process: Process) -> None:
        config = process.config
        self._process = process
        self._table = process.table
        self.pins = PinTable(config.cached_pins_max)
        self.extents = ExtentLeases(config.slab_bytes_min, config.slab_bytes_max, config.slabs_max)
        self._writings: dict[int, Writing] = {}
        self._readings: dict[bytes, list[Reading]] = {}
        self._inner: dict[bytes, tuple[bytes, ...]] = {}  # of what is pinned
        self._again: set[bytes] = set()  # their file had gone when it was to be read
        self._requests = 0
        self._written_at = 0.0
        self._idle_due = False

    # --- writing ---

    def write(
        self,
        object_id: bytes,
        size: int,
        flags: int,
        holder: bytes,
        then: Callable[[str], None],
        contained: tuple[bytes, ...] = (),
    ) -> None:
        """Seal an object for ``holder``; ``then`` is called with "" when the seal is queued, or else with what happened."""
        self._write(Writing(object_id, size, flags, holder, then, contained))

    def _write(self, writing: Writing) -> None:
        offset = self.extents.carve(writing.size)
        if offset is None:
            ways = m.ALLOC_OR_FILE if writing.or_file else 0
            self._ask(writing, m.ALLOC, *self.extents.want(writing.size), ways)
            return
        self._written_at = self._process.now
        self._look_for_idle()
        wanted = self.extents.want_ahead()
        if wanted is not None:
            self._table.to_node([m.ALLOC, _AHEAD, *wanted])
        region = self._process.daemon.region
        if region is not None:
            region.put(offset, writing.size, writing.token)
        place = [writing.id, offset, writing.size]
        inner = b"".join(writing.contained)
        self._table.to_node([m.SEAL, *place, inner, writing.flags, writing.holder, "sim", b""])
        writing.then("")

    def _ask(self, writing: Writing, tag: int, *sizes: int) -> None:
        self._requests += 1
        self._writings[self._requests] = writing
        self._table.to_node([tag, self._requests, *sizes])

    def _look_for_idle(self) -> None:
        if not self._idle_due:
            self._idle_due = True
            self._process.cluster.clock.at(_IDLE_S, self._idle)

    def _idle(self) -> None:
        self._idle_due = False
        if self._process.alive:
            if self._process.now - self._written_at < _IDLE_S * 0.99:
                self._look_for_idle()
            else:
                self._return(self.extents.idle())
                self._process.flush()

    def _granted(self, message: list[Any]) -> None:
        _, req, offset, size = message
        if req == _AHEAD:
            self._return(self.extents.add(offset, size, ahead=True))
            return
        writing = self._writings.pop(req)
        self._return(self.extents.add(offset, size))
        self._write(writing)

    def _refused(self, message: list[Any]) -> None:
        _, req, kind, text = message
        if req == _AHEAD:
            self.extents.refused(ahead=True)
            return
        writing = self._writings.pop(req)
        if writing.full:
            self._not_written(writing, f"{'disk' if kind == 'disk' else 'full'}: {writing.full} {text}")
            return
        self.extents.refused()
        writing.full = text
        writing.or_file = kind == "file"
        self._ask(writing, m.ALLOC_FILE, writing.size)

    def _not_written(self, writing: Writing, why: str) -> None:
        """There is no file either; who did not wait for long does that now."""
        if writing.or_file:
            writing.or_file, writing.full = False, ""
            self._write(writing)
        else:
            writing.then(why)

    def _lent(self, message: list[Any]) -> None:
        _, req, number, _ = message
        writing = self._writings.pop(req)
        if not writing.full:
            self.extents.refused()
        disk = self._process.daemon.disk
        if disk.fails_writes or disk.is_full(0):
            self._table.to_node([m.FILE_RETURN, number])
            self._not_written(writing, f"disk: {writing.full}")
            return
        disk.files[number] = {0: writing.token}
        inner = b"".join(writing.contained)
        rest = [writing.id, writing.size, inner, writing.flags, writing.holder, "sim", b""]
        # One that is not summed yet, every other time.
        proof = time_proof(disk.changes[number]) if writing.id[-1] & 1 else checksum_of(writing.token)
        self._table.to_node([m.SEAL_IN_FILE, number, proof, *rest])
        writing.then("")

    def _return(self, ranges: list[tuple[int, int]]) -> None:
        for offset, size in ranges:
            self._table.to_node([m.EXTENT_RETURN, offset, size])

    # --- reading ---

    def read(
        self, wanted: Iterable[tuple[bytes, Stamp]], priority: int, then: Callable[[Reading], None]
    ) -> Reading:
        """Pin these; what is returned is given to ``then`` when all are there, or failed, and must be closed."""
        pins = self.pins
        reading = Reading(then)
        asked: list[Any] = []
        for object_id, stamp in dict(wanted).items():
            if pins.lookup(object_id) is not None:
                pins.view_opened(object_id)
                reading.guarded.append(object_id)
                reading.inner += self._inner.get(object_id, ())
                continue
            reading.missing += 1
            others = self._readings.setdefault(object_id, [])
            others.append(reading)
            if len(others) == 1:
                asked += [object_id, *stamp]
        if len(asked) == 3:
            self._table.to_node([m.PIN, 0, *asked, priority])
        elif asked:
            self._table.to_node([m.PIN_TOGETHER, asked, priority])
        if not reading.missing:
            then(reading)
        return reading

    def close(self, reading: Reading) -> None:
        """Nobody looks at these any more."""
        self.unpin(self.pins.views_closed(reading.guarded))
        reading.guarded = []

    def unpin(self, ids: list[bytes]) -> None:
        if ids:
            self._table.to_node([m.UNPIN, b"".join(ids)])

    def _pinned(self, message: list[Any]) -> None:
        _, _, object_id, offset, size, flags = message
        process = self._process
        region = process.daemon.region
        if region is not None:
            found, *inner = _parts(region.get(offset))
            assert found == object_id, f"{process} reads {found} instead of {object_id.hex()}"
            self._inner[object_id] = tuple(inner)
        waiting = self._readings.get(object_id, ())
        self.unpin(self.pins.pinned(object_id, offset, size, flags, len(waiting)))
        for reading in waiting:
            reading.guarded.append(object_id)
            reading.inner += self._inner.get(object_id, ())
            if flags & m.SEAL_ERROR:
                reading.error = "dependent: an argument has failed"
        self._tell(object_id)

    def _pinned_in_file(self, message: list[Any]) -> None:
        _, _, object_id, path, offset, _, flags, proof, number = message
        self._table.to_node([m.FILE_RETURN, number, 1])  # what is read is not looked at any longer
        disk = self._process.daemon.disk
        content = disk.files.get(int(path))
        if content is None and object_id not in self._again:
            self._again.add(object_id)
            self._table.to_node([m.PIN, 0, object_id, *self._table.stamp_now(), m.PRIORITY_GET])
            return
        self._again.discard(object_id)
        if content is None or not fits(proof, content.get(offset), disk.changes[int(path)]):
            assert content is None or object_id in self._process.cluster.damaged, object_id.hex()
            self._table.to_node([m.FILE_DAMAGED, object_id, path, "its checksum is not what it was"])
            self._table.to_node([m.PIN, 0, object_id, *self._table.stamp_now(), m.PRIORITY_GET])
            return
        found, *inner = _parts(content[offset])
        assert found == object_id, "another object's bytes"
        for reading in self._readings.get(object_id, ()):
            reading.inner += inner
            if flags & m.SEAL_ERROR:
                reading.error = "dependent: an argument has failed"
        self._tell(object_id)

    def _failed(self, message: list[Any]) -> None:
        _, _, object_id, kind, text = message
        self._process.cluster.cannot_be_read(object_id, kind, text)
        for reading in self._readings.get(object_id, ()):
            reading.error = f"{kind}: {text}"
        self._tell(object_id)

    def _tell(self, object_id: bytes) -> None:
        for reading in self._readings.pop(object_id, ()):
            reading.missing -= 1
            if not reading.missing:
                reading.then(reading)

    def hears(self, message: list[Any]) -> bool:
        """A message of the daemon; whether it was for this."""
        tag = message[0]
        if tag == m.EXTENT:
            self._granted(message)
        elif tag == m.ALLOC_FAILED:
            self._refused(message)
        elif tag == m.FILE_LENT:
            self._lent(message)
        elif tag == m.EXTENT_RECALL:
            self._return(self.extents.unused())
        elif tag == m.UNPIN_RECALL:
            ids = message[1]
            self.unpin(self.pins.recall([ids[at : at + 16] for at in range(0, len(ids), 16)]))
        elif tag == m.PINNED:
            self._pinned(message)
        elif tag == m.PINNED_MANY:
            for object_id, *where in zip(split_ids(message[1]), *message[2:], strict=True):
                self._pinned([m.PINNED, 0, object_id, *where])
        elif tag == m.PINNED_IN_FILE:
            self._pinned_in_file(message)
        elif tag == m.PIN_FAILED:
            self._failed(message)
        else:
            return False
        return True


def _parts(token: Any) -> tuple[Any, ...]:
    """Of what a token says: the object, and what it contains."""
    return token if type(token) is tuple else (token,)

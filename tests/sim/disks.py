"""A disk for simulations: what a node's spilled objects lie on, and everything that can be wrong with it.

It carries out the effects of `Spills` as `Spiller`'s threads do: some at a time, each after some time. Files are tokens that say
what was written (see `FakeRegion`), so damage shows by the checksum, and another object's bytes show at the reader.

Faults: slow, full, failing (every write, or also every read, is an error), hanging for a while, and files that have something
else in them. What may be lost by that is known (`Cluster.damaged`).
"""

from __future__ import annotations

from collections import Counter, deque
from typing import TYPE_CHECKING, Any

from tests.unit.store.fakedisk import checksum_of, fits, rewritten, rounded

from shoald.store.spilleffects import Effect, Lend, Read, Remove, Rewrite, Sum, Write

if TYPE_CHECKING:
    from tests.sim.daemons import Daemon

_BYTES_PER_S = 500e6
_LATENCY_S = 0.0005
UNLIMITED = 1 << 60


class Disk:
    """The spill files of one node.

    Attributes:
        files: number → token by offset; `sizes`: bytes.
        changes: number → how often it was damaged.
        room_bytes: how much all files may have.
        slowness: by which everything takes longer.
        fails_writes, fails_reads: every one of them is an error.
        hangs_until: nothing ends before this time.
        restored: object id → how often it was read back.
        troubled: something was wrong at some time.
    """

    def __init__(self, daemon: Daemon) -> None:
        self._daemon = daemon
        self._spills = spills = daemon.store.spills
        self.files: dict[int, dict[int, Any]] = {}
        self.sizes: dict[int, int] = {}
        self.changes: Counter[int] = Counter()
        self.room_bytes = UNLIMITED
        self.slowness = 1.0
        self.fails_writes = self.fails_reads = False
        self.hangs_until = 0.0
        self.restored: Counter[bytes] = Counter()
        self.troubled = False
        config = daemon.config
        self._lanes = {False: _Lane(config.spill_writes_max), True: _Lane(config.spill_reads_max)}
        spills.locate = lambda _directory, file: str(file)

    def __repr__(self) -> str:
        return f"<disk of {self._daemon}>"

    def turn(self) -> None:
        """Take the core's effects (Spiller.turn)."""
        for reading in self._spills.reading.values():
            if reading.is_given_up and reading.obj is not None:
                self._daemon.cluster.damaged.add(reading.obj.id)
        effects = self._spills.outbox
        if not effects:
            return
        self._spills.outbox = []
        for effect in effects:
            self._lanes[isinstance(effect, Read | Sum)].waiting.append(effect)
        for lane in self._lanes.values():
            self._start(lane)

    def _start(self, lane: _Lane) -> None:
        while lane.waiting and lane.busy < lane.most:
            lane.busy += 1
            effect = lane.waiting.popleft()
            wait_s = (_LATENCY_S + _bytes_of(effect) / _BYTES_PER_S) * self.slowness
            self._daemon.network.clock.at(wait_s, lambda effect=effect: self._end(lane, effect))

    def _end(self, lane: _Lane, effect: Effect) -> None:
        daemon = self._daemon
        if not daemon.alive:
            return
        if daemon.now < self.hangs_until:
            daemon.network.clock.at(self.hangs_until - daemon.now, lambda: self._end(lane, effect))
            return
        lane.busy -= 1
        self._carry_out(effect)
        daemon.turn()
        self._start(lane)

    def _carry_out(self, effect: Effect) -> None:
        spills = self._spills
        if isinstance(effect, Remove):
            self.files.pop(effect.file, None)
            self.sizes.pop(effect.file, None)
        elif isinstance(effect, Read):
            self._read(effect)
        elif isinstance(effect, Sum):
            self._sum(effect)
        elif self.fails_writes:
            spills.write_failed(effect.file, False, "the disk is broken", self._daemon.now)
        elif self.is_full(_bytes_of(effect)):
            spills.write_failed(effect.file, True, "the disk is full", self._daemon.now)
        else:
            over = effect.over if isinstance(effect, Write | Lend) else 0
            if over:
                self.files.pop(over, None)
                self.sizes.pop(over, None)
            self.sizes[effect.file] = _bytes_of(effect)
            if isinstance(effect, Lend):
                self.files[effect.file] = {}
                spills.made(effect.file, effect.directory)
            elif isinstance(effect, Write):
                self._write(effect)
            else:
                self._rewrite(effect)

    def is_full(self, more: int) -> bool:
        """Whether ``more`` bytes do not fit any more."""
        return sum(self.sizes.values()) + more > self.room_bytes

    def _write(self, effect: Write) -> None:
        region = self._daemon.region
        assert region is not None
        content: dict[int, Any] = {}
        at = 0
        for offset, size in effect.parts:
            content[at] = region.get(offset)
            at += rounded(size)
        self.files[effect.file] = content
        self._spills.wrote(effect.file, [checksum_of(token) for token in content.values()], 1.0, True)

    def _read(self, effect: Read) -> None:
        region, obj = self._daemon.region, self._spills.reading[effect.transfer].obj
        assert region is not None
        token = self.files[effect.file].get(effect.offset)
        region.put(effect.target, effect.size, token)
        if self.fails_reads:
            if obj is not None:
                self._daemon.cluster.damaged.add(obj.id)
            self._spills.read_failed(effect.transfer, "it cannot be read: the disk is broken")
        elif not fits(effect.proof, token, self.changes[effect.file]):
            self._spills.read_failed(effect.transfer, "its checksum is not what it was")
        else:
            if obj is not None:
                self.restored[obj.id] += 1
            self._spills.read_done(effect.transfer, 1.0)

    def _sum(self, effect: Sum) -> None:
        if self.fails_reads:
            self._spills.sum_failed(effect.file, self._daemon.now)
            return
        token = self.files[effect.file][0]
        is_same = fits(effect.proof, token, self.changes[effect.file])
        self._spills.summed(effect.file, checksum_of(token) if is_same else None)

    def _rewrite(self, effect: Rewrite) -> None:
        self.files[effect.file], intact = rewritten(self.files[effect.source], effect)
        self._spills.rewrote(effect.file, intact)

    # --- faults ---

    def damage(self, file: int) -> None:
        """What is in a file is something else now."""
        self.troubled = True
        self.changes[file] += 1
        content = self.files[file]
        for token in content.values():
            self._daemon.cluster.damaged.add(token[0] if type(token) is tuple else token)
        self.files[file] = {at: ("damaged", token) for at, token in content.items()}

    def heal(self) -> None:
        """Nothing is wrong any more, but for what is damaged."""
        self.room_bytes = UNLIMITED
        self.slowness = 1.0
        self.fails_writes = self.fails_reads = False
        self.hangs_until = 0.0


class _Lane:
    """Effects that wait for each other."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.busy = 0
        self.waiting: deque[Effect] = deque()


def _bytes_of(effect: Effect) -> int:
    if isinstance(effect, Remove):
        return 0
    if isinstance(effect, Read | Sum | Lend):
        return rounded(effect.size)
    return sum(rounded(part[1]) for part in effect.parts)

"""A region and spill files of tokens instead of bytes: what is where, and who was given something else's place."""

from __future__ import annotations

from collections import Counter
from typing import Any

from shoald.store.spilleffects import Effect, Lend, Read, Remove, Rewrite, Sum, Write
from shoald.store.spills import Spills


def checksum_of(token: Any) -> int:
    """A checksum as the shell's: never negative."""
    return hash(token) & 2**64 - 1


def time_proof(changes: int) -> int:
    """The proof of a file by its time, which is known by how often somebody has changed it."""
    return -1 - changes


def fits(proof: int, token: Any, changes: int) -> bool:
    """As the shell's (`shoal.store.proofs`)."""
    return (checksum_of(token) if proof >= 0 else time_proof(changes)) == proof


def rounded(size: int) -> int:
    """What an object takes of a file, bytes."""
    return -(-size // 64) * 64 or 64


def rewritten(source: dict[int, Any], effect: Rewrite) -> tuple[dict[int, Any], list[bool]]:
    """The content of the new file, from that of the old one, and which objects are intact in it."""
    content: dict[int, Any] = {}
    intact = []
    at = 0
    for offset, size, checksum in effect.parts:
        content[at] = source.get(offset)
        intact.append(checksum_of(content[at]) == checksum)
        at += rounded(size)
    return content, intact


class FakeRegion:
    """Which object's bytes lie at which offset. Memory that is leased anew is scribbled over."""

    def __init__(self) -> None:
        self._tokens: dict[int, tuple[int, Any]] = {}

    def put(self, offset: int, size: int, token: Any) -> None:
        self.scribble(offset, size)
        self._tokens[offset] = size, token

    def scribble(self, offset: int, size: int) -> None:
        for start, (length, _) in list(self._tokens.items()):
            if start < offset + size and offset < start + length:
                del self._tokens[start]

    def get(self, offset: int) -> Any:
        return self._tokens.get(offset, (0, None))[1]


class FakeDisk:
    """Carries out effects one by one, when the test says so, well or with a fault."""

    def __init__(self, spills: Spills, region: FakeRegion) -> None:
        self._spills = spills
        self._region = region
        self.pending: list[Effect] = []
        self.files: dict[int, dict[int, Any]] = {}
        self.changes: Counter[int] = Counter()  # file → how often it was damaged

    def take(self) -> None:
        """Fetch the core's effects; what needs no answer is done at once."""
        effects, self._spills.outbox = self._spills.outbox, []
        for effect in effects:
            if isinstance(effect, Remove):
                self.files.pop(effect.file, None)
            else:
                self.pending.append(effect)

    def step(self, index: int, fault: str, now: float) -> None:
        """Carry out one pending effect; ``fault``: "", "full" or "error"."""
        effect = self.pending.pop(index)
        if isinstance(effect, Read):
            self._read(effect, fault)
        elif isinstance(effect, Sum):
            self._sum(effect, fault, now)
        elif isinstance(effect, Lend) and not fault:
            self.files[effect.file] = self.files.pop(effect.over, {})
            self._spills.made(effect.file, effect.directory)
        elif fault:
            if isinstance(effect, Write | Lend) and effect.over:  # it has come to have the new name
                self.files[effect.file] = self.files.pop(effect.over)
            self._spills.write_failed(effect.file, fault == "full", "the disk is broken", now)
        elif isinstance(effect, Write):
            self._write(effect)
        else:
            self._rewrite(effect)
        self.take()

    def damage(self, file: int) -> None:
        """What is in a file is something else now."""
        self.changes[file] += 1
        self.files[file] = dict.fromkeys(self.files[file], "damaged")

    def _write(self, effect: Write) -> None:
        if effect.over:
            del self.files[effect.over]
        content: dict[int, Any] = {}
        at = 0
        for offset, size in effect.parts:
            content[at] = self._region.get(offset)
            at += rounded(size)
        self.files[effect.file] = content
        self._spills.wrote(effect.file, [checksum_of(token) for token in content.values()], 1.0, True)

    def _read(self, effect: Read, fault: str) -> None:
        token = self.files[effect.file].get(effect.offset)
        self._region.put(effect.target, effect.size, token)
        if fault or not fits(effect.proof, token, self.changes[effect.file]):
            self._spills.read_failed(effect.transfer, "the file is damaged")
        else:
            self._spills.read_done(effect.transfer, 1.0)

    def _sum(self, effect: Sum, fault: str, now: float) -> None:
        if fault:
            self._spills.sum_failed(effect.file, now)
            return
        token = self.files[effect.file][0]
        is_same = fits(effect.proof, token, self.changes[effect.file])
        self._spills.summed(effect.file, checksum_of(token) if is_same else None)

    def _rewrite(self, effect: Rewrite) -> None:
        self.files[effect.file], intact = rewritten(self.files[effect.source], effect)
        self._spills.rewrote(effect.file, intact)

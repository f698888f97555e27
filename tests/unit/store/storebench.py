"""A store core with clients that are easy to speak for."""

from __future__ import annotations

import itertools
from typing import Any

from shoal.config import Config
from shoal.wire import messages as m
from shoald.store.core import StoreCore

A, B, C = b"A" * 8, b"B" * 8, b"C" * 8
X, Y, Z = b"X" * 16, b"Y" * 16, b"Z" * 16
HASH = b"#" * 16
NOBODY = bytes(8)


class Bench:
    """Sends and collects; validates the core after every step."""

    def __init__(self, capacity: int = 1024 * 1024, **settings: Any) -> None:
        self.core = StoreCore(capacity, Config(**settings))
        self.now = 0.0
        self._req = itertools.count(1)
        for number, proc in enumerate((A, B, C)):
            self.core.register(proc, {"pid": 100 + number, "kind": "worker", "job_id": "j1"})

    def send(self, proc: bytes, *message: Any) -> list[tuple[bytes, list[Any]]]:
        self.core.handle(proc, list(message), self.now)
        self.core.relieve(self.now)
        return self.take()

    def take(self) -> list[tuple[bytes, list[Any]]]:
        self.core.validate()
        sent = list(self.core.outbox)
        self.core.outbox.clear()
        return sent

    def drop(self, proc: bytes) -> list[tuple[bytes, list[Any]]]:
        self.core.drop(proc, self.now)
        self.core.relieve(self.now)
        return self.take()

    def advanced(self, proc: bytes, number: int) -> list[tuple[bytes, list[Any]]]:
        self.core.advanced(proc, number, self.now)
        return self.take()

    def lease(self, proc: bytes, size: int) -> int:
        """The offset of a new extent of exactly ``size`` bytes."""
        ((to, message),) = self.send(proc, m.ALLOC, next(self._req), size, size)
        assert to == proc
        assert message[0] == m.EXTENT
        assert message[3] == size
        return int(message[2])

    def seal(
        self,
        proc: bytes,
        object_id: bytes,
        size: int = 1000,
        *,
        holder: bytes | None = None,
        contained: bytes = b"",
        flags: int = m.SEAL_PRIMARY,
        content: bytes = b"",
    ) -> list[tuple[bytes, list[Any]]]:
        offset = self.lease(proc, -(-size // 64) * 64 or 64)
        return self.send(
            proc, m.SEAL, object_id, offset, size, contained, flags, holder or proc, "script.py:7", content
        )

    def pin(self, proc: bytes, object_id: bytes, stamp: bytes = NOBODY, number: int = 0) -> Any:
        return self.send(proc, m.PIN, next(self._req), object_id, stamp, number, 0)

    @property
    def ids(self) -> set[bytes]:
        return {bytes.fromhex(row["id"]) for row in self.core.rows(self.now) if row["state"] != "duplicate"}

    @property
    def used(self) -> int:
        return int(self.core.stats()["used"])

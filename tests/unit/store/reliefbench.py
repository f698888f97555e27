"""A store core that spills, and whose effects the test carries out."""

from __future__ import annotations

from typing import Any

from shoal.config import Config
from shoal.wire import messages as m
from shoald.store.core import StoreCore
from shoald.store.spilleffects import Write
from unit.store.storebench import A, B, Bench, C

KIB = 1024
MIB = 1024 * KIB
SPILLING = {"spill_batch_bytes_min": 1, "spill_threshold": 1.0, "store_full_wait_ms": 1000}


def bench_of(capacity: int = 64 * KIB, **settings: Any) -> Bench:
    bench = Bench(capacity, **{**SPILLING, **settings})
    bench.core = StoreCore(capacity, Config(**{**SPILLING, **settings}), directories=2)
    for number, proc in enumerate((A, B, C)):
        bench.core.register(proc, {"pid": 100 + number, "kind": "worker", "job_id": "j1"})
    return bench


def writes(bench: Bench) -> list[Write]:
    return [effect for effect in take(bench) if isinstance(effect, Write)]


def take(bench: Bench) -> list[Any]:
    effects = list(bench.core.spills.outbox)
    bench.core.spills.outbox.clear()
    return effects


def written(bench: Bench) -> list[tuple[bytes, list[Any]]]:
    """Every write under way succeeds; what is said then."""
    for effect in writes(bench):
        bench.core.spills.wrote(effect.file, [1] * len(effect.parts), 1.0)
    return later(bench, 0.0)


def put_waiting(bench: Bench, object_id: bytes, size: int) -> None:
    """Have A seal an object, also when there is no room: whatever is written for it succeeds."""
    bench.now += 0.01
    said = bench.send(A, m.ALLOC, 77, size, 0)
    while not said:
        said = written(bench)
    ((_, (kind, _, offset, _)),) = said
    assert kind == m.EXTENT
    bench.send(A, m.SEAL, object_id, offset, size, b"", m.SEAL_PRIMARY, A, "", b"")


def later(bench: Bench, seconds: float) -> list[tuple[bytes, list[Any]]]:
    bench.now += seconds
    bench.core.relieve(bench.now)
    return bench.take()


def kinds(said: list[tuple[bytes, list[Any]]]) -> list[int]:
    return [message[0] for _, message in said]


def state(bench: Bench, object_id: bytes) -> str:
    return next(str(row["state"]) for row in bench.core.rows(0.0) if row["id"] == object_id.hex())

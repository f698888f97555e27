"""The ranking of many workers: always the one that looking at all of them would find."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from shoal.config import Config
from shoal.owner.leases import RANKED_MIN, Lease, ShapeQueue


def queue_of(count: int) -> ShapeQueue:
    queue = ShapeQueue(1, "key", {}, Config(), lambda _queue: None)
    for number in range(count):
        queue.joined(Lease(number, b"", 1, queue, None))
    return queue


def task_of(mean_us: float | None) -> Any:
    return SimpleNamespace(
        function=SimpleNamespace(mean_us=mean_us), stream=None, options=SimpleNamespace(max_calls=0)
    )


def by_looking_at_all(queue: ShapeQueue, below: int) -> Lease | None:
    """The rule itself: of those that may get tasks, the first of those with the fewest, if its window has room."""
    able = [lease for lease in queue.leases if lease.usable() and len(lease.inflight) < below]
    return min(able, key=lambda lease: len(lease.inflight), default=None)


class Workers(RuleBasedStateMachine):
    """Whatever happens to leases."""

    def __init__(self) -> None:
        super().__init__()
        self.queue = queue_of(RANKED_MIN - 2)
        self.number = 1000

    def lease(self, place: int) -> Lease | None:
        return self.queue.leases[place % len(self.queue.leases)] if self.queue.leases else None

    @rule(mean_us=st.sampled_from([None, 0.5, 1000.0, 2500.0, 1e6]), count=st.integers(1, 40))
    def send(self, mean_us: float | None, count: int) -> None:
        task = task_of(mean_us)
        for _ in range(count):
            chosen = self.queue.choose(task)
            assert chosen is by_looking_at_all(self.queue, self.queue.window(task))
            if chosen is None:
                return
            self.number += 1
            chosen.inflight[self.number.to_bytes(4, "big")] = task

    @rule(place=st.integers(0, 99), count=st.integers(1, 8))
    def answer(self, place: int, count: int) -> None:
        lease = self.lease(place)
        if lease is not None:
            for task_id in list(lease.inflight)[:count]:
                lease.stalled = False
                assert lease.take(task_id) is not None

    @rule(place=st.integers(0, 99), back=st.integers(0, 8))
    def stall(self, place: int, back: int) -> None:
        lease = self.lease(place)
        if lease is not None:
            lease.stalled = True
            for task_id in list(lease.inflight)[1 : 1 + back]:
                lease.take(task_id)

    @rule(place=st.integers(0, 99))
    def hold_back(self, place: int) -> None:
        lease = self.lease(place)
        if lease is not None:
            lease.held_back = True

    @rule()
    def go_on(self) -> None:
        for lease in self.queue.leases:
            lease.held_back = False
        self.queue.go_on()

    @rule(place=st.integers(0, 99), how=st.sampled_from(["recalled", "broken", "used_up"]))
    def lose(self, place: int, how: str) -> None:
        lease = self.lease(place)
        if lease is not None:
            setattr(lease, how, True)

    @rule(count=st.integers(1, 5))
    def join(self, count: int) -> None:
        for _ in range(count):
            self.number += 1
            self.queue.joined(Lease(self.number, b"", 1, self.queue, None))

    @rule(place=st.integers(0, 99))
    def leave(self, place: int) -> None:
        lease = self.lease(place)
        if lease is not None:
            self.queue.left(lease)
            assert lease.take(b"its tasks are cleared later") is None

    @invariant()
    def agrees(self) -> None:
        self.queue.validate()
        for below, mean_us in ((1, None), (512, 0.5)):
            assert self.queue.choose(task_of(mean_us)) is by_looking_at_all(self.queue, below)


Workers.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestWorkers = Workers.TestCase


def test_entries_that_are_old_do_not_pile_up() -> None:
    queue = queue_of(RANKED_MIN)
    task = task_of(1000.0)  # five at a time
    for number in range(5000):
        lease = queue.choose(task)
        if lease is None:
            lease = queue.leases[number % RANKED_MIN]
            assert lease.take(next(iter(lease.inflight))) is not None
            lease = queue.choose(task)
            assert lease is not None
        lease.inflight[number.to_bytes(4, "big")] = task
    assert queue.ranking is not None
    assert len(queue.ranking) < 10 * RANKED_MIN


def test_few_workers_have_no_ranking() -> None:
    queue = queue_of(RANKED_MIN - 1)
    assert queue.ranking is None
    queue.joined(Lease(99, b"", 1, queue, None))
    assert queue.ranking is not None
    for lease in list(queue.leases):
        queue.left(lease)
    assert queue.ranking is None

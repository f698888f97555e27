"""What a thread that waits for room says, and what is known of it meanwhile."""

from __future__ import annotations

import threading
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from shoal.client import roomwaits
from shoal.client.explain import Explain
from shoal.client.roomwaits import CycleSearch, waiting_for_room
from shoal.config import Config
from shoal.context import TaskContext, current_task

CONTEXT = TaskContext(bytes([0xAB]) * 16, "fill", "fill", 0, {})


class FakeRuntime:
    """Answers a question of the daemon; a wait is over at once, with or without its answer."""

    def __init__(self, answers: list[bool], lines: list[str] | Exception) -> None:
        self.lock = threading.RLock()
        self.config = replace(Config(), get_warning_s=7.0)
        self.closed = False
        self.explain = Explain(self)  # type: ignore[arg-type]
        self.said: list[str] = []
        self.timeouts: list[float | None] = []
        self._answers = answers
        self._lines = lines

    def wait(self, _answer: object, timeout_s: float | None) -> bool:
        self.timeouts.append(timeout_s)
        return self._answers.pop(0)

    def report(self, text: str) -> None:
        self.said.append(text)

    def request(self, method: str, _params: dict[str, Any], _timeout_s: float) -> Any:
        assert method == "shortage"
        if isinstance(self._lines, Exception):
            raise self._lines
        return {"lines": self._lines}


def wait_in(runtime: FakeRuntime) -> list[dict[str, Any]]:
    with waiting_for_room(runtime, "room for 5.00 MB") as wait:  # type: ignore[arg-type]
        rows = runtime.explain._running("ab")
        wait(SimpleNamespace())  # type: ignore[arg-type]
    return rows


def test_a_short_wait_says_nothing() -> None:
    runtime = FakeRuntime([True], [])
    wait_in(runtime)
    assert runtime.said == []
    assert runtime.timeouts == [pytest.approx(7.0, abs=1.0)]


def test_a_long_wait_says_once_what_the_daemon_knows() -> None:
    runtime = FakeRuntime([False, True], ["/nfs has not answered for 9 s", "a process waits"])
    wait_in(runtime)
    (said,) = runtime.said
    assert "for room for 5.00 MB: /nfs has not answered for 9 s; a process waits (" in said
    assert runtime.timeouts[1] is None


def test_a_daemon_that_does_not_answer_is_said_too() -> None:
    runtime = FakeRuntime([False, True], TimeoutError("the node daemon did not answer"))
    wait_in(runtime)
    assert "the node daemon did not answer" in runtime.said[0]


def test_why_of_the_task_tells_of_it_while_it_lasts() -> None:
    runtime = FakeRuntime([True], [])
    token = current_task.set(CONTEXT)
    try:
        (row,) = wait_in(runtime)
    finally:
        current_task.reset(token)
    assert row["room"] is True
    assert "'fill' has waited 0.0 s here for room for 5.00 MB" in row["lines"][0]
    assert runtime.explain._running("ab") == []


def test_cycles_are_looked_for_a_tenth_of_the_time_unless_nothing_else_helps(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = [100.0]
    collected: list[tuple[float, int]] = []

    def collect(generation: int) -> None:
        collected.append((clock[0], generation))
        clock[0] += 1.0 if generation else 0.0

    monkeypatch.setattr(roomwaits.gc, "collect", collect)
    search = CycleSearch(lambda: clock[0])
    for pause_s, rests in [(0.0, 9), (8.9, 9), (0.0, 0), (8.9, 9), (0.2, 9)]:
        clock[0] += pause_s
        search.run(rests)
        search.run(9, 0)  # of the young alone: each rests for itself
    whole = [began for began, generation in collected if generation]
    assert whole == pytest.approx([100.0, 109.9, 120.0])
    assert len(collected) == len(whole) + 5


def test_where_files_are_written_instead_they_are_looked_for_a_share_of_that_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = [100.0]
    collected = []

    def collect(_generation: int) -> None:
        collected.append(clock[0])
        clock[0] += 1.0

    monkeypatch.setattr(roomwaits.gc, "collect", collect)
    search = CycleSearch(lambda: clock[0])
    for budget_s in (0.0, 0.5, 1.9, 2.0, 2.9, 3.0):
        clock[0] += 1000.0  # that time goes by does not count
        search.run_within(budget_s)
    assert collected == [1100.0, 4101.0, 6102.0]

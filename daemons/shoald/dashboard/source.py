"""What the dashboard shows, asked of the daemon: by one thread at a time, and at most so often.

However many look, the daemon hears one question at a time of us, and everybody is told the same answer. A daemon that does not
answer costs them an error; the next who asks connects anew.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from typing import Any, Generic, TypeVar

from shoal.config import Config
from shoal.control import ControlClient, ControlError
from shoal.figures import metrics_of
from shoal.prometheus import text_of
from shoald.dashboard.view import state_of

T = TypeVar("T")
_CLUSTER = {"cluster": True}


class Source:
    """The answers of one daemon, as the dashboard gives them.

    Args:
        connect: makes a connection to the daemon.
    """

    def __init__(self, connect: Callable[[], ControlClient], config: Config) -> None:
        self._connect = connect
        self._config = config
        self._client: ControlClient | None = None
        self._turn = asyncio.Lock()
        self._nodes = 1
        self._state = _Kept(self._ask_state, self._good_s, self._turn)
        self._metrics = _Kept(self._ask_metrics, self._good_s, self._turn)

    async def state(self) -> bytes:
        """JSON for the page (see view). Raises ControlError."""
        return await self._state.get()

    async def metrics(self) -> bytes:
        """All metrics, for Prometheus. Raises ControlError."""
        return await self._metrics.get()

    def _good_s(self) -> float:
        config = self._config
        return max(config.dashboard_refresh_ms, self._nodes * config.dashboard_refresh_ms_per_node) / 1000

    # --- on a thread, one at a time ---

    def _ask_state(self) -> bytes:
        at_s = time.monotonic()
        answers = {method: self._ask(method) for method in ("status", "figures", "jobs")}
        actors = sum(sum(row["actors"].values()) for row in answers["figures"]["rows"])
        listed = actors <= 10 * self._config.dashboard_rows_max  # else listing them is work that shows little
        answers["actors"] = self._ask("actors") if listed else None
        self._nodes = len(answers["figures"]["rows"])
        state = state_of(answers, at_s, self._config.dashboard_rows_max)
        return json.dumps(state, separators=(",", ":")).encode()

    def _ask_metrics(self) -> bytes:
        nodes = self._ask("nodes")["rows"]
        figures, users = self._ask("figures"), self._ask("metrics")
        self._nodes = len(figures["rows"])
        silent = {*figures["silent"], *users["silent"]}
        return text_of(users["rows"], metrics_of(figures["rows"], nodes, len(silent))).encode()

    def _ask(self, method: str) -> Any:
        client = self._client = self._client or self._connect()
        try:
            return client.request(method, _CLUSTER)
        except ControlError:
            client.close()
            self._client = None
            raise


class _Kept(Generic[T]):
    """An answer that is made again when it is asked for and old."""

    def __init__(self, make: Callable[[], T], good_s: Callable[[], float], turn: asyncio.Lock) -> None:
        self._make = make
        self._good_s = good_s
        self._turn = turn
        self._made: tuple[float, T] | None = None
        self._failed: tuple[float, str] | None = None

    async def get(self) -> T:
        came_s = time.monotonic()
        async with self._turn:
            if self._failed is not None and self._failed[0] >= came_s:
                raise ControlError(self._failed[1])  # it was asked meanwhile, which may have taken long
            if self._made is None or time.monotonic() - self._made[0] >= self._good_s():
                try:
                    made = await asyncio.to_thread(self._make)
                except ControlError as error:
                    self._failed = time.monotonic(), str(error)
                    raise
                # From its end on: however long an answer takes, there are pauses between the questions.
                self._made = time.monotonic(), made
            return self._made[1]

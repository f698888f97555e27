"""How many tasks of a graph are under way at once. Pure.

Submitted all at once, a graph is run in breadth: all that needs nothing comes first, with all of its results in the store. In
Dask's order what uses up a result comes soon after it; so tasks are submitted in that order, and only as far ahead as
their results fit a share of the store together. How large the results of a kind of task (those with one name) are is
seen from those that came; of a kind that is not known yet a few go ahead. What is small costs the store nothing. There are always
enough tasks under way to keep all CPUs busy.
"""

from __future__ import annotations

_WEIGHT = 0.2  # of the newest result, in the mean of its kind


class Window:
    """Tasks under way.

    Args:
        bytes_max: of their results together.
        first: tasks under way, if nothing is known of any.
        tasks_min, tasks_max: tasks under way, whatever they give.
    """

    def __init__(self, bytes_max: float, first: int, tasks_min: int, tasks_max: int) -> None:
        self._bytes_max = bytes_max
        self._unknown = bytes_max / first
        self._tasks_min = min(tasks_min, tasks_max)
        self._tasks_max = tasks_max
        self._sizes: dict[str, float] = {}
        self._under_way: dict[bytes, tuple[str, float]] = {}
        self._bytes = 0.0

    def __len__(self) -> int:
        return len(self._under_way)

    def opened(self, task_id: bytes, kind: str) -> None:
        """A task was submitted."""
        size = self._sizes.get(kind, self._unknown)
        self._under_way[task_id] = (kind, size)
        self._bytes += size

    def closed(self, task_id: bytes, stored_bytes: int) -> None:
        """It has ended, and put so much into a store."""
        kind, expected = self._under_way.pop(task_id)
        self._bytes -= expected
        mean = self._sizes.get(kind)
        self._sizes[kind] = stored_bytes if mean is None else mean + (stored_bytes - mean) * _WEIGHT

    def excess(self) -> int:
        """How many have to end before another one is submitted; 0 if there is room."""
        count = len(self._under_way)
        if count < self._tasks_min or (self._bytes < self._bytes_max and count < self._tasks_max):
            return 0
        return max(1, (count - self._tasks_min) // 4)  # not one by one: each wait looks at all of them

"""How many tasks the processes of a node have submitted, finished, failed and tried again, in sums that only grow. Pure.

Each process counts for itself. What it said last stands for it while it lives, and is added to what others have left when it
goes: one that ends in order says its last figures (COUNTED), of one that crashes those of the last question count.
"""

from __future__ import annotations

from typing import Any

from shoald.store.errors import ProtocolError

NAMES = ("submitted", "finished", "failed", "retried")
_COUNT_MAX = 2**63


class Tallies:
    """Those of one node."""

    def __init__(self) -> None:
        self._left = dict.fromkeys(NAMES, 0)
        self._said: dict[bytes, dict[str, int]] = {}

    def said(self, proc: bytes, counts: Any) -> None:
        """What a living process has counted since its start; raises ProtocolError, and changes nothing, for nonsense."""
        if type(counts) is not dict or not all(_makes_sense(counts.get(name)) for name in NAMES):
            raise ProtocolError(f"counts are whole numbers of {', '.join(NAMES)}")
        before = self._said.get(proc, {})
        # Answers to two questions may cross: a sum never shrinks.
        self._said[proc] = {name: max(counts[name], before.get(name, 0)) for name in NAMES}

    def gone(self, proc: bytes) -> None:
        """A process is gone; nothing if it never said anything."""
        for name, count in self._said.pop(proc, {}).items():
            self._left[name] += count

    def totals(self) -> dict[str, int]:
        """By name, of all processes that there are and were."""
        return {
            name: count + sum(said[name] for said in self._said.values())
            for name, count in self._left.items()
        }


def _makes_sense(count: Any) -> bool:
    return type(count) is int and 0 <= count < _COUNT_MAX

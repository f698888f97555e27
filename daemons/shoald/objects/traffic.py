"""Whether objects are on their way between nodes, as who populates pages has to know. Pure.

Many small objects go in bursts of a few milliseconds: between two of them nothing moves, and pages that are populated then take
the processor from those who prepare the next burst (a quarter of all that was spent on 5,000 objects of 20 KB). So traffic ends
only after a lull. A burst between two looks is seen by what it moved.
"""

from __future__ import annotations


class Traffic:
    """The traffic of one node.

    Args:
        lull_s: how long nothing must have moved until it is over.
    """

    __slots__ = ("_lull_s", "_moved", "_until")

    def __init__(self, lull_s: float) -> None:
        self._lull_s = lull_s
        self._moved = 0
        self._until = float("-inf")

    def goes_on(self, moves: bool, moved: int, now: float) -> bool:
        """``moves``: something is on its way now; ``moved``: bytes that have come or gone since the start."""
        if moves or moved != self._moved:
            self._moved = moved
            self._until = now + self._lull_s
        return now < self._until

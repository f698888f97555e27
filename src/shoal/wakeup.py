"""Wakes a process that sleeps for long when something dies of which it has to tell others.

Refs, views, generators and functions die in `__del__`, anywhere: they only go to a queue there. A process that is busy looks at
these queues by itself. One that has been idle for a while sleeps far longer, and leaves a bell here first.

A bell may hang itself up again for the next time, before all others.

Nothing is missed: who queues something looks for a bell afterwards, and the sleeper looks at the queues once more when it has
left it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

# What wakes the sleeper; empty while it is awake. To be looked at before `ring`, which costs more.
bells: list[Callable[[], None]] = []


def ring() -> None:
    """Wake who sleeps, once. Safe in `__del__` and in signal handlers, if the bell is."""
    for _ in range(len(bells)):
        try:
            bell = bells.pop()
        except IndexError:  # a finalizer that ran in between has rung it
            return
        bell()

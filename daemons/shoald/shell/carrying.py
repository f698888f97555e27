"""Effects on their way from a core's outbox: each is carried out once, and none is lost.

One that raises counts as carried out, since nobody knows how far it came; those behind it stay, in their order, for the next
time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

Effect = TypeVar("Effect")


def carry_out(outbox: list[Effect], one: Callable[[Effect], object]) -> None:
    """Do ``one`` with each effect in ``outbox``, also with those that this appends, and take it out."""
    done = 0
    try:
        for effect in outbox:
            done += 1
            one(effect)
    finally:
        del outbox[:done]

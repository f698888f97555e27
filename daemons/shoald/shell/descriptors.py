"""File descriptors that come and go together."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


def copies_of(fds: Sequence[int]) -> list[int]:
    """A copy of each, the caller's; OSError, and none is left, if there is no room for all of them."""
    copies: list[int] = []
    try:
        for fd in fds:
            copies.append(os.dup(fd))  # noqa: PERF401 - those made before one that fails have to be closed
    except OSError:
        for fd in copies:
            os.close(fd)
        raise
    return copies

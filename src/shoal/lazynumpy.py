"""numpy, loaded when the first array turns up: half of what a driver without arrays takes is numpy, in memory (9 MB) and in time.

Nobody has an array before somebody loaded numpy. So until this module has seen that (`notice`, at the beginning of every way
on which values go that are not plain), `np.ndarray` is a class without instances, and ``type(value) is np.ndarray`` loads
nothing. Any other name of `np` does, and from then on all are what they are in numpy. Where numpy is there before this module,
as in workers, `np` is numpy itself.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

__all__ = ["load", "notice", "np", "when_loaded"]

_waiting: list[Callable[[], None]] = []


class _NoArray:
    """`numpy.ndarray` for those who ask whether a value is one, as long as none can be; to make one, numpy is loaded."""

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        load()
        return np.ndarray(*args, **kwargs)


class _Later:
    """`numpy`, once a name of it is asked for."""

    def __init__(self) -> None:
        self.ndarray: type = _NoArray

    def __getattr__(self, name: str) -> Any:
        load()
        return getattr(importlib.import_module("numpy"), name)


def _check(names: dict[str, Any]) -> None:
    if "ndarray" not in names:
        raise ImportError(f"{names.get('__file__')} is not numpy: give that file another name")


if TYPE_CHECKING or "numpy" in sys.modules:
    import numpy as np

    _check(vars(np))
    _known = True
else:
    np = _Later()
    _known = False


def notice() -> bool:
    """Whether numpy has been loaded by others since this was last asked."""
    if _known or "numpy" not in sys.modules:
        return False
    load()
    return True


def load() -> None:
    """Make `np` what numpy is, and do what waits for that. May be repeated; by several threads at a time as well."""
    global _known
    if _known:
        return
    names = vars(importlib.import_module("numpy"))
    _check(names)
    vars(np).update({name: value for name, value in names.items() if not name.startswith("__")})
    for fill in _waiting:
        fill()
    _known = True


def when_loaded(fill: Callable[[], None]) -> None:
    """Call ``fill``, now or as soon as `np` is numpy; perhaps more than once."""
    if _known:
        fill()
    else:
        _waiting.append(fill)

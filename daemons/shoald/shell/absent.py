"""Modules that a library imports if they are there, and that this process has no use for."""

from __future__ import annotations

import contextlib
import sys
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import ModuleType


@contextlib.contextmanager
def without_module(name: str) -> Iterator[None]:
    """What is imported in this block finds no module ``name``, unless that is loaded already.

    Other threads find none either meanwhile: only for what nothing else in this process imports. Later it can be imported as
    ever.
    """
    if name in sys.modules:
        yield
        return
    sys.modules[name] = cast("ModuleType", None)  # so an import of it raises ImportError
    try:
        yield
    finally:
        del sys.modules[name]

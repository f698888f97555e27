"""Bytes as people read them, everywhere the same: powers of 1000, as disks and rates are given ("1.50 GB")."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

UNITS = {"B": 1, "KB": 1000, "MB": 1000**2, "GB": 1000**3, "TB": 1000**4}


def bytes_text(size: float, units: str = "auto", beside: Iterable[float] = ()) -> str:
    """``size`` bytes in "B", "KB", "MB", "GB" (powers of 1000) or what fits best.

    ``beside``: other sizes that it is compared with; where it would look the same as one that differs, its bytes are added.
    """
    text = _text(size, units)
    if any(other != size and _text(other, units) == text for other in beside):
        return f"{text} ({size:,.0f} bytes)"
    return text


def _text(size: float, units: str) -> str:
    if units == "auto":
        units = next((name for name, scale in reversed(UNITS.items()) if abs(size) >= scale), "B")
    scale = UNITS[units]
    return f"{int(size)} B" if scale == 1 else f"{size / scale:.{2 if scale > 1000 else 1}f} {units}"

"""Values as people read them, and tables as data. Pure: what is printed is decided and tested here."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from shoal.sizes import UNITS, bytes_text

_BINARY = {"KIB": 1024, "MIB": 1024**2, "GIB": 1024**3, "TIB": 1024**4, "K": 1024, "M": 1024**2, "G": 1024**3}


_GAP = "  "
_INDENT = "    "


@dataclass(frozen=True)
class Table:
    """Columns are names; ">" in front aligns one to the right.

    Attributes:
        details: columns that say more. One without any content ("" or "-") is left out; where the table is too wide, they
            go, in this order and as far as needed, into lines of their own under their row.
        notes: lines under the table.
        empty: what to say instead of a table without rows.
    """

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    title: str = ""
    notes: Sequence[str] = field(default=())
    details: Sequence[str] = field(default=())
    empty: str = "none"


def parse_bytes(text: str) -> int:
    """Bytes in "2GB", "512 MiB", "1e9" or "4g" (a bare letter is a power of 1024); raises ValueError."""
    cleaned = text.strip().upper().replace("_", "")
    for name, scale in sorted({**UNITS, **_BINARY}.items(), key=lambda item: -len(item[0])):
        if cleaned.endswith(name):
            return _whole(cleaned[: -len(name)].strip(), scale, text)
    return _whole(cleaned, 1, text)


def _whole(number: str, scale: int, text: str) -> int:
    try:
        size = int(float(number) * scale)
    except (ValueError, OverflowError):
        size = -1
    if size < 0:
        raise ValueError(f"{text!r} is no size; it looks like 2GB or 512MiB")
    return size


def age_text(seconds: float) -> str:
    """A time span: "350 ms", "12 s", "3 min", "2.5 h", "4 d"."""
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 7200:
        return f"{seconds / 60:.0f} min"
    if seconds < 48 * 3600:
        return f"{seconds / 3600:.1f} h"
    return f"{seconds / 86400:.0f} d"


def resources_text(amounts: Mapping[str, float]) -> str:
    """As in "2 CPU, 1 GPU"; the resource "memory" is bytes."""
    return ", ".join(f"{_amount(name, amounts[name])} {name}" for name in sorted(amounts)) or "nothing"


def usage_text(available: Mapping[str, float], total: Mapping[str, float]) -> str:
    """Used of total, as in "1/2 CPU, 0/1 GPU"."""
    parts = [
        f"{_amount(name, total[name] - available.get(name, total[name]))}/{_amount(name, total[name])} {name}"
        for name in sorted(total)
    ]
    return ", ".join(parts) or "none"


def _amount(name: str, amount: float) -> str:
    return bytes_text(amount) if name == "memory" else f"{round(amount, 4):g}"


def shorten(text: str, length: int) -> str:
    """``text`` with its end kept, at most ``length`` characters."""
    return text if len(text) <= length else "…" + text[len(text) - length + 1 :]


_NOTHING = frozenset({"", "-"})


def table_lines(table: Table, width: int | None = None) -> list[str]:
    """The table as aligned text: its title (if it has one), the names of its columns, rows and notes.

    Args:
        width: characters in a line of the terminal; None (pipes and logs): as many as it takes.
    """
    head = [table.title] if table.title else []
    notes = [line for note in table.notes for line in _wrapped(note, width, "")]
    if not table.rows:
        return [*head, f"{_GAP}{table.empty}", *notes]
    names = [column.lstrip(">") for column in table.columns]
    right = {name for name, column in zip(names, table.columns, strict=True) if column.startswith(">")}
    rows = [dict(zip(names, row, strict=True)) for row in table.rows]
    widths = {name: max(len(name), *(len(row[name]) for row in rows)) for name in names}
    blank = {name for name in table.details if all(row[name] in _NOTHING for row in rows)}
    shown = [name for name in names if name not in blank]
    below = _too_much(shown, widths, table.details, width)
    shown = [name for name in shown if name not in below]

    def line(cells: Mapping[str, str]) -> str:
        aligned = [
            cells[name].rjust(widths[name]) if name in right else cells[name].ljust(widths[name])
            for name in shown
        ]
        return _GAP.join(aligned).rstrip()

    lines = [*head, line({name: name for name in names})]
    for row in rows:
        said = [f"{name.lower()}: {row[name]}" for name in below if row[name] not in _NOTHING]
        lines += [line(row), *_wrapped("; ".join(said), width, _INDENT)]
    return [*lines, *notes]


def _too_much(
    shown: Sequence[str], widths: Mapping[str, int], details: Sequence[str], width: int | None
) -> list[str]:
    """Which of ``details`` have to go below their rows so that the others fit into ``width``."""
    below: list[str] = []
    if width is not None:
        needed = sum(widths[name] + len(_GAP) for name in shown) - len(_GAP)
        for name in details:
            if needed <= width:
                break
            if name in shown:
                below.append(name)
                needed -= widths[name] + len(_GAP)
    return below


def _wrapped(text: str, width: int | None, indent: str) -> list[str]:
    if width is None:
        return [indent + text] if text else []
    return textwrap.wrap(text, max(width, 20), initial_indent=indent, subsequent_indent=indent)

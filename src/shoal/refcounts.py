"""How many references there are to an object, counted from inside.

The one who counts has references too: the list that the object is found in, the loop's variable, the argument of `getrefcount`.
How many these are depends on the interpreter (since Python 3.14 a call borrows its arguments), so the function here is asked once
about an object of which nobody else knows: what it answers then is what it counts too much.
"""

from __future__ import annotations

from sys import getrefcount
from typing import Any


def count_each(items: list[Any]) -> list[int]:
    """References to each of ``items``; `LISTED` of them are the list's and this function's."""
    return [getrefcount(item) for item in items]


LISTED = count_each([object()])[0]

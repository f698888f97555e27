"""Data frames of pandas and polars, and Arrow tables: their columns are read in place.

pandas: the arrays in a frame are pickled as any array, so they come back as read-only views. pandas writes to
a block only if it believes that nobody shares it; otherwise it copies the block first (copy-on-write, always
on since pandas 3, an option in pandas 2). So every block that is loaded is registered as shared, with a block
that lives forever.

polars: frames travel as Arrow tables, if these give back the same schema, and in polars' own way otherwise.

Arrow pickles its buffers out of band, but all of the buffers that a slice was cut from; such slices are
written in the IPC format instead.

None of the libraries is imported unless it is in use already.
"""

from __future__ import annotations

import sys
from functools import cache
from typing import Any

from .arrays import PROTOCOL, Reduced, Reducer

# An Arrow slice is copied rather than sent with what it was cut from, when that is so many times larger.
SLICE_FACTOR = 2


def reducer_for(cls: type) -> Reducer | None:
    """How to pickle instances of a class of these libraries; None for its own way."""
    library = cls.__module__.partition(".")[0]
    names = {base.__name__ for base in cls.__mro__ if base.__module__.partition(".")[0] == library}
    if library == "pandas":
        if names & {"BlockManager", "SingleBlockManager"}:
            return _reduce_manager
        return _reduce_index if "Index" in names else None
    if library == "polars" and cls.__name__ in {"DataFrame", "Series"}:
        return _reduce_polars
    if library == "pyarrow" and cls.__name__ in {"Table", "RecordBatch"}:
        return _reduce_arrow
    return None


def load_manager(make: Any, arguments: tuple[Any, ...], *state: Any) -> Any:
    """The block manager of a pandas frame or series, with all of its blocks marked as shared."""
    manager = make(*arguments)
    if state and state[0] is not None:
        manager.__setstate__(state[0])
    for block in manager.blocks:
        references = getattr(block, "refs", None)
        if references is not None:
            references.add_reference(_eternal_block())
    return manager


def load_index(make: Any, arguments: tuple[Any, ...]) -> Any:
    """A pandas index; a series that is made of it shares its memory, so that is marked as well."""
    index = make(*arguments)
    references = getattr(index, "_references", None)
    if references is not None:
        references.add_reference(_eternal_block())
    return index


def load_polars(kind: str, table: Any) -> Any:
    """A polars frame or series over Arrow memory."""
    import polars as pl

    frame = pl.from_arrow(table, rechunk=False)
    return frame.to_series() if kind == "Series" else frame  # type: ignore[union-attr]


def load_arrow(kind: str, stream: Any) -> Any:
    """An Arrow table or record batch from a buffer in the IPC format, in place."""
    import pyarrow as pa

    table = pa.ipc.open_stream(stream).read_all()
    if kind == "Table":
        return table
    batches = table.to_batches()
    return batches[0] if batches else pa.RecordBatch.from_pylist([], schema=table.schema)


@cache
def _eternal_block() -> Any:
    """A block that never dies: memory that it shares is always shared."""
    import numpy as np
    import pandas as pd

    return pd.Series(np.zeros(1))._mgr.blocks[0]  # type: ignore[attr-defined]


def _reduce_manager(manager: Any) -> Reduced:
    make, arguments, *rest = manager.__reduce_ex__(PROTOCOL)
    return load_manager, (make, arguments, *rest[:1])


def _reduce_index(index: Any) -> Reduced:
    reduced = index.__reduce_ex__(PROTOCOL)
    if len(reduced) > 2 and any(item is not None for item in reduced[2:]):
        return reduced  # type: ignore[no-any-return]
    return load_index, reduced[:2]


def _reduce_polars(frame: Any) -> Reduced:
    kind = type(frame).__name__
    table = _arrow_of(frame)
    if table is None:
        return frame.__reduce_ex__(PROTOCOL)  # type: ignore[no-any-return]
    return load_polars, (kind, table)


def _arrow_of(frame: Any) -> Any:
    """The columns as an Arrow table without a copy, or None if that loses something or pyarrow is missing."""
    polars: Any = sys.modules["polars"]
    whole = frame if type(frame).__name__ == "DataFrame" else frame.to_frame()
    try:
        table = whole.to_arrow(compat_level=polars.CompatLevel.newest())
        back = polars.from_arrow(table, rechunk=False)
    except (ImportError, AttributeError, TypeError, ValueError, polars.exceptions.PolarsError):
        return (
            None  # no pyarrow, an older polars, or columns of Python objects: polars' own pickling does those
        )
    return table if back.schema == whole.schema and back.height == whole.height else None


def _reduce_arrow(table: Any) -> Reduced:
    if table.get_total_buffer_size() <= SLICE_FACTOR * table.nbytes + PROTOCOL:
        return table.__reduce_ex__(PROTOCOL)  # type: ignore[no-any-return]
    pyarrow: Any = sys.modules["pyarrow"]
    sink = pyarrow.BufferOutputStream()
    with pyarrow.ipc.new_stream(sink, table.schema) as writer:
        if table.num_rows:  # an empty slice is written with all offsets of its strings
            writer.write(table)
    return load_arrow, (type(table).__name__, sink.getvalue())

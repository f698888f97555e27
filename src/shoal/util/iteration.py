"""as_completed and map_unordered: results in the order in which they come."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from shoal.option_checks import whole

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from shoal.refs import ObjectRef


def as_completed(
    refs: Sequence[ObjectRef[Any]],
    *,
    chunk_size: int = 10,
    yield_obj_refs: bool = False,
    timeout: float | None = None,
) -> Iterator[Any]:
    """The values of ``refs`` as they come; with ``yield_obj_refs`` the refs.

    Args:
        chunk_size: how many are waited for at most before those that are there are given out.
        timeout: seconds for each wait; then GetTimeoutError.

    Raises the exception of a failed task when its turn comes.
    """
    from shoal.api import get, wait
    from shoal.exceptions import GetTimeoutError

    if not isinstance(refs, Iterable):
        raise TypeError(f"as_completed needs a list of ObjectRefs, not {type(refs).__name__}")
    chunk_size = whole(1)("chunk_size", chunk_size)
    left = list(refs)
    while left:
        ready, left = wait(left, num_returns=1, timeout=timeout)
        if not ready:
            raise GetTimeoutError(
                f"{len(left)} of {len(refs)} objects did not arrive within {timeout} s each"
            )
        if left and chunk_size > 1:  # whatever else is there already
            more, left = wait(left, num_returns=min(chunk_size - 1, len(left)), timeout=0)
            ready += more
        for ref in ready:
            yield ref if yield_obj_refs else get(ref)


def map_unordered(
    function: Any,
    items: Iterable[Any],
    *,
    backpressure_size: int | None = 100,
    chunk_size: int = 10,
    yield_obj_refs: bool = False,
) -> Iterator[Any]:
    """``function.remote(item)`` for each item; the results as they come.

    Args:
        function: a remote function, or a method of an actor.
        backpressure_size: calls under way at most; None: all at once.
        chunk_size: as in `as_completed`.
    """
    from shoal.api import get, wait

    if not callable(getattr(function, "remote", None)):
        raise TypeError(
            f"map_unordered needs a remote function, or a method of an actor, not {type(function).__name__}"
        )
    if not isinstance(items, Iterable):
        raise TypeError(f"map_unordered needs items to iterate over, not {type(items).__name__}")
    if backpressure_size is not None:
        backpressure_size = whole(1)("backpressure_size", backpressure_size)
    submit: Callable[[Any], Any] = function.remote
    under_way: list[ObjectRef[Any]] = []
    for item in items:
        under_way.append(submit(item))
        if backpressure_size is not None and len(under_way) >= backpressure_size:
            ready, under_way = wait(under_way, num_returns=1)
            for ref in ready:
                yield ref if yield_obj_refs else get(ref)
    yield from as_completed(under_way, chunk_size=chunk_size, yield_obj_refs=yield_obj_refs)

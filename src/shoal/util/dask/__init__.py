"""Dask on the cluster: arrays, data frames and delayed functions run as tasks. Needs Dask (`pip install shoal[dask]`).

    with enable_dask_on_shoal():
        total = array.sum().compute()

    frame.persist(scheduler=shoal_dask_get)

`enable_dask_on_shoal()` alone is for all that follows, until `disable_dask_on_shoal()`. What `persist` gives has refs in
place of values: its parts stay in the cluster, and run while the script goes on; compute with it on shoal too. With
`dask.annotate(shoal_remote_args={"num_gpus": 1})` around what makes a collection its tasks have these options, and
`compute(shoal_remote_args=...)` gives them to all tasks. Of Dask's own annotations `retries` counts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import dask
from dask.tokenize import normalize_token

from shoal.refs import ObjectRef
from shoal.util.dask.annotations import NAMES
from shoal.util.dask.scheduler import compute

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["disable_dask_on_shoal", "enable_dask_on_shoal", "shoal_dask_get", "shoal_dask_persist"]

normalize_token.register(ObjectRef, lambda ref: ("ObjectRef", ref.hex()))


def shoal_dask_get(
    dsk: Any,
    keys: Any,
    *,
    shoal_remote_args: Mapping[str, Any] | None = None,
    ray_remote_args: Mapping[str, Any] | None = None,
    shoal_persist: bool = False,
    ray_persist: bool = False,
    **kwargs: Any,
) -> Any:
    """A scheduler of Dask: ``collection.compute(scheduler=shoal_dask_get)``, also for `persist`.

    Args:
        shoal_remote_args: options of all tasks, as `shoal.remote` takes them.
        shoal_persist: give refs instead of values, and do not wait for them.
        kwargs: what Dask's other schedulers take, num_workers and so on; it has no meaning here.

    Returns the values of ``keys``. Raises what a task has raised, as `shoal.get` does; the tasks that are left are cancelled.
    """
    if "resources" in kwargs:
        raise ValueError(f'use {NAMES[1]}={{"resources": {{...}}}} to say which resources each task needs')
    options = {**(ray_remote_args or {}), **(shoal_remote_args or {})}
    return compute(dsk, keys, options, shoal_persist or ray_persist)


def _get_refs(dsk: Any, keys: Any, **kwargs: Any) -> Any:
    """The scheduler that `shoal_dask_persist` uses."""
    return shoal_dask_get(dsk, keys, **{**kwargs, "shoal_persist": True})


def shoal_dask_persist(*collections: Any, **kwargs: Any) -> tuple[Any, ...]:
    """`dask.persist` on shoal: the same collections, with refs to their parts, which are under way."""
    persisted: tuple[Any, ...] = dask.persist(*collections, **{**kwargs, "scheduler": _get_refs})
    return persisted


def _persist(collections: Sequence[Any], optimize_graph: bool = True, **kwargs: Any) -> list[Any]:
    """What `dask.persist` (2026 and later) calls if the scheduler has it."""
    return list(shoal_dask_persist(*collections, traverse=False, optimize_graph=optimize_graph, **kwargs))


shoal_dask_get.persist = _persist  # type: ignore[attr-defined]  # functions have attributes


def enable_dask_on_shoal(shuffle: str | None = "tasks") -> dask.config.set:
    """Have Dask compute on shoal from now on, or, as a context manager, inside of it.

    Args:
        shuffle: how data frames are shuffled: "tasks" works on several machines, "disk" on one that has the files.
    """
    return dask.config.set({"scheduler": shoal_dask_get, "dataframe.shuffle.method": shuffle})


def disable_dask_on_shoal() -> dask.config.set:
    """Have Dask compute as it does by default."""
    return dask.config.set({"scheduler": None, "dataframe.shuffle.method": None})


# What scripts for Ray import.
ray_dask_get = ray_dask_get_sync = shoal_dask_get
ray_dask_persist = shoal_dask_persist
enable_dask_on_ray = enable_dask_on_shoal
disable_dask_on_ray = disable_dask_on_shoal

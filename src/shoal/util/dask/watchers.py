"""Dask's callbacks (`dask.callbacks`): its ProgressBar, Profiler and so on see what a computation does here.

They are told of keys, and look at the sets of keys in a state: those that wait to be submitted, run, and have finished. The
value of a key is the ref of its result.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dask.callbacks import unpack_callbacks

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from shoal.refs import ObjectRef
    from shoal.util.dask.plan import Key, Plan, Step


class Watchers:
    """The callbacks of one computation; without any, nothing is done.

    Args:
        callbacks: as `dask.callbacks.local_callbacks` gives them.
    """

    def __init__(self, callbacks: Collection[tuple[Any, ...]]) -> None:
        self._callbacks = list(callbacks)
        _, _, self._before, self._after, _ = unpack_callbacks(self._callbacks)
        self._begun: list[Callable[..., Any]] = []
        self._graph: dict[Key, Any] = {}
        self._state: dict[str, Any] = {}
        self._steps: dict[bytes, Step] = {}

    def __bool__(self) -> bool:
        return bool(self._callbacks)

    def start(self, graph: dict[Key, Any]) -> None:
        """Before anything is planned: a callback may put values that it knows into the graph."""
        self._graph = graph
        for start, _, _, _, finish in self._callbacks:
            if start:
                start(graph)
            if finish:
                self._begun.append(finish)

    def planned(self, plan: Plan) -> None:
        """It is known what will run."""
        if not self._callbacks:
            return
        waiting = {key: set(step.needs) for step in plan.steps for key in step.keys}
        names = ("dependencies", "dependents", "waiting_data", "cache")
        self._state.update({name: {} for name in names}, waiting=waiting, ready=[])
        self._state.update({name: set() for name in ("running", "finished", "released")})
        for _, start_state, _, _, _ in self._callbacks:
            if start_state:
                start_state(self._graph, self._state)

    def submitted(self, step: Step, ref: ObjectRef[Any]) -> None:
        """A step is under way."""
        if not self._callbacks:
            return
        self._steps[ref.binary()] = step
        for key in step.keys:
            del self._state["waiting"][key]
            self._state["running"].add(key)
            for before in self._before:
                before(key, self._graph, self._state)

    def ended(self, ref: ObjectRef[Any]) -> None:
        """A step has its result."""
        if not self._callbacks:
            return
        for key in self._steps.pop(ref.binary()).keys:
            self._state["running"].discard(key)
            self._state["finished"].add(key)
            for after in self._after:
                after(key, ref, self._graph, self._state, "shoal")

    def finish(self, failed: bool) -> None:
        """The computation has ended."""
        for finish in self._begun:
            finish(self._graph, self._state, failed)

"""Runs graphs of Dask: a task for each step of a plan, submitted in Dask's order, with refs for what it needs.

No result comes back to the process that submits: a task waits for its arguments on the way to a worker, and large results stay in
the stores where they were made. A result goes when the last task that needs it has run.

A task that fails ends the computation: what is under way is cancelled, and the error raised as `shoal.get` raises it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from dask.callbacks import local_callbacks
from dask.core import flatten
from dask.sizeof import sizeof
from dask.utils import key_split

from shoal import api, session
from shoal.owner.objects import FAILED, PENDING
from shoal.refs import ObjectRef
from shoal.util.dask.annotations import NAMES, Options
from shoal.util.dask.plan import Constant, Plan, Step, make_plan
from shoal.util.dask.watchers import Watchers
from shoal.util.dask.window import Window
from shoal.util.programs import Encoder, run

if TYPE_CHECKING:
    from shoal.remote_function import RemoteFunction
    from shoal.util.dask.plan import Key

_SMALL = frozenset({int, float, complex, bool, type(None), slice, range, type})
_CONTAINERS = frozenset({list, tuple, dict, set, frozenset})
_LONG = 1000  # items from which on it is asked how large a container is


def compute(graph: Any, keys: Any, options: Mapping[str, Any], persist: bool) -> Any:
    """The values of ``keys``: a key, or nested lists of keys, for which there are nested tuples.

    With ``persist`` refs instead, of tasks that may still run.

    Args:
        graph: a graph of Dask, or an expression that has one.
        options: of all tasks; `dask.annotate` may say others.
    """
    requested = list(flatten(keys)) if isinstance(keys, list) else [keys]
    chosen = Options(graph, options)
    nodes = dict(graph if isinstance(graph, Mapping) else graph.__dask_graph__())
    runtime = session.runtime()
    inline_max = runtime.config.inline_bytes_max
    failed = True
    with local_callbacks() as callbacks:
        watchers = Watchers(callbacks)
        try:
            watchers.start(nodes)
            plan = make_plan(
                nodes, requested, lambda value: _is_large(value, inline_max), chosen.of if chosen else None
            )
            watchers.planned(plan)
            results = _Computation(plan, chosen.default, watchers).run(persist)
            failed = False
        finally:
            watchers.finish(failed)
    return _nested(keys, results)


def _nested(keys: Any, results: dict[Key, Any]) -> Any:
    return tuple(_nested(key, results) for key in keys) if isinstance(keys, list) else results[keys]


def _is_large(value: Any, inline_max: int) -> bool:
    """Whether an argument is stored and passed as a ref; what is one already always is."""
    kind = type(value)
    if kind in _SMALL:
        return False
    if kind is ObjectRef:
        return True
    if kind is str or kind is bytes:
        return len(value) > inline_max
    if kind in _CONTAINERS and len(value) < _LONG:
        return False
    return int(sizeof(value)) > inline_max


class _Computation:
    """One plan on its way."""

    def __init__(self, plan: Plan, default: dict[str, Any], watchers: Watchers) -> None:
        runtime = session.runtime()
        config = runtime.config
        store_bytes = runtime.store.region.capacity
        self._plan = plan
        self._default = default
        self._watchers = watchers
        self._window = Window(
            store_bytes * config.dask_window_store_share,
            config.dask_window_first,
            int(api.cluster_resources().get("CPU", 1) * config.dask_window_tasks_per_cpu_min),
            config.dask_window_tasks_max,
        )
        self._encoder = Encoder(api.put)
        self._run = api.remote(run)
        self._functions: dict[tuple[str, int], RemoteFunction[..., Any]] = {}
        self._refs: dict[Key | Constant, ObjectRef[Any]] = {}
        self._under_way: list[ObjectRef[Any]] = []
        self._has_warned = False

    def run(self, persist: bool) -> dict[Key, Any]:
        """The values, or the refs, of the requested keys."""
        plan = self._plan
        kept = set(plan.results.values())
        try:
            for step in plan.steps:
                self._submit(step, kept)
                while excess := self._window.excess():
                    self._await(excess)
            if self._watchers or not persist:
                self._finish()
        except BaseException:
            self._cancel()
            raise
        found = {key: self._found(value) for key, value in plan.results.items()}
        if persist:
            return found
        refs = list({value for value in found.values() if type(value) is ObjectRef})
        values = dict(zip(refs, api.get(refs), strict=True))
        return {key: values[value] if type(value) is ObjectRef else value for key, value in found.items()}

    def _found(self, value: Key | Constant) -> Any:
        return value.value if isinstance(value, Constant) else self._refs[value]

    def _submit(self, step: Step, kept: set[Key | Constant]) -> None:
        refs = self._refs
        arguments = []
        for value in step.needs:
            ref = refs.get(value)
            if ref is None:
                assert isinstance(value, Constant), f"{value!r} comes after what needs it"
                ref = refs[value] = value.value if type(value.value) is ObjectRef else api.put(value.value)
            arguments.append(ref)
        program, functions = self._encoder.encode(step.program, len(arguments))
        name = key_split(step.key)
        ref = self._function(name, step.options).remote(program, *arguments, *functions)
        refs[step.key] = ref
        self._under_way.append(ref)
        self._window.opened(ref.id, name)
        self._watchers.submitted(step, ref)
        uses = self._plan.uses
        for value in step.needs:
            uses[value] -= 1
            if not uses[value] and value not in kept:
                del refs[value]

    def _function(self, name: str, options: dict[str, Any] | None) -> RemoteFunction[..., Any]:
        options = self._default if options is None else options
        function = self._functions.get((name, id(options)))
        if function is None:
            if "num_returns" in options:
                raise ValueError(f"{NAMES[1]}: a task of Dask has one result; num_returns is not for it")
            function = self._functions[name, id(options)] = self._run.options(**{"name": name, **options})
        return function

    def _await(self, count: int) -> None:
        """Wait until ``count`` more tasks have ended, or for long, and some have; raises the error of one that has failed.

        When none has for long it is said once why.
        """
        runtime = session.runtime()
        warn_s = None if self._has_warned else runtime.config.get_warning_s
        ready, self._under_way = api.wait(
            self._under_way, num_returns=count, timeout=warn_s, fetch_local=False
        )
        if not ready:
            self._has_warned = True
            runtime.explain.say(self._under_way)
        for ref in ready:
            entry = ref._entry
            assert entry is not None
            if entry.state == FAILED:
                api.get(ref)
            self._window.closed(ref.id, entry.size)
            self._watchers.ended(ref)

    def _finish(self) -> None:
        """Wait for all; results that nobody needs any more go meanwhile."""
        while self._under_way:
            self._await(1 if self._watchers else max(1, len(self._under_way) // 2))

    def _cancel(self) -> None:
        for ref in self._under_way:
            if ref._entry is not None and ref._entry.state == PENDING:
                api.cancel(ref)
        self._under_way.clear()

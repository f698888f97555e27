"""Options of tasks: those that a computation was given, and what `dask.annotate` says of some of them.

Annotations belong to layers of a graph, which Dask's optimizations may have made into others; so they are taken from the layers
before that, by key. A task that Dask has fused of several has the annotations of all, the last one's first.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import dask
from dask.highlevelgraph import HighLevelGraph

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterable, Iterator, Mapping

    Key = Hashable

# Ray's name for it too: what was written for Ray runs.
NAMES = ("ray_remote_args", "shoal_remote_args")


class Options:
    """The options of each task of one computation."""

    def __init__(self, graph: Any, given: Mapping[str, Any]) -> None:
        self._made: dict[str, dict[str, Any]] = {}
        self._by_key: dict[Key, Any] = {}
        self._given = dict(given)
        around = dask.get_annotations()
        self.default = self._shared({**self._given, **_remote_args(around, None)})
        for layer in _layers(graph):
            if layer.annotations:
                annotations = {**around, **layer.annotations}
                self._by_key.update((key, annotations) for key in layer.get_output_keys())

    def __bool__(self) -> bool:
        return bool(self._by_key)

    def of(self, keys: Iterable[Key]) -> dict[str, Any]:
        """The options of a task that does what several keys stand for, its own last; the same object for the same options."""
        found = [_remote_args(self._by_key[key], key) for key in keys if key in self._by_key]
        if not found:
            return self.default
        merged = dict(self._given)
        for each in found:
            merged.update(each)
        return self._shared(merged)

    def _shared(self, options: dict[str, Any]) -> dict[str, Any]:
        return self._made.setdefault(repr(sorted(options.items())), options)


def _remote_args(annotations: Mapping[str, Any], key: Key) -> dict[str, Any]:
    """What annotations mean as options of a task."""
    if "resources" in annotations:
        raise ValueError(
            "resources of Dask's own scheduler do not say what a task of shoal needs: "
            'use dask.annotate(shoal_remote_args={"resources": {...}}), or "num_gpus", "memory" and so on in it'
        )
    options: dict[str, Any] = {}
    retries = _value(annotations, "retries", key)
    if retries is not None:
        options.update(max_retries=retries, retry_exceptions=True)
    for name in NAMES:
        options.update(_value(annotations, name, key) or {})
    return options


def _value(annotations: Mapping[str, Any], name: str, key: Key) -> Any:
    value = annotations.get(name)
    return value(key) if callable(value) else value


def _layers(graph: Any) -> Iterator[Any]:
    """The layers of a graph or an expression, as they were before optimizations."""
    if isinstance(graph, HighLevelGraph):
        yield from graph.layers.values()
    elif hasattr(graph, "walk"):
        for expression in graph.walk():
            layers = getattr(getattr(expression, "hlg", None), "layers", None)
            if layers is not None:
                yield from layers.values()

"""Counters, gauges and histograms of user code, by Ray's names. `shoal metrics` prints them for Prometheus.

Each process counts for itself, which costs a lock and an addition; nobody hears of it until somebody asks. So what a process has
counted goes with it, and sums over processes are the reader's: each series says which process it is of.

    requests = Counter("requests", description="Answered.", tag_keys=("route",))
    requests.inc(tags={"route": "/"})

Two objects of one name in a process are one metric; they need the same kind, tags and boundaries.
"""

from __future__ import annotations

import bisect
import math
import re
import threading
from collections.abc import Mapping, Sequence
from typing import Any

SERIES_MAX = 10_000  # of one metric in one process; one more is refused: tags are for few values
_NAME = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*")
_TAG = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*")

_lock = threading.Lock()
_families: dict[str, _Family] = {}


class _Family:
    """All series of one name."""

    def __init__(
        self, kind: str, description: str, tag_keys: tuple[str, ...], boundaries: tuple[float, ...]
    ) -> None:
        self.kind = kind
        self.description = description
        self.tag_keys = tag_keys
        self.boundaries = boundaries
        # By the values of the tags: the value; or of a histogram how many up to each boundary, how many beyond, their sum.
        self.series: dict[tuple[str, ...], list[float]] = {}


class Metric:
    """What the three kinds share."""

    _kind = ""

    def __init__(
        self,
        name: str,
        description: str = "",
        tag_keys: Sequence[str] | None = None,
        boundaries: Sequence[float] = (),
    ) -> None:
        if type(name) is not str or not _NAME.fullmatch(name):
            raise ValueError(f"{name!r} is no name of a metric: letters, digits, '_' and ':', no digit first")
        if isinstance(tag_keys, str) or not all(isinstance(key, str) for key in tag_keys or ()):
            raise TypeError(f"tag_keys needs a tuple of strings, not {tag_keys!r}")
        wrong = [key for key in tag_keys or () if not _TAG.fullmatch(key)]
        if wrong:
            raise ValueError(
                f"tag_keys: {wrong[0]!r} is no name of a tag: letters, digits and '_', no digit first"
            )
        self._name, self._description = name, description
        self._tag_keys, self._boundaries = tuple(tag_keys or ()), tuple(boundaries)
        self._defaults: dict[str, str] = {}
        self._family = self._joined()

    def _joined(self) -> _Family:
        made = _Family(self._kind, self._description, self._tag_keys, self._boundaries)
        with _lock:
            family = _families.setdefault(self._name, made)
        if (family.kind, family.tag_keys, family.boundaries) != (made.kind, made.tag_keys, made.boundaries):
            raise ValueError(
                f"there is a {family.kind} {self._name!r} with tags {family.tag_keys} already: use that one, or another name"
            )
        return family

    @property
    def info(self) -> dict[str, Any]:
        """name, description, tag_keys and default_tags."""
        return {
            "name": self._name,
            "description": self._description,
            "tag_keys": self._tag_keys,
            "default_tags": dict(self._defaults),
        }

    def set_default_tags(self, default_tags: Mapping[str, str]) -> None:
        """Values of tags that are not given with a value; raises ValueError for a tag that the metric does not have."""
        self._known(default_tags)
        self._defaults = dict(default_tags)

    def _known(self, tags: Mapping[str, str]) -> None:
        for key, value in tags.items():
            if key not in self._tag_keys:
                raise ValueError(
                    f"metric {self._name!r} has no tag {key!r}; it has {', '.join(self._tag_keys) or 'none'}"
                )
            if not isinstance(value, str):
                raise TypeError(f"tag {key!r} of metric {self._name!r} needs a string, not {value!r}")

    def _series(self, tags: Mapping[str, str] | None) -> list[float]:
        """The figures for these tags (lock held)."""
        if tags:
            self._known(tags)
        given = {**self._defaults, **(tags or {})}
        missing = [key for key in self._tag_keys if key not in given]
        if missing:
            raise ValueError(f"metric {self._name!r} needs a value for its tag {missing[0]!r}")
        key = tuple(given[key] for key in self._tag_keys)
        series = self._family.series
        if key not in series:
            if len(series) >= SERIES_MAX:
                raise ValueError(
                    f"metric {self._name!r} has {SERIES_MAX} series: its tags have too many values"
                )
            series[key] = [0.0] * (len(self._boundaries) + 2 if self._boundaries else 1)
        return series[key]

    def __reduce__(self) -> Any:
        return _remade, (
            type(self),
            self._name,
            self._description,
            self._tag_keys,
            self._boundaries,
            self._defaults,
        )


def _remade(
    kind: type[Metric],
    name: str,
    description: str,
    tag_keys: tuple[str, ...],
    boundaries: tuple[float, ...],
    defaults: dict[str, str],
) -> Metric:
    more = {"boundaries": boundaries} if boundaries else {}
    metric = kind(name, description, tag_keys=tag_keys, **more)
    metric.set_default_tags(defaults)
    return metric


class Counter(Metric):
    """A sum that only grows."""

    _kind = "counter"

    def __init__(self, name: str, description: str = "", tag_keys: Sequence[str] | None = None) -> None:
        super().__init__(name, description, tag_keys)

    def inc(self, value: float = 1.0, tags: Mapping[str, str] | None = None) -> None:
        """Add ``value``; raises ValueError unless it is more than 0."""
        if not value > 0 or math.isinf(value):
            raise ValueError(f"counter {self._name!r} grows by more than 0, not by {value!r}")
        with _lock:
            self._series(tags)[0] += value


class Gauge(Metric):
    """A value that goes up and down."""

    _kind = "gauge"

    def __init__(self, name: str, description: str = "", tag_keys: Sequence[str] | None = None) -> None:
        super().__init__(name, description, tag_keys)

    def set(self, value: float, tags: Mapping[str, str] | None = None) -> None:
        """It is ``value`` now."""
        with _lock:
            self._series(tags)[0] = float(value)


class Histogram(Metric):
    """How many values lie up to each of some boundaries, how many there are, and their sum.

    Args:
        boundaries: more than 0, in ascending order.
    """

    _kind = "histogram"

    def __init__(
        self,
        name: str,
        description: str = "",
        boundaries: Sequence[float] | None = None,
        tag_keys: Sequence[str] | None = None,
    ) -> None:
        limits = tuple(float(limit) for limit in boundaries or ())
        if not limits or limits[0] <= 0 or list(limits) != sorted(set(limits)):
            raise ValueError(
                f"boundaries of histogram {name!r}: ascending numbers above 0 are needed, not {boundaries!r}"
            )
        super().__init__(name, description, tag_keys, limits)

    def observe(self, value: float, tags: Mapping[str, str] | None = None) -> None:
        """Count ``value``."""
        with _lock:
            series = self._series(tags)
            series[bisect.bisect_left(self._boundaries, value)] += 1
            series[-1] += value


def rows() -> list[dict[str, Any]]:
    """All metrics of this process: {"name", "kind", "description", "boundaries", "series": [[tags, figures]…]}."""
    with _lock:
        return [
            {
                "name": name,
                "kind": family.kind,
                "description": family.description,
                "boundaries": list(family.boundaries),
                "series": [
                    [dict(zip(family.tag_keys, key, strict=True)), list(figures)]
                    for key, figures in family.series.items()
                ],
            }
            for name, family in _families.items()
        ]

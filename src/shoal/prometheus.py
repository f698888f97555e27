"""The text format of Prometheus, version 0.0.4, of rows of metrics. Pure.

A metric is {"name", "kind" "counter"|"gauge"|"histogram", "description", "boundaries", "series": [[tags, figures]…]}; the figures
are one value, or of a histogram how many up to each boundary, how many beyond, and their sum.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate
from typing import Any

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


def text_of(user_rows: Sequence[Mapping[str, Any]], runtime: Sequence[Mapping[str, Any]]) -> str:
    """Both as one text, the runtime's own (`shoal.figures`) first. A metric of user code that has the name of one of them is left
    out, since a name may be there only once.
    """
    own = {metric["name"] for metric in runtime}
    users = [
        {**row, "metrics": [metric for metric in row["metrics"] if metric["name"] not in own]}
        for row in user_rows
    ]
    return "".join(f"{line}\n" for line in (*metric_lines(runtime), *prometheus_lines(users)))


def metric_lines(metrics: Sequence[Mapping[str, Any]]) -> list[str]:
    """The text of metrics whose series have all of their tags."""
    lines = []
    for metric in metrics:
        lines += _head(metric)
        for tags, figures in metric["series"]:
            lines += _series(metric["name"], tags, figures, metric["boundaries"])
    return lines


def prometheus_lines(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The text of all metrics; a metric's series stand together, whatever process they are of."""
    families: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        process = {"node_id": str(row["node_id"]), "pid": str(row["pid"])}
        for metric in row["metrics"]:
            name, kind = metric["name"], metric["kind"]
            lines = families.setdefault((name, kind), _head(metric))
            for tags, figures in metric["series"]:
                lines += _series(name, {**tags, **process}, figures, metric["boundaries"])
    return [line for _, lines in sorted(families.items()) for line in lines]


def _head(metric: Mapping[str, Any]) -> list[str]:
    name = metric["name"]
    return [f"# HELP {name} {_escaped(metric['description'])}", f"# TYPE {name} {metric['kind']}"]


def _series(
    name: str, tags: Mapping[str, str], figures: Sequence[float], boundaries: Sequence[float]
) -> Iterator[str]:
    if not boundaries:
        yield f"{name}{_tags(tags)} {figures[0]:.12g}"
        return
    *counts, total = figures
    for limit, count in zip([*boundaries, float("inf")], accumulate(counts), strict=True):
        text = "+Inf" if limit == float("inf") else f"{limit:g}"
        yield f"{name}_bucket{_tags({**tags, 'le': text})} {count:.12g}"
    yield f"{name}_sum{_tags(tags)} {total:.12g}"
    yield f"{name}_count{_tags(tags)} {sum(counts):.12g}"


def _tags(tags: Mapping[str, str]) -> str:
    if not tags:
        return ""
    return "{" + ",".join(f'{key}="{_escaped(value, quotes=True)}"' for key, value in tags.items()) + "}"


def _escaped(text: str, quotes: bool = False) -> str:
    text = text.replace("\\", "\\\\").replace("\n", "\\n")
    return text.replace('"', '\\"') if quotes else text

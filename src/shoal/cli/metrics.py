"""shoal metrics: what user code has counted (shoal.util.metrics), in the text format of Prometheus.

It is printed, not served: a port that anybody may read is not the runtime's to open. Node exporter takes such a file.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate
from typing import Any

import click

from shoal.cli.common import ask_all, asking_options, print_json
from shoal.cli.status_report import silent_notes


@click.command("metrics")
@asking_options
def metrics_command(address: str, temp_dir: str | None, as_json: bool) -> None:
    """Print the counters, gauges and histograms of all processes of the cluster, in the text format of Prometheus.

    For its node exporter: shoal metrics > DIR/shoal.prom, with --collector.textfile.directory=DIR.
    """
    answer = ask_all(address, temp_dir, "metrics")
    if as_json:
        print_json({"rows": answer["rows"], "silent": answer["silent"]})
        return
    for line in prometheus_lines(answer["rows"]):
        click.echo(line)
    for note in silent_notes(answer["silent"]):
        click.echo(note, err=True)


def prometheus_lines(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The text of all metrics; a metric's series stand together, whatever process they are of."""
    families: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        process = {"node_id": str(row["node_id"]), "pid": str(row["pid"])}
        for metric in row["metrics"]:
            name, kind = metric["name"], metric["kind"]
            lines = families.setdefault(
                (name, kind), [f"# HELP {name} {_escaped(metric['description'])}", f"# TYPE {name} {kind}"]
            )
            for tags, figures in metric["series"]:
                lines += _series(name, {**tags, **process}, figures, metric["boundaries"])
    return [line for _, lines in sorted(families.items()) for line in lines]


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
    return "{" + ",".join(f'{key}="{_escaped(value, quotes=True)}"' for key, value in tags.items()) + "}"


def _escaped(text: str, quotes: bool = False) -> str:
    text = text.replace("\\", "\\\\").replace("\n", "\\n")
    return text.replace('"', '\\"') if quotes else text

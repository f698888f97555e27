"""shoal memory."""

from __future__ import annotations

from typing import Any

import click

from shoal.cli import memory_report as report
from shoal.cli.common import ask_all, asking_options, print_json
from shoal.cli.format import Table
from shoal.cli.output import show
from shoal.cli.status_report import silent_notes
from shoal.sizes import UNITS


@click.command("memory")
@click.option("--stats", is_flag=True, help="Also the figures of each store.")
@click.option("--stats-only", is_flag=True, help="Only these.")
@click.option(
    "--group-by", type=click.Choice(["node", "call-site", "state"]), help="Sums instead of objects."
)
@click.option("--sort-by", type=click.Choice(["size", "age", "pid"]), default="size", show_default=True)
@click.option("--units", type=click.Choice([*list(UNITS)[:4], "auto"]), default="auto", show_default=True)
@click.option("-n", "--limit", type=click.IntRange(min=0), help="Print at most this many rows.")
@asking_options
def memory_command(
    stats: bool,
    stats_only: bool,
    group_by: str | None,
    sort_by: str,
    units: str,
    limit: int | None,
    address: str,
    temp_dir: str | None,
    as_json: bool,
) -> None:
    """Show what is in the object store, who holds it, by which kind of hold, and where it was made.

    A hold is a reference that a process (or another object) has. A pin is a view into the memory; a process keeps it for
    the next read until the room is needed. SIZE is what an object takes out of the store, and the line under the table
    adds it up to what is used.
    """
    answered = ask_all(address, temp_dir, "memory")
    nodes, silent = answered["nodes"], answered["silent"]
    if not stats_only and not group_by:
        nodes = report.with_tasks(nodes, ask_all(address, temp_dir, "tasks")["rows"])
    rows = report.sort_rows(report.rows_of(nodes), sort_by)
    if as_json:
        answer: dict[str, Any] = {}
        if not stats_only:
            answer["groups" if group_by else "rows"] = (
                report.group_rows(rows, group_by) if group_by else rows
            )[:limit]
        if stats or stats_only:
            answer["stats"] = {node["node_id"]: node["stats"] for node in nodes}
        answer["total"] = report.add_stats(node["stats"] for node in nodes)
        answer["silent"] = silent
        print_json(answer)
        return
    tables: list[Table] = []
    if group_by and not stats_only:
        tables.append(report.groups_table(rows, nodes, group_by, units, limit))
    elif not stats_only:
        tables.append(report.objects_table(rows, nodes, units, limit))
    if stats or stats_only:
        tables += report.stats_tables(nodes, units)
    show(*tables)
    for line in silent_notes(silent):
        click.echo(line)

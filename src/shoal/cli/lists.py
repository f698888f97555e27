"""shoal list, shoal why."""

from __future__ import annotations

import time
from dataclasses import replace

import click

from shoal.cli import status_report as report
from shoal.cli.common import Kinds, ask_all, asking, asking_options, print_json
from shoal.cli.output import show

_REQUESTS = {"placement-groups": "groups"}  # for kinds of other names


@click.command("list")
@click.argument(
    "kind",
    type=Kinds(["nodes", "workers", "tasks", "actors", "objects", "jobs", "placement-groups"]),
)
@click.option("-n", "--limit", type=click.IntRange(min=0), help="Print at most this many rows.")
@asking_options
def list_command(kind: str, limit: int | None, address: str, temp_dir: str | None, as_json: bool) -> None:
    """List the nodes of the cluster; or its workers, tasks, actors, objects, jobs or placement groups."""
    answer = ask_all(address, temp_dir, _REQUESTS.get(kind, kind))
    rows, silent = answer["rows"], answer.get("silent", [])
    if as_json:
        print_json({"rows": rows[:limit], "silent": silent})
        return
    table = report.list_table(kind, rows[:limit], time.time())
    notes = report.silent_notes(silent)
    more = max(0, len(rows) - limit) if limit is not None else 0
    if more or answer.get("left_out"):
        notes.append(f"and {more + answer.get('left_out', 0)} more")
    show(replace(table, notes=[*table.notes, *notes]))


@click.command("why")
@click.argument("wanted", metavar="ID")
@asking_options
def why_command(wanted: str, address: str, temp_dir: str | None, as_json: bool) -> None:
    """Show the chain of what the task or object ID (in hex, or its beginning) waits for; exit with 1 if nobody knows it."""
    try:
        bytes.fromhex(wanted + "0" * (len(wanted) % 2))
    except ValueError:
        raise click.ClickException(
            f"{wanted!r} is no id: ids are hexadecimal, as `shoal list` shows them"
        ) from None
    with asking(address, temp_dir) as daemon:
        answer = daemon.request("why", {"id": wanted.lower()})
    if as_json:
        print_json(answer)
    else:
        for line in report.why_lines(wanted, answer):
            click.echo(line)
    if not answer.get("rows"):
        click.get_current_context().exit(1)

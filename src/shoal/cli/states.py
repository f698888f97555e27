"""shoal get, shoal summary."""

from __future__ import annotations

import json
from typing import Any

import click

from shoal import states
from shoal.cli.common import Kinds, ask_all, asking_options, print_json
from shoal.cli.format import Table
from shoal.cli.output import show
from shoal.cli.status_report import silent_notes
from shoal.sizes import bytes_text


@click.command("get")
@click.argument("kind", type=Kinds(list(states.KINDS)))
@click.argument("wanted", metavar="ID")
@asking_options
def get_command(kind: str, wanted: str, address: str, temp_dir: str | None, as_json: bool) -> None:
    """Show all that is known of one task, actor, object, node, worker (also by its pid), placement group or job.

    ID is its id, or as much of its beginning as tells it from the others.
    """
    answer = ask_all(address, temp_dir, states.KINDS[kind].method)
    silent = answer.get("silent", [])
    try:
        row = states.find(kind, answer["rows"], wanted)
    except states.NotOne as error:
        raise click.ClickException("; ".join([str(error), *silent_notes(silent)])) from None
    if as_json:
        print_json(row)
        return
    for line in [*field_lines(row), *silent_notes(silent)]:
        click.echo(line)


def field_lines(row: states.Row, indent: str = "") -> list[str]:
    """A line for each field; fields that hold rows have these under them."""
    width = max((len(name) for name in row), default=0)
    lines = []
    for name, value in row.items():
        if isinstance(value, list) and value and all(isinstance(item, dict) for item in value):
            lines.append(f"{indent}{name}")
            for number, item in enumerate(value, 1):
                lines += [f"{indent}  {number}:", *field_lines(item, indent + "    ")]
        else:
            lines.append(f"{indent}{name.ljust(width)}  {_text(value)}")
    return lines


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value or "-"
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, float):
        return f"{value:.3f}".rstrip("0").rstrip(".")
    return "-" if value is None else json.dumps(value, default=_text)


@click.command("summary")
@click.argument("kind", type=Kinds(states.SUMMARIES))
@asking_options
def summary_command(kind: str, address: str, temp_dir: str | None, as_json: bool) -> None:
    """Count tasks by function, actors by class, or objects and their bytes by call site; and by state."""
    answer = ask_all(address, temp_dir, kind)
    summary = states.summarize(kind, answer["rows"])
    silent, left_out = answer.get("silent", []), answer.get("left_out", 0)
    if as_json:
        print_json({**summary, "silent": silent, "left_out": left_out})
        return
    notes = silent_notes(silent)
    if left_out:
        notes.append(f"{left_out} rows beyond what daemons answer at once are not counted")
    show(summary_table(kind, summary, notes))


def summary_table(kind: str, summary: states.Row, notes: list[str]) -> Table:
    """What `states.summarize` has counted, as a table."""
    cluster = summary["cluster"]
    found = cluster["summary"].items()
    if kind == "objects":
        rows = [
            (
                site,
                str(total["total_objects"]),
                bytes_text(total["total_size_bytes"]),
                str(total["total_references"]),
                _counts(total["state_counts"]),
            )
            for site, total in found
        ]
        title = f"{cluster['total_objects']} objects, {bytes_text(cluster['total_size_bytes'])}"
        return Table(
            ("CALL SITE", ">OBJECTS", ">SIZE", ">REFS", "STATES"), rows, title, notes, ("STATES", "REFS")
        )
    what = "FUNCTION" if kind == "tasks" else "CLASS"
    rows2 = [
        (name, str(sum(total["state_counts"].values())), _counts(total["state_counts"]))
        for name, total in found
    ]
    return Table(
        (what, f">{kind.upper()}", "STATES"), rows2, f"{cluster[f'total_{kind}']} {kind}", notes, ("STATES",)
    )


def _counts(states_of: dict[str, int]) -> str:
    return ", ".join(
        f"{count} {state}" for state, count in sorted(states_of.items(), key=lambda item: -item[1])
    )

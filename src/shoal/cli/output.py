"""Printing tables: with rich on a terminal, as plain aligned text into a pipe."""

from __future__ import annotations

import sys

import click

from shoal.cli.format import Table, plain_lines


def show(*tables: Table) -> None:
    """Print tables, an empty line between them."""
    for index, table in enumerate(tables):
        if index:
            click.echo()
        if sys.stdout.isatty():
            _show_rich(table)
        else:
            for line in plain_lines(table):
                click.echo(line)


def _show_rich(table: Table) -> None:
    # Imported here: rich costs 60 ms, and pipes do not need it.
    from rich import box
    from rich.console import Console
    from rich.table import Table as RichTable
    from rich.text import Text

    drawn = RichTable(box=box.SIMPLE_HEAD, title=table.title or None, title_justify="left", pad_edge=False)
    for column in table.columns:
        right = column.startswith(">")
        drawn.add_column(column.lstrip(">"), justify="right" if right else "left", overflow="fold")
    for row in table.rows:
        drawn.add_row(*(Text(cell) for cell in row))
    console = Console()
    console.print(drawn)
    for note in table.notes:
        console.print(Text(note))

"""Printing tables: fitted to a terminal, with titles and heads in bold; as plain text of any width into a pipe."""

from __future__ import annotations

import shutil
import sys

import click

from shoal.cli.format import Table, table_lines


def show(*tables: Table) -> None:
    """Print tables, an empty line between them."""
    terminal = sys.stdout.isatty()
    width = shutil.get_terminal_size().columns if terminal else None
    for index, table in enumerate(tables):
        if index:
            click.echo()
        heads = (1 if table.title else 0) + (1 if table.rows else 0)
        for number, line in enumerate(table_lines(table, width)):
            click.echo(click.style(line, bold=True) if terminal and number < heads else line)

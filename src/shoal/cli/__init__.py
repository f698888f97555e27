"""The `shoal` command. Each command's module is imported when it is used, so that `--help` is fast."""

from __future__ import annotations


def main() -> None:
    """Run the command line and exit with its status."""
    from shoal.cli.app import app

    app(prog_name="shoal")

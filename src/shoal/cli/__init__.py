"""The `shoal` command. Each command's module is imported when it is used, so that `--help` is fast."""

from __future__ import annotations


def main() -> None:
    """Run the command line and exit with its status."""
    from shoal.bootstrap import keep_standard_descriptors
    from shoal.cli.app import app

    keep_standard_descriptors()
    app(prog_name="shoal")

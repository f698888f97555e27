"""shoal status, shoal health-check."""

from __future__ import annotations

import time

import click

from shoal.cli import status_report as report
from shoal.cli.common import asking, asking_options, print_json
from shoal.cli.output import show


@click.command("status")
@asking_options
def status_command(address: str, temp_dir: str | None, as_json: bool) -> None:
    """Show nodes and their health, resources in use and in all, and what waits for them and why."""
    with asking(address, temp_dir) as daemon:
        status = daemon.request("status", {"cluster": True})
    if as_json:
        print_json(status)
        return
    for line in report.status_lines(status):
        click.echo(line)
    click.echo()
    pending = report.pending_table(status)
    show(report.nodes_table(report.fresh_nodes(status)), *([pending] if pending is not None else []))
    for line in report.silent_notes(status["silent"]):
        click.echo(line)


@click.command("health-check")
@asking_options
def health_check_command(address: str, temp_dir: str | None, as_json: bool) -> None:
    """Exit with 0 if this machine's node answers and is connected to its head, with 1 otherwise."""
    began = time.monotonic()
    with asking(address, temp_dir) as daemon:
        status = daemon.request("status")
    took_ms = (time.monotonic() - began) * 1000
    head = status.get("head", {})
    healthy = bool(head.get("address")) and not head.get("trouble")
    if as_json:
        print_json({"healthy": healthy, "head": head, "node_id": status["node_id"], "took_ms": took_ms})
    elif healthy:
        click.echo(
            f"healthy: node {status['node_id'][:8]} and head {head['address']} answered in {took_ms:.1f} ms"
        )
    if not healthy:
        reason = head.get("trouble") or "no head yet"
        raise click.ClickException(f"node {status['node_id'][:8]} has no connection to its head: {reason}")

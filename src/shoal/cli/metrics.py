"""shoal metrics: what the runtime and user code (shoal.util.metrics) have counted, in the text format of Prometheus."""

from __future__ import annotations

import click

from shoal.cli.common import asking, asking_options, print_json
from shoal.cli.status_report import silent_notes
from shoal.figures import metrics_of
from shoal.prometheus import text_of


@click.command("metrics")
@asking_options
def metrics_command(address: str, temp_dir: str | None, as_json: bool) -> None:
    """Print what all nodes and processes of the cluster count, in the text format of Prometheus.

    That is the runtime's own metrics (shoal_...), and counters, gauges and histograms of user code. For its node exporter:
    shoal metrics > DIR/shoal.prom, with --collector.textfile.directory=DIR.
    """
    with asking(address, temp_dir) as daemon:
        nodes = daemon.request("nodes")["rows"]
        figures = daemon.request("figures", {"cluster": True})
        users = daemon.request("metrics", {"cluster": True})
    silent = sorted({*figures["silent"], *users["silent"]})
    if as_json:
        print_json({"rows": users["rows"], "nodes": figures["rows"], "silent": silent})
        return
    click.echo(text_of(users["rows"], metrics_of(figures["rows"], nodes, len(silent))), nl=False)
    for note in silent_notes(silent):
        click.echo(note, err=True)

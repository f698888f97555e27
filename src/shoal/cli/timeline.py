"""shoal timeline."""

from __future__ import annotations

import json

import click

from shoal.cli.common import ask_all, asking_options
from shoal.client.timeline import chrome_events


@click.command("timeline")
@click.argument(
    "file", default="shoal-timeline.json", type=click.Path(dir_okay=False, writable=True, allow_dash=True)
)
@asking_options
def timeline_command(file: str, address: str, temp_dir: str | None, as_json: bool) -> None:
    """Write what ran when to FILE, as a Chrome trace (for chrome://tracing or ui.perfetto.dev); "-" is standard output."""
    answer = ask_all(address, temp_dir, "timeline")
    events = chrome_events(answer["rows"])
    try:
        with click.open_file(file, "w") as target:
            json.dump(events, target)
    except OSError as error:
        raise click.ClickException(f"cannot write {file}: {error.strerror}") from None
    ran = sum(event["ph"] == "X" for event in events)
    if as_json:
        click.echo(json.dumps({"file": file, "events": ran, "silent": answer["silent"]}), err=file == "-")
        return
    click.echo(f"{ran} tasks and calls in {file}", err=True)
    for name in answer["silent"]:
        click.echo(f"{name} did not answer in time", err=True)

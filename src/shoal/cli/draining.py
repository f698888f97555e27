"""shoal drain."""

from __future__ import annotations

import time

import click

from shoal.cli.common import asking, asking_options, print_json

_LOOK_S = 0.2
_SHOWN_MAX = 5


@click.command("drain")
@click.argument("node", metavar="NODE")
@click.option(
    "--wait",
    "wait_s",
    type=click.FloatRange(min=0),
    default=0.0,
    metavar="SECONDS",
    help="Return when nothing runs there any more but actors that stay; fail after that time.",
)
@asking_options
def drain_command(node: str, wait_s: float, address: str, temp_dir: str | None, as_json: bool) -> None:
    """Give NODE (the beginning of its id, or its name) nothing new; what runs there ends in peace.

    Actors with max_restarts go to other nodes after the call that runs (calls in threads or on an event loop are cut off), the
    others stay. It stays in the cluster until it is stopped.
    """
    with asking(address, temp_dir) as daemon:
        node_id = daemon.request("drain", {"node": node})
        deadline = time.monotonic() + wait_s
        while True:
            staying = _staying(daemon.request("actors", {"cluster": True})["rows"], node_id)
            busy = _busy(daemon.request("workers", {"cluster": True})["rows"], node_id, staying)
            if not busy or time.monotonic() >= deadline:
                break
            time.sleep(_LOOK_S)
    if as_json:
        print_json({"node_id": node_id, "busy": busy, "staying": [row["actor_id"] for row in staying]})
    else:
        what = f"{busy} workers run tasks" if busy else "nothing runs there"
        click.echo(f"node {node_id[:8]} drains: {what}{_names(staying)}")
    if busy and wait_s:
        raise click.ClickException(f"node {node_id[:8]} is not done after {wait_s:g} s; it goes on draining")


def _staying(rows: list[dict[str, object]], node_id: str) -> list[dict[str, object]]:
    """The actors there that may not start again elsewhere."""
    return [
        row
        for row in rows
        if row["node_id"] == node_id and row["state"] == "ALIVE" and not row["max_restarts"]
    ]


def _busy(rows: list[dict[str, object]], node_id: str, staying: list[dict[str, object]]) -> int:
    pids = {row["pid"] for row in staying}
    return sum(
        row["node_id"] == node_id and row["state"] in ("leased", "blocked") and row["pid"] not in pids
        for row in rows
    )


def _names(staying: list[dict[str, object]]) -> str:
    if not staying:
        return ""
    shown = ", ".join(
        f"{row['class']} {row['name'] or str(row['actor_id'])[:12]}" for row in staying[:_SHOWN_MAX]
    )
    more = f" and {len(staying) - _SHOWN_MAX} more" if len(staying) > _SHOWN_MAX else ""
    return f"; actors that may not restart stay until it is stopped: {shown}{more}"

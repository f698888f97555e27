"""shoal dashboard: what lets a browser, or Prometheus, into the dashboard of a head on this machine."""

from __future__ import annotations

import click

from shoal.bootstrap import BootstrapError, daemon_to_ask, dashboard_link
from shoal.cli.common import asking_options, failures, print_json
from shoal.control import request
from shoal.wire import web


@click.command("dashboard")
@click.option("--token", is_flag=True, help="Print the bearer token for Prometheus and scripts instead.")
@asking_options
def dashboard_command(token: bool, address: str, temp_dir: str | None, as_json: bool) -> None:
    """Print a link that opens the cluster's dashboard in a browser: once, and within some minutes.

    The dashboard is served on the head's machine, if it was started with --dashboard-port. With --token, for bearer_token_file of
    prometheus.yml (a file that only Prometheus can read): whoever has it can read the metrics and the page's data.
    """
    with failures():
        session = daemon_to_ask(address, temp_dir)
        known = request(session.socket, session.secret, "status")["dashboard"]
        if known is None:
            raise BootstrapError(
                "this node serves no dashboard; the head does if it was started with --dashboard-port (start-head) or "
                "include_dashboard=True (init), and answers this command on its own machine"
            )
        if not known["url"]:
            raise BootstrapError(f"the dashboard is not there: {known['trouble'] or 'it is just starting'}")
        link, bearer = dashboard_link(known["url"], session.secret), web.make_token(session.secret)
    if as_json:
        print_json({"url": known["url"], "link": link, "token": bearer})
    else:
        click.echo(bearer if token else link)

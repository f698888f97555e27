"""start-head, start-node, stop."""

from __future__ import annotations

import os
import shlex
import signal
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import click

from shoal import joining
from shoal.arguments import SPILLING, InitArguments, check_argument, split_directories
from shoal.bootstrap import (
    DEFAULT_PORT,
    BootstrapError,
    DaemonInfo,
    DaemonOptions,
    dashboard_link,
    is_of_cluster,
    normal_address,
    resolve_address,
    start_daemon,
    stop_session,
)
from shoal.cli.common import F, JsonObject, failures, json_option, print_json, temp_dir_option
from shoal.cli.format import parse_bytes
from shoal.config import TLS_MODES, load
from shoal.sessions import Session, clean_stale, find_sessions

_ID_DIGITS_MIN = 6  # tables show eight
_LOOPBACK = {"127.0.0.1", "localhost", "::1"}


class Size(click.ParamType[int]):
    """Bytes, with a unit."""

    name = "size"

    def convert(self, value: Any, parameter: click.Parameter | None, context: click.Context | None) -> int:
        try:
            return value if isinstance(value, int) else parse_bytes(value)
        except ValueError as error:
            self.fail(str(error), parameter, context)


def _node_options(command: F) -> F:
    options: list[Callable[[F], F]] = [
        click.option(
            "--num-cpus", type=click.FloatRange(min=0), help="CPUs to offer (default: all there are)."
        ),
        click.option("--num-gpus", type=click.IntRange(min=0), help="GPUs to offer (default: none)."),
        click.option(
            "--memory",
            type=Size(),
            help="Memory to offer to tasks that say how much they need, such as 8GB (default: what the store leaves).",
        ),
        click.option(
            "--object-store-memory",
            type=Size(),
            help="Shared memory, such as 2GB (default: 30 % of the memory).",
        ),
        click.option(
            "--huge-pages",
            is_flag=True,
            help="Make the store of huge pages, which the system must have set aside (vm.nr_hugepages).",
        ),
        click.option(
            "--object-spilling-directory",
            metavar="PATH[,PATH...]",
            help="Where objects go when the store is full; also URLs such as s3://bucket/path (default: a directory of "
            "the session).",
        ),
        click.option(
            "--resources",
            type=JsonObject(float),
            default="",
            help="Others, such as '{\"disk\": 2}' or disk=2.",
        ),
        click.option("--labels", type=JsonObject(str), default="", help="Labels, such as zone=a,kind=fast."),
        click.option(
            "--tls",
            type=click.Choice(TLS_MODES),
            help="Encrypt what goes to other nodes; the same for all nodes of a cluster (default: auto, which is on but for "
            "loopback addresses).",
        ),
        click.option("--name", default="", help="A name for this node in tables."),
        click.option("--block", is_flag=True, help="Stay in the foreground; Ctrl-C stops the daemon."),
        click.option(
            "--system-config", type=JsonObject(str), default="", help="Settings of shoal.config, name=value."
        ),
        json_option,
        temp_dir_option,
    ]
    for option in reversed(options):
        command = option(command)
    return command


@click.command("start-head")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=DEFAULT_PORT,
    show_default=True,
    help="Its port; 0 for any.",
)
@click.option(
    "--data-dir",
    default="",
    type=click.Path(file_okay=False),
    help="Keep the cluster's state and secret here. A head that is started again with it, at the same address, goes on with "
    "the cluster, and its nodes come back by themselves (default: they go with this head).",
)
@click.option(
    "--include-dashboard/--no-include-dashboard",
    default=None,
    help="Serve a web page and metrics for Prometheus (default: only with --dashboard-port).",
)
@click.option(
    "--dashboard-port",
    type=click.IntRange(0, 65535),
    help="Where; 0 for any port (default: 8265, or any if that is taken).",
)
@click.option("--dashboard-host", default="127.0.0.1", show_default=True, help="Address to serve them on.")
@_node_options
def start_head_command(
    host: str,
    port: int,
    data_dir: str,
    include_dashboard: bool | None,
    dashboard_port: int | None,
    dashboard_host: str,
    block: bool,
    as_json: bool,
    **given: Any,
) -> None:
    """Start a head and a node on this machine.

    They go on when this command returns; `shoal stop` ends them.
    """
    with failures():
        if port:
            _refuse_second_head(f"{host}:{port}", given["temp_dir"])
        wanted = InitArguments(include_dashboard=include_dashboard, dashboard_port=dashboard_port)
        options = _options(
            given,
            head=True,
            data_dir=data_dir,
            host=host,
            port=port,
            dashboard_host=dashboard_host,
            dashboard_port=wanted.dashboard_at,
        )
        exposed = [host] if wanted.dashboard_at is None else [host, dashboard_host]
        for each in dict.fromkeys(exposed):
            if each not in _LOOPBACK and load(dict(options.config)).tls == "off":
                click.echo(
                    f"warning: what {each} sends and receives is authenticated, but not encrypted (TLS is off)",
                    err=True,
                )
        _run(options, as_json, block)


@click.command("start-node")
@click.option("--address", default="", metavar="HOST:PORT", help="The cluster's head.")
@click.option(
    "--secret-file",
    default="",
    type=click.Path(dir_okay=False),
    help="The cluster's secret (default: that of the head on this machine).",
)
@click.option(
    "--join",
    type=click.Path(dir_okay=False, allow_dash=True),
    help="Instead of both: a file (- for standard input) with what `shoal join-string` printed.",
)
@click.option(
    "--host",
    default="",
    help="Where other nodes reach this one (default: the address that leads to the head).",
)
@_node_options
def start_node_command(
    address: str, secret_file: str, join: str | None, host: str, block: bool, as_json: bool, **given: Any
) -> None:
    """Start a node on this machine and join the cluster at --address, or of a join string."""
    with failures():
        if bool(address) == bool(join) or (join and secret_file):
            raise BootstrapError("say which cluster to join: either --address (and --secret-file), or --join")
        secret = None
        if join:
            address, secret = _read_join(join)
        options = _options(
            given, head_address=normal_address(address), secret_file=secret_file, secret=secret, host=host
        )
        _run(options, as_json, block)


def _read_join(path: str) -> tuple[str, bytes]:
    try:
        with click.open_file(path) as file:
            return joining.read_join_string(file.read(joining.BYTES_MAX))
    except OSError as error:
        raise BootstrapError(f"cannot read {path}: {error.strerror}") from None
    except joining.BadJoinString as error:
        raise BootstrapError(f"{'standard input' if path == '-' else path} holds {error}") from None


@click.command("join-string")
@click.option(
    "--address",
    default="auto",
    envvar="SHOAL_ADDRESS",
    metavar="HOST:PORT",
    help="The cluster's head (default: the one on this machine).",
)
@json_option
@temp_dir_option
def join_string_command(address: str, as_json: bool, temp_dir: str | None) -> None:
    """Print the line that another machine needs to join: whoever has it belongs to the cluster.

    For example: shoal join-string | ssh MACHINE shoal start-node --join -
    """
    with failures():
        session = resolve_address(address, temp_dir)
        line = joining.make_join_string(session.head_address, session.secret)
        if as_json:
            print_json({"join": line, "address": session.head_address})
        else:
            click.echo(line)


@click.command("stop")
@click.option("--session", "wanted", metavar="NAME", help="Only this one: its directory, node id or name.")
@click.option("--address", metavar="HOST:PORT", help="Only those of this cluster: the address of its head.")
@click.option("--drain", is_flag=True, help="Let end what runs there first.")
@json_option
@temp_dir_option
def stop_command(
    wanted: str | None, address: str | None, drain: bool, as_json: bool, temp_dir: str | None
) -> None:
    """Stop this user's daemons on this machine, with their workers, and remove what killed ones have left.

    All of them, whatever their clusters, unless --session or --address says which.
    """
    with failures():
        sessions = find_sessions(temp_dir)
        if wanted is not None:
            sessions = [session for session in sessions if matches(session, wanted)]
            if not sessions:
                raise BootstrapError(f"no daemon of yours is called {wanted!r}; `shoal stop` alone stops all")
        if address is not None:
            sessions = [session for session in sessions if is_of_cluster(session, address)]
            if not sessions:
                raise BootstrapError(
                    f"no daemon of yours is of the cluster at {address}; `shoal stop` alone stops all"
                )
        only_some = wanted is not None or address is not None
        stopped = []
        # Heads last: the nodes say goodbye to them.
        for session in sorted(sessions, key=lambda session: session.head):
            outcome = stop_session(session, drain=drain)
            stopped.append({"session": session.directory, "pid": session.pid, "outcome": outcome})
            if not as_json:
                click.echo(f"{outcome}: {describe(session)}")
        for directory in clean_stale(temp_dir) if not only_some else ():
            stopped.append({"session": directory, "pid": 0, "outcome": "removed"})
            if not as_json:
                click.echo(f"removed: {directory}, of a daemon that was killed")
        if as_json:
            print_json(stopped)
        elif not stopped:
            click.echo("nothing to stop: no daemon of yours runs on this machine")


def matches(session: Session, wanted: str) -> bool:
    """Whether a user means ``session`` by ``wanted``: its directory, name, or node id, of which the first digits do."""
    names = {session.directory, os.path.basename(session.directory), session.name}
    if wanted in names or os.path.abspath(wanted) == session.directory:
        return bool(wanted)
    return len(wanted) >= _ID_DIGITS_MIN and session.node_id.startswith(wanted)


def describe(session: Session) -> str:
    """One line about a session."""
    what = "head and node" if session.head else "node"
    owner = f", of process {session.owner_pid}" if session.owner_pid else ""
    cluster = f"the cluster at {session.head_address}" if session.head_address else "its own cluster"
    return f"{what} {session.node_id[:8]} (pid {session.pid}{owner}) of {cluster}"


def started_lines(info: Session, tls: str = "auto", temp_dir: str | None = None) -> list[str]:
    """What start-head and start-node print. ``temp_dir``: where the session is, if that is not where others look."""
    address = info.head_address
    same = "" if tls == "auto" else f" --tls {tls}"
    lines = [f"started {describe(info)}"]
    if temp_dir and temp_dir != os.environ.get("SHOAL_TEMP_DIR"):
        lines.append(
            f"  before the following:       export SHOAL_TEMP_DIR={shlex.quote(os.path.abspath(temp_dir))}"
        )
    if info.head:
        lines += [
            f'  a script on this machine:   shoal.init("auto")  or  shoal.init("{address}")',
            f"  another node here:          shoal start-node --address {address}{same}",
            f"  on another machine:         shoal join-string | ssh MACHINE shoal start-node --join -{same}",
        ]
    if info.dashboard:
        lines.append(f"  dashboard, in a browser:    {dashboard_link(info.dashboard, info.secret)}")
    return [*lines, "  look at it, stop it:        shoal status, shoal stop"]


# Of start-head and start-node, as `init` calls and checks them.
_CHECKED = {
    "num_cpus": "num_cpus",
    "object_store_memory": "object_store_memory",
    "object_spilling_directory": "object_spilling_directory",
    "resources": "resources",
    "labels": "labels",
    "system_config": "_system_config",
}


def _options(given: dict[str, Any], **more: Any) -> DaemonOptions:
    for name, argument in _CHECKED.items():
        if given[name] is not None:
            option = "--" + name.replace("_", "-")
            try:
                given[name] = check_argument(argument, option, given[name])
            except (ValueError, TypeError) as error:
                raise BootstrapError(str(error)) from None
    config, tls = given.pop("system_config"), given.pop("tls")
    if tls is not None:
        config["tls"] = tls
    spilling = config.pop(SPILLING, ()) or split_directories(given.pop("object_spilling_directory") or "")
    given.pop("object_spilling_directory", None)
    amounts = {"GPU": given.pop("num_gpus"), "memory": given.pop("memory")}
    given["resources"] |= {name: float(amount) for name, amount in amounts.items() if amount is not None}
    return DaemonOptions(config=config, spilling_directories=spilling, **given, **more)


def _refuse_second_head(address: str, temp_dir: str | None) -> None:
    for session in find_sessions(temp_dir):
        at = session.head_address
        if session.head and at and normal_address(at) == normal_address(address):
            raise BootstrapError(
                f"a head is running at {address} already (pid {session.pid}); join it with `shoal start-node "
                f"--address {address}`, stop it with `shoal stop`, or start a second one with another --port"
            )


def _run(options: DaemonOptions, as_json: bool, block: bool) -> None:
    """Start a daemon and tell of it; with ``block``, wait for its end, or for a signal to end it."""
    daemon: DaemonInfo | None = None
    asked: list[int] = []

    def interrupt(number: int, _frame: object) -> None:
        asked.append(number)
        raise KeyboardInterrupt

    if block:
        signal.signal(signal.SIGTERM, interrupt)
    try:
        daemon = start_daemon(options)
        _announce(daemon.session, as_json, load(dict(options.config)).tls, options.temp_dir)
        if not block:
            return
        daemon.process.wait()
    except KeyboardInterrupt:
        if daemon is not None:
            click.echo(
                f"{stop_session(daemon.session, drain=asked == [signal.SIGTERM])}: {describe(daemon.session)}"
            )
        return
    status = daemon.process.returncode
    raise BootstrapError(f"the daemon ended by itself (exit status {status}); see `shoal logs`")


def _announce(session: Session, as_json: bool, tls: str, temp_dir: str | None) -> None:
    if as_json:
        link = (
            {"dashboard_url": dashboard_link(session.dashboard, session.secret)} if session.dashboard else {}
        )
        print_json({**asdict(session), **link})
    else:
        click.echo("\n".join(started_lines(session, tls, temp_dir)))

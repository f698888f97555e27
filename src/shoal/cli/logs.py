"""shoal logs: the files that a daemon and its workers write, read directly; it works when they hang."""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Iterator

import click

from shoal.bootstrap import OUTPUT_FILE, BootstrapError
from shoal.cli.common import failures, json_option, print_json, temp_dir_option
from shoal.cli.daemons import describe, matches
from shoal.sessions import Session, find_sessions, load_session, root_directory

_FOLLOW_S = 0.2
_CHUNK_BYTES = 64 * 1024


@click.command("logs")
@click.argument("name", required=False)
@click.option("--session", "wanted", metavar="NAME", help="Of this daemon: its directory, node id or name.")
@click.option(
    "-n", "--lines", type=click.IntRange(min=0), default=50, show_default=True, help="Last lines to show."
)
@click.option("-f", "--follow", is_flag=True, help="Show what is written from now on, until Ctrl-C.")
@json_option
@temp_dir_option
def logs_command(
    name: str | None, wanted: str | None, lines: int, follow: bool, as_json: bool, temp_dir: str | None
) -> None:
    """List the log files of the daemons on this machine, or show the end of those with NAME in their name."""
    with failures():
        sessions = _sessions(wanted, temp_dir)
        found = [(session, path) for session in sessions for path in log_files(session.directory)]
        if name is None:
            _list(found, as_json)
            return
        chosen = [path for _, path in found if name in os.path.basename(path)]
        if not chosen:
            raise BootstrapError(f"no log file is called like {name!r}; `shoal logs` lists them")
    for path in chosen:
        if len(chosen) > 1:
            click.echo(f"==> {path} <==")
        for line in last_lines(path, lines):
            click.echo(line)
    if follow:
        _follow(chosen[-1])


def log_files(directory: str) -> list[str]:
    """Log files of a session, oldest first; what is removed meanwhile is left out."""
    logs = os.path.join(directory, "logs")
    paths = [os.path.join(directory, OUTPUT_FILE)]
    for parent, _, names in os.walk(logs):
        paths += [os.path.join(parent, name) for name in names]
    times = {path: os.path.getmtime(path) for path in paths if os.path.exists(path)}
    return sorted(times, key=lambda path: (times[path], path))


def last_lines(path: str, count: int) -> list[str]:
    """The last lines of a file; raises OSError if it cannot be read."""
    with open(path, encoding="utf-8", errors="replace") as file:
        return [line.rstrip("\n") for line in deque(file, maxlen=count)]


def _sessions(wanted: str | None, temp_dir: str | None) -> list[Session]:
    if wanted is None:
        sessions = find_sessions(temp_dir)
        if not sessions:
            raise BootstrapError(
                "no daemon of yours runs on this machine; --session shows the logs of one that ended"
            )
        return sessions
    for session in find_sessions(temp_dir):
        if matches(session, wanted):
            return [session]
    # One that has ended is found by its directory only.
    ended = load_session(os.path.join(root_directory(temp_dir), os.path.basename(wanted)))
    if ended is None:
        raise BootstrapError(f"no daemon of yours is or was called {wanted!r}")
    return [ended]


def _list(found: list[tuple[Session, str]], as_json: bool) -> None:
    if as_json:
        print_json([{"session": session.directory, "path": path} for session, path in found])
        return
    shown = None
    for session, path in found:
        if session is not shown:
            click.echo(describe(session))
            shown = session
        click.echo(f"  {os.path.getsize(path):>10,}  {path}")


def _follow(path: str) -> None:
    try:
        for text in _appended(path):
            click.echo(text, nl=False)
    except KeyboardInterrupt:
        return


def _appended(path: str) -> Iterator[str]:
    """What is written to ``path`` from now on; goes on in the new file when it is rotated."""
    file = open(path, encoding="utf-8", errors="replace")  # noqa: SIM115  (it changes on rotation)
    try:
        file.seek(0, os.SEEK_END)
        while True:
            text = file.read(_CHUNK_BYTES)
            if text:
                yield text
                continue
            if os.path.exists(path) and os.stat(path).st_ino != os.fstat(file.fileno()).st_ino:
                file.close()
                file = open(path, encoding="utf-8", errors="replace")  # noqa: SIM115
                continue
            time.sleep(_FOLLOW_S)
    finally:
        file.close()

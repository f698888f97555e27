"""What commands share: their options, the connection to a daemon, and how failures reach the user.

A failure that the user can do something about is one line on standard error and exit status 1.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import click

from shoal.bootstrap import BootstrapError, daemon_to_ask
from shoal.control import ControlClient, ControlError
from shoal.sessions import SessionError

F = TypeVar("F", bound=Callable[..., Any])


class Kinds(click.Choice[str]):
    """Words for what is listed, each in the singular as well as in the plural."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        if value not in self.choices:
            other = value[:-1] if value.endswith("s") else f"{value}s"
            value = other if other in self.choices else value
        return super().convert(value, param, ctx)


def temp_dir_option(command: F) -> F:
    return click.option(
        "--temp-dir",
        envvar="SHOAL_TEMP_DIR",
        metavar="DIR",
        help="Where session directories are (default: the system's temporary directory).",
    )(command)


def json_option(command: F) -> F:
    return click.option("--json", "as_json", is_flag=True, help="Print JSON instead of tables.")(command)


def address_option(command: F) -> F:
    return click.option(
        "--address",
        default="auto",
        envvar="SHOAL_ADDRESS",
        metavar="HOST:PORT",
        help="The cluster's head (default: the one on this machine, or SHOAL_ADDRESS).",
    )(command)


def asking_options(command: F) -> F:
    """--address, --temp-dir and --json: for commands that ask a daemon."""
    return address_option(temp_dir_option(json_option(command)))


@contextmanager
def failures() -> Iterator[None]:
    """Turn errors that are the user's to solve into click's one line and exit status 1."""
    try:
        yield
    except (BootstrapError, ControlError, SessionError) as error:
        raise click.ClickException(str(error)) from error


@contextmanager
def asking(address: str, temp_dir: str | None) -> Iterator[ControlClient]:
    """A connection to the local daemon of the cluster at ``address``; failures as in `failures`."""
    with failures():
        session = daemon_to_ask(address, temp_dir)
        with ControlClient(session.socket, session.secret) as client:
            yield client


def ask_all(address: str, temp_dir: str | None, method: str) -> Any:
    """What all nodes of the cluster answer, joined by the local one; failures as in `failures`."""
    with asking(address, temp_dir) as daemon:
        return daemon.request(method, {"cluster": True})


def print_json(value: Any) -> None:
    """Bytes as hex: ids are."""
    click.echo(
        json.dumps(value, indent=2, default=lambda item: item.hex() if isinstance(item, bytes) else str(item))
    )


class JsonObject(click.ParamType[dict[str, Any]]):
    """A JSON object, or name=value pairs with commas."""

    name = "json"

    def __init__(self, kind: type = str) -> None:
        self._kind = kind

    def convert(
        self, value: Any, parameter: click.Parameter | None, context: click.Context | None
    ) -> dict[str, Any]:
        if isinstance(value, dict):
            return value
        try:
            return parse_pairs(value, self._kind)
        except ValueError as error:
            self.fail(str(error), parameter, context)


def parse_pairs(text: str, kind: type) -> dict[str, Any]:
    """A JSON object or "a=1,b=2", with values of ``kind``; raises ValueError."""
    if text.lstrip().startswith("{"):
        try:
            given = json.loads(text)
        except json.JSONDecodeError as error:
            raise ValueError(f"{text!r} is no JSON object: {error}") from None
        return {name: _as_kind(name, value, kind) for name, value in given.items()}
    pairs = {}
    for pair in filter(None, text.split(",")):
        name, equals, value = pair.partition("=")
        if not equals or not name.strip():
            raise ValueError(f"{pair!r} is not name=value")
        pairs[name.strip()] = _as_kind(name.strip(), value, kind)
    return pairs


def _as_kind(name: str, value: Any, kind: type) -> Any:
    try:
        return kind(value)
    except (TypeError, ValueError):
        raise ValueError(f"{name} needs a number, not {value!r}") from None

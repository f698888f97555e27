"""The state of a cluster, for programs: what `shoal list`, `get` and `summary` show, by the names of `ray.util.state`.

All functions ask the cluster of this process; with ``address`` ("auto", or host:port), or without a session, that of a node on
this machine. Rows are dictionaries whose fields are attributes too. What processes have not answered in time is missing, with a
warning.

    list_tasks(filters=[("state", "=", "RUNNING")])
    get_actor("a1b2")               # by its id, or the beginning of it; None if there is none
    summarize_objects()             # {"cluster": {"summary": {call site: {…}}, "total_objects": …}}
"""

# ruff: noqa: A002  (ids are called `id`, as in Ray)

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from typing import Any

from shoal import session, states

_LIMIT = 100
_TIMEOUT_S = 30.0


class State(dict[str, Any]):
    """One task, actor, object, …: fields by name, also as attributes."""

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(f"there is no field {name!r}; there are {', '.join(self)}") from None


def list_tasks(
    address: str | None = None,
    filters: Sequence[states.Filter] = (),
    limit: int = _LIMIT,
    timeout: float = _TIMEOUT_S,
) -> list[State]:
    """Tasks as their owners know them: those under way, and the last that have ended.

    Args:
        address: "auto" or host:port; None: the cluster of this process.
        filters: (field, "=" or "!=", value) each; all have to hold.
        limit: rows at most.
        timeout: in seconds.

    Raises:
        ConnectionError: no cluster to ask, or it does not answer.
        ValueError: a filter that is none.
    """
    return _listed("task", address, filters, limit, timeout)


def list_actors(
    address: str | None = None,
    filters: Sequence[states.Filter] = (),
    limit: int = _LIMIT,
    timeout: float = _TIMEOUT_S,
) -> list[State]:
    """Actors, also some that have ended; see `list_tasks`."""
    return _listed("actor", address, filters, limit, timeout)


def list_objects(
    address: str | None = None,
    filters: Sequence[states.Filter] = (),
    limit: int = _LIMIT,
    timeout: float = _TIMEOUT_S,
) -> list[State]:
    """Objects, a row for each process that has a reference; see `list_tasks`."""
    return _listed("object", address, filters, limit, timeout)


def list_nodes(
    address: str | None = None,
    filters: Sequence[states.Filter] = (),
    limit: int = _LIMIT,
    timeout: float = _TIMEOUT_S,
) -> list[State]:
    """Nodes, also those that have left; see `list_tasks`."""
    return _listed("node", address, filters, limit, timeout)


def list_workers(
    address: str | None = None,
    filters: Sequence[states.Filter] = (),
    limit: int = _LIMIT,
    timeout: float = _TIMEOUT_S,
) -> list[State]:
    """Worker processes; see `list_tasks`."""
    return _listed("worker", address, filters, limit, timeout)


def list_jobs(
    address: str | None = None,
    filters: Sequence[states.Filter] = (),
    limit: int = _LIMIT,
    timeout: float = _TIMEOUT_S,
) -> list[State]:
    """Drivers that are connected; see `list_tasks`."""
    return _listed("job", address, filters, limit, timeout)


def list_placement_groups(
    address: str | None = None,
    filters: Sequence[states.Filter] = (),
    limit: int = _LIMIT,
    timeout: float = _TIMEOUT_S,
) -> list[State]:
    """Placement groups; see `list_tasks`."""
    return _listed("placement-group", address, filters, limit, timeout)


def get_task(id: str, address: str | None = None, timeout: float = _TIMEOUT_S) -> State | None:
    """The task with this id, or whose id alone begins so; None if there is none.

    Raises:
        ConnectionError: no cluster to ask, or it does not answer.
        ValueError: several begin so.
    """
    return _found("task", id, address, timeout)


def get_actor(id: str, address: str | None = None, timeout: float = _TIMEOUT_S) -> State | None:
    """See `get_task`."""
    return _found("actor", id, address, timeout)


def get_objects(id: str, address: str | None = None, timeout: float = _TIMEOUT_S) -> list[State]:
    """What each process that has a reference to the object knows of it; see `get_task`."""
    found = _found("object", id, address, timeout)
    return [] if found is None else [State(row) for row in found["known_by"]]


def get_object(id: str, address: str | None = None, timeout: float = _TIMEOUT_S) -> State | None:
    """The object as the process knows it that knows most, and in "known_by" as all do; see `get_task`."""
    return _found("object", id, address, timeout)


def get_node(id: str, address: str | None = None, timeout: float = _TIMEOUT_S) -> State | None:
    """See `get_task`."""
    return _found("node", id, address, timeout)


def get_worker(id: str, address: str | None = None, timeout: float = _TIMEOUT_S) -> State | None:
    """By its id or its pid; see `get_task`."""
    return _found("worker", id, address, timeout)


def get_job(id: str, address: str | None = None, timeout: float = _TIMEOUT_S) -> State | None:
    """See `get_task`."""
    return _found("job", id, address, timeout)


def get_placement_group(id: str, address: str | None = None, timeout: float = _TIMEOUT_S) -> State | None:
    """See `get_task`."""
    return _found("placement-group", id, address, timeout)


def summarize_tasks(address: str | None = None, timeout: float = _TIMEOUT_S) -> dict[str, Any]:
    """How many tasks of each function there are, by state.

    Returns {"cluster": {"summary": {name: {"state_counts": …}}, "total_tasks": …}}.

    Raises ConnectionError.
    """
    return states.summarize("tasks", _rows("task", address, timeout))


def summarize_actors(address: str | None = None, timeout: float = _TIMEOUT_S) -> dict[str, Any]:
    """How many actors there are of each class, by state; see `summarize_tasks`."""
    return states.summarize("actors", _rows("actor", address, timeout))


def summarize_objects(address: str | None = None, timeout: float = _TIMEOUT_S) -> dict[str, Any]:
    """How many objects, and bytes, come from each call site; see `summarize_tasks`."""
    return states.summarize("objects", _rows("object", address, timeout))


def _listed(
    kind: str, address: str | None, filters: Sequence[states.Filter], limit: int, timeout: float
) -> list[State]:
    rows = states.matching(_rows(kind, address, timeout), filters or ())
    return [State(row) for row in rows[: max(0, limit)]]


def _found(kind: str, wanted: str, address: str | None, timeout: float) -> State | None:
    try:
        return State(states.find(kind, _rows(kind, address, timeout), str(wanted)))
    except states.NotOne as error:
        if error.several:
            raise ValueError(str(error)) from None
        return None


def _rows(kind: str, address: str | None, timeout: float) -> list[dict[str, Any]]:
    about = states.KINDS[kind]
    answer = _answer(about.method, address, timeout)
    missing = [f"no answer in time from {name}" for name in answer.get("silent", ())]
    if answer.get("left_out"):
        missing.append(f"{answer['left_out']} rows beyond what daemons answer at once")
    if missing:
        warnings.warn(f"{about.plural} are incomplete: {'; '.join(missing)}", stacklevel=4)
    # By their names in Ray too.
    return [{f"{kind}_id": row["id"], **row} if about.key == "id" else row for row in answer["rows"]]


def _answer(method: str, address: str | None, timeout: float) -> Any:
    runtime = session.current()
    if address is None and runtime is not None:
        return runtime.request(method, {"cluster": True}, timeout)
    from shoal.bootstrap import BootstrapError, daemon_to_ask
    from shoal.control import ControlClient, ControlError
    from shoal.sessions import SessionError

    try:
        found = daemon_to_ask(address or os.environ.get("SHOAL_ADDRESS") or "auto")
        with ControlClient(found.socket, found.secret, timeout) as client:
            return client.request(method, {"cluster": True})
    except (BootstrapError, ControlError, SessionError) as error:
        raise ConnectionError(str(error)) from error

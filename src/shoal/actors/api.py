"""get_actor, kill, exit_actor, list_named_actors: what users call, besides the handles."""

from __future__ import annotations

from typing import Any, NoReturn

from shoal import session
from shoal.actors.handle import ActorHandle
from shoal.option_checks import flag


class ActorExit(BaseException):
    """Raised by `exit_actor` on its way through the method's code: no error, so `except Exception` lets it pass."""


def get_actor(name: str, namespace: str | None = None) -> ActorHandle:
    """A handle to the living actor of that name, in ``namespace`` or this job's.

    Raises ValueError if there is none, ActorUnavailableError if the head, or the actor's node, does not answer; TypeError for
    what is no name.
    """
    if not isinstance(name, str):
        raise TypeError(f"get_actor needs the name of an actor, a string, not {type(name).__name__}")
    if not name:
        raise ValueError(f"get_actor needs a name, not {name!r}")
    if namespace is not None and not isinstance(namespace, str):
        raise TypeError(f"namespace needs a string, or None, not {type(namespace).__name__}")
    return session.runtime().actors.named(name, namespace)


def kill(actor: ActorHandle, *, no_restart: bool = True) -> None:
    """End an actor for good, in the middle of its calls; these fail with ActorDiedError.

    The actor's node hears of it at once. The call returns when the head has noted the kill, so that nothing brings the actor
    back: neither the death of its node, nor that of this process or its node, nor a restart of the head; and its name is free.
    That takes a millisecond or two; an actor on this node that neither has a name nor has other nodes is just ended. A head that
    cannot be reached is waited for some seconds (`actor_kill_ms_max`); then the call returns, and this node goes on telling it.
    The process itself may live on for as long as the machine it is on cannot be reached.

    ``no_restart`` False: its process ends, and is replaced if `max_restarts` allows; the call returns at once, and a kill that
    does not reach the actor's node is lost. Raises ValueError for what is no actor.
    """
    if not isinstance(actor, ActorHandle):
        raise ValueError(  # noqa: TRY004  as in Ray
            f"kill needs an actor's handle, not {type(actor).__name__}; to stop a task use shoal.cancel(ref)"
        )
    session.runtime().actors.kill(actor, flag("no_restart", no_restart))


def exit_actor() -> NoReturn:
    """End the actor whose method runs, on purpose: it is not restarted, and this call fails with ActorDiedError.

    Raises TypeError outside of actors.
    """
    runtime = session.current()
    if runtime is None or runtime.identity.actor is None:
        raise TypeError("exit_actor can only be called inside an actor's method")
    raise ActorExit


def list_named_actors(all_namespaces: bool = False) -> list[Any]:
    """The names of living actors in this namespace; of all: rows {"name", "namespace"}."""
    what = {"all_namespaces": flag("all_namespaces", all_namespaces)}
    rows = session.runtime().request("named_actors", what)["rows"]
    return rows if all_namespaces else [row["name"] for row in rows]

"""What describes an actor: the dictionary that its creator sends, checked; and what is said of its name."""

from __future__ import annotations

from typing import Any

from shoal.ids import OBJECT_ID_SIZE
from shoald.node import constraints
from shoald.store.errors import ProtocolError

TEXT_MAX = 1000


def name_taken(info: dict[str, Any]) -> str:
    """What to say to who wants a name that another actor has."""
    return (
        f"an actor named {info['name']!r} exists already in namespace {info['namespace']!r}; take another name, "
        "get_if_exists=True, or kill it first"
    )


def kill_reason(no_restart: bool, by: str = "") -> str:
    """Why an actor, or its process, has ended that somebody killed; ``by``: who, and where."""
    what = (
        "it was killed by shoal.kill()"
        if no_restart
        else "its process was killed by shoal.kill(no_restart=False)"
    )
    return f"{what} in {by}" if by else what


def check(actor_id: Any, info: Any) -> None:
    """Raise ProtocolError unless these describe an actor."""
    if type(actor_id) is not bytes or len(actor_id) != OBJECT_ID_SIZE or type(info) is not dict:
        raise ProtocolError("an actor needs an id and a description")
    texts = ("name", "namespace", "class")
    if any(type(info.get(name)) is not str or len(info[name]) > TEXT_MAX for name in texts):
        raise ProtocolError("an actor's names are texts")
    if type(info.get("max_restarts")) is not int or info["max_restarts"] < -1:
        raise ProtocolError("an actor needs its number of restarts")
    if any(type(info.get(name)) is not bool for name in ("detached", "get_if_exists")):
        raise ProtocolError("an actor is detached or not, and gotten or not")
    for name in ("resources", "placement"):
        amounts = info.get(name)
        if type(amounts) is not dict or not all(
            type(k) is str and type(v) is int and 0 <= v < 2**63 for k, v in amounts.items()
        ):
            raise ProtocolError("resources are whole numbers of 1/10,000, not negative")
    if type(info.get("constraints")) is not dict:
        raise ProtocolError("an actor's constraints are a dictionary")
    constraints.read(info["constraints"])
    if type(info.get("table")) is not bytes:
        raise ProtocolError("an actor's table is bytes")

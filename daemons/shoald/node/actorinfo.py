"""What describes an actor: the dictionary that its creator sends, checked; and what is said of it to people."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from shoal.ids import OBJECT_ID_SIZE
from shoald.node import constraints
from shoald.store.errors import ProtocolError

if TYPE_CHECKING:
    from collections import OrderedDict
    from collections.abc import Iterable

    from shoald.node.actors import ActorRecord

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


def rows(
    actors: Iterable[ActorRecord], dead: OrderedDict[bytes, dict[str, Any]], node_id: str, now: float
) -> list[dict[str, Any]]:
    """A row per actor of a node, the living first, for `list actors`."""
    found = [
        {
            "actor_id": record.actor_id.hex(),
            "class": record.info["class"],
            "name": record.info["name"],
            "namespace": record.info["namespace"],
            "state": record.state,
            "pid": record.pid if record.worker_id else 0,
            "node_id": node_id,
            "restarts": record.restarts,
            "max_restarts": record.info["max_restarts"],
            "detached": record.info["detached"],
            "callers": len(record.callers),
            "job": record.owner_job,
            "since_s": now - record.since,
            "reason": record.obstacle or record.final,
        }
        for record in actors
    ]
    found += [
        {
            "actor_id": actor_id.hex(), "class": details.get("class", ""), "name": details.get("name", ""),
            "namespace": "", "state": "DEAD", "pid": details.get("pid", 0), "node_id": node_id, "restarts": 0,
            "max_restarts": 0, "detached": False, "callers": 0, "job": "", "since_s": now - details.get("died_at", now),
            "reason": details["reason"],
        }
        for actor_id, details in reversed(dead.items())
    ]  # fmt: skip
    return found

"""The errors that callers of an actor get when it is dead or out of reach, as the bytes that an owner keeps."""

from __future__ import annotations

from typing import Any

from shoal.exceptions import (
    ActorDiedError,
    ActorUnavailableError,
    RuntimeEnvSetupError,
    ShoalError,
    format_remote_traceback,
)
from shoal.serialization import serialize


def actor_died(actor_id: bytes, class_name: str, details: dict[str, Any]) -> bytes:
    """The actor is dead: why, where, and how its process ended.

    ``details`` as in ACTOR_STATE; the bytes of a constructor's error go first.
    """
    made: bytes | None = details.get("error")
    if made:
        return made
    reason = details.get("reason") or "its process ended"
    error = ActorDiedError(
        f"actor {class_name} is dead: {reason}",
        actor_id=actor_id.hex(),
        actor_name=details.get("name") or "",
        node=details.get("node") or "",
        pid=details.get("pid") or 0,
        exit_code=None if details.get("signal") else details.get("exit_code"),
    )
    return serialize(error).to_bytes()


def actor_unavailable(actor_id: bytes, class_name: str, details: dict[str, Any]) -> bytes:
    """The actor restarts, or the connection to it broke, while the call was under way."""
    reason = details.get("reason")
    why = (
        f"{reason}; it is being restarted"
        if reason
        else "the connection to it broke, and what it had received is lost"
    )
    error = ActorUnavailableError(
        f"actor {class_name} could not answer: {why}, and whether the call ran is not known",
        actor_id=actor_id.hex(),
        actor_name=details.get("name") or "",
        node=details.get("node") or "",
    )
    return serialize(error).to_bytes()


def why_not_made(error: BaseException) -> str:
    """What is told of an actor whose constructor ended with ``error``, or was not called for it."""
    if isinstance(error, RuntimeEnvSetupError):
        return str(error)
    if isinstance(error, ShoalError) and not isinstance(error, ActorDiedError):
        what, _, _step = str(error).rpartition("\nNext: ")  # the next step is that of the actor's error
        return f"an argument of its constructor failed: {(what or str(error)).rstrip()}\n\n"
    return f"its constructor raised {type(error).__name__}: {error}\n\n{format_remote_traceback(error)}"

"""Errors that the runtime makes on a task's behalf, as the bytes that an owner keeps.

The cores know only that something went wrong and why; what users see is made here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from shoal.exceptions import (
    NodeDiedError,
    ObjectLostError,
    ObjectStoreFullError,
    OutOfMemoryError,
    PlacementError,
    ShoalError,
    TaskCancelledError,
    TaskError,
    WorkerCrashedError,
)
from shoal.ids import split_ids
from shoal.refs import ObjectRef
from shoal.serialization import contained_ids, deserialize, serialize

if TYPE_CHECKING:
    from shoal.owner.tasks import TaskRecord


def make_error(kind: str, task: TaskRecord | None, details: Any = None) -> bytes:
    """The serialized exception for what happened to ``task``."""
    name = task.name if task is not None else ""
    if kind == "dependent":
        return _dependent(name, details)
    error: Exception
    if kind == "cancelled":
        error = TaskCancelledError(task_name=name)
    elif kind == "crashed":
        error = _crashed(name, details, _runs(task))
    elif kind == "placement":
        error = PlacementError(f"task {name} {details}")
    elif kind == "group":
        error = PlacementError(str(details))
    elif kind == "store_full":
        error = ObjectStoreFullError(str(details))
    else:
        error = ObjectLostError(str(details))
    return serialize(error).to_bytes()


def _crashed(name: str, details: Any, runs: str) -> Exception:
    """What ended the last run of a task that did not end by itself; ``runs``: to be added to that."""
    message, node = str(details.get("message") or ""), details.get("node") or ""
    if details.get("kind") == "memory":
        used, limit = details["used_bytes"], details["limit_bytes"]
        return OutOfMemoryError(message + runs, task_name=name, node=node, used_bytes=used, limit_bytes=limit)
    if details.get("kind") == "node":
        return NodeDiedError(f"{message}, while task {name} was there{runs}", node=node)
    return WorkerCrashedError(
        (message or WorkerCrashedError.default_message) + runs,
        task_name=name,
        exit_code=details.get("exit_code"),
        signal_number=details.get("signal"),
        pid=details.get("pid") or 0,
        node=node,
        log_path=details.get("log_path") or "",
    )


def _runs(task: TaskRecord | None) -> str:
    """How often a task was tried, as far as that counts, for people."""
    if task is None:
        return ""
    retries = task.options.max_retries
    count = task.attempt + 1 if retries < 0 else min(task.attempt, retries) + 1
    return f"; the task was tried {'once' if count == 1 else f'{count} times'} (max_retries={retries})"


def _dependent(name: str, blob: bytes) -> bytes:
    try:
        error = deserialize(blob, _placeholders(blob))
    except Exception:  # noqa: BLE001  the cause cannot be loaded here; whoever reads it will see why
        return blob
    if isinstance(error, ShoalError):
        return serialize(error.with_dependent(name)).to_bytes()
    return blob


def _placeholders(blob: bytes) -> list[ObjectRef[Any]]:
    """Refs for those inside an error that is only looked at or passed on; what holds them is somebody else's business."""
    return [ObjectRef(object_id) for object_id in split_ids(contained_ids(blob))]


def retriable(task: TaskRecord, blob: bytes) -> bool:
    """Whether `retry_exceptions` of ``task`` covers the exception in ``blob``."""
    wanted = task.options.retry_exceptions
    if isinstance(wanted, bool):
        return wanted
    try:
        error = deserialize(blob, _placeholders(blob))
    except Exception:  # noqa: BLE001  a class that cannot be loaded is none of those listed
        return False
    cause = error.cause if isinstance(error, TaskError) else error
    return isinstance(cause, tuple(wanted))

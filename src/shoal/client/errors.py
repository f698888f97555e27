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
    elif kind == "crashed" and details.get("kind") == "memory":
        error = OutOfMemoryError(
            details["message"],
            task_name=name,
            node=details["node"],
            used_bytes=details["used_bytes"],
            limit_bytes=details["limit_bytes"],
        )
    elif kind == "crashed" and details.get("kind") == "node":
        text = f"{details['message']}, while task {name} was there"
        error = NodeDiedError(text, node=details["node"])
    elif kind == "crashed":
        error = WorkerCrashedError(
            details.get("message") or "",
            task_name=name,
            exit_code=details.get("exit_code"),
            signal_number=details.get("signal"),
            pid=details.get("pid") or 0,
            node=details.get("node") or "",
            log_path=details.get("log_path") or "",
        )
    elif kind == "placement":
        error = PlacementError(f"task {name} {details}")
    elif kind == "group":
        error = PlacementError(str(details))
    elif kind == "store_full":
        error = ObjectStoreFullError(str(details))
    else:
        error = ObjectLostError(str(details))
    return serialize(error).to_bytes()


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

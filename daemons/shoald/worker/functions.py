"""Functions that submitters exported to this worker, loaded at first use, and the job's way of importing."""

from __future__ import annotations

import contextlib
import inspect
import os
import sys
from typing import TYPE_CHECKING, Any

from shoal.ids import split_ids
from shoal.refs import ObjectRef
from shoal.serialization import contained_ids, loads_code

if TYPE_CHECKING:
    from collections.abc import Callable

    from shoal.client.runtime import Runtime
    from shoal.owner.tasks import FunctionExport
    from shoald.worker.arguments import Loaded


class Function:
    """A loaded function.

    Attributes:
        short: its last run took under half a millisecond.
        calls: how often it ran here (max_calls).
    """

    __slots__ = ("call", "calls", "name", "short")

    def __init__(self, call: Callable[..., Any], name: str) -> None:
        self.call = call
        self.name = name
        self.calls = 0
        self.short = False


class FunctionCache:
    """By content hash; a function's captured refs are held as long as the process lives."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self.known: dict[bytes, Function] = {}
        self._exported: dict[bytes, tuple[bytes, str]] = {}
        self._riders: list[list[ObjectRef[Any]]] = []
        self._job_id: str | None = None

    def exported(self, function_id: bytes, blob: bytes, name: str) -> None:
        """A submitter sent a function."""
        if function_id not in self.known:
            self._exported[function_id] = (blob, name)

    def add_local(self, function: FunctionExport) -> None:
        """A function that this process exports itself may run here too."""
        self.exported(function.function_id, function.blob, function.name)

    def get(self, function_id: bytes, loaded: Loaded) -> Function:
        """The function, loaded now if it is new; raises what its import raises."""
        function = self.known.get(function_id)
        if function is None:
            blob, name = self._exported[function_id]
            ids = contained_ids(blob)
            riders: list[ObjectRef[Any]] = (
                [ObjectRef(object_id) for object_id in split_ids(ids)] if ids else []
            )
            call = loads_code(blob, riders)
            if inspect.iscoroutinefunction(call):
                call = _Coroutine(call)
            function = self.known[function_id] = Function(call, name)
            del self._exported[function_id]
            if riders:
                self._riders.append(riders)
                loaded.riders.append(riders)
        return function

    def enter_job(self, job: dict[str, Any]) -> None:
        """Import like the driver does: its path and its directory."""
        if self._job_id == job.get("job_id"):
            return
        self._job_id = job.get("job_id")
        runtime = self._runtime
        runtime.job = {key: value for key, value in job.items() if key != "caller"}
        runtime.identity.namespace = job.get("namespace") or ""
        for path in reversed(job.get("sys_path") or []):
            if path not in sys.path:
                sys.path.insert(0, path)
        with contextlib.suppress(OSError):  # the driver's directory may not exist (any more) on this machine
            os.chdir(job.get("cwd") or ".")


class _Coroutine:
    """Calls an `async def` task on a loop of its own."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        import asyncio  # 30 ms that only workers of such tasks pay

        return asyncio.run(self._function(*args, **kwargs))

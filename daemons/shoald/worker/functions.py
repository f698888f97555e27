"""Functions that submitters exported to this worker, loaded at first use, and the job's way of importing."""

from __future__ import annotations

import contextlib
import inspect
import os
import sys
from typing import TYPE_CHECKING, Any

from shoal.serialization import contained_ids, loads_code
from shoald.worker import environment
from shoald.worker.arguments import borrowed_riders

if TYPE_CHECKING:
    from collections.abc import Callable

    from shoal.client.runtime import Runtime
    from shoal.owner.objects import Stamp
    from shoal.owner.tasks import FunctionExport
    from shoal.refs import ObjectRef
    from shoald.worker.arguments import Loaded


class OtherInterpreterNeeded(Exception):
    """This process is none for its environment, and its daemon knows that: what it was to run goes to another one."""


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
    """By content hash. One that captured refs holds them, and goes when no submitter may use it any more; others stay.

    Args:
        stopped: whether a task or actor, by id, that waits for its function is not to wait any more.
    """

    def __init__(self, runtime: Runtime, stopped: Callable[[bytes], bool]) -> None:
        self._runtime = runtime
        self._stopped = stopped
        self.known: dict[bytes, Function] = {}
        self._exported: dict[bytes, tuple[bytes, str, Stamp | None, dict[bytes, Stamp]]] = {}
        self._riders: dict[bytes, list[ObjectRef[Any]]] = {}
        self._users: dict[bytes, set[object]] = {}  # of functions that captured refs
        self._job_id: str | None = None
        self._packages: dict[str, Any] | None = None  # an environment whose packages are not here yet

    def exported(
        self,
        user: object,
        function_id: bytes,
        blob: bytes,
        name: str,
        stamp: Stamp | None = None,
        stamps: dict[bytes, Stamp] | None = None,
    ) -> None:
        """A submitter (``user``; None: this process itself) sent a function. ``stamps`` are those of its captured refs."""
        if contained_ids(blob):
            self._users.setdefault(function_id, set()).add(user)
        if function_id not in self.known:
            self._exported[function_id] = (blob, name, stamp, stamps or {})

    def add_local(self, function: FunctionExport) -> None:
        """A function that this process exports itself may run here too."""
        self.exported(None, function.function_id, function.blob, function.name)

    def forget(self, user: object, function_id: bytes) -> None:
        """``user`` sends no more tasks of a function; without other users, its captured refs are let go of."""
        users = self._users.get(function_id)
        if users is not None:
            users.discard(user)
            if not users:
                del self._users[function_id]
                self.known.pop(function_id, None)
                self._exported.pop(function_id, None)
                self._riders.pop(function_id, None)

    def forget_all(self, user: object) -> None:
        """``user`` is gone."""
        for function_id in [function_id for function_id, users in self._users.items() if user in users]:
            self.forget(user, function_id)

    def get(self, function_id: bytes, loaded: Loaded, task_id: bytes) -> Function:
        """The function of a task, loaded now if it is new; raises what its import raises."""
        function = self.known.get(function_id)
        if function is None:
            self.enter_packages(task_id)
            blob, name, stamp, stamps = self._exported[function_id]
            riders = borrowed_riders(self._runtime, blob, stamp, stamps)
            call = loads_code(blob, riders)
            if inspect.iscoroutinefunction(call):
                call = _Coroutine(call)
            function = Function(call, name)
            if riders:
                loaded.riders.append(riders)
                if function_id not in self._users:  # its submitter left in the meantime
                    return function
                self._riders[function_id] = riders
            self.known[function_id] = function
            self._exported.pop(function_id, None)
        return function

    def name_of(self, function_id: bytes) -> str:
        """What a function is called, also if it could not be loaded."""
        function = self.known.get(function_id)
        if function is not None:
            return function.name
        return self._exported[function_id][1] if function_id in self._exported else "task"

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
        given = job.get("runtime_env")
        if given:
            environment.set_variables(given)
            self._packages = given

    def enter_packages(self, task_id: bytes) -> None:
        """Have, for a task or actor, what the job's environment needs to import; once.

        Not with the lock held. Raises RuntimeEnvSetupError.
        """
        if self._packages is not None:
            environment.enter_packages(self._runtime, self._packages, task_id, lambda: self._stopped(task_id))
            self._packages = None


class _Coroutine:
    """Calls an `async def` task on a loop of its own."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        import asyncio  # 30 ms that only workers of such tasks pay

        return asyncio.run(self._function(*args, **kwargs))

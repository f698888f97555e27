"""What the running code is part of: job, node, worker, task. Set by the executor, read by submission and by people."""

from __future__ import annotations

import os
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

from shoal.runtime_env import RuntimeEnv, described


class TaskContext:
    """The task that this thread (or coroutine) runs."""

    __slots__ = ("arguments", "depth", "function_name", "name", "resources", "task_id")

    def __init__(
        self, task_id: bytes, name: str, function_name: str, depth: int, resources: dict[str, float]
    ) -> None:
        self.task_id = task_id
        self.name = name
        self.function_name = function_name
        self.depth = depth
        self.resources = resources
        self.arguments: tuple[Any, ...] = ()


current_task: ContextVar[TaskContext | None] = ContextVar("shoal_task", default=None)


@dataclass
class ActorIdentity:
    """The actor that this process is.

    Attributes:
        handle: one that does not keep the actor alive.
    """

    actor_id: str
    name: str
    reconstructed: bool
    handle: Any


@dataclass
class Identity:
    """Who this process is; filled in when it has joined a cluster.

    Attributes:
        gpus: ids of the GPUs of the running task, or of the actor.
        group: [placement group, bundle or -1, whether what it submits belongs there too] of the running task, or of the actor.
    """

    kind: str = "driver"
    job_id: str = ""
    node_id: str = ""
    worker_id: str = ""
    namespace: str = ""
    session_dir: str = ""
    address: str = ""
    resources: dict[str, float] = field(default_factory=dict)
    gpus: list[int | str] = field(default_factory=list)
    group: list[Any] | None = None
    actor: ActorIdentity | None = None


class RuntimeContext:
    """What `get_runtime_context()` returns: ids as hexadecimal strings, and what the task was given."""

    def __init__(self, identity: Identity) -> None:
        self._identity = identity
        self._task = current_task.get()

    def get_job_id(self) -> str:
        """The job: one driver and what it submitted."""
        return self._identity.job_id

    def get_node_id(self) -> str:
        """The node this code runs on."""
        return self._identity.node_id

    def get_worker_id(self) -> str:
        """The process this code runs in."""
        return self._identity.worker_id

    def get_task_id(self) -> str | None:
        """The running task; None in a driver."""
        return self._task.task_id.hex() if self._task else None

    def get_task_name(self) -> str | None:
        """Its name: the option `name`, or the function's."""
        return self._task.name if self._task else None

    def get_task_function_name(self) -> str | None:
        """The function's name."""
        return self._task.function_name if self._task else None

    def get_actor_id(self) -> str | None:
        """The actor whose method runs; None outside of actors."""
        return self._identity.actor.actor_id if self._identity.actor else None

    def get_actor_name(self) -> str | None:
        """The actor's name, if it has one."""
        return (self._identity.actor.name or None) if self._identity.actor else None

    def get_placement_group_id(self) -> str | None:
        """The placement group the task or actor runs in; None without."""
        return self._identity.group[0].hex() if self._identity.group else None

    @property
    def should_capture_child_tasks_in_placement_group(self) -> bool:
        """Whether what this task or actor submits runs in its placement group too, unless it says otherwise."""
        return bool(self._identity.group and self._identity.group[2])

    def get_assigned_resources(self) -> dict[str, float]:
        """What the task was given, in units of each resource; empty in a driver."""
        return dict(self._task.resources) if self._task else {}

    def get_accelerator_ids(self) -> dict[str, list[str]]:
        """{"GPU": ids of the GPUs that the task or actor was given}; see `shoal.get_gpu_ids`."""
        return {"GPU": [str(each) for each in self._identity.gpus]}

    def get_session_dir(self) -> str:
        """The directory of this session's sockets and logs."""
        return self._identity.session_dir

    def get_temp_dir(self) -> str:
        """The directory that session directories lie in."""
        return os.path.dirname(self._identity.session_dir)

    @property
    def runtime_env(self) -> RuntimeEnv:
        """The environment that this code runs in, or that the driver gave to its job; packages by their hashes."""
        from shoal import session  # which has contexts in it

        runtime = session.runtime()
        found = RuntimeEnv()
        found.update(described(runtime.environments.own()))
        return found

    @property
    def namespace(self) -> str:
        """The namespace of named actors."""
        return self._identity.namespace

    @property
    def gcs_address(self) -> str:
        """The head's address, "host:port"; waited for if it is just starting."""
        from shoal import api, session  # which import this

        runtime = session.current()
        return self._identity.address or (api.address_of_head(runtime) if runtime is not None else "")

    @property
    def was_current_actor_reconstructed(self) -> bool:
        """Whether the actor runs again after a death; False outside of actors."""
        return self._identity.actor.reconstructed if self._identity.actor else False

    @property
    def current_actor(self) -> Any:
        """A handle to the actor that this is, to be passed on; RuntimeError outside of actors."""
        if self._identity.actor is None:
            raise RuntimeError("current_actor is for an actor's methods; this code does not run in an actor")
        return self._identity.actor.handle

    job_id = property(get_job_id)
    node_id = property(get_node_id)
    worker_id = property(get_worker_id)
    task_id = property(get_task_id)
    actor_id = property(get_actor_id)
    session_dir = property(get_session_dir)

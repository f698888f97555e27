"""shoal: a distributed task runtime for Python.

import shoal

@shoal.remote
def square(x):
    return x * x

print(shoal.get([square.remote(i) for i in range(4)]))

The runtime is loaded with the first session, or when it is first used: a session begins with a daemon's start, which takes
longer than these imports and needs none of them.
"""

import importlib
from typing import TYPE_CHECKING, Any

from shoal import actor, exceptions
from shoal.actors.actor_class import ActorClass
from shoal.actors.api import exit_actor, get_actor, kill
from shoal.actors.handle import ActorHandle
from shoal.actors.method import method
from shoal.api import (
    ClientContext,
    available_resources,
    cancel,
    cluster_resources,
    get,
    get_runtime_context,
    init,
    is_initialized,
    memory_summary,
    nodes,
    put,
    remote,
    shutdown,
    timeline,
    wait,
)
from shoal.context import RuntimeContext
from shoal.generator import DynamicObjectRefGenerator, ObjectRefGenerator
from shoal.gpus import get_gpu_ids
from shoal.refs import ObjectRef
from shoal.remote_function import RemoteFunction

if TYPE_CHECKING:
    import cloudpickle

    from shoal import util
    from shoal.serialization import (
        deregister_serializer,
        inspect_serializability,
        register_custom_serializer,
        register_serializer,
    )
else:
    _MODULES = {"cloudpickle": "cloudpickle", "util": "shoal.util"}
    _SERIALIZATION = (
        "deregister_serializer",
        "inspect_serializability",
        "register_custom_serializer",
        "register_serializer",
    )

    def __getattr__(name: str) -> Any:
        """What is loaded when it is first used; it stays here from then on."""
        if name in _MODULES:
            found = importlib.import_module(_MODULES[name])
        elif name in _SERIALIZATION:
            found = getattr(importlib.import_module("shoal.serialization"), name)
        else:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        globals()[name] = found
        return found

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})


__version__ = "0.1.0"

__all__ = [
    "ActorClass",
    "ActorHandle",
    "ClientContext",
    "DynamicObjectRefGenerator",
    "ObjectRef",
    "ObjectRefGenerator",
    "RemoteFunction",
    "RuntimeContext",
    "actor",
    "available_resources",
    "cancel",
    "cloudpickle",
    "cluster_resources",
    "deregister_serializer",
    "exceptions",
    "exit_actor",
    "get",
    "get_actor",
    "get_gpu_ids",
    "get_runtime_context",
    "init",
    "inspect_serializability",
    "is_initialized",
    "kill",
    "memory_summary",
    "method",
    "nodes",
    "put",
    "register_custom_serializer",
    "register_serializer",
    "remote",
    "shutdown",
    "timeline",
    "util",
    "wait",
]

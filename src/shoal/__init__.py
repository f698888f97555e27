"""shoal: a distributed task runtime for Python.

import shoal

@shoal.remote
def square(x):
    return x * x

print(shoal.get([square.remote(i) for i in range(4)]))
"""

import cloudpickle

from shoal import actor, exceptions, util
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
    wait,
)
from shoal.context import RuntimeContext
from shoal.generator import ObjectRefGenerator
from shoal.refs import ObjectRef
from shoal.remote_function import RemoteFunction
from shoal.serialization import (
    deregister_serializer,
    inspect_serializability,
    register_custom_serializer,
    register_serializer,
)

__version__ = "0.1.0"

__all__ = [
    "ActorClass",
    "ActorHandle",
    "ClientContext",
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
    "util",
    "wait",
]

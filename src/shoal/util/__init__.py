"""What is built on tasks and actors, and needs nothing else: pools, queues, executors.

`shoal.util.queue`, `multiprocessing`, `state` and `joblib` are modules of their own, loaded when they are imported.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from shoal.actors.api import list_named_actors
from shoal.util.actor_pool import ActorPool
from shoal.util.addresses import get_node_ip_address
from shoal.util.executor import Executor
from shoal.util.iteration import as_completed, map_unordered
from shoal.util.placement_group import (
    get_current_placement_group,
    get_placement_group,
    placement_group,
    placement_group_table,
    remove_placement_group,
)

if TYPE_CHECKING:
    from shoal.serialization import deregister_serializer, inspect_serializability, register_serializer
else:
    _SERIALIZATION = ("deregister_serializer", "inspect_serializability", "register_serializer")

    def __getattr__(name: str) -> Any:
        """What Ray has here; loaded when it is used, since it takes numpy along."""
        if name in _SERIALIZATION:
            return getattr(importlib.import_module("shoal.serialization"), name)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


__all__ = [
    "ActorPool",
    "Executor",
    "as_completed",
    "deregister_serializer",
    "get_current_placement_group",
    "get_node_ip_address",
    "get_placement_group",
    "inspect_serializability",
    "list_named_actors",
    "map_unordered",
    "placement_group",
    "placement_group_table",
    "register_serializer",
    "remove_placement_group",
]

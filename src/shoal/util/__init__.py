"""What is built on tasks and actors, and needs nothing else: pools, queues, executors.

`shoal.util.queue` and `shoal.util.multiprocessing` are modules of their own, loaded when they are imported.
"""

from shoal.actors.api import list_named_actors
from shoal.util.actor_pool import ActorPool
from shoal.util.executor import Executor
from shoal.util.iteration import as_completed, map_unordered
from shoal.util.placement_group import (
    get_current_placement_group,
    get_placement_group,
    placement_group,
    placement_group_table,
    remove_placement_group,
)

__all__ = [
    "ActorPool",
    "Executor",
    "as_completed",
    "get_current_placement_group",
    "get_placement_group",
    "list_named_actors",
    "map_unordered",
    "placement_group",
    "placement_group_table",
    "remove_placement_group",
]

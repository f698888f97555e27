"""Ray's second place for `exit_actor` and `method`."""

from shoal.actors.actor_class import ActorClass
from shoal.actors.api import exit_actor
from shoal.actors.handle import ActorHandle, ActorMethod
from shoal.actors.method import method

__all__ = ["ActorClass", "ActorHandle", "ActorMethod", "exit_actor", "method"]

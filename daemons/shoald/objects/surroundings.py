"""What the pulls of a node ask of it about the other nodes: who may have an object, who lives. The shell answers."""

from __future__ import annotations

from typing import Protocol


class Cluster(Protocol):
    """The other nodes."""

    def who(self, object_id: bytes, proc: bytes) -> list[str]:
        """Living nodes that may have the object or know more; ``proc`` is of the stamp, or b""."""

    def nearest(self, object_id: bytes, proc: bytes) -> str | None:
        """The first of `who`, if the stamp's tag or the owner's says so: then it is the same for all ids with these tags."""

    def death(self, object_id: bytes, proc: bytes) -> tuple[str, str] | None:
        """If those that had it are dead: (kind, text) for its readers."""

    def lives(self, node: str) -> bool | None:
        """Whether a node does, other than this one; None if this one's view of the cluster does not know it yet."""

    def is_here(self, object_id: bytes, proc: bytes) -> bool:
        """Whether its owner, and the process of its stamp, are of this node: then only the head may know of a copy elsewhere."""

    def origin_lives(self, copy: bytes) -> bool:
        """Whether the node that sealed the first of these copies (by their stamp) lives: it does not drop that one."""

"""Placement groups as one process knows them: makes, watches and removes them, and keeps a ref for those that it waits for.

The daemon tells once what became of a group that this process made or watches (GROUP_STATE). `ready` is a ref that is
fulfilled then: owned by this process, with the group as its value.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

from shoal.client.errors import make_error
from shoal.exceptions import PlacementError
from shoal.owner.objects import PENDING
from shoal.refs import ObjectRef
from shoal.serialization import serialize
from shoal.wire import messages as m

if TYPE_CHECKING:
    from collections.abc import Callable

    from shoal.client.runtime import Runtime
    from shoal.options import ActorOptions, TaskOptions
    from shoal.owner.objects import Entry

Options = TypeVar("Options", "TaskOptions", "ActorOptions")
Group = list[Any]  # [placement group, bundle or -1, whether children are captured]
_NAMED_S = 30.0  # the head gives names: how long it is waited for


class Captured:
    """The strategy of what a task submits that is in a group, and captures its children."""

    __slots__ = ("_group",)

    def __init__(self, group: bytes) -> None:
        self._group = group

    def to_wire(self) -> list[Any]:
        return ["group", self._group, -1, True]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Captured) and other._group == self._group

    def __hash__(self) -> int:
        return hash(self._group)


class _Known:
    """A group that this process has to do with.

    Attributes:
        state: "" while nothing was told, "CREATED" or "REMOVED".
        reason: why it is not there: for the moment, or for good.
        value: the pickled group, for those who get the ref; kept while `entry` waits for it.
    """

    __slots__ = ("entry", "reason", "state", "value")

    def __init__(self) -> None:
        self.state = ""
        self.reason = ""
        self.entry: Entry | None = None
        self.value: Any = None


class Groups:
    """The placement groups of one process."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._known: dict[bytes, _Known] = {}

    def handlers(self) -> dict[int, Callable[[list[Any]], None]]:
        """What to do with the daemon's messages about groups (lock held)."""
        return {m.GROUP_STATE: self._on_state}

    def create(self, info: dict[str, Any]) -> bytes:
        """Ask for a group; its id, at once. Raises ValueError if its name is taken."""
        runtime = self._runtime
        if runtime.closed:
            raise runtime.connection_lost()
        group_id = runtime.ids.next_id()
        with runtime.lock:
            self._known[group_id] = _Known()
            if not info["name"]:
                runtime.table.to_node([m.CREATE_GROUP, 0, group_id, info])
                if runtime.node_backlog():
                    runtime.flush()
                return group_id
            number, answer = runtime.node.ask()
            runtime.table.to_node([m.CREATE_GROUP, number, group_id, info])
        try:
            answered = runtime.wait(answer, _NAMED_S)
        finally:
            with runtime.lock:
                runtime.node.forget(number)
        if not answered:
            raise PlacementError(
                f"the head did not answer within {_NAMED_S:g} s whether the name {info['name']!r} is free"
            )
        if not answer.message:
            raise runtime.connection_lost()
        if not answer.message[2]:
            with runtime.lock:
                self._known.pop(group_id, None)
            raise ValueError(answer.message[3])
        return group_id

    def remove(self, group_id: bytes) -> None:
        """Give a group up: its bundles are free, and what runs in them ends."""
        runtime = self._runtime
        if runtime.closed:
            raise runtime.connection_lost()
        with runtime.lock:
            known = self._known.get(group_id)
            if known is not None and known.entry is None:
                del self._known[group_id]
            runtime.table.to_node([m.REMOVE_GROUP, group_id])
            if runtime.node_backlog():
                runtime.flush()
        runtime.reactor.nudge()

    def ready(self, group: Any) -> ObjectRef[Any]:
        """A ref to ``group`` that is there when it is created; it fails with PlacementError if that never happens."""
        runtime, group_id = self._runtime, group.id.binary()
        if runtime.closed:
            raise runtime.connection_lost()
        value = serialize(group).to_bytes()
        with runtime.lock:
            known = self._known.get(group_id)
            if known is None:
                known = self._known[group_id] = _Known()
                runtime.table.to_node([m.WATCH_GROUP, group_id])
            if known.entry is not None and runtime.table.entries.get(known.entry.id) is known.entry:
                known.entry.count += 1
                return ObjectRef(known.entry.id, known.entry)
            entry = runtime.table.add(runtime.ids.next_id(), PENDING)
            ref: ObjectRef[Any] = ObjectRef(entry.id, entry)
            known.entry, known.value = entry, value
            self._settle(group_id, known)
        runtime.reactor.nudge()
        return ref

    def _settle(self, group_id: bytes, known: _Known) -> None:
        """Give the ref its value, if it is known and somebody has asked for it."""
        entry = known.entry
        if entry is None or not known.state:
            return
        if known.state == "CREATED":
            self._runtime.table.fulfil_plain(entry, known.value)
        else:
            text = f"placement group {group_id.hex()} will not be created: {known.reason}"
            self._runtime.table.fail(entry, make_error("group", None, text))
        known.entry = known.value = None
        if known.state == "REMOVED":
            self._known.pop(group_id, None)

    def _on_state(self, message: list[Any]) -> None:
        _, group_id, state, reason, _nodes = message
        known = self._known.get(group_id)
        if state not in ("CREATED", "REMOVED"):
            if known is not None:
                known.reason = reason
            self._runtime.report(f"placement group {group_id.hex()} cannot be created now: {reason}")
        elif known is not None:
            known.state, known.reason = state, reason
            if state == "REMOVED" and known.entry is None:
                del self._known[group_id]
            else:
                self._settle(group_id, known)

    def describe(self, entry: Entry) -> str | None:
        """What the object of `ready` waits for, as a phrase; None for any other (lock held)."""
        for group_id, known in self._known.items():
            if known.entry is entry:
                why = f" ({known.reason})" if known.reason else ""
                return f"of placement group {group_id.hex()}, which has not been created yet{why}"
        return None

    def end(self, reason: str) -> None:
        """The session is over: nobody will hear of any group any more (lock held)."""
        for group_id, known in list(self._known.items()):
            known.state, known.reason = "REMOVED", reason
            self._settle(group_id, known)
        self._known.clear()

    def belongs_here(self, strategy: Any) -> bool:
        """Whether what is submitted with this strategy may run where this process runs: in its group, or in none."""
        group = self._runtime.identity.group
        if group is None:
            return strategy in (None, "DEFAULT")
        return isinstance(strategy, Captured) and strategy == Captured(group[0])

    @staticmethod
    def inherit(options: Options, group: Group) -> Options:
        """The options of what a task in ``group`` submits: if that captures children that do not say where, with the group."""
        if not group[2] or options.scheduling_strategy is not None or options.label_selector:
            return options
        return options.merged(scheduling_strategy=Captured(group[0]))

"""A task's arguments: from its message and from the store, and which of the refs among them outlive it."""

from __future__ import annotations

import random
from time import monotonic, perf_counter
from typing import TYPE_CHECKING, Any

from shoal.client.awaits import Never
from shoal.client.packing import EMPTY
from shoal.client.values import as_raised, read_error
from shoal.context import TaskContext
from shoal.ids import split_ids
from shoal.owner.objects import BORROWED
from shoal.refs import ObjectRef
from shoal.serialization import contained_ids, deserialize
from shoal.wire import messages as m

if TYPE_CHECKING:
    from shoal.client.objectstore import PinWaiter
    from shoal.client.runtime import Runtime
    from shoal.owner.objects import Entry, Stamp

_WITHOUT_REFS = frozenset({0x80, 0x01})  # first bytes of a plain pickle, and of a plain array
_READ_ATTEMPTS = 3  # a spill file that was being rewritten, or is damaged, is asked for again
_STORED_FIELDS = 2  # of the value of a lifted argument, see shoal.owner.spec
_all_bytes = frozenset({bytes}).issuperset


class Loaded:
    """What one task has been given.

    Attributes:
        riders: refs inside its arguments; those still in use at its end are kept.
        values: the values of arguments that were refs (`get` on them returns them).
        attempt: which run of the task this is, from 0.
        name: of the task, for people.
    """

    __slots__ = ("attempt", "name", "riders", "task_id", "values")

    def __init__(self, task_id: bytes) -> None:
        self.task_id = task_id
        self.name = ""
        self.attempt = 0
        self.riders: list[list[ObjectRef[Any]]] = []
        self.values: tuple[Any, ...] = ()


def borrowed_riders(
    runtime: Runtime, content: bytes, stamp: Stamp | None, stamps: dict[bytes, Stamp]
) -> list[ObjectRef[Any]]:
    """Refs for the ids inside ``content``, with entries; whoever reads them quotes ``stamps``, or for other ids ``stamp``."""
    ids = contained_ids(content)
    if not ids:
        return []
    table = runtime.table
    riders: list[ObjectRef[Any]] = []
    with runtime.lock:
        for object_id in split_ids(ids):
            entry = table.borrow(object_id)
            if entry.state == BORROWED and entry.stamp is None:
                entry.stamp = stamps.get(object_id, stamp)
            entry.count += 1
            riders.append(ObjectRef(object_id, entry))
    return riders


class Arguments:
    """Loads arguments in one worker.

    Attributes:
        waited_s: how long the last task with arguments that were refs has waited for stored ones.
    """

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._runs_again = False
        self.waited_s = 0.0

    def load(
        self,
        loaded: Loaded,
        submitter: bytes,
        payload: bytes,
        lifted: tuple[Any, ...],
        details: dict[str, Any] | None,
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """(args, kwargs). Raises the error of an argument that failed, or ObjectLostError."""
        if details is not None:
            loaded.attempt = details["attempt"]
        self._runs_again = loaded.attempt > 0
        if payload == EMPTY:
            args: tuple[Any, ...] = ()
            kwargs: dict[str, Any] = {}
        elif payload[0] in _WITHOUT_REFS:
            args, kwargs = deserialize(payload)
        else:
            stamp = details["stamp"] if details else None
            stamps = details["stamps"] if details else None
            riders = self._riders(loaded, payload, stamp, stamps or {})
            args, kwargs = deserialize(payload, riders)
        if not lifted:
            return args, kwargs
        self.waited_s = 0.0
        places, contents = lifted
        loaded.values = values = self._values(loaded, contents)
        if places is None:
            return values, kwargs
        positional = list(args)
        for where, value in zip(places, values, strict=True):
            if type(where) is int:
                positional[where] = value
            else:
                kwargs[where] = value
        return tuple(positional), kwargs

    def _values(self, loaded: Loaded, contents: list[Any]) -> tuple[Any, ...]:
        """The values of lifted arguments."""
        if _all_bytes(map(type, contents)):
            return tuple(map(deserialize, contents))
        stored = [
            content for content in contents if type(content) is tuple and len(content) == _STORED_FIELDS
        ]
        waiter = self._pin(stored, loaded) if stored else None
        try:
            return self._read_all(loaded, contents)
        finally:
            self._runtime.store.release(waiter)

    def _read_all(self, loaded: Loaded, contents: list[Any]) -> tuple[Any, ...]:
        values = []
        for content in contents:
            if type(content) is bytes:
                value = deserialize(content)
            elif len(content) == _STORED_FIELDS:
                value = self._read(loaded, content[0])
            else:
                value = deserialize(content[0], self._riders(loaded, *content))
            values.append(value)
        return tuple(values)

    def _riders(
        self, loaded: Loaded, content: bytes, stamp: Stamp | None, stamps: dict[bytes, Stamp]
    ) -> list[ObjectRef[Any]]:
        """Refs for the ids in ``content``; readers quote the stamps, so that they do not overtake seals."""
        riders = borrowed_riders(self._runtime, content, stamp, stamps)
        if riders:
            loaded.riders.append(riders)
        return riders

    def _pin(self, stored: list[Any], loaded: Loaded | None = None) -> PinWaiter | None:
        """Pin stored arguments (id, stamp) of a task in one round trip, until this is released; None if they are pinned already.

        They are asked for together: so two tasks that each have half of their arguments cannot wait for each other, if all of
        them are on this node. Those of other nodes come one by one, and count once they are here: so a task that waits for long
        lets go of what it has, for a moment, at a time of its own.
        """
        runtime = self._runtime
        store, table = runtime.store, runtime.table
        lookup = store.pins.lookup
        with runtime.lock:
            if all(lookup(object_id) is not None for object_id, _ in stored):
                return None
            entries: list[Entry] = []
            for object_id, stamp in stored:
                entry = table.borrow(object_id)
                entry.count += 1
                if entry.stamp is None:
                    entry.stamp = stamp
                entries.append(entry)
            waiter = store.request(entries, m.PRIORITY_ARGUMENT)
            if loaded is not None:
                context = TaskContext(loaded.task_id, loaded.name, loaded.name, 0, {})
                runtime.explain.wait_begins(loaded, entries, context)
        try:
            since = perf_counter()
            patience_s = runtime.config.arguments_turn_ms / 1000
            while waiter is not None and not self._wait(waiter, entries, patience_s):
                patience_s = min(2 * patience_s, runtime.config.arguments_turn_ms_max / 1000)
                # What is pinned here may be in the way of another task, which has what this one needs.
                store.release(waiter)
                runtime.wait(Never(), random.uniform(0.5, 1.0) * runtime.config.arguments_pause_ms / 1000)
                with runtime.lock:
                    waiter = store.request(entries, m.PRIORITY_ARGUMENT)
            self.waited_s += perf_counter() - since
        except BaseException:
            store.release(waiter)
            raise
        finally:
            with runtime.lock:
                table.drop_uses(entries)
                if loaded is not None:
                    runtime.explain.wait_ends(loaded)
        return waiter

    def _wait(self, waiter: PinWaiter, entries: list[Entry], patience_s: float) -> bool:
        """Wait for pins, for about so long; whether all are there."""
        runtime = self._runtime
        # What a lost object takes to be made again may be lost too, which shows here: that needs the CPU, all along a chain.
        lend_after_s = 0.0 if self._runs_again else runtime.config.arguments_lend_ms / 1000
        until = monotonic() + random.uniform(0.5, 1.0) * patience_s  # not all tasks give way at once
        return runtime.wait_for_objects(waiter, entries, until, lend_after_s)

    def _read(self, loaded: Loaded, object_id: bytes) -> Any:
        store = self._runtime.store
        found = store.view(object_id)
        if found is None:
            found = self._read_again(object_id, loaded)
        view, flags = found
        ids = contained_ids(view)
        riders: list[ObjectRef[Any]] = []
        if ids:
            # They are held by the stored container, and it is held by the submitter until the task ends.
            riders = [ObjectRef(each) for each in split_ids(ids)]
            loaded.riders.append(riders)
        value = deserialize(view, riders)
        if flags & m.SEAL_ERROR:
            raise as_raised(value)
        return value

    def _read_again(self, object_id: bytes, loaded: Loaded | None = None) -> tuple[Any, int]:
        """An argument that could not be pinned, or whose cached pin was recalled a moment ago."""
        store = self._runtime.store
        problem = store.pin_errors.pop(object_id, None)
        attempts = 0
        while problem is None:
            waiter = self._pin([(object_id, None)], loaded)
            found = store.view(object_id)
            store.release(waiter)
            if found is not None:
                return found
            problem = store.pin_errors.pop(object_id, None)
            attempts += 1
            if attempts == _READ_ATTEMPTS and problem is None:
                problem = "lost", "it was freed while its task was starting"
        kind, why = problem
        if kind in ("full", "disk"):
            raise read_error(kind, f"argument {object_id.hex()} could not be brought to this node: {why}")
        raise read_error("lost", f"argument {object_id.hex()} is lost: {why}")

    def kept(self, loaded: Loaded) -> bytes:
        """Ids of refs that outlive the task, one for each hold that the submitter is to register for this process.

        These are the refs that came with the arguments, or out of containers among them, which somebody still refers to; and
        those that were sealed into something or sent on: the submitter must not let go of them before the daemon has heard
        of that in this process's own stream.
        """
        loaded.values = ()
        if not loaded.riders:
            return b""
        table = self._runtime.table
        kept = []
        with self._runtime.lock:
            table.drain_released()
            lists = loaded.riders
            while lists:
                riders = lists.pop()
                for ref in table.riders_in_use(riders):
                    table.entry_of(ref).holds += 1
                    kept.append(ref.id)
                lists += table.riders_of_idle(riders)
        if kept:
            self._runtime.garbage_suspected = True  # perhaps it is only cycles that refer to them
        return b"".join(kept)

"""Values in and out: put, get and wait, on top of the object table and the store.

`get` of a value in this process takes no lock. Otherwise it goes in two steps: until every object is somewhere, then until the
stored ones are pinned here. Whoever waits here reads the sockets (reactor).
"""

from __future__ import annotations

import sys
from time import monotonic
from typing import TYPE_CHECKING, Any

from shoal.client.inplace import run_in_place
from shoal.client.waiting import WaitState, local_wait_state, take_next
from shoal.exceptions import (
    GetTimeoutError,
    ObjectFreedError,
    ObjectLostError,
    ObjectReconstructionFailedError,
    ObjectStoreFullError,
    OutOfDiskError,
    OwnerDiedError,
    ShoalError,
    TaskError,
)
from shoal.ids import split_ids
from shoal.option_checks import seconds
from shoal.owner.objects import BORROWED, FAILED, INLINE, PENDING, STORED, WITHOUT_REFS, Entry, Waiter
from shoal.refs import ObjectRef, released
from shoal.serialization import (
    Serialized,
    adopt_spawned_main,
    contained_ids,
    deserialize,
    dumps_small,
    serialize,
    set_ref_type,
)
from shoal.wire import messages as m

if TYPE_CHECKING:
    from collections.abc import Sequence

    from shoal.client.objectstore import PinWaiter
    from shoal.client.runtime import Runtime

_READ_ERRORS: dict[str, type[ShoalError]] = {
    "freed": ObjectFreedError,
    "owner_died": OwnerDiedError,
    "full": ObjectStoreFullError,
    "disk": OutOfDiskError,
    "unrecoverable": ObjectReconstructionFailedError,
}
_PACKAGE = __name__.partition(".")[0]

set_ref_type(ObjectRef)


class Values:
    """put, get and wait of one process."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._table = runtime.table
        self._lock = runtime.lock
        self._inline_max = runtime.config.inline_bytes_max
        adopt_spawned_main()

    # --- put ---

    def put(self, value: Any) -> ObjectRef[Any]:
        """Store ``value``: small ones here, large ones in shared memory; later changes to the original are not seen."""
        content = dumps_small(value)
        table = self._table
        if content is not None and len(content) <= self._inline_max:
            object_id = self._runtime.ids.next_id()
            with self._lock:
                if len(released) > 64:
                    table.drain_released()
                return ObjectRef(object_id, table.add_inline(object_id, content))
        packed = serialize(value)
        if packed.size > self._inline_max:
            return self.put_stored(packed, callsite())
        object_id = self._runtime.ids.next_id()
        with self._lock:
            entries = [table.entry_of(ref) for ref in packed.refs]
            for entry in entries:
                table.escape(entry)
            return ObjectRef(object_id, table.add_inline(object_id, packed.to_bytes(), entries))

    def put_stored(self, packed: Serialized, where: str) -> ObjectRef[Any]:
        """Write a value to the store, with a hold and a cached pin of this process."""
        return self.put_hashed(packed, where, False)[0]

    def put_hashed(
        self, packed: Serialized, where: str, hashed: bool = True, again: bool = False
    ) -> tuple[ObjectRef[Any], bytes, bool]:
        """As `put_stored`; also the content hash, and whether it surely is the copy's (see `ClientStore.seal`)."""
        runtime = self._runtime
        object_id = runtime.ids.next_id()
        self.escape_all(packed.refs)
        flags = m.SEAL_PINNED | m.SEAL_PRIMARY
        content_hash, exact = runtime.store.seal(
            object_id, packed, flags, runtime.table.proc, where, hashed, again
        )
        with self._lock:
            entry = self._table.add_stored(object_id, packed.size)
            entry.callsite = where
            # Before what a signal may end: without a ref nobody would give the hold back.
            ref: ObjectRef[Any] = ObjectRef(object_id, entry)
            if self._runtime.node_backlog():
                self._runtime.flush()
        runtime.reactor.nudge()
        return ref, content_hash, exact

    def escape_all(self, refs: Sequence[ObjectRef[Any]]) -> None:
        """The ids of ``refs`` go into a stored value."""
        if refs:
            table = self._table
            with self._lock:
                for ref in refs:
                    table.escape(table.entry_of(ref))

    # --- get ---

    def get(self, ref: ObjectRef[Any], timeout: float | None) -> Any:
        """The value of one ref; raises what its task raised, or GetTimeoutError."""
        entry = ref._entry
        if entry is not None and (
            entry.state == INLINE or (entry.state == STORED and self._runtime.store.pins.lookup(entry.id))
        ):
            if timeout is not None:
                seconds("timeout", timeout)
            return self.load(entry)
        if (
            entry is not None
            and entry.state == PENDING
            and timeout is None
            and self._runtime.run_here is None
        ):
            self._wait_settled([entry], None)  # as `get_all` would, which does more for more (1 µs)
            if entry.state != STORED:
                return self.load(entry)
        return self.get_all([ref], timeout)[0]

    def get_all(self, refs: Sequence[ObjectRef[Any]], timeout: float | None) -> list[Any]:
        """The values, in order; the first failure raises at once."""
        runtime = self._runtime
        table = self._table
        deadline = None if timeout is None else monotonic() + seconds("timeout", timeout)
        with self._lock:
            if released:
                table.drain_released()
            entries = [ref._entry or table.entry_of(ref) for ref in refs]
        missing = [entry for entry in entries if entry.state == PENDING]
        if missing:
            run_in_place(runtime, missing, deadline)
            missing = [entry for entry in missing if entry.state == PENDING]
        # One that had failed before is not among the missing: it is no reason to wait for them.
        if missing and not any(entry.state == FAILED for entry in entries):
            self._wait_settled(missing, deadline)
        for entry in entries:
            if entry.state == FAILED:
                raise self.error_of(entry)
        stored = [entry for entry in entries if entry.state in (STORED, BORROWED)]
        waiter = self._wait_pinned(stored, deadline) if stored else None
        load = self.load
        if waiter is None:
            return [load(entry) for entry in entries]
        try:
            return [load(entry) for entry in entries]
        finally:
            runtime.store.release(waiter)

    def _wait_settled(self, missing: list[Entry], deadline: float | None) -> None:
        waiter = Waiter(0)
        waiter.ready = False
        with self._lock:
            waiter.missing, failed = self._table.wait_for_each(missing, waiter)
            if waiter.missing == 0:
                return
        if failed:  # since the caller looked
            self._forget_waiter(missing, waiter)
            return
        try:
            done = self._runtime.wait_for_objects(waiter, missing, deadline)
        finally:
            if not waiter.ready or waiter.missing > 0:
                self._forget_waiter(missing, waiter)
        if not done:
            raise GetTimeoutError(self._runtime.explain.timeout(missing))

    def _forget_waiter(self, entries: list[Entry], waiter: Waiter) -> None:
        with self._lock:
            for entry in entries:
                if entry.waiters and waiter in entry.waiters:
                    entry.waiters.remove(waiter)

    def _wait_pinned(self, entries: list[Entry], deadline: float | None) -> PinWaiter | None:
        """Wait until all are pinned, or cannot be; to be released when they have been read. None if they were pinned."""
        runtime = self._runtime
        store = runtime.store
        with self._lock:
            waiter = store.request(entries, m.PRIORITY_GET)
        if waiter is None:
            return None
        try:
            if not runtime.wait_for_objects(waiter, entries, deadline):
                # The time is up for waiting for objects; what is in this node's store is there, and takes a round trip.
                runtime.round_trip()
                if not waiter.ready and all(entry.state == STORED for entry in entries):
                    runtime.wait_for_objects(
                        waiter, entries, monotonic() + runtime.config.control_ms_max / 1000
                    )
                if not waiter.ready:
                    raise GetTimeoutError(runtime.explain.timeout(entries))
        except BaseException:
            store.release(waiter)
            raise
        return waiter

    def load(self, entry: Entry) -> Any:
        """The value of an entry that is here; raises its error if it failed."""
        state = entry.state
        if state == INLINE:
            if entry.contained is None:
                return deserialize(entry.value)
            if entry.contained:
                return deserialize(entry.value, self._riders_inline(entry))
            return deserialize(entry.value, self._riders_sealed(entry, entry.value))
        if state == FAILED:
            raise self.error_of(entry)
        found = self._runtime.store.view(entry.id)
        if found is None:
            return self._load_again(entry)
        view, flags = found
        riders: Sequence[ObjectRef[Any]] = ()
        if not entry.flags & WITHOUT_REFS:
            ids = contained_ids(view)
            if ids:
                riders = self._riders_stored(entry, ids)
            else:
                entry.flags |= WITHOUT_REFS
        value = deserialize(view, riders)
        if flags & m.SEAL_ERROR:
            raise as_raised(value)
        return value

    def _load_again(self, entry: Entry) -> Any:
        """The pin was recalled between the wait and the read, or could not be had."""
        problem = self._runtime.store.pin_errors.pop(entry.id, None)
        if problem is not None:
            raise read_error(*problem)
        if self._runtime.closed:
            raise self._runtime.connection_lost()
        waiter = self._wait_pinned([entry], None)
        try:
            return self.load(entry)
        finally:
            self._runtime.store.release(waiter)

    def _riders_inline(self, entry: Entry) -> list[ObjectRef[Any]]:
        riders: list[ObjectRef[Any]] = []
        with self._lock:
            for inner in entry.contained or ():
                inner.count += 1
                riders.append(ObjectRef(inner.id, inner))
        return riders

    def _riders_stored(self, entry: Entry, ids: bytes) -> list[ObjectRef[Any]]:
        with self._lock:
            if entry.riders is None:
                entry.riders = [ObjectRef(object_id) for object_id in split_ids(ids)]
            return entry.riders

    def _riders_sealed(self, container: Entry, content: bytes) -> list[ObjectRef[Any]]:
        """Refs in ``content``, riding on a container whose seal the daemon may not have seen yet: readers quote its stamp."""
        table = self._table
        with self._lock:
            if container.riders is None:
                riders: list[ObjectRef[Any]] = []
                for object_id in split_ids(contained_ids(content)):
                    inner = table.borrow(object_id)
                    if inner.state == BORROWED and inner.stamp is None:
                        inner.stamp = container.stamp
                    inner.count += 1
                    riders.append(ObjectRef(object_id, inner))
                container.riders = riders
            return container.riders

    def error_of(self, entry: Entry) -> BaseException:
        """The exception of a failed entry, to be raised."""
        riders = self._riders_sealed(entry.contained[0], entry.value) if entry.contained else ()
        return as_raised(deserialize(entry.value, riders))

    # --- wait ---

    def take_next(
        self, refs: list[Any], num_returns: int, fetches: bool
    ) -> tuple[list[Any], list[Any]] | None:
        """What `wait` returns, if that is known without a check of ``refs`` (see `waiting.take_next`); else None."""
        return take_next(refs, num_returns, self._table, self._lock, fetches)

    def continued(self, refs: list[Any], fetches: bool) -> WaitState | None:
        """The state of this thread's last `wait` if ``refs`` is the list that it left, unchanged: it needs no checks."""
        state = local_wait_state()
        return state if state is not None and state.matches(refs, self._table, fetches) else None

    def wait(
        self,
        refs: list[Any],
        num_returns: int,
        timeout: float | None,
        state: WaitState | None,
        fetches: bool,
    ) -> tuple[list[Any], list[Any]]:
        """(up to ``num_returns`` ready ones, the others), both in input order; arguments were checked."""
        if state is None:
            state = WaitState(refs, self._table, self._lock, fetches=fetches)
        if len(state.arrived) < num_returns:
            try:
                self._wait_for(state, refs, num_returns, timeout)
            except BaseException:  # Ctrl-C: nobody comes back with a list of this state
                with self._lock:
                    state.give_up()
                raise
        with self._lock:
            return state.take(num_returns)

    def _wait_for(self, state: WaitState, refs: list[Any], num_returns: int, timeout: float | None) -> None:
        """Wait until that many of the refs are ready, or for as long as the timeout allows."""
        deadline = None if timeout is None else monotonic() + timeout
        if num_returns == len(refs):
            # All of them are needed, so it does not matter that one that runs here keeps this thread from others.
            entries = [ref._entry or self._table.entry_of(ref) for ref in refs if type(ref) is ObjectRef]
            run_in_place(self._runtime, entries, deadline)
            if len(state.arrived) >= num_returns:
                return
        with self._lock:
            state.expect(num_returns)
        if timeout == 0:
            if state.borrowed:
                self._runtime.round_trip()
            else:
                self._runtime.poll()
        elif not state.ready:
            self._runtime.waits.wait_for_some(state, deadline)


def read_error(kind: str, why: str) -> Exception:
    """Why a stored object cannot be read, to be raised; ``kind`` as in PIN_FAILED."""
    return _READ_ERRORS.get(kind, ObjectLostError)(why)


def as_raised(value: Any) -> BaseException:
    """The exception to raise for a stored error."""
    if isinstance(value, TaskError):
        return value.as_instanceof_cause()
    if isinstance(value, BaseException):
        return value
    return TypeError(f"a failed task sent {type(value).__name__} instead of an exception")


def callsite() -> str:
    """file:line of the nearest caller outside of shoal."""
    frame = sys._getframe(1)
    while frame.f_back is not None and frame.f_globals.get("__name__", "").partition(".")[0] in (
        _PACKAGE,
        "shoald",
    ):
        frame = frame.f_back
    return f"{frame.f_code.co_filename}:{frame.f_lineno}"

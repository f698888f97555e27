"""Arguments of a task on their way out: top-level refs lifted, large values stored once, the rest pickled small.

The same large value passed to many tasks is stored once: a content hash finds the candidate, and comparing the bytes
confirms it, so a change between two calls is seen. An array that is passed again and again is hashed, and the hash (128 bits)
says whether it has changed: reading it alone takes half of the time of reading it and the copy. That the copy has the hash is
known when both were made in one pass; else they are compared, once, since another thread may have changed the array meanwhile.
When it was found unchanged, it is watched from then on where the kernel can do that, and not even hashed (`watching`).
What differs at a glance from all that was stored is copied without being hashed first.

The stored copy lives as long as a task (or a ref) uses it, and a little longer, since the first task is often done before the
second is submitted: for `shared_copy_ms`, or until the array is passed with another content, or the store wants room. Not so a
copy with refs in it: that would keep what they refer to, maybe all that is in the store, after its users have let go of it.
"""

from __future__ import annotations

from collections import deque
from time import monotonic
from typing import TYPE_CHECKING, Any, NamedTuple

from shoal.lazynumpy import notice, np
from shoal.owner.objects import STORED, Entry
from shoal.refs import ObjectRef
from shoal.serialization import Serialized, dumps_call, serialize

if TYPE_CHECKING:
    import weakref
    from collections.abc import Sequence

    from shoal.client.runtime import Runtime
    from shoal.client.watching import ArrayWatch
    from shoal.store.tracked import History

Where = int | str
# (payload, entries of lifted refs, their places, entries of nested refs): see `TaskRecord`.
Packed = tuple[bytes, tuple[Entry, ...], tuple[Where, ...] | None, list[Entry] | None]
# Uses of shared copies that are kept a while; beyond, the oldest goes. Each may be 1/32 of the store, all half of it.
_RECENT_MAX = 16
_RECENT_SHARE = 32
_KNOWN_MAX = 4096  # content hashes remembered; beyond, all are forgotten (only sharing is lost)

EMPTY = dumps_call((), {}) or b""
NOTHING_PACKED: Packed = (EMPTY, (), None, None)
_all_refs = frozenset({ObjectRef}).issuperset


class _LastArray(NamedTuple):
    """What was stored for an array at its last call; ``exact``: the copy is known to have this hash.

    ``owner``: stands for the array whose memory it was (`ArrayWatch.owner`).
    """

    object_id: bytes
    content_hash: bytes
    glance: bytes
    exact: bool
    history: History
    owner: weakref.ref[np.ndarray[Any, Any]]


class _Shared(NamedTuple):
    """A stored copy; ``exact``: it is known to have this hash."""

    ref: ObjectRef[Any]
    content_hash: bytes
    exact: bool


class Packer:
    """Packs arguments for one process."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._limit = runtime.config.inline_bytes_max
        self._known: dict[tuple[bytes, int], bytes] = {}
        self._glances: set[bytes] = set()
        self._last_arrays: dict[tuple[int, int, int], _LastArray] = {}
        self._recent: deque[tuple[float, Entry]] = deque()
        self._watch: ArrayWatch | None = None

    def pack(self, args: tuple[Any, ...], kwargs: dict[str, Any], callsite: str) -> Packed:
        """The arguments as a task has them; entries are counted for it, and nested refs have escaped."""
        if not kwargs and _all_refs(map(type, args)):
            return EMPTY, self._counted(args), None, None
        lifted: list[tuple[Where, ObjectRef[Any]]] = []
        for position, value in enumerate(args):
            if type(value) is ObjectRef:
                lifted.append((position, value))
            elif type(value) is np.ndarray and value.nbytes > self._limit:
                lifted.append((position, self._store_array(value, callsite)))
        if kwargs:
            for name, value in kwargs.items():
                if type(value) is ObjectRef:
                    lifted.append((name, value))
                elif type(value) is np.ndarray and value.nbytes > self._limit:
                    lifted.append((name, self._store_array(value, callsite)))
        given_args, given_kwargs = args, kwargs
        if lifted:
            args, kwargs = _blanked(args, kwargs, lifted)
        payload = dumps_call(args, kwargs)
        nested = None
        if payload is None:
            if notice():
                return self.pack(
                    given_args, given_kwargs, callsite
                )  # what looked like any value may be an array
            try:
                packed = serialize((args, kwargs))
            except TypeError:
                _name_culprit(args, kwargs, callsite)
                raise
            if packed.size > self._limit:
                args, kwargs = self._store_large(args, kwargs, lifted, callsite)
                packed = serialize((args, kwargs))
            payload = packed.to_bytes()
            if packed.refs:
                nested = self._escape(packed.refs)
        if not lifted:
            return payload, (), None, nested
        places, refs = zip(*lifted, strict=True)
        return payload, self._counted(refs), places, nested

    def _counted(self, refs: Sequence[ObjectRef[Any]]) -> tuple[Entry, ...]:
        """The entries of ``refs``, with one use more each."""
        entry_of = self._runtime.table.entry_of
        with self._runtime.lock:
            entries = tuple([ref._entry or entry_of(ref) for ref in refs])
            for entry in entries:
                entry.count += 1
        return entries

    def _store_large(
        self,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        lifted: list[tuple[Where, ObjectRef[Any]]],
        callsite: str,
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Store the arguments that are large by themselves; the rest stays in the payload, whatever its size."""
        large: list[tuple[Where, ObjectRef[Any]]] = []
        budget = self._runtime.config.inline_args_bytes_max
        everything: list[tuple[Where, Any]] = [*enumerate(args), *kwargs.items()]
        for where, value in everything:
            if value is None or type(value) in (int, float, bool):
                continue
            packed = serialize(value)
            if packed.size > self._limit or packed.size > budget:
                large.append((where, self.store_shared(packed, callsite)))
            else:
                budget -= packed.size
        if not large:
            return args, kwargs
        lifted.extend(large)
        return _blanked(args, kwargs, large)

    def _escape(self, refs: list[ObjectRef[Any]]) -> list[Entry]:
        table = self._runtime.table
        with self._runtime.lock:
            entries = [table.entry_of(ref) for ref in refs]
            for entry in entries:
                entry.count += 1
                table.escape(entry)
        return entries

    def _store_array(self, array: np.ndarray[Any, Any], callsite: str) -> ObjectRef[Any]:
        """A ref to a stored copy of ``array``, perhaps that of its last call."""
        packed = serialize(array)
        glance = packed.glance()
        key = (id(array), array.ctypes.data, array.nbytes)
        watch = self._watch or self._make_watch()
        owner = watch.owner(array)
        last = self._last_arrays.pop(key, None)
        if last is not None and last.owner is not owner:  # of an array that was here before
            watch.forget(last.history)
            last = last._replace(history=watch.new_history(), owner=owner)
        history = last.history if last is not None else watch.new_history()
        content_hash = b""
        if last is not None:
            if last.glance != glance:
                watch.changed(history, packed)
            elif history.token is not None:
                ref = self._if_unwritten(watch, last, packed)
                if ref is not None:
                    self._last_arrays[key] = last
                    return ref
            watch.protect(history, array, packed)
            if last.glance == glance:
                content_hash = packed.content_hash()
            if last.content_hash == content_hash:
                history.found_unchanged()
                ref = self._if_equal(last.object_id, None if last.exact else packed)
                if ref is not None:
                    self._last_arrays[key] = last._replace(exact=True)
                    return ref
            else:
                self._let_go(last.object_id)
        shared = self._find_or_store(packed, callsite, glance, content_hash, last is not None)
        if len(self._last_arrays) >= _RECENT_MAX:
            watch.forget(self._last_arrays.pop(next(iter(self._last_arrays))).history)
        self._last_arrays[key] = _LastArray(
            shared.ref.id, shared.content_hash, glance, shared.exact, history, owner
        )
        return shared.ref

    def _if_unwritten(self, watch: ArrayWatch, last: _LastArray, packed: Serialized) -> ObjectRef[Any] | None:
        """A ref to the stored copy of a watched array, if the kernel says that it is still one."""
        ref = self._if_equal(last.object_id, None)
        store = self._runtime.store
        found = store.view(last.object_id) if ref is not None and store.pins.lookup(last.object_id) else None
        return (
            ref if watch.is_unchanged(last.history, packed, found[0] if found is not None else None) else None
        )

    def _make_watch(self) -> ArrayWatch:
        from shoal.client.watching import ArrayWatch

        self._watch = watch = ArrayWatch(self._runtime.config)
        return watch

    def _if_equal(self, object_id: bytes, packed: Serialized | None) -> ObjectRef[Any] | None:
        """A ref to the stored object, if it is still there and holds just these bytes (None: whatever it holds)."""
        runtime = self._runtime
        with runtime.lock:
            entry = runtime.table.entries.get(object_id)
            ref = self._share(entry) if entry is not None and entry.state == STORED else None
        if ref is None:
            return None
        if packed is not None:
            found = runtime.store.view(object_id)
            if found is None or not packed.equals(found[0]):
                return None
        if packed is None or not packed.refs:
            self._keep_a_while(ref)
        return ref

    def store_shared(self, packed: Serialized, callsite: str) -> ObjectRef[Any]:
        """A ref to a stored copy of these bytes, made now or found."""
        return self._find_or_store(packed, callsite, packed.glance()).ref

    def _find_or_store(
        self, packed: Serialized, callsite: str, glance: bytes, content_hash: bytes = b"", again: bool = False
    ) -> _Shared:
        """A stored copy. What was never glanced at needs no hash to be looked for.

        ``content_hash``: if it was made already; ``again``: the array was passed before, with another content.
        """
        if not content_hash and glance in self._glances:
            content_hash = packed.content_hash()
        known = self._known.get((content_hash, packed.size)) if content_hash else None
        found = self._if_equal(known, packed) if known is not None else None
        if found is not None:
            return _Shared(found, content_hash, True)
        where = f"argument of {callsite}"
        shared = _Shared(*self._runtime.values.put_hashed(packed, where, True, again))
        if len(self._known) >= _KNOWN_MAX:
            self._known.clear()
            self._glances.clear()
        self._known[shared.content_hash, packed.size] = shared.ref.id
        self._glances.add(glance)
        if not packed.refs:
            self._keep_a_while(shared.ref)
        return shared

    def _keep_a_while(self, ref: ObjectRef[Any]) -> None:
        runtime = self._runtime
        with runtime.lock:
            entry = runtime.table.entry_of(ref)
            if entry.size > runtime.store.region.capacity // _RECENT_SHARE:
                return
            entry.count += 1
            self._recent.append((monotonic(), entry))
            if len(self._recent) > _RECENT_MAX:
                runtime.table.drop_uses([self._recent.popleft()[1]])

    def _let_go(self, object_id: bytes) -> None:
        """What it was a copy of has changed: nobody will pass that again, and its pages are warm."""
        with self._runtime.lock:
            gone = [use for use in self._recent if use[1].id == object_id]
            for use in gone:
                self._recent.remove(use)
            self._runtime.table.drop_uses([entry for _, entry in gone])

    def drop_recent(self, now: float | None) -> bool:
        """Let go of shared copies that were not used lately (None: of all); whether others wait for that. Lock held."""
        recent = self._recent
        keep_s = self._runtime.config.shared_copy_ms / 1000
        while recent and (now is None or recent[0][0] + keep_s <= now):
            self._runtime.table.drop_uses([recent.popleft()[1]])
        return bool(recent) | (self._watch is not None and self._watch.sweep())

    def close(self) -> None:
        """Let go of what arrays are watched with; also in a forked child."""
        if self._watch is not None:
            self._watch.close()

    @staticmethod
    def _share(entry: Entry) -> ObjectRef[Any]:
        entry.count += 1
        return ObjectRef(entry.id, entry)


def _blanked(
    args: tuple[Any, ...], kwargs: dict[str, Any], lifted: list[tuple[Where, ObjectRef[Any]]]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments with None in the places of lifted ones."""
    positional = list(args)
    named = dict(kwargs)
    for where, _ in lifted:
        if type(where) is int:
            positional[where] = None
        else:
            named[str(where)] = None
    return tuple(positional), named


def _name_culprit(args: tuple[Any, ...], kwargs: dict[str, Any], function: str) -> None:
    """Raise a TypeError that says which argument cannot be serialized; return if each by itself can."""
    arguments: list[tuple[Where, Any]] = [*enumerate(args), *kwargs.items()]
    for where, value in arguments:
        try:
            serialize(value)
        except TypeError as error:
            raise TypeError(f"argument {where!r} of {function}(): {error}") from error.__cause__

"""An actor with async methods: all its calls run on one asyncio loop, in a thread of its own.

Each concurrency group starts at most its limit of calls; the rest waits in order. Replies of calls that end in the same turn of
the loop are sent together. Methods that are not async run on the loop as well, and hold it up while they do.

When the actor leaves (`close`), what waits for its group is given back, and what runs ends; then the process may go.
"""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections import deque
from time import perf_counter
from typing import TYPE_CHECKING, Any

from shoal.actors.api import ActorExit
from shoal.actors.method import is_for_its_caller
from shoal.client import forks
from shoal.context import TaskContext, current_task
from shoal.ids import return_id
from shoal.serialization import serialize
from shoal.wire import messages as m
from shoald.worker import faults, strays
from shoald.worker.arguments import Loaded

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from shoald.worker.callers import Caller
    from shoald.worker.calls import Calls
    from shoald.worker.leaving import WaysOut

    Call = tuple[Caller, tuple[Any, ...]]


class AsyncLanes:
    """Calls on an event loop; the arguments are those of `Lanes`."""

    def __init__(
        self,
        calls: Calls,
        groups: dict[str, int],
        group_of: dict[str, str],
        answer: Callable[[list[Call]], None],
        end: Callable[[str], None],
        leave: Callable[[SystemExit], None],
        ways_out: WaysOut,
    ) -> None:
        self.open = False
        self._calls = calls
        self._groups = {name: _Group(limit) for name, limit in groups.items()}
        self._group_of = group_of
        self._answer = answer
        self._end = end
        self._leave = leave
        self._ways_out = ways_out
        self._closed = False
        self._answers: list[Call] = []
        self._tasks: dict[bytes, asyncio.Task[None]] = {}
        self._for_caller: dict[
            bytes, bool
        ] = {}  # function field of a call → whether it is for its caller alone
        self._of_caller: dict[Caller, set[bytes]] = {}  # such calls that run
        self._beginning: dict[
            bytes, bool
        ] = {}  # calls whose task has not made its first step: whether it is not to
        self._delivered: set[bytes] = set()  # calls that the loop has not looked at yet
        self._loop = _new_loop()
        self._thread = threading.Thread(target=self._run_loop, name="actor-loop", daemon=True)
        self._thread.start()

    def _run_loop(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_forever()

    def run_first(self, make: Callable[[], None]) -> None:
        """Run the constructor on the loop, and wait for it; raises what it raises."""

        async def constructor() -> None:
            make()

        asyncio.run_coroutine_threadsafe(constructor(), self._loop).result()

    # --- from the thread that reads the sockets ---

    def deliver(self, arrived: list[Call]) -> None:
        """Calls that may start as soon as their group has room (runtime's lock held)."""
        self._delivered.update([message[1] for _, message in arrived])
        self._loop.call_soon_threadsafe(self._start, arrived)

    def cancel(self, task_id: bytes) -> None:
        """Stop a call: at once if it has not started; else at its next await."""
        self._loop.call_soon_threadsafe(self._cancel, task_id)

    def hold(self, caller: Caller) -> None:
        """A caller lost its connection: its calls that have not started are set aside."""
        self._loop.call_soon_threadsafe(self._hold, caller)

    def release(self, caller: Caller) -> None:
        """The caller is back."""
        self._loop.call_soon_threadsafe(self._release, caller)

    def abandon(self, caller: Caller) -> None:
        """The caller is gone for good: what runs for it alone is cancelled."""
        self._loop.call_soon_threadsafe(self._abandon, caller)

    def close(self) -> None:
        """Begin no call any more; when none runs, the process may go."""
        self._loop.call_soon_threadsafe(self._close)

    def interrupt(self) -> bool:
        """Whether a cancelled call is still to be interrupted: the loop sees to that."""
        return False

    def load(self) -> tuple[int, int]:
        """How many calls run, and how many wait for their group to have room."""
        return len(self._tasks), sum(len(group.waiting) for group in self._groups.values())

    def ahead_of(self, task_id: bytes) -> list[bytes]:
        """The call that has the loop, for one that has not begun: `get` in it, instead of `await`, holds up all others."""
        waiting = [call[1][1] for group in self._groups.values() for call in list(group.waiting)]
        if task_id not in self._delivered and task_id not in self._beginning and task_id not in waiting:
            return []
        current = asyncio.current_task(self._loop)
        return [call for call, task in list(self._tasks.items()) if task is current and call != task_id]

    # --- on the loop ---

    def _close(self) -> None:
        self._closed = True
        for group in self._groups.values():
            self._ways_out.not_begun(list(group.waiting))
            group.waiting.clear()
        if not self._tasks and not self._answers:
            self._ways_out.idle()

    def _start(self, arrived: list[Call]) -> None:
        self._delivered.difference_update([message[1] for _, message in arrived])
        if self._closed:
            self._ways_out.not_begun(arrived)
            return
        for call in arrived:
            method, _, asked = self._calls.names(call[1][2])
            group = self._groups.get(asked or self._group_of.get(method, "")) or self._groups[""]
            if group.running < group.limit:
                self._begin(call, group)
            else:
                group.waiting.append(call)

    def _begin(self, call: Call, group: _Group) -> None:
        group.running += 1
        task_id = call[1][1]
        self._beginning[task_id] = False
        alone = self._for_caller.get(call[1][2])
        if alone is None:
            method = getattr(self._calls.instance, self._calls.names(call[1][2])[0], None)
            alone = self._for_caller[call[1][2]] = is_for_its_caller(method)
        if alone:
            self._of_caller.setdefault(call[0], set()).add(task_id)
        self._tasks[task_id] = self._loop.create_task(self._run(call, group))

    async def _run(self, call: Call, group: _Group) -> None:
        caller, message = call
        lends = self._calls.waits is not None
        if lends:
            self._calls.begins(message[1])
        try:
            if self._beginning.pop(message[1]):
                reply: tuple[Any, ...] = (*self._calls.results.cancelled(message[1]), b"", True)
            else:
                started = perf_counter()
                try:
                    reply = await self._call(caller.proc, message)
                finally:
                    if forks.in_child():
                        strays.end()
                self._calls.record(message, started, perf_counter(), reply[0] == m.DONE)
        except ActorExit:
            self._end("exit_actor() was called")
            return
        except SystemExit as error:
            self._leave(error)
            return
        finally:
            self._tasks.pop(message[1], None)
            if caller in self._of_caller:
                self._over(caller, message[1])
            if lends:
                self._calls.ends(message[1])
            group.running -= 1
            if group.waiting and group.running < group.limit:
                self._begin(group.waiting.popleft(), group)
        self._reply(caller, reply)

    def _over(self, caller: Caller, task_id: bytes) -> None:
        calls = self._of_caller[caller]
        calls.discard(task_id)
        if not calls:
            del self._of_caller[caller]

    def _abandon(self, caller: Caller) -> None:
        for task_id in list(self._of_caller.get(caller, ())):
            self._cancel(task_id)

    def _reply(self, caller: Caller, reply: tuple[Any, ...]) -> None:
        if not self._answers:
            self._loop.call_soon(self._flush)
        self._answers.append((caller, reply))

    def _flush(self) -> None:
        answers, self._answers = self._answers, []
        try:
            self._answer(answers)
        except Exception:  # noqa: BLE001  of the runtime (no memory, say): the log gets it
            faults.end_process()
        if self._closed and not self._tasks:
            self._ways_out.idle()

    async def _call(self, caller: bytes, message: tuple[Any, ...]) -> tuple[Any, ...]:
        _, task_id, function_id, payload, lifted, details = message
        calls = self._calls
        loaded = Loaded(task_id)
        method, name, _ = calls.names(function_id)
        if details is not None and details["name"]:
            name = details["name"]
        started = False
        loaded.name = name
        try:
            args, kwargs = calls.arguments.load(loaded, caller, payload, lifted, details)
            context = TaskContext(
                task_id,
                name,
                calls.names(function_id)[1],
                details["depth"] if details else 0,
                calls.resources,
            )
            context.arguments = loaded.values
            current_task.set(context)  # of this asyncio task alone
            started = True
            calls.set_task_name(name)
            try:
                value = calls.method(method)(*args, **kwargs)
                if inspect.isawaitable(value):
                    value = await value
                if details is not None and details["stream"]:
                    results = await self._stream(task_id, value, caller, name, details)
                else:
                    count = details["returns"] if details is not None else 1
                    results = calls.results.encode(task_id, value, count, caller, name)
            finally:
                del args, kwargs  # whatever still refers to a ref now keeps it (Arguments.kept)
                value = None
                context.arguments = ()
            return (m.DONE, task_id, results, calls.arguments.kept(loaded), 0.0)
        except asyncio.CancelledError:
            return (*calls.results.cancelled(task_id, name), b"", True)
        except BaseException as error:  # noqa: BLE001  everything a method raises goes to its caller
            return calls.failure(task_id, error, name, caller, started, loaded)

    def _cancel(self, task_id: bytes) -> None:
        running = self._tasks.get(task_id)
        if task_id in self._beginning:  # cancelled before its first step, a coroutine would not even clean up
            self._beginning[task_id] = True
            return
        if running is not None:
            if not running.cancelling():  # the message may come twice
                running.cancel()
            return
        for group in self._groups.values():
            for call in group.waiting:
                if call[1][1] == task_id:
                    group.waiting.remove(call)
                    self._reply(call[0], (*self._calls.results.cancelled(task_id), b"", True))
                    return

    def _hold(self, caller: Caller) -> None:
        for group in self._groups.values():
            caller.held += [call for call in group.waiting if call[0] is caller]
            group.waiting = deque(call for call in group.waiting if call[0] is not caller)

    def _release(self, caller: Caller) -> None:
        held = caller.held.copy()
        caller.held.clear()
        self._start(held)

    # --- generators ---

    async def _stream(
        self, task_id: bytes, iterator: Any, caller: bytes, name: str, details: dict[str, Any]
    ) -> list[Any]:
        calls = self._calls
        backlog = details["backlog"] or calls.runtime.config.generator_backlog_max
        producer = calls.producers[task_id] = _Backpressure(self._loop, backlog, details["taken"])
        sent = 0
        try:
            async for value in _items(iterator):
                if sent >= details["received"]:  # what an earlier attempt has sent is not sent again
                    result = calls.results.one(return_id(task_id, sent + 1), value, caller, name)
                    calls.reply_now(caller, (m.ITEM, task_id, sent, result), True)
                del value
                sent += 1
                await producer.room(sent)
        finally:
            del calls.producers[task_id]
            if hasattr(iterator, "aclose"):
                await iterator.aclose()
        return [(m.RESULT_INLINE, serialize(sent).to_bytes(), (), None, sent)]


class _Group:
    """One concurrency group."""

    __slots__ = ("limit", "running", "waiting")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.running = 0
        self.waiting: deque[Call] = deque()


class _Backpressure:
    """How far a generator may run ahead of its reader."""

    __slots__ = ("_backlog", "_loop", "_room", "_taken")

    def __init__(self, loop: asyncio.AbstractEventLoop, backlog: int, taken: int) -> None:
        self._loop = loop
        self._backlog = backlog
        self._taken = taken
        self._room = asyncio.Event()

    def consumed(self, count: int) -> None:
        """The reader has taken ``count`` items so far; on the thread that reads the sockets."""
        self._taken = max(self._taken, count)
        self._loop.call_soon_threadsafe(self._room.set)

    async def room(self, sent: int) -> None:
        """Wait until another item may be sent."""
        while sent - self._taken >= self._backlog:
            self._room.clear()
            if sent - self._taken >= self._backlog:
                await self._room.wait()


async def _items(iterator: Any) -> AsyncIterator[Any]:
    if hasattr(iterator, "__aiter__"):
        async for value in iterator:
            yield value
    else:
        for value in iterator:
            yield value


def _new_loop() -> asyncio.AbstractEventLoop:
    try:
        import uvloop
    except ImportError:  # a platform that it has no wheel for
        return asyncio.new_event_loop()
    return uvloop.new_event_loop()

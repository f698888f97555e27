"""A worker that has become an actor: makes the instance, then runs the calls of all callers on it.

Three ways to run calls, chosen by the class and its options:
    in order    one after the other on the main thread, as they come (of each caller: as it submitted them)
    threads     `max_concurrency` over 1 or concurrency groups: a pool of threads per group (`lanes`)
    event loop  a class with async methods: all calls on one asyncio loop, up to a limit per group (`asynclanes`)

In the last two the main thread reads the sockets. Replies go in batches, as a task worker's do. Callers may connect before the
constructor has returned: their calls wait here. What the constructor raises is sent to the daemon, for all callers.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections import deque
from time import monotonic, perf_counter
from typing import TYPE_CHECKING, Any, NoReturn

from shoal import gpus
from shoal.actors.actor_class import group_of_methods
from shoal.actors.api import ActorExit
from shoal.actors.errors import why_not_made
from shoal.actors.handle import ActorHandle
from shoal.causes import remedy
from shoal.client import timeline
from shoal.client.awaits import Never
from shoal.client.connection import Connection, pickled_frames
from shoal.client.linking import link
from shoal.context import ActorIdentity, TaskContext, current_task
from shoal.exceptions import ActorDiedError
from shoal.ids import OBJECT_ID_SIZE
from shoal.refs import ObjectRef
from shoal.serialization import deserialize, loads_code, serialize
from shoal.wire import messages as m
from shoal.wire.frames import BrokenFrame
from shoald.worker import output
from shoald.worker.arguments import Arguments
from shoald.worker.blocking import Blocking, CallWaits
from shoald.worker.callers import UNKNOWN, Caller, Callers
from shoald.worker.calls import Calls
from shoald.worker.cancels import Cancels
from shoald.worker.functions import FunctionCache, OtherInterpreterNeeded
from shoald.worker.incoming import PLAIN_CALL, check_call, messages_of, opening, unheard
from shoald.worker.lanes import Lanes
from shoald.worker.leaving import WaysOut, flush_out, give_back, take_all
from shoald.worker.results import Results
from shoald.worker.selfview import SelfView

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    from shoal.client.runtime import Runtime
    from shoald.worker.asynclanes import AsyncLanes

_MAIN = threading.main_thread()


class _Inbox:
    """Calls that wait for the main thread (an `Awaited` of the reactor); none once the process is `leaving`."""

    __slots__ = ("calls", "leaving", "wake")

    def __init__(self) -> None:
        self.calls: deque[tuple[Caller, tuple[Any, ...]]] = deque()
        self.leaving = False
        self.wake: object = None

    @property
    def ready(self) -> bool:
        return bool(self.calls) or self.leaving


class ActorExecutor:
    """The actor that this process is.

    Args:
        status: 64 bytes shared with the daemon; the first 16 name the call that was started last.
        become: the BECOME_ACTOR message.
    """

    def __init__(
        self, runtime: Runtime, status: memoryview, set_task_name: Callable[[str], None], become: list[Any]
    ) -> None:
        _, self._actor_id, self._info = become
        self.runtime = runtime
        self._status = status
        status[:16] = self._actor_id  # it has begun; in threads and on a loop no single call is current
        self._inbox = _Inbox()
        config = runtime.config
        self._callers = Callers(config.actor_resume_ms / 1000, config.actor_parked_callers_max)
        self._running: list[bytes] = []
        self._cancels = Cancels(self._running, runtime.lock)
        self._lanes: Lanes | AsyncLanes | None = None
        self._short: set[bytes] = set()
        self._unsent_since = 0.0
        self._unsent = False
        self._serial = 0
        self._watched = (0, 0.0)
        self._reply_delay_s = config.reply_delay_us / 1e6
        resources = {name: units / 10_000 for name, units in self._info["resources"].items()}
        self.calls = Calls(
            runtime, Arguments(runtime), Results(runtime), self._info["class"], resources, self.reply_now,
            set_task_name, self._cancels,
        )  # fmt: skip
        self._remember = runtime.timeline.record
        self._view = SelfView(self._actor_id, self._running, self._inbox.calls)
        self._blocking = Blocking(
            runtime, lambda: self._view.making or bool(self._running), self._send_replies_locked
        )
        self._lends = "CPU" in resources
        runtime.on_leave = self._leave_soon
        runtime.ticks.hook = self._watch
        runtime.blocking_hook = self._blocking.begin if self._lends else None
        runtime.unblocked_hook = self._blocking.end if self._lends else None
        runtime.actors.caller_left = self._on_caller_left
        runtime.explain.actor = self._view
        runtime.run_here = None
        runtime.dispatch.cancel_here = lambda task_id: None
        runtime.serve_peers(self._on_peer, actor=True)

    # --- becoming ---

    def run(self) -> NoReturn:
        """Make the instance, say so, and run calls until the process ends."""
        runtime = self.runtime
        try:
            ref, cls, settings, args, kwargs = self._prepare()
        except BaseException as error:  # noqa: BLE001  whatever it is, callers have to hear of it
            self._fail(error)
        self._enter(ref)
        if settings["asynchronous"] or settings["groups"] or settings["concurrency"] > 1:
            groups = {"": settings["concurrency"], **settings["groups"]}
            self._lanes = _kind_of_lanes(settings["asynchronous"])(
                self.calls, groups, group_of_methods(cls), self._answer, self._exit, self._leave,
                WaysOut(self._not_begun, self._end_in_peace))  # fmt: skip
            self._view.lanes = self._lanes
            self._lend_together()
        else:
            self._cancels.install()
        try:
            self._construct(cls, args, kwargs)
        except ActorExit:
            self._exit("exit_actor() was called in its constructor")
        except BaseException as error:  # noqa: BLE001  callers have to hear of it
            self._fail(error)
        del args, kwargs
        with runtime.lock:
            self._view.making = False
            self._waits_end()
            runtime.table.to_node([m.ACTOR_READY, self._actor_id])
            runtime.flush()
        self._serve()

    def _lend_together(self) -> None:
        """Several calls run at once from now on: the CPU is lent out while all of them wait. The constructor is the first."""
        if self._lends:
            runtime = self.runtime
            with runtime.lock:
                self._blocking.task_ended()
                waits = self.calls.waits = CallWaits(runtime)
                waits.call_begins(self._actor_id)
                runtime.blocking_hook, runtime.unblocked_hook = waits.begin, waits.end

    def _waits_end(self) -> None:
        """The constructor, or the call on the main thread, is over, and so are its waits (lock held)."""
        if self.calls.waits is not None:
            self.calls.waits.call_ends(self._actor_id)
        elif self._blocking.blocked:
            self._blocking.task_ended()

    def _prepare(self) -> tuple[ObjectRef[Any], type, dict[str, Any], tuple[Any, ...], dict[str, Any]]:
        """What the actor is made from; raises what cannot be loaded, and the error of an argument that failed."""
        runtime = self.runtime
        ref: ObjectRef[Any] = ObjectRef(self._actor_id)
        blob, captured, job, settings, self._table, given, inside = runtime.values.get(ref, None)
        runtime.identity.job_id = self._info["job_id"]
        importing = FunctionCache(runtime, lambda _: False)  # who kills an actor ends its process
        importing.enter_job({**job, "namespace": self._info["namespace"]})
        importing.enter_packages(self._actor_id)
        cls = loads_code(blob, captured)
        self._captured = captured
        args, kwargs = deserialize(given, inside)
        refs = [value for value in (*args, *kwargs.values()) if type(value) is ObjectRef]
        values = dict(zip([id(each) for each in refs], runtime.values.get_all(refs, None), strict=True))
        arguments = tuple(values[id(value)] if type(value) is ObjectRef else value for value in args)
        named = {
            name: values[id(value)] if type(value) is ObjectRef else value for name, value in kwargs.items()
        }
        return ref, cls, settings, arguments, named

    def _enter(self, ref: ObjectRef[Any]) -> None:
        info, identity = self._info, self.runtime.identity
        # It borrows the lifetime object without a hold: an actor does not keep itself alive.
        handle = ActorHandle(ref, self._table)
        identity.namespace = info["namespace"]
        identity.group = info["group"]
        identity.gpus = gpus.use(info["gpus"])
        identity.actor = ActorIdentity(self._actor_id.hex(), info["name"], info["restarts"] > 0, handle)

    def _construct(self, cls: type, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        name = f"{self._info['class']}.__init__"
        context = TaskContext(self._actor_id, name, name, 0, self.calls.resources)
        context.arguments = (*args, *kwargs.values())

        def make() -> None:
            token = current_task.set(context)
            try:
                self.calls.instance = cls(*args, **kwargs)
            finally:
                current_task.reset(token)
                context.arguments = ()

        self.calls.set_task_name(context.name)
        if self._lanes is None or isinstance(self._lanes, Lanes):
            make()
        else:
            self._lanes.run_first(make)

    def _fail(self, error: BaseException) -> NoReturn:
        """The actor cannot be made: tell the daemon, which tells the callers and ends this process."""
        info, runtime = self._info, self.runtime
        if isinstance(error, OtherInterpreterNeeded):
            self._only_read()  # until the daemon ends this process, and finds another one
        died = ActorDiedError(
            f"actor {info['class']} is dead: {why_not_made(error)}",
            actor_id=self._actor_id.hex(), actor_name=info["name"], node=runtime.identity.node_id, pid=os.getpid(),
            next_step=f"{remedy(error) or 'mend the constructor, or what it is given'}, and make a new actor",
        )  # fmt: skip
        with runtime.lock:
            runtime.table.to_node([m.ACTOR_FAILED, self._actor_id, serialize(died).to_bytes()])
            runtime.flush()
        self._only_read()

    # --- the loop ---

    def _serve(self) -> NoReturn:
        lanes, inbox = self._lanes, self._inbox
        if inbox.leaving:  # told so during the constructor
            self._end_in_peace()
        calls = inbox.calls
        if lanes is not None:
            with self.runtime.lock:
                if inbox.leaving:
                    self._end_in_peace()
                lanes.deliver(list(calls))
                calls.clear()
                lanes.open = True
            self._only_read()
        wait = self.runtime.wait
        while True:
            try:
                caller, message = calls.popleft()
            except IndexError:
                self._send_replies()
                if inbox.leaving:
                    self._end_in_peace()
                if self._cancels.any:
                    self._forget_cancels()
                wait(inbox, None)
                continue
            self._execute(caller, message)

    def _forget_cancels(self) -> None:
        with self.runtime.lock:
            if not self._inbox.calls:
                self._cancels.idle()

    def _only_read(self) -> NoReturn:
        """The main thread leads at the sockets; others, or nobody, run calls."""
        while True:
            self.runtime.wait(Never(), None)

    def _execute(self, caller: Caller, message: tuple[Any, ...]) -> None:
        """Run a call on the main thread, and queue its reply."""
        name = message[2]
        if self._unsent and (
            name not in self._short or perf_counter() - self._unsent_since > self._reply_delay_s
        ):
            self._send_replies()
        task_id = message[1]
        self._status[:16] = task_id
        self._serial += 1
        self._running.append(task_id)
        started = perf_counter()
        try:
            reply = self.calls.run(caller.proc, message)
        except ActorExit:
            self._exit("exit_actor() was called")
        except SystemExit as error:
            self._leave(error)
        finally:
            self._running.pop()
            self._cancels.ended(task_id)
            if self._blocking.blocked:
                with self.runtime.lock:
                    self._waits_end()
        now = perf_counter()
        good = reply[0] == m.DONE
        shown = name if message[5] is None else self.calls.shown(message)
        self._remember((shown, task_id, started, now, good))
        if good:
            run_us = (now - started) * 1e6
            if run_us < 500:
                self._short.add(name)
            else:
                self._short.discard(name)
            reply = (*reply, run_us)
        if not self._unsent:
            self._unsent = True
            self._unsent_since = now
        caller.replies.append(reply)

    # --- replies ---

    def _answer(self, answers: list[tuple[Caller, tuple[Any, ...]]]) -> None:
        """Send the replies of calls that ran elsewhere."""
        with self.runtime.lock:
            for caller, reply in answers:
                caller.replies.append(reply)
            self._send_replies_locked()

    def _send_replies(self) -> None:
        with self.runtime.lock:
            self._send_replies_locked()

    def _send_replies_locked(self) -> None:
        self.runtime.flush_seals()
        self._unsent = False
        bytes_max = self.runtime.config.batch_bytes_max
        for caller in self._callers:
            if caller.replies:
                frames = pickled_frames(caller.replies, bytes_max)
                caller.replies = []  # not before: there may be no memory for the frames
                for data in frames:
                    caller.keep(data)
                    if caller.connection is not None:
                        caller.connection.send(data)

    def reply_now(self, proc: bytes, message: tuple[Any, ...], urgent: bool) -> None:
        """Send an item of a generator; results that wait go with it."""
        with self.runtime.lock:
            caller = self._callers.get(proc)
            if caller is not None:
                caller.replies.append(message)
            if urgent or self._lanes is not None or perf_counter() - self._unsent_since > self._reply_delay_s:
                self._send_replies_locked()
            else:
                self._unsent = True

    def _watch(self, now: float) -> float | None:
        """Send finished replies when a call runs long, and what else comes with time (lock held)."""
        for gone in self._callers.overdue(now):
            self._forget(gone)
        if self._lanes is not None:
            delay = self.calls.waits.tick(now) if self.calls.waits is not None else None
            return self.runtime.config.tick_ms / 1000 if self._lanes.interrupt() else delay
        if not self._running or threading.current_thread() is _MAIN:
            return None
        tick_s = self.runtime.config.tick_ms / 1000
        again = self._cancels.remind()
        serial, since = self._watched
        if serial != self._serial:
            self._watched = (self._serial, now)
            return tick_s
        if now - since >= 0.0015 and any(caller.replies for caller in self._callers):
            self._send_replies_locked()
        return tick_s if again or self.calls.producers or now - since < 0.0015 else None

    # --- ends ---

    def _exit(self, reason: str) -> NoReturn:
        """End on purpose: what was answered is sent, the daemon knows that it is no accident."""
        runtime = self.runtime
        with runtime.lock:
            runtime.table.to_node([m.ACTOR_EXITS, self._actor_id, reason])
            self._send_replies_locked()
        self._end_process(0)

    def _leave(self, error: SystemExit) -> NoReturn:
        """A method called sys.exit: the process ends; callers learn it from the daemon."""
        self._send_replies()
        self._end_process(error.code if isinstance(error.code, int) else int(error.code is not None))

    def _leave_soon(self) -> None:
        """The actor goes on elsewhere: no call is begun any more, and the process ends after those that run.

        Called with the lock held. See `leaving`.
        """
        if self._lanes is not None and self._lanes.open:
            self._lanes.close()
            return
        self._inbox.leaving = True
        self._not_begun(take_all(self._inbox.calls))

    def _not_begun(self, calls: list[tuple[Caller, tuple[Any, ...]]]) -> None:
        """Tell callers that these calls are for the next process."""
        with self.runtime.lock:
            give_back(calls)
            self._send_replies_locked()

    def _end_in_peace(self) -> NoReturn:
        """All that was begun is answered."""
        if flush_out(self.runtime, self._callers, arrival=True):
            self._status[:16] = m.LEFT
        self._end_process(0)

    def _end_process(self, code: int) -> NoReturn:
        flush_out(self.runtime, self._callers)
        output.flush()
        timeline.hand_over(self.runtime)
        os._exit(code)

    # --- connections of callers (lock held) ---

    def _on_peer(self, message: list[Any], sock: socket.socket) -> None:
        connection = link(
            self.runtime, sock, message[7], self._on_first_frames, self._on_peer_closed, server_side=True
        )
        connection.owner = message[2]  # the process, until it has said whether it goes on or begins anew

    def _on_first_frames(self, connection: Connection, bodies: list[bytes]) -> None:
        messages = messages_of(bodies[0])
        begins, session, heard = opening(messages)
        proc: Any = connection.owner
        if self._callers.is_late(proc, session, begins=begins):
            connection.owner = None
            connection.close()
            return
        caller = self._begin(connection, session) if begins else self._resume(connection, session, heard)
        if caller is None:
            return
        connection.owner = caller
        connection.on_frames = self._on_frames
        self._on_messages(caller, messages[1:])
        self._on_frames(connection, bodies[1:])

    def _begin(self, connection: Connection, session: int) -> Caller:
        proc: Any = connection.owner
        old = self._callers.get(proc)
        if old is not None:
            self._forget(old)
        return self._callers.begins(proc, session, connection)

    def _resume(self, connection: Connection, session: int, heard: int) -> Caller | None:
        """A caller lost its connection: say what came from it, and send again what it has not heard. None: it begins anew."""
        proc: Any = connection.owner
        caller = self._callers.get(proc)
        if caller is None or caller.session != session:
            received = self._callers.received_of_unknown(proc, session, heard)
            connection.send_pickled([(m.RESUMED, received)], self.runtime.config.batch_bytes_max)
            if received != UNKNOWN:
                return self._begin(connection, session)
            connection.on_frames = unheard
            connection.close_soon()
            return None
        old = caller.connection
        self._callers.resumes(caller, connection, heard)
        if old is not None:
            old.owner = None
            old.close()
        connection.send_pickled([(m.RESUMED, caller.received)], self.runtime.config.batch_bytes_max)
        for data in caller.unheard:
            connection.send(data)
        self._release(caller)
        return caller

    def _on_peer_closed(self, connection: Connection) -> None:
        caller = connection.owner
        if isinstance(caller, Caller) and caller.connection is connection:
            self._hold(caller)
            for gone in self._callers.parks(caller, monotonic()):
                self._forget(gone)

    def _on_caller_left(self, proc: bytes) -> None:
        caller = self._callers.left(proc)
        if caller is not None:
            self._forget(caller)

    def _forget(self, caller: Caller) -> None:
        """A caller is gone, or has none of its calls under way; what has not started does not run."""
        self._hold(caller)
        if self._lanes is not None:
            self._lanes.abandon(caller)
        if caller.connection is not None:
            caller.connection.owner = None
            caller.connection.reset()  # it may live, and is not to take this for all that there is to hear
        self._callers.forget(caller)

    def _hold(self, caller: Caller) -> None:
        """Set the calls of a caller that have not started aside."""
        calls = self._inbox.calls
        others: list[tuple[Caller, tuple[Any, ...]]] = []
        with contextlib.suppress(IndexError):  # the main thread may take some of them meanwhile
            while True:
                item = calls.popleft()
                (caller.held if item[0] is caller else others).append(item)
        calls.extend(others)
        if self._lanes is not None:
            self._lanes.hold(caller)

    def _release(self, caller: Caller) -> None:
        """The caller is back: its calls go on."""
        if self._lanes is not None and self._lanes.open:
            self._lanes.release(caller)
            return
        held = caller.held.copy()
        caller.held.clear()
        if self._inbox.leaving:
            self._not_begun(held)
        else:
            self._inbox.calls.extend(held)

    # --- messages of callers (lock held) ---

    def _on_frames(self, connection: Connection, bodies: list[bytes]) -> None:
        caller: Any = connection.owner
        for body in bodies:
            self._on_messages(caller, messages_of(body))

    def _on_messages(self, caller: Caller, messages: list[tuple[Any, ...]]) -> None:
        arrived: list[tuple[Caller, tuple[Any, ...]]] = []
        for message in messages:
            if message[0] == m.TASK:
                if tuple(map(type, message)) != PLAIN_CALL or len(message[1]) != OBJECT_ID_SIZE:
                    check_call(message)
                arrived.append((caller, message))
            else:
                self._receive(caller, arrived)
                arrived = []
                self._on_other(caller, message)
        self._receive(caller, arrived)

    def _on_other(self, caller: Caller, message: tuple[Any, ...]) -> None:
        """A message that is no call."""
        tag = message[0]
        if tag == m.CANCEL:
            self._cancel(caller, message[1], message[3])
        elif tag == m.CONSUMED:
            producer = self.calls.producers.get(message[1])
            if producer is not None:
                producer.consumed(message[2])
        elif tag == m.HEARD:
            caller.heard(message[1])
        elif tag == m.LEAVE:
            self._forget(caller)
        else:
            raise BrokenFrame(f"unknown message {tag} from a caller")

    def _receive(self, caller: Caller, arrived: list[tuple[Caller, tuple[Any, ...]]]) -> None:
        caller.received += len(arrived)
        if not arrived:
            return
        if self._lanes is not None and self._lanes.open:
            self._lanes.deliver(arrived)
        elif self._inbox.leaving:
            self._not_begun(arrived)
        else:
            self._inbox.calls.extend(arrived)

    def _cancel(self, caller: Caller, task_id: bytes, recursive: bool) -> None:
        """Stop a call; the message may come twice."""
        calls = self._inbox.calls
        waiting = next((item for item in list(calls) if item[1][1] == task_id), None)
        taken = False
        if waiting is not None:
            with contextlib.suppress(ValueError):  # the main thread has just taken it
                calls.remove(waiting)
                taken = True
        if taken:
            caller.replies.append((*self.calls.results.cancelled(task_id), b"", True))
            self._send_replies_locked()
            return
        if self._lanes is not None:
            self._lanes.cancel(task_id)
        elif not self._cancels.covers(task_id):
            self._cancels.request(task_id)  # also one that is just being started, or over
        if recursive:
            self.runtime.dispatch.cancel_children(task_id, False)


def _kind_of_lanes(asynchronous: bool) -> type[Lanes | AsyncLanes]:
    """What runs the calls of an actor whose methods may run at the same time."""
    if not asynchronous:
        return Lanes
    from shoald.worker.asynclanes import AsyncLanes  # asyncio: 30 ms and 3 MB that only such actors pay

    return AsyncLanes

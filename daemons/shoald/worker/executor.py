"""Runs tasks: one main thread that executes, replies in batches, and a watchdog (the runtime's backup thread).

The main thread takes tasks from the inbox in order. Before each it writes the task's id into its status word, which tells the
daemon after a death how far it came. Replies go out when the inbox is empty, after half a millisecond, or before a task that
is not known to be short. The watchdog sends finished replies and gives unstarted tasks back when a task runs long.

Not responsible for who sends tasks and why (the submitter's Dispatcher), nor for what a task means.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
import sys
import threading
from collections import deque
from time import perf_counter
from typing import TYPE_CHECKING, Any, NoReturn

from shoal import gpus, maththreads
from shoal.client import timeline
from shoal.client.connection import Connection
from shoal.client.linking import link
from shoal.context import TaskContext, current_task
from shoal.wire import messages as m
from shoal.wire.frames import BrokenFrame
from shoald.worker.arguments import Arguments, Loaded
from shoald.worker.blocking import Blocking
from shoald.worker.cancels import Cancels
from shoald.worker.functions import Function, FunctionCache, OtherInterpreterNeeded
from shoald.worker.garbage import Garbage
from shoald.worker.output import flush_partial_lines
from shoald.worker.prefetch import Prefetch
from shoald.worker.results import Results
from shoald.worker.usercode import UserCode

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    from shoal.client.runtime import Runtime
    from shoal.owner.tasks import TaskRecord

_MAIN = threading.main_thread()
_LEFT = -1  # tag of the "reply" of a task that called sys.exit while it ran in place


class Peer:
    """A submitter that this worker is leased to."""

    __slots__ = ("connection", "lease_id", "proc", "replies", "resources", "since", "units", "used_up")

    def __init__(self, lease_id: int, proc: bytes, units: dict[str, int]) -> None:
        self.lease_id = lease_id
        self.proc = proc
        self.units = units
        self.resources = _amounts(units)
        self.used_up = False
        self.connection: Connection | None = None
        self.replies: list[Any] = []
        self.since = 0.0


def _amounts(units: dict[str, int]) -> dict[str, float]:
    return {name: amount / 10_000 for name, amount in units.items()}


class _Inbox:
    """Tasks that wait here (an `Awaited` of the reactor)."""

    __slots__ = ("_runtime", "tasks", "wake")

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self.tasks: deque[tuple[Peer, tuple[Any, ...]]] = deque()
        self.wake: object = None

    @property
    def ready(self) -> bool:
        return bool(self.tasks) or self._runtime.actors.become is not None


class _Idle:
    """A task, or anything else that an idle worker has to do."""

    __slots__ = ("_runtime", "_tasks", "wake")

    def __init__(self, runtime: Runtime, tasks: deque[tuple[Peer, tuple[Any, ...]]]) -> None:
        self._runtime = runtime
        self._tasks = tasks
        self.wake: object = None

    @property
    def ready(self) -> bool:
        runtime = self._runtime
        return bool(self._tasks) or runtime.garbage_suspected or runtime.actors.become is not None


class Executor:
    """The tasks of one worker process.

    Args:
        status: 64 writable bytes shared with the daemon; the first 16 name the task of the lease that was started last,
            the next is 1 while that may not be run again, or crashed before
            (not what runs inside it: the submitter does not know that); then its name, or the end of a long one.
        set_task_name: tells the output writers whose lines come now, and whether it is a task known to be short.
    """

    def __init__(
        self, runtime: Runtime, status: memoryview, set_task_name: Callable[[str, bool], None]
    ) -> None:
        self.runtime = runtime
        self._status = status
        self._set_task_name = set_task_name
        self._inbox = _Inbox(runtime)
        self._idle = _Idle(runtime, self._inbox.tasks)
        self._garbage = Garbage(runtime)
        self._peers: list[Peer] = []
        self._arguments = Arguments(runtime)
        self.results = Results(runtime)
        self._functions = FunctionCache(runtime, lambda task_id: self._cancels.covers(task_id))
        self._running: list[bytes] = []  # the current task, and those that wait for it in place
        self._prefetch = Prefetch(runtime)
        self._cancels = Cancels(self._running, runtime.lock)
        self._code = UserCode(self, self._cancels)
        self._remember = runtime.timeline.record
        self._careful = False
        self._told_name = ""
        self._units: dict[str, int] = {}
        self._serial = 0
        self._told_unfinished = False
        self._watched = (0, 0.0)
        self._long_serial = 0
        self._reply_delay_s = runtime.config.reply_delay_us / 1e6
        self._blocking = Blocking(runtime, lambda: bool(self._running), self._on_block)
        runtime.ticks.hook = self._watch
        runtime.blocking_hook = self._blocking.begin
        runtime.unblocked_hook = self._blocking.end
        runtime.run_here = self.run_here
        runtime.may_run_here = self.may_run_here
        runtime.dispatch.cancel_here = self._cancels.request
        runtime.dispatch.forget_here = lambda function_id: self._functions.forget(None, function_id)
        runtime.serve_peers(self._on_peer)

    # --- the loop ---

    def run(self) -> list[Any]:
        """Execute tasks until the process ends, or is to become an actor: then this returns the message that says so."""
        self._cancels.install()
        inbox = self._inbox
        tasks = inbox.tasks
        wait = self.runtime.wait
        while True:
            try:
                peer, message = tasks.popleft()
            except IndexError:
                self._send_replies()
                if self.runtime.actors.become is not None:
                    return self.runtime.actors.become
                if self._cancels.any:
                    self._forget_cancels()
                flush_partial_lines()
                if self.runtime.garbage_suspected:
                    self._garbage.collect_when_idle(inbox)
                wait(self._idle, None)
                continue
            self._execute(peer, message)

    def _execute(self, peer: Peer, message: tuple[Any, ...]) -> None:
        function_id = message[2]
        function = self._functions.known.get(function_id)
        if peer.replies and (
            function is None or not function.short or perf_counter() - peer.since > self._reply_delay_s
        ):
            self._send_replies()
        details = message[5]
        careful = details is not None and details["careful"]
        if careful is not self._careful:
            self._careful = careful
            self._status[16] = careful
        self._units = peer.units
        started = perf_counter()
        reply = self._run(peer.proc, peer.resources, message)
        now = perf_counter()
        if self._blocking.blocked:
            self._stop_blocking()
        function = self._functions.known.get(function_id)
        good = reply[0] == m.DONE
        if details is None and function is not None:
            self._remember((function.name, message[1], started, now, good))
        else:
            self._record(function, message, started, now, good)
        if good:
            # Else a function that waited once for an argument would count as slow, and get one task at a time.
            if message[4]:
                started += self._arguments.waited_s
            run_us = (now - started) * 1e6
            if function is not None:
                function.short = run_us < 500
            reply = (*reply, run_us)
        if not peer.replies:
            peer.since = now
        peer.replies.append(reply)
        if details is not None:
            if details["max_calls"]:
                self._count_call(peer, function_id, details["max_calls"])
            if details["careful"]:
                self._send_replies()

    def _record(
        self, function: Function | None, message: tuple[Any, ...], started: float, ended: float, good: bool
    ) -> None:
        details = message[5]
        name = (details and details["name"]) or (function.name if function is not None else "task")
        self._remember((name, message[1], started, ended, good))

    def _run(
        self, submitter: bytes, resources: dict[str, float], message: tuple[Any, ...]
    ) -> tuple[Any, ...]:
        """Run one task; (DONE, id, results, kept) or a whole FAILED message."""
        _, task_id, function_id, payload, lifted, details = message
        loaded = Loaded(task_id)
        name = ""
        started = False
        if not self._running:
            self._status[:16] = task_id
        self._running.append(task_id)
        self._serial += 1
        try:
            maththreads.use(resources.get("CPU", 0.0))
            if details is not None and details["name"]:
                name = details["name"]
                function = self._functions.get(function_id, loaded, task_id)
            else:
                function = self._functions.get(function_id, loaded, task_id)
                name = function.name
            if name != self._told_name and len(self._running) == 1:
                self._told_name = name
                self._status[17:] = name.encode("utf-8", "replace")[-47:].ljust(47, b"\0")
            self._set_task_name(name, function.short)
            loaded.name = name
            args, kwargs = self._arguments.load(loaded, submitter, payload, lifted, details)
            depth = details["depth"] if details else 0
            context = TaskContext(task_id, name, function.name, depth, resources)
            context.arguments = loaded.values
            started = True
            try:
                value = self._code.call(context, function.call, args, kwargs)
                if details is None or not details["stream"]:
                    count, only = (details["returns"], details["only"]) if details else (1, None)
                    results = self.results.encode(task_id, value, count, submitter, name, only)
                else:
                    results = self._code.stream(context, value, submitter, details)
            finally:
                del args, kwargs  # whatever still refers to a ref now keeps it (Arguments.kept)
                value = None
                context.arguments = ()
            return (m.DONE, task_id, results, self._arguments.kept(loaded))
        except BaseException as error:  # noqa: BLE001  everything a task raises goes to its submitter
            name = name or self._functions.name_of(function_id)  # the function itself may not be to be had
            return self._failure(task_id, error, name, submitter, started, loaded)
        finally:
            self._running.pop()
            self._cancels.ended(task_id)

    def _failure(
        self, task_id: bytes, error: BaseException, name: str, submitter: bytes, started: bool, loaded: Loaded
    ) -> tuple[Any, ...]:
        if isinstance(error, OtherInterpreterNeeded):
            return self._hand_on(task_id)
        if self._cancels.covers(task_id):
            failed = (*self.results.cancelled(task_id, name), True)
        elif isinstance(error, SystemExit):
            code = error.code if isinstance(error.code, int) else int(error.code is not None)
            if len(self._running) > 1:
                return _LEFT, task_id, code
            self._leave(code)
        else:
            failed = self.results.failure(task_id, error, name, submitter, started, loaded.attempt)
        error.__traceback__ = None
        del error
        return (*failed[:4], self._arguments.kept(loaded), failed[4])

    def _hand_on(self, task_id: bytes) -> tuple[Any, ...]:
        """This process is none for these tasks: all go back, and it ends with its lease."""
        with self.runtime.lock:
            self._give_back()
            for peer in self._peers:
                peer.used_up = True
                peer.replies.append((m.USED_UP,))
        return m.GIVEN_BACK, [task_id]

    def _leave(self, code: int) -> NoReturn:
        """The task called sys.exit: the process ends; the submitter learns it from the daemon."""
        self._send_replies()
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(Exception):  # user code may have replaced or closed them
                stream.flush()
        timeline.hand_over(self.runtime)
        os._exit(code)

    def _count_call(self, peer: Peer, function_id: bytes, max_calls: int) -> None:
        function = self._functions.known.get(function_id)
        if function is None:
            return
        function.calls += 1
        if function.calls >= max_calls and not self.runtime.dispatch.tasks:
            with self.runtime.lock:
                self._give_back()
                peer.used_up = True
                peer.replies.append((m.USED_UP,))
            self._send_replies()

    def _forget_cancels(self) -> None:
        with self.runtime.lock:
            if not self._inbox.tasks:
                self._cancels.idle()

    def _stop_blocking(self) -> None:
        with self.runtime.lock:
            self._blocking.task_ended()

    # --- in place ---

    def run_here(self, task: TaskRecord) -> None:
        """Run an own unstarted child on this thread, inside the blocked get of its parent."""
        runtime = self.runtime
        with runtime.lock:
            message = runtime.dispatch.encode(task)
        self._functions.add_local(task.function)
        proc = runtime.table.proc
        outer = current_task.get()
        started = perf_counter()
        reply = self._run(proc, _amounts(task.queue.resources), message)
        function = self._functions.known.get(message[2])
        self._record(function, message, started, perf_counter(), reply[0] == m.DONE)
        with runtime.lock:
            if reply[0] == m.DONE:
                if reply[3]:
                    runtime.table.hand_over(proc, reply[3])
                runtime.dispatch.complete(task, reply[2])
            elif reply[0] == _LEFT:
                runtime.dispatch.crashed_here(task, reply[2])
            else:
                runtime.dispatch.failed_here(task, reply)
            runtime.flush()
        if outer is not None:
            self._set_task_name(outer.name, True)
            maththreads.use(outer.resources.get("CPU", 0.0))
            self._cancels.check(outer.task_id)

    def may_run_here(self, task: TaskRecord) -> bool:
        """Whether an own task may run in place.

        Nesting is bounded, the running task's lease has to cover what it needs, and neither of them may take
        the other down with it (a crash ends both).
        """
        options = task.options
        if self._careful or len(self._running) >= self.runtime.config.inline_depth_max:
            return False
        if (
            not options.max_retries
            or options.max_calls
            or task.queue.environment != self.runtime.environments.own()
        ):
            return False
        if options.label_selector or not self.runtime.groups.belongs_here(options.scheduling_strategy):
            return False
        units = self._units
        return all(amount <= units.get(name, 0) for name, amount in task.queue.resources.items())

    # --- replies ---

    def _send_replies(self) -> None:
        with self.runtime.lock:
            self._send_replies_locked()

    def _send_replies_locked(self) -> None:
        self._tell_unfinished()  # before the lease can come back
        self.runtime.flush_seals()
        for peer in self._peers:
            replies = peer.replies
            if replies and peer.connection is not None:
                peer.replies = []
                try:
                    peer.connection.send_pickled(replies, self.runtime.config.batch_bytes_max)
                except (
                    MemoryError
                ):  # the submitter waits for these: they are sent when there is room for them
                    peer.replies[:0] = replies
                    raise

    def reply_now(self, proc: bytes, message: tuple[Any, ...], urgent: bool) -> None:
        """Queue a message for submitter ``proc`` outside of the usual replies (items of generators)."""
        for peer in self._peers:
            if peer.proc == proc:
                if not peer.replies:
                    peer.since = perf_counter()
                peer.replies.append(message)
                if urgent or perf_counter() - peer.since > self._reply_delay_s:
                    self._send_replies()
                return

    def _give_back(self) -> None:
        """Return every unstarted task to its submitter (lock held)."""
        tasks = self._inbox.tasks
        given: dict[int, tuple[Peer, list[bytes]]] = {}
        while tasks:
            peer, message = tasks.pop()
            given.setdefault(id(peer), (peer, []))[1].append(message[1])
        for peer, ids in given.values():
            ids.reverse()
            peer.replies.append((m.GIVEN_BACK, ids))

    # --- watchdog (lock held; on the backup thread, or on the main thread before it sleeps) ---

    def _watch(self, now: float) -> float | None:
        if not self._running:
            self._tell_unfinished()
            return None
        if threading.current_thread() is _MAIN:
            return None
        if self._cancels.remind():
            self._watch_replies(now)
            return self.runtime.config.tick_ms / 1000
        return self._watch_replies(now)

    def _tell_unfinished(self) -> None:
        """While it waits for tasks that it submitted, this process must not be ended for idling."""
        unfinished = bool(self.runtime.dispatch.tasks)
        if unfinished != self._told_unfinished:
            self._told_unfinished = unfinished
            self.runtime.table.to_node([m.WORKER_NOTE, {"unfinished": unfinished}])

    def _watch_replies(self, now: float) -> float | None:
        serial, since = self._watched
        if serial != self._serial:
            self._watched = (self._serial, now)
            return self.runtime.config.tick_ms / 1000
        if now - since < 0.0015:
            return self.runtime.config.tick_ms / 1000
        if self._long_serial != serial:
            self._long_serial = serial
            self._give_back()
            for peer in self._peers:
                peer.replies.append((m.RUNNING, self._running[0]))
            self._send_replies_locked()
        elif any(peer.replies for peer in self._peers):
            self._send_replies_locked()
        return None if not self._code.producers else self.runtime.config.tick_ms / 1000

    def _on_block(self) -> None:
        """The running task begins to wait: what has not started here can run elsewhere."""
        self._give_back()
        self._send_replies_locked()

    # --- messages of submitters (lock held) ---

    def _on_peer(self, message: list[Any], sock: socket.socket) -> None:
        _, lease_id, proc, job_id, resources, _, group, tls, numbers = message
        runtime = self.runtime
        runtime.identity.job_id = job_id
        runtime.identity.group = group
        runtime.identity.gpus = gpus.use(numbers)
        peer = Peer(lease_id, proc, resources)
        peer.connection = link(runtime, sock, tls, self._on_frames, self._on_peer_closed, server_side=True)
        peer.connection.owner = peer
        self._peers.append(peer)

    def _on_peer_closed(self, connection: Connection) -> None:
        peer: Any = connection.owner
        if peer in self._peers:
            self._peers.remove(peer)
        self._functions.forget_all(peer)
        tasks = self._inbox.tasks
        for item in [item for item in tasks if item[0] is peer]:
            tasks.remove(item)

    def _on_frames(self, connection: Connection, bodies: list[bytes]) -> None:
        peer: Any = connection.owner
        tasks = self._inbox.tasks
        for body in bodies:
            for message in pickle.loads(body):
                tag = message[0]
                if tag == m.TASK:
                    tasks.append((peer, message))
                    if message[4] and (self._running or len(tasks) > 1):
                        self._prefetch.task_waits(message[4][1])
                elif tag == m.FUNCTION:
                    self._functions.exported(peer, *message[1:])
                elif tag == m.FORGET:
                    self._functions.forget(peer, message[1])
                elif tag == m.CANCEL:
                    self._cancel(peer, message[1], message[2], message[3])
                elif tag == m.TAKE_BACK:
                    self._take_back(peer, message[1])
                elif tag == m.CONSUMED:
                    self._consumed(message[1], message[2])
                elif tag == m.JOB:
                    self._functions.enter_job(message[1])
                else:
                    raise BrokenFrame(f"unknown message {tag} from a submitter")
        if tasks and (
            peer.used_up or (self._running and (self._long_serial == self._serial or self._blocking.blocked))
        ):
            self._give_back()
            self._send_replies_locked()

    def _take_back(self, peer: Peer, count: int) -> None:
        tasks = self._inbox.tasks
        given: list[bytes] = []
        for item in [item for item in tasks if item[0] is peer][-count:]:
            tasks.remove(item)
            given.append(item[1][1])
        peer.replies.append((m.GIVEN_BACK, given))
        self._send_replies_locked()

    def _consumed(self, task_id: bytes, count: int) -> None:
        producer = self._code.producers.get(task_id)
        if producer is not None:
            producer.consumed(count)

    def _cancel(self, peer: Peer, task_id: bytes, force: bool, recursive: bool) -> None:
        tasks = self._inbox.tasks
        for item in tasks:
            if item[1][1] == task_id:
                tasks.remove(item)
                peer.replies.append((*self.results.cancelled(task_id), b"", True))
                self._send_replies_locked()
                return
        if task_id in self._running and force:
            self._send_replies_locked()
            os.kill(os.getpid(), signal.SIGKILL)
        self._cancels.request(
            task_id
        )  # also one that is neither here nor there: it is just being started, or over
        if recursive:
            self.runtime.dispatch.cancel_children(task_id, force)

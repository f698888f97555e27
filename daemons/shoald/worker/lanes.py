"""Threads that run an actor's calls: a pool per concurrency group, each as large as the group's limit.

Threads are started when a call finds none idle, and stay. Each sends its reply as soon as it has it: the next call may take long.

A cancelled call that runs gets a KeyboardInterrupt in its thread. That is raised wherever the thread is, so it is only sent
while the thread runs code that is not the runtime's own, whose tables would stay half changed; until then it is tried again
with every tick. A call that waits in `get` or `wait` is woken instead, and raises it there.

When the actor leaves (`close`), what has not begun is given back, and what runs ends. Whether a call begins before or after that
is decided under one lock. The process may go when the last one that runs has sent its reply.
"""

from __future__ import annotations

import ctypes
import queue
import sys
import threading
from collections import deque
from time import perf_counter
from typing import TYPE_CHECKING, Any

from shoal.actors.api import ActorExit
from shoal.client import forks
from shoal.wire import messages as m
from shoald.worker import faults, strays
from shoald.worker.calls import Calls
from shoald.worker.streaming import next_or_end
from shoald.worker.usercode import UserCode

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

    from shoald.worker.callers import Caller
    from shoald.worker.leaving import WaysOut

    Call = tuple[Caller, tuple[Any, ...]]

_QUEUED = 0  # the thread of a call that has none yet
_OWN_PACKAGES = ("shoal", "shoald")
# What calls methods, and takes steps of their generators.
_USER_CODE_BELOW = (UserCode.call.__code__, next_or_end.__code__)


class Lanes:
    """Calls in threads.

    Args:
        groups: concurrency group → how many calls at once; "" is the default one.
        group_of: method → the group that its class put it in.
        answer: sends replies: [(caller, reply)].
        end: ends the process on purpose, with a reason; leave: as a method wants it that called sys.exit.
        ways_out: for when the actor goes on elsewhere.

    Attributes:
        open: calls may be delivered: the instance is made.
    """

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
        calls.runtime.waits.cancellable = {}
        self._lanes = {name: _Lane(name, limit, self._run) for name, limit in groups.items()}
        self._group_of = group_of
        self._answer = answer
        self._end = end
        self._leave = leave
        self._ways_out = ways_out
        self._closed = False
        self._running = 0  # calls that have begun, and are not answered yet
        self._lock = threading.Lock()
        self._threads: dict[bytes, int] = {}  # of every call that is here
        self._cancelled: set[bytes] = set()
        self._to_stop: set[bytes] = set()  # of these, those whose thread may still have to be interrupted

    def deliver(self, arrived: list[Call]) -> None:
        """Calls that may start as soon as their group has room."""
        if self._closed:
            self._ways_out.not_begun(arrived)
            return
        for call in arrived:
            method, _, group = self._calls.names(call[1][2])
            lane = self._lanes.get(group or self._group_of.get(method, "")) or self._lanes[""]
            with self._lock:
                self._threads[call[1][1]] = _QUEUED
            lane.put(call)

    def hold(self, caller: Caller) -> None:
        """A caller lost its connection: its calls that have not started are set aside."""
        for lane in self._lanes.values():
            caller.held += lane.take_out(caller)
        with self._lock:
            for _, message in caller.held:
                self._threads.pop(message[1], None)
                self._cancelled.discard(message[1])  # whoever comes back says so again

    def release(self, caller: Caller) -> None:
        """The caller is back."""
        held = caller.held.copy()
        caller.held.clear()
        self.deliver(held)

    def abandon(self, caller: Caller) -> None:
        """The caller is gone for good: what runs for it goes on."""

    # --- the actor leaves ---

    def close(self) -> None:
        """Begin no call any more; when none runs, the process may go (runtime's lock held)."""
        waiting = [call for lane in self._lanes.values() for call in lane.take_all()]
        with self._lock:
            self._closed = True
            idle = not self._running
            for _, message in waiting:
                self._threads.pop(message[1], None)
        self._ways_out.not_begun(waiting)
        if idle:
            self._ways_out.idle()

    def _begins(self, call: Call) -> bool:
        with self._lock:
            closed = self._closed
            self._running += not closed
            if closed:
                self._threads.pop(call[1][1], None)
        if closed:
            self._ways_out.not_begun([call])
        return not closed

    def _run(self, call: Call) -> None:
        if not self._begins(call):
            return
        self._run_begun(call)
        with self._lock:
            self._running -= 1
            last = self._closed and not self._running
        if last:
            self._ways_out.idle()

    def _run_begun(self, call: Call) -> None:
        caller, message = call
        task_id = message[1]
        reply = None
        try:
            try:
                reply = self._reply(caller, message)
            finally:
                self._over(task_id)
        except KeyboardInterrupt:  # the cancel came when the call was all but over
            self._over(task_id)
            reply = reply or self._cancelled_reply(task_id)
        except ActorExit:
            self._end("exit_actor() was called")
            return
        except SystemExit as error:
            self._leave(error)
            return
        if reply[0] == m.FAILED and task_id in self._cancelled:
            reply = self._cancelled_reply(task_id)
        self._cancelled.discard(task_id)
        self._calls.ends(task_id)
        self._answer([(caller, (*reply, 0.0) if reply[0] == m.DONE else reply)])

    def _reply(self, caller: Caller, message: tuple[Any, ...]) -> tuple[Any, ...]:
        task_id = message[1]
        self._calls.begins(task_id)
        with self._lock:
            self._threads[task_id] = threading.get_ident()
            cancelled = task_id in self._cancelled
        if cancelled:
            return self._cancelled_reply(task_id)
        started = perf_counter()
        try:
            reply = self._calls.run(caller.proc, message)
        finally:
            if forks.in_child():
                strays.end()
        self._calls.record(message, started, perf_counter(), reply[0] == m.DONE)
        return reply

    def _over(self, task_id: bytes) -> None:
        """No interrupt comes for this call any more, and one that is on its way is taken back. Idempotent."""
        with self._lock:
            if self._threads.pop(task_id, None) is not None and task_id in self._cancelled:
                ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(threading.get_ident()), None)

    def _cancelled_reply(self, task_id: bytes) -> tuple[Any, ...]:
        return (*self._calls.results.cancelled(task_id), b"", True)

    def load(self) -> tuple[int, int]:
        """How many calls run, and how many wait for their group to have room."""
        with self._lock:
            queued = sum(thread == _QUEUED for thread in self._threads.values())
            return len(self._threads) - queued, queued

    def ahead_of(self, task_id: bytes) -> list[bytes]:
        """The calls of its group that run, for one that has to wait; else []."""
        with self._lock:
            if self._threads.get(task_id) != _QUEUED:
                return []
        return next((ahead for lane in self._lanes.values() if (ahead := lane.ahead_of(task_id))), [])

    # --- cancel ---

    def cancel(self, task_id: bytes) -> None:
        """Stop a call: at once if it has not started; else as soon as its thread can be interrupted. Idempotent."""
        with self._lock:
            if task_id not in self._threads or task_id in self._cancelled:
                return
            self._cancelled.add(task_id)
            self._to_stop.add(task_id)
        self.interrupt()

    def interrupt(self) -> bool:
        """Interrupt the calls that are to stop, where that can be done now; whether any is left (runtime's lock held)."""
        for task_id in list(self._to_stop):
            with self._lock:
                thread = self._threads.get(task_id, _QUEUED)
                if thread == _QUEUED or self._interrupt(thread):  # one that is queued sees it when it starts
                    self._to_stop.discard(task_id)
        return bool(self._to_stop)

    def _interrupt(self, thread: int) -> bool:
        waits = self._calls.runtime.waits
        if waits.interrupt(thread):
            return True
        if not _in_user_code(sys._current_frames().get(thread)):
            return False
        ctypes.pythonapi.PyThreadState_SetAsyncExc(
            ctypes.c_ulong(thread), ctypes.py_object(KeyboardInterrupt)
        )
        return True


def _in_user_code(frame: FrameType | None) -> bool:
    """Whether a call's method, or what that called, runs, and not the runtime beneath it."""
    while frame is not None:
        if str(frame.f_globals.get("__name__", "")).partition(".")[0] in _OWN_PACKAGES:
            return frame.f_code in _USER_CODE_BELOW
        frame = frame.f_back
    return False


class _Lane:
    """The threads of one group. A token for each call that was put wakes one of them."""

    def __init__(self, name: str, limit: int, run: Callable[[Call], None]) -> None:
        self._name = name
        self._limit = limit
        self._run = run
        self._lock = threading.Lock()
        self._calls: deque[Call] = deque()
        self._tokens: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._threads = 0
        self._idle = threading.Semaphore(0)
        self._running: set[bytes] = set()

    def put(self, call: Call) -> None:
        with self._lock:
            self._calls.append(call)
        self._tokens.put(None)
        if not self._idle.acquire(blocking=False) and self._threads < self._limit:
            self._threads += 1
            name = f"actor-{self._name or 'default'}-{self._threads}"
            threading.Thread(target=self._loop, name=name, daemon=True).start()

    def take_out(self, caller: Caller) -> list[Call]:
        """The calls of ``caller`` that have not started; they are not here any more."""
        with self._lock:
            taken = [call for call in self._calls if call[0] is caller]
            if taken:
                self._calls = deque(call for call in self._calls if call[0] is not caller)
        return taken

    def ahead_of(self, task_id: bytes) -> list[bytes]:
        """The calls that run, if this one waits here and all threads are taken."""
        with self._lock:
            waits = len(self._running) >= self._limit and any(call[1][1] == task_id for call in self._calls)
            return list(self._running) if waits else []

    def take_all(self) -> list[Call]:
        """All calls that no thread has taken; they are not here any more."""
        with self._lock:
            taken = list(self._calls)
            self._calls.clear()
        return taken

    def _take(self) -> Call | None:
        with self._lock:
            if not self._calls:
                return None
            call = self._calls.popleft()
            self._running.add(call[1][1])
            return call

    def _loop(self) -> None:
        while True:
            self._tokens.get()
            call = self._take()
            if call is not None:
                try:
                    self._run(call)
                except Exception:  # noqa: BLE001  not of a method, but of the runtime: the log gets it
                    faults.end_process()
                with self._lock:
                    self._running.discard(call[1][1])
            del call
            self._idle.release()

"""Threads that run an actor's calls: a pool per concurrency group, each as large as the group's limit.

Threads are started when a call finds none idle, and stay. Each sends its reply as soon as it has it: the next call may take long.
"""

from __future__ import annotations

import ctypes
import queue
import threading
from typing import TYPE_CHECKING, Any

from shoal.actors.api import ActorExit
from shoal.wire import messages as m

if TYPE_CHECKING:
    from collections.abc import Callable

    from shoald.worker.calls import Calls
    from shoald.worker.executor import Peer

    Call = tuple[Peer, tuple[Any, ...]]


class Lanes:
    """Calls in threads.

    Args:
        groups: concurrency group → how many calls at once; "" is the default one.
        group_of: method → the group that its class put it in.
        answer: sends replies: [(caller, reply)].
        end: ends the process on purpose, with a reason.

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
    ) -> None:
        self.open = False
        self._calls = calls
        self._lanes = {name: _Lane(name, limit, self._run) for name, limit in groups.items()}
        self._group_of = group_of
        self._answer = answer
        self._end = end
        self._lock = threading.Lock()
        self._thread_of: dict[bytes, int] = {}
        self._cancelled: set[bytes] = set()
        self._dropped: set[int] = set()

    def deliver(self, arrived: list[Call]) -> None:
        """Calls that may start as soon as their group has room."""
        for call in arrived:
            method, _, group = self._calls.names(call[1][2])
            lane = self._lanes.get(group or self._group_of.get(method, "")) or self._lanes[""]
            lane.put(call)

    def _run(self, call: Call) -> None:
        peer, message = call
        task_id = message[1]
        with self._lock:
            if id(peer) in self._dropped:
                return
            cancelled = task_id in self._cancelled
            self._thread_of[task_id] = threading.get_ident()
        try:
            if cancelled:
                reply = self._cancelled_reply(task_id)
            else:
                reply = self._calls.run(peer.proc, message)
        except KeyboardInterrupt:  # the cancel came when the call was all but over
            reply = self._cancelled_reply(task_id)
        except ActorExit:
            self._end("exit_actor() was called")
            return
        except SystemExit:
            self._end("a method called sys.exit()")
            return
        finally:
            with self._lock:
                self._thread_of.pop(task_id, None)
        if reply[0] == m.FAILED and task_id in self._cancelled:
            reply = self._cancelled_reply(task_id)
        self._cancelled.discard(task_id)
        self._answer([(peer, (*reply, 0.0) if reply[0] == m.DONE else reply)])

    def _cancelled_reply(self, task_id: bytes) -> tuple[Any, ...]:
        return (*self._calls.results.cancelled(task_id), b"", True)

    def cancel(self, task_id: bytes) -> None:
        """Stop a call: at once if it has not started; else its thread gets an exception when it next runs Python code."""
        with self._lock:
            self._cancelled.add(task_id)
            thread = self._thread_of.get(task_id)
            if thread is not None:
                ctypes.pythonapi.PyThreadState_SetAsyncExc(
                    ctypes.c_ulong(thread), ctypes.py_object(KeyboardInterrupt)
                )

    def drop(self, peer: Peer) -> None:
        """A caller is gone: its calls that have not started do not run."""
        with self._lock:
            self._dropped.add(id(peer))


class _Lane:
    """The threads of one group."""

    def __init__(self, name: str, limit: int, run: Callable[[Call], None]) -> None:
        self._name = name
        self._limit = limit
        self._run = run
        self._queue: queue.SimpleQueue[Call] = queue.SimpleQueue()
        self._threads = 0
        self._idle = threading.Semaphore(0)

    def put(self, call: Call) -> None:
        self._queue.put(call)
        if not self._idle.acquire(blocking=False) and self._threads < self._limit:
            self._threads += 1
            name = f"actor-{self._name or 'default'}-{self._threads}"
            threading.Thread(target=self._loop, name=name, daemon=True).start()

    def _loop(self) -> None:
        while True:
            self._run(self._queue.get())
            self._idle.release()

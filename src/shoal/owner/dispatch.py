"""Tasks on their way: queued by shape, sent to leased workers, answered, tried again, cancelled.

Events: submit, replies (`done`, `failed`, `given_back`, `item`), leases granted and lost, cancel.
Effects: messages in the leases' outboxes and to the daemon, entries fulfilled or failed, children of cancelled tasks.

Invariants: a task is in exactly one place: waiting for arguments, in its queue, in one lease's `inflight`, or done. Its
arguments are counted as used until it is done. What a worker kept of the refs it was lent is registered for it before
these uses end.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any
from weakref import WeakValueDictionary

from shoal.owner import reruns, streams
from shoal.owner.leases import Lease, ShapeQueue
from shoal.owner.lineage import LineageKeeper
from shoal.owner.locality import Locality
from shoal.owner.objects import FAILED, Entry
from shoal.owner.shapes import Shapes
from shoal.owner.spec import encode_task, message_bytes, store_largest
from shoal.owner.tasks import DONE, QUEUED, SENT, WAITING, TaskRecord, forgotten
from shoal.wire import messages as m

if TYPE_CHECKING:
    from collections.abc import Callable

    from shoal.config import Config
    from shoal.owner.table import ObjectTable
    from shoal.owner.tasks import FunctionExport

# In one outbox; it is sent before more is put in, which keeps frames far below their limit.
OUTBOX_FLUSH_BYTES = 128 * 1024
OUTBOX_FLUSH = 32  # messages that make an outbox worth a system call before its submitter waits


class Dispatcher:
    """The tasks that one process submitted.

    Attributes:
        dirty: leases whose outbox is not empty; `urgent` when that should not wait for the next flush.
        flush_now: sends what is in the outboxes. Given by the shell.
        errors: makes the bytes of an error: (kind, task, details) → bytes. Given by the shell, which may pickle.
        exports: the living functions of this process, by content hash.
        finished: the last finished tasks, for people: (id, name, state).
    """

    def __init__(self, table: ObjectTable, config: Config, make_error: Callable[..., bytes]) -> None:
        self.table = table
        self.config = config
        self.make_error = make_error
        self.is_retriable: Callable[[TaskRecord, bytes], bool] = lambda task, error: bool(
            task.options.retry_exceptions
        )
        self.lineage = LineageKeeper(table, self, config.lineage_bytes_max, config.lineage_orphans_max)
        self._shapes = Shapes(config, self.pump)
        self.queues = self._shapes.queues
        self.by_shape_id = self._shapes.by_id
        self.leases: dict[int, Lease] = {}
        self.dirty: set[Lease] = set()
        self.urgent = False
        self.flush_now: Callable[[], None] = lambda: None
        self.cancel_here: Callable[[bytes], None] = lambda task_id: None
        self.forget_here: Callable[[bytes], None] = lambda function_id: None
        self.exports: WeakValueDictionary[bytes, FunctionExport] = WeakValueDictionary()
        self.children: dict[bytes, set[bytes]] = {}
        self.tasks: dict[bytes, TaskRecord] = {}
        self.finished: deque[tuple[bytes, str, str]] = deque(maxlen=config.finished_tasks_max)
        self.counters = {"submitted": 0, "finished": 0, "failed": 0, "retried": 0}
        self.locality = Locality(table, config, self.queue_for)
        table.on_far = self._look_far
        self._far = False
        self._to_pump: deque[ShapeQueue] = deque()
        self._pumping = False

    # --- submit ---

    def queue_for(self, key: Any, resources: dict[str, int], options: dict[str, Any]) -> ShapeQueue:
        """The queue of a shape, made at first use."""
        queue = self.queues.get(key)
        if queue is None:
            queue = self._shapes.make(key, resources, options)
            if self._far and not options.keys() & {"strategy", "prefer"}:
                queue.nearer = self.locality.choose
        return queue

    def _look_far(self) -> None:
        """There are stored objects on other nodes: tasks are drawn to them from now on, unless they say where they run."""
        self._far = True
        for queue in self.queues.values():
            if "strategy" not in queue.options:
                queue.nearer = self.locality.choose

    def submit(self, task: TaskRecord) -> None:
        """Take over ``task``, whose arguments are counted for it: it runs as soon as they and a worker are there."""
        self.counters["submitted"] += 1
        self.tasks[task.id] = task
        if task.parent is not None:
            self.children.setdefault(task.parent, set()).add(task.id)
        if task.lifted:
            task.unresolved, task.doomed = self.table.wait_for_each(task.lifted, task)
        if not task.unresolved or task.doomed:
            task.queue.arguments_ready(task)

    # --- sending ---

    def pump(self, queue: ShapeQueue) -> None:
        """Send ready tasks to workers with room, and ask the daemon for as many more as would help.

        Failing a task makes its dependents ready, and so on: that is a loop here, not a recursion.
        """
        self._to_pump.append(queue)
        if self._pumping:
            return
        self._pumping = True
        try:
            while self._to_pump:
                self._pump(self._to_pump.popleft())
        finally:
            self._pumping = False

    def _pump(self, queue: ShapeQueue) -> None:
        ready = queue.ready
        while ready:
            task = ready[0]
            if task.state != QUEUED:  # cancelled, or run in place
                ready.popleft()
                continue
            if task.doomed:
                ready.popleft()
                self.fail_dependent(task)
                continue
            lease = queue.choose(task)
            if lease is None:
                break
            try:
                ready.popleft()
                self._send(lease, task)
            except BaseException:  # a signal handler of the user has raised in here
                self._unsend(lease, task)
                raise
            if lease.outbox_bytes >= OUTBOX_FLUSH_BYTES:
                self.flush_now()  # it is read there while the rest is made here
        wanted = queue.wanted() if ready else 0
        told = queue.backlog_told
        if wanted != told and (not wanted or not told or wanted > 2 * told or 2 * wanted < told):
            queue.backlog_told = wanted
            self._shapes.enter(queue)
            # One queue may have tasks of several functions; people see the first that waits.
            options = {**queue.options, "name": ready[0].name} if ready else queue.options
            self.table.to_node([m.DEMAND, queue.shape_id, queue.resources, wanted, options])

    def _serve(self, queue: ShapeQueue, lease: Lease) -> None:
        """Have a worker without tasks run some of another queue of the same shape (see Locality.whose)."""
        while queue.ready:
            task = queue.ready[0]
            if task.state != QUEUED:
                queue.ready.popleft()
                continue
            if task.doomed or len(lease.inflight) >= queue.window(task):
                break
            try:
                queue.ready.popleft()
                self._send(lease, task)
            except BaseException:  # as above
                self._unsend(lease, task)
                raise
        self.pump(queue)

    def _send(self, lease: Lease, task: TaskRecord) -> None:
        function = task.function
        if function.function_id not in lease.functions:
            lease.outbox.append(self._export_message(function))
            lease.functions.add(function.function_id)
        task.state = SENT
        task.lease = lease
        idle = not lease.inflight
        lease.inflight[task.id] = task
        lease.idle_since = None
        self.put_out(lease, task, idle)

    def put_out(self, lease: Lease, task: TaskRecord, idle: bool) -> None:
        """Queue the message of ``task`` for a worker or actor that is ``idle`` or not."""
        message = self.encode(task)
        lease.outbox.append(message)  # not the outbox of before: a finalizer may have flushed meanwhile
        size = message_bytes(message)
        if size > self.config.inline_args_bytes_max:
            store_largest(self.table, task, message, size - self.config.inline_args_bytes_max)
            size = message_bytes(message)
        lease.outbox_bytes += size
        self.dirty.add(lease)
        if idle or len(lease.outbox) >= OUTBOX_FLUSH:
            self.urgent = True

    def _unsend(self, lease: Lease, task: TaskRecord) -> None:
        """Make good for a send that was interrupted: it was made, or it was not begun."""
        if lease.outbox and lease.outbox[-1][:2] == (m.TASK, task.id):
            task.state = SENT
            task.lease = lease
            lease.inflight[task.id] = task
            self.dirty.add(lease)
            return
        lease.take(task.id)
        task.lease = None
        task.state = QUEUED
        ready = task.queue.ready
        if not ready or ready[0] is not task:
            ready.appendleft(task)

    def _export_message(self, function: FunctionExport) -> tuple[Any, ...]:
        message = (m.FUNCTION, function.function_id, function.blob, function.name)
        if not function.held:
            return message
        return (
            *message,
            self.table.stamp_now(),
            {entry.id: entry.stamp for entry in function.held if entry.stamp},
        )

    def forget_functions(self) -> None:
        """Tell the workers of functions with captured refs that are no more: they hold these refs too."""
        while forgotten:
            function_id = forgotten.popleft()
            if function_id in self.exports:
                continue  # exported again meanwhile
            self.forget_here(function_id)
            for lease in self.leases.values():
                if function_id in lease.functions:
                    lease.functions.discard(function_id)
                    lease.outbox.append((m.FORGET, function_id))
                    self.dirty.add(lease)

    def fail_dependent(self, task: TaskRecord) -> None:
        """Fail a task of which an argument failed."""
        failed = next(entry for entry in task.lifted if entry.state == FAILED)
        container = failed.contained[0] if failed.contained else None
        self._fail_with(task, self.make_error("dependent", task, failed.value), container)

    def encode(self, task: TaskRecord) -> tuple[Any, ...]:
        """The TASK message of ``task``."""
        return encode_task(self.table, task)

    # --- answers ---

    def done(self, lease: Lease, message: tuple[Any, ...]) -> None:
        """(DONE, task id, results, kept ids, run time µs) from a worker."""
        _, task_id, results, kept, run_us = message
        task = lease.inflight.pop(task_id, None)
        if task is None:
            return
        lease.stalled = False
        if len(lease.inflight) < lease.ranked:  # as `take`, inline
            lease.queue.eased(lease)
        function = task.function
        mean = function.mean_us
        function.mean_us = run_us if mean is None else mean + (run_us - mean) * 0.2
        table = self.table
        if kept:
            table.hand_over(lease.proc, kept)
        self.complete(task, results)

    def complete(self, task: TaskRecord, results: list[Any]) -> None:
        """Fulfil the returns of a task that ran, here or elsewhere."""
        table = self.table
        if task.stream is not None:
            streams.ended(task.stream, results[0][4])
        if task.unheard is not None:
            for entry, result in zip(task.returns, results, strict=True):
                table.fulfil_again(entry, result)
            reruns.reclaim(table, task)
            others = True
        else:
            others = table.fulfil_each(task.returns, results)
        if others:
            self.lineage.keep(task, type(task.queue) is not ShapeQueue)
        self._finish(task, "FINISHED")

    def failed(self, lease: Lease, message: tuple[Any, ...]) -> None:
        """(FAILED, task id, error, container, kept ids, cancelled) from a worker."""
        _, task_id, error, container, kept, cancelled = message
        task = lease.take(task_id)
        if task is None:
            return
        lease.stalled = False
        if kept:
            self.table.hand_over(lease.proc, kept)
        self._failed(task, error, container, cancelled)

    def failed_here(self, task: TaskRecord, message: tuple[Any, ...]) -> None:
        """A task that ran in place failed; the same message as `failed`."""
        _, _, error, container, kept, cancelled = message
        if kept:
            self.table.hand_over(self.table.proc, kept)
        self._failed(task, error, container, cancelled)

    def _failed(self, task: TaskRecord, error: bytes, container: tuple[Any, ...], cancelled: bool) -> None:
        held = self.received_container(container)
        reruns.run_failed(task, container)
        if not cancelled and task.retries and not task.cancelled and self.is_retriable(task, error):
            self._retry(task)
        else:
            self._fail_with(task, error, held)
        if held is not None:
            self.table.drop_uses((held,))

    def received_container(self, container: tuple[Any, ...]) -> Entry | None:
        """The entry of what holds the refs inside an error (the third field of FAILED), with one use; None if there are none."""
        if not container or not container[0]:
            return None
        return self.table.received_held((container[0],), container[1])[0]

    def crashed_here(self, task: TaskRecord, exit_code: int) -> None:
        """A task that ran in place called sys.exit: for it, and not for its parent, that is a worker's death."""
        self._crashed(task, {"exit_code": exit_code, "message": f"the task ended with exit code {exit_code}"})

    def given_back(self, lease: Lease, task_ids: list[bytes]) -> None:
        """Tasks that the worker will not start; they go to the front of their queue."""
        lease.stalled = True
        for task_id in reversed(task_ids):
            task = lease.take(task_id)
            if task is not None:
                self._requeue(task, front=True)
                if task.queue is not lease.queue:
                    self.pump(task.queue)
        self.pump(lease.queue)

    def _requeue(self, task: TaskRecord, front: bool) -> None:
        task.lease = None
        if task.cancelled:
            self._fail_with(task, self.make_error("cancelled", task))
            return
        task.state = QUEUED
        if front:
            task.queue.ready.appendleft(task)
        else:
            task.queue.ready.append(task)

    def _retry(self, task: TaskRecord) -> None:
        task.attempt += 1
        if task.retries > 0:
            task.retries -= 1
        self.counters["retried"] += 1
        self._requeue(task, front=False)
        self.pump(task.queue)

    def _fail_with(self, task: TaskRecord, error: bytes, container: Entry | None = None) -> None:
        table = self.table
        for entry in task.returns:
            table.fail(entry, error, container)
        if task.stream is not None and task.only is not None:
            streams.fail_missing(table, task, error, container)
        if task.unheard is not None:
            reruns.reclaim(table, task)
        if task.stream is not None:
            streams.ended_early(task)
        if task.only is not None or task.attempt or task.stream is not None:
            self.lineage.failed(task)
        self._finish(task, "FAILED")

    def _finish(self, task: TaskRecord, outcome: str) -> None:
        if task.state == DONE:
            return
        task.state = DONE
        task.lease = None
        self.tasks.pop(task.id, None)
        self.counters["finished" if outcome == "FINISHED" else "failed"] += 1
        self.finished.append((task.id, task.name, outcome))
        if task.parent is not None:
            siblings = self.children.get(task.parent)
            if siblings is not None:
                siblings.discard(task.id)
                if not siblings:
                    del self.children[task.parent]
        table = self.table
        if task.lifted:
            table.drop_uses(task.lifted)
        if task.nested:
            table.drop_uses(task.nested)
        if task.only is not None or task.stream is not None:
            self.lineage.finished(task.id)

    # --- streaming generators ---

    def item(self, lease: Lease | None, task_id: bytes, index: int, result: Any) -> None:
        """A generator yielded; repeated items of a second attempt are dropped."""
        task = self.tasks.get(task_id)
        if task is None or task.stream is None:
            return
        entry = streams.item_arrived(self.table, task, task.stream, index, result)
        if entry is not None:
            self.lineage.keep_item(task, entry, type(task.queue) is not ShapeQueue)

    # --- leases ---

    def refused(self, queue: ShapeQueue, reason: str) -> None:
        """The daemon will not find workers for this shape as things are: its tasks fail rather than hang (R8)."""
        queue.infeasible = reason
        for task in [task for task in queue.ready if task.state == QUEUED]:
            if task.state == QUEUED:
                self._fail_with(task, self.make_error("placement", task, reason))
        self.pump(queue)
        if (
            not queue.backlog_told
        ):  # a grant may have crossed the last demand: then the daemon still counts one
            self.table.to_node([m.DEMAND, queue.shape_id, queue.resources, 0, queue.options])

    def granted(
        self, shape_id: int, lease_id: int, proc: bytes, pid: int, connection: Any, node: str = ""
    ) -> Lease | None:
        """The daemon leased a worker; None (and it goes back) if the shape is unknown."""
        queue = self.by_shape_id.get(shape_id)
        if queue is None:
            self.table.to_node([m.RETURN, lease_id, m.RETURN_OK])
            return None
        lease = Lease(lease_id, proc, pid, queue, connection, node)
        self.leases[lease_id] = lease
        queue.joined(lease)
        queue.infeasible = None
        if queue.backlog_told > 0:
            queue.backlog_told -= 1
        self.pump(queue)
        if not lease.inflight and not queue.ready:
            self._spread(queue, lease)
        return lease

    def _spread(self, queue: ShapeQueue, idle: Lease) -> None:
        """A worker has nothing to do: take unstarted tasks back from the fullest one."""
        fullest = max(queue.leases, key=lambda lease: len(lease.inflight), default=None)
        if fullest is not None and fullest is not idle and len(fullest.inflight) > 2:
            fullest.outbox.append((m.TAKE_BACK, len(fullest.inflight) // 2))
            self.dirty.add(fullest)

    def recall(self, lease_id: int) -> None:
        """The daemon wants a lease back: no new tasks; unstarted ones are taken back."""
        lease = self.leases.get(lease_id)
        if lease is None:
            return
        lease.recalled = True
        if len(lease.inflight) > 1:
            lease.outbox.append((m.TAKE_BACK, len(lease.inflight)))
            self.dirty.add(lease)
        self.settle(lease)

    def settle(self, lease: Lease) -> None:
        """After answers from ``lease``: send more, or give it back if it was recalled or is used up."""
        if lease.inflight:
            if not lease.recalled and lease.queue.ready:
                self.pump(lease.queue)
            return
        if lease.recalled or lease.used_up:
            self.give_back(lease, m.RETURN_RECYCLE if lease.used_up else m.RETURN_OK)
        elif self._far and not lease.broken and not lease.held_back:
            other = self.locality.whose(lease)
            if other is not None:
                self._serve(other, lease)
        if lease.queue.ready or lease.queue.backlog_told:
            self.pump(lease.queue)

    def give_back(self, lease: Lease, state: int) -> None:
        """Return a lease without tasks to the daemon."""
        if self._forget(lease):
            self.table.to_node([m.RETURN, lease.lease_id, state])

    def _forget(self, lease: Lease) -> bool:
        if self.leases.pop(lease.lease_id, None) is None:
            return False
        lease.queue.left(lease)
        self.dirty.discard(lease)
        lease.broken = True
        if lease.connection is not None:
            lease.connection.close_soon()
        return True

    def return_idle(self, now: float, idle_s: float) -> float | None:
        """Give back leases that have been idle for ``idle_s`` seconds; when to look again."""
        deadline: float | None = None
        for lease in list(self.leases.values()):
            if lease.inflight:
                lease.idle_since = None
                continue
            if lease.idle_since is None:
                lease.idle_since = now
            due = lease.idle_since + idle_s
            if due <= now:
                self.give_back(lease, m.RETURN_OK)
            elif deadline is None or due < deadline:
                deadline = due
        return deadline

    def worker_died(self, lease_id: int, current: bytes, details: dict[str, Any]) -> None:
        """A confirmed death. The task ``current`` was running and counts an attempt; later ones are sent again
        as if never sent, and so are earlier ones, whose results were lost, unless they may not run twice.

        If its node died, nobody knows which was running: all are in doubt, and each counts an attempt.
        """
        lease = self.leases.get(lease_id)
        if lease is None:
            return
        self._forget(lease)
        tasks = list(lease.inflight.values())
        running = lease.inflight.get(current)
        lease.inflight.clear()
        if details.get("kind") == "node":
            for task in tasks:
                self._crashed(task, details)
            tasks = []
        elif running is not None:
            position = tasks.index(running)
            for task in tasks[:position]:
                reruns.run_died(task, self.config.generator_backlog_max)
                task.attempt += 1
                if not task.options.max_retries:
                    self._crashed(task, details)
            self._crashed(running, details)
            tasks = [task for task in tasks[:position] if task.options.max_retries] + tasks[position + 1 :]
        for task in reversed(tasks):
            self._requeue(task, front=True)
            if task.queue is not lease.queue:
                self.pump(task.queue)
        self.pump(lease.queue)

    def _crashed(self, task: TaskRecord, details: dict[str, Any]) -> None:
        reruns.run_died(task, self.config.generator_backlog_max)
        if task.cancelled:
            self._fail_with(task, self.make_error("cancelled", task))
        elif task.retries:
            task.careful = True
            self._retry(task)
        else:
            self._fail_with(task, self.make_error("crashed", task, details))

    # --- cancel, and running here ---

    def cancel(self, task: TaskRecord, force: bool, recursive: bool) -> None:
        """Stop ``task``: at once if it was not sent; otherwise its worker is told."""
        if task.state == DONE or (task.cancelled and not force):
            return
        task.cancelled = True
        if task.state in (WAITING, QUEUED):
            task.state = QUEUED
            self._unqueue(task)
            self._fail_with(task, self.make_error("cancelled", task))
            self.pump(task.queue)
        elif task.lease is None:
            self.cancel_here(task.id)
            if recursive:
                self.cancel_children(task.id, force)
        else:
            # The daemon ends the worker if it runs just this task; the worker itself sees to all other cases.
            task.lease.outbox.append((m.CANCEL, task.id, force, recursive))
            self.dirty.add(task.lease)
            if force:
                self.table.to_node([m.KILL_WORKER, task.lease.lease_id, "cancelled with force", task.id])

    def _unqueue(self, task: TaskRecord) -> None:
        for entry in task.lifted:
            if entry.waiters and task in entry.waiters:
                entry.waiters.remove(task)

    def cancel_children(self, parent: bytes, force: bool) -> None:
        """Cancel what a task submitted, and what that submitted in turn."""
        for child in list(self.children.get(parent, ())):
            task = self.tasks.get(child)
            if task is not None:
                self.cancel(task, force, recursive=True)

    def take_for_here(self, task: TaskRecord) -> bool:
        """Claim a queued task to run it in place; False if it is elsewhere or not ready."""
        if task.state != QUEUED or task.doomed or task.stream is not None:
            return False
        task.state = SENT
        ready = task.queue.ready
        if ready and ready[0] is task:
            ready.popleft()  # anywhere else it is skipped when the queue comes to it
        if not task.queue.ready and task.queue.backlog_told:
            self.pump(task.queue)
        return True

    def validate(self) -> None:
        """Raise AssertionError if an invariant is broken."""
        for queue in self.queues.values():
            queue.validate()
        for lease in self.leases.values():
            assert lease in lease.queue.leases, lease
            for task in lease.inflight.values():
                assert task.state == SENT, task
                assert task.lease is lease, task
        for task in self.tasks.values():
            assert task.state != DONE, task
            waits = task.unresolved > 0 or type(task.queue) is not ShapeQueue  # for its actor
            assert task.state != WAITING or waits, task
            assert task.state != QUEUED or task in task.queue.ready, task
            assert not task.returns or all(self.table.entries.get(e.id) is e for e in task.returns), task

"""Attempts, failed arguments, cancels in place and interrupted sends, as the submitter's core decides them."""

from __future__ import annotations

import pytest

from shoal.ids import return_id
from shoal.owner import streams
from shoal.owner.objects import FAILED, INLINE, PENDING
from shoal.owner.tasks import DONE, QUEUED, SENT
from shoal.wire import messages as m
from submitter import Owner


@pytest.fixture
def owner():
    owner = Owner()
    yield owner
    owner.table.validate()
    owner.dispatch.validate()


def test_only_the_running_task_counts_an_attempt(owner):
    entries = [owner.submit(max_retries=1) for _ in range(4)]
    lease = owner.grant()
    owner.dispatch.worker_died(lease.lease_id, entries[2].id, {})
    assert [entry.task.retries for entry in entries] == [1, 1, 0, 1]
    again = owner.grant()
    # Those whose results were lost and those that were not started go first; who crashed goes last, and alone.
    assert list(again.inflight) == [entries[i].id for i in (0, 1, 3, 2)]
    assert owner.sent_details(again, entries[2])["careful"]


def test_a_finished_task_whose_result_was_lost_does_not_run_twice_if_it_may_not(owner):
    entries = [owner.submit(max_retries=0) for _ in range(3)]
    lease = owner.grant()
    assert owner.sent_details(lease, entries[0])["careful"]  # its result is sent at once, so this is rare
    owner.dispatch.worker_died(lease.lease_id, entries[1].id, {})
    assert [entry.state for entry in entries] == [FAILED, FAILED, PENDING]


def test_a_worker_that_dies_between_tasks_costs_nobody_an_attempt(owner):
    entries = [owner.submit(max_retries=0) for _ in range(3)]
    lease = owner.grant()
    owner.dispatch.worker_died(lease.lease_id, b"another task, long done", {})
    assert [entry.state for entry in entries] == [PENDING] * 3
    assert list(owner.grant().inflight) == [entry.id for entry in entries]


def test_a_failed_argument_fails_its_dependents_without_a_worker(owner):
    first, other = owner.submit(), owner.submit()
    second = owner.submit(other, first)
    third = owner.submit(second)
    owner.dispatch.cancel(first.task, force=False, recursive=True)
    assert (second.state, third.state) == (FAILED, FAILED)
    assert second.value == b"dependent"
    assert other.state == PENDING
    late = owner.submit(third)
    assert late.state == FAILED


def test_a_refused_queue_fails_what_waits_and_withdraws_its_demand(owner):
    entries = [owner.submit() for _ in range(3)]
    queue = entries[0].task.queue
    owner.dispatch.refused(queue, "no more workers")
    assert [(entry.state, entry.value) for entry in entries] == [(FAILED, b"placement")] * 3
    assert owner.table.take_node_messages()[-1][3] == 0  # backlog


def test_cancel_of_a_task_that_runs_in_place_goes_to_the_executor(owner):
    interrupted = []
    owner.dispatch.cancel_here = interrupted.append
    entry = owner.submit()
    task = entry.task
    child = owner.submit()
    child.task.parent = task.id
    owner.dispatch.children[task.id] = {child.id}
    assert owner.dispatch.take_for_here(task)
    owner.dispatch.cancel(task, force=False, recursive=True)
    assert interrupted == [task.id]
    assert child.state == FAILED
    owner.dispatch.failed_here(task, (m.FAILED, task.id, b"cancelled", (), b"", True))
    assert entry.state == FAILED


def test_sys_exit_in_place_is_a_crash_of_the_child(owner):
    entry = owner.submit(max_retries=1)
    task = entry.task
    assert owner.dispatch.take_for_here(task)
    owner.dispatch.crashed_here(task, 5)
    assert (task.state, task.retries) == (QUEUED, 0)
    assert owner.dispatch.take_for_here(task)
    owner.dispatch.crashed_here(task, 5)
    assert (task.state, entry.value) == (DONE, b"crashed")


def test_force_kills_only_while_that_task_runs_and_tells_its_worker_too(owner):
    entries = [owner.submit() for _ in range(2)]
    lease = owner.grant()
    owner.dispatch.cancel(entries[1].task, force=True, recursive=True)
    assert lease.outbox[-1] == (m.CANCEL, entries[1].id, True, True)
    kill = owner.table.take_node_messages()[-1]
    assert (kill[0], kill[1], kill[3]) == (m.KILL_WORKER, lease.lease_id, entries[1].id)


@pytest.mark.parametrize("place", range(6))
def test_a_send_that_a_signal_handler_interrupts_is_made_or_not_begun(owner, monkeypatch, place):
    """The handler raises at different places of a send; afterwards the task is done once."""
    entry = owner.submit()
    task = entry.task
    steps = iter(range(100))

    def maybe_interrupt():
        if next(steps) == place:
            raise KeyboardInterrupt

    class Interrupting(list):
        def append(self, message):
            maybe_interrupt()
            super().append(message)
            maybe_interrupt()

    class InterruptingDict(dict):
        def __setitem__(self, key, value):
            maybe_interrupt()
            super().__setitem__(key, value)
            maybe_interrupt()

    lease_of = owner.dispatch._send

    def send(lease, task):
        lease.outbox, lease.inflight = Interrupting(lease.outbox), InterruptingDict(lease.inflight)
        try:
            lease_of(lease, task)
        finally:
            lease.outbox, lease.inflight = list(lease.outbox), dict(lease.inflight)

    monkeypatch.setattr(owner.dispatch, "_send", send)
    with pytest.raises(KeyboardInterrupt):
        owner.grant()
    monkeypatch.undo()
    lease = owner.dispatch.leases[1]
    assert task.state in {QUEUED, SENT}
    owner.dispatch.pump(task.queue)
    assert [message[1] for message in lease.outbox if message[0] == m.TASK] == [task.id]
    assert lease in owner.dispatch.dirty
    owner.done(lease, entry)
    assert entry.state == INLINE


def test_a_generator_that_runs_again_repeats_nothing(owner):
    completion = owner.submit(num_returns="streaming")
    task, stream = completion.task, completion.task.stream
    lease = owner.grant()
    for index in range(3):
        owner.dispatch.item(lease, task.id, index, b"%d" % index)
    taken = stream.items.pop(0)
    stream.taken = 1
    owner.dispatch.worker_died(lease.lease_id, task.id, {})
    again = owner.grant()
    details = owner.sent_details(again, completion)
    assert details["taken"] == 1
    for index in range(4):
        owner.dispatch.item(again, task.id, index, b"again %d" % index)
    assert owner.table.entries[return_id(task.id, 1)] is taken
    assert [stream.items[index].value for index in (1, 2, 3)] == [b"1", b"2", b"again 3"]


def test_an_item_that_was_taken_and_dropped_does_not_come_back(owner):
    completion = owner.submit(num_returns="streaming")
    task, stream = completion.task, completion.task.stream
    lease = owner.grant()
    owner.dispatch.item(lease, task.id, 0, b"0")
    stream.taken = 1
    owner.table.drop_uses([stream.items.pop(0)])
    owner.dispatch.item(lease, task.id, 0, b"0")
    assert return_id(task.id, 1) not in owner.table.entries
    assert not stream.items


def test_an_early_end_of_a_stream_is_its_last_item_once(owner):
    completion = owner.submit(num_returns="streaming", max_retries=0)
    task, stream = completion.task, completion.task.stream
    lease = owner.grant()
    owner.dispatch.item(lease, task.id, 0, b"0")
    owner.dispatch.worker_died(lease.lease_id, task.id, {})
    streams.ended_early(task)
    assert stream.total == 2
    assert stream.items[1] is completion
    assert completion.state == FAILED

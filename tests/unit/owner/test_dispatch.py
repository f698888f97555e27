"""The owner core against a model of daemon and workers: every task is done once, nothing is forgotten or freed early."""

from __future__ import annotations

import dataclasses

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from shoal.config import Config
from shoal.ids import IdSource
from shoal.options import TaskOptions
from shoal.owner.dispatch import Dispatcher
from shoal.owner.objects import FAILED, INLINE, PENDING, Entry
from shoal.owner.rows import counts_of, rows_of
from shoal.owner.table import ObjectTable
from shoal.owner.tasks import FunctionExport, TaskRecord
from shoal.wire import messages as m


def make_error(kind: str, task: object, details: object = None) -> bytes:
    return f"{kind}".encode()


class Cluster:
    """A submitter with its daemon and workers, all by hand."""

    def __init__(self) -> None:
        self.ids = IdSource()
        self.table = ObjectTable(self.ids.process_id)
        self.dispatch = Dispatcher(self.table, Config(), make_error)
        self.function = FunctionExport(b"f" * 16, b"code", "f", [])
        self.leases = 0

    def submit(self, arguments: tuple[Entry, ...] = (), retries: int = 0) -> Entry:
        options = dataclasses.replace(TaskOptions(), max_retries=retries)
        queue = self.dispatch.queue_for("cpu", {"CPU": 10_000}, {})
        task = TaskRecord(self.ids.next_id(), self.function, options, b"payload", queue)
        for entry in arguments:
            entry.count += 1
        task.lifted = arguments
        entry = self.table.add(task.id, PENDING)
        entry.task = task
        task.returns = (entry,)
        self.dispatch.submit(task)
        return entry

    def grant(self):
        self.leases += 1
        return self.dispatch.granted(1, self.leases, b"w%07d" % self.leases, self.leases, None)

    def finish(self, lease, task_id: bytes, run_us: float = 10.0) -> None:
        self.dispatch.done(lease, (m.DONE, task_id, [b"v"], b"", run_us))
        self.dispatch.settle(lease)

    def validate(self) -> None:
        self.table.validate()
        self.dispatch.validate()
        counts, rows = counts_of(self.dispatch, ()), rows_of(self.dispatch)
        assert sum(counts.values()) == len(self.dispatch.tasks)
        for state in ("AT_WORKER", "RUNNING"):
            assert counts[state] == sum(row["state"] == state for row in rows), (counts, rows)
        assert counts["PENDING_NODE"] >= sum(row["state"] == "PENDING_NODE" for row in rows), (counts, rows)


def test_a_task_asks_for_a_lease_then_runs_and_its_value_goes_with_its_last_ref():
    cluster = Cluster()
    entry = cluster.submit()
    assert [message[0] for message in cluster.table.take_node_messages()] == [m.DEMAND]
    lease = cluster.grant()
    assert [message[0] for message in lease.outbox] == [m.FUNCTION, m.TASK]
    cluster.finish(lease, entry.id)
    assert (entry.state, entry.value) == (INLINE, b"v")
    cluster.validate()
    cluster.table.drop_uses([entry])
    assert not cluster.table.entries
    assert not cluster.dispatch.tasks


def test_a_dependent_task_waits_for_its_argument():
    cluster = Cluster()
    first = cluster.submit()
    second = cluster.submit((first,))
    lease = cluster.grant()
    assert list(lease.inflight) == [first.id]
    cluster.finish(lease, first.id)
    assert list(lease.inflight) == [second.id]
    assert lease.outbox[-1][4] == (None, [b"v"])
    cluster.validate()


def test_unknown_functions_go_one_at_a_time_short_ones_many_ahead():
    cluster = Cluster()
    entries = [cluster.submit() for _ in range(100)]
    lease = cluster.grant()
    assert len(lease.inflight) == 1
    cluster.finish(lease, entries[0].id, run_us=20.0)
    assert len(lease.inflight) == 99
    cluster.function.mean_us = 50_000.0
    more = [cluster.submit() for _ in range(3)]
    assert not any(entry.id in lease.inflight for entry in more)
    cluster.validate()


def test_much_at_once_is_sent_before_more_is_encoded():
    cluster = Cluster()
    cluster.function.mean_us = 1.0
    large = cluster.table.add_inline(cluster.ids.next_id(), b"v" * 50_000)
    first = cluster.submit()
    for _ in range(10):
        cluster.submit((first, large))
    lease = cluster.grant()
    sent = []

    def flush():
        sent.append(len(lease.outbox))
        lease.outbox, lease.outbox_bytes = [], 0

    flush()
    cluster.dispatch.flush_now = flush
    cluster.finish(lease, first.id)
    assert sent == [2, 3, 3, 3]  # the function and its first task; 150 KB at a time
    assert len(lease.inflight) == 10
    assert len(lease.outbox) == 1
    cluster.validate()


def test_after_a_death_the_started_task_counts_an_attempt_and_later_ones_none():
    cluster = Cluster()
    cluster.function.mean_us = 1.0
    entries = [cluster.submit() for _ in range(4)]
    lease = cluster.grant()
    assert len(lease.inflight) == 4
    cluster.dispatch.worker_died(lease.lease_id, entries[1].id, {})
    assert [entry.state for entry in entries] == [FAILED, FAILED, PENDING, PENDING]
    again = cluster.grant()
    assert list(again.inflight) == [entries[2].id, entries[3].id]
    cluster.validate()


def test_a_retry_runs_the_task_again_as_often_as_allowed():
    cluster = Cluster()
    entry = cluster.submit(retries=2)
    for _ in range(2):
        lease = cluster.grant()
        cluster.dispatch.worker_died(lease.lease_id, entry.id, {})
        assert entry.state == PENDING
    lease = cluster.grant()
    cluster.dispatch.worker_died(lease.lease_id, entry.id, {})
    assert entry.state == FAILED
    assert cluster.dispatch.counters["retried"] == 2


def test_a_failure_passes_down_a_long_chain_without_recursion():
    cluster = Cluster()
    entry = cluster.submit()
    chain = [entry]
    for _ in range(5000):
        chain.append(cluster.submit((chain[-1],)))
    lease = cluster.grant()
    cluster.dispatch.failed(lease, (m.FAILED, entry.id, b"boom", (), b"", False))
    assert all(each.state == FAILED for each in chain)
    assert not cluster.dispatch.tasks


def test_containers_of_containers_go_without_recursion():
    table = ObjectTable(b"p" * 8)
    ids = IdSource()
    outer = table.add_inline(ids.next_id(), b"v")
    for _ in range(5000):
        inner, outer = outer, table.add_inline(ids.next_id(), b"v", [outer])
        table.drop_uses([inner])
    assert len(table.entries) == 5001
    table.drop_uses([outer])
    assert not table.entries


def test_cancelling_a_queued_task_fails_it_at_once_and_a_sent_one_is_told():
    cluster = Cluster()
    first, second = cluster.submit(), cluster.submit()
    lease = cluster.grant()
    cluster.dispatch.cancel(second.task, force=False, recursive=True)
    assert second.state == FAILED
    cluster.dispatch.cancel(first.task, force=False, recursive=True)
    assert lease.outbox[-1] == (m.CANCEL, first.id, False, True)
    assert first.state == PENDING
    cluster.dispatch.cancel(first.task, force=True, recursive=True)
    assert cluster.table.take_node_messages()[-1][0] == m.KILL_WORKER
    cluster.validate()


def test_a_recalled_lease_goes_back_when_its_tasks_are_done():
    cluster = Cluster()
    entry = cluster.submit()
    lease = cluster.grant()
    cluster.dispatch.recall(lease.lease_id)
    cluster.table.take_node_messages()
    cluster.finish(lease, entry.id)
    assert [m.RETURN, lease.lease_id, m.RETURN_OK] in cluster.table.take_node_messages()
    assert not cluster.dispatch.leases


def test_an_idle_lease_goes_back_after_its_time():
    cluster = Cluster()
    entry = cluster.submit()
    lease = cluster.grant()
    cluster.finish(lease, entry.id)
    assert cluster.dispatch.return_idle(10.0, 0.5) == 10.5
    assert cluster.dispatch.leases
    assert cluster.dispatch.return_idle(10.5, 0.5) is None
    assert not cluster.dispatch.leases


class OwnerMachine(RuleBasedStateMachine):
    """Random submits, replies, deaths, cancels and dropped refs; invariants hold after each, and all tasks end."""

    def __init__(self) -> None:
        super().__init__()
        self.cluster = Cluster()
        self.refs: list[Entry] = []

    @rule(data=st.data(), retries=st.integers(-1, 2))
    def submit(self, data, retries):
        count = data.draw(st.integers(0, min(3, len(self.refs))))
        arguments = tuple(self.refs[data.draw(st.integers(0, len(self.refs) - 1))] for _ in range(count))
        self.refs.append(self.cluster.submit(arguments, retries))

    @precondition(lambda self: len(self.cluster.dispatch.leases) < 4 and self.cluster.dispatch.queues)
    @rule()
    def grant(self):
        self.cluster.grant()

    def _busy(self):
        return [lease for lease in self.cluster.dispatch.leases.values() if lease.inflight]

    @precondition(lambda self: self._busy())
    @rule(data=st.data(), run_us=st.sampled_from([1.0, 100.0, 10_000.0]))
    def finish(self, data, run_us):
        lease = data.draw(st.sampled_from(self._busy()))
        self.cluster.finish(lease, next(iter(lease.inflight)), run_us)

    @precondition(lambda self: self._busy())
    @rule(data=st.data())
    def fail(self, data):
        lease = data.draw(st.sampled_from(self._busy()))
        self.cluster.dispatch.failed(lease, (m.FAILED, next(iter(lease.inflight)), b"no", (), b"", False))
        self.cluster.dispatch.settle(lease)

    @precondition(lambda self: self._busy())
    @rule(data=st.data())
    def die(self, data):
        lease = data.draw(st.sampled_from(self._busy()))
        current = data.draw(st.sampled_from([*lease.inflight, bytes(16)]))
        self.cluster.dispatch.worker_died(lease.lease_id, current, {})

    @precondition(lambda self: self._busy())
    @rule(data=st.data())
    def give_back(self, data):
        lease = data.draw(st.sampled_from(self._busy()))
        unstarted = list(lease.inflight)[1:]
        self.cluster.dispatch.given_back(lease, unstarted)
        self.cluster.dispatch.settle(lease)

    @precondition(lambda self: self.cluster.dispatch.leases)
    @rule(data=st.data())
    def recall(self, data):
        self.cluster.dispatch.recall(data.draw(st.sampled_from(list(self.cluster.dispatch.leases))))

    @precondition(lambda self: self.refs)
    @rule(data=st.data(), force=st.booleans())
    def cancel(self, data, force):
        entry = data.draw(st.sampled_from(self.refs))
        if entry.task is not None:
            self.cluster.dispatch.cancel(entry.task, force, True)

    @precondition(lambda self: self.refs)
    @rule(data=st.data())
    def drop(self, data):
        entry = self.refs.pop(data.draw(st.integers(0, len(self.refs) - 1)))
        self.cluster.table.drop_uses([entry])

    @invariant()
    def valid(self):
        self.cluster.validate()

    def teardown(self):
        """Liveness: with workers that answer, everything finishes, and nothing is left when the refs go."""
        cluster = self.cluster
        for _ in range(10_000):
            if not cluster.dispatch.tasks:
                break
            lease = next(iter(self._busy()), None)
            if lease is None:
                cluster.grant()
            else:
                cluster.finish(lease, next(iter(lease.inflight)))
        assert not cluster.dispatch.tasks
        cluster.table.drop_uses(self.refs)
        assert not cluster.table.entries


OwnerMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestOwner = OwnerMachine.TestCase

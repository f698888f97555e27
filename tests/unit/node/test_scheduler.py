"""The scheduler's decisions, by hand-made histories and by random ones."""

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from schedulerparts import CPU1, DRIVER, OTHER, Node
from shoal.wire import messages as m
from shoald.node.pool import BLOCKED, DYING, IDLE, LEASED, STARTING
from shoald.store.errors import ProtocolError


@pytest.fixture
def node():
    node = Node()
    node.driver(DRIVER, "job1")
    return node


def test_workers_are_warm_before_anybody_asks(node):
    assert node.core.pool.count(IDLE) == 2
    assert not node.grants


def test_grants_as_many_as_there_are_cpus(node):
    node.demand(DRIVER, 1, 10)
    node.run()
    assert [grant.shape_id for grant in node.grants] == [1, 1]
    assert node.core.clients[DRIVER].demands[1].backlog == 8
    assert node.core.available() == {"CPU": 0}
    node.give_back(node.grants[0])
    node.run()
    assert len(node.grants) == 3
    assert node.grants[2].worker_id == node.grants[0].worker_id


def test_fractions_share_a_cpu_and_workers_are_started_for_them(node):
    node.demand(DRIVER, 1, 10, {"CPU": 2_500})
    node.run()
    assert len(node.grants) == 8
    assert len(node.core.pool) == 8


def test_withdrawn_demand_gets_nothing(node):
    node.demand(DRIVER, 1, 2)
    node.demand(DRIVER, 1, 0)
    node.run()
    assert not node.grants


def test_worker_of_one_job_serves_no_other(node):
    node.demand(DRIVER, 1, 1)
    node.run()
    node.give_back(node.grants[0])
    node.driver(OTHER, "job2")
    node.demand(OTHER, 1, 2)
    node.run()
    mine = node.grants[0].worker_id
    assert all(grant.worker_id != mine for grant in node.grants[1:])
    assert len(node.grants) == 3


def test_an_environment_that_needs_its_own_interpreter_gets_workers_of_it(node):
    node.demand(DRIVER, 1, 1, env="e")
    node.run()
    [warm] = node.grants
    assert node.core.pool.workers[warm.worker_id].python == ""
    node.core.handle(node.worker_proc(warm), [m.WORKER_NOTE, {"python": "/p"}], node.now)
    node.demand(DRIVER, 1, 2, env="e")
    node.give_back(warm, m.RETURN_RECYCLE)
    node.run()
    cold = node.grants[1:]
    assert [node.core.pool.workers[grant.worker_id].python for grant in cold] == ["/p", "/p"]
    assert node.pythons.count("/p") == 2
    for grant in cold:
        node.give_back(grant)
    node.demand(DRIVER, 2, 1)
    node.run()
    assert node.core.pool.workers[node.grants[-1].worker_id].python == ""


def test_an_interpreter_that_cannot_be_run_is_looked_for_again(node):
    node.demand(DRIVER, 1, 1, env="e")
    node.run()
    node.core.handle(node.worker_proc(node.grants[0]), [m.WORKER_NOTE, {"python": "/p"}], node.now)
    node.demand(DRIVER, 1, 1, env="e")
    node.give_back(node.grants[0], m.RETURN_RECYCLE)
    node.run(ready=False)
    [cold] = [worker for worker in node.core.pool.workers.values() if worker.python]
    node.exited(cold.worker_id, exit_code=1, current=b"")
    node.run()
    assert node.core.pool.workers[node.grants[-1].worker_id].python == ""


def test_an_interpreter_that_never_gets_as_far_as_a_task_is_no_storm(node):
    """Each time a warm worker finds that it is needed, hands on, and ends well: that is no sign that workers can work."""
    died = 0
    for _ in range(100):
        node.demand(DRIVER, 1, 1, env="e")
        node.run()
        for worker in list(node.core.pool.workers.values()):
            if worker.python:
                died += 1
                node.exited(worker.worker_id, exit_code=1, current=bytes(16))
            elif worker.lease_id:
                grant = next(grant for grant in node.grants if grant.lease_id == worker.lease_id)
                node.core.handle(worker.proc, [m.WORKER_NOTE, {"python": "/p"}], node.now)
                node.demand(DRIVER, 1, 1, env="e")
                node.give_back(grant, m.RETURN_RECYCLE)
    assert 0 < died < 10
    assert node.messages(m.DEMAND_STATUS)[-1][2] == "limit"
    assert "before its first task" in node.messages(m.DEMAND_STATUS)[-1][3]


def test_a_demand_of_another_environment_gets_another_worker(node):
    node.demand(DRIVER, 1, 1)
    node.run()
    (plain,) = node.grants
    node.give_back(plain)
    for shape, env in ((2, "e1"), (3, "e2"), (4, "e1")):
        node.demand(DRIVER, shape, 1, env=env)
        node.run()
        node.give_back(node.grants[-1])
        node.run()
    assert [grant.shape_id for grant in node.grants] == [1, 2, 3, 4]
    first, second, again = (grant.worker_id for grant in node.grants[1:])
    assert first == again
    assert len({plain.worker_id, first, second}) == 3
    with pytest.raises(ProtocolError, match="environment"):
        node.demand(DRIVER, 5, 1, env=7)


def test_jobs_share_fairly(node):
    node.driver(OTHER, "job2")
    node.demand(DRIVER, 1, 100)
    node.demand(OTHER, 1, 100)
    node.run()
    assert {grant.proc for grant in node.grants} == {DRIVER, OTHER}


def test_late_job_gets_a_lease_recalled_from_the_one_that_has_all(node):
    node.demand(DRIVER, 1, 100)
    node.run()
    node.driver(OTHER, "job2")
    node.demand(OTHER, 1, 1)
    node.run()
    assert len(node.messages(m.RECALL_LEASE)) == 1, "one recall for one waiting demand"
    lease_id = node.messages(m.RECALL_LEASE)[0][1]
    grant = next(grant for grant in node.grants if grant.lease_id == lease_id)
    node.give_back(grant)
    node.run()
    assert node.grants[-1].proc == OTHER


def test_recall_that_is_not_answered_is_followed_by_another(node):
    node.demand(DRIVER, 1, 100)
    node.run()
    node.driver(OTHER, "job2")
    node.demand(OTHER, 1, 1)
    node.run()
    node.run(passed_s=0.1)
    assert len(node.messages(m.RECALL_LEASE)) == 1
    node.run(passed_s=0.2)
    assert len(node.messages(m.RECALL_LEASE)) == 2


def test_lease_that_may_be_idle_is_recalled(node):
    node.demand(DRIVER, 1, 2)
    node.run()
    node.demand(DRIVER, 2, 1, {"CPU": 10_000, "licence": 0})
    node.run(passed_s=0.05)
    assert len(node.messages(m.RECALL_LEASE)) == 1


def test_large_shape_is_not_starved_by_small_ones(node):
    node.demand(DRIVER, 1, 1_000)
    node.demand(DRIVER, 2, 1, {"CPU": 20_000})
    node.run()
    for _ in range(200):
        node.run(passed_s=0.01)
        for message in node.messages(m.RECALL_LEASE):
            if message[1] in node.core.leases:
                node.give_back(next(g for g in node.grants if g.lease_id == message[1]))
        if any(grant.shape_id == 2 for grant in node.grants):
            return
    raise AssertionError("the 2-CPU task never got its turn")


def test_reservation_lets_others_pass_now_and_then():
    node = Node({"CPU": 20_000}, reservation_after_ms=100.0, reservation_hold_ms=200.0)
    node.driver(DRIVER, "job1")
    node.demand(DRIVER, 1, 1)
    node.run()  # this task never ends
    node.demand(DRIVER, 2, 1, {"CPU": 20_000})
    node.run(passed_s=0.15)
    node.demand(DRIVER, 3, 5, {"CPU": 5_000})
    node.run()
    assert len(node.grants) == 1, "room is kept"
    node.run(passed_s=0.25)
    assert len(node.grants) == 3, "but not for ever"


def test_blocked_worker_lends_its_cpu_and_takes_it_back_at_once():
    node = Node({"CPU": 10_000})
    node.driver(DRIVER, "job1")
    node.demand(DRIVER, 1, 1)
    node.run()
    parent = node.worker_proc(node.grants[0])
    node.demand(parent, 1, 1)
    node.run()
    assert len(node.grants) == 1
    node.core.handle(parent, [m.BLOCKED, True], node.now)
    node.run()
    assert node.grants[1].proc == parent
    assert node.core.pool.count(BLOCKED) == 1
    node.core.handle(parent, [m.BLOCKED, False], node.now)
    node.run()
    assert node.core.ledger.oversubscribed() == {"CPU": 10_000}
    assert node.core.counters["oversubscribed"] == 1
    node.give_back(node.grants[1])
    node.run()
    assert node.core.available() == {"CPU": 0}
    assert not node.core.ledger.oversubscribed()


def test_child_of_a_blocked_parent_goes_before_more_parents():
    node = Node({"CPU": 10_000})
    node.driver(DRIVER, "job1")
    node.demand(DRIVER, 1, 100)
    node.run()
    parent = node.worker_proc(node.grants[0])
    node.demand(parent, 1, 1)
    node.core.handle(parent, [m.BLOCKED, True], node.now)
    node.run()
    assert [grant.proc for grant in node.grants] == [DRIVER, parent]


def test_nesting_ends_at_the_process_bound_and_says_so():
    node = Node({"CPU": 10_000}, blocked_workers_max=3)
    node.driver(DRIVER, "job1")
    submitter = DRIVER
    for depth in range(4):
        node.demand(submitter, 1, 1, name=f"level{depth}")
        node.run()
        submitter = node.worker_proc(node.grants[-1])
        node.core.handle(submitter, [m.BLOCKED, True], node.now)
    node.demand(submitter, 1, 1)
    node.run()
    assert len(node.grants) == 4
    node.run(passed_s=1.1)
    (status,) = node.messages(m.DEMAND_STATUS)
    assert status[2] == "limit"
    assert "blocked_workers_max=3" in status[3]
    assert "level0 (pid" in status[3]


def test_infeasible_demand_is_told_after_a_while_with_figures(node):
    node.demand(DRIVER, 7, 1, {"CPU": 640_000, "GPU": 10_000})
    node.run()
    assert not node.messages(m.DEMAND_STATUS)
    assert node.core.schedule(node.now) == pytest.approx(node.now + 1.0)
    node.run(passed_s=1.0)
    (status,) = node.messages(m.DEMAND_STATUS)
    assert status[1:3] == [7, "infeasible"]
    assert "CPU 64, GPU 1" in status[3]
    assert "this node has CPU 2" in status[3]
    assert node.core.schedule(node.now) is None, "nothing left to do for it"


def test_what_is_a_little_too_much_looks_like_more(node):
    has = 17_690_000_000
    node.core.ledger.total["memory"] = has * 10_000
    node.demand(DRIVER, 7, 1, {"memory": (has + 1) * 10_000})
    node.run()
    node.run(passed_s=1.0)
    (status,) = node.messages(m.DEMAND_STATUS)
    assert "needs memory 17.69 GB (17,690,000,001 bytes)" in status[3]
    assert "this node has CPU 2, memory 17.69 GB (17,690,000,000 bytes) in all" in status[3]


def test_shares_of_different_gpus_are_no_whole_one():
    node = Node({"CPU": 80_000, "GPU": 20_000})
    node.driver(DRIVER, "job1")
    node.demand(DRIVER, 1, 2, {"CPU": 10_000, "GPU": 6_000})
    node.run()
    halves = list(node.grants)
    assert [node.core.leases[grant.lease_id].gpu_numbers for grant in halves] == [[0], [1]]
    node.demand(DRIVER, 2, 1, {"GPU": 5_000})
    node.run()
    assert node.core.pending(node.now)[0]["reason"].startswith("waits for GPUs that others have a share of")
    assert node.core.ledger.free["GPU"] == 8_000
    node.give_back(halves[0])
    node.run()
    assert len(node.grants) == 3
    assert node.core.leases[node.grants[-1].lease_id].gpu_numbers == [0]


def test_zero_cpu_tasks_run_beside_a_full_node_within_a_bound():
    node = Node({"CPU": 10_000}, zero_cpu_leases_max=3)
    node.driver(DRIVER, "job1")
    node.demand(DRIVER, 1, 1)
    node.demand(DRIVER, 2, 10, {})
    node.run()
    assert [grant.shape_id for grant in node.grants].count(2) == 3


def test_death_is_told_with_the_task_that_was_running(node):
    node.demand(DRIVER, 1, 1)
    node.run()
    node.exited(node.grants[0].worker_id, exit_code=0, signal=11, current=b"x" * 16)
    node.run()
    (died,) = node.messages(m.WORKER_DIED)
    assert died[1:5] == [node.grants[0].lease_id, 0, 11, b"x" * 16]
    assert not node.core.leases
    assert node.core.pool.count(IDLE) == 2, "another one is started"


def test_broken_lease_lives_until_the_death_is_confirmed(node):
    node.demand(DRIVER, 1, 1)
    node.run()
    node.give_back(node.grants[0], m.RETURN_BROKEN)
    assert node.core.leases
    assert node.core.pool.count(DYING) == 1
    node.run()
    assert node.messages(m.WORKER_DIED)
    assert not node.core.leases


def test_recycled_worker_ends(node):
    node.demand(DRIVER, 1, 1)
    node.run()
    node.give_back(node.grants[0], m.RETURN_RECYCLE)
    node.run()
    assert node.grants[0].worker_id not in node.core.pool.workers
    assert not node.messages(m.WORKER_DIED)


def test_end_of_a_job_ends_its_workers_only(node):
    node.driver(OTHER, "job2")
    node.demand(DRIVER, 1, 1)
    node.demand(OTHER, 1, 1)
    node.run()
    node.core.client_left(DRIVER, node.now)
    node.core.job_ended("job1", node.now)
    node.run()
    mine, other = (next(g for g in node.grants if g.proc == proc) for proc in (DRIVER, OTHER))
    assert mine.worker_id not in node.core.pool.workers
    assert node.core.pool.workers[other.worker_id].state == LEASED
    assert set(node.core.jobs) == {"job2"}


def test_submitters_death_ends_the_workers_it_leased():
    node = Node()
    node.driver(DRIVER, "job1")
    node.demand(DRIVER, 1, 1)
    node.run()
    parent = node.worker_proc(node.grants[0])
    node.demand(parent, 1, 1)
    node.run()
    child = node.grants[1].worker_id
    node.exited(node.grants[0].worker_id, signal=9)
    node.run()
    assert child not in node.core.pool.workers
    assert not node.core.leases


def test_idle_extra_workers_end_after_their_time(node):
    node.demand(DRIVER, 1, 8, {"CPU": 2_500})
    node.run()
    for grant in node.grants:
        node.give_back(grant)
    node.demand(DRIVER, 1, 0, {"CPU": 2_500})
    node.run()
    assert len(node.core.pool) == 8
    node.run(passed_s=node.config.idle_worker_ms / 1000)
    assert len(node.core.pool) == 2


def test_worker_that_waits_for_its_own_tasks_is_not_ended_for_idling(node):
    node.demand(DRIVER, 1, 4, resources={})
    node.run()
    owner = node.core.pool.by_proc[node.worker_proc(node.grants[0])]
    node.core.handle(owner.proc, [m.WORKER_NOTE, {"unfinished": True}], node.now)
    for grant in node.grants:
        node.give_back(grant)
    node.run()
    node.run(passed_s=node.config.idle_worker_ms / 1000)
    assert owner.state == IDLE
    node.core.handle(owner.proc, [m.WORKER_NOTE, {"unfinished": False}], node.now)
    node.run(passed_s=node.config.idle_worker_ms / 1000)
    assert node.core.pool.count(IDLE) == 2


def test_workers_that_cannot_start_are_tried_again_with_pauses():
    node = Node({"CPU": 10_000}, worker_start_failures_max=2)
    node.driver(DRIVER, "job1")
    node.core.end_worker(node.core.pool.in_state(IDLE)[0], "test", node.now)
    node.demand(DRIVER, 1, 1)
    node.run(ready=False)
    for _ in range(2):
        (worker,) = node.core.pool.in_state(STARTING)
        node.exited(worker.worker_id, exit_code=1, current=bytes(16))
        node.run(ready=False)
    assert not node.core.pool.count(STARTING)
    node.run(ready=False, passed_s=1.0)
    assert node.core.pool.count(STARTING) == 1
    assert node.messages(m.DEMAND_STATUS)[0][2] == "limit"
    node.run()
    assert node.grants


def test_workers_that_end_after_their_hello_without_a_task_are_no_storm(node):
    node.demand(DRIVER, 1, 100)
    died = 0
    for _ in range(100):
        node.run()
        for worker in list(node.core.pool.workers.values()):
            died += 1
            node.exited(worker.worker_id, exit_code=1, current=bytes(16))
    assert died < 10
    assert node.messages(m.DEMAND_STATUS)[-1][2] == "limit"
    assert "before its first task" in node.messages(m.DEMAND_STATUS)[-1][3]


def test_tasks_that_crash_their_workers_do_not_slow_the_starts(node):
    node.demand(DRIVER, 1, 100)
    for _ in range(20):
        node.run()
        node.exited(node.grants[-1].worker_id, signal=11)
    assert len(node.grants) >= 20


def test_pending_rows_say_why(node):
    node.demand(DRIVER, 1, 3, name="work")
    node.demand(DRIVER, 2, 1, {"tape": 10_000})
    node.run()
    rows = {row["shape_id"]: row for row in node.core.pending(node.now)}
    assert rows[1]["name"] == "work"
    assert rows[1]["backlog"] == 1
    assert "waits for CPU 1 more (held by workers" in rows[1]["reason"]
    assert "needs tape 1" in rows[2]["reason"]


@pytest.mark.parametrize(
    "message",
    [
        [m.DEMAND, 1, {"CPU": -1}, 1, {}],
        [m.DEMAND, 1, {"CPU": 1.5}, 1, {}],
        [m.DEMAND, 1, CPU1, -1, {}],
        [m.DEMAND, "x", CPU1, 1, {}],
        [m.DEMAND, 1, CPU1],
        [m.RETURN, 1, 9],
        [m.RETURN],
        [m.BLOCKED],
        [m.KILL_WORKER, 1],
        [m.WORKER_NOTE, {}],
        [m.WORKER_NOTE],
    ],
)
def test_nonsense_is_refused_and_changes_nothing(node, message):
    with pytest.raises(ProtocolError):
        node.core.handle(DRIVER, message, node.now)
    node.core.validate()


def test_nobody_returns_the_lease_of_another(node):
    node.driver(OTHER, "job2")
    node.demand(DRIVER, 1, 1)
    node.run()
    with pytest.raises(ProtocolError, match="another client"):
        node.core.handle(OTHER, [m.RETURN, node.grants[0].lease_id, m.RETURN_OK], node.now)


SHAPES = {
    1: {"CPU": 10_000},
    2: {"CPU": 20_000},
    3: {"CPU": 5_000},
    4: {},
    5: {"CPU": 10_000, "disk": 10_000},
}


class SchedulerMachine(RuleBasedStateMachine):
    """Random histories; at the end everybody behaves, and everything that is feasible gets its turn."""

    def __init__(self):
        super().__init__()
        self.node = Node({"CPU": 20_000, "disk": 10_000}, blocked_workers_max=6, zero_cpu_leases_max=3)
        self.drivers = {}

    @property
    def core(self):
        return self.node.core

    def live_grants(self):
        return [grant for grant in self.node.grants if grant.lease_id in self.core.leases]

    @precondition(lambda self: len(self.drivers) < 3)
    @rule()
    def join(self):
        proc = b"drv%05d" % len(self.node.grants) + bytes([len(self.drivers)])
        if proc not in self.drivers:
            self.drivers[proc] = f"job-{proc!r}"
            self.node.driver(proc, self.drivers[proc])

    @precondition(lambda self: self.drivers)
    @rule(data=st.data(), shape=st.sampled_from(sorted(SHAPES)), backlog=st.integers(0, 4))
    def demand(self, data, shape, backlog):
        bound = [proc for proc, client in self.core.clients.items() if client.job is not None]
        proc = data.draw(st.sampled_from(sorted(bound)))
        self.node.demand(proc, shape, backlog, SHAPES[shape])

    @rule(ready=st.booleans(), passed_s=st.sampled_from([0.0, 0.01, 0.3, 2.0]))
    def decide(self, ready, passed_s):
        self.node.run(ready, passed_s)

    @precondition(lambda self: self.live_grants())
    @rule(
        data=st.data(), state=st.sampled_from([m.RETURN_OK, m.RETURN_OK, m.RETURN_RECYCLE, m.RETURN_BROKEN])
    )
    def give_back(self, data, state):
        grant = data.draw(st.sampled_from(self.live_grants()))
        if grant.proc in self.core.clients:
            self.node.give_back(grant, state)

    @precondition(lambda self: self.live_grants())
    @rule(data=st.data(), blocked=st.booleans())
    def block(self, data, blocked):
        grant = data.draw(st.sampled_from(self.live_grants()))
        worker = self.core.pool.workers[grant.worker_id]
        if worker.proc in self.core.clients:
            self.core.handle(worker.proc, [m.BLOCKED, blocked], self.node.now)

    @precondition(lambda self: len(self.core.pool))
    @rule(data=st.data())
    def die(self, data):
        self.node.exited(data.draw(st.sampled_from(sorted(self.core.pool.workers))), signal=9)

    @precondition(lambda self: self.drivers)
    @rule(data=st.data())
    def leave(self, data):
        proc = data.draw(st.sampled_from(sorted(self.drivers)))
        self.core.client_left(proc, self.node.now)
        self.core.job_ended(self.drivers.pop(proc), self.node.now)

    @invariant()
    def consistent(self):
        self.core.validate()

    @invariant()
    def not_more_processes_than_allowed(self):
        assert self.core.pool.living <= 8

    def teardown(self):
        """Healed: every lease is used for a moment and returned, nobody blocks; then all demands are met."""
        for _ in range(60):
            self.node.run(passed_s=0.1)
            for grant in self.live_grants():
                worker = self.core.pool.workers[grant.worker_id]
                if worker.proc in self.core.clients:
                    self.core.handle(worker.proc, [m.BLOCKED, False], self.node.now)
            for grant in self.live_grants():
                if grant.proc in self.core.clients and grant.lease_id in self.core.leases:
                    self.node.give_back(grant)
        assert not self.core.waiting, (self.core.pending(self.node.now), self.core.pool.workers)
        assert not self.core.ledger.oversubscribed()


TestSchedulerMachine = SchedulerMachine.TestCase
TestSchedulerMachine.settings = settings(max_examples=60, stateful_step_count=40)

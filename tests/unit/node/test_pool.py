"""Worker states: what may follow what, who is chosen, and that slots are not shared."""

import pytest

from shoald.node.pool import BLOCKED, DYING, IDLE, LEASED, PYTHONS_MAX, STARTING, Pool


@pytest.fixture
def pool():
    return Pool(b"prefix00", 4)


def idle(pool, job="", now=0.0, python=""):
    worker = pool.start(now, python)
    pool.said_hello(worker, worker.worker_id[-8:], now)
    worker.job = job
    return worker


def test_ids_are_unique_and_slots_are_reused_after_a_confirmed_death_only(pool):
    workers = [pool.start(0.0) for _ in range(4)]
    assert len({worker.worker_id for worker in workers}) == 4
    assert [worker.slot for worker in workers] == [0, 1, 2, 3]
    pool.move(workers[1], DYING, 1.0)
    with pytest.raises(AssertionError, match="the bound is 4"):
        pool.start(1.0)
    pool.gone(workers[1])
    assert pool.start(2.0).slot == 1
    pool.validate()


@pytest.mark.parametrize("state", [LEASED, BLOCKED, STARTING])
def test_impossible_transition_tells_its_history(pool, state):
    worker = pool.start(5.0)
    with pytest.raises(AssertionError, match=r"starting since 5\.0"):
        pool.move(worker, state, 6.0)


def test_worker_of_the_job_used_last_is_chosen_before_an_unbound_one(pool):
    unbound, older, newer = idle(pool), idle(pool, "a"), idle(pool, "a")
    assert pool.idle_for("a") is newer
    assert pool.idle_for("b") is unbound
    pool.move(newer, DYING, 1.0)
    assert pool.idle_for("a") is older
    assert pool.of_job("a") == [older]
    assert pool.living == 2


def test_a_worker_is_bound_to_its_environment_as_to_its_job(pool):
    plain, bound = idle(pool, "a"), idle(pool, "a")
    bound.env = "e1"
    assert pool.idle_for("a") is plain
    assert pool.idle_for("a", "e1") is bound
    assert pool.idle_for("a", "e2") is None
    assert pool.idle_for("b", "e1") is None
    unbound = idle(pool)
    assert pool.idle_for("a", "e2") is unbound


def test_an_environment_with_another_interpreter_gets_workers_of_that(pool):
    warm = idle(pool)
    assert pool.idle_for("a", "e") is warm
    pool.needs_python("e", "/p")
    assert pool.idle_for("a", "e") is None
    cold = idle(pool, python="/p")
    assert pool.idle_for("a", "e") is cold
    assert pool.idle_for("a", "other") is pool.idle_for("a") is warm
    pool.needs_python("same", "/p")
    pool.forget_python("/p")
    assert pool.python_of("e") == pool.python_of("same") == ""
    assert pool.idle_for("a", "e") is warm


def test_so_many_interpreters_are_remembered(pool):
    for number in range(PYTHONS_MAX + 1):
        pool.needs_python(str(number), f"/{number}")
    assert (pool.python_of("0"), pool.python_of("1")) == ("", "/1")


def test_nobody_fits(pool):
    idle(pool, "a")
    assert pool.idle_for("b") is None
    assert pool.count(IDLE) == 1

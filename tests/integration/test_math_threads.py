"""numpy uses as many threads in a task or actor as that has CPUs, if nobody has said anything else."""

import os

import pytest

import shoal
from commandline import run
from shoal import maththreads


def threads():
    """(the variable, what numpy's BLAS uses)"""
    import threadpoolctl

    used = {row["num_threads"] for row in threadpoolctl.threadpool_info() if row["user_api"] == "blas"}
    return os.environ.get("OMP_NUM_THREADS"), *used


@pytest.fixture
def unsaid(monkeypatch):
    for name in maththreads.VARIABLES:
        monkeypatch.delenv(name, raising=False)


def test_as_many_as_there_are_cpus(unsaid, cluster):
    remote = shoal.remote(threads)
    assert shoal.get(remote.remote()) == ("1", 1)
    assert shoal.get(remote.options(num_cpus=2).remote()) == ("2", 2)
    assert shoal.get(remote.options(num_cpus=0.5).remote()) == ("1", 1)
    assert shoal.get(remote.options(num_cpus=0).remote()) == ("1", 1)
    assert os.environ.get("OMP_NUM_THREADS") is None  # in the driver numpy does what it does


def test_after_a_child_in_place_it_is_as_before(unsaid, cluster):
    @shoal.remote(num_cpus=2)
    def parent():
        child = shoal.get(shoal.remote(threads).options(num_cpus=1).remote())
        return child, threads()

    assert shoal.get(parent.remote()) == (("1", 1), ("2", 2))


def test_actors(unsaid, cluster):
    @shoal.remote
    class Actor:
        def threads(self):
            return threads()

    for cpus in (0, 1, 2):
        actor = Actor.options(num_cpus=cpus).remote()
        assert shoal.get(actor.threads.remote()) == (str(max(1, cpus)), max(1, cpus))
        shoal.kill(actor)


def test_who_has_said_something_decides(unsaid, cluster):
    remote = shoal.remote(threads)
    said = remote.options(runtime_env={"env_vars": {"OMP_NUM_THREADS": "2"}})
    assert shoal.get([said.remote(), said.options(num_cpus=2).remote()]) == [("2", 2)] * 2
    blas = remote.options(runtime_env={"env_vars": {"OPENBLAS_NUM_THREADS": "2", "OMP_NUM_THREADS": "1"}})
    assert shoal.get(blas.remote()) == ("1", 2)
    nonsense = remote.options(runtime_env={"env_vars": {"OMP_NUM_THREADS": "many"}})
    assert shoal.get(nonsense.remote())[0] == "many"


def test_what_the_node_was_started_with_stays(unsaid, monkeypatch, no_leaks):
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "2")
    shoal.init(num_cpus=2)
    try:
        remote = shoal.remote(threads)
        assert shoal.get([remote.remote(), remote.options(num_cpus=2).remote()]) == [(None, 2)] * 2
    finally:
        shoal.shutdown()


def test_the_script_of_a_job_is_no_task(unsaid, no_leaks):
    size = ("--num-cpus", "2", "--object-store-memory", "64MB")
    assert run("start-head", "--port", "0", *size).status == 0
    try:
        result = run("job", "submit", "--", "echo said: $OMP_NUM_THREADS.")
        assert "said: .\n" in result.out
    finally:
        run("stop")

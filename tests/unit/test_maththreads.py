"""Who decides how many threads numpy uses; what is loaded is told by `threadpoolctl`, which a list stands for here."""

import os

import pytest

from shoal import maththreads


@pytest.fixture
def told(monkeypatch):
    """What loaded libraries are told; nothing has been said yet."""
    limits = []
    monkeypatch.setattr(maththreads, "_limit", limits.append)
    monkeypatch.setattr(maththreads._Threads, "count", 0)
    for name in maththreads.VARIABLES:
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    return limits


def variable():
    return os.environ.get("OMP_NUM_THREADS")


def test_one_at_first_and_then_as_many_as_there_are_cpus(told):
    maththreads.begin()
    assert variable() == "1"
    for cpus in (1, 0, 0.5, 1.9):
        maththreads.use(cpus)
    assert (variable(), told) == ("1", [])
    maththreads.use(4)
    maththreads.use(4)
    assert (variable(), told) == ("4", [{"blas": 4, "openmp": 4}])
    maththreads.use(0)
    assert (variable(), told[1:]) == ("1", [{"blas": 1, "openmp": 1}])


@pytest.mark.parametrize("name", maththreads.VARIABLES)
def test_what_the_node_was_started_with_stays(told, monkeypatch, name):
    monkeypatch.setenv(name, "3")
    maththreads.begin()
    maththreads.use(2)
    assert (os.environ[name], told) == ("3", [])


def test_a_task_that_changes_the_variable_decides_from_then_on(told):
    maththreads.begin()
    os.environ["OMP_NUM_THREADS"] = "7"
    maththreads.use(2)
    maththreads.use(7)
    assert (variable(), told) == ("7", [])


@pytest.mark.parametrize(
    ("variables", "limits"),
    [
        ({"OMP_NUM_THREADS": "2"}, [{"blas": 2, "openmp": 2}]),
        ({"OMP_NUM_THREADS": "2,4", "MKL_NUM_THREADS": "3"}, [{"blas": 3, "openmp": 2}]),
        ({"OPENBLAS_NUM_THREADS": "3"}, [{"blas": 3}]),
        ({"OMP_NUM_THREADS": "many"}, [{}]),
        ({"COLOR": "red"}, []),
    ],
)
def test_variables_of_an_environment_are_followed(told, variables, limits):
    maththreads.begin()
    maththreads.said(variables)
    assert told == limits
    maththreads.use(5)
    assert len(told) == len(limits) + ("COLOR" in variables)


def test_programs_that_are_no_tasks_do_not_inherit_it(told, monkeypatch):
    maththreads.begin()
    assert maththreads.environment_without({"A": "b", "OMP_NUM_THREADS": "1"}) == {"A": "b"}
    assert maththreads.environment_without({"OMP_NUM_THREADS": "2"}) == {"OMP_NUM_THREADS": "2"}
    maththreads.leave()
    assert variable() is None
    assert maththreads.environment_without({"OMP_NUM_THREADS": "1"}) == {"OMP_NUM_THREADS": "1"}

"""How many threads numpy and the like use in a worker: as many as its task or actor has CPUs; one without, or with less than two.

By themselves math libraries start a thread for each core of the machine, and that in each worker, of which there are as many:
`x @ x.T` on Dask took 1.7 times as long so as with one thread each. So the fork server says one before it imports numpy, with
the variable that all these libraries read when they are loaded. For what has several CPUs the variable is changed, and so is
what is loaded by then (threadpoolctl). Ray does the same with the variable.

Who has set one of the variables, where the node is started or in a runtime_env, decides alone.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

_OF_ALL = "OMP_NUM_THREADS"
_OF_BLAS = ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "BLIS_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")
VARIABLES = (_OF_ALL, *_OF_BLAS)


class _Threads:
    """What this process uses: `count`, as was said here; 0: that is not for us to say."""

    count = 0


def begin() -> None:
    """One thread from now on, if nobody has said anything else; before numpy is imported."""
    if not any(name in os.environ for name in VARIABLES):
        _Threads.count = 1
        os.environ[_OF_ALL] = "1"


def leave() -> None:
    """The opposite of `begin`, for another program that this process becomes."""
    if _Threads.count:
        _Threads.count = 0
        os.environ.pop(_OF_ALL, None)


def use(cpus: float) -> None:
    """What runs from now on has so many CPUs."""
    count = int(cpus) if cpus >= 1 else 1
    if count == _Threads.count or not _Threads.count:
        return
    if os.environ.get(_OF_ALL) != str(_Threads.count):
        _Threads.count = 0  # a task has changed it
        return
    _Threads.count = count
    os.environ[_OF_ALL] = str(count)
    _limit({"blas": count, "openmp": count})


def said(variables: Mapping[str, str]) -> None:
    """These variables were set in this process: if some are about threads, what is loaded follows them, and only them."""
    if not any(name in variables for name in VARIABLES):
        return
    _Threads.count = 0
    of_all = _number(variables.get(_OF_ALL, ""))
    of_blas = next((found for name in _OF_BLAS if (found := _number(variables.get(name, "")))), of_all)
    limits = {"blas": of_blas, "openmp": of_all}
    _limit({kind: count for kind, count in limits.items() if count})


def environment_without(variables: Mapping[str, str]) -> dict[str, str]:
    """A copy of this process's environment, for a program that is no task, without what was said here."""
    given = dict(variables)
    if _Threads.count and given.get(_OF_ALL) == str(_Threads.count):
        del given[_OF_ALL]
    return given


def _limit(limits: Mapping[str, int]) -> None:
    from threadpoolctl import threadpool_limits  # 10 ms, for those who want several

    threadpool_limits(limits=dict(limits))


def _number(text: str) -> int:
    """The first number of a list such as OpenMP takes; 0 if that is none."""
    first = text.split(",", maxsplit=1)[0].strip()
    return int(first) if first.isdecimal() else 0

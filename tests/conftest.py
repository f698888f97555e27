"""What all tests share: deterministic hypothesis, a cluster to run on, the check that nothing is left behind.

Every process that a test starts inherits `SHOAL_TEST_RUN`, so the check finds what belongs to this run, and
only that, even after it was detached or adopted. Temporary files of the run lie in one folder of a short name
(a path to a Unix socket has room for about 100 bytes). Where files run side by side each process of pytest is a run of its own.
"""

import gc
import os
import shutil
import signal
import sys
import tempfile
import uuid
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from accounts import ledgers_that_do_not_add_up
from leaks import Snapshot, difference_after_wait

RUN = os.environ["SHOAL_TEST_RUN"] = uuid.uuid4().hex
# The tests start some thousand processes: where Python was told to keep no bytecode, each compiled again what it imports, half of
# the time of a cluster's start, and pytest all test modules.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False
# Some tests speak gRPC in this process, others fork it: then gRPC would make descriptors anew, or abort where there are none.
os.environ["GRPC_ENABLE_FORK_SUPPORT"] = "false"
LEAK_WAIT_S = 30.0
# Folders whose tests start processes.
CHECKED_FOLDERS = frozenset({"integration", "fuzz", "chaos"})

# The same examples in every run: a failure is the change's, not the seed's.
settings.register_profile(
    "shoal", derandomize=True, deadline=None, database=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("shoal")


def pytest_configure(config: pytest.Config) -> None:
    """Give this run its own temporary folder, before anything asks where that is.

    A run in the background may have inherited an ignored SIGINT, which all processes it starts would inherit in turn.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)
    folder = tempfile.mkdtemp(prefix="st-", dir="/tmp" if Path("/tmp").is_dir() else None)
    os.environ["TMPDIR"] = tempfile.tempdir = folder
    config.add_cleanup(lambda: shutil.rmtree(folder, ignore_errors=True))


def pytest_collection_finish() -> None:
    """What all test modules and their imports made stays: garbage collections, several per test, need not look at it again."""
    gc.collect()
    gc.freeze()


def _is_checked(request: pytest.FixtureRequest) -> bool:
    return bool(CHECKED_FOLDERS.intersection(request.path.parts))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item):
    """At the end of a test, before its fixtures and clusters go: the ledgers of all daemons that run add up.

    Also that of a cluster which several tests share; and not of one that the test has ended itself.
    """
    result = yield
    if CHECKED_FOLDERS.intersection(item.path.parts):
        wrong = ledgers_that_do_not_add_up()
        if wrong:
            pytest.fail("the store's ledger does not add up:\n" + "\n".join(wrong))
    return result


@pytest.fixture(scope="module", autouse=True)
def module_leaves_nothing(request):
    """After the last test of a module (and its shared cluster), nothing of it is left.

    What is alive then (libraries that its tests imported, pytest's reports) stays, and collections need not look at it either.
    """
    yield from _check(request)
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def no_leaks(request, module_leaves_nothing):
    """After each test nothing of it is left, unless its module shares a cluster that runs.

    Such a cluster starts and ends workers whenever it likes, also during tests that do not use it; what is left of
    it and of all the module's tests is found after the last of them.
    """
    if "shoal_session" in request.fixturenames:
        yield
    else:
        yield from _check(request, beside_processes=False)


def _check(request, *, beside_processes=True):
    if not _is_checked(request):
        yield
        return
    before = Snapshot.take(RUN)
    yield
    if before.processes and not beside_processes:
        return
    gc.collect()
    leaked = difference_after_wait(before, RUN, LEAK_WAIT_S)
    if leaked:
        pytest.fail(f"left behind after {LEAK_WAIT_S:.0f} s:\n" + "\n".join(leaked))


@pytest.fixture
def cluster(no_leaks):
    """A cluster of this machine with 2 CPUs, of the test's own; yields what `init` returned."""
    import shoal

    context = shoal.init(num_cpus=2)
    yield context
    shoal.shutdown()


@pytest.fixture(scope="module")
def shoal_session(module_leaves_nothing):
    """The module `shoal`, initialized with 2 CPUs once for all tests of a module that ask for it."""
    import shoal

    shoal.init(num_cpus=2)
    yield shoal
    shoal.shutdown()
